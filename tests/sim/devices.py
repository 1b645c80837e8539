"""
Fake GPUs and a fake prober in front of them.

Memory follows the processes that live, and those that died for as long as the driver takes to notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.inventory import UNTOLD, Checkup, Device, GpuState, Health, Holder, Opener, Reading, Vitals
from supervisor.core.message import CanaryFinished, Event, InventoryRead
from tests.sim.agenda import Agenda
from tests.sim.processes import Tree

if TYPE_CHECKING:
    from tests.sim.ram import Ram

GIB = 1024**3
CHECKUP_S = 50.0
HANG_S = 10.0
"""The deadline of a call: a driver that hangs is given up on after it."""


@dataclass(eq=False)
class Gpu:
    """
    A GPU that is or was in the machine, or an instance that one is or was cut into.

    Args:
        total: None where the driver does not tell.
        is_cut: MIG is on.
        parts: Instances that MIG may cut it into; none where it cannot be cut.
        parent: Of which it is an instance.
        is_unified: It has no memory of its own.
        host: Whose memory it has then.
    """

    uuid: str
    slot: int
    total: int | None
    is_there: bool = True
    is_sick: bool = False
    foreign: int = 0
    recovery: int = 0
    fabric: int | None = None
    throttle: int = 0
    is_haunted: bool = False
    is_bent: bool = False
    """Half of its links are down."""
    switches: int = 0
    """Links to switches."""
    peers: dict[str, int] = field(default_factory=dict)
    """Links to other GPUs."""
    owners: dict[int, str] = field(default_factory=dict)
    """Incarnation -> its worker, for those that have ever had memory of it."""
    used: dict[int, int] = field(default_factory=dict)
    """Incarnation -> bytes, from its allocation until the driver has noticed its end."""
    dead: set[int] = field(default_factory=set)
    """Incarnations of which nothing lives."""
    is_cut: bool = False
    parts: list[Gpu] = field(default_factory=list)
    parent: Gpu | None = None
    instance: tuple[int, int] | None = None
    is_unified: bool = False
    host: Ram | None = None

    @property
    def taken(self) -> int:
        """Bytes that anybody has of it."""
        return self.foreign + sum(self.used.values())


class FakeDevices:
    """
    The driver.

    Args:
        agenda: Time.
        post: Where readings go.
        rng: For how long they take.
        gpus: What is in the machine.
    """

    def __init__(self, agenda: Agenda, post: Callable[[Event], None], rng: random.Random, gpus: list[Gpu]) -> None:
        self.agenda = agenda
        self.gpus = gpus
        self.every = [one for gpu in gpus for one in (gpu, *gpu.parts)]
        self.state = GpuState.OK
        self.detail = ""
        self.slow_s = 0.0
        self.has_lists = rng.random() < 0.5
        self.drops_the_dead = False
        """The list shows nobody who is dead, though its memory may not be back yet."""
        self.tells_kernel = len(gpus) % 2 == 0
        """What the kernel's driver lists can be looked at, and is what there is."""
        self.shows_files = False
        """Everybody's open files can be looked at."""
        self.omits = 0
        """Of so many incarnations the list leaves out one; 0 = none."""
        self.has_checkups = False
        """Once a minute it is told what counts over minutes."""
        self._checked_at = float("-inf")
        self.asked: list[tuple[float, bool]] = []
        self._post = post
        self._rng = rng
        self._serving = False
        self._waiters = 0

    # ---- the prober -------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool) -> None:
        """Ask. One reading at a time; all who ask meanwhile get the next one, each an answer of its own."""
        self.asked.append((self.agenda.now, fresh))
        self._waiters += 1
        self._checked_at = float("-inf") if fresh else self._checked_at
        if not self._serving:
            self._serve()

    def _serve(self) -> None:
        waiters, self._waiters = self._waiters, 0
        if not waiters:
            return
        self._serving = True
        asked_at = self.agenda.now
        took_s = self._rng.uniform(0.005, 0.05) + self.slow_s
        hangs = self.state is GpuState.UNRESPONSIVE or took_s >= HANG_S
        # What it answers was true at some moment after it was asked, not when the answer arrives.
        seen: list[Reading] = []
        self.agenda.after(0.0 if self._rng.random() < 0.5 else min(took_s, HANG_S), lambda: seen.append(self.look()))

        def answer() -> None:
            reading = Reading(GpuState.UNRESPONSIVE, "nvmlInit has not answered") if hangs else seen[0]
            self._serving = False
            for _ in range(waiters):
                self._post(InventoryRead(reading, asked_at))
            self._serve()

        self.agenda.after(HANG_S if hangs else took_s, answer)

    def look(self) -> Reading:
        """The machine as it is now, as far as the driver and the kernel tell."""
        reading = self._look()
        return replace(reading, openers=self._openers()) if self.shows_files else reading

    def _openers(self) -> tuple[Opener, ...]:
        return tuple(
            Opener(Holder(number, None, "serve", "bob", gpu.owners[number]), (_minor(gpu),), computes=True)
            for gpu in self.every
            for number in gpu.used
            if number not in gpu.dead
        )

    def _look(self) -> Reading:
        if self.state is not GpuState.OK:
            return Reading(self.state, self.detail or f"the driver says {self.state}")
        there = sorted((gpu for gpu in self.gpus if gpu.is_there), key=lambda gpu: gpu.slot)
        devices = []
        for index, gpu in enumerate(there):
            shown = (gpu, *(part for part in gpu.parts if gpu.is_cut and part.is_there))
            devices += [_device(one, index, self.list_of(one)) for one in shown]
        if self.has_checkups and self.agenda.now - self._checked_at >= CHECKUP_S:
            self._checked_at = self.agenda.now
            known = {gpu.uuid: gpu for gpu in there}
            devices = [_with_checkup(one, known) if one.parent is None else one for one in devices]
        kernel = frozenset(one.pci for one in devices) if self.tells_kernel else None
        return Reading(GpuState.OK, self.detail, tuple(devices), kernel=kernel)

    def list_of(self, gpu: Gpu) -> tuple[Holder, ...] | None:
        """Who has what of a device, as far as the driver tells; None where it does not."""
        if not self.has_lists or gpu.is_cut:
            return None
        hidden = {number for number in gpu.used if self.omits and number % self.omits == 0}
        return _holders(gpu, hidden | gpu.dead if self.drops_the_dead else hidden)

    # ---- health -----------------------------------------------------------------------------------------------------

    def run_canary(self, uuid: str) -> None:
        """A command runs on a device: on a sick one it fails."""
        gpu = next((one for one in self.every if one.uuid == uuid), None)
        is_bad = gpu is None or gpu.is_sick or bool(gpu.recovery)
        self.agenda.after(1.0, lambda: self._post(CanaryFinished(uuid, "exited with 1" if is_bad else "")))

    # ---- memory -----------------------------------------------------------------------------------------------------

    def watch(self, tree: Tree) -> None:
        """Let a tree that is being started allocate what it will."""
        declared = tree.order.launch.recipe.gpu_memory
        for gpu in self._on(tree):
            total = gpu.total or 16 * GIB
            wanted = total // 10 if declared is None else amount_bytes(declared, total)
            self.agenda.after(
                tree.nature.spawn_s + tree.nature.memory_s,
                partial(self._allocate, gpu, tree, int(wanted * tree.nature.memory)),
            )

    def release(self, tree: Tree) -> None:
        """A tree is gone: its memory comes back when the driver gets to it."""
        for gpu in self._on(tree):
            gpu.dead |= {tree.order.incarnation}
            self.agenda.after(tree.nature.release_s, partial(_give_back, gpu, tree.order.incarnation))

    def _allocate(self, gpu: Gpu, tree: Tree, wanted: int) -> None:
        if tree.has_main and not tree.is_spawning and not gpu.is_cut:
            gpu.used[tree.order.incarnation] = wanted
            gpu.owners[tree.order.incarnation] = str(tree.order.worker)

    def _on(self, tree: Tree) -> list[Gpu]:
        return [gpu for gpu in self.every if gpu.uuid in tree.uuids]

    # ---- trouble ----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Every GPU is there and well, nobody else is on it, and the driver answers. It may be cut up, as it is."""
        self.state, self.detail, self.slow_s = GpuState.OK, "", 0.0
        for gpu in self.every:
            gpu.is_there, gpu.is_sick, gpu.foreign = gpu.is_there or gpu.parent is None, False, 0

    def forget(self, incarnations: set[int]) -> None:
        """The memory of everybody but these is back."""
        for gpu in self.every:
            gpu.used = {one: amount for one, amount in gpu.used.items() if one in incarnations}


