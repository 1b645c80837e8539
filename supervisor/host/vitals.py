"""
What NVML tells of a device's own health: recovery action, row remapper, retired pages, ECC, the NVSwitch fabric.

Part of the prober's process. What a card or a driver does not know is left out; nothing here makes a device sick.
"""

from __future__ import annotations

import ctypes

import pynvml

from supervisor.host.nvml import TRY_OLDER, CallError, Library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def read_vitals(library: Library, index: int, handle: object) -> dict[str, int | bool]:
    """
    All of it that a device tells.

    Returns:
        Fields of the core's `Vitals` by name. A call that fails tells nothing: whether the device answers at all is
        seen by what it is asked anyway.
    """
    told: dict[str, int | bool] = {}
    for read in (_read_recovery, _read_remapper, _read_pages, _read_ecc, _read_fabric):
        try:
            read(library, index, handle, told.__setitem__)
        except CallError:
            continue
    return told


def _read_recovery(library: Library, index: int, handle: object, tell: Callable[[str, int], None]) -> None:
    """The driver's own opinion, and the best single sign. Drivers before R555 do not have it."""
    fields = (pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,)
    values = library.call("nvmlDeviceGetFieldValues", index, pynvml.nvmlDeviceGetFieldValues, handle, fields)
    if values[0].nvmlReturn == pynvml.NVML_SUCCESS:
        tell("recovery", int(values[0].value.uiVal))


def _read_remapper(library: Library, index: int, handle: object, tell: Callable[[str, bool], None]) -> None:
    """Since Ampere, and not while MIG is on."""
    rows = library.call("nvmlDeviceGetRemappedRows", index, pynvml.nvmlDeviceGetRemappedRows, handle)
    tell("remap_pending", bool(rows[2]))
    tell("remap_failed", bool(rows[3]))


def _read_pages(library: Library, index: int, handle: object, tell: Callable[[str, bool], None]) -> None:
    """Before Ampere."""
    call = "nvmlDeviceGetRetiredPagesPendingStatus"
    tell("pages_pending", bool(library.call(call, index, pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)))


def _read_ecc(library: Library, index: int, handle: object, tell: Callable[[str, int], None]) -> None:
    kinds = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    call = "nvmlDeviceGetTotalEccErrors"
    tell("uncorrected", int(library.call(call, index, pynvml.nvmlDeviceGetTotalEccErrors, handle, *kinds)))


def _read_fabric(library: Library, index: int, handle: object, tell: Callable[[str, int], None]) -> None:
    """Since Hopper, on machines with NVSwitches: as long as it has not joined them CUDA does not start (error 802)."""
    info = _ask_fabric(library, index, handle)
    state = info.state & 0xFF  # One byte in NVML, four in the binding.
    if state == pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
        return
    tell("fabric", state)
    if state == pynvml.NVML_GPU_FABRIC_STATE_COMPLETED and info.status != pynvml.NVML_SUCCESS:
        tell("fabric_fault", int(info.status))


def _ask_fabric(library: Library, index: int, handle: object) -> Any:
    for name, kind in (
        ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
        ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
    ):
        function = getattr(pynvml, name, None)
        if function is None:  # The binding is older than the question.
            continue
        info = getattr(pynvml, kind)()
        try:
            library.call(name, index, function, handle, ctypes.byref(info))
        except CallError as error:
            if error.code is not None and error.code not in TRY_OLDER:
                raise
        else:
            return info
    raise CallError("nvmlDeviceGetGpuFabricInfo", None, "not known here")
