"""
Whose turn it is to be replaced: by a new launch, first one alone, then as many as may be missing; or for an operator.

Says when; what a worker was before, and goes back to, is in `revision`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from supervisor.core import order, rescale, revision, sockets, surge
from supervisor.core.evolve import evolve
from supervisor.core.extras import extras_of
from supervisor.core.memory import hopeless
from supervisor.core.message import Say, State
from supervisor.core.moves import last_words
from supervisor.core.outcome import failed_since, is_settled, is_without_place, never_came
from supervisor.core.preview import Plan, preview
from supervisor.core.slices import Placement
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet, LastReload, Roll, Turn
from supervisor.core.worker import FREED, RUNNING, Relaunched, Worker

MEMORY_S = 60.0
"""The memory of its last process may take so long to come back, which is no fault of the new launch."""

_RANK = {State.STARTING: 1, State.UNREADY: 2, State.READY: 3}
"""Who serves nobody goes first."""


def roll(turn: Turn) -> None:
    """Let those be replaced whose turn has come."""
    for service in sorted(turn.fleet.rolling | turn.fleet.restarting.keys()):
        if service in turn.fleet.rolling:
            _advance(turn, service)
        if service in turn.fleet.restarting and service not in turn.fleet.rolling:
            _restart_next(turn, service)
    for service in sorted({one.service for one in turn.fleet.extras} - turn.fleet.rolling):
        if surge.end_all(turn, service, is_over=not _is_under_way(turn, service)):
            rescale.replan(turn)


# ---- a new launch ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """
    How a service stands in the middle of a roll-out.

    Args:
        candidates: Who still has to be replaced, each with its state.
        arriving: Somebody is on its way to the new launch.
        ready: Workers that are ready.
        expected: Workers that should be, by the file.
        is_proven: One has got ready with the new launch.
        extras: Who of them is beyond what the file says: nobody misses it.
    """

    candidates: tuple[tuple[WorkerId, State], ...]
    arriving: bool
    ready: int
    expected: int
    is_proven: bool
    extras: frozenset[WorkerId] = frozenset()


def next_batch(standing: Standing, max_unavailable: int) -> tuple[WorkerId, ...]:
    """Whose turn it is: first one alone; then who serves nobody anyway, and of the rest as many as may be missing."""
    ranks = sorted((_RANK.get(state, 0), one not in standing.extras, one) for one, state in standing.candidates)
    ranked = [(rank, one) for rank, _, one in ranks]
    idle = [one for rank, one in ranked if rank < _RANK[State.READY]]
    spare = max(0, standing.ready - (standing.expected - max_unavailable))
    if not standing.is_proven:
        first = () if standing.arriving or not (idle or spare) else ranked[:1]
        return tuple(one for _, one in first)
    # One that has failed is missed again from the moment at which it is on its way.
    return tuple(idle) or tuple(one for _, one in ranked[:spare])


def _advance(turn: Turn, service: str) -> None:
    _keep_who_serves(turn, service)
    # Whose turn it was for an earlier file goes on to this one's at once.
    mine = [turn.workers[one] for one in turn.fleet.tried if one.service == service and one in turn.workers]
    going = [one.id for one in mine if not sockets.is_missing(turn.fleet, one)]
    _relaunch(turn, [one for one in going if one not in turn.fleet.extras])
    _note_arrivals(turn, service)
    one = turn.fleet.rolls[service]
    workers = workers_of(turn, service)
    for worker in (*workers, *_extras(turn, service)):
        if (why := _why_failed(turn, worker, one)) is not None:
            _halt(turn, service, worker.id, why)
            return
    if surge.end_useless(turn, service):
        rescale.replan(turn)
        workers = workers_of(turn, service)
    standing = _stand(turn, service, workers)
    if not standing.candidates and not standing.arriving:
        _let_the_rest_come(turn, service)
        return
    # An extra one comes back only as long as it is of use.
    _relaunch(turn, [one for one in going if one in turn.fleet.extras])
    standing = _with_extras(turn, service, standing)
    if not _has_sockets(turn, service, [one for one, _ in standing.candidates] or [one.id for one in mine]):
        return
    if any(order.wait_of(turn.fleet, turn.workers[worker]) for worker, _ in standing.candidates):
        return  # Whoever were taken down now would wait for those it comes after.
    if any(is_without_place(worker) for worker in workers if worker.id in turn.fleet.tried):
        _make_room(turn, service, standing)
        return
    before = turn.fleet.tried, turn.fleet.rolls, turn.fleet.extras
    if any(state is not State.READY for _, state in standing.candidates):
        _take_turns(turn, service, standing, is_last_word=False)
    if (turn.fleet.tried, turn.fleet.rolls, turn.fleet.extras) == before:
        _take_turns(turn, service, standing, is_last_word=True)


def _take_turns(turn: Turn, service: str, standing: Standing, *, is_last_word: bool) -> None:
    """Let extra workers come, and those go whose turn it is; see `surge.grow`."""
    serving = sum(state is State.READY for one, state in standing.candidates if one not in standing.extras)
    if surge.grow(turn, service, serving, is_arriving=standing.arriving, is_last_word=is_last_word):
        rescale.replan(turn)
        standing = _with_extras(turn, service, _stand(turn, service, workers_of(turn, service)))
    max_unavailable = surge.may_be_missing(turn.fleet, service)
    if batch := next_batch(standing, max_unavailable):
        _replace(turn, service, batch, standing, max_unavailable)


def _keep_who_serves(turn: Turn, service: str) -> None:
    """Who gets ready with an earlier launch, while the sockets of this one are asked for, is missed from then on."""
    late = [
        one.id
        for one in workers_of(turn, service)
        if one.state is State.READY and not one.down and revision.earlier(one) and sockets.is_missing(turn.fleet, one)
    ]
    if late:
        revision.keep(turn, service, late)
        rescale.replan(turn)


def _has_sockets(turn: Turn, service: str, candidates: list[WorkerId]) -> bool:
    """Whether those that the new launch is to find are there; one that cannot be had is the end of the roll-out."""
    new = sockets.coming(turn.fleet, service)
    if (why := sockets.refusal_for(turn.fleet, new)) is not None:
        _halt(turn, service, min(candidates, default=WorkerId(service, 0)), why, of_service=True)
        return False
    return all(one.address in turn.fleet.bound for one in new)


def workers_of(turn: Turn, service: str) -> list[Worker]:
    """Those of a service that the plan wants, by index."""
    indices = (WorkerId(service, index) for index in range(turn.fleet.counts.get(service, 0)))
    return [turn.workers[one] for one in indices if one in turn.workers]


def _extras(turn: Turn, service: str) -> list[Worker]:
    return [turn.workers[one] for one in extras_of(turn.fleet, service) if one in turn.workers]


def _with_extras(turn: Turn, service: str, standing: Standing) -> Standing:
    """The same with extra workers, which nobody misses and who may stand in for others."""
    if not (extras := _extras(turn, service)):
        return standing
    theirs = _stand(turn, service, extras)
    return replace(
        standing,
        candidates=standing.candidates + theirs.candidates,
        arriving=standing.arriving or theirs.arriving,
        ready=standing.ready + theirs.ready,
        extras=frozenset(one.id for one in extras),
    )


def _is_under_way(turn: Turn, service: str) -> bool:
    """Whether somebody of a service is on its way to where it will stay."""
    return any(not (is_settled(one) or never_came(one)) for one in workers_of(turn, service))


def _stand(turn: Turn, service: str, workers: Sequence[Worker]) -> Standing:
    fleet = turn.fleet
    candidates = tuple(
        (one.id, one.state)
        for one in workers
        if not one.down and (one.id in fleet.kept or (one.is_outdated and one.state in RUNNING))
    )
    waiting = {worker for worker, _ in candidates}
    arriving = any(
        one.id in fleet.tried or not (is_settled(one) or never_came(one)) for one in workers if one.id not in waiting
    )
    return Standing(
        candidates,
        arriving=arriving,
        ready=sum(one.state is State.READY for one in workers),
        expected=sum(_is_expected(one) for one in workers),
        is_proven=fleet.rolls[service].is_proven,
    )


def _is_expected(worker: Worker) -> bool:
    """Whether a worker counts as missing when it is not ready: not who is done, held down, has failed or no place."""
    return not (worker.down or worker.state in FREED or is_without_place(worker) or never_came(worker))


def _note_arrivals(turn: Turn, service: str) -> None:
    """Who has got ready with its new launch, and that others may follow."""
    fleet = turn.fleet
    left, arrived = dict(fleet.tried), False
    for worker_id, attempt in fleet.tried.items():
        worker = turn.workers.get(worker_id)
        if worker_id.service != service:
            continue
        if worker is None or revision.has_come(worker):
            del left[worker_id]
            arrived |= worker is not None and not worker.down
        elif attempt.started_at is None and worker.state is State.STARTING and not worker.is_outdated:
            left[worker_id] = replace(attempt, started_at=turn.now)
    if left != fleet.tried:
        turn.set(tried=left)
    roll = fleet.rolls[service]
    if arrived and not roll.is_proven:
        turn.set(rolls={**fleet.rolls, service: replace(roll, is_proven=True)})


def _why_failed(turn: Turn, worker: Worker, roll: Roll) -> str | None:
    """Why a worker shows that the new launch does not work, None if it does not."""
    attempt = turn.fleet.tried.get(worker.id)
    if worker.id in turn.fleet.kept or worker.target is None or (worker.id in turn.fleet.extras and worker.starved):
        return None  # For an extra one there may be no room; that says nothing about the launch.
    if worker.state is State.FAILED:
        is_of_now = attempt is not None or failed_since(worker, roll.at)
        # A spawn that failed says so itself.
        words = dict.fromkeys(text for text in (worker.reason, last_words(worker)) if text)
        return "; ".join(words) if is_of_now else None
    if attempt is None:
        return None
    timeout_s = worker.target.wanted.policy.ready.timeout_s
    if worker.state is State.BACKOFF and attempt.started_at is not None and turn.now - attempt.started_at >= timeout_s:
        return worker.reason or f"not ready within {timeout_s:g} s"
    if worker.state is State.PENDING and worker.starved and turn.now - worker.since >= max(timeout_s, MEMORY_S):
        return worker.reason
    return None


def _let_the_rest_come(turn: Turn, service: str) -> None:
    """All who run are what the file says; who is held down will be when it is started."""
    had_others = any(one.service == service for one in turn.fleet.kept)
    revision.end(turn, service)
    if had_others:
        rescale.replan(turn)


# ---- taking turns ---------------------------------------------------------------------------------------------------


def _replace(turn: Turn, service: str, batch: Collection[WorkerId], standing: Standing, max_unavailable: int) -> None:
    """Replace these, unless they would lose their place by that: then others make room, or nobody is touched."""
    plan = _foresee(turn, batch)
    if late := {one for one in batch if turn.workers[one].state in FREED and plan[one].launch is None}:
        # Who has no process takes nobody's place for one: it comes when there is room.
        left = tuple(one for one in standing.candidates if one[0] not in late)
        if next_ones := next_batch(replace(standing, candidates=left), max_unavailable):
            _replace(turn, service, next_ones, replace(standing, candidates=left), max_unavailable)
        elif not left and not standing.arriving:
            _let_the_rest_come(turn, service)
        return
    if lost := _who_loses(turn, batch, plan):
        if not turn.fleet.trusted:
            return  # A driver in trouble gives nobody a place.
        best = _foresee(turn, turn.fleet.kept)
        lost_anyway = _who_loses(turn, (one for one, _ in standing.candidates), best)
        if lost_anyway.keys() & lost.keys():
            left = tuple(one for one in standing.candidates if one[0] not in lost_anyway)
            if not left:
                if not standing.arriving:
                    first = min(lost_anyway)
                    _want_room(turn, service, first, best[first].reason or hopeless(turn.fleet, best[first]) or "")
                return
            batch = next_batch(replace(standing, candidates=left), max_unavailable)
        together = _with_room(turn, batch, best)
        serves = any(turn.workers[one].state is State.READY for one in batch)
        batch = (_one_alone(turn, service, together - set(batch)) if serves else set()) or together
        if _is_refused(turn, service, batch, standing):
            return
    _promote(turn, batch)


def _one_alone(turn: Turn, service: str, others: Collection[WorkerId]) -> set[WorkerId]:
    """One of those that are to make room who has a place without anybody else going: the others serve meanwhile."""
    for one in sorted(one for one in others if one.service == service):
        plan = _foresee(turn, [one])
        if plan[one].launch is not None and not _who_loses(turn, [one], plan):
            return {one}
    return set()


def _is_refused(turn: Turn, service: str, batch: Collection[WorkerId], standing: Standing) -> bool:
    """Whether one that makes room for another would fail for want of a GPU: then nobody is taken down."""
    plan = _foresee(turn, batch)
    refused = [one for one in sorted(batch) if one.service == service and plan[one].refused]
    if refused and not standing.arriving:
        _want_room(turn, service, refused[0], plan[refused[0]].reason)
    return bool(refused)


def _make_room(turn: Turn, service: str, standing: Standing) -> None:
    """Some are on their way and have no place, which others of this file's roll-outs are to leave."""
    if not turn.fleet.trusted:
        return
    tried = [one for one in turn.fleet.tried if one.service == service]
    if not standing.is_proven and not all(is_without_place(turn.workers[one]) for one in tried):
        return  # Who has left a device for the first one waits for what becomes of that.
    best = _foresee(turn, turn.fleet.kept)
    mine = [one for one in turn.fleet.tried if one.service == service and is_without_place(turn.workers[one])]
    nowhere = [one for one in mine if best[one].launch is None]
    if len(nowhere) < len(mine):
        _promote(turn, _with_room(turn, [one for one in mine if one not in nowhere], best))
    elif standing.is_proven:
        # They wait for a place, as the file has it. The others go on.
        turn.set(tried={one: attempt for one, attempt in turn.fleet.tried.items() if one not in nowhere})
        _advance(turn, service)
    elif len(nowhere) == len(tried):
        _want_room(turn, service, nowhere[0], best[nowhere[0]].reason)


