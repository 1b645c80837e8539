"""
What of the machine a worker is given beside GPUs: CPUs near them, limits, a port to meet at.

What cannot be given is said once in the log and kept for `status`; the worker runs without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.core.environment import MASTER_PORT, Rendered, fill, lacks_port
from supervisor.host.controllers import Controllers
from supervisor.host.locality import SYSFS, near_cpus
from supervisor.host.orders import Given
from supervisor.host.ports import Ports

if TYPE_CHECKING:
    from supervisor.core.message import Spawn
    from supervisor.core.spec import Recipe, Spec, WorkerId
    from supervisor.host.cgroups import Leaves

Tell = Callable[..., object]

PERIOD_US = 100_000
"""The kernel's own default for cpu.max."""

QUOTA_MIN_US = 1_000
"""The kernel refuses less."""


class Surroundings:
    """
    The surroundings of the workers of one daemon.

    Args:
        leaves: Where their cgroups are.
        tell: Gets the name and fields of a warning.
        sysfs: In place of ``/sys``.
    """

    def __init__(self, leaves: Leaves, tell: Tell, *, sysfs: Path = SYSFS) -> None:
        self.lacks: dict[WorkerId, str] = {}
        """Why the limits of a worker do not hold; empty for one whose limits do."""
        self._leaves = leaves
        self._controllers = Controllers(leaves)
        self._ports = Ports()
        self._tell = tell
        self._sysfs = sysfs
        self._said: set[str] = set()
        self._asked: dict[WorkerId, tuple[str, ...]] = {}

    def expect(self, spec: Spec) -> None:
        """Enable what the file will ask for while nobody else has been started, who would have to move."""
        for name in ("cpu", "memory") if self._leaves.folder is not None else ():
            services = spec.services.values()
            if any(getattr(one, name) for service in services for one in (service.resources, *service.variants())):
                self._controllers.enable(name)

    def prepare(self, order: Spawn, ports: Callable[[], Container[int]]) -> tuple[Spawn, Given]:
        """
        Find for a start what is known only now.

        Args:
            order: What the core wants.
            ports: Asked for those that the file gives to somebody.

        Returns:
            The order with its port in it, and what goes with it.

        Raises:
            OSError: No port is free.
        """
        if lacks_port(order.env):
            found = {MASTER_PORT: str(self._ports.find(order.worker, ports()))}
            done = fill(Rendered(order.argv, order.env, order.working_dir), found, (MASTER_PORT,))
            order = replace(order, argv=done.argv, env=done.env, working_dir=done.working_dir)
        return order, Given(self._near(order), self._limit(order))

    def note(self, worker: WorkerId, why: str) -> None:
        """A worker has started without the cgroup that was to limit it."""
        if names := self._asked.get(worker):
            # A file of a controller in the reason speaks of that limit alone.
            named = [name for name in names if re.search(rf"/{name}\.[a-z.]+:", why)]
            self._lack(worker, lack_text(dict.fromkeys(named or names, why)))

    def forget(self, worker: WorkerId) -> None:
        """A worker is no more."""
        self._ports.forget(worker)
        self._asked.pop(worker, None)
        self.lacks.pop(worker, None)

    def close(self) -> None:
        """Leave the machine as it was, once nothing of ours lives."""
        self._controllers.put_back()

    def _near(self, order: Spawn) -> frozenset[int] | None:
        if not order.near or not hasattr(os, "sched_getaffinity"):
            return None
        cpus, why = near_cpus(order.near, os.sched_getaffinity(0), self._sysfs)
        if why:
            self._say("numa.ignored", order.worker, f"{why}, so its workers run on any CPU")
        return cpus

    def _limit(self, order: Spawn) -> dict[str, str]:
        self.lacks.pop(order.worker, None)
        wanted = limits_of(order.launch.recipe)
        refused = {name: why for name in wanted if (why := self._controllers.enable(name))}
        self._asked[order.worker] = tuple(wanted)
        if wanted:
            self.lacks[order.worker] = ""
        if refused:
            self._lack(order.worker, lack_text(refused))
        return {file: text for name, files in wanted.items() if name not in refused for file, text in files.items()}

    def _lack(self, worker: WorkerId, why: str) -> None:
        self.lacks[worker] = why
        self._say("limits.ignored", worker, why)

    def _say(self, event: str, worker: WorkerId, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            self._tell(event, worker=str(worker), service=worker.service, reason=reason)


def limits_of(recipe: Recipe) -> dict[str, dict[str, str]]:
    """
    What is to be written into which files of a worker's cgroup, by the controller that has them.

    Memory is that of the machine: no swap, which would turn a worker that is too large into a machine that crawls. And
    a worker without memory ends as a whole: half of one serves nobody, and is not seen to be dead.
    """
    found: dict[str, dict[str, str]] = {}
    if recipe.cpu is not None:
        # A quota below the kernel's least takes a longer period.
        period_us = PERIOD_US if recipe.cpu * PERIOD_US // 1000 >= QUOTA_MIN_US else 10 * PERIOD_US
        found["cpu"] = {"cpu.max": f"{recipe.cpu * period_us // 1000} {period_us}"}
    if recipe.memory is not None:
        found["memory"] = {"memory.max": str(recipe.memory), "memory.swap.max": "0", "memory.oom.group": "1"}
    return found


def lack_text(refused: Mapping[str, str]) -> str:
    """``cpu and memory are not enforced: WHY``; for each its own reason where they differ."""
    reasons = list(dict.fromkeys(refused.values()))
    parts = []
    for reason in reasons:
        names = [name for name, why in refused.items() if why == reason]
        parts.append(f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not enforced: {reason}")
    return "; ".join(parts)
