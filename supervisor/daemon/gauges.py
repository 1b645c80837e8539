"""
Reads what devices and workers do, for who asks: nobody asks, nothing is read. Many who ask cost one reading.

Keeps the last look, from which the next one tells how much CPU was used since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from supervisor.core.figures import Figures, Sensors, Usage
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.host.usage import TreeUse, read_trees

log = structlog.get_logger()

FRESH_S = 0.5
"""A look that is not older is taken for the next who asks."""
MEMORY_S = 15.0
"""A look that is older says nothing about this moment: CPU is measured anew, what a driver said then is forgotten."""
SPAN_S = 0.2
"""Between two looks for who has no earlier one."""
READING_S = 2.0
"""For the driver; after that its answer is for the next who asks."""


@dataclass(frozen=True, slots=True)
class _Look:
    """
    Trees as they were.

    Args:
        at: Monotonic second.
        trees: By worker, with the root that it had.
    """

    at: float = float("-inf")
    trees: Mapping[WorkerId, tuple[int, TreeUse]] = field(default_factory=dict)


class Gauges:
    """
    The figures of one daemon.

    Args:
        fleet: As it is at this moment.
        find_root: Pid below which a worker's tree is.
        read_devices: Asks the driver for devices and sensors, and lets the core see the devices.
        sensors: Of the last such reading, and what hung in it.
        monotonic: Seconds.
    """

    def __init__(
        self,
        fleet: Callable[[], Fleet],
        find_root: Callable[[WorkerId], int | None],
        read_devices: Callable[[], Awaitable[None]],
        sensors: Callable[[], tuple[Mapping[str, Sensors], str]],
        monotonic: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._find_root = find_root
        self._read_devices = read_devices
        self._sensors = sensors
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._look = _Look()
        self._usage: Mapping[WorkerId, Usage] = {}
        self._has_rates = False
        self._sensed_at = float("-inf")
        self._silent = ""

    @property
    def figures(self) -> Figures:
        """What was read last."""
        is_recent = self._monotonic() - self._sensed_at <= MEMORY_S
        return Figures(self._sensors()[0] if is_recent else {}, self._usage)

    async def read(self, *, rates: bool = True) -> None:
        """
        Look, unless somebody just did.

        Args:
            rates: Also at how much CPU is used a second, for which it takes two looks where no recent one is kept.
        """
        async with self._lock:
            if self._monotonic() - self._look.at > FRESH_S or (rates and not self._has_rates):
                await asyncio.gather(self._read_sensors(), self._read_trees(rates=rates))

    async def _read_sensors(self) -> None:
        """A driver that takes its time is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READING_S):
                await self._read_devices()
                self._sensed_at = self._monotonic()
        silent = self._sensors()[1]
        if silent and silent != self._silent:
            log.warning("sensors.silent", reason=silent)
        self._silent = silent

    async def _read_trees(self, *, rates: bool) -> None:
        before = self._look
        age_s = self._monotonic() - before.at
        if rates and age_s > MEMORY_S:
            before = await self._look_now()
            age_s = 0.0
        if rates and age_s < SPAN_S:
            await asyncio.sleep(SPAN_S - age_s)
        self._has_rates = rates or age_s <= MEMORY_S
        if not self._has_rates:
            before = _Look()
        self._look = after = await self._look_now()
        self._usage = {worker: _use(before, after, worker) for worker in after.trees}

    async def _look_now(self) -> _Look:
        roots = {worker: root for worker in self._fleet().workers if (root := self._find_root(worker)) is not None}
        at = self._monotonic()
        found = await read_trees(roots.values()) if roots else {}
        return _Look(at, {worker: (root, found[root]) for worker, root in roots.items() if root in found})


def _use(before: _Look, after: _Look, worker: WorkerId) -> Usage:
    root, now = after.trees[worker]
    earlier = before.trees.get(worker)
    cpu = None
    if now.memory_bytes is not None and earlier is not None and earlier[0] == root:
        # Of a process that ends between two reads of one look, the first look may miss a part.
        cpu = round(max(0.0, now.cpu_s - earlier[1].cpu_s) / (after.at - before.at), 3)
    return Usage(cpu, round(now.cpu_s, 2), now.memory_bytes)
