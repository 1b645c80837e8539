"""Recycling: one of a service at a time, never two on one device at once, and nobody's fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.message import Cause, Exited, State
from supervisor.core.worker import FREED, Worker
from tests.sim.trouble import Change, Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World


def one_is_recycled_at_a_time(world: World, step: Step) -> Iterator[str]:
    """While all others of its service are ready, or are not going to be."""
    for change in _recycled(step):
        for other in step.after.workers.values():
            if other.id.service != change.id.service or other.id == change.id or other.target is None or other.down:
                continue
            has_no_place = other.state is State.PENDING and other.target.launch is None
            if other.state is not State.READY and other.state not in FREED and not has_no_place:
                yield f"{change.id} is recycled while {other.id} is {other.state}"


def no_device_has_two_recycled(world: World, step: Step) -> Iterator[str]:
    """Until the first of them is ready again, of whatever service they are."""
    under_way = world.checks.notes.recycled
    for one, (_, devices) in list(under_way.items()):
        for other, (_, others) in under_way.items():
            if one < other and devices & others:
                yield f"{one} and {other} are recycled on {sorted(devices & others)} at once"


def recycling_is_not_charged(world: World, step: Step) -> Iterator[str]:
    """It comes back at once."""
    if not isinstance(step.event, Exited):
        return
    before, after = step.before.workers.get(step.event.worker), step.after.workers.get(step.event.worker)
    if before is None or after is None or before.cause is not Cause.RECYCLE or before.pid is None:
        return
    is_refused = after.target is not None and after.target.refused
    if after.state in {State.BACKOFF, State.FAILED, State.EXITED} and not is_refused:
        yield f"{after.id} is {after.state} after it was recycled"


def note_recycled(world: World, step: Step) -> None:
    """Books of one's own: who was taken down for that, and is not ready again."""
    notes = world.checks.notes
    for worker, (incarnation, _) in list(notes.recycled.items()):
        if _is_over(step.after.workers.get(worker), incarnation):
            del notes.recycled[worker]
    for change in _recycled(step):
        assert change.before is not None
        devices = frozenset(share.uuid for share in change.before.occupied)
        notes.recycled[change.id] = (change.before.incarnation, devices)


def _recycled(step: Step) -> list[Change]:
    return [
        one
        for one in step.changes
        if one.before is not None
        and one.after is not None
        and one.before.state in {State.READY, State.UNREADY}
        and one.after.state is State.STOPPING
        and one.after.cause is Cause.RECYCLE
    ]


def _is_over(worker: Worker | None, incarnation: int) -> bool:
    if worker is None or worker.target is None or worker.down or worker.state in FREED:
        return True
    return worker.state is State.READY and worker.incarnation != incarnation


RULES: tuple[Rule, ...] = (one_is_recycled_at_a_time, no_device_has_two_recycled, recycling_is_not_charged)
