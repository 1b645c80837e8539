"""The host's memory: what trees have of it, and what breathes beside them."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from supervisor.core.message import HostRead
from tests.sim.agenda import Agenda
from tests.sim.processes import Tree

if TYPE_CHECKING:
    from tests.sim.devices import Gpu

GIB = 1024**3


class Ram:
    """
    The memory of the host, of which no swap is told.

    Args:
        agenda: Time.
        rng: The seed's.
    """

    def __init__(self, agenda: Agenda, rng: random.Random) -> None:
        self.total = rng.choice((8, 32, 128)) * GIB
        self.foreign = 0
        self.used: dict[int, int] = {}
        self.gpus: list[Gpu] = []
        """Those that have no memory but this."""
        self._agenda = agenda

    @property
    def available(self) -> int:
        """What is left at this moment."""
        taken = sum(gpu.taken for gpu in self.gpus)
        return max(0, self.total - self.foreign - taken - sum(self.used.values()))

    def look(self) -> HostRead:
        """What the daemon reads."""
        return HostRead(self.available, self.total)

    def watch(self, tree: Tree) -> None:
        """Let a tree that is being started take what it has declared, some time before it is ready."""
        declared = tree.order.launch.recipe.memory
        if declared is not None:
            nature = tree.nature
            wait_s = nature.spawn_s + min(nature.memory_s, nature.ready_s or nature.memory_s) * 0.9
            self._agenda.after(wait_s, partial(self._allocate, tree, int(declared * nature.memory)))

    def release(self, tree: Tree) -> None:
        """A tree is gone, and its memory with it."""
        self.used.pop(tree.order.incarnation, None)

    def _allocate(self, tree: Tree, wanted: int) -> None:
        if tree.has_main and not tree.is_spawning:
            self.used[tree.order.incarnation] = wanted

    def heal(self) -> None:
        """Nobody else has any of it."""
        self.foreign = 0
