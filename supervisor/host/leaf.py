"""
The cgroup leaf of one worker: made, entered, killed and removed by its shim.

Standard library only, since shims run it without site-packages. The shim itself is never in it.
"""

from __future__ import annotations

import os

# Environment names that a shell passes on; with another one the worker goes without a leaf rather than without it.
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")

# The permission to move is that of who opened the file, so a worker without privileges enters through our descriptor.
ENTER = '{ echo 0 >&0; } 2>/dev/null; exec "$@" </dev/null'


class Leaf:
    """
    A cgroup of the v2 hierarchy without controllers of its own.

    Args:
        path: Its directory, whose parent was delegated to the daemon.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._ooms = 0

    def open(self, env: dict[str, str]) -> int | None:
        """Make it and return a descriptor through which a child enters it; None where it has to go without."""
        if not all(name and not name[0].isdigit() and _NAME_CHARACTERS.issuperset(name) for name in env):
            return None
        try:
            os.mkdir(self.path)  # noqa: PTH102 - pathlib costs memory in every shim.
        except FileExistsError:  # Of its last process.
            pass
        except OSError:
            return None
        self._ooms = self._count_ooms()
        try:
            return os.open(f"{self.path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return None

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
