"""What devices and workers do at this moment, for people and metrics: nothing is decided by it, and it is not kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sensors:
    """
    What the driver tells of one device; None where it does not.

    Args:
        gpu_percent: Of the last moments, in how much of them something ran there.
        memory_percent: As that, for its memory being read or written; not how full it is.
        celsius: Of the GPU.
        draw_w: Watts that it takes.
        limit_w: Watts that it is allowed.
    """

    gpu_percent: int | None = None
    memory_percent: int | None = None
    celsius: int | None = None
    draw_w: float | None = None
    limit_w: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What a worker's processes use; None where it is not known.

    Args:
        cpu: Cores, of the last moments: 1.5 is one and a half.
        cpu_s: Seconds of CPU since its shim was started, ends of processes included.
        memory_bytes: Of the host, in RAM (RSS), summed over its processes; None without a process.
    """

    cpu: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What was read for who asked.

    Args:
        sensors: By UUID; a device that is missing tells nothing.
        usage: By worker; one that is missing has nothing.
    """

    sensors: Mapping[str, Sensors] = field(default_factory=dict)
    usage: Mapping[WorkerId, Usage] = field(default_factory=dict)


def device_figures(figures: Figures, uuid: str) -> Json:
    """The keys of one device: per cent, degrees Celsius, watts."""
    found = figures.sensors.get(uuid, Sensors())
    return {
        "utilization": {"gpu": found.gpu_percent, "memory": found.memory_percent},
        "temperature": found.celsius,
        "power": {"draw": found.draw_w, "limit": found.limit_w},
    }


def worker_figures(figures: Figures, fleet: Fleet, worker: Worker) -> Json:
    """The key of one worker: cores, seconds, bytes."""
    found = figures.usage.get(worker.id, Usage())
    return {
        "usage": {
            "cpu": found.cpu,
            "cpu_seconds": found.cpu_s,
            "memory": found.memory_bytes,
            "gpu_memory": None if worker.pid is None else gpu_memory(fleet, worker),
        }
    }


def gpu_memory(fleet: Fleet, worker: Worker) -> int | None:
    """
    Memory of all devices that the processes of a worker have, by the last reading.

    Returns:
        Bytes; None where the driver does not tell, or tells of processes that nobody here can see: in a container they
        may be the worker's own.
    """
    if fleet.inventory is None:
        return None
    slice_ = worker.held.launch.slice if worker.held is not None and worker.held.launch is not None else ()
    own = {share.uuid for share in slice_}
    total = 0
    for device in fleet.inventory.devices:
        for holder in device.holders or ():
            is_its = holder.worker == str(worker.id)
            if device.uuid in own and not holder.worker and not holder.name:
                return None
            if is_its and holder.used_bytes is None:
                return None
            total += (holder.used_bytes or 0) if is_its else 0
        own -= set() if device.holders is None else {device.uuid}
    # Of those that are left nothing was told.
    return None if own else total
