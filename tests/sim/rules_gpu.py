"""What one step may do to places on GPUs, and what has to be known first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.inventory import GpuState
from supervisor.core.message import FinishReload, ReadInventory
from supervisor.core.turn import DaemonState
from supervisor.core.worker import HOLDING, RUNNING, Worker
from tests.sim.trouble import EPSILON_S, Change, Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World

RETRY_S = 5.0


def running_workers_keep_their_place(world: World, step: Step) -> Iterator[str]:
    """Nobody who lives is to be moved while nothing about its GPUs has changed."""
    before, after = step.before, step.after
    if before.pool != after.pool or before.spec is None or after.spec is None or before.spec.gpus != after.spec.gpus:
        return
    for change in step.changes:
        old, new = change.before, change.after
        if old is None or new is None or old.incarnation != new.incarnation or old.state not in RUNNING:
            continue
        if old.target is None or new.target is None or old.target.launch is None or new.state not in RUNNING:
            continue
        if old.target.wanted.request != new.target.wanted.request or old.target.launch.slice != old.occupied:
            continue
        is_same = new.target.launch is not None and new.target.launch.slice == old.occupied
        if old.occupied and not is_same and _are_as_before(step, old):
            yield f"{change.id} is to be moved from {old.occupied} to {new.target.launch}"


def _are_as_before(step: Step, worker: Worker) -> bool:
    """Whether the devices of a worker are there, well, and have the numbers that they had."""
    old = step.before.inventory.by_uuid if step.before.inventory else {}
    new = step.after.inventory.by_uuid if step.after.inventory else {}
    for share in worker.occupied:
        was, now = old.get(share.uuid), new.get(share.uuid)
        if was is None or now is None or not now.is_usable:
            return False
    # With `all`, what came or went elsewhere is a reason too.
    return step.before.elsewhere == step.after.elsewhere and [
        (one.uuid, one.index, one.pci, one.is_cut) for one in old.values()
    ] == [(one.uuid, one.index, one.pci, one.is_cut) for one in new.values()]


def want_of_a_gpu_is_the_drivers_word(world: World, step: Step) -> Iterator[str]:
    """Falling back and failing for want of a GPU need a good reading; a driver that errs makes everybody wait."""
    if step.after.trusted:
        return
    for change in step.changes:
        # Who was removed and came back while its process lives is what that process is.
        old = (change.before.target or change.before.held) if change.before else None
        new = change.after.target if change.after else None
        if new is None:
            continue
        if new.fallback and not (old and old.fallback) and not _runs_without(change):
            yield f"{change.id} falls back while the driver is {step.after.gpu.state}"
        if new.refused and not (old and old.refused):
            yield f"{change.id} fails for want of a GPU while the driver is {step.after.gpu.state}"


def _runs_without(change: Change) -> bool:
    """Whether one was to move back to a GPU, which is sick by now, and stays what its process is."""
    before, after = change.before, change.after
    if before is None or after is None or before.held is None or after.target is None or before.state not in HOLDING:
        return False
    is_same = (before.incarnation, before.held.launch) == (after.incarnation, after.target.launch)
    return before.held.fallback and is_same


def reload_reads_the_devices(world: World, step: Step) -> Iterator[str]:
    """What a reload decides rests on a reading, good or not, that was asked for by it or later."""
    notes = world.checks.notes
    for action in step.actions:
        if isinstance(action, FinishReload) and action.ok and notes.read_asked_at < notes.reload_at:
            yield f"the reload of {notes.reload_at} rests on a reading asked for at {notes.read_asked_at}"


def driver_in_trouble_is_left_alone(world: World, step: Step) -> Iterator[str]:
    """Every asking may leave a stuck process: at most one in five seconds, but for a reload and while booting."""
    asks = [action for action in step.actions if isinstance(action, ReadInventory)]
    fleet, notes = step.after, world.checks.notes
    is_in_trouble = fleet.failures > 0 and fleet.wants_gpu and fleet.gpu.state is not GpuState.NOT_LOADED
    if not is_in_trouble or fleet.state is not DaemonState.RUNNING:
        notes.asked_in_trouble = None
    elif asks:
        last = notes.asked_in_trouble
        if last is not None and step.now - last < RETRY_S - EPSILON_S:
            yield f"the driver is {fleet.gpu.state} and asked again after {step.now - last:.1f} s"
        notes.asked_in_trouble = step.now


def starts_are_claimed(world: World, step: Step) -> Iterator[str]:
    """Nobody starts on a device that is not ours on the whole machine."""
    for spawn in step.spawns:
        if strange := {share.uuid for share in spawn.launch.slice} - world.locks.ours:
            yield f"{spawn.worker} starts on {strange}, which another daemon may have"


RULES: tuple[Rule, ...] = (
    starts_are_claimed,
    running_workers_keep_their_place,
    want_of_a_gpu_is_the_drivers_word,
    reload_reads_the_devices,
    driver_in_trouble_is_left_alone,
)
