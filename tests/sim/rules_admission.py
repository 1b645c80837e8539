"""What a start needs beside its place: its turn, its device for itself, and memory, each worked out a second time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.inventory import Device, GpuState
from supervisor.core.message import (
    Action,
    Exited,
    HostRead,
    InventoryRead,
    Report,
    ShimLost,
    Spawn,
    Spawned,
    SpawnFailed,
    State,
    TreeGone,
)
from supervisor.core.turn import DaemonState
from supervisor.core.worker import HOLDING, RUNNING, Worker
from tests.sim.rules_start import MIB, headroom
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from supervisor.core.plan import Placement
    from supervisor.core.spec import WorkerId
    from tests.sim.world import World

START_S = 120.0
LOOK_S = 5.0
SLOW_S = 1.0
READING = "reading the free memory of its GPUs"


@dataclass
class Start:
    """A start with a GPU that was seen: it counts until it is ready, has ended, or 120 s are over."""

    order: Spawn
    at: float
    has_run: bool = False
    is_over: bool = False
    was_ready: bool = False


class Starts:
    """Every start of a life by its incarnation."""

    def __init__(self) -> None:
        self.by_incarnation: dict[int, Start] = {}

    def hear(self, step: Step) -> None:
        """What the daemon is told before it decides."""
        event = step.event
        start = self.by_incarnation.get(getattr(event, "incarnation", 0))
        if start is not None and isinstance(event, Spawned):
            start.has_run = True
        # Of one whose shim is lost before it was seen to run nobody knows whether it does.
        is_lost = isinstance(event, ShimLost) and start is not None and start.has_run
        if start is not None and (is_lost or isinstance(event, Exited | SpawnFailed | TreeGone)):
            start.is_over = True
        self._follow(step.actions)

    def take(self, step: Step) -> None:
        """What it has started."""
        for spawn in step.spawns:
            self.by_incarnation[spawn.incarnation] = Start(spawn, step.now)

    def under_way(self, now: float) -> list[Start]:
        """Starts with a GPU that count."""
        starts = [one for one in self.by_incarnation.values() if one.order.launch.slice and not one.is_over]
        return [one for one in starts if now < one.at + START_S]

    def was_ready(self, incarnation: int) -> bool:
        """Whether a process was ever said to be ready."""
        return incarnation in self.by_incarnation and self.by_incarnation[incarnation].was_ready

    def _follow(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Report) and action.transition.after is State.READY:
                start = self.by_incarnation.get(action.transition.incarnation)
                if start is not None:
                    start.is_over = start.was_ready = True


# ---- turns ----------------------------------------------------------------------------------------------------------


def only_so_many_start_at_once(world: World, step: Step) -> Iterator[str]:
    """`daemon.start_parallel`, of workers with a GPU."""
    limit = step.after.spec.daemon.start_parallel if step.after.spec else 0
    new = [spawn for spawn in step.spawns if spawn.launch.slice]
    under_way = len(world.checks.starts.under_way(step.now))
    if new and limit and under_way + len(new) > limit:
        yield f"{len(new)} start beside {under_way}, {limit} may at once"


def a_leased_device_gets_no_second_start(world: World, step: Step) -> Iterator[str]:
    """Who declares no memory starts alone on its devices, until it is ready, has ended, or 120 s are over."""
    under_way = [(one.order, one.order.launch) for one in world.checks.starts.under_way(step.now)]
    for spawn in step.spawns:
        mine = {share.uuid for share in spawn.launch.slice}
        for other, launch in under_way:
            shared = mine & {share.uuid for share in launch.slice}
            if shared and launch.recipe.gpu_memory is None and other.worker != spawn.worker:
                yield f"{spawn.worker} starts on {shared}, where {other.worker} starts without gpu_memory"
        under_way.append((spawn, spawn.launch))


def first_starts_go_first(world: World, step: Step) -> Iterator[str]:
    """Nobody who keeps failing takes the turn of one that has not been tried yet and could be."""
    in_line = step.after.in_line & step.after.waiting
    late = [one for one in in_line if not step.after.workers[one].history.failures]
    asked = step.after.asked
    if asked is not None and step.now - asked > SLOW_S - EPSILON_S:
        late = [one for one in late if not _asks(step.after.workers[one])]
    for spawn in step.spawns:
        if spawn.launch.slice and late and step.after.workers[spawn.worker].history.failures:
            yield f"{spawn.worker} has failed and starts before {late[0]}"


def the_line_moves(world: World, step: Step) -> Iterator[str]:
    """Whoever waits for its turn waits for starts that are under way, and somebody looks when they count no more."""
    fleet = step.after
    if fleet.state is DaemonState.STOPPING or not fleet.in_line:
        return
    if not fleet.in_line <= fleet.waiting:
        yield f"{set(fleet.in_line - fleet.waiting)} in line and not waiting"
        return
    limit = fleet.spec.daemon.start_parallel if fleet.spec else 0
    under_way = world.checks.starts.under_way(step.now)
    if fleet.asked is not None or fleet.host_asked:
        # The next to start are being looked at, which is not the others' business if they need not be.
        is_slow = fleet.asked is not None and step.now - fleet.asked > SLOW_S + EPSILON_S
        held_up = [one for one in fleet.in_line if not _asks(fleet.workers[one])]
        held_up = [one for one in held_up if is_slow or not fleet.workers[one].history.failures]
        if held_up and len(under_way) < limit:
            yield f"{held_up[0]} waits for a reading that is none of its business"
        return
    if len(under_way) < limit:
        yield f"{len(fleet.in_line)} wait for their turn and {len(under_way)} of {limit} start"
    free_at = sorted(one.at + START_S for one in under_way)[-limit] if len(under_way) >= limit else step.now
    looks = [fleet.workers[one].deadline for one in fleet.in_line]
    if not any(at is not None and at <= free_at + EPSILON_S for at in looks):
        yield f"nobody in line looks at {free_at}"


def a_restart_leaves_readings_be(world: World, step: Step) -> Iterator[str]:
    """Who has failed and needs no reading starts on no device of one that has waited longer, for a reading of it."""
    fleet = step.after
    if fleet.gpu.state is not GpuState.OK:
        return
    for spawn in step.spawns:
        before, mine = step.before.workers.get(spawn.worker), {share.uuid for share in spawn.launch.slice}
        if spawn.worker not in step.before.waiting or before is None or not before.history.failures or _asks(before):
            continue
        for one in fleet.waiting & step.before.waiting - fleet.in_line:
            was, now = step.before.workers[one], fleet.workers[one]
            is_read_for = READING == was.reason == now.reason and now.target is not None
            launch = now.target.launch if is_read_for and now.target else None
            if launch and now.since < before.since and mine & {share.uuid for share in launch.slice}:
                yield f"{spawn.worker} starts beside {one}, whose devices are being read"


def _asks(worker: Worker) -> bool:
    """Whether the memory of its devices is looked at before it starts."""
    assert worker.target is not None
    assert worker.target.launch is not None
    is_whole = all(one.millis == 1000 for one in worker.target.launch.slice)
    return is_whole or worker.target.launch.recipe.gpu_memory is not None


def who_waits_for_memory_looks_again(world: World, step: Step) -> Iterator[str]:
    """Nobody tells when memory is free: at a moment that is not far off, unless a reading is on its way."""
    fleet = step.after
    if fleet.state is DaemonState.STOPPING or fleet.gpu.state is not GpuState.OK:
        return
    for one in fleet.waiting - fleet.in_line:
        worker = fleet.workers[one]
        is_memory = worker.reason.startswith(("needs ", "GPU ", "reading "))
        if not is_memory or fleet.asked is not None or fleet.host_asked:
            continue
        if worker.deadline is None or worker.deadline > step.now + LOOK_S + EPSILON_S:
            yield f"{one} waits until {worker.deadline}: {worker.reason}"


def who_is_planned_elsewhere_makes_way(world: World, step: Step) -> Iterator[str]:
    """Nobody waits for a place that another has left on paper: that one is asked to go, whoever's turn it is."""
    fleet = step.after
    if fleet.state is DaemonState.STOPPING:
        return
    for one in fleet.waiting - fleet.in_line:
        target = fleet.workers[one].target
        if not fleet.workers[one].reason.startswith("waiting for its GPUs") or target is None or target.launch is None:
            continue
        for share in target.launch.slice:
            sitting = [(other, millis) for other in fleet.workers.values() if (millis := _sits(other, share.uuid))]
            if share.millis + sum(millis for other, millis in sitting if other.id != one) <= 1000:
                continue
            for other, millis in sitting:
                if other.state in RUNNING and other.target and _planned(other.target, share.uuid) < millis:
                    yield f"{one} waits for {share.uuid}, and nobody asks {other.id} to leave it"


