"""
Asks a prober once for what an administrator sets of the GPUs, and gives up on it in time.

Judges nothing; that is the business of whoever asks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.host.prober_client import Prober

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.host.prober_client import Spawner

_DEADLINE_S = 30.0  # For each call; the driver may take seconds for each GPU to be initialised.
_END_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """
    What an administrator sets of one GPU.

    Args:
        index: As nvidia-smi shows.
        persistence: Whether the driver keeps it initialised when nobody uses it; None where that is not told.
        compute: NVML's number of the compute mode (nvmlComputeMode_t); None where that is not told.
    """

    index: int
    persistence: bool | None
    compute: int | None


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """
    What an administrator sets of the driver and its GPUs.

    Args:
        driver: Its version.
    """

    driver: str
    gpus: tuple[GpuSettings, ...]


async def read_settings(
    processes: Spawner, environ: Mapping[str, str], *, deadline_s: float = _DEADLINE_S
) -> DriverSettings | None:
    """
    What NVML tells of settings.

    Args:
        processes: Where processes are started; has to be started itself.
        environ: The prober's environment.
        deadline_s: For each of its calls.

    Returns:
        None when it tells nothing, or not in time.
    """
    prober = Prober(processes, place=1, number=1, environ=environ)
    try:
        prober.ask(1, "settings")
        while (line := await prober.wait_line(deadline_s)) is not None:
            message = json.loads(line)
            if "error" in message:
                return None
            if "settings" in message:
                return _parse(message["settings"])
    except (TimeoutError, ValueError, KeyError, TypeError):
        return None
    finally:
        prober.kill()
        await prober.wait_gone(_END_DEADLINE_S)
    return None


def _parse(answer: Mapping[str, object]) -> DriverSettings:
    gpus = answer["devices"]
    assert isinstance(gpus, list)
    return DriverSettings(
        str(answer["driver"]),
        tuple(
            GpuSettings(
                int(one["index"]),
                None if one["persistence"] is None else bool(one["persistence"]),
                None if one["compute"] is None else int(one["compute"]),
            )
            for one in gpus
        ),
    )
