"""
The state machine of a worker: every state x event, `IGNORE` and `IMPOSSIBLE` included, and `step`, which walks it.

The diagram in the docs is made from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from supervisor.core import ends, facts, intents
from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Exited,
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
from supervisor.core.moves import Step
from supervisor.core.worker import (
    Admitted,
    DeadlinePassed,
    Evicted,
    KillAsked,
    MemoryBack,
    Overdrawn,
    Relaunched,
    RestartAsked,
    StartAsked,
    StopAsked,
    Unwanted,
    Wanted,
    Worker,
    WorkerEvent,
)
from supervisor.errors import InvariantBrokenError


@dataclass(frozen=True, slots=True)
class Cell:
    """What happens at an event, and the states it may lead to besides the one it is in; None is "forgotten"."""

    do: Callable[[Worker, Any, float], Step] | None
    to: tuple[State | None, ...] = ()
    impossible: bool = False


IGNORE = Cell(None)
"""The event is late or says nothing new."""

IMPOSSIBLE = Cell(None, impossible=True)
"""The event cannot come in this state: if it does, the fault is ours."""


@dataclass(frozen=True, slots=True)
class Row:
    """One state's cells. A cell left out is an error when the program starts, not when the event comes."""

    admitted: Cell
    spawned: Cell
    spawn_failed: Cell
    became_ready: Cell
    became_unready: Cell
    liveness_lost: Cell
    progress_told: Cell
    start_extended: Cell
    exited: Cell
    tree_gone: Cell
    shim_lost: Cell
    stop_command_ended: Cell
    tree_examined: Cell
    memory_back: Cell
    deadline: Cell
    wanted: Cell
    unwanted: Cell
    relaunched: Cell
    stop: Cell
    start: Cell
    restart: Cell
    overdrawn: Cell
    kill: Cell
    evicted: Cell


COLUMNS: Mapping[type[WorkerEvent], str] = {
    Admitted: "admitted",
    Spawned: "spawned",
    SpawnFailed: "spawn_failed",
    BecameReady: "became_ready",
    BecameUnready: "became_unready",
    LivenessLost: "liveness_lost",
    ProgressTold: "progress_told",
    StartExtended: "start_extended",
    Exited: "exited",
    TreeGone: "tree_gone",
    ShimLost: "shim_lost",
    StopCommandEnded: "stop_command_ended",
    TreeExamined: "tree_examined",
    MemoryBack: "memory_back",
    DeadlinePassed: "deadline",
    Wanted: "wanted",
    Unwanted: "unwanted",
    Relaunched: "relaunched",
    StopAsked: "stop",
    StartAsked: "start",
    RestartAsked: "restart",
    Overdrawn: "overdrawn",
    KillAsked: "kill",
    Evicted: "evicted",
}

GONE = None
FOLLOWS = (State.PENDING, State.BACKOFF, State.EXITED, State.FAILED, State.STOPPED, GONE)
"""What may follow once nothing of a process is left."""

_ENDED_BY_ITSELF = (State.PENDING, State.BACKOFF, State.EXITED, State.FAILED)
_ENDED_BY_US = (State.PENDING, State.BACKOFF, State.FAILED, State.STOPPED, GONE)
"""One that had to be ended has not done what it was for."""

