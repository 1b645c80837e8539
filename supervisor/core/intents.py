"""
Cells of the state table for what the plan and the operator want of a worker.

In a worker that is going down an intent changes only what follows, and the last one wins.
"""

from __future__ import annotations

from supervisor.core import ends
from supervisor.core.evolve import evolve
from supervisor.core.message import Cause, Redirect, State
from supervisor.core.moves import Step, recycle_at, renewed, to_pending, to_stopped, to_stopping
from supervisor.core.restart import parole_at
from supervisor.core.worker import (
    Evicted,
    KillAsked,
    Relaunched,
    RestartAsked,
    StartAsked,
    StopAsked,
    Unwanted,
    Wanted,
    Worker,
)


def retarget_pending(worker: Worker, event: Wanted, now: float) -> Step:
    """It has not started, so it takes what is wanted now."""
    old = worker.target.launch if worker.target else None
    if worker.target is not None and worker.target.wanted.recipe != event.placement.wanted.recipe:
        # How the old one fared says nothing about the new one.
        worker = renewed(worker)
    if event.placement.launch == old and not event.placement.refused:
        reason = worker.reason if old is not None else event.placement.reason
        return evolve(worker, target=event.placement, reason=reason), ()
    after, actions = to_pending(evolve(worker, target=event.placement), now)
    assert after is not None
    return evolve(after, since=worker.since if after.state is State.PENDING else now), actions


def retarget(worker: Worker, event: Wanted, _now: float) -> Step:
    """A living worker only learns what is wanted; whether and when it is replaced is the fleet's word."""
    after, actions = evolve(worker, target=event.placement), _redirect(worker, event)
    if event.placement.wanted.policy.guard == "off":
        after = evolve(after, over_at=None, excess="")
    before = worker.target.wanted.policy.recycle if worker.target else None
    if worker.state is State.STARTING or before == event.placement.wanted.policy.recycle:
        return after, actions
    after = evolve(after, worn="")
    return evolve(after, deadline=recycle_at(after)), actions


def retarget_going(worker: Worker, event: Wanted, _now: float) -> Step:
    """A worker that goes down comes back with what is wanted now; another launch clears its counts."""
    held = worker.held.launch if worker.held else None
    changed = worker.target is None or event.placement.launch != held
    after = evolve(worker, target=event.placement, relaunch=worker.relaunch or changed)
    return after, _redirect(worker, event)


def _redirect(worker: Worker, event: Wanted) -> tuple[Redirect, ...]:
    """What a living process says goes where the newest file wants it; a pipe can be led elsewhere at any time."""
    logs = event.placement.wanted.policy.logs
    # While nothing was wanted of it, the policy in force was not kept.
    if worker.target is not None and worker.target.wanted.policy.logs == logs:
        return ()
    return (Redirect(worker.id, worker.incarnation, logs),)


def retarget_waiting(worker: Worker, event: Wanted, now: float) -> Step:
    """In backoff a changed launch starts at once, with clean counts."""
    assert worker.target is not None
    if event.placement.launch == worker.target.launch:
        return evolve(worker, target=event.placement), ()
    return to_pending(renewed(evolve(worker, target=event.placement)), now)


def retarget_ended(worker: Worker, event: Wanted, now: float) -> Step:
    """An ended worker is asked again when the file asks for something else, or there was no GPU for it."""
    assert worker.target is not None
    old, new = worker.target, event.placement
    same = (old.wanted.recipe, old.wanted.request) == (new.wanted.recipe, new.wanted.request)
    if same and not old.refused:
        after = evolve(worker, target=evolve(new, launch=None))
        if worker.state is State.FAILED:
            after = evolve(after, deadline=parole_at(after.restart, after.history, after.since))
        return after, ()
    if new.refused and worker.state is State.FAILED:
        return evolve(worker, target=new, reason=new.reason, deadline=None), ()
    return to_pending(renewed(evolve(worker, target=new)), now)


def retarget_stopped(worker: Worker, event: Wanted, _now: float) -> Step:
    """Held down, it only learns what it would be."""
    return evolve(worker, target=evolve(event.placement, launch=None, refused=False)), ()


def forget(_worker: Worker, _event: Unwanted, _now: float) -> Step:
    """Nothing of it is left to wait for."""
    return None, ()


def stop_unwanted(worker: Worker, _event: Unwanted, now: float) -> Step:
    """The plan has no such index any more."""
    after, actions = to_stopping(worker, now, Cause.OPERATOR, "not wanted any more")
    assert after is not None
    return evolve(after, target=None), actions


def unwant(worker: Worker, _event: Unwanted, _now: float) -> Step:
    """What follows its end is nothing."""
    return evolve(worker, target=None, relaunch=False), ()


def stop_outdated(worker: Worker, _event: Relaunched, now: float) -> Step:
    """It goes down in order to come back with its new launch, or because an operator restarts it."""
    cause, reason = Cause.ROLLOUT, "making way for its new launch"
    if not worker.is_outdated and worker.worn and not worker.renew:
        cause, reason = Cause.RECYCLE, worker.worn
    elif not worker.is_outdated:
        cause, reason = Cause.OPERATOR, "restarted by the operator"
    after, actions = to_stopping(worker, now, cause, reason)
    assert after is not None
    return evolve(after, relaunch=True), actions


def evict(worker: Worker, event: Evicted, now: float) -> Step:
    """Its device is sick: it goes down in order to come back elsewhere, and is not charged with it."""
    marked = evolve(worker, relaunch=worker.target is not None, fault=event.reason)
    if event.kill:
        return ends.kill(evolve(marked, cause=Cause.DEVICE), KillAsked(), now)
    return to_stopping(marked, now, Cause.DEVICE, event.reason)


def mark_relaunch(worker: Worker, _event: Relaunched, _now: float) -> Step:
    """It is going down already."""
    return evolve(worker, relaunch=worker.target is not None), ()


def stop_for_operator(worker: Worker, _event: StopAsked, now: float) -> Step:
    """Stopped until it is started."""
    return to_stopping(evolve(worker, down=True), now, Cause.OPERATOR, "stopped by the operator")


def hold(worker: Worker, _event: StopAsked, _now: float) -> Step:
    """What follows its end is `stopped`."""
    return evolve(worker, down=True), ()


def park(worker: Worker, _event: StopAsked, now: float) -> Step:
    """It has no process: `stopped` at once."""
    return to_stopped(evolve(worker, down=True), now)


def start_again(worker: Worker, _event: StartAsked, now: float) -> Step:
    """Up again, with clean counts."""
    assert worker.target is not None
    # Whether there is a GPU for it now is asked again.
    target = evolve(worker.target, refused=False)
    return to_pending(renewed(evolve(worker, target=target, down=False)), now)


def clear_counts(worker: Worker, _event: StartAsked, _now: float) -> Step:
    """It waits to start already."""
    return renewed(worker), ()


def come_back(worker: Worker, _event: StartAsked, _now: float) -> Step:
    """What follows its end is a start."""
    return evolve(worker, down=False, relaunch=worker.target is not None), ()


def await_turn(worker: Worker, _event: RestartAsked, _now: float) -> Step:
    """Its process goes on until its turn has come."""
    return evolve(worker, renew=True), ()


def come_back_anyway(worker: Worker, _event: RestartAsked, _now: float) -> Step:
    """What follows its end is a start, unless it is held down or not wanted."""
    return evolve(worker, relaunch=worker.relaunch or (worker.target is not None and not worker.down)), ()
