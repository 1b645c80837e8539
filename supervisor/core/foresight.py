"""
How a roll-out would go: who is replaced in which order, and how many workers are ready meanwhile.

Changes nothing, and decides nothing: `rollout.next_batch` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.evolve import evolve
from supervisor.core.extras import extras_of, new_ids
from supervisor.core.message import State
from supervisor.core.preview import Plan, action_of, preview
from supervisor.core.rollout import Standing, next_batch
from supervisor.core.spec import Spec, WorkerId, WorkerSpec
from supervisor.core.surge import NO_ROOM
from supervisor.core.turn import Fleet
from supervisor.core.worker import FREED

_SERVING = frozenset({State.READY, State.UNREADY})


@dataclass(frozen=True, slots=True)
class Stage:
    """
    One step of a service's roll-out.

    Args:
        workers: Who is replaced in it, or comes beyond the count of its service.
        ready: How many of the service are ready meanwhile, if nobody dies by itself.
    """

    workers: tuple[WorkerId, ...]
    ready: int


@dataclass(frozen=True, slots=True)
class Course:
    """
    How a service's roll-out would go.

    Args:
        stages: One after the other.
        extras: Who comes beyond the count of its service (`update.surge`), None where the file asks for nobody.
        lack: Why nobody comes, though the file asks for it.
    """

    stages: tuple[Stage, ...]
    extras: tuple[WorkerId, ...] | None = None
    lack: str = ""


def foresee(fleet: Fleet, spec: Spec, plan: Plan) -> dict[str, Course]:
    """
    The steps of every service that has workers to replace.

    Args:
        fleet: As it is now.
        spec: The file.
        plan: What it wants of everybody.
    """
    found: dict[str, list[WorkerId]] = {}
    for worker_id, placement in plan.items():
        if action_of(fleet.workers.get(worker_id), placement) == "replace":
            found.setdefault(worker_id.service, []).append(worker_id)
    return {name: _course(fleet, spec, plan, name, workers) for name, workers in found.items()}


def _course(fleet: Fleet, spec: Spec, plan: Plan, name: str, left: list[WorkerId]) -> Course:
    update = spec.services[name].update
    mates = [one for one in fleet.workers.values() if one.id.service == name and one.id in plan]
    ready = {one.id for one in mates if one.state is State.READY}
    if not any(fleet.workers[one].state in _SERVING for one in left):
        return Course((Stage(tuple(left), len(ready - set(left))),))  # There is nothing to lose.
    extras, lack = _find_extras(fleet, spec, plan, name, len(ready & set(left)))
    expected = sum(not one.down and one.state not in FREED for one in mates)
    max_unavailable = update.max_unavailable or (0 if extras else 1)
    stages = tuple(_stages(fleet, left, ready, extras, expected - max_unavailable))
    return Course(stages, extras if update.surge else None, lack)


def _find_extras(fleet: Fleet, spec: Spec, plan: Plan, name: str, serving: int) -> tuple[tuple[WorkerId, ...], str]:
    """Extra workers for which there is room, or why there is none."""
    count = min(spec.services[name].update.surge, serving)
    mine = extras_of(fleet, name)
    new = mine + new_ids(fleet, name, max(0, count - len(mine)), sum(one.service == name for one in plan))
    if not count:
        return (), ""
    kept = {one: fleet.kept.get(one, was) for one, was in _before(fleet, plan, name).items()}
    after = evolve(fleet, extras=fleet.extras | set(new))
    found = preview(after, spec, fleet.cpu_count, reloaded=False, kept=kept)
    placed = tuple(one for one in new if found[one].launch is not None)
    return placed, "" if placed else NO_ROOM.format(found[new[0]].reason)


def _before(fleet: Fleet, plan: Plan, name: str) -> dict[WorkerId, WorkerSpec]:
    """What the workers of a service are now."""
    mates = (fleet.workers[one] for one in plan if one.service == name and one in fleet.workers)
    return {one.id: one.target.wanted for one in mates if one.target is not None}


def _stages(
    fleet: Fleet, left: list[WorkerId], ready: set[WorkerId], extras: tuple[WorkerId, ...], least: int
) -> Iterator[Stage]:
    candidates = {one: fleet.workers[one].state for one in left}
    is_proven = False
    while candidates:
        coming = [one for one in extras if one not in ready][: None if is_proven else 1]
        if coming:
            yield Stage(tuple(coming), len(ready))
            ready = ready | set(coming)
            is_proven = True
            continue
        standing = Standing(
            tuple(candidates.items()), arriving=False, ready=len(ready), expected=least, is_proven=is_proven
        )
        batch = next_batch(standing, 0)
        if not batch:
            return  # It waits for those that are missing now.
        yield Stage(batch, len(ready - set(batch)))
        ready = ready | set(batch)
        candidates = {one: state for one, state in candidates.items() if one not in batch}
        is_proven = True
