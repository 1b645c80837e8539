"""What a worker finds in its environment; CONTRACT section 2. Computed at every spawn from the newest inventory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from supervisor.core.file.names import (
    ACCOUNT_NAMES,
    TABLE_NAMES,
    THREAD_NAMES,
    expand_names,
    is_inherited,
    names_in,
)
from supervisor.core.file.quantities import MIB
from supervisor.core.message import Site
from supervisor.core.spec import amount_bytes

if TYPE_CHECKING:
    from supervisor.core.inventory import Device
    from supervisor.core.plan import Launch, Share
    from supervisor.core.spec import WorkerId


MASTER_PORT = "MASTER_PORT"
NOTIFY_SOCKET = "NOTIFY_SOCKET"

HIDDEN = {
    "amd": ("HIP_VISIBLE_DEVICES", "-1"),
    # An empty ZE_AFFINITY_MASK would mean every GPU; this leaves whatever backend there is its CPU.
    "intel": ("ONEAPI_DEVICE_SELECTOR", "*:cpu"),
}
"""Other vendors, and the variable and value by which a program sees none of their GPUs."""


@dataclass(frozen=True, slots=True)
class Host:
    """
    Facts of the machine and of the daemon's own start that do not change while it runs.

    Args:
        environ: The daemon's environment.
        vendors: Other GPU vendors whose stack is installed: ``amd``, ``intel``.
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
        notify: It speaks for itself.
        watchdog_s: Within how many seconds it has to give a sign of life, None = it has not.
    """

    worker: WorkerId
    count: int
    restarts: int
    incarnation: int
    devices: Mapping[str, Device]
    notify: bool = False
    watchdog_s: float | None = None


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
    named = {**_worker_rows(launch, moment), **_port_rows(launch, host), **_notify_rows(moment)}
    named |= _listen_rows(launch)
    table = {**_gpu_row(launch, moment, host), **named}
    # The file's own `cpu` says more of this worker than what the daemon happens to have of threads.
    base = {"PYTHONUNBUFFERED": "1", **host.inherited, **account, **_thread_rows(launch), **table}
    names = _resolve(dict(launch.recipe.env), base)
    return Rendered(
        argv=tuple(expand_names(word, names) for word in launch.recipe.command),
        env=names,
        working_dir=expand_names(launch.recipe.working_dir, names),
    )


def one_device(host: Host, uuid: str) -> dict[str, str]:
    """
    What a command finds that is no worker and is to see one device.

    Args:
        host: The daemon's surroundings; no more of them than a worker would find.
        uuid: Of the device.
    """
    devices = {"CUDA_VISIBLE_DEVICES": uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {"PYTHONUNBUFFERED": "1", **host.inherited, **devices}


def sites(launch: Launch, moment: Moment) -> tuple[Site, ...]:
    """Where the devices are that a process is to run beside; none where the file does not ask for that."""
    if not launch.recipe.near:
        return ()
    devices = (_device(moment, share) for share in launch.slice)
    # An instance of MIG is where its GPU is.
    hosts = (moment.devices.get(one.parent, one) if one.parent else one for one in devices)
    return tuple(dict.fromkeys(Site(one.pci, one.numa) for one in hosts))


def late(name: str) -> str:
    """What stands for a variable of file.names.LATE_NAMES until `fill`: no text of a file has a NUL."""
    return f"\0{name}\0"


def fill(rendered: Rendered, values: Mapping[str, str], names: Collection[str] = ACCOUNT_NAMES) -> Rendered:
    """
    Put in what is known only where the process is started.

    Args:
        rendered: With `late` texts in it.
        values: What the user database says, or the port that was found free.
        names: Those of file.names.LATE_NAMES that are put in now; one without a value is empty.
    """

    def filled(text: str) -> str:
        if "\0" in text:
            for name in names:
                text = text.replace(late(name), values.get(name, ""))
        return text

    return Rendered(
        argv=tuple(map(filled, rendered.argv)),
        env={name: filled(value) for name, value in rendered.env.items()},
        working_dir=filled(rendered.working_dir),
    )


def lacks_port(env: Mapping[str, str]) -> bool:
    """Whether a `MASTER_PORT` is still to be found for this environment."""
    return lacks(MASTER_PORT, env)


def lacks(name: str, env: Mapping[str, str]) -> bool:
    """Whether a variable of file.names.LATE_NAMES is still to be filled in for this environment."""
    missing = late(name)
    return any(missing in text for text in env.values())


def device_env(env: Mapping[str, str]) -> dict[str, str]:
    """The part of a worker's environment that may be shown: the contract's table, without anybody's secrets."""
    return {name: env[name] for name in sorted(env) if name in TABLE_NAMES or name == "CUDA_DEVICE_ORDER"}


