"""
The cgroup leaf of one worker: made, entered, killed and removed by its shim.

Standard library only, since shims run it without site-packages. The shim itself is never in it.
"""

from __future__ import annotations

import os

# Environment names that a shell passes on; with another one the worker goes without a leaf rather than without it.
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")

# The permission to move is that of who opened the file, so a worker without privileges enters through our descriptor.
# Bare names: without these files a limit still holds, but for swap, and one process dies instead of all.
_OPTIONAL = ("memory.swap.max", "memory.oom.group")

ENTER_STEP = "{ echo 0 >&0; } 2>/dev/null; "
"""Of a shell that then becomes the worker."""


class Leaf:
    """
    A cgroup of the v2 hierarchy.

    Args:
        path: Its directory, whose parent was delegated to the daemon.

    Attributes:
        lacks: Why the worker goes without it or without a limit, as far as open() could tell.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lacks = ""
        self._ooms = 0
        self._limits: dict[str, str] | None = None

    def open(self, env: dict[str, str], limits: dict[str, str] | None = None) -> int | None:
        """
        Make it and return a descriptor through which a child enters it; None where it has to go without.

        Args:
            env: Of the worker.
            limits: Files of it, such as ``memory.max``, and what to write there.
        """
        for name in env:
            if not is_shell_name(name):
                self.lacks = f"a shell would drop its variable {name}, so it is in no cgroup of its own"
                return None
        try:
            self._make(limits or {})
        except OSError as error:
            self.lacks = f"cannot make {self.path}: {os.strerror(error.errno or 0).lower()}"
            return None
        for name, value in (limits or {}).items():
            self._limit(name, value)
        self._ooms = self._count_ooms()
        try:
            return os.open(f"{self.path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            self.lacks = f"cannot open {self.path}/cgroup.procs: {os.strerror(error.errno or 0).lower()}"
            return None

    def _make(self, limits: dict[str, str]) -> None:
        """That of its last process will do if it has the same limits: what nobody writes stays what it was."""
        is_same, self._limits = limits == self._limits, limits
        try:
            os.mkdir(self.path)  # noqa: PTH102 - pathlib costs memory in every shim.
        except FileExistsError:
            if is_same:
                return
            self.remove()
            try:
                os.mkdir(self.path)  # noqa: PTH102
            except FileExistsError:  # Something lives in it.
                self._limits = None

    def _limit(self, name: str, value: str) -> None:
        try:
            fd = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            if name not in _OPTIONAL:
                self.lacks = f"cannot write {value} to {self.path}/{name}: {os.strerror(error.errno or 0).lower()}"

    def kill(self) -> None:
        """SIGKILL everything in it at once, however fast it forks."""
        try:
            fd = os.open(f"{self.path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:  # Not made yet; a kernel before 5.14.
            return
        try:
            os.write(fd, b"1")
        except OSError:
            return
        finally:
            os.close(fd)

    def was_out_of_memory(self) -> bool:
        """Whether the kernel has killed something in it for want of memory since open()."""
        return self._count_ooms() > self._ooms

    def remove(self) -> None:
        """Remove it once it is empty."""
        try:
            os.rmdir(self.path)  # noqa: PTH106
        except OSError:
            return

    def _count_ooms(self) -> int:
        """Return 0 where no memory controller watches it."""
        try:
            with open(f"{self.path}/memory.events", "rb", buffering=0) as file:  # noqa: PTH123
                words = file.read().split()
        except OSError:
            return 0
        return int(words[words.index(b"oom_kill") + 1]) if b"oom_kill" in words else 0


def is_shell_name(name: str) -> bool:
    """Whether a shell passes on a variable of this name."""
    return bool(name) and not name[0].isdigit() and _NAME_CHARACTERS.issuperset(name)