# Without a process, its facts are late words of the last one, or never said.
_NO_PROCESS = {
    "spawned": IMPOSSIBLE,
    "spawn_failed": IMPOSSIBLE,
    "became_ready": IGNORE,
    "became_unready": IGNORE,
    "liveness_lost": IGNORE,
    "progress_told": IGNORE,
    "start_extended": IGNORE,
    "exited": IMPOSSIBLE,
    "tree_gone": IMPOSSIBLE,
    "shim_lost": IGNORE,
    "stop_command_ended": IGNORE,
    "tree_examined": IGNORE,
    "memory_back": IMPOSSIBLE,
    "relaunched": IMPOSSIBLE,
    "overdrawn": IMPOSSIBLE,
    "kill": IGNORE,
    "evicted": IMPOSSIBLE,
}
_FREED = {
    **_NO_PROCESS,
    "admitted": IMPOSSIBLE,
    "unwanted": Cell(intents.forget, (GONE,)),
}
_RUNNING = {
    "admitted": IMPOSSIBLE,
    "spawned": IMPOSSIBLE,
    "spawn_failed": IMPOSSIBLE,
    "liveness_lost": Cell(facts.liveness_lost, (State.STOPPING,)),
    "progress_told": Cell(facts.progress_told),
    "start_extended": IGNORE,
    "exited": Cell(facts.exited, (State.KILLING, State.RELEASING, *_ENDED_BY_ITSELF)),
    "tree_gone": IMPOSSIBLE,
    "shim_lost": Cell(facts.shim_lost, (State.KILLING,)),
    "stop_command_ended": IMPOSSIBLE,
    "tree_examined": IMPOSSIBLE,
    "memory_back": IMPOSSIBLE,
    "deadline": Cell(facts.worn_out),
    "wanted": Cell(intents.retarget),
    "unwanted": Cell(intents.stop_unwanted, (State.STOPPING,)),
    "relaunched": Cell(intents.stop_outdated, (State.STOPPING,)),
    "stop": Cell(intents.stop_for_operator, (State.STOPPING,)),
    "start": IGNORE,
    "restart": Cell(intents.await_turn),
    "overdrawn": Cell(facts.overdrawn, (State.STOPPING,)),
    "kill": Cell(ends.kill, (State.KILLING,)),
    "evicted": Cell(intents.evict, (State.STOPPING, State.KILLING)),
}
_GOING = {
    "wanted": Cell(intents.retarget_going),
    "unwanted": Cell(intents.unwant),
    "relaunched": Cell(intents.mark_relaunch),
    "stop": Cell(intents.hold),
    "start": Cell(intents.come_back),
    "restart": Cell(intents.come_back_anyway),
    "overdrawn": IMPOSSIBLE,
    "became_ready": IGNORE,
    "became_unready": IGNORE,
    "liveness_lost": IGNORE,
    "progress_told": Cell(facts.progress_told),
    "start_extended": IGNORE,
    "admitted": IMPOSSIBLE,
    "evicted": IGNORE,
}

