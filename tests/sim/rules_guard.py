"""The guard on shared GPUs: after a minute, by turns, and nobody who keeps to what it has declared."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.inventory import GpuState
from supervisor.core.message import Cause, InventoryRead, Say, State
from supervisor.core.spec import WorkerId
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import FREED, RUNNING, Worker
from tests.sim.trouble import EPSILON_S, Change, Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World

POLL_S = 5.0


def eviction_has_its_reason(world: World, step: Step) -> Iterator[str]:
    """Its file says so, and every look for a minute showed it with too much."""
    for change in _evicted(step):
        assert change.after is not None
        since = world.checks.notes.over.get(change.id)
        if since is None or step.now - since[1] < change.after.policy.guard_after_s - EPSILON_S:
            yield f"{change.id} is ended for its GPU memory, having had too much since {since and since[1]}"
        if change.after.policy.guard != "restart":
            yield f"{change.id} is ended for its GPU memory, and its guard is {change.after.policy.guard}"


def evictions_take_turns(world: World, step: Step) -> Iterator[str]:
    """Of a service and on a device: not while another one that had to go is on its way back."""
    going = _evicted(step)
    for one, other in combinations([change.before for change in going if change.before], 2):
        shared = {share.uuid for share in one.occupied} & {share.uuid for share in other.occupied}
        if shared or one.id.service == other.id.service:
            yield f"{one.id} and {other.id} are ended for their GPU memory at once"
    for change in going:
        assert change.before is not None
        if others := _in_the_way(world, step.after, change.before):
            yield f"{change.id} is ended for its GPU memory while {others} are on their way back"


def who_has_too_much_goes(world: World, step: Step) -> Iterator[str]:
    """At the first look after a minute, unless another goes first."""
    if not _is_look(step) or step.after.state is DaemonState.STOPPING or _evicted(step):
        return  # Who goes at this moment may be in the way of others.
    if step.after.spec is not step.before.spec:
        return  # The look was under the file before, which may have allowed more time.
    for worker_id in world.checks.notes.seen_over:
        incarnation, since = world.checks.notes.over[worker_id]
        worker = step.after.workers.get(worker_id)
        if worker is None or worker.incarnation != incarnation or worker.state not in RUNNING or worker.down:
            continue
        if worker.target is None or worker.policy.guard != "restart":
            continue
        if step.now - since < worker.policy.guard_after_s + EPSILON_S:
            continue
        # That one who is on its way back has no room is found at the end of a look; the next one counts.
        if not _in_the_way(world, step.before, worker) and not _in_the_way(world, step.after, worker):
            yield f"{worker_id} has had too much of a GPU since {since} and goes on"


def too_much_is_said_once(world: World, step: Step) -> Iterator[str]:
    """For as long as it lasts."""
    notes = world.checks.notes
    for action in step.actions:
        if not isinstance(action, Say) or action.event != "worker.gpu_memory_exceeded":
            continue
        name = str(action.fields["worker"])
        since = next((since for one, (_, since) in notes.over.items() if str(one) == name), None)
        after_s = step.after.workers[WorkerId.parse(name)].policy.guard_after_s
        if since is None or step.now - since < after_s - EPSILON_S or notes.warned.get(name) == since:
            yield f"{name} is warned about, having had too much since {since}"
        notes.warned[name] = since


def note_greed(world: World, step: Step) -> None:
    """Books of one's own: who has had too much since when, and who had to go for it."""
    notes = world.checks.notes
    if _is_look(step):
        notes.seen_over.clear()
        for worker in step.before.workers.values():
            _note_one(world, step, worker)
        notes.looked_at = step.now
    for worker_id, (incarnation, _) in list(notes.evicted.items()):
        if _is_over(step.after.workers.get(worker_id), incarnation):
            del notes.evicted[worker_id]


def note_evicted(world: World, step: Step) -> None:
    """After the rules were asked of them."""
    for change in _evicted(step):
        assert change.before is not None
        devices = frozenset(share.uuid for share in change.before.occupied)
        world.checks.notes.evicted[change.id] = (change.before.incarnation, devices)


def _note_one(world: World, step: Step, worker: Worker) -> None:
    over = world.checks.notes.over
    known = over.get(worker.id)
    if known is not None and known[0] != worker.incarnation:
        del over[worker.id]
        known = None
    if worker.state not in RUNNING or worker.held is None or worker.policy.guard == "off":
        if worker.policy.guard == "off":
            over.pop(worker.id, None)
        return
    found = [_has_too_much(step.after, worker, share.uuid) for share in worker.occupied]
    was_blind = step.now - world.checks.notes.looked_at > worker.policy.guard_after_s + POLL_S
    if True in found:
        world.checks.notes.seen_over.add(worker.id)
        over[worker.id] = (worker.incarnation, step.now if known is None or was_blind else known[1])
    elif None not in found:
        over.pop(worker.id, None)


def _has_too_much(fleet: Fleet, worker: Worker, uuid: str) -> bool | None:
    device = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    if device is None or device.holders is None or device.memory_total_bytes is None or worker.held is None:
        return None
    declared = worker.held.wanted.request.gpu_memory
    if declared is None:
        return False
    mine = [one.used_bytes or 0 for one in device.holders if one.worker == str(worker.id)]
    return sum(mine) > amount_bytes(declared, device.memory_total_bytes)


def _in_the_way(world: World, fleet: Fleet, worker: Worker) -> list[str]:
    """Others of its service or on its devices that had to go, for this or for recycling, and are about to be back."""
    mine = {share.uuid for share in worker.occupied}
    notes = world.checks.notes
    found = []
    for other, (incarnation, devices) in [*notes.evicted.items(), *notes.recycled.items()]:
        one = fleet.workers.get(other)
        if other == worker.id or (other.service != worker.id.service and not mine & devices):
            continue
        if one is not None and not _is_over(one, incarnation) and not _is_stuck(one):
            found.append(str(other))
    return found


def _is_stuck(worker: Worker) -> bool:
    if worker.state is State.BACKOFF:
        return True
    has_no_place = worker.target is None or worker.target.launch is None
    return worker.state is State.PENDING and (worker.starved or has_no_place)


def _is_over(worker: Worker | None, incarnation: int) -> bool:
    if worker is None or worker.target is None or worker.down or worker.state in FREED:
        return True
    return worker.state is State.READY and worker.incarnation != incarnation


def _is_look(step: Step) -> bool:
    return isinstance(step.event, InventoryRead) and step.event.reading.state is GpuState.OK


def _evicted(step: Step) -> list[Change]:
    return [
        one
        for one in step.changes
        if one.before is not None
        and one.after is not None
        and one.before.state in RUNNING
        and one.after.state is State.STOPPING
        and one.after.cause is Cause.CUDA_OOM
    ]


RULES: tuple[Rule, ...] = (
    eviction_has_its_reason,
    evictions_take_turns,
    who_has_too_much_goes,
    too_much_is_said_once,
)