def _minor(gpu: Gpu) -> int:
    """Number of its file; instances are reached through that of their GPU. Not its place: that may change."""
    return int((gpu.parent or gpu).uuid.rpartition("-")[2])


def _give_back(gpu: Gpu, incarnation: int) -> None:
    gpu.used.pop(incarnation, None)


def _holders(gpu: Gpu, dead: AbstractSet[int]) -> tuple[Holder, ...]:
    """The driver's list of a device: foreign processes, and ours until it has noticed their end, less some."""
    foreign = (Holder(9_000_000, gpu.foreign, "python", "ann"),) if gpu.foreign else ()
    ours = ((number, size) for number, size in gpu.used.items() if size and number not in dead)
    return (*foreign, *(Holder(number, size, "serve", "bob", gpu.owners[number]) for number, size in ours))


def _device(gpu: Gpu, index: int, holders: tuple[Holder, ...] | None) -> Device:
    free = None if gpu.total is None else max(0, gpu.total - gpu.taken - sum(part.taken for part in gpu.parts))
    if gpu.host is not None:
        free = gpu.host.available
    is_sick = gpu.is_sick or (gpu.parent is not None and gpu.parent.is_sick)
    return Device(
        uuid=gpu.uuid,
        index=index,
        name="NVIDIA H100 80GB HBM3" if gpu.parent is None else "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        pci=f"0000:{16 + (gpu.parent or gpu).slot:02x}:00.0",
        numa=0,
        memory_total_bytes=gpu.total,
        memory_free_bytes=free,
        health=Health.LOST if is_sick else Health.OK,
        reason="it has fallen off the bus" if is_sick else "",
        parent=gpu.parent.uuid if gpu.parent else None,
        is_cut=gpu.is_cut,
        is_unified=gpu.is_unified,
        holders=holders,
        minor=_minor(gpu),
        instance=gpu.instance,
        vitals=Vitals(recovery=gpu.recovery, fabric=gpu.fabric) if gpu.parent is None and not is_sick else UNTOLD,
    )


def _with_checkup(device: Device, known: dict[str, Gpu]) -> Device:
    """What a GPU tells of itself once a minute; a link to one that does not answer is down."""
    gpu = known[device.uuid]
    if gpu.is_sick:
        return device
    ends = {"": gpu.switches, **{uuid: count for uuid, count in gpu.peers.items() if uuid in known}}
    ends = {end: 0 if end and known[end].is_sick else count for end, count in ends.items()}
    ends = {end: count - count // 2 if gpu.is_bent and count else count for end, count in ends.items()}
    checkup = Checkup(
        throttle=gpu.throttle,
        busy_percent=None if gpu.is_cut else 100 if gpu.is_haunted else 50,
        used_bytes=None if gpu.total is None else gpu.taken,
        nvlinks=None if gpu.is_cut else tuple((end, count) for end, count in sorted(ends.items()) if count),
    )
    return replace(device, checkup=checkup)
