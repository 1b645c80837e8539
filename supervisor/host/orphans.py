"""
Processes that fell to the master because the keeper died, or a shim after it: they are killed and reaped here.

Touches no child that the master had or made otherwise, and waits for no process but these.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from supervisor.host import tree

if TYPE_CHECKING:
    from collections.abc import Callable


class Orphans:
    """
    Ends what falls to this process, a subreaper.

    Args:
        is_known: Whether a child of ours is a keeper or shim.
        reap_shims: Collects the shims that are our children and have ended, and calls lose() for each; True if any had.
        on_gone: Called for each shim that was lost here when nothing of its tree is left.
    """

    def __init__(
        self,
        *,
        is_known: Callable[[int], bool],
        reap_shims: Callable[[], bool],
        on_gone: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_known = is_known
        self._reap_shims = reap_shims
        self._on_gone = on_gone
        self._strays = tree.Strays()
        self._pidfds: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rescan_s = tree.RESCAN_MIN_S
        self._before = frozenset(tree.read_children(os.getpid()))

    @property
    def is_empty(self) -> bool:
        """Whether nothing that fell to us lives."""
        return not self._strays.found

    def lose(self, shim: int) -> None:
        """Note that a shim is dead and what it leaves falls to us; a sweep() has to follow."""
        self._strays.lost.add(shim)

    def sweep(self) -> None:
        """Reap, kill what fell to us, and report the shims of whose trees nothing is left."""
        self._reap()
        while True:
            present = self._read_strays()
            # Whoever ended during the look may have left us more.
            if not self._reap() | self._reap_shims():
                break
        gone = self._strays.settle(present)
        for pid in present:
            self._watch(pid)
        self._plan_next()
        if present:
            tree.kill_all(self._read_strays)
        for shim in gone:
            self._on_gone(shim)

    def close(self) -> None:
        """Watch no more."""
        self._strays = tree.Strays()
        self._plan_next()
        for pid in list(self._pidfds):
            self._unwatch(pid)

    def _read_strays(self) -> list[int]:
        """
        Return the children that we did not make.

        Whatever a worker started is in a session that began below the keeper: another than ours, which no process can
        enter. So a plain child of another part of this program is never taken for a stray.
        """
        session = os.getsid(0)
        children = [pid for pid in tree.read_children(os.getpid()) if pid not in self._before]
        return [pid for pid in children if not self._is_known(pid) and _read_session(pid) not in {session, None}]

    def _reap(self) -> bool:
        """Collect those that ended; True if one had."""
        is_any = False
        for pid in {*self._pidfds, *self._strays.found}:
            try:
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                    continue
            except ChildProcessError:
                if pid not in self._pidfds:
                    continue
            if pid in self._pidfds:
                self._unwatch(pid)
            is_any = True
        return is_any

    def _watch(self, pid: int) -> None:
        if pid not in self._pidfds:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:  # No descriptor left: the timer sees to it.
                return
            self._pidfds[pid] = pidfd
            self._loop.add_reader(pidfd, self._sweep_at_once)

    def _unwatch(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)

    def _sweep_at_once(self) -> None:
        self._rescan_s = tree.RESCAN_MIN_S
        self.sweep()

    def _plan_next(self) -> None:
        """Look again after a while as long as something lives, ever later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._strays.found:
            self._timer = self._loop.call_later(self._rescan_s, self.sweep)
            self._rescan_s = min(self._rescan_s * 2, tree.RESCAN_MAX_S)
        else:
            self._rescan_s = tree.RESCAN_MIN_S


def _read_session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
