"""
How a roll-out would go: who is replaced in which order, and how many workers are ready meanwhile.

Changes nothing, and decides nothing: `rollout.next_batch` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.message import State
from supervisor.core.preview import Plan, action_of
from supervisor.core.rollout import Standing, next_batch
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import FREED

_SERVING = frozenset({State.READY, State.UNREADY})


@dataclass(frozen=True, slots=True)
class Stage:
    """
    One step of a service's roll-out.

    Args:
        workers: Who is replaced in it.
        ready: How many of the service are ready meanwhile, if nobody dies by itself.
    """

    workers: tuple[WorkerId, ...]
    ready: int


def foresee(fleet: Fleet, spec: Spec, plan: Plan) -> dict[str, tuple[Stage, ...]]:
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
    return {
        name: tuple(_stages(fleet, plan, name, workers, spec.services[name].update.max_unavailable))
        for name, workers in found.items()
    }


def _stages(fleet: Fleet, plan: Plan, name: str, left: list[WorkerId], max_unavailable: int) -> Iterator[Stage]:
    mates = [one for one in fleet.workers.values() if one.id.service == name and one.id in plan]
    ready = {one.id for one in mates if one.state is State.READY}
    if not any(fleet.workers[one].state in _SERVING for one in left):
        yield Stage(tuple(left), len(ready - set(left)))  # There is nothing to lose.
        return
    expected = sum(not one.down and one.state not in FREED for one in mates)
    candidates = {one: fleet.workers[one].state for one in left}
    is_proven = False
    while candidates:
        standing = Standing(
            tuple(candidates.items()), arriving=False, ready=len(ready), expected=expected, is_proven=is_proven
        )
        batch = next_batch(standing, max_unavailable)
        if not batch:
            return  # It waits for those that are missing now.
        yield Stage(batch, len(ready - set(batch)))
        ready |= set(batch)
        candidates = {one: state for one, state in candidates.items() if one not in batch}
        is_proven = True