def _gpu_row(launch: Launch, moment: Moment, host: Host) -> dict[str, str]:
    if launch.slice:
        # Integers are what most programs can read; they are right only in PCI order. Beside UUIDs the order stands for
        # whatever the program starts and gives integers of its own.
        names = _uuids(launch) if _is_by_uuid(launch, moment) else _indices(launch, moment)
        return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    # Left out, a program would see every GPU.
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"}
    return hidden | dict(HIDDEN[vendor] for vendor in sorted(host.vendors) if vendor in HIDDEN)


def _is_by_uuid(launch: Launch, moment: Moment) -> bool:
    """An instance of MIG has no index of its own: `pin: index` cannot have its way there."""
    return launch.recipe.pin == "uuid" or any(_device(moment, share).parent is not None for share in launch.slice)


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
        "WORKER_GPU_UUIDS": ",".join(_uuids(launch)),
        # The same of each of its devices: a number, so that a program may calculate with it.
        "WORKER_GPU_SHARE": f"{min((share.millis for share in launch.slice), default=0) / 1000:g}",
    }
    memory = launch.recipe.gpu_memory
    if memory is not None and launch.slice:
        # What it may count on on each of them; parts of unlike devices differ.
        totals = [_device(moment, share).memory_total_bytes for share in launch.slice]
        known = [total for total in totals if total is not None]
        if known or isinstance(memory, int):
            rows["WORKER_GPU_MEMORY_MIB"] = str(amount_bytes(memory, min(known, default=0)) // MIB)
    return rows


def _port_rows(launch: Launch, host: Host) -> dict[str, str]:
    recipe = launch.recipe
    rows = {} if recipe.port is None else {"PORT": str(recipe.port)}
    # Two workers with several GPUs each would else meet at the one port that their framework has for everybody. Who
    # names it gets one in any case: `gpu: all` may be one, and a fallback none.
    texts = (*recipe.command, *(value for _, value in recipe.env), recipe.working_dir)
    is_named = MASTER_PORT not in host.inherited and any(f"({MASTER_PORT})" in text for text in texts)
    return rows | ({MASTER_PORT: late(MASTER_PORT)} if is_named or len(launch.slice) > 1 else {})


def _notify_rows(moment: Moment) -> dict[str, str]:
    if not moment.notify:
        return {}
    watchdog = {} if moment.watchdog_s is None else {"WATCHDOG_USEC": str(round(moment.watchdog_s * 1e6))}
    return {NOTIFY_SOCKET: late(NOTIFY_SOCKET), **watchdog}


def _listen_rows(launch: Launch) -> dict[str, str]:
    """`LISTEN_PID` is its own doing: nobody knows it before."""
    sockets = launch.recipe.listen
    if not sockets:
        return {}
    return {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(socket.name for socket in sockets)}


def _thread_rows(launch: Launch) -> dict[str, str]:
    cpu = launch.recipe.cpu
    return {} if cpu is None else dict.fromkeys(THREAD_NAMES, str(-(-cpu // 1000)))


def _indices(launch: Launch, moment: Moment) -> list[str]:
    return [str(_device(moment, share).index) for share in launch.slice]


def _uuids(launch: Launch) -> list[str]:
    return [share.uuid for share in launch.slice]


def _device(moment: Moment, share: Share) -> Device:
    return moment.devices[share.uuid]


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
