"""What follows the end of a process: the restart policy of the contract, worked out a second time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from supervisor.core.message import (
    Cause,
    Exited,
    RestartRequested,
    ShimLost,
    SpawnFailed,
    StartRequested,
    State,
    TimePassed,
)
from supervisor.core.worker import HOLDING, RUNNING, Worker
from tests.sim.nature import PERMANENT, REFUSED
from tests.sim.rules_health import has_sick_device
from tests.sim.trouble import EPSILON_S, Change, Rule, Step, is_named

if TYPE_CHECKING:
    from tests.sim.world import World

SPAWN_RETRY_S = 2.0


@dataclass(frozen=True)
class Sentence:
    """
    What is to follow.

    Args:
        kind: Started again, failed for good, or done.
        earliest: Monotonic second of the start.
        latest: With the jitter.
        counts: Failures and start failures in a row, None = whatever they were.
    """

    kind: Literal["again", "failed", "exited"]
    earliest: float = 0.0
    latest: float = 0.0
    counts: tuple[int, int] | None = None


def ends_follow_the_policy(world: World, step: Step) -> Iterator[str]:
    """Restart at once, after a back-off, never again, or done; failures counted as the contract says."""
    notes = world.checks.notes
    event = step.event
    if isinstance(event, Exited | SpawnFailed | ShimLost):
        worker = step.before.workers.get(event.worker)
        if worker is not None and worker.incarnation == event.incarnation and event.worker in step.after.workers:
            sentence = _judge(world, worker, event, step)
            if sentence is not None:
                notes.sentences[event.worker] = sentence
                yield from _check_counts(step, worker, sentence)
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or before.state not in HOLDING:
            continue
        if after is not None and after.state in HOLDING and after.incarnation == before.incarnation:
            continue
        sentence = notes.sentences.pop(change.id, None) or Sentence("again", step.now, step.now)
        if after is not None and not after.down and not before.down:
            yield from _check_what_follows(step, before, after, sentence)


def _judge(world: World, worker: Worker, event: Exited | SpawnFailed | ShimLost, step: Step) -> Sentence | None:
    now = step.now
    timed_out = worker.cause is Cause.START_TIMEOUT and worker.target is not None
    hung = worker.cause in {Cause.LIVENESS, Cause.WATCHDOG, Cause.CUDA_OOM} and worker.target is not None
    match event:
        case ShimLost():
            return None if worker.id in world.checks.notes.sentences else Sentence("again", now, now)
        case Exited():
            if worker.state in RUNNING:
                return _sentence(world, worker, event, step)
            if hung:
                return _sentence(world, worker, event, step, hung=True)
            return _sentence(world, worker, event, step, failed_to_start=True) if timed_out else None
        case SpawnFailed(errno=errno):
            if worker.cause is not None and worker.cause is not Cause.START_TIMEOUT:
                return None
            if errno in PERMANENT:
                return Sentence("failed")
            if errno in REFUSED:
                history = worker.history
                counts = (history.failures, history.start_failures)
                return Sentence("again", now + SPAWN_RETRY_S, now + SPAWN_RETRY_S, counts)
            return _sentence(world, worker, event, step, failed_to_start=True)


def _sentence(
    world: World,
    worker: Worker,
    event: Exited | SpawnFailed,
    step: Step,
    *,
    failed_to_start: bool = False,
    hung: bool = False,
) -> Sentence:
    now, cause = step.now, _cause_of(step, worker, event)
    usual, run = worker.policy.restart, world.checks.notes.runs[worker.id]
    policy = dict(usual.on).get(cause, usual)
    code = event.code if isinstance(event, Exited) else None
    was_ready = run.took_s is not None and not failed_to_start
    counts = (worker.history.failures + 1, 0 if was_ready else worker.history.start_failures + 1)
    is_healthy = not failed_to_start and run.is_healthy(worker, now)
    is_at_fault = failed_to_start or hung
    if cause == "device" and policy.policy != "never":
        return Sentence("again", now, now, counts=(worker.history.failures, worker.history.start_failures))
    if code == 0 and not is_at_fault and policy.policy != "always":
        return Sentence("exited", counts=(0, 0))
    if policy.policy == "never" or (code in policy.permanent_exit and not is_at_fault):
        return Sentence("failed", counts=counts)
    if is_healthy:
        return Sentence("again", now, now, counts=(0, 0))
    if worker.history.on_parole:
        return Sentence("failed", counts=counts)
    if 0 < policy.start_limit <= counts[1] or 0 < policy.limit <= counts[0]:
        return Sentence("failed", counts=counts)
    delay = min(policy.max_delay_s, policy.delay_s * 2.0 ** (counts[0] - 1))
    return Sentence("again", now + 0.8 * delay - EPSILON_S, now + 1.2 * delay + EPSILON_S, counts)


def _cause_of(step: Step, worker: Worker, event: Exited | SpawnFailed) -> str:
    """Why a process ended: what we ended it for, the kernel's word, its device, what it said last, or just how."""
    if isinstance(event, SpawnFailed):
        return "spawn"
    if worker.cause is not None:
        return str(worker.cause)
    if event.code != 0 and event.out_of_memory:
        return "host_oom"
    if event.code != 0 and has_sick_device(step, worker):
        return "device"
    if event.code != 0 and "CUDA out of memory" in "".join(event.tail):
        return "cuda_oom"
    return "exit" if event.signal is None else "signal"


