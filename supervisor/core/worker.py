"""
One worker: what is known of it, and what its fleet may say to it. Values only.

What happens to it at each event stands in `table`, what each cell of that table does in `cells`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.core.evolve import evolve
from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Cause,
    Exited,
    ExitRecord,
    Incarnation,
    LivenessLost,
    ProgressTold,
    ShimLost,
    Spawned,
    SpawnFailed,
    StartExtended,
    State,
    StopCommandEnded,
    TreeExamined,
    TreeGone,
)
from supervisor.core.release import Proof
from supervisor.core.restart import NO_FAILURES, History, Verdict

if TYPE_CHECKING:
    from supervisor.core.plan import Placement, Slice
    from supervisor.core.spec import Policy, Restart, WorkerId

RUNNING = frozenset({State.STARTING, State.READY, State.UNREADY})
"""States in which its process is meant to go on."""

LIVING = RUNNING | {State.STOPPING, State.KILLING}
"""States in which something of the worker's tree may live."""

HOLDING = LIVING | {State.RELEASING}
"""States in which the worker occupies its slice."""

FREED = frozenset({State.EXITED, State.FAILED, State.STOPPED})
"""States in which no slice is kept for the worker."""


# ---- what the fleet says to a worker --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may start now, as this incarnation."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class MemoryBack:
    """
    What its dead process held on its GPUs is free again, as far as *proof* goes; or nobody waits for it any more.

    Args:
        proof: The weakest of its devices.
        is_dirty: It is not back, and has been waited for long enough.
    """

    proof: Proof = Proof.NOTHING
    is_dirty: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """How long the memory of a worker's last process took to come back, and on whose word it is."""

    took_s: float
    proof: Proof
    is_dirty: bool = False


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """Its deadline has come."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The plan has this for it."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The plan has no such worker any more."""


