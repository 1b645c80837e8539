"""
Who the processes are that have memory of a GPU: name, user, and whether they belong to one of our workers.

Reads what the kernel has at hand, which takes microseconds and asks nobody; changes nothing, keeps nothing.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from supervisor.core.inventory import Holder

if TYPE_CHECKING:
    from supervisor.core.spec import WorkerId

PROC = Path("/proc")
USERS = Path("/etc/passwd")
NOBODY: Mapping[int, Holder] = MappingProxyType({})
_ANCESTORS_MAX = 128  # A tree changes while it is climbed; in a circle of pids used again nobody may get lost.


class Describer:
    """
    Makes holders of what the driver tells, by the process table of this moment.

    A container may be told pids of its host, which mean nobody here, or somebody else: those that are not there stay
    without a name.

    Args:
        owners: Pid to worker of processes that have all of a worker's tree below them.
        before: Pid to holder of the reading before: the driver may list one whose process is gone already.
        proc: Where the kernel shows its processes.
        users: The local user database. Others (LDAP) may take for ever, and a number says nearly as much.
    """

    def __init__(
        self,
        owners: Mapping[int, WorkerId],
        before: Mapping[int, Holder] = NOBODY,
        *,
        proc: Path = PROC,
        users: Path = USERS,
    ) -> None:
        self._owners = owners
        self._before = before
        self._proc = proc
        self._users = users
        self._seen: dict[int, dict[str, str] | None] = {}  # One process may be on many devices.

    def describe(self, pid: int, used_bytes: int | None) -> Holder:
        """
        Who that is.

        Args:
            pid: As the driver tells it.
            used_bytes: None where the driver does not tell.
        """
        status = self._read_status(pid)
        if status is None:
            return replace(self._before.get(pid, Holder(pid)), used_bytes=used_bytes)
        worker = self._find_worker(pid, status)
        uid = status.get("Uid", "").partition("\t")[0]
        return Holder(pid, used_bytes, _unescape(status.get("Name", "")), self._user_name(uid), worker)

    def _find_worker(self, pid: int, status: Mapping[str, str]) -> str:
        """The worker whose tree it is in, empty for none."""
        current: Mapping[str, str] | None = status
        for _ in range(_ANCESTORS_MAX):
            if pid in self._owners:
                return str(self._owners[pid])
            if current is None or not (parent := current.get("PPid", "")).isdecimal() or int(parent) <= 1:
                break
            pid = int(parent)
            current = None if pid in self._owners else self._read_status(pid)
        return ""

    def _read_status(self, pid: int) -> dict[str, str] | None:
        """Fields of a process; None for one that is gone, hidden, or not of this PID namespace."""
        if pid not in self._seen:
            try:
                text = (self._proc / str(pid) / "status").read_text(errors="replace") if pid > 0 else None
            except OSError:
                text = None
            self._seen[pid] = None if text is None else _parse_status(text)
        return self._seen[pid]

    def _user_name(self, uid: str) -> str:
        return _read_users(self._users, _version_of(self._users)).get(uid, uid)


def _parse_status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)


@functools.lru_cache(maxsize=1)
def _read_users(users: Path, _version: object) -> dict[str, str]:
    """Number to name; the first name of a number counts."""
    try:
        lines = users.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        found.setdefault(rest.partition(":")[2].partition(":")[0], name)
    return found


def _version_of(file: Path) -> object:
    try:
        stat = os.stat(file)  # noqa: PTH116 - As cheap as it gets.
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _unescape(name: str) -> str:
    r"""A name as its process set it: the kernel writes line feeds and backslashes as ``\n`` and ``\\``."""
    return re.sub(r"\\(n|\\)", lambda found: "\n" if found[1] == "n" else "\\", name)
