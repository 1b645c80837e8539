"""
What GPUs do at this moment, as NVML tells it: how busy they are, how hot, what they draw.

Part of the prober's process. A question that a driver does not know has no answer, and that is all that comes of it.
"""

from __future__ import annotations

import pynvml

from supervisor.host.nvml import TRY_OLDER, CallError, Library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def read_sensors(library: Library, spare: Sequence[int] = ()) -> dict[str, dict[str, int | None]]:
    """
    Ask each GPU but those with these indices. MIG instances have no sensors of their own.

    Returns:
        By UUID: per cent, degrees Celsius, milliwatts; None where a GPU does not tell.
    """
    found = {}
    try:
        count = library.count()
    except CallError:
        return {}
    for index in range(count):
        if index in spare:
            continue
        try:
            handle = library.call("nvmlDeviceGetHandleByIndex", index, pynvml.nvmlDeviceGetHandleByIndex, index)
            uuid = library.text("nvmlDeviceGetUUID", index, pynvml.nvmlDeviceGetUUID, handle)
        except CallError:
            continue
        found[uuid] = _read_gpu(library, index, handle)
    return found


def _read_gpu(library: Library, index: int, handle: object) -> dict[str, int | None]:
    rates = _ask(library, "nvmlDeviceGetUtilizationRates", index, handle)
    return {
        "gpu": None if rates is None else int(rates.gpu),
        "memory": None if rates is None else int(rates.memory),
        "celsius": _read_temperature(library, index, handle),
        "draw": _number(_ask(library, "nvmlDeviceGetPowerUsage", index, handle)),
        # What holds at this moment, be it ours or the board's: what nvidia-smi shows as the cap.
        "limit": _number(_ask(library, "nvmlDeviceGetEnforcedPowerLimit", index, handle)),
    }


def _read_temperature(library: Library, index: int, handle: object) -> int | None:
    # Drivers before R565 have only the second; it will be gone with CUDA 14.
    for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):
        try:
            function = getattr(pynvml, name, None)
            if function is not None:
                return int(library.call(name, index, function, handle, pynvml.NVML_TEMPERATURE_GPU))
        except CallError as error:
            if error.code is not None and error.code not in TRY_OLDER:
                return None
    return None


def _ask(library: Library, name: str, index: int, handle: object) -> Any:
    try:
        return library.call(name, index, getattr(pynvml, name), handle)
    except CallError:
        return None


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
