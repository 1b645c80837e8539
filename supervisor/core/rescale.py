"""A new file, or new devices: the plan is made anew, and every worker is told what is wanted of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from supervisor.core import revision, surge
from supervisor.core.counts import with_ports
from supervisor.core.gpus import schedule_retry
from supervisor.core.message import Say, State
from supervisor.core.moves import new_worker
from supervisor.core.preview import NOBODY, Plan, action_of, preview, raised, sizes_of
from supervisor.core.spec import Spec, WorkerId, WorkerSpec
from supervisor.core.turn import Fleet, Turn
from supervisor.core.worker import Unwanted, Wanted


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
    spec = spec_in_force(turn.fleet)
    surge.end_unwanted(turn, spec)
    plan = _plan_of(turn, spec, reloaded=reloaded, asked=asked)
    of_file = {worker: one for worker, one in plan.items() if worker not in turn.fleet.extras}
    actions = {worker: action_of(turn.workers.get(worker), placement) for worker, placement in of_file.items()}
    gone = [worker.id for worker in turn.workers.values() if worker.id not in plan and worker.target is not None]
    actions |= dict.fromkeys(gone, "stop")
    if reloaded:
        revision.begin(turn, plan)
    revision.settle(turn, spec, plan)
    if turn.fleet.kept:
        plan = _plan_of(turn, spec, reloaded=reloaded, asked=asked, kept=turn.fleet.kept)
    if turn.fleet.extras and (left := surge.end_homeless(turn, plan)):
        gone += left
        plan = {worker: one for worker, one in plan.items() if worker not in left}
    _take(turn, plan, gone)
    if reloaded:
        revision.note_outdated(turn)
    turn.stale = False
    return {worker: action for worker, action in sorted(actions.items()) if action != "keep"}


def spec_in_force(fleet: Fleet) -> Spec:
    """The file with the counts that are in force, which an operator or the GPUs may say."""
    return (fleet.spec or Spec()).scale({**fleet.sizes, **fleet.scaled})


def _plan_of(
    turn: Turn,
    spec: Spec,
    *,
    reloaded: bool,
    asked: frozenset[WorkerId],
    kept: Mapping[WorkerId, WorkerSpec] = NOBODY,
) -> Plan:
    fleet, workers = turn.fleet, turn.workers
    return preview(fleet, spec, fleet.cpu_count, workers=workers, reloaded=reloaded, asked=asked, kept=kept)


def _take(turn: Turn, plan: Plan, gone: list[WorkerId]) -> None:
    """Tell every worker what the plan has for it."""
    before = {worker.id for worker in turn.workers.values() if worker.target and worker.target.fallback}
    reasons = {worker.id: worker.target.reason for worker in turn.workers.values() if worker.target}
    turn.set(
        counts=Counter(worker.service for worker in plan if worker not in turn.fleet.extras),
        wants_gpu=any(placement.wanted.request.gpu != 0 for placement in plan.values()),
    )
    if turn.fleet.look_at is None and turn.fleet.asked is None:
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


def _size(turn: Turn, spec: Spec, floors: Mapping[str, int]) -> None:
    """Ask the devices how many workers there are to be. Only another file makes fewer of those that are there."""
    before, cpu_count = turn.fleet.sizes, turn.fleet.cpu_count
    spec = spec.scale(turn.fleet.scaled)
    sizes = raised({**before, **sizes_of(turn.fleet, spec, cpu_count, turn.workers)}, floors)
    # Those that were there are not to lose their ports to those that come.
    sizes = dict(sorted(sizes.items(), key=lambda item: item[1] > before.get(item[0], 0)))
    turn.set(sizes=with_ports(spec, cpu_count, sizes), sizes_due=False)


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