def _want_room(turn: Turn, service: str, worker: WorkerId, why: str) -> None:
    """The new launch has no place, and fails for that unless it is one that an extra worker has."""
    if surge.make_room(turn, service, f"{worker} has no place otherwise: {why}"):
        rescale.replan(turn)
    elif not any(surge.has_place(turn, one) for one in turn.fleet.extras):
        _halt(turn, service, worker, f"no place: {why}")


def _promote(turn: Turn, batch: Collection[WorkerId]) -> None:
    chosen = [one for one in sorted(batch) if one not in turn.fleet.tried]
    revision.promote(turn, chosen)
    rescale.replan(turn)
    # One that makes room for another service's may have to wait for sockets of its own.
    _relaunch(turn, [one for one in chosen if not sockets.is_missing(turn.fleet, turn.workers[one])])


def _relaunch(turn: Turn, workers: Iterable[WorkerId]) -> None:
    for worker_id in workers:
        worker = turn.workers[worker_id]
        if worker.is_outdated and worker.state in RUNNING:
            turn.tell(worker_id, Relaunched())


def _foresee(turn: Turn, promoted: Collection[WorkerId]) -> Plan:
    """The plan if these had their turn now. Those whose roll-out is halted stay as they are in any case."""
    halted = {name for name, one in turn.fleet.rolls.items() if one.is_halted}
    kept = {one: was for one, was in turn.fleet.kept.items() if one not in promoted or one.service in halted}
    spec = rescale.spec_in_force(turn.fleet)
    return preview(turn.fleet, spec, turn.fleet.cpu_count, workers=turn.workers, reloaded=False, kept=kept)


