"""Measures what workers use, every `daemon.poll`, for as long as the file has workers recycled or ended by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.core import excess, recycle
from supervisor.core.message import Incarnation, State, UsageRead
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.host.usage import tree_bytes

IDLE_S = 5.0
"""Between two looks at whether the file wants anything measured by now."""


@dataclass(frozen=True, slots=True)
class Meter:
    """
    Looks, and tells what it has seen.

    Args:
        fleet: As it is at this moment.
        find_root: Pid below which a worker's tree is.
        post: Takes the event.
    """

    fleet: Callable[[], Fleet]
    find_root: Callable[[WorkerId], int | None]
    post: Callable[[UsageRead], None]

    async def run(self) -> None:
        """For ever. One look never begins before the last has ended."""
        while True:
            spec = self.fleet().spec
            await asyncio.sleep(spec.daemon.poll if spec else IDLE_S)
            await self.look()

    async def look(self) -> None:
        """One look; nothing is said where nobody is to be measured."""
        fleet = self.fleet()
        roots = {
            worker.id: (worker.incarnation, root)
            for worker in fleet.workers.values()
            if worker.state is State.READY
            and worker.target is not None
            and worker.policy.recycle.memory is not None
            and (root := self.find_root(worker.id)) is not None
        }
        found = await asyncio.to_thread(_measure, roots) if roots else {}
        reads_devices = recycle.wants_devices(fleet) or excess.wants_devices(fleet)
        if found or reads_devices:
            self.post(UsageRead(found, reads_devices=reads_devices))


def _measure(roots: dict[WorkerId, tuple[Incarnation, int]]) -> dict[WorkerId, tuple[Incarnation, int]]:
    """In a thread of its own: a large process takes the kernel a while to count."""
    found = {}
    for worker, (incarnation, root) in roots.items():
        used = tree_bytes(root)
        if used is not None:
            found[worker] = (incarnation, used)
    return found
