"""
What is wrong, or soon will be, with a machine and a file for running GPU workers: findings, each with what to do.

Pure: the facts were gathered elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from supervisor.core.inventory import GpuState, Health

if TYPE_CHECKING:
    from supervisor.core.file.service import Restart
    from supervisor.core.spec import ServiceSpec, Spec

Level = Literal["ok", "note", "warning", "problem"]

DESCRIPTORS_EACH = 16
"""Of the daemon for one worker: pipes of its output, its shim's socket, probes, log files; rounded up."""

DESCRIPTORS_OWN = 128
TASKS_EACH = 1000
"""Threads that a model server easily has; vLLM with torch and NCCL has some hundreds for each GPU."""

STOP_MARGIN_S = 6.0

# nvmlComputeMode_t of nvml.h.
COMPUTE_PROHIBITED, COMPUTE_EXCLUSIVE = 2, 3

CONTAINER_CLIENTS = frozenset({"docker", "podman", "nerdctl"})
DETACHED = frozenset({"-d", "--detach", "--detach=true"})

GPU_ADVICE = {
    GpuState.ABSENT: "install the NVIDIA driver, or run the container with --gpus; workers with `on_no_gpu: cpu` run",
    GpuState.NOT_LOADED: "`modprobe nvidia`, or look into `dmesg` for why the module does not load",
    GpuState.NO_PERMISSION: "join the groups of /dev/nvidia* (often video, render)",
    GpuState.MISMATCH: "reboot, or end what uses the GPUs and load the module of the new driver",
    GpuState.UNRESPONSIVE: "look into `dmesg` for Xid; a GPU that hangs needs a reset or a reboot",
    GpuState.ERROR: "look into `dmesg` for NVRM and Xid",
}


HEALTH_ADVICE: dict[Health, tuple[Level, str]] = {
    Health.SUSPECT: ("warning", "only the last choice for who starts; look into `dmesg` for Xid if it comes back"),
    Health.DRAINING: ("problem", "its workers are leaving it: `gpu-supervisor status` says who has not yet"),
    Health.QUARANTINED: (
        "problem",
        "once mended `gpu-supervisor devices release GPU`; to reset it first, the same with `--for-reset`",
    ),
    Health.PROBING: ("warning", "it is looked at once more, and used again if it is well"),
    Health.LOST: ("problem", "look into `dmesg` for NVRM and Xid; it wants a reset, or the machine a reboot"),
    Health.STUCK: ("problem", "a process in the driver cannot be killed: often only a reboot ends it"),
    Health.DIRTY: ("warning", "what of its memory a dead process left is not used; a reset gives it back"),
    Health.HELD: ("note", ""),
}
"""Of devices that are not well: how bad that is, and what a person can do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was looked at.

    Args:
        check: What, in a word or two.
        found: How it is.
        hint: What to do about it, or empty.
    """

    check: str
    level: Level
    found: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """
    One GPU, no MIG instance.

    Args:
        is_cut: MIG is on.
        instances: Its MIG instances.
        persistence, compute: See `host.settings_client`; None where that is not told.
        is_used: Somebody has memory of it.
    """

    index: int
    name: str
    is_cut: bool = False
    instances: int = 0
    persistence: bool | None = None
    compute: int | None = None
    is_used: bool = False


