"""
What NVML tells of a device's own health: recovery action, row remapper, retired pages, ECC.

Part of the prober's process. What a card or a driver does not know is left out; nothing here makes a device sick.
"""

from __future__ import annotations

import pynvml

from supervisor.host.nvml import CallError, Library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def read_vitals(library: Library, index: int, handle: object) -> dict[str, int | bool]:
    """
    All of it that a device tells.

    Returns:
        Fields of the core's `Vitals` by name. A call that fails tells nothing: whether the device answers at all is
        seen by what it is asked anyway.
    """
    told: dict[str, int | bool] = {}
    for read in (_read_recovery, _read_remapper, _read_pages, _read_ecc):
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
