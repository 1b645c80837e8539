"""What a worker finds in its environment; CONTRACT section 2. Computed at every spawn from the newest inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.core.names import expand_names
from supervisor.core.spec import amount_bytes

if TYPE_CHECKING:
    from supervisor.core.inventory import Device
    from supervisor.core.plan import Launch
    from supervisor.core.spec import WorkerId

# Words to the daemon itself, or of the launcher that started it: wrong for every worker.
NOT_INHERITED = frozenset(
    {
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LOCAL_RANK",
        "NOTIFY_SOCKET",
        "RANK",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "WORLD_SIZE",
    }
)

# One variable decides which GPUs a process sees. ROCm applies two of them one after the other, and a container
# runtime's NVIDIA_VISIBLE_DEVICES means nothing inside, so everything that is not set here is removed.
VISIBILITY = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "GPU_DEVICE_ORDINAL",
        "HIP_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ONEAPI_DEVICE_SELECTOR",
        "ROCR_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
    }
)

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Host:
    """
    Facts of the machine and of the daemon's own start that do not change while it runs.

    Args:
        environ: The daemon's environment.
        vendors: Other GPU vendors whose stack is installed: ``amd``.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    vendors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Moment:
    """
    Values of the moment of a start; never a reason to start again.

    Args:
        worker: Which worker.
        count: How many its service has.
        restarts: Starts of this index after its first, this one included.
        incarnation: Number of the process.
        devices: The newest inventory by UUID.
    """

    worker: WorkerId
    count: int
    restarts: int
    incarnation: int
    devices: Mapping[str, Device]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A launch with every value of the moment filled in."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str


def render(launch: Launch, moment: Moment, host: Host) -> Rendered:
    """
    Environment, command and directory of one process.

    Args:
        launch: What it is a process of.
        moment: Everything about it that may differ at the next start.
        host: The daemon's surroundings.
    """
    inherited = {
        name: value for name, value in host.environ.items() if name not in NOT_INHERITED and name not in VISIBILITY
    }
    table = {**_gpu_row(launch, moment, host), **_worker_rows(launch, moment), **_port_row(launch)}
    names = _resolve(dict(launch.recipe.env), {"PYTHONUNBUFFERED": "1", **inherited, **table})
    return Rendered(
        argv=tuple(expand_names(word, names) for word in launch.recipe.command),
        env=names,
        working_dir=expand_names(launch.recipe.working_dir, names),
    )


def device_env(env: Mapping[str, str]) -> dict[str, str]:
    """The part of a worker's environment that may be shown: the contract's table, without anybody's secrets."""
    shown = VISIBILITY | {"PORT", "SERVICE_NAME", "PYTHONUNBUFFERED"}
    return {name: env[name] for name in sorted(env) if name in shown or name.split("_")[0] == "WORKER"}


def _gpu_row(launch: Launch, moment: Moment, host: Host) -> dict[str, str]:
    if launch.slice:
        # Integers are what most programs can read; they are right only in PCI order.
        return {"CUDA_VISIBLE_DEVICES": ",".join(_indices(launch, moment)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    # Left out, a program would see every GPU.
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"}
    if "amd" in host.vendors:
        hidden["HIP_VISIBLE_DEVICES"] = "-1"
    return hidden


def _worker_rows(launch: Launch, moment: Moment) -> dict[str, str]:
    worker = moment.worker
    rows = {
        "WORKER": str(worker),
        "SERVICE_NAME": worker.service,
        "WORKER_INDEX": str(worker.index),
        "WORKER_NUMBER": str(worker.index + 1),
        "WORKER_COUNT": str(moment.count),
        "WORKER_RESTARTS": str(moment.restarts),
        "WORKER_INCARNATION": str(moment.incarnation),
        "WORKER_GPU_COUNT": str(len(launch.slice)),
        "WORKER_GPU_INDICES": ",".join(_indices(launch, moment)),
        "WORKER_GPU_UUIDS": ",".join(share.uuid for share in launch.slice),
        "WORKER_GPU_SHARE": ",".join(f"{share.millis / 1000:g}" for share in launch.slice[:1]),
    }
    memory = launch.recipe.gpu_memory
    if memory is not None and launch.slice:
        totals = [moment.devices[share.uuid].memory_total_bytes for share in launch.slice]
        known = [total for total in totals if total is not None]
        if known or isinstance(memory, int):
            rows["WORKER_GPU_MEMORY_MIB"] = str(amount_bytes(memory, min(known, default=0)) // MIB)
    return rows


def _port_row(launch: Launch) -> dict[str, str]:
    return {} if launch.recipe.port is None else {"PORT": str(launch.recipe.port)}


def _indices(launch: Launch, moment: Moment) -> list[str]:
    return [str(moment.devices[share.uuid].index) for share in launch.slice]


def _resolve(own: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """
    The file's variables over *base*, each ``$(NAME)`` in them replaced.

    A variable may name another of the file. One that names itself, also in a round, finds what *base* has there,
    so that ``PATH: /opt/bin:$(PATH)`` means what it says.
    """
    done = dict(base)
    resolving: set[str] = set()
    finished: set[str] = set()

    def resolve(name: str) -> None:
        resolving.add(name)
        for other in own:
            if other not in finished and other not in resolving and f"$({other})" in own[name]:
                resolve(other)
        resolving.discard(name)
        finished.add(name)
        done[name] = expand_names(own[name], done)

    for name in own:
        if name not in finished:
            resolve(name)
    return done