def _sits(worker: Worker, uuid: str) -> int:
    """Thousandths that a process has of a device."""
    return sum(share.millis for share in worker.occupied if share.uuid == uuid) if worker.state in HOLDING else 0


def _planned(placement: Placement, uuid: str) -> int:
    return sum(share.millis for share in placement.launch.slice if share.uuid == uuid) if placement.launch else 0


# ---- memory of devices ----------------------------------------------------------------------------------------------


def nothing_starts_where_it_does_not_fit(world: World, step: Step) -> Iterator[str]:
    """Beside what is declared, and beside what the driver shows less what is still to be taken."""
    fleet = step.after
    if fleet.gpu.state is not GpuState.OK or fleet.inventory is None:
        return  # Then it ran there before: `memory_is_there`.
    for spawn in step.spawns:
        for share in spawn.launch.slice:
            device = fleet.inventory.by_uuid.get(share.uuid)
            if device is None or device.memory_total_bytes is None or device.memory_free_bytes is None:
                continue
            if spawn.launch.recipe.gpu_memory is not None:
                yield from _lack(world, step, spawn, device)
            elif all(one.millis == 1000 for one in spawn.launch.slice):
                yield from _crowd(step, spawn, device)


def _lack(world: World, step: Step, spawn: Spawn, device: Device) -> Iterator[str]:
    total, free, declared = device.memory_total_bytes, device.memory_free_bytes, spawn.launch.recipe.gpu_memory
    assert total is not None
    assert free is not None
    assert declared is not None
    books, untaken = _of_the_host(world, step, spawn) if device.is_unified else (0, 0)
    left_out = 0
    for other in _beside(step, spawn, device.uuid):
        amount = other.held.wanted.recipe.gpu_memory if other.held else None
        size = 0 if amount is None else amount_bytes(amount, total)
        books += size
        if other.state is State.RELEASING:
            continue
        if _is_left_out(world, device, other):
            left_out += size
        else:
            untaken += max(0, size - _taken(world, device, other, size))
    untaken += max(0, left_out - _nobodys(world, step, spawn, device))
    room = min(total - books, free - untaken) - headroom(step.after, total)
    if room < amount_bytes(declared, total):
        yield (
            f"{spawn.worker} needs {amount_bytes(declared, total) // MIB} on {device.uuid}: of {total // MIB}"
            f" {books // MIB} are declared, {free // MIB} free, {untaken // MIB} of that not yet taken"
        )