def _who_loses(turn: Turn, workers: Iterable[WorkerId], plan: Plan) -> dict[WorkerId, Placement]:
    """Those that have a place by now and would have none; or none with a GPU, and have one."""
    found = {}
    for worker_id in workers:
        target, then = turn.workers[worker_id].target, plan[worker_id]
        if target is None or target.launch is None:
            continue
        if then.launch is None or (then.fallback and not target.fallback) or hopeless(turn.fleet, then):
            found[worker_id] = then
    return found


def _with_room(turn: Turn, batch: Collection[WorkerId], best: Plan) -> set[WorkerId]:
    """These, and who has to leave a device so that they all get a place; as few as that takes."""
    chosen = set(batch)
    while True:
        plan = _foresee(turn, chosen)
        lost = [
            one
            for one in batch
            if (plan[one].launch is None and best[one].launch is not None)
            or (plan[one].fallback and not best[one].fallback)
        ]
        if not lost:
            return chosen
        needed = {share.uuid for one in lost if (launch := best[one].launch) for share in launch.slice}
        others = [one for one in turn.fleet.kept if one not in chosen and one.service in turn.fleet.rolling]
        there = {one for one in others if needed & _devices_of(turn.workers.get(one))}
        if not others:
            return chosen
        chosen |= there or set(others)


