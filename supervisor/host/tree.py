"""
Signals for everything that descends from this process, and the count of what fell to it.

``/proc`` only says whom to signal and may miss some; that a tree is *gone* is for waitid to say. Standard library only,
since keeper and shims run it without site-packages. Never reaps.
"""

from __future__ import annotations

import os
import signal

# The collections package and typing would cost memory in every shim.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PASSES_MAX = 50  # Stopping wins after two or three; a tree that cannot be stopped must not hold us for ever.
RESCAN_MIN_S = 0.01
RESCAN_MAX_S = 0.5
PARENT, GROUP = 1, 2  # Where they stand behind the name in /proc/PID/stat.


def read_children(pid: int) -> list[int]:
    """
    Return the pids whose parent is *pid*, zombies included; none if there is no such process.

    Complete for the process that asks, while nobody else reaps for it: only reaping takes entries away.
    """
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib costs memory in every shim.
    except OSError:
        return found
    for thread in threads:
        found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def signal_all(numbers: tuple[int, ...], *, main: int | None, group: int | None = None) -> None:
    """
    Send signals once to everything below this process.

    Args:
        numbers: The signals, in order.
        main: The one process that is spared, not so its children.
        group: Process group that is spared; None for none.
    """
    me = os.getpid()
    found = _gather(lambda: read_children(me), stop=False)
    for pid, pidfd in found.items():
        if pid != main and (group is None or _read_stat(pid, GROUP) != group):
            for number in numbers:
                _send(pidfd, number)
    _close(found)


def kill_all(read_roots: Callable[[], list[int]]) -> None:
    """
    SIGKILL these and everything below them, as far as one look finds it.

    Stops each before it looks for its children, and looks until it finds nobody new: a tree that forks faster than it
    is killed does not win. Call it again until waitid says that there is no child.

    Args:
        read_roots: Reads which children of this process are meant; asked again at each look.
    """
    found = _gather(read_roots, stop=True)
    for pidfd in found.values():
        _send(pidfd, signal.SIGKILL)
    _close(found)


class Strays:
    """
    Who among the children of a subreaper came from which shim that is no more.

    A shim's tree is gone when nobody lives who could have come from it. Strays found later may be of any shim lost so
    far; those found earlier cannot be of one lost later, so that a process that cannot die holds up its own shim only.

    Attributes:
        found: The strays that live, each with the shims it may have come from.
        lost: The shims that are dead while their trees are not yet known to be gone.
    """

    def __init__(self) -> None:
        self.found: dict[int, frozenset[int]] = {}
        self.lost: set[int] = set()

    def settle(self, present: Iterable[int]) -> list[int]:
        """
        Take in a complete look at the strays.

        Args:
            present: Pids of all strays. Every shim that was dead when they were read has to be in *lost*.

        Returns:
            The shims of whose trees nothing is left; they are forgotten.
        """
        owners = frozenset(self.lost)
        self.found = {pid: self.found.get(pid, owners) for pid in present}
        held: frozenset[int] = frozenset().union(*self.found.values())
        gone = sorted(self.lost - held)
        self.lost &= held
        return gone


def _gather(read_roots: Callable[[], list[int]], *, stop: bool) -> dict[int, int]:
    """Open a pidfd for each of the roots and everything below; *stop* sends them SIGSTOP as they are found."""
    found: dict[int, int] = {}
    for _ in range(PASSES_MAX):
        before = len(found)
        _look(read_roots(), found, stop=stop)
        if len(found) == before:
            break
    return found


def _look(roots: list[int], found: dict[int, int], *, stop: bool) -> None:
    queue: list[tuple[int, int | None]] = [(pid, None) for pid in roots]
    while queue:
        pid, parent = queue.pop()
        if pid not in found:
            pidfd = _open_child(pid, parent, None if parent is None else found[parent])
            if pidfd is None:
                continue
            found[pid] = pidfd
            if stop:
                _send(pidfd, signal.SIGSTOP)
        queue += [(child, pid) for child in read_children(pid)]


def _open_child(pid: int, parent: int | None, parent_fd: int | None) -> int | None:
    """
    Open a pidfd, and make sure that it is a descendant's: numbers are reused.

    A pid read from /proc may be another's by now. The one that the pidfd holds is ours if its parent is this process,
    or is the expected one and that one has not been reaped meanwhile.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # Gone; or no descriptor left: then the next look comes when these are dead.
        return None
    actual = _read_stat(pid, PARENT)
    if actual == os.getpid() or (parent_fd is not None and actual == parent and _send(parent_fd, 0)):
        return pidfd
    os.close(pidfd)
    return None


def _read_stat(pid: int, field: int) -> int | None:
    """One of the numbers behind the name in /proc/PID/stat; None if there is no such process."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[field]) if fields else None


def _send(pidfd: int, number: int) -> bool:
    """Send a signal; False if the process has been reaped."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # A set-user-id program. Nothing that we could do about it.
        return True
    return True


def _close(found: dict[int, int]) -> None:
    for pidfd in found.values():
        os.close(pidfd)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs memory in every shim.
            return file.read()
    except OSError:
        return b""