@dataclass(frozen=True, slots=True)
class Sick:
    """
    A device that is not well.

    Args:
        name: To a person, ``GPU 3``.
        health: Anything but ok.
        reason: Why.
    """

    name: str
    health: Health
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What was found on the machine.

    Args:
        gpu_state, gpu_detail: Of the driver.
        driver: Its version, or empty.
        sick: Devices that are not well, as the running daemon says or the last one left word.
        lacks_uvm: The driver is loaded and /dev/nvidia-uvm is not there.
        leaves: Where cgroups may be made, None where they may not.
        leaves_why: On what that rests.
        has_pidfd: The kernel tells of the end of processes by descriptor.
        kernel: Its version.
        descriptors: Soft and hard limit of open files; None = no limit.
        tasks_max: Processes and threads that this cgroup may have; None = no limit.
        unit: Properties of the systemd unit as `systemctl show` prints them; empty where there is none.
        unit_name: Of the unit, or empty.
        problems: Of the service file, whole lines; there are none where it was read.
        faults: What is wrong with files that the daemon obeys, and what to do about it.
        cpus: What `cpu_count` means here.
    """

    gpu_state: GpuState
    gpu_detail: str = ""
    driver: str = ""
    gpus: tuple[GpuFacts, ...] = ()
    sick: tuple[Sick, ...] = ()
    lacks_uvm: bool = False
    leaves: str | None = None
    leaves_why: str = ""
    has_pidfd: bool = True
    kernel: str = ""
    descriptors: tuple[int | None, int | None] = (None, None)
    tasks_max: int | None = None
    unit: Mapping[str, str] = field(default_factory=dict)
    unit_name: str = ""
    problems: tuple[str, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()
    cpus: int = 1


def examine(facts: Facts, spec: Spec | None) -> tuple[Finding, ...]:
    """
    Judge a machine, and a service file on it.

    Args:
        facts: Of the machine.
        spec: Of the file; None looks at the machine alone.

    Returns:
        In a fixed order: GPUs, kernel, limits, unit, file. What is well is a finding too.
    """
    return (
        *_driver(facts),
        *(_sick(device) for device in facts.sick),
        *(finding for gpu in facts.gpus for finding in _gpu(gpu, spec)),
        *_host(facts),
        *_limits(facts, spec),
        *_unit(facts, spec),
        *(_bad_file(lines) for lines in facts.problems),
        *(Finding("files", "problem", what, hint) for what, hint in facts.faults),
        *(finding for name, service in (spec.services if spec else {}).items() for finding in _service(name, service)),
    )


# ---- the machine ----------------------------------------------------------------------------------------------------


def _driver(facts: Facts) -> Iterator[Finding]:
    if facts.gpu_state is GpuState.OK:
        count = len(facts.gpus)
        driver = f", driver {facts.driver}" if facts.driver else ""
        yield Finding("driver", "ok", f"{count} GPU{'' if count == 1 else 's'}{driver}")
    else:
        level: Level = "note" if facts.gpu_state is GpuState.ABSENT else "problem"
        detail = facts.gpu_detail or str(facts.gpu_state)
        yield Finding("driver", level, detail, GPU_ADVICE[facts.gpu_state])
    if facts.lacks_uvm:
        yield Finding(
            "device files",
            "warning",
            "/dev/nvidia-uvm is not there: the first CUDA program makes it, if it may",
            "`nvidia-modprobe -u -c 0` at boot, or nvidia-persistenced",
        )


def _sick(device: Sick) -> Finding:
    level, hint = HEALTH_ADVICE[device.health]
    found = f"{device.health}: {device.reason}" if device.reason else str(device.health)
    return Finding(device.name, level, found, hint)


def _gpu(gpu: GpuFacts, spec: Spec | None) -> Iterator[Finding]:
    check = f"GPU {gpu.index}"
    if gpu.persistence is False and not gpu.is_used:
        yield Finding(
            check,
            "warning",
            "persistence mode is off: with nobody on it the driver unloads it, and each start waits seconds for it",
            "`systemctl enable --now nvidia-persistenced`",
        )
    if gpu.compute == COMPUTE_PROHIBITED:
        hint = f"`nvidia-smi -i {gpu.index} -c DEFAULT`"
        yield Finding(check, "problem", "its compute mode is prohibited: no CUDA program runs on it", hint)
    if gpu.compute == COMPUTE_EXCLUSIVE and spec is not None and _shares(spec):
        yield Finding(
            check,
            "problem",
            f"its compute mode lets one process use it, and {', '.join(_shares(spec))} would share it",
            f"`nvidia-smi -i {gpu.index} -c DEFAULT`",
        )
    if gpu.is_cut and not gpu.instances:
        hint = f"`nvidia-smi mig -i {gpu.index} -cgi ... -C`, or `nvidia-smi -i {gpu.index} -mig 0`"
        yield Finding(check, "warning", "MIG is on and it has no instance: nothing can run on it", hint)


def _shares(spec: Spec) -> list[str]:
    """Services of which several workers may be on one GPU."""
    return [
        name
        for name, service in spec.services.items()
        if isinstance(service.resources.gpu, int) and 0 < service.resources.gpu < 1000
    ]


def _host(facts: Facts) -> Iterator[Finding]:
    if facts.leaves is not None:
        yield Finding("cgroups", "ok", f"each worker gets its own below {facts.leaves} ({facts.leaves_why})")
    else:
        yield Finding(
            "cgroups",
            "note",
            f"workers get none of their own: {facts.leaves_why}; `cpu` and `memory` are not enforced",
            "run it as a unit with Delegate=yes (`make install-systemd`)",
        )
    if facts.has_pidfd:
        yield Finding("kernel", "ok", f"{facts.kernel}, with pidfd")
    else:
        yield Finding("kernel", "problem", f"{facts.kernel} has no pidfd", "Linux 5.4 or newer is needed")


def _limits(facts: Facts, spec: Spec | None) -> Iterator[Finding]:
    workers = _worker_count(facts, spec)
    hard = facts.descriptors[1]
    needed = DESCRIPTORS_OWN + DESCRIPTORS_EACH * workers
    if hard is None or hard >= needed:
        yield Finding("open files", "ok", "no limit" if hard is None else f"up to {hard}")
    else:
        found = f"at most {hard}, and {workers} workers need up to {needed}"
        yield Finding("open files", "problem", found, f"LimitNOFILE={needed} in the unit, or `ulimit -Hn {needed}`")
    if facts.tasks_max is None or facts.tasks_max >= TASKS_EACH * max(1, workers):
        yield Finding("threads", "ok", "no limit" if facts.tasks_max is None else f"up to {facts.tasks_max}")
    else:
        found = f"at most {facts.tasks_max} for all {workers} workers; a model server has hundreds"
        yield Finding("threads", "warning", found, "TasksMax=infinity in the unit, or --pids-limit of the container")


def _worker_count(facts: Facts, spec: Spec | None) -> int:
    if spec is None:
        return 1
    return sum(len(service.entries(facts.cpus)) for service in spec.services.values())


# ---- the unit -------------------------------------------------------------------------------------------------------


def _unit(facts: Facts, spec: Spec | None) -> Iterator[Finding]:
    unit, check = facts.unit, f"unit {facts.unit_name}"
    if not unit:
        return
    findings = [*_unit_end(unit, check, spec), *_unit_sandbox(unit, check)]
    yield from findings or [Finding(check, "ok", "lets the daemon do its work")]


def _unit_end(unit: Mapping[str, str], check: str, spec: Spec | None) -> Iterator[Finding]:
    if unit.get("KillMode") not in {"mixed", None}:
        yield Finding(
            check,
            "warning",
            f"KillMode={unit['KillMode']}: a stop does not go through the daemon, which ends workers as the file says",
            "KillMode=mixed",
        )
    graces = [service.stop.timeout_s for service in spec.services.values()] if spec else []
    patience_s = _seconds(unit.get("TimeoutStopUSec", "infinity"))
    needed_s = max(graces, default=0.0) + STOP_MARGIN_S
    # A unit of this type is asked for more time by the daemon itself.
    if unit.get("Type") not in {"notify", "notify-reload"} and patience_s is not None and patience_s < needed_s:
        yield Finding(
            check,
            "problem",
            f"is killed {patience_s:g} s after it was asked to stop; its workers may take {needed_s:g} s",
            f"Type=notify, or TimeoutStopSec={needed_s:.0f}",
        )
    if unit.get("Delegate") == "no":
        yield Finding(check, "note", "Delegate=no: workers get no cgroups of their own", "Delegate=yes")


SANDBOX = {
    "PrivateDevices": "hides /dev/nvidia* from the workers",
    "MemoryDenyWriteExecute": "forbids what CUDA, torch.compile and Triton do: to write code and run it",
    "PrivateNetwork": "leaves the workers without a network",
}


def _unit_sandbox(unit: Mapping[str, str], check: str) -> Iterator[Finding]:
    for key, why in SANDBOX.items():
        if unit.get(key) == "yes":
            yield Finding(check, "problem", f"{key}=yes {why}", f"{key}=no")


def _seconds(text: str) -> float | None:
    """Of a span as `systemctl show` prints it, ``1min 30s``; None for no limit or what is no span."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
    total = 0.0
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = part[len(number) :]
        if unit not in units or not number.replace(".", "", 1).isdecimal():
            return None
        total += float(number) * units[unit]
    return total


