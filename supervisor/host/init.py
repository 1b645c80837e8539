"""
PID 1 of a container: hands signals on to the daemon, its child, and reaps what nobody else does.

The kernel ignores for PID 1 every signal without a handler, and gives it every orphan: neither is for a daemon with a
loop of its own. Knows nothing of workers.
"""

from __future__ import annotations

import os
import signal
import sys

HANDED_ON = frozenset(
    {
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
        *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGCONT),
    }
)


def open_standard_descriptors() -> None:
    """Put /dev/null where there is none: what is opened next would take its number, and what people should read."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free.
            os.set_inheritable(fd, True)
    # Python has None for those that were closed when it started.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def fork_daemon() -> int | None:
    """
    As PID 1 fork, and be init until the child has ended. For others there is nothing to do.

    Returns:
        None where the daemon is to go on; in PID 1 the daemon's exit status, 128 + number if a signal ended it. When
        PID 1 ends, the kernel ends whatever is left in the container.
    """
    if os.getpid() != 1:
        return None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON | {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        # Not in the foreground of a terminal: it gets what is typed there from us, once.
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    return _serve(child)


def _serve(child: int) -> int:
    while True:
        number = signal.sigwait(HANDED_ON | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)
        elif (status := _reap(child)) is not None:
            return status


def _reap(child: int) -> int | None:
    """Collect whoever ended; the status of the child if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = 128 - code if code < 0 else code
