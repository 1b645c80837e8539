"""What an operator has asked for, and what follows failing for good: restarts in turn, counts, parole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.file.service import Request, WorkerEntry
from supervisor.core.message import Cause, RestartRequested, ScaleRequested, State, TimePassed
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import RUNNING, Worker
from tests.sim.rules_start import eligible_devices, headroom
from tests.sim.rules_state import could_be_placed
from tests.sim.rules_step import is_settled, makes_way
from tests.sim.trouble import EPSILON_S, Rule, Step, is_named

if TYPE_CHECKING:
    from supervisor.core.spec import Recipe, Spec
    from tests.sim.world import World


def few_are_restarted_at_a_time(world: World, step: Step) -> Iterator[str]:
    """No more than may be missing at once, and nobody any more once one has failed."""
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or before.state not in RUNNING or after.state is not State.STOPPING:
            continue
        restarting = step.after.restarting.get(change.id.service)
        is_turn = after.renew and after.cause is Cause.OPERATOR and not after.down
        if not is_turn or after.target is None or restarting is None or makes_way(step, change):
            continue
        others = [step.after.workers.get(one) for one in restarting.workers - {change.id}]
        mates = [one for one in others if one is not None and one.target is not None]
        missing = [one for one in mates if not (one.renew and one.state in RUNNING) and not is_settled(one)]
        # Who never came, and finds memory in this very step, was not waited for.
        missing = [one for one in missing if not _never_came(step, one)]
        spec = step.after.spec.services.get(change.id.service) if step.after.spec else None
        if spec is not None and len(missing) >= max(1, spec.update.max_unavailable):
            yield f"{change.id} is restarted while {[f'{one.id} is {one.state}' for one in missing]}"
        if change.id.service in step.after.rolling:
            yield f"{change.id} is restarted in the middle of a roll-out"
        for other in mates:
            is_refused = other.target is not None and other.target.refused
            if other.state is State.FAILED and other.since >= restarting.at and not is_refused:
                yield f"{change.id} is restarted after {other.id} failed"


def _never_came(step: Step, worker: Worker) -> bool:
    """Whether it waits for memory, or did until now, and was never started."""
    before = step.before.workers.get(worker.id)
    return worker.state is State.PENDING and worker.starts == 0 and before is not None and before.starved


def restart_is_heard(world: World, step: Step) -> Iterator[str]:
    """Whoever it is about gets another process or waits for its turn, but for those that are held down."""
    if not isinstance(step.event, RestartRequested) or step.after.state is DaemonState.STOPPING:
        return
    for worker_id, before in step.before.workers.items():
        after = step.after.workers.get(worker_id)
        if after is None or after.target is None or not is_named(step.event, worker_id) or before.down:
            continue
        is_replaced = after.incarnation != before.incarnation
        # A turn that comes at once may halt at once, where one has failed in the same moment.
        is_halted = before.state in RUNNING and worker_id.service not in step.after.restarting
        is_on_its_way = after.renew or after.relaunch or after.state is State.PENDING
        is_refused = after.state is State.FAILED and after.target.refused
        if not (is_replaced or is_on_its_way or is_halted or is_refused):
            yield f"{worker_id} was {before.state} and is {after.state} after a restart was asked for"


def restart_asks_for_a_gpu(world: World, step: Step) -> Iterator[str]:
    """Who runs without the GPU that it asked for gets one, where there is one."""
    if not isinstance(step.event, RestartRequested) or not step.after.trusted:
        return
    if step.after.state is DaemonState.STOPPING:
        return  # Nobody is started again.
    for worker_id, before in step.before.workers.items():
        after = step.after.workers.get(worker_id)
        if after is None or after.target is None or before.target is None or before.down:
            continue
        is_about_it = before.target.fallback and is_named(step.event, worker_id)
        if is_about_it and after.target.fallback and could_be_placed(step, after):
            yield f"{worker_id} was restarted and stays on the CPU, and there is a GPU"


def counts_are_taken_back_by_a_reload(world: World, step: Step) -> Iterator[str]:
    """Those of the file are in force but for what was asked for since."""
    fleet, notes = step.after, world.checks.notes
    if fleet.spec is None:
        return
    usual = {
        name: None if service.workers in ("per_gpu", "fit") else len(service.entries(fleet.cpu_count))
        for name, service in fleet.spec.services.items()
    }
    expected = {name: count for name, count in notes.scaled.items() if usual[name] != count}
    if fleet.scaled != expected:
        yield f"scaled are {dict(fleet.scaled)} and not {expected}"


def sizes_are_asked_when_somebody_asks(world: World, step: Step) -> Iterator[str]:
    """What the GPUs have place for: at a load, a reload, or an order for counts; fewer only at the first two."""
    before, after = step.before, step.after
    if after.spec is None or before.sizes == after.sizes:
        return
    is_new = before.generation != after.generation
    if not is_new and not before.sizes_due and not isinstance(step.event, ScaleRequested):
        yield f"sizes are {after.sizes} of themselves"
    for name, size in after.sizes.items():
        service = after.spec.services[name]
        if size < 1 or service.workers not in ("per_gpu", "fit"):
            yield f"{name} has {size} workers"
        if not is_new and size < before.sizes.get(name, 1):
            yield f"{name} has {size} workers of itself, and had {before.sizes[name]}"
        request = service.request(WorkerEntry())
        if is_new and after.trusted and service.workers == "per_gpu" and name not in after.scaled:
            places, floor = _places(step, request), _floor(before, after.spec, name)
            if size > max(floor, places) or size < (floor if service.port else max(floor, places)):
                yield f"{name} has {size} workers, place for {places}, and had {floor}"


def _floor(before: Fleet, spec: Spec, name: str) -> int:
    """A file in which nothing is new for a service takes away none of its workers; an operator may have before."""
    old = before.spec
    if old is None or old.gpus != spec.gpus or old.daemon.headroom != spec.daemon.headroom:
        return 1
    if old.services.get(name) != spec.services[name] or name not in before.sizes:
        return 1
    return max(1, min(before.sizes[name], before.scaled.get(name, before.sizes[name])))


def _places(step: Step, request: Request) -> int:
    fleet = step.after
    found = 0
    for one in eligible_devices(fleet, request):
        if one.parent is not None and request.gpu != "all" and request.gpu > 1000:
            continue  # A process sees one instance.
        total = one.memory_total_bytes
        need = 0 if request.gpu_memory is None or total is None else amount_bytes(request.gpu_memory, total)
        has_room = total is None or not need or need + headroom(fleet, total) <= total
        found += one.is_usable and one.uuid not in fleet.elsewhere and has_room
    assert isinstance(request.gpu, int)
    return found * (1000 // request.gpu) if request.gpu <= 1000 else found // (request.gpu // 1000)


def _recipe_of(worker: Worker) -> Recipe | None:
    return worker.target.wanted.recipe if worker.target else None


def parole_has_its_time(world: World, step: Step) -> Iterator[str]:
    """One try after so long, further ones after three times as long; never for `never`, nor for want of a GPU."""
    for change in step.changes:
        before, after = change.before, change.after
        if after is not None and after.state is State.FAILED and after.target is not None:
            usual = after.policy.restart
            policy = dict(usual.on).get(str(after.last_exit.cause), usual) if after.last_exit else usual
            wait_s = policy.parole_s * (3 if after.history.on_parole else 1)
            is_never = wait_s == 0 or policy.policy == "never" or after.target.refused
            expected = None if is_never else after.since + wait_s
            is_right = after.deadline is expected
            if after.deadline is not None and expected is not None:
                is_right = abs(after.deadline - expected) <= EPSILON_S
            if not is_right:
                yield f"{change.id} is on parole at {after.deadline} and not at {expected}"
        if before is None or after is None or before.state is not State.FAILED or after.state is State.FAILED:
            continue
        is_due = isinstance(step.event, TimePassed) and change.id in step.event.workers
        # A roll-out that has waited for it may give it its new launch at once, which has clean counts.
        is_due = is_due and _recipe_of(before) == _recipe_of(after)
        if is_due and not after.history.on_parole and after.state is not State.STOPPED:
            yield f"{change.id} is tried once more and nobody notes it"


RULES: tuple[Rule, ...] = (
    few_are_restarted_at_a_time,
    restart_is_heard,
    restart_asks_for_a_gpu,
    counts_are_taken_back_by_a_reload,
    sizes_are_asked_when_somebody_asks,
    parole_has_its_time,
)