@dataclass(frozen=True, slots=True)
class Relaunched:
    """Its turn has come to give way to its new launch."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """An operator holds it down."""


@dataclass(frozen=True, slots=True)
class StartAsked:
    """An operator wants it up, with clean counts."""


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """An operator wants another process in place of the one that it has."""


@dataclass(frozen=True, slots=True)
class Overdrawn:
    """It has had more of a GPU than it has declared, for too long."""


@dataclass(frozen=True, slots=True)
class KillAsked:
    """The daemon has no more patience."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """A device of it is sick: it is to come back elsewhere. *kill*: without being asked to end."""

    reason: str
    kill: bool = False


Word = BecameReady | BecameUnready | LivenessLost | ProgressTold | StartExtended
"""What a process says, or its probes do."""

ProcessEvent = Spawned | SpawnFailed | Word | Exited | TreeGone | ShimLost | StopCommandEnded | TreeExamined
FleetEvent = (
    Admitted
    | MemoryBack
    | DeadlinePassed
    | Wanted
    | Unwanted
    | Relaunched
    | StopAsked
    | StartAsked
    | RestartAsked
    | Overdrawn
    | KillAsked
    | Evicted
)
WorkerEvent = ProcessEvent | FleetEvent


@dataclass(frozen=True)
class Worker:
    """
    One index of one service.

    Args:
        since: Monotonic second at which it came into its state.
        target: What the plan wants, None when it wants it gone.
        held: What the process that lives or whose memory is not back was started with.
        deadline: Monotonic second at which this state must be left or looked at; None for never.
        down: Held down by an operator.
        relaunch: Going down in order to come back at once, with clean counts.
        renew: An operator wants another process in place of the one that lives; it waits for its turn.
        cause: Why we end its process, None while we do not.
        fault: The same in words, where the end is on record with them.
        verdict: What follows by its restart policy once nothing of its process is left.
        history: Failures since it was last healthy.
        starts: Processes ever started for this index, the one on its way included.
        grace_until: While its stop command runs: when its grace is over, of which that may take only a part.
        stop_fault: What went wrong with its stop command, in words.
        is_group_asked: Its whole process group was asked to end.
        killed: SIGKILL was asked for.
        spawned_at: Monotonic second of its process' start, None before.
        ready_at: Monotonic second since which it has been ready without a break, None while it is not.
        was_ready, was_healthy: Whether this process ever was.
        said: By its process, in words, of how it is.
        is_extended: Its process has asked for more time to start than the file gives it.
        worn: Why its process is to be replaced by another when its turn comes; empty while it is not.
        over_at: Monotonic second since which it has had more of a GPU than it has declared, None while it has not.
        excess: The same in words, once that has been so for long enough to be of consequence.
        starved: In pending: it waits for memory, and nobody knows until when.
        is_told: In releasing: it was warned of.
        release: How the memory of its last process with a GPU came back, None before.
        reason: What a person should know about why it is where it is, or empty.
        reason_at: Monotonic second since which it has been so, whatever numbers are in it; None for as long as it is
            in its state.
    """

    id: WorkerId
    state: State
    since: float
    target: Placement | None = None
    held: Placement | None = None
    incarnation: Incarnation = 0
    pid: int | None = None
    deadline: float | None = None
    down: bool = False
    relaunch: bool = False
    renew: bool = False
    cause: Cause | None = None
    fault: str = ""
    verdict: Verdict | None = None
    history: History = NO_FAILURES
    starts: int = 0
    grace_until: float | None = None
    stop_fault: str = ""
    is_group_asked: bool = False
    killed: bool = False
    spawned_at: float | None = None
    ready_at: float | None = None
    was_ready: bool = False
    was_healthy: bool = False
    last_exit: ExitRecord | None = None
    said: str = ""
    is_extended: bool = False
    worn: str = ""
    over_at: float | None = None
    excess: str = ""
    starved: bool = False
    is_told: bool = False
    release: Release | None = None
    reason: str = ""
    reason_at: float | None = None

    @property
    def policy(self) -> Policy:
        """Policies in force: the newest, or those of its last process when nothing is wanted any more."""
        placement = self.target or self.held
        assert placement is not None, "a worker is wanted or holds something"
        return placement.wanted.policy

    @property
    def restart(self) -> Restart:
        """The restart policy that its last end is treated by."""
        policy = self.policy.restart
        return policy if self.last_exit is None else policy.for_cause(self.last_exit.cause)

    @property
    def occupied(self) -> Slice:
        """The GPUs that it occupies at this moment."""
        launch = self.held.launch if self.held else None
        return launch.slice if launch else ()

    @property
    def is_outdated(self) -> bool:
        """Its process was started with another launch than the one that is wanted."""
        if self.held is None or self.target is None or self.state not in LIVING:
            return False
        return self.held.launch != self.target.launch


_NUMBER = re.compile(r"[0-9]+")


def date_reason(before: Worker, after: Worker, now: float) -> Worker:
    """A worker that knows since when it is told so of it: one reason with other numbers is the same one."""
    if before.state is not after.state:
        return after if after.reason_at is None else evolve(after, reason_at=None)
    if before.reason == after.reason or _NUMBER.sub("", before.reason) == _NUMBER.sub("", after.reason):
        return after
    return evolve(after, reason_at=now)


def is_on_its_way(worker: Worker | None) -> bool:
    """Whether a worker with a GPU has been let start and has neither been ready nor ended."""
    if worker is None or worker.state not in LIVING or worker.was_ready or not worker.occupied:
        return False
    return worker.pid is not None or worker.spawned_at is None


def reach(worker: Worker | None) -> frozenset[str]:
    """UUIDs of the devices that a worker is placed on: those that it is meant for, and those that it occupies."""
    if worker is None:
        return frozenset()
    meant = worker.target.launch.slice if worker.target and worker.target.launch else ()
    occupied = worker.occupied if worker.state in HOLDING else ()
    return frozenset(share.uuid for share in (*meant, *occupied))
