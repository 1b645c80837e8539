"""
What a file would make of a fleet: where every worker would go, and what that means for it.

Changes nothing: `rescale` carries it out, and whoever wants to know beforehand asks here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from supervisor.core.counts import count_workers, with_ports
from supervisor.core.evolve import evolve
from supervisor.core.extras import allowed_extras, place_extras
from supervisor.core.gpus import make_supply
from supervisor.core.inventory import Health
from supervisor.core.message import State
from supervisor.core.plan import Current, Placement, Supply, make_plan
from supervisor.core.spec import Spec, WorkerId, WorkerSpec
from supervisor.core.turn import Fleet
from supervisor.core.worker import FREED, HOLDING, LIVING, RUNNING, Worker, reach

Plan = dict[WorkerId, Placement]


NOBODY: Mapping[WorkerId, WorkerSpec] = {}


def preview(
    fleet: Fleet,
    spec: Spec,
    cpu_count: int,
    *,
    workers: Mapping[WorkerId, Worker] | None = None,
    reloaded: bool = True,
    asked: frozenset[WorkerId] = frozenset(),
    kept: Mapping[WorkerId, WorkerSpec] = NOBODY,
) -> Plan:
    """
    The plan that a file would have on this fleet. Changes nothing.

    Args:
        fleet: Its devices, and who is where.
        spec: The file.
        cpu_count: What ``workers: cpu_count`` means here.
        workers: As they are now; None = those of the fleet.
        reloaded: Workers that failed for want of a GPU are asked again.
        asked: Those that run without a GPU and are asked for one again.
        kept: Workers that stay what they were, whatever the file says; see `as_kept`.
    """
    known = fleet.workers if workers is None else workers
    if any(service.is_sized for service in spec.services.values()):
        # As a reload would: what is counted already stands as a number in the file.
        before = {name: size for name, size in fleet.sizes.items() if is_sized(spec, name)}
        sizes = raised(sizes_of(fleet, spec, cpu_count, known), floors_of(fleet, spec)) if fleet.trusted else before
        spec = spec.scale(with_ports(spec, cpu_count, sizes))
    extras = [as_kept(kept[one.id], one) if one.id in kept else one for one in allowed_extras(fleet, spec, cpu_count)]
    # Who has a process stays where it is, as others do; for the rest there is what those leave.
    late = [one for one in extras if not _lives_on(known.get(one.id), one)]
    wanted = tuple(as_kept(kept[one.id], one) if one.id in kept else one for one in spec.expand(cpu_count))
    wanted += tuple(one for one in extras if one not in late)
    if fleet.trusted:
        # A driver that errs has no GPU to give, and who runs is better off where it is.
        asked |= {one.id for one in known.values() if one.renew}
    else:
        asked = frozenset()
    idle = {one.id: _idle(known[one.id], one, reloaded=reloaded) for one in (*wanted, *late) if one.id in known}
    # No slice is kept for one that is born held down.
    idle |= {one.id: Placement(one, None) for one in wanted if one.id not in known and fleet.is_held(one.id)}
    current = {
        one.id: found
        for one in (*wanted, *late)
        if (found := current_of(fleet, known.get(one.id), one, is_asked=one.id in asked)) is not None
    }
    # Who was never started has taken nothing yet: it comes in its place in the file, and where it was if that is free.
    newborn = [one for one in current if fleet.trusted and one in known and _is_newborn(known[one])]
    current |= {one: replace(current[one], reserved=False) for one in newborn}
    asking, supply = [one for one in wanted if idle.get(one.id) is None], supply_of(fleet, spec)
    plan = make_plan(asking, supply, current, allowed=spec.gpus)
    if late:
        taken = _taken(fleet, known.values(), plan)
        coming = [one for one in late if idle.get(one.id) is None]
        plan |= place_extras(coming, asking, supply, current, allowed=spec.gpus, taken=taken)
    return {one.id: idle.get(one.id) or plan[one.id] for one in (*wanted, *late)}


def _taken(fleet: Fleet, workers: Iterable[Worker], plan: Plan) -> dict[str, set[str]]:
    """Devices that the workers of each service have, or are to have, but for extra ones."""
    taken: dict[str, set[str]] = {}
    for worker in workers:
        if worker.id not in fleet.extras:
            taken.setdefault(worker.id.service, set()).update(reach(worker))
    for worker_id, placement in plan.items():
        if worker_id not in fleet.extras and placement.launch is not None:
            taken.setdefault(worker_id.service, set()).update(share.uuid for share in placement.launch.slice)
    return taken


def _lives_on(worker: Worker | None, wanted: WorkerSpec) -> bool:
    """Whether a worker has a process that a plan may leave where it is."""
    if worker is None or worker.state not in LIVING or worker.held is None:
        return False
    return worker.held.wanted.request == wanted.request


def _is_newborn(worker: Worker) -> bool:
    return worker.state is State.PENDING and not worker.starts


def action_of(worker: Worker | None, placement: Placement) -> str:
    """What taking a placement means for a worker: `start keep replace stop wait`."""
    if worker is None or worker.target is None:
        return "start" if placement.launch else "wait"
    if worker.state in HOLDING and worker.held is not None:
        if worker.held.launch == placement.launch:
            return "keep"
        return "replace" if placement.launch else "stop"
    same_place = placement.launch is not None and worker.target.launch == placement.launch
    if same_place or worker.target == placement or (placement.launch is None and worker.state in FREED):
        return "keep"
    return "start" if placement.launch else "wait"


def _idle(worker: Worker, wanted: WorkerSpec, *, reloaded: bool) -> Placement | None:
    """The placement of a worker that has ended and is not asked again: no slice is kept for it."""
    target = worker.target
    if worker.state not in FREED or target is None:
        return None
    same = (target.wanted.recipe, target.wanted.request) == (wanted.recipe, wanted.request)
    if worker.state is not State.STOPPED and (not same or (reloaded and target.refused)):
        return None
    return evolve(target, wanted=wanted, launch=None)


def current_of(fleet: Fleet, worker: Worker | None, wanted: WorkerSpec, *, is_asked: bool) -> Current | None:
    """Where a worker is, is going, or was."""
    placement = None
    if worker is not None:
        going = worker.target if worker.target and worker.target.launch else None
        placement = going or (worker.held if worker.state in HOLDING else None)
        if going is not None and _runs_again(worker, going, wanted):
            placement = worker.held
    if worker is None or placement is None or placement.launch is None or (placement.fallback and is_asked):
        last = fleet.remembered.get(wanted.id)
        return None if last is None else Current(wanted, last, living=False, reserved=False)
    lives_there = worker.state in LIVING and worker.occupied == placement.launch.slice
    return Current(placement.wanted, placement.launch.slice, living=lives_there, fallback=placement.fallback)


def _runs_again(worker: Worker, going: Placement, wanted: WorkerSpec) -> bool:
    """Whether a worker on its way elsewhere is to be what it still runs: then it is where it lives."""
    if worker.state not in RUNNING or worker.held is None:
        return False
    return is_another(going.wanted, wanted) and not is_another(worker.held.wanted, wanted)


def as_kept(was: WorkerSpec, wanted: WorkerSpec) -> WorkerSpec:
    """
    What a worker is that keeps its launch: it is treated as the newest file says.

    But how it gets ready and is seen to live belongs to what it runs.
    """
    policy = replace(wanted.policy, ready=was.policy.ready, alive=was.policy.alive)
    return replace(was, policy=policy)


def is_another(was: WorkerSpec, wanted: WorkerSpec) -> bool:
    """Whether the file asks for something else than before, apart from how it is treated."""
    return (was.recipe, was.request) != (wanted.recipe, wanted.request)


# ---- counts ---------------------------------------------------------------------------------------------------------


def sizes_of(fleet: Fleet, spec: Spec, cpu_count: int, workers: Mapping[WorkerId, Worker]) -> dict[str, int]:
    """How many workers the devices have place for, of each service whose file leaves that to them."""
    if not any(service.is_sized for service in spec.services.values()):
        return {}
    current = {
        one.id: found
        for one in workers.values()
        if one.target is not None
        and one.id not in fleet.extras
        and (found := current_of(fleet, one, one.target.wanted, is_asked=False)) is not None
    }
    return count_workers(spec, cpu_count, supply_of(fleet, spec), current, fleet.sizes)


def floors_of(fleet: Fleet, spec: Spec) -> dict[str, int]:
    """
    What a reload leaves to counted services of which nothing is new: one that changes nothing does nothing.

    What others hold, and devices that are gone, are no reason to stop a worker that may well run.
    """
    old = fleet.spec
    if old is None or (old.gpus, old.daemon.headroom) != (spec.gpus, spec.daemon.headroom):
        return {}
    same = [name for name in fleet.sizes if is_sized(spec, name) and spec.services[name] == old.services.get(name)]
    # Fewer that an operator asked for are all that there are.
    return {name: min(fleet.sizes[name], fleet.scaled.get(name, fleet.sizes[name])) for name in same}


def raised(sizes: Mapping[str, int], floors: Mapping[str, int]) -> dict[str, int]:
    """The sizes, none below its floor nor below one."""
    return {name: max(size, floors.get(name, 1)) for name, size in sizes.items()}


def is_sized(spec: Spec, name: str) -> bool:
    """Whether a file leaves the count of a service to the GPUs."""
    return name in spec.services and spec.services[name].is_sized


def suspects(fleet: Fleet) -> frozenset[str]:
    """Devices that are used only where there is no other."""
    devices = fleet.inventory.devices if fleet.inventory else ()
    return frozenset(one.uuid for one in devices if one.health is Health.SUSPECT)


def supply_of(fleet: Fleet, spec: Spec) -> Supply:
    """What there is to hand out under a file."""
    # While the driver errs nobody is placed anew: who has a slice would lose the only one that it may start on.
    dirty = frozenset(fleet.dirty) | suspects(fleet) if fleet.trusted else frozenset()
    unready = frozenset(fleet.unready) if fleet.trusted else frozenset()
    return replace(make_supply(fleet), headroom=spec.daemon.headroom, dirty=dirty, unready=unready)
