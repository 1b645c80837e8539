"""What a daemon that was frozen owes its workers: nobody pays for time in which it did not look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.message import Cause, KillTree, Signal, Stalled, State, TimePassed
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World


def a_stall_costs_nobody(world: World, step: Step) -> Iterator[str]:
    """It ends nobody by itself; whoever has a limit has it for as much longer, and a moment to be seen first."""
    if not isinstance(step.event, Stalled):
        return
    lost_s = step.event.lost_s
    # A roll-out, or an operator's restart, whose next one was due meanwhile goes on with the first look afterwards.
    due = {
        one.id for one in step.changes if one.after is not None and one.after.cause in {Cause.ROLLOUT, Cause.OPERATOR}
    }
    acts = (action for action in step.actions if isinstance(action, KillTree | Signal))
    if ended := [action.worker for action in acts if action.worker not in due]:
        yield f"{ended} are ended for a stall of {lost_s}"
    for worker_id, before in step.before.workers.items():
        after = step.after.workers.get(worker_id)
        if before.deadline is None or before.state not in {State.STARTING, State.STOPPING, State.KILLING}:
            continue
        least = max(before.deadline + lost_s, step.now + min(lost_s, 5.0))
        if after is None or after.deadline is None or abs(after.deadline - least) > EPSILON_S:
            yield f"{worker_id} is {before.state} until {after and after.deadline} and not until {least}"
        elif before.grace_until is not None:
            left_s = (after.grace_until or 0.0) - after.deadline
            if abs(left_s - (before.grace_until - before.deadline)) > EPSILON_S:
                yield f"{worker_id} has {left_s:.1f} s left after its stop command"


def no_limit_runs_while_the_daemon_does_not(world: World, step: Step) -> Iterator[str]:
    """A start timeout strikes after that long of the daemon's own time, but for what a beat of its pulse hides."""
    if not isinstance(step.event, TimePassed):
        return
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or before.state is not State.STARTING or before.held is None:
            continue
        if after.state is not State.STOPPING or after.cause is not Cause.START_TIMEOUT:
            continue
        own_s = step.now - before.since - world.frozen_since(before.since)
        if own_s < before.held.wanted.policy.ready.timeout_s - 3.0 * world.freezes_since(before.since) - EPSILON_S:
            yield f"{change.id} was given up after {own_s:.1f} s in which the daemon ran"


RULES: tuple[Rule, ...] = (a_stall_costs_nobody, no_limit_runs_while_the_daemon_does_not)
