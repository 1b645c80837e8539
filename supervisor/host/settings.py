"""
What an administrator sets of the driver: its version, and of each GPU persistence and compute mode.

Part of the prober's process.
"""

from __future__ import annotations

import pynvml

from supervisor.host.nvml import CallError, Library


def read_settings(library: Library) -> dict[str, object]:
    """
    Ask for what an administrator sets: the driver's version, and of each GPU persistence and compute mode.

    Returns:
        None where NVML does not tell.

    Raises:
        CallError: Nothing can be asked.
    """
    library.initialise()
    driver = library.text("nvmlSystemGetDriverVersion", None, pynvml.nvmlSystemGetDriverVersion)
    devices = []
    for index in range(library.count()):
        try:
            handle = library.call("nvmlDeviceGetHandleByIndex", index, pynvml.nvmlDeviceGetHandleByIndex, index)
        except CallError:
            continue
        modes = {
            key: _read_mode(library, index, handle, f"nvmlDeviceGet{call}")
            for key, call in (("persistence", "PersistenceMode"), ("compute", "ComputeMode"))
        }
        devices.append({"index": index, **modes})
    return {"driver": driver, "devices": devices}


def _read_mode(library: Library, index: int, handle: object, call: str) -> int | None:
    try:
        return int(library.call(call, index, getattr(pynvml, call), handle))
    except CallError:
        return None
