"""Looks the machine over for `doctor`: gathers what `core.doctor` judges. Changes nothing, starts only the prober."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor.core.doctor import Facts, Finding, GpuFacts, Sick, examine
from supervisor.core.inventory import Device, GpuState, Health, Reading
from supervisor.core.snapshot import Json, View, make_devices
from supervisor.core.spec import Spec
from supervisor.core.turn import Fleet
from supervisor.daemon.survey import look, read_with_settings, recall
from supervisor.host.cgroups import find_leaves
from supervisor.host.clock import Clock
from supervisor.host.files import SpecRefused, load_spec
from supervisor.host.guard import writable_by_others
from supervisor.host.machine import cpu_count, tasks_max
from supervisor.host.settings_client import DriverSettings
from supervisor.host.systemctl import show_unit

UNIT_FOLDER = Path("/etc/gpu-supervisor")
UVM = Path("/dev/nvidia-uvm")
UNIT_PROPERTIES = (
    *("Type", "KillMode", "TimeoutStopUSec", "Delegate"),
    *("PrivateDevices", "MemoryDenyWriteExecute", "PrivateNetwork"),
)


def examine_machine(
    file: Path | None, unit: str | None, environ: Mapping[str, str], devices: Sequence[Json] | Path
) -> tuple[Finding, ...]:
    """
    Everything worth knowing before, or when something does not work.

    Args:
        file: The service file; None looks at the machine alone.
        unit: Of systemd that the daemon runs in, where one runs.
        environ: The environment that a daemon would have.
        devices: Of the status of the running daemon; where there is none, where it would have its control socket.
    """
    spec, problems = _read_file(file)
    reading, settings = read_with_settings(environ)
    leaves = find_leaves()
    name = unit or _unit_of(file)
    return examine(
        Facts(
            gpu_state=reading.state,
            gpu_detail=reading.detail,
            driver="" if settings is None else settings.driver,
            gpus=tuple(_gpus(reading, settings)),
            sick=tuple(_sick(_read_devices(devices, reading, environ) if isinstance(devices, Path) else devices)),
            lacks_uvm=reading.state is GpuState.OK and bool(reading.devices) and _is_real() and not UVM.exists(),
            leaves=None if leaves.folder is None else str(leaves.folder),
            leaves_why=leaves.why,
            has_pidfd=_has_pidfd(),
            kernel=platform.release(),
            descriptors=_descriptors(),
            tasks_max=tasks_max(),
            unit=show_unit(name, UNIT_PROPERTIES) if name else {},
            unit_name=name,
            problems=problems,
            faults=tuple(writable_by_others(_obeyed(file, spec))),
            cpus=cpu_count(),
        ),
        spec,
    )


def _read_file(file: Path | None) -> tuple[Spec | None, tuple[str, ...]]:
    """What a file means, or its problems: a bad one hides nothing of what else is wrong."""
    if file is None:
        return None, ()
    try:
        return load_spec(file).spec, ()
    except SpecRefused as refused:
        return None, refused.lines


def find_file(daemon: Mapping[str, Any]) -> Path | None:
    """The service file of a running daemon, by its status; None where it cannot be found from here."""
    try:
        return Path(f"/proc/{daemon['pid']}/cwd").readlink() / str(daemon["file"])
    except OSError:
        return None


def _unit_of(file: Path | None) -> str:
    """The unit that would run a file where it lies, or empty."""
    if file is None or file.absolute().parent != UNIT_FOLDER:
        return ""
    return f"gpu-supervisor@{file.stem}.service"


def _gpus(reading: Reading, settings: DriverSettings | None) -> Iterator[GpuFacts]:
    told = {one.index: one for one in settings.gpus} if settings else {}
    for device in reading.devices:
        if device.parent is not None:
            continue
        mine = told.get(device.index)
        parts = [one for one in reading.devices if one.parent == device.uuid]
        yield GpuFacts(
            index=device.index,
            name=device.name,
            is_cut=device.is_cut,
            instances=len(parts),
            persistence=mine.persistence if mine else None,
            compute=mine.compute if mine else None,
            is_used=any(_is_used(one) for one in (device, *parts)),
        )


def _read_devices(control: Path, reading: Reading, environ: Mapping[str, str]) -> Sequence[Json]:
    """The devices as the next daemon would see them."""
    clock = Clock()
    now = clock.monotonic()
    fleet = look(Fleet(started_at=now), reading, recall(control, environ, now), now)
    found: Sequence[Json] = make_devices(fleet, View(rfc3339=clock.rfc3339))["devices"]
    return found


def _sick(devices: Iterable[Json]) -> Iterator[Sick]:
    """GPUs that are not well; their instances are as they are."""
    for one in devices:
        if one["health"] != Health.OK and not one.get("parent"):
            name = one["uuid"] if one["index"] is None else f"GPU {one['index']}"
            yield Sick(str(name), Health(one["health"]), str(one["reason"]))


def _is_used(device: Device) -> bool:
    return bool(device.holders)


def _is_real() -> bool:
    """Whether the kernel module is here; in some containers only the library is."""
    return Path("/proc/driver/nvidia/version").exists()


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


def _descriptors() -> tuple[int | None, int | None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (None if soft == resource.RLIM_INFINITY else soft), (None if hard == resource.RLIM_INFINITY else hard)


def _obeyed(file: Path | None, spec: Spec | None) -> Iterable[Path]:
    """What stands in these files is what is run."""
    if file is None or spec is None:
        return
    yield file.absolute()
    for service in spec.services.values():
        yield from map(Path, service.env_file)
        program = Path(service.working_dir, service.command[0])
        if "/" in service.command[0] and program.exists():
            yield program
