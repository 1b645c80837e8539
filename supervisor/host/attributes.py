"""
What a worker's process inherits of its shim at a spawn: ids, limits, umask, nice, CPUs. Set, and put back.

Standard library only, since shims run it without site-packages. Names have been looked up already: only numbers come.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

from supervisor.host.spawn import SpawnError

# Importing these would cost memory in every shim.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Numbers = dict[str, Any]

ROOT = 0


class Attributes:
    """
    A context in which a spawn gives its child these attributes; nothing is left of them after it, as far as may be.

    Hard limits and niceness can be taken back only with privileges; else they stay on the shim, of that launch alone.

    Args:
        numbers: ``user`` (in words), ``uid``, ``gid``, ``groups``, ``umask``, ``limits`` (name, soft, hard), ``nice``,
            ``cpus``; each may be missing.
        outputs: Descriptors that the worker gets. Pipes are given to its user, who else could not open /dev/stderr.
    """

    def __init__(self, numbers: Numbers, outputs: Iterable[int] = ()) -> None:
        self._numbers = numbers
        self._outputs = outputs
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        try:
            self._set()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _set(self) -> None:
        numbers = self._numbers
        if (umask := numbers.get("umask")) is not None:
            before = os.umask(umask)
            self._undo.append(lambda: os.umask(before))
        if (nice := numbers.get("nice")) is not None:
            self._set_nice(nice)
        if cpus := numbers.get("cpus"):
            self._set_cpus(cpus)
        for name, soft, hard in numbers.get("limits", ()):
            self._set_limit(name, soft, hard)
        # Last: with the ids go the privileges that the others may need.
        if "uid" in numbers or "gid" in numbers:
            self._set_ids(numbers)

    def _set_nice(self, nice: int) -> None:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError as error:
            raise _refused(error, f"cannot set nice to {nice}", "only root may lower it") from None
        self._undo.append(lambda: _set_back(lambda: os.setpriority(os.PRIO_PROCESS, 0, before)))

    def _set_cpus(self, cpus: list[int]) -> None:
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, cpus)
        except OSError:  # Somebody has narrowed our own just now. The nearest CPU is worth less than the worker.
            return
        self._undo.append(lambda: _set_back(lambda: os.sched_setaffinity(0, before)))

    def _set_limit(self, name: str, soft: int, hard: int | None) -> None:
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        before = resource.getrlimit(number)
        wanted = (soft, before[1] if hard is None else hard)
        try:
            resource.setrlimit(number, wanted)
        except (OSError, ValueError):
            limit = "infinity" if before[1] < 0 else before[1]
            raise SpawnError(
                errno.EPERM, f"cannot set limits.{name} to {_shown(wanted)}: the hard limit is {limit}"
            ) from None
        self._undo.append(lambda: _set_limit_back(number, before))

    def _set_ids(self, numbers: Numbers) -> None:
        who = numbers["user"]
        uid, gid, groups = numbers.get("uid"), numbers["gid"], numbers.get("groups")
        for fd in self._outputs:
            if uid is not None and stat.S_ISFIFO(os.fstat(fd).st_mode):
                _give(fd, uid)
        before = os.getgroups()
        own_uid, own_gid = os.geteuid(), os.getegid()
        try:
            if groups is not None:
                os.setgroups(groups)
                self._undo.append(lambda: os.setgroups(before))
            # The saved id stays what it is: it brings us back, and the exec overwrites it in the worker.
            os.setresgid(gid, gid, own_gid)
            self._undo.append(lambda: os.setresgid(own_gid, own_gid, own_gid))
            if uid is not None:
                os.setresuid(uid, uid, own_uid)
                self._undo.append(lambda: os.setresuid(own_uid, own_uid, own_uid))
        except OSError as error:
            raise _refused(error, f"cannot run as {who}", "the daemon lacks CAP_SETUID or CAP_SETGID") from None


def _give(pipe: int, uid: int) -> None:
    _set_back(lambda: os.fchown(pipe, uid, -1))


def _set_limit_back(number: int, before: tuple[int, int]) -> None:
    try:
        resource.setrlimit(number, before)
    except (OSError, ValueError):  # The hard one stays; the soft one goes as far up as that.
        hard = resource.getrlimit(number)[1]
        soft = hard if before[0] < 0 or 0 <= hard < before[0] else before[0]
        _set_back(lambda: resource.setrlimit(number, (soft, hard)))


def _set_back(restore: Callable[[], object]) -> None:
    try:  # contextlib costs memory in every shim.
        restore()
    except (OSError, ValueError):
        return


def _refused(error: OSError, what: str, why: str) -> SpawnError:
    number = error.errno or errno.EPERM
    is_permission = number in {errno.EPERM, errno.EACCES}
    return SpawnError(number, f"{what}: {why if is_permission else os.strerror(number).lower()}")


def _shown(limit: tuple[int, int]) -> str:
    soft, hard = ("infinity" if value < 0 else str(value) for value in limit)
    return soft if soft == hard else f"{soft}:{hard}"