def _taken(world: World, device: Device, other: Worker, size: int) -> int:
    """What a worker has by the driver's list; without one nothing until it is ready, and all from then on."""
    shown = [one for one in device.holders or () if one.worker == str(other.id)]
    if shown:
        return sum(one.used_bytes or 0 for one in shown)
    return size if world.checks.starts.was_ready(other.incarnation) else 0


def _is_left_out(world: World, device: Device, other: Worker) -> bool:
    """Whether there is a list, and a worker that has been ready is not on it: in a container it has other pids."""
    if device.holders is None or any(one.worker == str(other.id) for one in device.holders):
        return False
    return world.checks.starts.was_ready(other.incarnation)


def _nobodys(world: World, step: Step, spawn: Spawn, device: Device) -> int:
    """
    What neighbours have whom the list leaves out: really, and as far as the reading shows memory that nobody has.

    What the dead have left there counts as theirs too, for nobody can tell, but where it is known for what it is.
    """
    assert device.memory_total_bytes is not None
    assert device.memory_free_bytes is not None
    gpu = next(one for one in world.devices.every if one.uuid == device.uuid)
    shown = {one.worker for one in device.holders or ()}
    those = {one.incarnation for one in _beside(step, spawn, device.uuid) if str(one.id) not in shown}
    those |= gpu.dead if device.uuid not in step.after.dirty else set()
    really = sum(size for number, size in gpu.used.items() if number in those)
    # What strangers have in instances that are gone is on no list either.
    really += 0 if gpu.is_cut else sum(part.foreign for part in gpu.parts)
    listed = sum(one.used_bytes or 0 for one in device.holders or ())
    return 0 if device.is_unified else min(really, device.memory_total_bytes - device.memory_free_bytes - listed)


