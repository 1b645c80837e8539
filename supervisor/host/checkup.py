"""
What a device is asked about once a minute: throttling, pending repairs, whether somebody is at work there.

Part of the prober's process. A question that a driver does not know has no answer; nothing here makes a device sick.
"""

from __future__ import annotations

import pynvml

from supervisor.host.nvml import TRY_OLDER, CallError, Library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_THROTTLE_CALLS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
"""The second is what drivers before R535 have."""


def read_checkup(library: Library, index: int, handle: object) -> dict[str, int | bool]:
    """
    Ask one GPU.

    Returns:
        Fields of the core's `Checkup` by name, without its memory and links; a call that fails tells nothing.
    """
    told: dict[str, int | bool] = {}
    if (reasons := _ask_first(library, index, handle, _THROTTLE_CALLS)) is not None:
        told["throttle"] = int(reasons)
    if (pending := _ask_first(library, index, handle, ("nvmlDeviceGetRepairStatus",))) is not None:
        told["repair_pending"] = any(pending)
    if (rates := _ask_first(library, index, handle, ("nvmlDeviceGetUtilizationRates",))) is not None:
        told["busy_percent"] = int(rates.gpu)
    return told


def _ask_first(library: Library, index: int, handle: object, names: tuple[str, ...]) -> Any:
    """The answer to the first of these that binding and driver know; None where there is none."""
    for name in names:
        function = getattr(pynvml, name, None)
        if function is None:
            continue
        try:
            return library.call(name, index, function, handle)
        except CallError as error:
            if error.code is not None and error.code not in TRY_OLDER:
                return None
    return None
