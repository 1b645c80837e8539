"""Programs whose exec hangs, as on a disk that does not answer."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FAN_CLASS_CONTENT = 4
FAN_CLOEXEC = 1
FAN_MARK_ADD = 1
FAN_OPEN_EXEC_PERM = 0x40000
AT_FDCWD = -100


class CannotHangError(Exception):
    """This machine, or this user, cannot make an exec hang in that way."""


@contextmanager
def leased(directory: Path) -> Iterator[str]:
    """
    A program under a write lease of ours: who opens it waits until we give the lease back, up to 45 s.

    Needs no privilege. See fcntl(2), "Leases".
    """
    program = copy(directory)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # The kernel's request to give it back.
    lease = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            raise CannotHangError(f"no leases on this file system: {error}") from error
        yield program
    finally:
        os.close(lease)
        signal.signal(signal.SIGIO, before)


@contextmanager
def unanswered(directory: Path) -> Iterator[str]:
    """A program whose every exec asks us for permission, which we never give. Needs CAP_SYS_ADMIN; see fanotify(7)."""
    program = copy(directory)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)
    group = libc.fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, os.O_RDONLY)
    if group < 0:
        raise CannotHangError(f"fanotify_init: {os.strerror(ctypes.get_errno())}")
    try:
        if libc.fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN_EXEC_PERM, AT_FDCWD, os.fsencode(program)) < 0:
            raise CannotHangError(f"fanotify_mark: {os.strerror(ctypes.get_errno())}")
        yield program
    finally:
        os.close(group)


def copy(directory: Path) -> str:
    """A private copy: nobody else's start may hang."""
    program = directory / "program"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    return str(program)