def _crowd(step: Step, spawn: Spawn, device: Device) -> Iterator[str]:
    """A whole device is there for itself: nine tenths of it are free, by a reading of this moment."""
    assert device.memory_total_bytes is not None
    assert device.memory_free_bytes is not None
    assert step.after.inventory is not None
    total, free = device.memory_total_bytes, device.memory_free_bytes
    if device.is_unified:  # The host's own processes have nothing of the GPU.
        free = total - sum(one.used_bytes or 0 for one in device.holders or ())
    if free * 10 < total * 9:
        yield f"{spawn.worker} starts on {device.uuid} with {free // MIB} MiB free"


def readings_are_of_this_moment(world: World, step: Step) -> Iterator[str]:
    """
    Asked for after the last start, end and readiness on the device, and no old one.

    A driver may take long to answer, and the host's memory is asked for after that: then what counts is how long ago
    the driver has answered.
    """
    fleet = step.after
    if fleet.gpu.state is not GpuState.OK or fleet.inventory is None:
        return
    for spawn in step.spawns:
        is_whole = all(one.millis == 1000 for one in spawn.launch.slice)
        if not spawn.launch.slice or (spawn.launch.recipe.gpu_memory is None and not is_whole):
            continue
        is_old = step.now - fleet.inventory.asked_at > LOOK_S
        if isinstance(step.event, HostRead):
            is_old = step.now - world.checks.notes.read_at > LOOK_S
        if is_old and not isinstance(step.event, InventoryRead):
            yield f"{spawn.worker} starts on a reading of {step.now - fleet.inventory.asked_at:.1f} s ago"
        for share in spawn.launch.slice:
            if fleet.inventory.asked_at < world.checks.notes.changed.get(share.uuid, 0.0):
                yield f"{spawn.worker} starts on a reading from before {share.uuid} changed hands"


def _beside(step: Step, spawn: Spawn, uuid: str) -> list[Worker]:
    """Who else occupies a device at a start: those of before, and those that this step started earlier."""
    found = []
    for worker in step.after.workers.values():
        if worker.id == spawn.worker or worker.state not in HOLDING:
            continue
        is_later = any(one.incarnation > spawn.incarnation for one in step.spawns if one.worker == worker.id)
        if not is_later and any(share.uuid == uuid for share in worker.occupied):
            found.append(worker)
    return found


# ---- memory of the host ---------------------------------------------------------------------------------------------


def the_host_has_room(world: World, step: Step) -> Iterator[str]:
    """Beside what is declared, and what is left at this moment less what others are still to take."""
    hosted = _hosted(world, step)
    for spawn in reversed(step.spawns):
        need = spawn.launch.recipe.memory
        if need is None:
            continue
        if not isinstance(step.event, HostRead):
            yield f"{spawn.worker} starts without a look at the host's memory"
            continue
        hosted.pop(spawn.worker, None)
        declared = sum(size for size, _ in hosted.values())
        untaken = sum(size for size, is_new in hosted.values() if is_new)
        left = min(step.event.total_bytes - declared, step.event.available_bytes - untaken)
        if left < need:
            yield f"{spawn.worker} needs {need // MIB} MiB of the host's memory, {left // MIB} are left"


def _hosted(world: World, step: Step) -> dict[WorkerId, tuple[int, bool]]:
    """Who has declared how much of the host's memory, and whether it is still to take that."""
    starts = world.checks.starts
    hosted: dict[WorkerId, tuple[int, bool]] = {}
    for worker in step.after.workers.values():
        memory = worker.held.wanted.recipe.memory if worker.held and worker.state in HOLDING else None
        if memory is not None:
            is_new = not starts.was_ready(worker.incarnation) and worker.state is not State.RELEASING
            hosted[worker.id] = memory, is_new
    return hosted


def _of_the_host(world: World, step: Step, spawn: Spawn) -> tuple[int, int]:
    """What others have declared of the host's memory at a start, and what of that they are still to take."""
    later = {one.worker for one in step.spawns if one.incarnation >= spawn.incarnation}
    others = [one for worker, one in _hosted(world, step).items() if worker not in later]
    return sum(size for size, _ in others), sum(size for size, is_new in others if is_new)


RULES: tuple[Rule, ...] = (
    only_so_many_start_at_once,
    a_leased_device_gets_no_second_start,
    first_starts_go_first,
    a_restart_leaves_readings_be,
    nothing_starts_where_it_does_not_fit,
    readings_are_of_this_moment,
    the_host_has_room,
)

STATE_RULES: tuple[Rule, ...] = (
    the_line_moves,
    who_waits_for_memory_looks_again,
    who_is_planned_elsewhere_makes_way,
)
