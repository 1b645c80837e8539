"""
Files that the daemon obeys: read whole, within bounds, and by root only if others may not change what stands there.

What an unprivileged daemon reads could at most harm the one who runs it, so there nothing is asked. Changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = 0
LINKS_MAX = 40  # Of the kernel: more links on the way to a file are ELOOP.
_UID_MAP = Path("/proc/self/uid_map")
_OVERFLOW_UID = Path("/proc/sys/kernel/overflowuid")


class FileFaultError(Exception):
    """
    A file that is not to be read.

    Args:
        message: Why, without its name.
        hint: What to do about it, or empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def read_trusted(file: str, max_bytes: int) -> bytes:
    """
    Read a whole file. Only a regular one: a pipe would block the daemon at its next reload.

    Args:
        file: Its path.
        max_bytes: What it may hold.

    Raises:
        FileFaultError: It cannot be read, is too long, or others may write it while we are root.
    """
    try:
        # Opening a pipe waits for its other end, but for this flag.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileFaultError("is a directory" if stat.S_ISDIR(status.st_mode) else "is no regular file")
            if (fault := find_fault(file, status)) is not None:
                raise FileFaultError(*fault)
            content = _read_at_most(descriptor, max_bytes + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name.
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileFaultError(f"cannot read it: {cause.lower()}") from None
    if len(content) > max_bytes:
        raise FileFaultError(f"expected {max_bytes} bytes at the most")
    return content


def _read_at_most(descriptor: int, count: int) -> bytes:
    content = b""
    while len(content) < count and (chunk := os.read(descriptor, count - len(content))):
        content += chunk
    return content


def find_fault(file: str, status: os.stat_result) -> tuple[str, str] | None:
    """
    Why root should not trust a file, as sudo and sshd judge theirs.

    A directory that others may write is fine if it is sticky, as /tmp is: what root has there, others cannot replace.
    So is what lies on a file system that is mounted read-only, as a ConfigMap of Kubernetes does.

    Args:
        file: Its path, as it was opened.
        status: Of the open file.

    Returns:
        What is wrong, and what to do about it; None for a file to trust.
    """
    if os.geteuid() != ROOT:
        return None
    trusted = {ROOT, *_unmapped()}
    if (fault := _fault(os.path.abspath(file), status, trusted)) is not None:  # noqa: PTH100 - Keeps links.
        return fault
    for directory in _directories(file):
        if (fault := _fault(directory, os.stat(directory), trusted)) is not None:  # noqa: PTH116
            return fault
    return None


def writable_by_others(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """
    Of files that are obeyed, those that everybody may change, whoever runs the daemon, or whose directory is.

    Args:
        files: Absolute paths, those of directories too. What is not there is left out.

    Yields:
        What is wrong, and what to do about it; each once.
    """
    seen: set[Path] = set()
    for path in (one for file in files for one in (file, file.parent)):
        try:
            status = path.stat()
        except OSError:
            continue
        is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if path not in seen and status.st_mode & stat.S_IWOTH and not is_sticky and not _is_read_only(str(path)):
            yield f"{path} may be written by everybody (mode {_mode(status)})", f"chmod o-w {path}"
        seen.add(path)


def _fault(path: str, status: os.stat_result, trusted: set[int]) -> tuple[str, str] | None:
    is_directory = stat.S_ISDIR(status.st_mode)
    if status.st_uid not in trusted:
        what = f"{path} belongs to user {status.st_uid}, who may change what root would run"
        hint = f"chown root {path}, or run the daemon as that user"
    elif is_directory and status.st_mode & stat.S_ISVTX:
        return None
    elif status.st_mode & stat.S_IWOTH:
        what, hint = f"{path} may be written by everybody (mode {_mode(status)})", f"chmod go-w {path}"
    elif status.st_mode & stat.S_IWGRP and status.st_gid != ROOT:
        what = f"{path} may be written by group {status.st_gid} (mode {_mode(status)})"
        hint = f"chmod g-w {path}"
    else:
        return None
    return None if _is_read_only(path) else (what, hint)


def _directories(file: str) -> list[str]:
    """Every directory in which something could be put in the way to the file: those of links on it too."""
    found: list[str] = []
    here = "/"
    rest = list(PurePosixPath(os.path.abspath(file)).parts[1:])[::-1]  # noqa: PTH100
    links = 0
    while rest:
        if here not in found:
            found.append(here)
        part = rest.pop()
        step = os.path.normpath(os.path.join(here, part))  # noqa: PTH118
        if os.path.islink(step) and links < LINKS_MAX:  # noqa: PTH114
            links += 1
            target = os.readlink(step)  # noqa: PTH115
            rest += [one for one in PurePosixPath(target).parts if one != "/"][::-1]
            here = "/" if target.startswith("/") else here
        else:
            here = step
    return found


def _is_read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _unmapped() -> set[int]:
    """In a user namespace: the owner shown for who is outside of it, such as the one of ``/``."""
    try:
        first, outside, count = _UID_MAP.read_text(encoding="ascii").split()[:3]
        is_initial = (int(first), int(outside), int(count)) == (0, 0, 2**32 - 1)
        return set() if is_initial else {int(_OVERFLOW_UID.read_text(encoding="ascii"))}
    except (OSError, ValueError):
        return set()
