"""What a worker finds in its environment; CONTRACT section 2. Computed at every spawn from the newest inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from supervisor.core.file.names import ACCOUNT_NAMES, TABLE_NAMES, expand_names, is_inherited, names_in
from supervisor.core.spec import amount_bytes

if TYPE_CHECKING:
    from supervisor.core.inventory import Device
    from supervisor.core.plan import Launch
    from supervisor.core.spec import WorkerId

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Host:
    """
    Facts of the machine and of the daemon's own start that do not change while it runs.

    Args:
        environ: The daemon's environment.
        vendors: Other GPU vendors whose stack is installed: ``amd``.
        inherited: What of the environment a worker finds.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    vendors: frozenset[str] = frozenset()
    inherited: Mapping[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        inherited = {name: value for name, value in self.environ.items() if is_inherited(name)}
        object.__setattr__(self, "inherited", MappingProxyType(inherited))


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
    account = {name: late(name) for name in ACCOUNT_NAMES if launch.recipe.setup.user is not None}
    table = {**_gpu_row(launch, moment, host), **_worker_rows(launch, moment), **_port_row(launch)}
    names = _resolve(dict(launch.recipe.env), {"PYTHONUNBUFFERED": "1", **host.inherited, **account, **table})
    return Rendered(
        argv=tuple(expand_names(word, names) for word in launch.recipe.command),
        env=names,
        working_dir=expand_names(launch.recipe.working_dir, names),
    )


def late(name: str) -> str:
    """What stands for a variable of ACCOUNT_NAMES until `fill`: no text of a file has a NUL."""
    return f"\0{name}\0"


def fill(rendered: Rendered, account: Mapping[str, str]) -> Rendered:
    """Put in the variables of ACCOUNT_NAMES, which only the user database knows."""

    def filled(text: str) -> str:
        if "\0" in text:
            for name in ACCOUNT_NAMES:
                text = text.replace(late(name), account.get(name, ""))
        return text

    return Rendered(
        argv=tuple(map(filled, rendered.argv)),
        env={name: filled(value) for name, value in rendered.env.items()},
        working_dir=filled(rendered.working_dir),
    )


def device_env(env: Mapping[str, str]) -> dict[str, str]:
    """The part of a worker's environment that may be shown: the contract's table, without anybody's secrets."""
    return {name: env[name] for name in sorted(env) if name in TABLE_NAMES or name == "CUDA_DEVICE_ORDER"}


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
    open_ones = set(own)
    for first in own:
        # A walk with a stack of its own: a chain of thousands must not exhaust Python's.
        way = [first] if first in open_ones else []
        open_ones.discard(first)
        while way:
            name = way[-1]
            inner = [one for one in names_in(own[name]) if one in open_ones]
            if inner:
                way.append(inner[0])
                open_ones.discard(inner[0])
            else:
                done[name] = expand_names(own[name], done)
                way.pop()
    return done