def _check_counts(step: Step, before: Worker, sentence: Sentence) -> Iterator[str]:
    after = step.after.workers.get(before.id)
    if after is None or sentence.counts is None:
        return
    if after.state is State.FAILED and after.target is not None and after.target.refused:
        return  # It has lost its place within the same step, and there is no other: its failures do not matter.
    found = (after.history.failures, after.history.start_failures)
    if found != sentence.counts and not (
        before.relaunch or before.renew or _runs_something_old(before) or _is_asked_anew(before, after)
    ):
        yield f"{before.id} counts {found} failures (in all, in starting) instead of {sentence.counts}"


def _check_what_follows(step: Step, before: Worker, after: Worker, sentence: Sentence) -> Iterator[str]:
    now = step.now
    is_refused = after.state is State.FAILED and after.target is not None and after.target.refused
    is_again = after.state in {State.PENDING, *RUNNING} or is_refused
    comes_back = before.relaunch or before.renew or _runs_something_old(before)
    if comes_back or _is_asked_anew(before, after):
        keeps_counts = before.cause is Cause.DEVICE and not before.renew  # What it left behind was not its fault.
        if comes_back and (not is_again or (after.history.failures and not keeps_counts)):
            yield f"{before.id} was to come back at once with clean counts, and is {after.state}"
        return
    if sentence.kind != "again":
        if after.state.value != sentence.kind:
            yield f"{before.id} is {after.state} and not {sentence.kind}"
    elif after.state is State.BACKOFF:
        at = after.deadline
        if at is None or at <= now or not sentence.earliest <= at <= sentence.latest:
            yield f"{before.id} backs off until {at}, not {sentence.earliest} to {sentence.latest}"
    elif not is_again or (sentence.earliest > now + EPSILON_S and not is_refused):
        yield f"{before.id} is {after.state}, and was to start {sentence.earliest} to {sentence.latest}"


def _runs_something_old(worker: Worker) -> bool:
    held, target = worker.held, worker.target
    return held is not None and target is not None and held.launch != target.launch


def _is_asked_anew(before: Worker, after: Worker) -> bool:
    """Something else is wanted of it within the same step."""
    old, new = before.target, after.target
    if old is None or new is None:
        return True
    if new.launch is None and after.state is not State.PENDING:
        return False
    return (old.launch, old.wanted.recipe) != (new.launch, new.wanted.recipe)


def ends_are_told_as_they_were(world: World, step: Step) -> Iterator[str]:
    """The record of an end: what we ended it for, else the want of host memory, its device, how it ended."""
    event = step.event
    if not isinstance(event, Exited):
        return
    before, after = step.before.workers.get(event.worker), step.after.workers.get(event.worker)
    if before is None or after is None or before.incarnation != event.incarnation or after.last_exit is None:
        return
    if event.incarnation in world.checks.notes.lost:
        return  # Its end is on record already.
    record, expected = after.last_exit, _cause_of(step, before, event)
    if str(record.cause) != expected or record.code != event.code or record.at != step.now:
        yield f"{event.worker} ended of {record.cause} with {record.code}, and not of {expected} with {event.code}"


def clean_counts_when_asked(world: World, step: Step) -> Iterator[str]:
    """`start` forgives."""
    if not isinstance(step.event, StartRequested):
        return
    for worker_id in step.before.workers:
        before, after = step.before.workers.get(worker_id), step.after.workers.get(worker_id)
        if not is_named(step.event, worker_id):
            continue
        if before is None or after is None or before.state in HOLDING:
            continue
        if after.history.failures or after.history.start_failures or after.down:
            yield f"{worker_id} was started and keeps {after.history}"


def new_recipe_has_clean_counts(world: World, step: Step) -> Iterator[str]:
    """Nobody pays for the failures of what the file does not say any more."""
    recipes = world.checks.notes.recipes
    for spawn in step.spawns:
        worker = step.after.workers[spawn.worker]
        if recipes.get(spawn.worker, spawn.launch.recipe) != spawn.launch.recipe and worker.history.failures:
            yield f"{spawn.worker} starts as something new with {worker.history.failures} failures"


def lasting_states_are_kept(world: World, step: Step) -> Iterator[str]:
    """Done and failed stay so until an operator, or another file, or a device for who failed for want of one."""
    for change in step.changes:
        if not _leaves_for_good(change):
            continue
        before, after = change.before, change.after
        assert before is not None
        assert after is not None
        assert before.target is not None
        assert after.target is not None
        old, new = before.target.wanted, after.target.wanted
        asked = isinstance(step.event, StartRequested | RestartRequested) and is_named(step.event, change.id)
        asked |= isinstance(step.event, TimePassed) and before.deadline is not None and before.deadline <= step.now
        if not asked and not before.target.refused and (old.recipe, old.request) == (new.recipe, new.request):
            yield f"{change.id} was {before.state} and is {after.state} at {type(step.event).__name__}"


def _leaves_for_good(change: Change) -> bool:
    lasting = {State.EXITED, State.FAILED}
    before, after = change.before, change.after
    if before is None or after is None or before.state not in lasting:
        return False
    return after.state not in lasting | {State.STOPPED}


RULES: tuple[Rule, ...] = (
    ends_follow_the_policy,
    ends_are_told_as_they_were,
    clean_counts_when_asked,
    new_recipe_has_clean_counts,
    lasting_states_are_kept,
)
