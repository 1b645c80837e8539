"""
All workers: what every event means for them. `handle` is the only way in.

Pure: no clock, no randomness, no logging, no I/O. What is to be done comes out as actions.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.core import (
    admission,
    canaries,
    claims,
    excess,
    gpus,
    order,
    orders,
    recycle,
    reload,
    rescale,
    rollout,
    sockets,
    stall,
    tidings,
    wards,
    witnesses,
)
from supervisor.core.message import (
    Action,
    BecameReady,
    BecameUnready,
    CanaryFinished,
    DeviceEventTold,
    DevicesClaimed,
    DevicesFreed,
    Event,
    Exit,
    Exited,
    HostRead,
    InventoryRead,
    LivenessLost,
    ProgressTold,
    QuarantineRequested,
    ReadInventory,
    ReleaseRequested,
    ReloadRequested,
    RestartRequested,
    Say,
    ScaleRequested,
    ShimLost,
    ShutdownRequested,
    SocketsBound,
    Spawned,
    SpawnFailed,
    SpecLoaded,
    SpecRejected,
    Stalled,
    StartExtended,
    StartRequested,
    State,
    StopCommandEnded,
    StopRequested,
    TimePassed,
    TreeExamined,
    TreeGone,
    UsageRead,
)
from supervisor.core.spec import WorkerId
from supervisor.core.turn import DaemonState, Fleet, Turn
from supervisor.core.worker import (
    LIVING,
    RUNNING,
    DeadlinePassed,
    KillAsked,
    MemoryBack,
    ProcessEvent,
)

STOP_MARGIN_S = 6.0
"""After the longest grace: 5 s for what outlives a main process, and one to reap it."""


def handle(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """
    What an event makes of the fleet.

    Args:
        fleet: Before it.
        event: What happened or is asked for.
        now: Monotonic seconds, never less than at the call before.

    Returns:
        The next fleet, and what is to be done, in order.

    Raises:
        InvariantBrokenError: Our own bug. The fleet given stays valid.
    """
    turn = Turn(fleet, now)
    _dispatch(turn, event)
    if turn.fleet.state is DaemonState.STOPPING:
        _finish(turn)
    else:
        if turn.stale:
            rescale.replan(turn)
        order.settle(turn)
        wards.settle(turn)
        if turn.stale:
            rescale.replan(turn)
        excess.settle(turn)  # Who goes for what it has is missing then, and no roll-out takes another one.
        rollout.roll(turn)
        recycle.settle(turn)
        order.settle(turn)
        admission.admit(turn)
        if order.settle(turn):
            admission.admit(turn)  # Who waits says so in today's numbers.
        _end_if_all_failed(turn)
        if not turn.fleet.exiting:
            canaries.settle(turn)
            wards.set_deadline(turn)
    tidings.note_ends(turn)
    claims.settle(turn)
    sockets.settle(turn)
    return turn.done()


def _dispatch(turn: Turn, event: Event) -> None:  # noqa: C901, PLR0912 - One case for each event.
    match event:
        case Spawned() | SpawnFailed() | Exited() | TreeGone() | ShimLost() | StopCommandEnded() | TreeExamined():
            _process(turn, event)
        case BecameReady() | BecameUnready() | LivenessLost() | ProgressTold() | StartExtended():
            _process(turn, event)
        case TimePassed(workers=workers):
            _time(turn, workers)
        case Stalled(lost_s=lost_s):
            stall.put_off(turn, lost_s)
        case InventoryRead():
            gpus.take_reading(turn, event)
            recycle.take_reading(turn)
            excess.take_reading(turn)
            reload.devices_read(turn, event.asked_at)
        case HostRead():
            admission.take_host(turn, event)
        case UsageRead():
            recycle.take_usage(turn, event)
        case DeviceEventTold():
            tidings.take(turn, event)
        case QuarantineRequested() | ReleaseRequested():
            wards.take(turn, event)
        case CanaryFinished():
            canaries.take(turn, event)
        case DevicesClaimed():
            claims.take_answer(turn, event)
        case DevicesFreed():
            claims.take_freed(turn, event)
        case SocketsBound():
            sockets.take_answer(turn, event)
        case SpecLoaded():
            reload.take_spec(turn, event)
        case SpecRejected(problems=problems):
            reload.reject(turn, problems)
        case ReloadRequested():
            reload.request(turn)
        case StopRequested():
            orders.stop(turn, event)
        case StartRequested():
            sockets.retry(turn)
            orders.start(turn, event)
        case RestartRequested():
            sockets.retry(turn)
            orders.restart(turn, event)
        case ScaleRequested():
            orders.scale(turn, event)
        case ShutdownRequested():
            _shut_down(turn)
        case _:
            assert_never(event)


def _process(turn: Turn, event: ProcessEvent) -> None:
    """A fact about a process. One of an incarnation that is no more is dropped before the table is asked."""
    worker = turn.workers.get(event.worker)
    if worker is None or worker.incarnation != event.incarnation:
        return
    if isinstance(event, Exited):
        event = tidings.explain_exit(turn, worker, event)
    turn.tell(event.worker, event)
    if isinstance(event, Exited):
        tidings.note_death(turn, worker)


def _time(turn: Turn, workers: tuple[WorkerId, ...]) -> None:
    for worker_id in workers:
        worker = turn.workers.get(worker_id)
        if worker is not None and worker.deadline is not None and worker.deadline <= turn.now:
            turn.tell(worker.id, DeadlinePassed())
            witnesses.give_up_if_late(turn, worker.id)
    if turn.fleet.deadline is not None and turn.fleet.deadline <= turn.now:
        turn.set(deadline=None)
        if turn.fleet.state is DaemonState.STOPPING:
            _give_up(turn)
            return
        wards.pass_time(turn)
        if turn.fleet.look_at is not None and turn.fleet.look_at <= turn.now:
            turn.set(look_at=None)
            turn.do(ReadInventory(fresh=turn.fleet.failures > 0))


def _shut_down(turn: Turn) -> None:
    """The first time everybody is asked to end, the second time nobody is asked."""
    if turn.fleet.state is DaemonState.STOPPING:
        for worker_id in list(turn.workers):
            turn.tell(worker_id, KillAsked())
        if turn.fleet.deadline is not None:
            turn.set(deadline=min(turn.fleet.deadline, turn.now + STOP_MARGIN_S))
        return
    reload.abandon(turn)
    graces = [worker.policy.stop.timeout_s for worker in turn.workers.values() if worker.state in LIVING - RUNNING]
    turn.set(state=DaemonState.STOPPING, deadline=turn.now + max(graces, default=0.0) + STOP_MARGIN_S)


def _finish(turn: Turn) -> None:
    """
    While stopping: who comes after others goes before them; with the last worker the daemon ends.

    Memory need not come back for anybody. Each layer has a time of its own.
    """
    _stop_next(turn)
    if released := [one for one in turn.workers.values() if one.state is State.RELEASING]:
        for worker in released:
            turn.tell(worker.id, MemoryBack())
        _stop_next(turn)
    if not turn.workers and not turn.fleet.exiting:
        turn.set(exiting=True, deadline=None)
        turn.do(Exit(0))


def _stop_next(turn: Turn) -> None:
    grace_s = order.stop_next(turn)
    if grace_s is not None and turn.fleet.deadline is not None:
        turn.set(deadline=max(turn.fleet.deadline, turn.now + grace_s + STOP_MARGIN_S))


def _end_if_all_failed(turn: Turn) -> None:
    """`daemon.exit_when_failed`: nobody runs or is going to, and not because all are done or stopped."""
    fleet = turn.fleet
    if fleet.spec is None or not fleet.spec.daemon.exit_when_failed or fleet.reload is not None or fleet.exiting:
        return
    # Nor is somebody going to who comes after one that has failed.
    states = {
        worker.state
        for worker in turn.workers.values()
        if worker.state is not State.PENDING or not order.is_hopeless(turn.fleet, turn.workers, worker)
    }
    if State.FAILED in states and states <= {State.FAILED, State.EXITED}:
        failed = sorted(str(one.id) for one in turn.workers.values() if one.state is State.FAILED)
        turn.set(state=DaemonState.STOPPING, exiting=True, deadline=None)
        turn.do(Say("daemon.failed", {"workers": failed, "reason": "exit_when_failed"}, is_warning=True), Exit(1))


def _give_up(turn: Turn) -> None:
    """Their time is over. Who would have to wait for them is still asked to end; then the daemon does."""
    turn.set(given_up=turn.fleet.given_up | {one.id for one in turn.workers.values() if one.target is None})
    grace_s = order.stop_next(turn)
    if grace_s is not None:
        turn.set(deadline=turn.now + grace_s + STOP_MARGIN_S)
    elif turn.workers and not turn.fleet.exiting:
        turn.set(exiting=True)
        turn.do(Exit(1, stuck=tuple(sorted(turn.workers))))
