"""
Owns the memory of which processes this instance has, and the end of those that an earlier life of it left behind.

Keeper and shims end with their daemon: only what was killed together with it, or hung in the kernel, is ever found
here. A process counts as ours by its pid and start time in this boot, or by a mark in its environment that names the
folder of our control socket: never by its pid alone, and never one that another daemon may have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from supervisor.host import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

log = structlog.get_logger()

MARK = "GPU_SUPERVISOR_MARK"
FORMAT = 1
SIZE_MAX = 16 * 1024 * 1024
WRITE_EVERY_S = 2.0  # However many restarts there are; what is younger is found by its mark.
END_S = 5.0
LOOK_S = 0.02
_START_TIME = 19  # Field 22 of /proc/PID/stat, counted from the one after the name; man 5 proc.

Identity = tuple[int, int]
"""Pid, and its start in clock ticks since boot: together never used twice."""


def make_mark(control: Path) -> str:
    """What names this instance and no other, also where containers show each other's processes."""
    folder = control.parent.stat()
    return f"{folder.st_dev}:{folder.st_ino}:{control}"


def state_path(control: Path, environ: Mapping[str, str]) -> Path:
    """Where the memory is kept: in the state directory that systemd gave, else beside the control socket."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    name = f"{control.name}.state"
    return Path(given, name) if given.startswith("/") else control.with_name(name)


class Ledger:
    """
    The file in which our processes stand, written at most every two seconds.

    Args:
        path: Of the file.
        read_pids: Everybody who is ours by now.
    """

    def __init__(self, path: Path, read_pids: Callable[[], Iterable[int]]) -> None:
        self._path = path
        self._read_pids = read_pids
        self._known: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_broken = False

    def note(self) -> None:
        """Somebody came or went: write soon."""
        if self._timer is None and not self._is_broken:
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self.write)

    def write(self) -> None:
        """Write now, in one piece. A disk that does not take it is told of once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pids = set(self._read_pids())
        # A number that was used again meanwhile keeps its old start here, and so names nobody: the safe side.
        self._known = {pid: start for pid in pids if (start := self._known.get(pid) or read_start(pid)) is not None}
        document = {"format": FORMAT, "boot": _boot_id(), "processes": sorted(self._known.items())}
        half = self._path.with_name(f"{self._path.name}.new")
        try:
            half.unlink(missing_ok=True)
            fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(document, file)
            half.replace(self._path)
        except OSError as error:
            self._is_broken = True
            log.warning("ledger.failed", file=str(self._path), error=error.strerror)

    def close(self) -> None:
        """Everything has ended: nothing to remember."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_broken = True
        with contextlib.suppress(OSError):
            self._path.unlink()


async def sweep(path: Path, mark: str) -> None:
    """
    End what an earlier life of this instance left, with everything below it.

    To be called by who has the control socket's lock: then every other life of this instance is dead.

    Args:
        path: Of the ledger.
        mark: As of `make_mark`.
    """
    remembered = read_ledger(path)
    deadline = asyncio.get_running_loop().time() + END_S
    ended: set[Identity] = set()
    while found := find_leftovers(remembered, mark):
        if asyncio.get_running_loop().time() > deadline:
            log.error("sweep.stuck", pids=sorted(pid for pid, _ in found), reason="they hang in the kernel")
            break
        ended |= found
        for identity in found:
            _kill(identity)
        await asyncio.sleep(LOOK_S)
    if ended:
        log.warning("sweep.ended", pids=sorted(pid for pid, _ in ended), reason="left by an earlier life")


def read_ledger(path: Path) -> frozenset[Identity]:
    """Processes of an earlier life in this boot. A file that is not as we write it is ignored, with a warning."""
    try:
        document = _load(path)
        if document["boot"] != _boot_id():
            return frozenset()
        return frozenset((int(pid), int(start)) for pid, start in document["processes"])
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("ledger.ignored", file=str(path), error=str(error) or type(error).__name__)
        return frozenset()


def _load(path: Path) -> dict[str, Any]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            raise ValueError("it belongs to somebody else")
        document: dict[str, Any] = json.loads(file.read(SIZE_MAX))
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']}")
    return document


def find_leftovers(remembered: Iterable[Identity], mark: str) -> set[Identity]:
    """Living processes that are remembered or carry the mark, and all below them; never this one or one above it."""
    spared = set(_ancestors(os.getpid()))
    roots = {pid for pid, start in remembered if read_start(pid) == start} | set(_marked(mark))
    found: set[int] = set()
    waiting = list(roots - spared)
    while waiting:
        pid = waiting.pop()
        if pid not in found and pid not in spared:
            found.add(pid)
            waiting += tree.read_children(pid)
    return {(pid, start) for pid in found if (start := read_start(pid)) is not None}


def read_start(pid: int) -> int | None:
    """When a process started; None if it is gone, or dead and only not reaped yet."""
    fields = _read_stat(pid)
    return None if fields is None or fields[0] in {"Z", "X"} else int(fields[_START_TIME])


def _kill(identity: Identity) -> None:
    """SIGKILL through a descriptor: from the second look on the number cannot become somebody else's."""
    pid, start = identity
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if read_start(pid) == start:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _marked(mark: str) -> Iterable[int]:
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):  # noqa: PTH208 - Only names, of thousands.
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                    yield int(name)


def _ancestors(pid: int) -> Iterable[int]:
    while pid > 0:
        yield pid
        fields = _read_stat(pid)
        pid = 0 if fields is None else int(fields[1])


def _read_stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the name, state first."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
