"""
The language of the core: what happens (events), what is to be done (actions), what changed (transitions).

Events are past participles, actions are imperatives. All of them are values; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from supervisor.core.file.service import INHERIT, Alive, Logs
from supervisor.core.file.setup import NO_SETUP, Setup

if TYPE_CHECKING:
    from supervisor.core.file.listen import Address
    from supervisor.core.inventory import Reading
    from supervisor.core.plan import Launch
    from supervisor.core.spec import Spec, WorkerId

Incarnation = int
"""Number of one process, unique over the whole fleet and never reused: a late word of a dead one is known as such."""


class State(StrEnum):
    """Observed state of a worker; CONTRACT section 4."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    STOPPING = "stopping"
    KILLING = "killing"
    RELEASING = "releasing"
    BACKOFF = "backoff"
    EXITED = "exited"
    FAILED = "failed"
    STOPPED = "stopped"


class Cause(StrEnum):
    """Why a worker's process ended; CONTRACT section 4."""

    EXIT = "exit"
    SIGNAL = "signal"
    SPAWN = "spawn"
    START_TIMEOUT = "start_timeout"
    LIVENESS = "liveness"
    WATCHDOG = "watchdog"
    OPERATOR = "operator"
    RECYCLE = "recycle"
    ROLLOUT = "rollout"
    LOST = "lost"
    DEVICE = "device"
    HOST_OOM = "host_oom"
    CUDA_OOM = "cuda_oom"


# ---- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned:
    """The worker's main process runs its program."""

    worker: WorkerId
    incarnation: Incarnation
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """
    No process came of a Spawn.

    Args:
        errno: Of the call that failed; 0 when there was no shim to ask.
        detail: In words, with the thing it happened to: ``command not found: vllm``.
    """

    worker: WorkerId
    incarnation: Incarnation
    errno: int
    detail: str


@dataclass(frozen=True, slots=True)
class BecameReady:
    """A readiness probe succeeded."""

    worker: WorkerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class BecameUnready:
    """Readiness probes failed after they had succeeded; or, in one that never was ready, what they found changed."""

    worker: WorkerId
    incarnation: Incarnation
    detail: str


@dataclass(frozen=True, slots=True)
class LivenessLost:
    """
    A worker that was ready does not answer any more: so many probes in a row have failed.

    Args:
        is_watchdog: It was to give signs of life by itself.
    """

    worker: WorkerId
    incarnation: Incarnation
    detail: str
    is_watchdog: bool = False


@dataclass(frozen=True, slots=True)
class ProgressTold:
    """The worker says in words how it is, or nothing any more."""

    worker: WorkerId
    incarnation: Incarnation
    text: str


@dataclass(frozen=True, slots=True)
class StartExtended:
    """The worker says that it needs so many more seconds from now until it is ready."""

    worker: WorkerId
    incarnation: Incarnation
    seconds: float


@dataclass(frozen=True, slots=True)
class Exited:
    """
    The main process ended and was reaped.

    Args:
        code: Exit status 0..255, None when a signal ended it.
        signal: Number of the signal that ended it, None when it exited.
        core_dumped: Whether it left a core.
        alone: True when nothing else of its tree lives; then no TreeGone follows.
        out_of_memory: The kernel killed something of its tree for want of memory; False also where that is not known.
        tail: The last lines of its output, oldest first.
    """

    worker: WorkerId
    incarnation: Incarnation
    code: int | None
    signal: int | None
    core_dumped: bool = False
    alone: bool = False
    tail: tuple[str, ...] = ()
    out_of_memory: bool = False
    device_fault: str = ""
    xids: str = ""


@dataclass(frozen=True, slots=True)
class TreeGone:
    """Everything that the worker's process started is dead and reaped; follows an Exited that was not alone."""

    worker: WorkerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class ShimLost:
    """The parent of the worker's process is no more, so its exit cannot be learnt; a TreeGone follows."""

    worker: WorkerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class StopCommandEnded:
    """What came of a RunStopCommand; *fault* says in words what went wrong, and is empty where nothing did."""

    worker: WorkerId
    incarnation: Incarnation
    fault: str


@dataclass(frozen=True, slots=True)
class TreeExamined:
    """What came of an ExamineTree: who still lives and where it hangs, in words; empty where nobody was seen."""

    worker: WorkerId
    incarnation: Incarnation
    detail: str


@dataclass(frozen=True, slots=True)
class SpecLoaded:
    """The service file was read and is good; *cpu_count* is what `workers: cpu_count` means on this machine now."""

    spec: Spec
    cpu_count: int = 1


