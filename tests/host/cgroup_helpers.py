"""
A stand-in for the files of cgroups, by the rules of the kernel.

The real ones have the controllers cpu and memory on few of the machines that tests run on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from supervisor.host.controllers import Files


class FakeFiles(Files):
    """
    One delegated cgroup and those below it. Directories are real, what stands in their files is kept here.

    Args:
        folder: The delegated one; it is made.
        controllers: That it was given.
        pids: Who is in it.
    """

    def __init__(self, folder: Path, controllers: Iterable[str], pids: Iterable[int]) -> None:
        folder.mkdir()
        self.folder = folder
        self.given = set(controllers)
        self.enabled: set[str] = set()
        self._members = {folder: set(pids)}
        self.forks = 0
        """So many processes appear in the delegated cgroup, one at each look."""

    def pids(self, name: str = ".") -> set[int]:
        """Who is in a cgroup."""
        return self._members.get(self.folder / name, set())

    def words(self, file: Path) -> list[str]:
        assert file.parent.is_dir()
        match file.name:
            case "cgroup.procs":
                found = [str(pid) for pid in sorted(self._members.get(file.parent, ()))]
                if file.parent == self.folder and self.forks:
                    self._members[self.folder].add(1000 + self.forks)
                    self.forks -= 1
                return found
            case "cgroup.controllers":
                return sorted(self.given)
            case _:
                return sorted(self.enabled)

    def write(self, file: Path, text: str) -> None:
        assert file.parent.is_dir()
        if file.name == "cgroup.procs":
            self._move(int(text) or os.getpid(), file.parent)
            return
        for word in text.split():
            if word[0] == "+" and self._members[self.folder]:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))  # No internal processes.
            (self.enabled.add if word[0] == "+" else self.enabled.discard)(word[1:])

    def _move(self, pid: int, target: Path) -> None:
        if target == self.folder and self.enabled:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        source = next((one for one, pids in self._members.items() if pid in pids), None)
        if source is None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self._members[source].discard(pid)
        self._members.setdefault(target, set()).add(pid)