TABLE: Mapping[State, Row] = {
    State.PENDING: Row(
        **_NO_PROCESS,
        admitted=Cell(facts.start, (State.STARTING,)),
        deadline=Cell(facts.look_again),
        wanted=Cell(intents.retarget_pending, (State.FAILED,)),
        unwanted=Cell(intents.forget, (GONE,)),
        stop=Cell(intents.park, (State.STOPPED,)),
        start=Cell(intents.clear_counts),
        restart=Cell(intents.clear_counts),
    ),
    State.STARTING: Row(
        **{
            **_RUNNING,
            "spawned": Cell(facts.spawned),
            "spawn_failed": Cell(facts.spawn_failed, (State.PENDING, State.BACKOFF, State.FAILED)),
            "liveness_lost": IMPOSSIBLE,
            "start_extended": Cell(facts.start_extended),
            "deadline": Cell(facts.start_deadline, (State.READY, State.STOPPING)),
        },
        became_ready=Cell(facts.became_ready, (State.READY,)),
        became_unready=Cell(facts.not_ready_yet),
    ),
    State.READY: Row(
        **_RUNNING,
        became_ready=IGNORE,
        became_unready=Cell(facts.became_unready, (State.UNREADY,)),
    ),
    State.UNREADY: Row(
        **_RUNNING,
        became_ready=Cell(facts.became_ready, (State.READY,)),
        became_unready=IGNORE,
    ),
    State.STOPPING: Row(
        **_GOING,
        spawned=Cell(facts.spawned_too_late),
        spawn_failed=Cell(facts.spawn_failed, _ENDED_BY_US),
        exited=Cell(facts.exited_in_stopping, (State.KILLING, State.RELEASING, *_ENDED_BY_US)),
        tree_gone=IMPOSSIBLE,
        shim_lost=Cell(facts.shim_lost, (State.KILLING,)),
        stop_command_ended=Cell(ends.stop_command_ended),
        tree_examined=IMPOSSIBLE,
        memory_back=IMPOSSIBLE,
        deadline=Cell(ends.stop_deadline, (State.KILLING,)),
        kill=Cell(ends.kill, (State.KILLING,)),
    ),
    State.KILLING: Row(
        **_GOING,
        spawned=Cell(facts.spawned_while_killing),
        spawn_failed=Cell(facts.spawn_failed, _ENDED_BY_US),
        exited=Cell(facts.exited_in_killing, (State.RELEASING, *_ENDED_BY_US)),
        tree_gone=Cell(facts.tree_gone, (State.RELEASING, *FOLLOWS)),
        shim_lost=Cell(facts.shim_lost_while_killing),
        stop_command_ended=IGNORE,
        tree_examined=Cell(ends.tree_examined),
        memory_back=IMPOSSIBLE,
        deadline=Cell(ends.kill_deadline),
        kill=Cell(ends.kill),
    ),
    State.RELEASING: Row(
        **_GOING,
        spawned=IMPOSSIBLE,
        spawn_failed=IMPOSSIBLE,
        exited=IMPOSSIBLE,
        tree_gone=IMPOSSIBLE,
        shim_lost=IGNORE,
        stop_command_ended=IGNORE,
        tree_examined=IGNORE,
        memory_back=Cell(facts.memory_back, FOLLOWS),
        deadline=Cell(facts.release_deadline),
        kill=IGNORE,
    ),
    State.BACKOFF: Row(
        **_NO_PROCESS,
        admitted=IMPOSSIBLE,
        deadline=Cell(facts.back_off_over, (State.PENDING, State.FAILED)),
        wanted=Cell(intents.retarget_waiting, (State.PENDING, State.FAILED)),
        unwanted=Cell(intents.forget, (GONE,)),
        stop=Cell(intents.park, (State.STOPPED,)),
        start=Cell(intents.start_again, (State.PENDING,)),
        restart=Cell(intents.start_again, (State.PENDING,)),
    ),
    State.EXITED: Row(
        **_FREED,
        deadline=IMPOSSIBLE,
        wanted=Cell(intents.retarget_ended, (State.PENDING, State.FAILED)),
        stop=Cell(intents.park, (State.STOPPED,)),
        start=Cell(intents.start_again, (State.PENDING,)),
        restart=Cell(intents.start_again, (State.PENDING,)),
    ),
    State.FAILED: Row(
        **_FREED,
        deadline=Cell(facts.parole, (State.PENDING,)),
        wanted=Cell(intents.retarget_ended, (State.PENDING,)),
        stop=Cell(intents.park, (State.STOPPED,)),
        start=Cell(intents.start_again, (State.PENDING,)),
        restart=Cell(intents.start_again, (State.PENDING,)),
    ),
    State.STOPPED: Row(
        **_FREED,
        deadline=IMPOSSIBLE,
        wanted=Cell(intents.retarget_stopped),
        stop=IGNORE,
        start=Cell(intents.start_again, (State.PENDING,)),
        restart=IGNORE,
    ),
}


def cell_of(state: State, event: type[WorkerEvent]) -> Cell:
    """The cell for an event in a state."""
    cell: Cell = getattr(TABLE[state], COLUMNS[event])
    return cell


def step(worker: Worker, event: WorkerEvent, now: float) -> Step:
    """
    What an event makes of a worker.

    Args:
        worker: Before it. An event of another incarnation must have been dropped already.
        event: What happened, or what the fleet says.
        now: Monotonic seconds.

    Returns:
        The worker after it, None when it is to be forgotten, and the actions.

    Raises:
        InvariantBrokenError: The table calls this impossible, or the cell led where the table does not say.
    """
    cell = cell_of(worker.state, type(event))
    if cell.impossible:
        raise InvariantBrokenError(f"{worker.id} is {worker.state} and got {event}")
    if cell.do is None:
        return worker, ()
    after, actions = cell.do(worker, event, now)
    state = after.state if after else GONE
    if state is not worker.state and state not in cell.to:
        raise InvariantBrokenError(f"{worker.id} went from {worker.state} to {state or 'gone'} at {event}")
    return after, actions


def column_names() -> tuple[str, ...]:
    """Names of the columns in their order."""
    return tuple(field.name for field in fields(Row))