@dataclass(frozen=True, slots=True)
class SpecRejected:
    """The service file could not be read or is bad; *problems* are whole lines for a person."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InventoryRead:
    """The driver was asked for its devices at *asked_at* (monotonic seconds), and this is what came of it."""

    reading: Reading
    asked_at: float


@dataclass(frozen=True, slots=True)
class HostRead:
    """The host's memory at this moment: what more may be used without swapping, and all there is."""

    available_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class UsageRead:
    """
    What was measured of workers that the file has recycled by it; comes every `daemon.poll`.

    Args:
        host_bytes: Worker -> its incarnation, and what its whole tree has of the host's memory.
        reads_devices: It is time to ask the driver too.
    """

    host_bytes: Mapping[WorkerId, tuple[Incarnation, int]] = field(default_factory=dict)
    reads_devices: bool = False


@dataclass(frozen=True, slots=True)
class DeviceEventTold:
    """
    The driver tells of something that has happened to a GPU.

    Args:
        uuid: Of the GPU, also where it is cut up; empty where the driver does not tell of which.
        kind: Bit of NVML's event types; 8 for an XID.
        number: Of the XID; 999 where the driver does not know it itself.
        instance: Numbers of the MIG instance that it is about, GPU instance and compute instance; None for all of it.
    """

    uuid: str
    kind: int
    number: int = 0
    instance: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class CanaryFinished:
    """
    What came of a RunCanary.

    Args:
        fault: What went wrong, in words; empty where nothing did.
        is_unable: It could not even be run.
    """

    uuid: str
    fault: str = ""
    is_unable: bool = False