# ---- the file -------------------------------------------------------------------------------------------------------


def _bad_file(lines: str) -> Finding:
    """A problem of the file, which may bring a hint of its own in a second line."""
    found, _, hint = lines.partition("\n")
    return Finding("file", "problem", found, hint.strip().removeprefix("hint: "))


def _service(name: str, service: ServiceSpec) -> Iterator[Finding]:
    check = f"service {name}"
    client = PurePosixPath(service.command[0]).name
    if client in CONTAINER_CLIENTS and "run" in service.command:
        yield from _container(check, client, service)
    yield from _restart(check, service.restart)


def _container(check: str, client: str, service: ServiceSpec) -> Iterator[Finding]:
    if DETACHED & set(service.command):
        found = f"`{client} run` with -d returns at once: the worker would count as ended while its container runs"
        yield Finding(check, "problem", found, "leave -d out")
    elif client != "podman":
        found = f"the container is no child of `{client} run`: killing the client leaves it, with its GPU memory"
        yield Finding(check, "warning", found, "run the program itself, or `podman run --cgroups=split`")
    if service.resources.gpu and not any("WORKER_GPU" in word for word in service.command):
        found = f"`{client}` does not see the worker's CUDA_VISIBLE_DEVICES: the container gets what its options say"
        yield Finding(check, "warning", found, '--gpus "device=$(WORKER_GPU_UUIDS)", or --device nvidia.com/gpu=UUID')


def _restart(check: str, restart: Restart) -> Iterator[Finding]:
    """Settings that can never come to bear."""
    if restart.policy == "never":
        plain = type(restart)(policy="never")
        idle = [
            key
            for key in ("delay_s", "max_delay_s", "start_limit", "limit", "parole_s")
            if getattr(restart, key) != getattr(plain, key)
        ]
        if idle:
            keys = ", ".join(key.removesuffix("_s") for key in idle)
            yield Finding(check, "warning", f"`restart: {keys}` is never asked with `policy: never`", "leave it out")
    elif 0 < restart.limit < restart.start_limit:
        found = f"`start_limit: {restart.start_limit}` is never reached: `limit: {restart.limit}` counts those too"
        yield Finding(check, "warning", found, "a `start_limit` below `limit`, or a larger `limit`")
