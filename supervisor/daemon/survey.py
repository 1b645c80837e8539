"""A look at the machine without a daemon: what the driver shows, and what a file would do here. Starts nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from supervisor.core.environment import Host
from supervisor.core.fleet import handle
from supervisor.core.gpus import needs_cuda_order, parse_pool, resolve_pool
from supervisor.core.inventory import Reading
from supervisor.core.message import DevicesClaimed, Event, InventoryRead
from supervisor.core.rescale import preview
from supervisor.core.snapshot import Json, View, make_devices, make_plan_json
from supervisor.core.turn import Fleet
from supervisor.errors import CannotError
from supervisor.host.clock import Clock
from supervisor.host.devices import Devices
from supervisor.host.files import load_spec
from supervisor.host.locks import find_holders
from supervisor.host.machine import cpu_count, installed_vendors
from supervisor.host.process import Processes


def devices(environ: Mapping[str, str]) -> Json:
    """
    `devices --json` of CONTRACT section 4, asked of the driver now.

    Args:
        environ: Environment for the process that asks it.
    """
    clock = Clock()
    now = clock.monotonic()
    fleet = _look(Fleet(started_at=now), environ, now)
    return make_devices(fleet, View(rfc3339=clock.rfc3339))


def plan(file: Path, environ: Mapping[str, str], *, pool_all: bool) -> Json:
    """
    `plan --json` of CONTRACT section 4 for a file on this machine as it is now.

    Args:
        file: The service file.
        environ: The environment that a daemon would have.
        pool_all: Ignore an inherited `CUDA_VISIBLE_DEVICES`.

    Raises:
        SpecRefused: The file is bad.
        CannotError: The pool cannot be used.
    """
    clock = Clock()
    spec = load_spec(file).spec
    pool = find_pool(environ, pool_all=pool_all)
    now = clock.monotonic()
    # As long after the start of a daemon as can be: nobody waits here for a module that is still being loaded.
    born = Fleet(host=Host(environ, installed_vendors()), started_at=float("-inf"), pool_tokens=pool)
    fleet = _look(born, environ, now)
    return make_plan_json(fleet, preview(fleet, spec, cpu_count()), View(rfc3339=clock.rfc3339))


def find_pool(environ: Mapping[str, str], *, pool_all: bool) -> tuple[str, ...] | None:
    """
    The GPUs that an inherited `CUDA_VISIBLE_DEVICES` leaves to us: UUIDs, starts of them, or indices in PCI order.

    Positions in CUDA's own order mean a device for sure only when there is one GPU; then the driver is asked.

    Returns:
        None for every GPU.

    Raises:
        CannotError: What it says cannot be used.
    """
    entries = None if pool_all else parse_pool(environ)
    if entries is None or not needs_cuda_order(environ, entries):
        return entries
    found = read_devices(environ).devices
    if len(found) == 1:
        return resolve_pool(entries, found)
    raise CannotError(
        f"use CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']} as the pool",
        "these are positions in CUDA's own order, which need not be that of nvidia-smi",
        hint="set CUDA_DEVICE_ORDER=PCI_BUS_ID beside it, give UUIDs, or ignore the variable with --pool all",
        exit_code=78,
    )


def read_devices(environ: Mapping[str, str]) -> Reading:
    """Ask the driver once. Bounded by its deadlines; a prober that hangs is left behind."""
    return asyncio.run(_read(environ))


def _look(fleet: Fleet, environ: Mapping[str, str], now: float) -> Fleet:
    """A fleet that knows the devices, and which of them a daemon has."""
    reading = read_devices(environ)
    fleet, _ = handle(fleet, InventoryRead(reading, now), now)
    holders = find_holders(device.uuid for device in reading.devices)
    fleet, _ = handle(fleet, DevicesClaimed(held=holders), now)
    return fleet


async def _read(environ: Mapping[str, str]) -> Reading:
    processes = Processes(_ignore)
    await processes.start()
    prober = Devices(processes, Clock().monotonic, environ)
    try:
        reading, _ = await prober.read()
        return reading
    finally:
        await prober.close()
        await processes.close()


def _ignore(_event: Event) -> None:
    """There is nothing but the prober, which is listened to elsewhere."""
