"""
System calls that Python 3.11 has no name for, through ctypes: prctl, signalfd, and the title of a process.

Standard library only, since keeper and shims run it without site-packages. Decides nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
SIGSET_BYTES = 128
STAT_ARG_START = 45  # Fields 48 and 49 of /proc/PID/stat, counted from the one after the name; man 5 proc.

_libc = ctypes.CDLL(None, use_errno=True)


def set_subreaper(on: bool) -> None:
    """Say whether orphans below this process become its children instead of init's."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0))


def is_subreaper() -> bool:
    """Return whether orphans below this process become its children."""
    answer = ctypes.c_int()
    _check(_libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0))
    return bool(answer.value)


def continue_when_parent_ends() -> None:
    """Have the kernel send SIGCONT when the parent ends: else a stopped process would never see the end of file."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGCONT), 0, 0, 0))


def open_signalfd(number: int) -> int:
    """
    Block a signal and return a descriptor that is readable while it is pending.

    Args:
        number: The signal, 1..64.

    Returns:
        Neither inheritable nor blocking.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
    sigset = (ctypes.c_ulong * (SIGSET_BYTES // ctypes.sizeof(ctypes.c_ulong)))()
    sigset[0] = 1 << (number - 1)
    return _check(_libc.signalfd(-1, ctypes.byref(sigset), os.O_NONBLOCK | os.O_CLOEXEC))


def set_name(name: str) -> None:
    """Set the short name of this process, 15 bytes at most; a fork inherits it."""
    _check(_libc.prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0))


class Title:
    """What ``ps`` shows of this process: the area of its arguments. A fork inherits it."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs memory in every shim.
            fields = file.read().rpartition(b")")[2].split()
        self._start = int(fields[STAT_ARG_START])
        # The last byte of the area has to stay NUL, else the kernel takes the environment for a part of the title.
        self._room = int(fields[STAT_ARG_START + 1]) - self._start - 1

    def write(self, title: str) -> None:
        """Show *title*, cut where the area ends."""
        if self._start and self._room > 0:
            ctypes.memmove(self._start, title.encode()[: self._room].ljust(self._room + 1, b"\0"), self._room + 1)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
