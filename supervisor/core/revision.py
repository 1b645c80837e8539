"""
What was before, for as long as it may be needed again: which workers keep an old launch, and what they go back to.

Notes only; when somebody's turn comes to get the new launch, and when nobody's does any more, `rollout` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from supervisor.core.memory import hopeless
from supervisor.core.message import State
from supervisor.core.preview import Plan, is_another
from supervisor.core.slices import Placement
from supervisor.core.spec import Spec, WorkerId, WorkerSpec
from supervisor.core.turn import Roll, Try, Turn
from supervisor.core.worker import FREED, HOLDING, RUNNING, Worker

SERVING = frozenset({State.READY, State.UNREADY})


def begin(turn: Turn, plan: Plan) -> None:
    """
    A file has come: who gets another launch by it keeps the old one until its turn comes.

    Of a service of which nobody serves, nor has anything to go back to, everybody gets it at once: there is nothing
    to lose. Who is on its way to an earlier file's launch goes on to this one's, and back to what it was before both.

    Args:
        turn: The turn.
        plan: What the file wants of everybody.
    """
    fleet = turn.fleet
    kept: dict[WorkerId, WorkerSpec] = {}
    tried: dict[WorkerId, Try] = {}
    for worker_id, placement in plan.items():
        worker = turn.workers.get(worker_id)
        if worker is None or worker.target is None:
            continue
        attempt = fleet.tried.get(worker_id)
        was = attempt.was if attempt else fleet.kept.get(worker_id, worker.target.wanted)
        if was is not None and not is_another(was, placement.wanted):
            continue
        if attempt is not None:
            is_same = not is_another(worker.target.wanted, placement.wanted)
            tried[worker_id] = attempt if is_same else Try(was, turn.now)
        elif was is not None and _gets_another_launch(worker, placement):
            kept[worker_id] = was
    services = {one.service for one in (*kept, *tried)}
    for name in services - _with_something_to_lose(turn, kept, tried):
        kept = {one: was for one, was in kept.items() if one.service != name}
    _open_rolls(turn, services, kept, tried)
    turn.has_other_sockets = True
    turn.set(kept=kept, tried=tried)


def _gets_another_launch(worker: Worker, placement: Placement) -> bool:
    """Whether a plan makes another process of a worker, or would if it ran."""
    if worker.state in FREED:
        return worker.down or placement.launch is not None
    mine = worker.held if worker.state in HOLDING else worker.target
    # Who has no place has nothing that it could keep.
    return mine is not None and mine.launch is not None and mine.launch != placement.launch


def _with_something_to_lose(turn: Turn, kept: Iterable[WorkerId], tried: Iterable[WorkerId]) -> set[str]:
    fleet = turn.fleet
    found = {one.service for one in kept if turn.workers[one].state in SERVING or one in fleet.kept}
    return found | {one.service for one in tried}


def _open_rolls(turn: Turn, services: set[str], kept: Iterable[WorkerId], tried: Iterable[WorkerId]) -> None:
    fleet, before = turn.fleet, turn.before.spec
    guarded = {one.service for one in (*kept, *tried)}
    rolls: dict[str, Roll] = {}
    for name in services:
        old = fleet.rolls.get(name)
        was = before.services.get(name) if before else None
        is_same = fleet.spec is not None and fleet.spec.services.get(name) == was
        if old is not None and not old.is_halted and is_same:
            rolls[name] = old
        else:
            last_good = old.before if old else was
            rolls[name] = Roll(turn.now, last_good, is_proven=name not in guarded)
    turn.set(rolls=rolls)


def note_outdated(turn: Turn) -> None:
    """Who has to go elsewhere though its own words are the same: its pool is another, or what others may have."""
    outdated = {one.id.service for one in turn.workers.values() if one.is_outdated} - turn.fleet.rolls.keys()
    if outdated:
        turn.set(rolls={**turn.fleet.rolls, **dict.fromkeys(sorted(outdated), Roll(turn.now))})


def settle(turn: Turn, spec: Spec, plan: Plan) -> None:
    """Forget those that are not wanted any more; who comes new into a service that was halted is what it was."""
    fleet = turn.fleet
    if not fleet.kept and not fleet.tried and not fleet.rolls:
        return
    kept = {one: was for one, was in fleet.kept.items() if one in plan}
    tried = {one: attempt for one, attempt in fleet.tried.items() if one in plan}
    rolls = {name: roll for name, roll in fleet.rolls.items() if name in spec.services}
    for name, roll in rolls.items():
        if roll.is_halted and roll.before is not None:
            newborn = [one for one in plan if one.service == name and one not in turn.workers]
            count = sum(one.service == name for one in plan)
            former = {one.id: one for one in roll.before.scale(count).expand(name, fleet.cpu_count)} if newborn else {}
            kept |= {one: former[one] for one in newborn if one in former and is_another(former[one], plan[one].wanted)}
    turn.set(kept=kept, tried=tried, rolls=rolls)


def promote(turn: Turn, workers: Iterable[WorkerId]) -> None:
    """Their turn has come; what they were is noted."""
    chosen = set(workers)
    kept = {one: was for one, was in turn.fleet.kept.items() if one not in chosen}
    tries = {one: Try(turn.fleet.kept.get(one), turn.now) for one in sorted(chosen)}
    turn.set(kept=kept, tried={**turn.fleet.tried, **tries})


def keep(turn: Turn, service: str, workers: Iterable[WorkerId]) -> None:
    """They serve with what they run: they have that to lose, and wait for their turn; nothing is proven by them."""
    fleet = turn.fleet
    mine = {one: held.wanted for one in workers if (held := turn.workers[one].held) is not None}
    tried = {one: attempt for one, attempt in fleet.tried.items() if one not in mine}
    rolls = {**fleet.rolls, service: replace(fleet.rolls[service], is_proven=False)}
    turn.set(kept={**fleet.kept, **mine}, tried=tried, rolls=rolls)


def put_back(turn: Turn, service: str) -> None:
    """The roll-out of a service is halted: who was on its way is again what it was, or is still."""
    fleet = turn.fleet
    # Where nobody served when the file came nobody keeps anything, and runs what has room all the same.
    there = [one for one in turn.workers.values() if one.id.service == service and one.id not in fleet.extras]
    stuck = [one for one in there if one.target is not None and hopeless(fleet, one.target)]
    alone = {one.id: was for one in stuck if one.id not in fleet.kept and (was := earlier(one))}
    mine = {one: attempt for one, attempt in fleet.tried.items() if one.service == service}
    back = {one: was for one, attempt in mine.items() if (was := attempt.was or earlier(turn.workers.get(one)))}
    back = {**alone, **back}
    tried = {one: attempt for one, attempt in fleet.tried.items() if one.service != service}
    halted = replace(fleet.rolls[service], is_halted=True)
    turn.has_other_sockets = True
    turn.set(kept={**fleet.kept, **back}, tried=tried, rolls={**fleet.rolls, service: halted})


def end(turn: Turn, service: str) -> None:
    """Everybody of a service is what the file says."""
    fleet = turn.fleet
    turn.has_other_sockets = True
    turn.set(
        rolls={name: roll for name, roll in fleet.rolls.items() if name != service},
        kept={one: was for one, was in fleet.kept.items() if one.service != service},
        tried={one: attempt for one, attempt in fleet.tried.items() if one.service != service},
    )


def earlier(worker: Worker | None) -> WorkerSpec | None:
    """What a worker runs that is to run something else, None where it does not."""
    if worker is None or worker.state not in RUNNING or worker.held is None or worker.target is None:
        return None
    was = worker.held.wanted
    return was if is_another(was, worker.target.wanted) else None


def has_come(worker: Worker) -> bool:
    """Whether a worker has got where its turn was to bring it; or an operator holds it down, or nobody wants it."""
    if worker.down or worker.target is None or worker.state is State.EXITED:
        return True
    return worker.state in RUNNING and worker.was_ready and not worker.is_outdated and worker.state is State.READY
