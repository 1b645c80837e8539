"""A look at the machine without a daemon: what the driver shows, and what a file would do here. Starts nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TypeVar

from supervisor.core.environment import Host
from supervisor.core.evolve import evolve
from supervisor.core.figures import Figures, Sensors
from supervisor.core.fleet import handle
from supervisor.core.gpus import needs_cuda_order, parse_pool, resolve_pool
from supervisor.core.health import Ailment
from supervisor.core.inventory import GpuState, Health, Reading
from supervisor.core.message import DevicesClaimed, Event, HostRead, InventoryRead
from supervisor.core.preview import preview
from supervisor.core.snapshot import Json, View, make_devices, make_plan_json
from supervisor.core.turn import Fleet
from supervisor.core.wards import recalled
from supervisor.errors import CannotError
from supervisor.host.clock import Clock
from supervisor.host.console import silence_unless_configured
from supervisor.host.cuda_client import CudaError, read_cuda_order
from supervisor.host.devices import Devices
from supervisor.host.files import load_spec
from supervisor.host.locks import find_holders
from supervisor.host.machine import cpu_count, installed_vendors, read_memory
from supervisor.host.process import Processes
from supervisor.host.settings_client import DriverSettings, read_settings
from supervisor.host.sickbay import Sickbay, find_sickbays

T = TypeVar("T")


def devices(environ: Mapping[str, str], control: Path) -> Json:
    """
    `devices --json` of CONTRACT section 4, asked of the driver now.

    Args:
        environ: Environment for the process that asks it.
        control: Control socket of the daemon that would know more: what it has kept of sick GPUs counts.
    """
    clock = Clock()
    now = clock.monotonic()
    try:
        pool = find_pool(environ, pool_all=False)
    except CannotError:
        pool = None  # What cannot be used as a pool is the business of those who want one.
    reading, sensors = read_with_sensors(environ)
    fleet = look(Fleet(started_at=now, pool_tokens=pool), reading, recall(control, environ, now), now)
    return make_devices(fleet, View(rfc3339=clock.rfc3339, figures=Figures(sensors)))


def plan(file: Path, environ: Mapping[str, str], control: Path, *, pool_all: bool) -> Json:
    """
    `plan --json` of CONTRACT section 4 for a file on this machine as it is now.

    Args:
        file: The service file.
        environ: The environment that a daemon would have.
        control: As of `devices`.
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
    fleet = look(born, read_devices(environ), recall(control, environ, now), now)
    found = make_plan_json(fleet, preview(fleet, spec, cpu_count()), View(rfc3339=clock.rfc3339))
    return {**found, "rollout": []}  # Nobody runs.


def find_pool(environ: Mapping[str, str], *, pool_all: bool) -> tuple[str, ...] | None:
    """
    The GPUs that an inherited `CUDA_VISIBLE_DEVICES` leaves to us: UUIDs, starts of them, or indices in PCI order.

    Positions in CUDA's own order are told by CUDA, unless there is only one GPU.

    Returns:
        None for every GPU.

    Raises:
        CannotError: What it says cannot be used.
    """
    entries = None if pool_all else parse_pool(environ)
    if entries is None or not needs_cuda_order(environ, entries):
        return entries
    return asyncio.run(_with_processes(lambda processes: _find_by_position(processes, environ, entries)))


async def _find_by_position(
    processes: Processes, environ: Mapping[str, str], entries: tuple[str, ...]
) -> tuple[str, ...]:
    reading = await _read(processes, environ)
    if reading.state is GpuState.ABSENT or (reading.state is GpuState.OK and not reading.devices):
        return ()
    if reading.state is GpuState.OK and sum(device.parent is None for device in reading.devices) == 1:
        return resolve_pool(entries, reading.devices)
    try:
        return await read_cuda_order(processes, environ)
    except CudaError as error:
        raise CannotError(
            f"use CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']} as the pool",
            "these are positions in CUDA's own order, which need not be that of nvidia-smi,"
            f" and CUDA does not tell it: {error}",
            hint="set CUDA_DEVICE_ORDER=PCI_BUS_ID or give UUIDs; `gpu-supervisor run --pool all` ignores it",
            # A driver that is still being loaded, or does not answer, may be well for the next try.
            exit_code=78 if reading.state is GpuState.OK else 1,
        ) from None


def read_devices(environ: Mapping[str, str]) -> Reading:
    """Ask the driver once. Bounded by its deadlines; a prober that hangs is left behind."""
    return asyncio.run(_with_processes(lambda processes: _read(processes, environ)))


def read_with_sensors(environ: Mapping[str, str]) -> tuple[Reading, Mapping[str, Sensors]]:
    """Ask the driver once for its devices and what they do."""
    return asyncio.run(_with_processes(lambda processes: _read_with_sensors(processes, environ)))


def read_with_settings(environ: Mapping[str, str]) -> tuple[Reading, DriverSettings | None]:
    """Ask the driver once for its devices, and where it answers for what an administrator sets of them."""

    async def ask(processes: Processes) -> tuple[Reading, DriverSettings | None]:
        reading = await _read(processes, environ)
        return reading, await read_settings(processes, environ) if reading.state is GpuState.OK else None

    return asyncio.run(_with_processes(ask))


def recall(control: Path, environ: Mapping[str, str], now: float) -> dict[str, Ailment]:
    """What daemons have kept of sick devices, as the next one would begin with it; the newest word counts."""
    silence_unless_configured()
    found: dict[str, Ailment] = {}
    for file in find_sickbays(control, environ):
        ailments, is_same_boot = Sickbay(file).read()
        found = {**recalled(ailments, now=now, is_same_boot=is_same_boot), **found}
    return found


def look(fleet: Fleet, reading: Reading, ailments: Mapping[str, Ailment], now: float) -> Fleet:
    """A fleet that knows the devices, what is known against them, and which of them a daemon has."""
    fleet, _ = handle(evolve(fleet, ailments=dict(ailments)), InventoryRead(reading, now), now)
    if any(one.health is Health.PROBING for one in fleet.ailments.values()):
        # Whose time is over is looked at once more, and this reading is as fresh as can be.
        fleet, _ = handle(fleet, InventoryRead(reading, now), now)
    holders = find_holders(device.uuid for device in reading.devices)
    fleet, _ = handle(fleet, DevicesClaimed(held=holders), now)
    fleet, _ = handle(fleet, HostRead(*read_memory()), now)
    return fleet


async def _with_processes(work: Callable[[Processes], Coroutine[None, None, T]]) -> T:
    silence_unless_configured()
    processes = Processes(_ignore)
    await processes.start()
    try:
        return await work(processes)
    finally:
        await processes.close()


async def _read(processes: Processes, environ: Mapping[str, str]) -> Reading:
    return (await _read_with_sensors(processes, environ, sensors=False))[0]


async def _read_with_sensors(
    processes: Processes, environ: Mapping[str, str], *, sensors: bool = True
) -> tuple[Reading, Mapping[str, Sensors]]:
    prober = Devices(processes, Clock().monotonic, environ)
    try:
        reading, _ = await prober.read(sensors=sensors)
        return reading, prober.sensors
    finally:
        await prober.close()


def _ignore(_event: Event) -> None:
    """There is nothing but the prober, which is listened to elsewhere."""
