"""A new file, or new devices: who starts, who stops, who is replaced, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from supervisor.core import order, sockets
from supervisor.core.counts import count_workers, with_ports
from supervisor.core.evolve import evolve
from supervisor.core.gpus import make_supply, schedule_retry
from supervisor.core.message import FinishReload, ReadInventory, ReadSpec, Say, SpecLoaded, State
from supervisor.core.moves import new_worker
from supervisor.core.plan import Current, Placement, Supply, make_plan
from supervisor.core.spec import Spec, WorkerId, WorkerSpec, scale_problems
from supervisor.core.turn import DaemonState, Fleet, LastReload, Reload, Turn
from supervisor.core.worker import FREED, HOLDING, LIVING, RUNNING, Relaunched, Unwanted, Wanted, Worker

SETTLED = frozenset({State.READY, State.UNREADY, *FREED})

Plan = dict[WorkerId, Placement]


# ---- reload ---------------------------------------------------------------------------------------------------------


def request(turn: Turn) -> None:
    """Somebody wants a reload. One at a time; one that is asked for meanwhile reads the file once more."""
    fleet = turn.fleet
    if fleet.state is DaemonState.STOPPING:
        turn.do(FinishReload(ok=False, problems=("the daemon is stopping",)))
    elif fleet.reload is not None:
        turn.set(reload=evolve(fleet.reload, again=True, scaled={}))
    else:
        turn.set(state=DaemonState.RELOADING, reload=Reload(at=turn.now))
        turn.do(ReadSpec(), ReadInventory(fresh=True))


def take_spec(turn: Turn, event: SpecLoaded) -> None:
    """A good file: the first takes effect at once, a later one when the devices have been read too."""
    reload = turn.fleet.reload
    if turn.fleet.state is DaemonState.STOPPING:
        return
    if reload is None:
        _apply(turn, event.spec, event.cpu_count)
        turn.do(ReadInventory())
        return
    turn.set(reload=evolve(reload, spec=event.spec, cpu_count=event.cpu_count))
    _complete(turn)


def reject(turn: Turn, problems: tuple[str, ...]) -> None:
    """A bad file changes nothing."""
    if turn.fleet.reload is None:
        return
    if turn.fleet.reload.again:
        _read_again(turn)
        return
    _finish(turn, FinishReload(ok=False, problems=problems))


def devices_read(turn: Turn, asked_at: float) -> None:
    """The driver has answered, or failed to: a reload that waited for it goes on."""
    reload = turn.fleet.reload
    if reload is not None and asked_at >= reload.at:
        turn.set(reload=evolve(reload, devices_read=True))
        _complete(turn)


def abandon(turn: Turn) -> None:
    """The daemon stops: nobody needs to wait for a reload any more."""
    if turn.fleet.reload is not None:
        _finish(turn, FinishReload(ok=False, problems=("the daemon is stopping",)))


def _complete(turn: Turn) -> None:
    reload = turn.fleet.reload
    assert reload is not None
    if reload.spec is None or not reload.devices_read:
        return
    if reload.again:
        _read_again(turn)
        return
    difference = _apply(turn, reload.spec, reload.cpu_count)
    _finish(turn, FinishReload(ok=True, difference=difference))


def _read_again(turn: Turn) -> None:
    """The newest file wins: it may have changed after it was read."""
    assert turn.fleet.reload is not None
    turn.set(reload=evolve(turn.fleet.reload, spec=None, again=False))
    turn.do(ReadSpec())


def _finish(turn: Turn, answer: FinishReload) -> None:
    turn.set(
        reload=None,
        last_reload=LastReload(turn.now, answer.ok, answer.problems),
        state=DaemonState.RUNNING,
    )
    turn.do(answer)


def _apply(turn: Turn, spec: Spec, cpu_count: int) -> dict[WorkerId, str]:
    scaled = _kept_counts(turn, spec, cpu_count)
    floors = _floors(turn.fleet, spec)
    # What the GPUs had place for is in force until they are known to have place for something else.
    sizes = {name: size for name, size in turn.fleet.sizes.items() if _is_sized(spec, name)}
    turn.set(
        spec=spec,
        cpu_count=cpu_count,
        generation=turn.fleet.generation + 1,
        scaled=scaled,
        sizes=with_ports(spec.scale(scaled), cpu_count, sizes),
        sizes_due=True,
    )
    sockets.retry(turn)
    return replan(turn, reloaded=True, floors=floors)


def _kept_counts(turn: Turn, spec: Spec, cpu_count: int) -> Mapping[str, int]:
    """What an operator has asked for since this reload was: it is newer than the file, as far as that allows it."""
    kept: dict[str, int] = {}
    for name, count in turn.fleet.reload.scaled.items() if turn.fleet.reload else ():
        if problems := scale_problems(spec, {**kept, name: count}, cpu_count):
            turn.do(Say("scale.rejected", {"problems": list(problems)}, is_warning=True))
        else:
            kept[name] = count
    return spec.without_effectless(kept, cpu_count)


# ---- the plan -------------------------------------------------------------------------------------------------------


def replan(
    turn: Turn,
    *,
    reloaded: bool = False,
    asked: frozenset[WorkerId] = frozenset(),
    floors: Mapping[str, int] | None = None,
) -> dict[WorkerId, str]:
    """
    Make the plan anew and tell every worker what is wanted of it.

    Args:
        turn: The turn.
        reloaded: A file was loaded: workers that failed for want of a GPU are asked again.
        asked: Workers that an operator restarts: those that run without a GPU are asked for one again.
        floors: Counted services that do not get fewer workers than this; None = none gets fewer than it has.

    Returns:
        What is done about each worker that is touched; see `action_of`.
    """
    spec = turn.fleet.spec
    if spec is None:
        return {}
    if turn.fleet.sizes_due and turn.fleet.trusted:
        _size(turn, spec, turn.fleet.sizes if floors is None else floors)
    spec = spec.scale({**turn.fleet.sizes, **turn.fleet.scaled})
    plan = preview(turn.fleet, spec, turn.fleet.cpu_count, workers=turn.workers, reloaded=reloaded, asked=asked)
    actions = {worker: action_of(turn.workers.get(worker), placement) for worker, placement in plan.items()}
    before = {worker.id for worker in turn.workers.values() if worker.target and worker.target.fallback}
    reasons = {worker.id: worker.target.reason for worker in turn.workers.values() if worker.target}
    gone = [worker.id for worker in turn.workers.values() if worker.id not in plan and worker.target is not None]
    actions |= dict.fromkeys(gone, "stop")
    changed = {one.service for one, placement in plan.items() if _gets_another_launch(turn.workers.get(one), placement)}
    turn.set(
        counts=Counter(worker.service for worker in plan),
        wants_gpu=any(placement.wanted.request.gpu != 0 for placement in plan.values()),
        relaunched_at={**turn.fleet.relaunched_at, **dict.fromkeys(changed, turn.now)},
    )
    if turn.fleet.deadline is None and turn.fleet.asked is None:
        schedule_retry(turn)
    for worker_id in gone:
        turn.tell(worker_id, Unwanted())
    for worker_id, placement in plan.items():
        worker = turn.workers.get(worker_id)
        if worker is None:
            born = new_worker(worker_id, placement, turn.now, down=turn.fleet.is_held(worker_id))
            turn.put(None, born, cause="Wanted")
        elif worker.target != placement:
            turn.tell(worker_id, Wanted(placement))
    _tell_fallbacks(turn, plan, before)
    _tell_waiting(turn, plan, reasons)
    if reloaded:
        # Other reasons to plan anew do not take up a roll-out again that was halted.
        turn.set(rolling=turn.fleet.rolling | {one.id.service for one in turn.workers.values() if one.is_outdated})
    turn.stale = False
    return {worker: action for worker, action in sorted(actions.items()) if action != "keep"}


def _size(turn: Turn, spec: Spec, floors: Mapping[str, int]) -> None:
    """Ask the devices how many workers there are to be. Only another file makes fewer of those that are there."""
    before, cpu_count = turn.fleet.sizes, turn.fleet.cpu_count
    spec = spec.scale(turn.fleet.scaled)
    sizes = _raised({**before, **_sizes(turn.fleet, spec, cpu_count, turn.workers)}, floors)
    # Those that were there are not to lose their ports to those that come.
    sizes = dict(sorted(sizes.items(), key=lambda item: item[1] > before.get(item[0], 0)))
    turn.set(sizes=with_ports(spec, cpu_count, sizes), sizes_due=False)


def _raised(sizes: Mapping[str, int], floors: Mapping[str, int]) -> dict[str, int]:
    return {name: max(size, floors.get(name, 1)) for name, size in sizes.items()}


def _floors(fleet: Fleet, spec: Spec) -> dict[str, int]:
    """
    What a reload leaves to counted services of which nothing is new: one that changes nothing does nothing.

    What others hold, and devices that are gone, are no reason to stop a worker that may well run.
    """
    old = fleet.spec
    if old is None or (old.gpus, old.daemon.headroom) != (spec.gpus, spec.daemon.headroom):
        return {}
    same = [name for name in fleet.sizes if _is_sized(spec, name) and spec.services[name] == old.services.get(name)]
    # Fewer that an operator asked for are all that there are.
    return {name: min(fleet.sizes[name], fleet.scaled.get(name, fleet.sizes[name])) for name in same}


def _sizes(fleet: Fleet, spec: Spec, cpu_count: int, workers: Mapping[WorkerId, Worker]) -> dict[str, int]:
    """How many workers the devices have place for, of each service whose file leaves that to them."""
    if not any(service.is_sized for service in spec.services.values()):
        return {}
    current = {
        one.id: found
        for one in workers.values()
        if one.target is not None and (found := current_of(fleet, one, one.target.wanted, is_asked=False)) is not None
    }
    return count_workers(spec, cpu_count, supply_of(fleet, spec), current, fleet.sizes)


def _is_sized(spec: Spec, name: str) -> bool:
    return name in spec.services and spec.services[name].is_sized


def supply_of(fleet: Fleet, spec: Spec) -> Supply:
    """What there is to hand out under a file."""
    # While the driver errs nobody is placed anew: who has a slice would lose the only one that it may start on.
    dirty = frozenset(fleet.dirty) if fleet.trusted else frozenset()
    return replace(make_supply(fleet), headroom=spec.daemon.headroom, dirty=dirty)


def _gets_another_launch(worker: Worker | None, placement: Placement) -> bool:
    """Whether a plan makes a process one that is to be replaced, or replaced by something else than before it."""
    if worker is None or worker.target is None or worker.state not in HOLDING:
        return False
    return worker.target.launch != placement.launch


def _tell_fallbacks(turn: Turn, plan: Plan, before: set[WorkerId]) -> None:
    """Never silently: one line for each service of which workers now run without the GPU they asked for."""
    fallen: dict[str, list[WorkerId]] = {}
    for worker, placement in plan.items():
        if placement.fallback and worker not in before:
            fallen.setdefault(worker.service, []).append(worker)
    for service, workers in fallen.items():
        reason = plan[workers[0]].reason
        fields = {
            "service": service,
            "workers": [str(worker) for worker in workers],
            "fallback": "cpu",
            "reason": reason,
        }
        turn.do(Say("plan.degraded", fields, is_warning=True))


def _tell_waiting(turn: Turn, plan: Plan, before: Mapping[WorkerId, str]) -> None:
    """One line for each service of which workers wait for a place, whenever the reason is a new one."""
    if not turn.fleet.trusted:
        return
    waiting: dict[tuple[str, str], list[str]] = {}
    for worker, placement in plan.items():
        is_waiting = placement.launch is None and turn.workers[worker].state is State.PENDING
        if is_waiting and before.get(worker) != placement.reason:
            waiting.setdefault((worker.service, placement.reason), []).append(str(worker))
    for (service, reason), workers in waiting.items():
        turn.do(Say("plan.waiting", {"service": service, "workers": workers, "reason": reason}, is_warning=True))


def preview(
    fleet: Fleet,
    spec: Spec,
    cpu_count: int,
    *,
    workers: Mapping[WorkerId, Worker] | None = None,
    reloaded: bool = True,
    asked: frozenset[WorkerId] = frozenset(),
) -> Plan:
    """The plan that a file would have on this fleet. Changes nothing."""
    known = fleet.workers if workers is None else workers
    if any(service.is_sized for service in spec.services.values()):
        # As a reload would: what is counted already stands as a number in the file.
        before = {name: size for name, size in fleet.sizes.items() if _is_sized(spec, name)}
        sizes = _raised(_sizes(fleet, spec, cpu_count, known), _floors(fleet, spec)) if fleet.trusted else before
        spec = spec.scale(with_ports(spec, cpu_count, sizes))
    wanted = spec.expand(cpu_count)
    if fleet.trusted:
        # A driver that errs has no GPU to give, and who runs is better off where it is.
        asked |= {one.id for one in known.values() if one.renew}
    else:
        asked = frozenset()
    idle = {one.id: _idle(known[one.id], one, reloaded=reloaded) for one in wanted if one.id in known}
    # No slice is kept for one that is born held down.
    idle |= {one.id: Placement(one, None) for one in wanted if one.id not in known and fleet.is_held(one.id)}
    current = {
        one.id: found
        for one in wanted
        if (found := current_of(fleet, known.get(one.id), one, is_asked=one.id in asked)) is not None
    }
    # Who was never started has taken nothing yet: it comes in its place in the file, and where it was if that is free.
    newborn = [one for one in current if fleet.trusted and one in known and _is_newborn(known[one])]
    current |= {one: replace(current[one], reserved=False) for one in newborn}
    plan = make_plan(
        [one for one in wanted if idle.get(one.id) is None], supply_of(fleet, spec), current, allowed=spec.gpus
    )
    return {one.id: idle.get(one.id) or plan[one.id] for one in wanted}


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
    if worker is None or placement is None or placement.launch is None or (placement.fallback and is_asked):
        last = fleet.remembered.get(wanted.id)
        return None if last is None else Current(wanted, last, living=False, reserved=False)
    lives_there = worker.state in LIVING and worker.occupied == placement.launch.slice
    return Current(placement.wanted, placement.launch.slice, living=lives_there, fallback=placement.fallback)


# ---- replacing ------------------------------------------------------------------------------------------------------


def roll(turn: Turn) -> None:
    """
    Give the turn to the next worker that runs with an old launch, or is to be restarted: one of a service at a time.

    Nobody is replaced while another of the service is on its way, and nobody any more once one has failed
    with the new launch: the others go on as they are.
    """
    for service in sorted(turn.fleet.rolling | turn.fleet.restarting.keys()):
        is_rolling, restarting = service in turn.fleet.rolling, turn.fleet.restarting.get(service)
        indices = [WorkerId(service, index) for index in range(turn.fleet.counts.get(service, 0))]
        workers = [turn.workers[worker] for worker in indices if worker in turn.workers]
        if restarting is not None and not is_rolling:
            # Whoever else of the service is in trouble has nothing to do with it.
            workers = [worker for worker in workers if worker.id in restarting.workers]
        outdated = [worker for worker in workers if worker.renew or (worker.is_outdated and is_rolling)]
        running = [worker for worker in outdated if worker.state in RUNNING]
        # Not since the last reload: one that changes nothing does not take up again what was halted.
        since = turn.fleet.relaunched_at.get(service) if is_rolling else restarting.at if restarting else None
        failed = [worker for worker in workers if _failed_since(worker, since)]
        if not outdated:
            _end_roll(turn, service)
        elif failed:
            why = "failed with its new launch" if is_rolling else "failed"
            _halt(turn, failed[0], f"{failed[0].id} {why} ({failed[0].reason})", running)
        elif refusals := [text for worker in outdated if (text := sockets.refusal_of(turn.fleet, worker))]:
            _halt(turn, outdated[0], f"{service} {refusals[0]}", running)
        elif any(order.wait_of(turn.fleet, one) or sockets.is_missing(turn.fleet, one) for one in outdated):
            continue  # Whoever were taken down now would wait for those it comes after, or for what it listens to.
        elif all(_is_settled(worker) or _never_came(worker) for worker in workers if worker not in running):
            # Whoever serves nobody goes first, so that there is never a second one beside it that does not.
            running.sort(key=lambda one: (one.state is not State.STARTING, one.is_outdated, one.id))
            for worker in running[:1]:
                turn.tell(worker.id, Relaunched())


def unsettled(fleet: Fleet) -> tuple[WorkerId, ...]:
    """Workers that are still on their way to what the file in force wants of them."""
    return tuple(
        worker.id
        for worker in fleet.workers.values()
        if not order.is_hopeless(fleet, fleet.workers, worker)
        and not _lacks_sockets(fleet, worker)
        and (not _is_settled(worker) or (worker.is_outdated and worker.id.service in fleet.rolling))
    )


def failures_since_reload(fleet: Fleet) -> tuple[str, ...]:
    """What has gone wrong with the last reload, its refusal included, as lines for a person."""
    last = fleet.last_reload
    problems = last.problems if last else ()
    failed = [one for one in fleet.workers.values() if _failed_since(one, last.at if last else None)]
    # Who has halted its service is named there already.
    unnamed = [one for one in failed if not any(problem.startswith(f"{one.id} failed ") for problem in problems)]
    unnamed.sort(key=lambda one: one.id)
    mute = sorted((one for one in fleet.workers.values() if _lacks_sockets(fleet, one)), key=lambda one: one.id)
    return (
        *problems,
        *(f"{one.id} failed: {one.reason}" for one in unnamed),
        *(f"{one.id} waits: {sockets.refusal_of(fleet, one)}" for one in mute),
    )


def _lacks_sockets(fleet: Fleet, worker: Worker) -> bool:
    """Whether a worker waits for an address that somebody else has: nothing will come of it by itself."""
    return worker.state is State.PENDING and sockets.refusal_of(fleet, worker) is not None


def _is_settled(worker: Worker) -> bool:
    has_no_place = worker.target is None or worker.target.launch is None
    return worker.state in SETTLED or (worker.state is State.PENDING and has_no_place)


def _never_came(worker: Worker) -> bool:
    """
    Whether a worker that was never started waits for memory.

    It may wait for what those have that are to be replaced: that must not wait for it in turn.
    """
    return worker.state is State.PENDING and worker.starved and worker.starts == 0


def _failed_since(worker: Worker, at: float | None) -> bool:
    refused = worker.target is not None and worker.target.refused
    return at is not None and worker.state is State.FAILED and worker.since >= at and not refused


def _end_roll(turn: Turn, service: str) -> None:
    restarting = {name: one for name, one in turn.fleet.restarting.items() if name != service}
    turn.set(rolling=turn.fleet.rolling - {service}, restarting=restarting)


def _halt(turn: Turn, first: Worker, why: str, others: list[Worker]) -> None:
    """The next process does not work: the rest of the service stays as it is, and a reload has failed."""
    service = first.id.service
    is_reload = service in turn.fleet.rolling
    kept = "keep the old one" if is_reload else "were not restarted"
    problem = f"{why}; {len(others)} of {service} {kept}"
    for worker in others:
        if worker.renew:
            turn.change(evolve(worker, renew=False))  # Asked for again, it is another restart.
    _end_roll(turn, service)
    if is_reload:
        turn.set(last_reload=LastReload(turn.now, ok=False, problems=(problem,)))
    turn.do(Say("plan.halted", {"service": service, "worker": str(first.id), "problem": problem}, is_warning=True))
