"""Liveness: asked of those that were ready, once for each process, and who does not live on is ended for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.message import Cause, LivenessLost, ProbeAlive, RunStopCommand, Signal, StartExtended, State
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World


def alive_is_asked_from_the_first_ready_on(world: World, step: Step) -> Iterator[str]:
    """Never of one that still loads, never twice, and of everybody whose file says so."""
    asked = [action for action in step.actions if isinstance(action, ProbeAlive)]
    for order in asked:
        before, after = step.before.workers.get(order.worker), step.after.workers.get(order.worker)
        if before is None or before.was_ready or after is None or not after.was_ready:
            yield f"{order.worker}#{order.incarnation} is asked whether it lives on, and not at its first ready"
        elif after.held is None or order.alive != after.held.wanted.policy.alive or order.alive.kind == "off":
            yield f"{order.worker}#{order.incarnation} is asked otherwise than the file says"
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or before.was_ready or not after.was_ready or after.held is None:
            continue
        is_asked = any(order.worker == change.id for order in asked)
        if after.held.wanted.policy.alive.kind != "off" and not is_asked:
            yield f"{change.id} was ready for the first time and nobody asks whether it lives on"


def who_hangs_is_ended(world: World, step: Step) -> Iterator[str]:
    """With its grace, and with the cause on record; whoever goes down already goes down as before."""
    event = step.event
    if not isinstance(event, LivenessLost):
        return
    before, after = step.before.workers.get(event.worker), step.after.workers.get(event.worker)
    if before is None or before.incarnation != event.incarnation or before.state not in {State.READY, State.UNREADY}:
        return
    asks = Signal | RunStopCommand
    signals = [action for action in step.actions if isinstance(action, asks) and action.worker == event.worker]
    cause = Cause.WATCHDOG if event.is_watchdog else Cause.LIVENESS
    is_ended = after is not None and after.state is State.STOPPING and after.cause is cause
    if not is_ended or len(signals) != 1:
        yield f"{event.worker} does not live on, and is {after and after.state}"


def a_start_is_extended_as_asked(world: World, step: Step) -> Iterator[str]:
    """By a word of its process alone: never to less than it had, and to an hour in all at the most."""
    event = step.event
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or after.incarnation != before.incarnation:
            continue
        if after.is_extended and not before.is_extended and not isinstance(event, StartExtended):
            yield f"{change.id} is extended at {type(event).__name__}"
    if not isinstance(event, StartExtended):
        return
    before, after = step.before.workers.get(event.worker), step.after.workers.get(event.worker)
    if before is None or before.incarnation != event.incarnation or before.state is not State.STARTING:
        return
    assert before.held is not None
    assert before.deadline is not None
    expected = before.deadline
    if before.held.wanted.policy.ready.kind != "after":
        expected = max(expected, min(step.now + event.seconds, before.since + 3600.0))
    if after is None or after.deadline is None or abs(after.deadline - expected) > EPSILON_S:
        yield f"{event.worker} may start until {after and after.deadline} and not until {expected}"


RULES: tuple[Rule, ...] = (
    alive_is_asked_from_the_first_ready_on,
    who_hangs_is_ended,
    a_start_is_extended_as_asked,
)
