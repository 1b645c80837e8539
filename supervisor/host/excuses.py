"""
Why the driver answers nothing, in the words of what is there of it: no library, files that may not be opened.

Part of the prober's process. Looks at names and modes of files and opens none: to open a GPU's wakes it up.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # As in the prober.
if TYPE_CHECKING:
    from collections.abc import Iterable

DRIVER_TRACES = ("/dev/nvidia0", "/proc/driver/nvidia")
DEVICE_FILES = "/dev"


def explain_absence(driver_traces: Iterable[str] = DRIVER_TRACES) -> str:
    """Why there is no NVML here: no driver at all, or a container that was given only a part of it."""
    if any(os.path.exists(trace) for trace in driver_traces):  # noqa: PTH110 - pathlib would cost time at the start.
        return "driver present, NVML not mounted: add NVIDIA_DRIVER_CAPABILITIES=utility"
    return "NVML (libnvidia-ml.so.1) is not installed"


def explain_refusal(folder: str = DEVICE_FILES) -> str:
    """Which of the driver's files this user may not open, by their modes or by the cgroup's; empty if none is known."""
    try:
        names = sorted(name for name in os.listdir(folder) if name == "nvidiactl" or _is_gpu(name))  # noqa: PTH208
    except OSError:
        return ""
    if "nvidiactl" not in names:
        return f"there is no {folder}/nvidiactl"
    closed = [f"{folder}/{name}" for name in names if not _is_open(f"{folder}/{name}")]
    return f"user {os.geteuid()} may not open {', '.join(closed)}" if closed else ""


def _is_gpu(name: str) -> bool:
    return name.startswith("nvidia") and name[6:].isdecimal()


def _is_open(path: str) -> bool:
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True)