def _devices_of(worker: Worker | None) -> set[str]:
    launch = worker.target.launch if worker and worker.target else None
    return {share.uuid for share in launch.slice} if launch else set()


def _halt(turn: Turn, service: str, failed: WorkerId, why: str, *, of_service: bool = False) -> None:
    """The new launch does not work: who was on its way goes back, the others stay, and the reload has failed."""
    was_tried = [one for one in turn.fleet.tried if one.service == service]
    revision.put_back(turn, service)
    left = sum(one.service == service for one in turn.fleet.kept)
    problem = f"{service} {why}; " if of_service else f"{failed} did not get ready with its new launch ({why}); "
    problem += f"{left} of {service} {'keeps' if left == 1 else 'keep'} the old one until the next reload"
    last = turn.fleet.last_reload
    at, before = (last.at, last.problems) if last else (turn.now, ())
    turn.set(last_reload=LastReload(at, ok=False, problems=(*before, problem)))
    fields = {"service": service, "worker": str(failed), "problem": problem}
    turn.do(Say("plan.halted", fields, is_warning=True))
    rescale.replan(turn)
    # An extra one that is not ready is ended.
    _relaunch(turn, [one for one in was_tried if one in turn.workers and one not in turn.fleet.extras])


# ---- for an operator ------------------------------------------------------------------------------------------------


