"""Roll-outs: one alone first, never too few ready, and back to what was where the new launch does not work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.core.message import BecameUnready, Cause, State
from supervisor.core.turn import Fleet
from supervisor.core.worker import FREED, RUNNING, Worker
from tests.sim.rules_start import extras_by_file, named_devices, wanted_by_file
from tests.sim.rules_step import makes_way
from tests.sim.trouble import Change, Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World


def who_is_kept_was_that_before(world: World, step: Step) -> Iterator[str]:
    """An old launch is one that the worker, or its service, was meant to run before; and only where there is a roll."""
    notes = world.checks.notes
    for worker_id, was in step.after.kept.items():
        if worker_id.service not in step.after.rolls:
            yield f"{worker_id} keeps an old launch without a roll-out"
        worker = step.after.workers.get(worker_id)
        if worker is None or worker.target is None:
            continue
        if (replace(was.recipe, port=None), was.request) not in notes.former.get(worker_id.service, set()):
            yield f"{worker_id} keeps what nobody of its service ever was"
        if worker.target.wanted.recipe != was.recipe:
            yield f"{worker_id} keeps an old launch and is told another"


def first_one_goes_alone(world: World, step: Step) -> Iterator[str]:
    """Nobody who serves is replaced beside the first, before that one has got ready."""
    taken = _taken(world, step)
    for change in taken:
        service = change.id.service
        if world.checks.notes.is_proven(service, step.after.rolls.get(service)):
            continue
        if service not in step.after.rolls:
            yield f"{change.id} is replaced by no roll-out"
        for one in step.after.workers.values():
            if one.id.service != service or one.id == change.id or one.target is None or one.down:
                continue
            is_new = one.id not in step.after.kept and not (one.is_outdated and one.state in RUNNING)
            if is_new and not _is_settled(one) and one.id in step.after.tried and not _leaves_room(step.after, one):
                yield f"{change.id} is replaced while {one.id}, the first, is {one.state}"
        if any(other.id.service == service and other.id != change.id for other in taken):
            yield f"{change.id} is replaced at once with others, and none has got ready before"


def enough_stay_ready(world: World, step: Step) -> Iterator[str]:
    """Through a roll-out no fewer are ready than the target less max_unavailable, but for what dies by itself."""
    for change in _taken(world, step):
        if isinstance(step.event, BecameUnready) and step.event.worker == change.id:
            continue  # It serves nobody any more, of its own.
        spec = step.after.spec.services.get(change.id.service) if step.after.spec else None
        workers = [one for one in step.after.workers.values() if one.id.service == change.id.service and one.target]
        ready = sum(one.state is State.READY for one in workers)
        # What leaves a device to one of these has to be missing.
        others = {one.id for one in workers if one.id in step.after.tried and one.id != change.id}
        room = {one.id for one in workers if one.id in others and _leaves_room(step.after, one)}
        missed = [one for one in workers if one.id not in step.after.extras and not _found_place_after(step, one)]
        expected = sum(_counts(step, one) for one in missed if one.id not in room or one.state is State.READY)
        roll = step.after.rolls.get(change.id.service)
        if spec is not None and ready < expected - (spec.update.max_unavailable or bool(roll and roll.lack)):
            yield f"{change.id} is replaced, and {ready} of {expected} are ready"


def halted_goes_no_further(world: World, step: Step) -> Iterator[str]:
    """Once one has not got ready the others stay, whatever else happens, until the next reload."""
    for change in _taken(world, step):
        before, after = step.before.rolls.get(change.id.service), step.after.rolls.get(change.id.service)
        if after is not None and after.is_halted and before is not None and before.at == after.at:
            yield f"{change.id} is replaced after the roll-out of its service was halted"


def who_does_not_get_ready_goes_back(world: World, step: Step) -> Iterator[str]:
    """Nobody is left failed, or for ever in between, with a launch that another worked before."""
    for worker_id, attempt in step.after.tried.items():
        worker = step.after.workers.get(worker_id)
        if worker is not None and worker.state is State.FAILED and worker_id.service in step.after.rolls:
            yield f"{worker_id} has failed with its new launch and is left so"
        if worker is not None and worker.state is State.BACKOFF and attempt.started_at is not None:
            assert worker.target is not None
            if step.now - attempt.started_at > worker.target.wanted.policy.ready.timeout_s + 100.0:
                yield f"{worker_id} has tried its new launch for {step.now - attempt.started_at:.0f} s"
    if step.before.generation != step.after.generation:
        return
    for worker_id, attempt in step.before.tried.items():
        worker = step.after.workers.get(worker_id)
        if attempt.was is None or worker is None or worker_id in step.after.tried or worker_id in step.after.kept:
            continue
        before = step.before.workers.get(worker_id)
        has_come = (
            worker.was_ready
            or worker.state in {State.READY, State.EXITED}
            or (before is not None and before.state is State.READY)
        )
        has_no_place = worker.target is not None and worker.target.launch is None
        if not has_come and not has_no_place and not worker.down and worker.target is not None:
            yield f"{worker_id} is {worker.state} and nobody knows any more what it was"


def halted_says_so(world: World, step: Step) -> Iterator[str]:
    """A roll-out that is halted is a reload that has failed."""
    for name, roll in step.after.rolls.items():
        before = step.before.rolls.get(name)
        is_new = roll.is_halted and (before is None or not before.is_halted)
        if is_new and (step.after.last_reload is None or step.after.last_reload.ok):
            yield f"the roll-out of {name} is halted and the reload counts as good"


def _taken(world: World, step: Step) -> list[Change]:
    """Workers that were ready and are replaced by a roll-out in this step, but for those who make room."""
    return [
        change
        for change in step.changes
        if change.before is not None
        and change.after is not None
        and change.before.state is State.READY
        and change.after.state is State.STOPPING
        and change.after.cause is Cause.ROLLOUT
        and not change.after.renew
        and not makes_way(step, change)
        and not _leaves_room(step.after, change.after)
    ]


def _leaves_room(fleet: Fleet, worker: Worker) -> bool:
    """Whether it is on a device that another is on its way to, who has no room there otherwise."""
    mine = {share.uuid for share in worker.occupied}
    launches = [one.target.launch for one in fleet.workers.values() if one.target and one.id != worker.id]
    mates = [fleet.workers[one] for one in fleet.tried if one in fleet.workers]
    going = {
        share.uuid
        for one in mates
        if one.id != worker.id and one.target and one.target.launch in launches and one.target.launch
        for share in one.target.launch.slice
    }
    return bool((mine | _instead_of(fleet, worker)) & going)


def _instead_of(fleet: Fleet, worker: Worker | None) -> set[str]:
    """Where the old launch of a worker would have to be from now on that is on a device which the file has no more."""
    if worker is None or worker.held is None:
        return set()
    found = {one.uuid for one in named_devices(fleet, worker.held.wanted.request)}
    return set() if {share.uuid for share in worker.occupied} <= found else found


def _is_settled(worker: Worker) -> bool:
    return worker.state in {State.READY, *FREED} or _has_no_place(worker)


def _counts(step: Step, worker: Worker) -> bool:
    before = step.before.workers.get(worker.id)
    is_starved = worker.starved or (before is not None and before.starved)
    never_came = worker.state is State.PENDING and is_starved and worker.starts == 0
    # One that waited for memory until this very step, in which it has got another place, was not waited for.
    never_came |= before is not None and before.state is State.PENDING and before.starved and before.starts == 0
    return not (worker.down or worker.state in FREED or _has_no_place(worker) or never_came)


def _found_place_after(step: Step, worker: Worker) -> bool:
    """Whether one that never ran has its place from another service, of which one was replaced in this very step."""
    before = step.before.workers.get(worker.id)
    is_new = worker.state is State.PENDING and not worker.starts and (before is None or _has_no_place(before))
    mine = {share.uuid for share in worker.target.launch.slice} if worker.target and worker.target.launch else set()
    gone = [
        change.before
        for change in step.changes
        if change.before and change.after and change.id.service != worker.id.service
        if change.before.state in RUNNING and change.after.cause is Cause.ROLLOUT
    ]
    left = {share.uuid for one in gone for share in one.occupied}
    left |= {uuid for one in gone for uuid in _instead_of(step.after, one)}
    return is_new and bool(mine & left)


def _has_no_place(worker: Worker) -> bool:
    return worker.state is State.PENDING and (worker.target is None or worker.target.launch is None)


def note_rollouts(world: World, step: Step) -> None:
    """Keep books of one's own: what was wanted before, and who has got ready with what the file says."""
    notes = world.checks.notes
    for worker in step.before.workers.values() if step.before.generation != step.after.generation else ():
        if worker.target is not None:
            wanted = worker.target.wanted
            notes.former.setdefault(worker.id.service, set()).add((replace(wanted.recipe, port=None), wanted.request))
    if step.before.spec is not step.after.spec and step.before.spec is not None:
        for one in notes.wanted_before:
            notes.former.setdefault(one.id.service, set()).add((replace(one.recipe, port=None), one.request))
    wanted_now = wanted_by_file(world, step.after)
    notes.wanted_before = tuple(wanted_now.values())
    wanted_now = wanted_now | extras_by_file(step.after)
    for name, roll in step.after.rolls.items():
        if notes.proven.get(name, (None, False))[0] != roll.at:
            notes.proven[name] = (roll.at, False)
    for change in step.changes:
        after, roll_of = change.after, step.after.rolls.get(change.id.service)
        is_done = after is not None and after.state is State.EXITED and change.id in step.before.tried
        if is_done and roll_of is not None:
            notes.proven[change.id.service] = (roll_of.at, True)
        if after is None or after.held is None or after.state is not State.READY or roll_of is None:
            continue
        file = wanted_now.get(change.id)
        if file is not None and after.held.wanted.recipe == file.recipe and not after.is_outdated:
            notes.proven[change.id.service] = (roll_of.at, True)


RULES: tuple[Rule, ...] = (
    who_is_kept_was_that_before,
    first_one_goes_alone,
    enough_stay_ready,
    halted_goes_no_further,
    who_does_not_get_ready_goes_back,
    halted_says_so,
)