@dataclass(frozen=True, slots=True)
class QuarantineRequested:
    """
    An operator takes GPUs out of use until they are released.

    Args:
        for_reset: Nothing of ours, the prober included, is to have them open.
        reason: In the operator's words; may be empty.
    """

    uuids: tuple[str, ...]
    for_reset: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """An operator wants GPUs looked at and used again."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DevicesClaimed:
    """
    What came of a Claim.

    Args:
        claimed: UUIDs that are ours now.
        held: UUID -> who has it, in words.
    """

    claimed: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DevicesFreed:
    """Another daemon, of which DevicesClaimed told, has let these devices go."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SocketsBound:
    """
    What came of a Bind.

    Args:
        bound: Where we listen now.
        refused: Address -> why we cannot, in words.
    """

    bound: tuple[Address, ...] = ()
    refused: Mapping[Address, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """Somebody wants the file and the devices read again."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """An operator wants these workers held down, and every worker of these services, those to come too."""

    workers: tuple[WorkerId, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StartRequested:
    """An operator wants these workers, and every worker of these services, up and with clean counts."""

    workers: tuple[WorkerId, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartRequested:
    """An operator wants these workers, and every worker of these services, replaced by new processes, in turn."""

    workers: tuple[WorkerId, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """An operator wants these services to have so many workers until the next reload."""

    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """The daemon is to end; asked a second time it SIGKILLs what is left."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """The daemon has not run for so many seconds: it was stopped or frozen, maybe together with its workers."""

    lost_s: float


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Deadlines have come: those of the *workers* named, and the fleet's own if it is due."""

    workers: tuple[WorkerId, ...] = ()


Event = (
    Spawned
    | SpawnFailed
    | BecameReady
    | BecameUnready
    | LivenessLost
    | ProgressTold
    | StartExtended
    | Exited
    | TreeGone
    | ShimLost
    | StopCommandEnded
    | TreeExamined
    | SpecLoaded
    | SpecRejected
    | InventoryRead
    | HostRead
    | UsageRead
    | DeviceEventTold
    | CanaryFinished
    | QuarantineRequested
    | ReleaseRequested
    | DevicesClaimed
    | DevicesFreed
    | SocketsBound
    | Stalled
    | ReloadRequested
    | StopRequested
    | StartRequested
    | RestartRequested
    | ScaleRequested
    | ShutdownRequested
    | TimePassed
)


# ---- actions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """Where in the machine a device is: PCI address as sysfs writes it, NUMA node, None if unknown."""

    pci: str
    numa: int | None


@dataclass(frozen=True, slots=True)
class Spawn:
    """
    Start a process.

    Args:
        launch: What it is a process of. A shim serves one launch: another launch gets a new shim.
        argv: Command and arguments, every ``$(NAME)`` replaced.
        env: Its whole environment.
        working_dir: Absolute.
        logs: Where its output goes.
        setup: Whose it is, its limits, and so on.
        near: The devices beside whose CPUs it is to run; empty for any CPU.
    """

    worker: WorkerId
    incarnation: Incarnation
    launch: Launch
    argv: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    working_dir: str
    logs: Logs = INHERIT
    setup: Setup = NO_SETUP
    near: tuple[Site, ...] = ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """The output of a living process goes elsewhere from now on."""

    worker: WorkerId
    incarnation: Incarnation
    logs: Logs


@dataclass(frozen=True, slots=True)
class Signal:
    """
    Send a signal, and SIGCONT after it: one that is stopped would not take it.

    Args:
        scope: The main process; its process group; everything else that lives of its tree; or of that what does not
            belong to the group.
    """

    worker: WorkerId
    incarnation: Incarnation
    signal: int
    scope: Literal["main", "group", "rest", "outside"]


@dataclass(frozen=True, slots=True)
class RunStopCommand:
    """
    Run the command that is to precede the signal, as the worker is run; StopCommandEnded comes back.

    Args:
        pid: Of the worker's main process; the command finds it as MAINPID.
        argv: ``$(NAME)`` not yet replaced.
    """

    worker: WorkerId
    incarnation: Incarnation
    pid: int
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndStopCommand:
    """Kill a stop command and whatever it started; nothing comes back any more."""

    worker: WorkerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class KillTree:
    """SIGKILL the main process and everything it started, until nothing is left."""

    worker: WorkerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class ExamineTree:
    """See who still lives of a worker and where it hangs; TreeExamined comes back."""

    worker: WorkerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Dismiss:
    """The index is gone: its shim, which has no process, is not needed any more."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Probe:
    """
    Ask from now on whether the worker is ready, until its process ends or Dismiss.

    Args:
        port: TCP port on loopback, its own; None = it has none and is asked otherwise.
        interval_s: Between two attempts while it is not ready.
        kind: How it is asked; see Ready.
        http, exec: See Ready; ``$(NAME)`` not yet replaced.
    """

    worker: WorkerId
    incarnation: Incarnation
    port: int | None
    interval_s: float
    kind: Literal["http", "tcp", "exec", "notify"] = "tcp"
    http: str = ""
    exec: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeAlive:
    """Ask from now on whether the worker lives on, beside any Probe, until its process ends or Dismiss."""

    worker: WorkerId
    incarnation: Incarnation
    port: int | None
    alive: Alive


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """Read the service file; SpecLoaded or SpecRejected comes back."""


@dataclass(frozen=True, slots=True)
class ReadInventory:
    """Ask the driver; InventoryRead comes back. *fresh*: through a new prober, since NVML attaches at its start."""

    fresh: bool = False


@dataclass(frozen=True, slots=True)
class RunCanary:
    """Run a command that sees this device alone; CanaryFinished comes back, in time whatever it does."""

    uuid: str
    argv: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ReadHost:
    """See what memory the host has left; HostRead comes back at once."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim devices machine-wide, by UUID; DevicesClaimed comes back."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LetGo:
    """Let others have devices that were claimed."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """Listen at addresses at which we do not yet; SocketsBound comes back."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Unbind:
    """Listen there no more: no worker has these sockets."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the world of a transition."""

    transition: Transition


@dataclass(frozen=True, slots=True)
class Say:
    """
    Write a log line about something that is no transition.

    Args:
        event: Name of the log event, ``noun.participle``.
        fields: Its values.
        is_warning: Whether a person should look at it.
    """

    event: str
    fields: Mapping[str, object]
    is_warning: bool = True


@dataclass(frozen=True, slots=True)
class FinishReload:
    """
    Answer everybody who waits for a reload.

    Args:
        ok: Whether the file was taken.
        problems: Why not, whole lines for a person.
        difference: What is done about each worker that is touched: ``start replace stop wait``.
        is_late: The daemon stops: the file has nothing to do with it.
        changed: Keys that say something else than before, of services only those of which no worker is touched.
    """

    ok: bool
    problems: tuple[str, ...] = ()
    difference: Mapping[WorkerId, str] | None = None
    is_late: bool = False
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """End the daemon with this status; *stuck* names workers of which something still lives."""

    status: int
    stuck: tuple[WorkerId, ...] = ()


Action = (
    Spawn
    | Redirect
    | Signal
    | RunStopCommand
    | EndStopCommand
    | KillTree
    | ExamineTree
    | Dismiss
    | Probe
    | ProbeAlive
    | ReadSpec
    | ReadInventory
    | ReadHost
    | RunCanary
    | Claim
    | LetGo
    | Bind
    | Unbind
    | Report
    | Say
    | FinishReload
    | Exit
)


# ---- what changed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """
    How a worker's last process ended.

    Args:
        code: Exit status, None when a signal ended it or it never ran.
        signal: Name of the signal, ``SIGKILL``; None when it exited.
        cause: The classified reason.
        detail: In words, or empty.
        at: Monotonic seconds.
        tail: Last lines of its output, oldest first.
        core_dumped: Whether it left a core.
    """

    code: int | None
    signal: str | None
    cause: Cause
    detail: str
    at: float
    tail: tuple[str, ...] = ()
    core_dumped: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """
    One step of one worker: the one source of log line, metric, event feed and story.

    Args:
        before: State it left, None for a worker that is new.
        after: State it is in, None for a worker that is forgotten.
        cause: The event or exit cause behind it.
        at: Monotonic seconds.
        fields: More for the log line: exit_code, signal, uptime_s, retry_in_s, devices, pid.
    """

    worker: WorkerId
    incarnation: Incarnation
    before: State | None
    after: State | None
    cause: str
    at: float
    reason: str
    fields: Mapping[str, object]
