"""
Owns what the machine has apart from GPUs: CPUs that may be used, vendors whose drivers are there, commands.

Must not load a driver, start a process or keep anything: each answer is read when it is asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
DEVICES = Path("/dev")
DRM = Path("/sys/class/drm")
INTEL = "0x8086"  # https://pcisig.com/membership/member-companies
MEMINFO = Path("/proc/meminfo")


def cpu_count(cgroup_root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP) -> int:
    """
    CPUs that this process may keep busy: by affinity and by quota of its cgroup, whichever is less.

    Returns:
        At least 1; a quota of 2.5 CPUs counts as 3.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(cgroup_root, own_cgroup))))


def read_memory(
    meminfo: Path = MEMINFO, cgroup_root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP
) -> tuple[int, int]:
    """
    The host's memory, or what the cgroup of this process and those above it leave of it, whichever is less.

    Page cache counts as free in both, since models are read through it; swap does not count at all.

    Returns:
        Bytes that can be had without swapping, and bytes that there are in all.
    """
    found = dict(line.split(":", 1) for line in _read(meminfo).splitlines() if ":" in line)
    total = _kib(found.get("MemTotal", ""))
    if total is None:  # Not Linux: what is free is not told.
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    available = _kib(found.get("MemAvailable", found.get("MemFree", ""))) or 0
    limits = list(_memory_limits(cgroup_root, own_cgroup))
    return min([available, *(left for left, _ in limits)]), min([total, *(limit for _, limit in limits)])


def tasks_max(cgroup_root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP) -> int | None:
    """Processes and threads that the cgroup of this process and those above it allow; None without a limit."""
    found: list[int] = []
    for line in _read(own_cgroup).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "" or "pids" in controllers.split(","):
            root = cgroup_root / "pids" if controllers else cgroup_root
            texts = (_read(folder / "pids.max") for folder in _upwards(root, name))
            found += [int(text) for text in texts if text.isdigit()]
    return min(found, default=None)


def installed_vendors(devices: Path = DEVICES, drm: Path = DRM) -> frozenset[str]:
    """GPU vendors other than NVIDIA whose kernel driver is loaded: ``amd``, ``intel``."""
    amd = {"amd"} if (devices / "kfd").exists() else set[str]()
    is_intel = any(_read(node / "device/vendor") == INTEL for node in drm.glob("renderD*"))
    return frozenset(amd | ({"intel"} if is_intel else set()))


def missing_command(command: str, path: str, working_dir: str) -> str | None:
    """
    Look for a command as a worker's start will.

    Args:
        command: With a slash relative to *working_dir*, without one searched.
        path: The worker's PATH.
        working_dir: Absolute.

    Returns:
        Why it cannot be started, or None. Only a hint: the worker may run as somebody else, and later.
    """
    if "/" in command:
        return _fault(Path(working_dir, command), command)
    faults = [_fault(Path(working_dir, folder, command), command) for folder in path.split(os.pathsep)]
    if None in faults:
        return None
    # As execvp: one that is there but may not be run says more than the places where there is none.
    return next((fault for fault in faults if fault and "not found" not in fault), f"command not found: {command}")


def _fault(file: Path, command: str) -> str | None:
    try:
        if file.is_dir():
            return f"is a directory: {command}"
        if not file.exists():
            return f"command not found: {command}"
    except OSError as error:  # No permission on the way; a name too long.
        return f"{(error.strerror or str(error)).lower()}: {command}"
    return None if os.access(file, os.X_OK) else f"not executable: {command}"


def _memory_limits(cgroup_root: Path, own_cgroup: Path) -> Iterator[tuple[int, int]]:
    """What each limit of the cgroup and those above it leaves, and the limit."""
    for line in _read(own_cgroup).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            folders = _upwards(cgroup_root, name)
            yield from _limits(folders, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            folders = _upwards(cgroup_root / "memory", name)
            yield from _limits(folders, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _limits(folders: Iterable[Path], limit: str, used: str, prefix: str) -> Iterator[tuple[int, int]]:
    for folder in folders:
        most, now = _read(folder / limit), _read(folder / used)
        if most.isdigit() and now.isdigit():  # Else it has none, or says "max".
            pairs = [line.split() for line in _read(folder / "memory.stat").splitlines()]
            cache = {f"{prefix}inactive_file", f"{prefix}active_file"}
            cached = sum(int(pair[1]) for pair in pairs if pair[0] in cache)
            yield max(0, int(most) - max(0, int(now) - cached)), int(most)


def _kib(text: str) -> int | None:
    """Bytes of a value of meminfo."""
    number = text.strip().partition(" ")[0]
    return int(number) * 1024 if number.isdigit() else None


def _quota(cgroup_root: Path, own_cgroup: Path) -> float:
    """CPUs that the cgroup and those above it allow; infinite without a limit."""
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:  # Not Linux.
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            quotas += [_quota_v2(folder) for folder in _upwards(cgroup_root, name)]
        elif "cpu" in controllers.split(","):
            for mount in (cgroup_root / "cpu", cgroup_root / controllers):
                quotas += [_quota_v1(folder) for folder in _upwards(mount, name)]
    return min(quotas)


def _upwards(mount: Path, name: str) -> list[Path]:
    """Folders from the mount's root to the cgroup; those that a container does not see are left out by the reader."""
    folder = mount
    folders = [folder]
    for part in name.split("/"):
        if part not in {"", ".."}:
            folder /= part
            folders.append(folder)
    return folders


def _quota_v2(folder: Path) -> float:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf


def _quota_v1(folder: Path) -> float:
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf


def _read(file: Path) -> str:
    """Its text without the line feed; empty where there is no such file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