def _restart_next(turn: Turn, service: str) -> None:
    """Nobody is restarted while as many are missing as may be, nor any more once one has failed."""
    restarting = turn.fleet.restarting[service]
    workers = [one for one in workers_of(turn, service) if one.id in restarting.workers]
    running = [one for one in workers if one.renew and one.state in RUNNING]
    failed = [one for one in workers if failed_since(one, restarting.at)]
    if not any(one.renew for one in workers):
        _end_restart(turn, service)
    elif failed:
        _halt_restart(turn, failed[0], f"{failed[0].id} failed ({failed[0].reason})", running)
    elif refusals := [text for one in running if (text := sockets.refusal_of(turn.fleet, one))]:
        _halt_restart(turn, running[0], f"{service} {refusals[0]}", running)
    elif not any(order.wait_of(turn.fleet, one) or sockets.is_missing(turn.fleet, one) for one in running):
        missing = sum(not (is_settled(one) or never_came(one)) for one in workers if one not in running)
        running.sort(key=lambda one: (one.state is not State.STARTING, one.id))
        for worker in running[: max(0, _at_once(turn.fleet, service) - missing)]:
            turn.tell(worker.id, Relaunched())


def _at_once(fleet: Fleet, service: str) -> int:
    spec = fleet.spec.services.get(service) if fleet.spec else None
    return max(1, spec.update.max_unavailable) if spec else 1


def _end_restart(turn: Turn, service: str) -> None:
    turn.set(restarting={name: one for name, one in turn.fleet.restarting.items() if name != service})


def _halt_restart(turn: Turn, first: Worker, why: str, others: list[Worker]) -> None:
    """The next process does not work: the rest go on as they are."""
    service = first.id.service
    problem = f"{why}; {len(others)} of {service} were not restarted"
    for worker in others:
        turn.change(evolve(worker, renew=False))  # Asked for again, it is another restart.
    _end_restart(turn, service)
    turn.do(Say("plan.halted", {"service": service, "worker": str(first.id), "problem": problem}, is_warning=True))
