"""
Owns where in the cgroup hierarchy this daemon may make directories: only where that was stated.

Root can make them anywhere, so permission says nothing; systemd's mark does, and so does the root of a namespace.
Enables no controller: leaves and cgroup.kill need none, and limits have an owner of their own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "gpu-supervisor"
OURS = "daemon"
"""The leaf of the daemon, keeper and shims where controllers are handed down; systemd's usual DelegateSubgroup= too."""

INITIAL_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO of the kernel.
_MARKS = ("user.delegate", "trusted.delegate")  # Set by systemd for Delegate=; the second by versions before 251.


@dataclass(frozen=True, slots=True)
class Leaves:
    """
    Where leaves are made.

    Args:
        folder: The delegated cgroup, None where there is none.
        why: On what this rests, or why there is none.
    """

    folder: Path | None
    why: str

    def path_of(self, worker: str) -> str | None:
        """The leaf of a worker of this process."""
        return None if self.folder is None else f"{self.folder}/{PREFIX}.{os.getpid()}.{worker.replace('/', '.')}"

    def sweep(self) -> None:
        """Remove empty leaves: ours, and those of daemons that are no more."""
        for leaf in self.folder.glob(f"{PREFIX}.*") if self.folder else ():
            pid = leaf.name.split(".")[1]
            if pid.isdecimal() and (int(pid) == os.getpid() or not Path(f"/proc/{pid}").exists()):
                with suppress(OSError):
                    leaf.rmdir()


NO_LEAVES = Leaves(None, "not asked for")


def find_leaves(proc: Path = Path("/proc/self")) -> Leaves:
    """Look where the daemon is and whether leaves may be made there."""
    try:
        own = next(line[3:] for line in (proc / "cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = _mounted(own, (proc / "mountinfo").read_text())
    except (OSError, StopIteration):
        return Leaves(None, "no cgroup v2 here")
    if folder is None:
        return Leaves(None, "cgroup v2 is not mounted, or not down to this process")
    # With DelegateSubgroup= the daemon sits in a child of the delegated cgroup.
    for place in (folder, folder.parent):
        if (mark := _mark_of(place)) is not None:
            return _usable(place, mark)
    if own in {"/", f"/{OURS}"} and (proc / "ns/cgroup").stat().st_ino != INITIAL_NAMESPACE:
        # A shell that an earlier daemon moved, with all that was there, starts the next one in that leaf.
        return _usable(folder if own == "/" else folder.parent, "root of a cgroup namespace")
    return Leaves(None, f"{folder} is not delegated (a unit with Delegate=yes is)")


def _usable(folder: Path, why: str) -> Leaves:
    if os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
        return Leaves(folder, why)
    return Leaves(None, f"{folder} may not be written")


def _mark_of(folder: Path) -> str | None:
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return mark
    return None


def _mounted(own: str, mounts: str) -> Path | None:
    """The directory of a cgroup, by the mounts of this process."""
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        root, point = fields.split()[3:5]
        if not kind.startswith("cgroup2 "):
            continue
        below = own if root == "/" else own.removeprefix(root) if own == root or own.startswith(f"{root}/") else None
        if below is not None:
            return Path(point + below.rstrip("/"))
    return None
