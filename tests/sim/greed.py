"""Processes that take more of a GPU than the file says, files that guard against it, and the meter that looks."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from supervisor.core.excess import wants_devices
from supervisor.core.message import UsageRead

if TYPE_CHECKING:
    from tests.sim.processes import Tree
    from tests.sim.world import World

POLL_S = 5.0


class Greed:
    """
    Some lives have it, and the others stay what they were.

    Args:
        world: In which it is.
        rng: A generator of its own.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.is_there = rng.random() < 0.3 and bool(world.gpus)
        self.taken: dict[tuple[str, int], int] = {}
        """Device and incarnation -> what it had before it took more."""

    def spare(self, kinds: list[Callable[[], None]]) -> list[Callable[[], None]]:
        """Less trouble of other kinds: who is replaced all the time never has too much for a minute."""
        if not self.is_there:
            return kinds
        mild = [kind for kind in kinds if kind.__name__ not in {"vanish", "recut"}]
        return self.rng.sample(mild, min(2, len(mild))) or kinds

    def start(self) -> None:
        """Let the daemon's meter run, as long as there is trouble; its driver shows everybody, dead or alive."""
        if self.is_there:
            devices = self.world.devices
            devices.has_lists, devices.drops_the_dead, devices.omits = True, False, 0
            self.world.agenda.after(POLL_S, self._look)

    def _look(self) -> None:
        if self.world.is_healed:
            return
        if wants_devices(self.world.fleet):
            self.world.post(UsageRead(reads_devices=True))
        self.world.agenda.after(POLL_S, self._look)

    def put(self, document: dict[str, Any]) -> dict[str, Any]:
        """Let some services of a file share GPUs, and say what is to follow."""
        services = document.get("services") or {}
        for name in sorted(services) if self.is_there else ():
            if self.rng.random() < 0.2:
                continue
            for key in ("recycle", "alive", "after", "update"):
                services[name].pop(key, None)
            services[name] |= {
                "workers": self.rng.randint(1, 3),
                "ready": {"after": 0.5, "timeout": 15},
                "on_no_gpu": "wait",
            }
            services[name]["resources"] = {
                "gpu": self.rng.choice((0.5, 0.25)),
                "gpu_memory": self.rng.choice(("2GiB", "4GiB", "20%")),
                "gpu_memory_guard": self.rng.choice(("off", "warn", "restart", "restart", "restart")),
            }
            if services[name]["resources"]["gpu_memory"] == "4GiB":
                services[name]["resources"]["gpu_memory_guard_after"] = "30s"
        return document

    def is_good(self) -> bool:
        """Whether a process is to have no other fault: who dies young never has too much for a minute."""
        return self.is_there and self.rng.random() < 0.7

    def watch(self, tree: Tree) -> None:
        """Some take more than they should, from some moment on, and some of these give it back."""
        if not self.is_there or tree.order.launch.recipe.gpu_memory is None or self.rng.random() < 0.2:
            return
        at_s, factor = self.rng.choice((0.0, 0.0, self.rng.uniform(0.0, 100.0))), self.rng.choice((1.5, 2.0))
        since = tree.nature.spawn_s + tree.nature.memory_s + at_s + 0.001
        self.world.agenda.after(since, partial(self._take, tree, factor))
        if self.rng.random() < 0.4:
            self.world.agenda.after(since + self.rng.uniform(1.0, 90.0), partial(self._give_back, tree))

    def _take(self, tree: Tree, factor: float) -> None:
        for gpu in self.world.devices.every:
            used = gpu.used.get(tree.order.incarnation)
            if used is None or self.world.is_healed or tree.order.incarnation in gpu.dead:
                continue
            self.taken[gpu.uuid, tree.order.incarnation] = used
            gpu.used[tree.order.incarnation] = int(used * factor)

    def _give_back(self, tree: Tree) -> None:
        for gpu in self.world.devices.every:
            before = self.taken.pop((gpu.uuid, tree.order.incarnation), None)
            if before is not None and tree.order.incarnation in gpu.used:
                gpu.used[tree.order.incarnation] = before

    def heal(self) -> None:
        """Everybody keeps to what it has declared."""
        for gpu in self.world.devices.every:
            for number in gpu.used:
                gpu.used[number] = self.taken.pop((gpu.uuid, number), gpu.used[number])
