"""
Fake GPUs and a fake prober in front of them.

Memory follows the processes that live, and those that died for as long as the driver takes to notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.inventory import Device, GpuState, Health, Holder, Reading
from supervisor.core.message import Event, InventoryRead
from tests.sim.agenda import Agenda
from tests.sim.processes import Tree

GIB = 1024**3
HANG_S = 10.0
"""The deadline of a call: a driver that hangs is given up on after it."""


@dataclass(eq=False)
class Gpu:
    """A GPU that is or was in the machine; *total* is None where the driver does not tell."""

    uuid: str
    slot: int
    total: int | None
    is_there: bool = True
    is_sick: bool = False
    foreign: int = 0
    owners: dict[int, str] = field(default_factory=dict)
    """Incarnation -> its worker, for those that have ever had memory of it."""
    used: dict[int, int] = field(default_factory=dict)
    """Incarnation -> bytes, from its allocation until the driver has noticed its end."""


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
        self.state = GpuState.OK
        self.detail = ""
        self.slow_s = 0.0
        self.has_lists = rng.random() < 0.5
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
        """The machine as it is now, as far as the driver tells."""
        if self.state is not GpuState.OK:
            return Reading(self.state, self.detail or f"the driver says {self.state}")
        there = sorted((gpu for gpu in self.gpus if gpu.is_there), key=lambda gpu: gpu.slot)
        return Reading(
            GpuState.OK, self.detail, tuple(_device(gpu, index, self.has_lists) for index, gpu in enumerate(there))
        )

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
            self.agenda.after(tree.nature.release_s, partial(_give_back, gpu, tree.order.incarnation))

    def _allocate(self, gpu: Gpu, tree: Tree, wanted: int) -> None:
        if tree.has_main and not tree.is_spawning:
            gpu.used[tree.order.incarnation] = wanted
            gpu.owners[tree.order.incarnation] = str(tree.order.worker)

    def _on(self, tree: Tree) -> list[Gpu]:
        return [gpu for gpu in self.gpus if gpu.uuid in tree.uuids]

    # ---- trouble ----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Every device is there and well, nobody else is on it, and the driver answers."""
        self.state, self.detail, self.slow_s = GpuState.OK, "", 0.0
        for gpu in self.gpus:
            gpu.is_there, gpu.is_sick, gpu.foreign = True, False, 0

    def forget(self, incarnations: set[int]) -> None:
        """The memory of everybody but these is back."""
        for gpu in self.gpus:
            gpu.used = {one: amount for one, amount in gpu.used.items() if one in incarnations}


def _give_back(gpu: Gpu, incarnation: int) -> None:
    gpu.used.pop(incarnation, None)


def _holders(gpu: Gpu) -> tuple[Holder, ...]:
    """The driver's list of a device: foreign processes, and ours until it has noticed their end."""
    foreign = (Holder(9_000_000, gpu.foreign, "python", "ann"),) if gpu.foreign else ()
    ours = ((number, size) for number, size in gpu.used.items() if size)
    return (*foreign, *(Holder(number, size, "serve", "bob", gpu.owners[number]) for number, size in ours))


def _device(gpu: Gpu, index: int, has_list: bool) -> Device:
    free = None if gpu.total is None else max(0, gpu.total - gpu.foreign - sum(gpu.used.values()))
    return Device(
        uuid=gpu.uuid,
        index=index,
        name="NVIDIA H100 80GB HBM3",
        pci=f"0000:{16 + gpu.slot:02x}:00.0",
        numa=0,
        memory_total_bytes=gpu.total,
        memory_free_bytes=free,
        health=Health.LOST if gpu.is_sick else Health.OK,
        reason="it has fallen off the bus" if gpu.is_sick else "",
        holders=_holders(gpu) if has_list else None,
    )
