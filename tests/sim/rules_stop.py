"""How somebody is asked to end: the stop command, the signal behind it, who gets that, and where one hangs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.message import (
    Cause,
    EndStopCommand,
    ExamineTree,
    Exited,
    RunStopCommand,
    Signal,
    Spawned,
    State,
    StopCommandEnded,
    TimePassed,
    TreeExamined,
)
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from supervisor.core.file.service import Stop
    from supervisor.core.worker import Worker
    from tests.sim.world import World

LAST_S = 0.1


def command_comes_before_the_signal(world: World, step: Step) -> Iterator[str]:
    """Where the file of its start has one and the file of today leaves it time; else the signal comes at once."""
    runs = {action.incarnation: action for action in step.actions if isinstance(action, RunStopCommand)}
    signalled = {one.incarnation for one in step.actions if isinstance(one, Signal) and one.scope in {"main", "group"}}
    asked = set()
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or after.state is not State.STOPPING or before.state is State.STOPPING:
            continue
        asked.add(after.incarnation)
        assert after.held is not None
        command = after.held.wanted.policy.stop.exec if _stop_of(before, after).timeout_s else ()
        pid = _pid_of(step, before)
        if pid is None:
            command = ()
        run = runs.get(after.incarnation)
        if bool(command) is not (run is not None) or (run and (run.argv, run.pid) != (command, pid)):
            yield f"{change.id} is to run {command}, and runs {run}"
        if (after.incarnation in signalled) is not (pid is not None and not command):
            yield f"{change.id} is {'' if after.incarnation in signalled else 'not '}signalled at once"
    if extra := runs.keys() - asked:
        yield f"a stop command runs for {extra}, who are not stopped now"


def _pid_of(step: Step, worker: Worker) -> int | None:
    """Of one that is stopped in this step, which may be the one that tells of its process."""
    if isinstance(step.event, Spawned) and step.event.incarnation == worker.incarnation:
        return step.event.pid
    return worker.pid


def signal_follows_the_command(world: World, step: Step) -> Iterator[str]:
    """When it has ended or had its time, and at no other moment but the spawn of one that is stopped already."""
    running = world.checks.notes.commands
    signalled = {one.incarnation for one in step.actions if isinstance(one, Signal) and one.scope in {"main", "group"}}
    ended = {one.incarnation for one in step.actions if isinstance(one, EndStopCommand)}
    for before in step.before.workers.values():
        if before.state is not State.STOPPING:
            continue
        after = step.after.workers.get(before.id)
        is_late = isinstance(step.event, TimePassed) and before.id in step.event.workers
        is_late &= before.deadline is not None and before.deadline <= step.now
        is_over = isinstance(step.event, StopCommandEnded) and step.event.incarnation == before.incarnation
        is_spawned = isinstance(step.event, Spawned) and step.event.incarnation == before.incarnation
        is_due = before.incarnation in running and (is_late or is_over)
        if (before.incarnation in signalled) is not (is_due or is_spawned):
            yield f"{before.id} is {'' if before.incarnation in signalled else 'not '}signalled at {step.event}"
        if is_due and is_late and before.incarnation not in ended:
            yield f"the stop command of {before.id} goes on after its time"
        if is_due:
            assert before.grace_until is not None
            expected = max(before.grace_until, step.now + LAST_S)
            if after is None or after.deadline is None or abs(after.deadline - expected) > EPSILON_S:
                yield f"{before.id} has until {after and after.deadline} after its command and not until {expected}"
            fault = step.event.fault if isinstance(step.event, StopCommandEnded) else "did not end"
            if after is not None and fault not in after.reason:
                yield f"{before.id} does not say that its stop command {fault}: {after.reason}"


def those_get_the_signal_whom_the_file_names(world: World, step: Step) -> Iterator[str]:
    """The main process or its group; and nobody gets it twice."""
    for action in step.actions:
        if not isinstance(action, Signal):
            continue
        before, after = step.before.workers[action.worker], step.after.workers.get(action.worker)
        if action.scope in {"main", "group"}:
            if (action.scope == "group") is not _stop_of(before, after).group:
                yield f"the signal goes to the {action.scope} of {action.worker}"
        elif (action.scope == "outside") is not (action.incarnation in world.checks.notes.group_signalled):
            yield f"the signal goes to the {action.scope} of {action.worker}"


def it_is_the_signal_of_the_file(world: World, step: Step) -> Iterator[str]:
    """But who missed its watchdog gets SIGABRT, and so does what outlives it; nobody else does."""
    for action in step.actions:
        if not isinstance(action, Signal):
            continue
        before, after = step.before.workers[action.worker], step.after.workers.get(action.worker)
        hangs = Cause.WATCHDOG in {before.cause, after.cause if after else None}
        expected = 6 if hangs else _stop_of(before, after).signal
        if action.signal != expected:
            yield f"the {action.scope} of {action.worker} gets signal {action.signal} and not {expected}"


def _stop_of(before: Worker, after: Worker | None) -> Stop:
    placement = (after.target if after else None) or before.target or before.held
    assert placement is not None
    return placement.wanted.policy.stop


def who_does_not_die_is_looked_at(world: World, step: Step) -> Iterator[str]:
    """When SIGKILL has had no effect for ten seconds, and its reason says what was seen."""
    looked = {action.worker for action in step.actions if isinstance(action, ExamineTree)}
    event = step.event
    for worker in step.before.workers.values():
        is_due = isinstance(event, TimePassed) and worker.id in event.workers and worker.deadline is not None
        stuck = is_due and worker.state is State.KILLING and worker.killed and (worker.deadline or 0.0) <= step.now
        if stuck is not (worker.id in looked):
            yield f"{worker.id} is {'' if worker.id in looked else 'not '}looked at"
    if isinstance(event, TreeExamined):
        after = step.after.workers.get(event.worker)
        is_it = after is not None and after.incarnation == event.incarnation and after.state is State.KILLING
        if is_it and after is not None and event.detail not in after.reason:
            yield f"{event.worker} does not say where it hangs"


def a_command_ends_with_its_stop(world: World, step: Step) -> Iterator[str]:
    """No stop command outlives the process that it is about, nor the grace."""
    for tree in world.processes.trees:
        if tree.command is None:
            continue
        worker = step.after.workers.get(tree.order.worker)
        is_over = isinstance(step.event, Exited) and step.event.incarnation == tree.order.incarnation
        is_stopping = worker is not None and worker.state is State.STOPPING
        if worker is None or worker.incarnation != tree.order.incarnation or not is_stopping or is_over:
            yield f"a stop command runs for {tree.order.worker}, which is {worker and worker.state}"


RULES: tuple[Rule, ...] = (
    command_comes_before_the_signal,
    signal_follows_the_command,
    those_get_the_signal_whom_the_file_names,
    it_is_the_signal_of_the_file,
    who_does_not_die_is_looked_at,
)
STATE_RULES: tuple[Rule, ...] = (a_command_ends_with_its_stop,)
