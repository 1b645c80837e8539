"""Extra workers of a roll-out: few, elsewhere, for as long as they are of use, and wherever there is room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.inventory import Health
from supervisor.core.message import Cause, State
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import HOLDING, Worker
from tests.sim.notes import scaled_file
from tests.sim.rules_start import eligible_devices, wanted_by_file
from tests.sim.rules_state import planned_on
from tests.sim.rules_step import is_settled
from tests.sim.trouble import Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World


def extras_are_few(world: World, step: Step) -> Iterator[str]:
    """No more than the file says, beyond the count, and none without a roll-out to begin with."""
    fleet = step.after
    wanted = wanted_by_file(world, fleet)
    for name in {one.service for one in fleet.extras}:
        mine = [one for one in fleet.extras if one.service == name]
        update = fleet.spec.services[name].update if fleet.spec and name in fleet.spec.services else None
        if update is None or len(mine) > update.surge:
            yield f"{name} has {sorted(map(str, mine))}, the file says {update}"
        if new := [one for one in mine if one not in step.before.extras and name not in fleet.rolling]:
            yield f"{new} come without a roll-out"
    if inside := [str(one) for one in fleet.extras if one in wanted]:
        yield f"{inside} are workers of the file"


def extra_starts_elsewhere(world: World, step: Step) -> Iterator[str]:
    """On no device that a worker of its service is on or meant for, and never without the GPU that it asks for."""
    for spawn in step.spawns:
        if spawn.worker not in step.after.extras:
            continue
        mine = {share.uuid for share in spawn.launch.slice}
        for mate in _mates(step.after, spawn.worker.service):
            if both := mine & _devices_of(mate):
                yield f"{spawn.worker} starts on {both}, where {mate.id} is"
        target = step.after.workers[spawn.worker].target
        if target is not None and target.wanted.request.gpu != 0 and not mine:
            yield f"{spawn.worker} starts without the GPU that it asks for"


def extra_serves_as_long_as_somebody_is_missing(world: World, step: Step) -> Iterator[str]:
    """One that is ready is ended when nobody of its service is on the way any more, or by who may say so."""
    fleet = step.after
    if fleet.state is DaemonState.STOPPING:
        return
    for change in step.changes:
        before, after = change.before, change.after
        is_mine = change.id in step.before.extras and change.id not in fleet.extras
        if not is_mine or before is None or before.state is not State.READY:
            continue
        if after is None or after.state is not State.STOPPING or after.target is not None or after.down:
            continue
        service = fleet.spec.services.get(change.id.service) if fleet.spec else None
        if service is None or after.cause is not Cause.OPERATOR:
            continue
        if len([one for one in step.before.extras if one.service == change.id.service]) > service.update.surge:
            continue  # A file that wants fewer of them.
        # Who has no place otherwise may have that of the extra one.
        mine = {share.uuid for share in before.occupied}
        mates = [one for one in _mates(fleet, change.id.service) if not _was_without_place(step, one.id)]
        mates = [one for one in mates if not mine & _devices_of(one) and not _goes_now(step, one)]
        if late := [f"{one.id} is {one.state}" for one in mates if not is_settled(one)]:
            yield f"{change.id} is ended while {late}"


def room_is_used(world: World, step: Step) -> Iterator[str]:
    """A roll-out says that there is no room only where there is none."""
    for name, roll in step.after.rolls.items():
        before = step.before.rolls.get(name)
        is_said = roll.lack.startswith("no room") and (before is None or not before.lack)
        if is_said and step.after.trusted and _has_room(step, name):
            yield f"{name} rolls without extra workers ({roll.lack}), and there is room for one"


def _has_room(step: Step, service: str) -> bool:
    """Whether a whole device that would do is nobody's."""
    fleet = step.after
    assert fleet.spec is not None
    (found,) = list(_one_of(fleet.spec, service).expand(fleet.cpu_count))
    request = found.request
    if request.gpu == 0:
        return True
    if request.gpu == "all" or request.gpu > 1000 or request.gpu_memory is not None:
        return False  # Whether there is takes more than a look.
    planned = planned_on(step)
    devices = eligible_devices(fleet, request)
    return any(
        one.health is Health.OK and one.uuid not in fleet.elsewhere and not planned.get(one.uuid)
        for one in devices
        if one.uuid not in fleet.occupied
    )


def _one_of(spec: Spec, service: str) -> Spec:
    alone = spec.model_copy(update={"services": {service: spec.services[service]}})
    return scaled_file(alone, {service: 1})


def _mates(fleet: Fleet, service: str) -> list[Worker]:
    """Workers of a service that the file has."""
    return [one for one in fleet.workers.values() if one.id.service == service and _is_mate(fleet, one)]


def _was_without_place(step: Step, worker: WorkerId) -> bool:
    before = step.before.workers.get(worker)
    return before is not None and before.target is not None and before.target.launch is None


def _goes_now(step: Step, worker: Worker) -> bool:
    """Whether it was back, and is recycled by the same step: its turn comes when nobody is missing any more."""
    before = step.before.workers.get(worker.id)
    return before is not None and before.state is State.READY and worker.cause is Cause.RECYCLE


def _is_mate(fleet: Fleet, worker: Worker) -> bool:
    return worker.target is not None and worker.id not in fleet.extras


def _devices_of(worker: Worker) -> set[str]:
    meant = worker.target.launch.slice if worker.target and worker.target.launch else ()
    occupied = worker.occupied if worker.state in HOLDING else ()
    return {share.uuid for share in (*meant, *occupied)}


def leftovers(fleet: Fleet) -> list[WorkerId]:
    """Extra workers that are there though no roll-out is under way."""
    return sorted(one for one in fleet.extras if one.service not in fleet.rolling)


RULES: tuple[Rule, ...] = (
    extras_are_few,
    extra_starts_elsewhere,
    extra_serves_as_long_as_somebody_is_missing,
    room_is_used,
)
