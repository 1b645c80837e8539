"""What the dead still have of a GPU, and who may start there: worked out from what was seen, and from what is true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.inventory import Device, GpuState
from supervisor.core.message import InventoryRead, Say, Spawn, State
from supervisor.core.turn import DaemonState
from supervisor.core.worker import Worker
from tests.sim.rules_start import MIB, headroom
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from tests.sim.devices import Gpu
    from tests.sim.world import World

WARN_S, DIRTY_S = 5.0, 60.0
SIGHT_S = 5.0


@dataclass
class Seen:
    """What readings have shown of one process on one device while it lived."""

    listed: bool = False
    fewest: int | None = None


@dataclass
class Releases:
    """Processes and their devices as they were seen, and memory that was given up."""

    seen: dict[tuple[int, str], Seen] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)
    warned: set[int] = field(default_factory=set)
    untold: set[tuple[int, str]] = field(default_factory=set)
    """Processes whose memory counts as back since their device was not there to tell of it."""
    has_listed: bool = False

    def hear(self, step: Step) -> None:
        """What the driver shows of those that live."""
        event = step.event
        if isinstance(event, InventoryRead) and event.reading.state is GpuState.OK:
            for device in event.reading.devices:
                names = {one.worker for one in device.holders or ()} - {""}
                self.has_listed |= bool(names)
                for worker in step.before.workers.values():
                    on_it = any(share.uuid == device.uuid for share in worker.occupied)
                    is_living = worker.state not in {State.RELEASING, State.PENDING, State.BACKOFF}
                    if on_it and is_living and str(worker.id) in names:
                        self._look(worker.incarnation, device)
        for action in step.actions:
            if isinstance(action, Say) and action.event in {"worker.dirty", "worker.memory_late"}:
                worker_id = action.fields["worker"]
                found = [one for one in step.before.workers.values() if str(one.id) == worker_id]
                book = self.given_up if action.event == "worker.dirty" else self.warned
                book |= {one.incarnation for one in found}

    def take(self, step: Step) -> None:
        """What was free, and nobody's, at a start."""
        inventory = step.after.inventory
        for change in step.changes:
            before, after = change.before, change.after
            if before is None or before.state is not State.RELEASING or (after and after.state is State.RELEASING):
                continue
            gone = [one.uuid for one in before.occupied if inventory and one.uuid not in inventory.by_uuid]
            self.untold |= {(before.incarnation, uuid) for uuid in gone}
        for spawn in step.spawns:
            for share in spawn.launch.slice:
                device = inventory.by_uuid.get(share.uuid) if inventory else None
                is_fresh = inventory is not None and step.now - inventory.asked_at <= SIGHT_S
                is_known = is_fresh and step.after.gpu.state is GpuState.OK
                one = self.seen[spawn.incarnation, share.uuid] = Seen()
                one.fewest = stray(device) if device is not None and is_known else None

    def _look(self, incarnation: int, device: Device) -> None:
        one = self.seen.setdefault((incarnation, device.uuid), Seen())
        one.listed, found = True, stray(device)
        if found is not None:
            one.fewest = found if one.fewest is None else min(one.fewest, found)


def stray(device: Device) -> int | None:
    """Bytes that are used and nobody's on the list."""
    total, free, holders = device.memory_total_bytes, device.memory_free_bytes, device.holders
    if total is None or free is None or holders is None or device.is_unified:
        return None
    if any(one.used_bytes is None for one in holders):
        return None
    # More may be asked for than there is.
    return max(0, total - free - sum(one.used_bytes or 0 for one in holders))


