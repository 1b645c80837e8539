"""
Owns the controllers of the delegated cgroup: enabled for the first worker that has limits, put back at the end.

A cgroup that hands controllers down may not have processes of its own, so whoever is in it moves into a leaf first.
Must not touch the leaves of workers: their shims make and limit them.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from supervisor.host.cgroups import OURS, PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.host.cgroups import Leaves

LOOKS_MAX = 20
"""Looks for processes that are still there: who forks while we look has moved its child by the second or third."""


class Files:
    """Files of cgroups, which are read and written in one piece."""

    def words(self, file: Path) -> list[str]:
        """What stands in it, apart."""
        return file.read_text().split()

    def write(self, file: Path, text: str) -> None:
        """Let the kernel do what the text says; OSError where it refuses."""
        # The error comes with the write itself; a buffered one would raise it at the close.
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


class Controllers:
    """
    What is handed down to the leaves of one daemon.

    Args:
        leaves: Where those are.
        files: How files of cgroups are read and written.
    """

    def __init__(self, leaves: Leaves, files: Files | None = None) -> None:
        self._leaves = leaves
        self._files = files or Files()
        self._enabled: set[str] = set()
        self._has_moved = False

    def enable(self, name: str) -> str:
        """
        Hand a controller down, if it is not yet.

        Args:
            name: ``cpu``, ``memory``.

        Returns:
            Why that cannot be, in the same words for every controller; or nothing.
        """
        folder = self._leaves.folder
        if folder is None:
            return self._leaves.why
        try:
            if name in self._files.words(folder / "cgroup.subtree_control"):
                return ""
            if name not in self._files.words(folder / "cgroup.controllers"):
                return f"no such controller in {folder}"
            self._make_room(folder)
            self._files.write(folder / "cgroup.subtree_control", f"+{name}")
        except OSError as error:
            reason = "somebody else's process is in it" if error.errno == errno.EBUSY else os.strerror(error.errno or 0)
            return f"cannot enable controllers in {folder}: {reason.lower()}"
        self._enabled.add(name)
        return ""

    def put_back(self) -> None:
        """
        Leave the cgroup as it was found, so that the manager may start the next daemon in it.

        Where another daemon has leaves beside ours it needs what we have enabled: then everything stays.
        """
        folder = self._leaves.folder
        if folder is None or self._has_company(folder):
            return
        with suppress(OSError):
            if self._enabled:
                words = " ".join(f"-{name}" for name in sorted(self._enabled))
                self._files.write(folder / "cgroup.subtree_control", words)
                self._enabled.clear()
            if self._has_moved:
                self._move(folder / OURS, folder)
                (folder / OURS).rmdir()
                self._has_moved = False

    def _has_company(self, folder: Path) -> bool:
        """Whether there are leaves of others. One of ours that is left has somebody in it who cannot be killed."""
        own = f"{PREFIX}.{os.getpid()}."
        return any(not leaf.name.startswith(own) for leaf in folder.glob(f"{PREFIX}.*"))

    def _make_room(self, folder: Path) -> None:
        """Move everybody in it, ourselves too, into a leaf."""
        for _ in range(LOOKS_MAX):
            if not self._pids(folder):
                return
            (folder / OURS).mkdir(exist_ok=True)
            self._has_moved = True
            self._move(folder, folder / OURS)

    def _move(self, source: Path, target: Path) -> None:
        for pid in self._pids(source):
            with suppress(ProcessLookupError):
                self._files.write(target / "cgroup.procs", str(pid))

    def _pids(self, folder: Path) -> list[int]:
        """Those that we can name: who is in another pid namespace shows as 0, which would mean us."""
        return [pid for pid in map(int, self._files.words(folder / "cgroup.procs")) if pid]
