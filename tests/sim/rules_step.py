"""What one step may do, and what it may not leave undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.message import (
    Cause,
    Dismiss,
    Exit,
    Exited,
    KillTree,
    LivenessLost,
    Report,
    RunStopCommand,
    ShimLost,
    ShutdownRequested,
    Signal,
    State,
    StopRequested,
    TimePassed,
)
from supervisor.core.outcome import SETTLED
from supervisor.core.plan import Placement
from supervisor.core.spec import amount_bytes
from supervisor.core.worker import LIVING, RUNNING, Worker
from tests.sim.rules_health import is_to_be_left
from tests.sim.rules_order import waits_for_failed
from tests.sim.trouble import EPSILON_S, Change, Rule, Step, is_named

if TYPE_CHECKING:
    from tests.sim.world import World

CRASH_GRACE_S = 5.0
STOP_MARGIN_S = 6.0


# ---- who is ended, and why ------------------------------------------------------------------------------------------


def nobody_is_stopped_without_a_reason(world: World, step: Step) -> Iterator[str]:
    """A process is ended for an intent, a new launch or its time, and for nothing else."""
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or before.state not in RUNNING:
            continue
        if after is None or after.incarnation != before.incarnation:
            continue
        if after.state is State.STOPPING and not _may_stop(world, step, change):
            yield f"{change.id} is stopped ({after.cause}) at {type(step.event).__name__}"
        is_second = isinstance(step.event, ShutdownRequested) and len(world.checks.notes.shutdowns) > 1
        is_evicted = after.cause is Cause.DEVICE and _may_stop(world, step, change)
        if after.state is State.KILLING and not (is_second or is_evicted or isinstance(step.event, Exited | ShimLost)):
            yield f"{change.id} is killed at {type(step.event).__name__}"


def _may_stop(world: World, step: Step, change: Change) -> bool:
    before, after = change.before, change.after
    assert before is not None
    assert after is not None
    match after.cause:
        case Cause.START_TIMEOUT:
            # Not before its time by the policy in force: `start_is_bounded_by_policy` says what that is.
            due = before.deadline is not None and before.deadline <= step.now
            return before.state is State.STARTING and due and isinstance(step.event, TimePassed)
        case Cause.LIVENESS | Cause.WATCHDOG:
            return before.was_ready and isinstance(step.event, LivenessLost) and step.event.worker == change.id
        case Cause.ROLLOUT:
            return after.target is not None and after.held is not None and after.held.launch != after.target.launch
        case Cause.RECYCLE:
            return bool(after.worn) and before.was_ready and not after.is_outdated and not after.down
        case Cause.CUDA_OOM:
            return after.policy.guard == "restart" and not after.down  # `eviction_has_its_reason` asks for more.
        case Cause.OPERATOR:
            if after.target is None:
                return True
            is_turn = after.renew and not after.is_outdated
            return is_turn or (isinstance(step.event, StopRequested) and is_named(step.event, change.id))
        case Cause.DEVICE:
            return any(is_to_be_left(world, step, share.uuid) for share in before.occupied)
        case _:
            return False


def makes_way(step: Step, change: Change) -> bool:
    """Whether somebody waits for a device that it is to leave, or to have less of."""
    assert change.after is not None
    assert change.after.target is not None
    going = change.after.target.launch
    parts = {share.uuid: share.millis for share in (going.slice if going else ())}
    gives = {share.uuid for share in change.after.occupied if parts.get(share.uuid, 0) < share.millis}
    gives |= {
        uuid for uuid in parts if _declared(step, change.after.target, uuid) < _declared(step, change.after.held, uuid)
    }
    waiting = (step.after.workers[worker].target for worker in step.after.waiting)
    return any(share.uuid in gives for target in waiting if target and target.launch for share in target.launch.slice)


def _declared(step: Step, placement: Placement | None, uuid: str) -> int:
    device = step.after.inventory.by_uuid.get(uuid) if step.after.inventory else None
    memory = placement.wanted.request.gpu_memory if placement else None
    return 0 if memory is None or device is None else amount_bytes(memory, device.memory_total_bytes or 0)


def is_settled(worker: Worker) -> bool:
    if worker.state is State.PENDING:
        # Who never ran and waits for memory may wait for that of those who are to be replaced.
        never_came = worker.starved and worker.starts == 0
        return worker.target is None or worker.target.launch is None or never_came
    return worker.state in SETTLED


# ---- how ------------------------------------------------------------------------------------------------------------


def grace_is_given(world: World, step: Step) -> Iterator[str]:
    """All of it, and no more: after a crash, or with the main process gone, at least five seconds."""
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or before.incarnation != after.incarnation or before.state is after.state:
            continue
        assert after.held is not None or after.state not in LIVING
        if after.state is State.STOPPING:
            placement = after.target or before.target or after.held
            assert placement is not None
            expected = step.now + placement.wanted.policy.stop.timeout_s
            if any(isinstance(one, RunStopCommand) and one.worker == change.id for one in step.actions):
                if after.grace_until is None or abs(after.grace_until - expected) > EPSILON_S:
                    yield f"{change.id} has {after.grace_until} and not {expected} with its stop command"
                expected -= min(5.0, (expected - step.now) / 2)  # Of which the signal has the rest.
        elif after.state is State.KILLING and isinstance(step.event, Exited):
            grace_until = (before.grace_until or before.deadline) if before.state is State.STOPPING else None
            expected = max(step.now + CRASH_GRACE_S, grace_until or 0.0)
        else:
            continue
        if after.deadline is None or abs(after.deadline - expected) > EPSILON_S:
            yield f"{change.id} is {after.state} until {after.deadline} and not until {expected}"


def kill_comes_after_the_grace(world: World, step: Step) -> Iterator[str]:
    """And then it does come."""
    killed = {action.worker for action in step.actions if isinstance(action, KillTree)}
    is_hurried = isinstance(step.event, ShutdownRequested) and len(world.checks.notes.shutdowns) > 1
    for worker_id in killed:
        before = step.before.workers[worker_id]
        is_due = before.deadline is not None and before.deadline <= step.now and isinstance(step.event, TimePassed)
        is_due &= before.incarnation not in world.checks.notes.commands
        if before.state in RUNNING and _is_to_be_killed(world, step, before):
            continue
        if not is_hurried and not (is_due and before.state in {State.STOPPING, State.KILLING}):
            yield f"{worker_id} is killed while {before.state}, due {before.deadline}"
    if isinstance(step.event, TimePassed):
        for worker in step.before.workers.values():
            is_due = worker.deadline is not None and worker.deadline <= step.now and worker.id in step.event.workers
            has_command = worker.incarnation in world.checks.notes.commands  # The signal comes first.
            is_due &= worker.state in {State.STOPPING, State.KILLING} and not has_command
            if is_due and worker.id not in killed:
                yield f"{worker.id} is past its grace in {worker.state} and not killed"


def _is_to_be_killed(world: World, step: Step, worker: Worker) -> bool:
    """The file wants whoever is on a sick device killed."""
    is_wanted = step.after.spec is not None and step.after.spec.health.on_fault == "kill"
    return is_wanted and any(is_to_be_left(world, step, share.uuid) for share in worker.occupied)


def what_outlives_is_asked_too(world: World, step: Step) -> Iterator[str]:
    """The rest of a tree gets the signal when the main process has ended."""
    event = step.event
    if not isinstance(event, Exited) or event.alone:
        return
    before, after = step.before.workers.get(event.worker), step.after.workers.get(event.worker)
    if before is None or before.incarnation != event.incarnation or before.state is State.KILLING:
        return
    asked = [action for action in step.actions if isinstance(action, Signal) and action.scope in {"rest", "outside"}]
    if [action.incarnation for action in asked] != [event.incarnation] or after is None:
        yield f"what is left of {event.worker}#{event.incarnation} is not asked to end"


def time_that_has_come_is_used(world: World, step: Step) -> Iterator[str]:
    """After a deadline has come nobody waits for it any more."""
    if not isinstance(step.event, TimePassed):
        return
    for worker in step.event.workers:
        before, after = step.before.workers.get(worker), step.after.workers.get(worker)
        if before is None or after is None or after.deadline is None or after.deadline > step.now:
            continue
        # A grace of nothing is over at once; the driver comes back for it in the same turn.
        if before is after or before.state is after.state:
            yield f"{worker} is {after.state} and its deadline has passed"


# ---- what is said ---------------------------------------------------------------------------------------------------


def reports_tell_every_move(world: World, step: Step) -> Iterator[str]:
    """Each change of state is told once, from where the last report left off."""
    states = dict(world.checks.notes.states)
    for action in step.actions:
        if isinstance(action, Report):
            one = action.transition
            if states.get(one.worker) is not one.before or one.before is one.after:
                yield f"{one.worker} is told to go from {one.before}, it was {states.get(one.worker)}"
            if one.after is None:
                states.pop(one.worker, None)
            else:
                states[one.worker] = one.after
    actual = {worker.id: worker.state for worker in step.after.workers.values()}
    if states != actual:
        odd = [str(one) for one in sorted({*states, *actual}) if states.get(one) != actual.get(one)]
        yield f"{', '.join(odd)}: not told"


def only_the_idle_are_dismissed(world: World, step: Step) -> Iterator[str]:
    """A shim is sent away when its index is gone, and nothing lives below it."""
    gone = [change.id for change in step.changes if change.after is None]
    dismissed = [action.worker for action in step.actions if isinstance(action, Dismiss)]
    # An extra worker may come and go within a step.
    if sorted(gone) != sorted(set(dismissed) & step.before.workers.keys() - step.after.workers.keys()):
        yield f"{gone} are gone, {dismissed} are dismissed"
    for worker in dismissed:
        tree = world.processes.tree_of(worker)
        if tree is not None and tree.exists:
            yield f"{worker} is dismissed while it lives"


def exit_is_said_once_and_true(world: World, step: Step) -> Iterator[str]:
    """0 when nothing is left, 1 with the names of what is, within the longest grace and a margin."""
    exits = [action for action in step.actions if isinstance(action, Exit)]
    if not exits:
        return
    living = {tree.order.worker for tree in world.processes.living()}
    if len(exits) > 1 or step.before.exiting:
        yield "Exit is said twice"
    if not world.checks.notes.shutdowns:
        return  # `exit_when_failed_means_that`
    if exits[0].status == 0 and (living or step.after.workers):
        yield f"Exit(0) while {living} live"
    if exits[0].status == 1 and (not exits[0].stuck or not living <= set(exits[0].stuck)):
        yield f"Exit(1) names {exits[0].stuck}, {living} live"


def exit_when_failed_means_that(world: World, step: Step) -> Iterator[str]:
    """Where the file says so: 1 as soon as nobody runs or is going to, and somebody has failed; else not at all."""
    if world.checks.notes.shutdowns:
        return  # Then it ends anyway, as `exit_is_said_once_and_true` has it.
    exits = [action for action in step.actions if isinstance(action, Exit)]
    fleet = step.after
    # Nobody is going to run who waits for one that has failed.
    states = [one.state for one in fleet.workers.values() if not waits_for_failed(world, fleet, one)]
    is_asked = fleet.spec is not None and fleet.spec.daemon.exit_when_failed and fleet.reload is None
    is_over = State.FAILED in states and all(state in {State.FAILED, State.EXITED} for state in states)
    if bool(exits) is not (is_asked and is_over):
        yield f"Exit is {'' if exits else 'not '}said while {sorted(set(states))}, and the key is {is_asked}"
    if exits and (exits[0].status != 1 or exits[0].stuck or any(world.processes.living())):
        yield f"the daemon ends with {exits[0].status}, stuck {exits[0].stuck}"


# ---- back-off -------------------------------------------------------------------------------------------------------


def backoff_runs_its_time(world: World, step: Step) -> Iterator[str]:
    """It ends by its deadline, by an operator, or because something else is wanted."""
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or before.state is not State.BACKOFF or after.state is State.BACKOFF:
            continue
        due = before.deadline is not None and before.deadline <= step.now
        asked = is_named(step.event, change.id)
        old, new = before.target, after.target
        changed = old is None or new is None or (old.launch, old.wanted.recipe) != (new.launch, new.wanted.recipe)
        if not (due or asked or changed):
            yield f"{change.id} leaves its back-off {(before.deadline or 0.0) - step.now:.2f} s early"


RULES: tuple[Rule, ...] = (
    nobody_is_stopped_without_a_reason,
    grace_is_given,
    kill_comes_after_the_grace,
    what_outlives_is_asked_too,
    time_that_has_come_is_used,
    reports_tell_every_move,
    only_the_idle_are_dismissed,
    exit_is_said_once_and_true,
    exit_when_failed_means_that,
    backoff_runs_its_time,
)