def slack(total: int) -> int:
    """By how much figures may be off."""
    return max(64 * MIB, total // 50)


# ---- rules ----------------------------------------------------------------------------------------------------------


def memory_comes_back_first(world: World, step: Step) -> Iterator[str]:
    """A slice is given on when a reading asked for after the end shows its memory, or a minute is over."""
    fleet = step.after
    if fleet.state is DaemonState.STOPPING:
        return
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or before.state is not State.RELEASING:
            continue
        if after is not None and after.state is State.RELEASING:
            continue
        if before.incarnation in world.checks.releases.given_up:
            if step.now - before.since < DIRTY_S - EPSILON_S:
                yield f"{change.id} is given up after {step.now - before.since:.1f} s"
            continue
        if fleet.gpu.state is not GpuState.OK or fleet.inventory is None or fleet.inventory.asked_at < before.since:
            yield f"{change.id} gives its slice back on a reading from before its end"
            continue
        for share in before.occupied:
            device = fleet.inventory.by_uuid.get(share.uuid)
            if device is not None and (why := _is_held(world, step, before, device)):
                yield f"{change.id} gives {share.uuid} back: {why}"


def _is_held(world: World, step: Step, worker: Worker, device: Device) -> str:
    """Why a device is not free of a dead worker, by what its reading shows; empty where that does not tell."""
    releases = world.checks.releases
    seen = releases.seen.get((worker.incarnation, device.uuid), Seen())
    total, free, now = device.memory_total_bytes, device.memory_free_bytes, stray(device)
    if any(one.worker == str(worker.id) for one in device.holders or ()):
        return "the list shows it"
    # Where it leaves some out, and their open files show that, it is not asked about those that it never showed.
    # Nor about one that has its files open and nothing on it, which is on no list.
    had_none = not any(one.used.get(worker.incarnation) for one in world.devices.every if one.uuid == device.uuid)
    may_lie = world.devices.shows_files and (world.devices.omits or had_none)
    if device.holders is not None and not seen.listed and may_lie:
        return ""
    if device.holders is not None and (seen.listed or releases.has_listed):
        if now is not None and seen.fewest is not None and total and now - seen.fewest > slack(total):
            return f"{(now - seen.fewest) // MIB} MiB are nobody's"
        return ""
    declared = worker.held.wanted.request.gpu_memory if worker.held else None
    if declared is None or total is None or free is None:
        return ""
    need = amount_bytes(declared, total)
    # As much as was free before it will do, too.
    had = world.checks.releases.seen.get((worker.incarnation, device.uuid))
    is_short = free - headroom(step.after, total) < need
    return (
        f"{free // MIB} MiB free, it declared {need // MIB}"
        if is_short and had is not None and _is_low(world, device)
        else ""
    )


def _is_low(world: World, device: Device) -> bool:
    """Whether the dead have anything there, in truth."""
    gpus = [one for one in world.devices.every if one.uuid == device.uuid]
    living = {tree.order.incarnation for tree in world.processes.living()}
    return any(set(one.used) - living for one in gpus)


def no_two_incarnations_hold_one_device(world: World, step: Step) -> Iterator[str]:
    """Where the driver tells who has what, nobody starts beside the memory of its own last process."""
    if not world.devices.has_lists or step.after.gpu.state is not GpuState.OK:
        return
    for spawn in step.spawns:
        for gpu in world.devices.every:
            if any(share.uuid == gpu.uuid for share in spawn.launch.slice):
                yield from _own_dead(world, step, spawn, gpu.uuid)


def _own_dead(world: World, step: Step, spawn: Spawn, uuid: str) -> Iterator[str]:
    releases = world.checks.releases
    (gpu,) = [one for one in world.devices.every if one.uuid == uuid]
    shown = step.after.inventory.by_uuid.get(uuid) if step.after.inventory else None
    listed = sum(one.used_bytes or 0 for one in (shown.holders or () if shown else ()))
    if gpu.total is None or gpu.is_unified or gpu.is_cut or max(gpu.taken, listed) > gpu.total:
        return  # Where more is had than there is, nobody can see what is nobody's.
    for incarnation, size in gpu.used.items():
        is_own = gpu.owners[incarnation] == str(spawn.worker) and incarnation != spawn.incarnation
        was_seen = releases.seen.get((incarnation, uuid), Seen()).listed
        is_known = was_seen and (incarnation, uuid) not in releases.untold
        is_much = size - _hidden(world, gpu, incarnation) > slack(gpu.total)
        if is_own and is_known and is_much and incarnation not in releases.given_up:
            yield f"{spawn.worker} starts on {uuid}, where its process {incarnation} has {size // MIB} MiB"


def _hidden(world: World, gpu: Gpu, incarnation: int) -> int:
    """Bytes that look like what was nobody's while it lived, and has gone since, where the list does not show it."""
    shown = {one.pid for one in world.devices.list_of(gpu) or ()}
    if incarnation in shown:
        return 0
    left = sum(size for one, size in gpu.used.items() if one < incarnation and one not in shown)
    fewest = world.checks.releases.seen[incarnation, gpu.uuid].fewest or 0
    return max(0, fewest - left)


def who_waits_for_memory_is_told_of(world: World, step: Step) -> Iterator[str]:
    """A warning by 6 s, given up by a minute: unless the daemon did not run meanwhile."""
    for worker in step.after.workers.values():
        if worker.state is not State.RELEASING or step.after.state is DaemonState.STOPPING:
            continue
        waited = step.now - worker.since - world.frozen_since(worker.since)
        late_s = SIGHT_S * world.freezes_since(worker.since)
        if waited > WARN_S + 1.0 + late_s and worker.incarnation not in world.checks.releases.warned:
            yield f"{worker.id} has been releasing for {waited:.1f} s and nobody is told"
        if waited > DIRTY_S + 1.0 + late_s:
            yield f"{worker.id} has been releasing for {waited:.1f} s"


RULES: tuple[Rule, ...] = (memory_comes_back_first, no_two_incarnations_hold_one_device)

STATE_RULES: tuple[Rule, ...] = (who_waits_for_memory_is_told_of,)
