"""What the tests of readings share: real processes, a box to read, and ways to look at both."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from supervisor.core.inventory import Reading
from supervisor.core.message import Event, KillTree, Spawn
from supervisor.core.spec import WorkerId
from supervisor.host.devices import CHECKUP_S, Devices
from supervisor.host.prober_client import Spawner
from supervisor.host.process import Processes
from tests.nvml.fake import FakeBox

DEADLINE_S = 20.0


class Stubborn:
    """Real processes of which none can be killed, as those that wait in the driver."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.refused = 0

    def listen(self, worker: WorkerId, callback: Callable[[Event], None]) -> None:
        self._processes.listen(worker, callback)

    def spawn(self, order: Spawn, fds: Mapping[int, int]) -> None:
        self._processes.spawn(order, fds)

    def kill_tree(self, order: KillTree) -> None:
        self.refused += 1

    def dismiss(self, worker: WorkerId) -> None:
        self._processes.dismiss(worker)


@asynccontextmanager
async def running() -> AsyncIterator[Processes]:
    strays: list[Event] = []
    processes = Processes(strays.append)
    await processes.start()
    yield processes
    await processes.close()
    assert strays == [], "events of a prober went to the fleet"


def make(
    processes: Spawner,
    box: FakeBox,
    *,
    owners: Callable[[], Mapping[int, WorkerId]] = dict,
    init_s: float = 10.0,
    call_s: float = 10.0,
    gone_s: float = 2.0,
    checkup_s: float = CHECKUP_S,
) -> Devices:
    return Devices(
        processes,
        time.monotonic,
        {**os.environ, **box.env},
        owners=owners,
        init_deadline_s=init_s,
        call_deadline_s=call_s,
        gone_deadline_s=gone_s,
        checkup_s=checkup_s,
    )


async def ask(devices: Devices, *, fresh: bool = False) -> Reading:
    async with asyncio.timeout(DEADLINE_S):
        reading, _ = await devices.read(fresh=fresh)
    return reading


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - What is waited for happens in other processes.
            await asyncio.sleep(0.005)


def probers(box: FakeBox) -> set[int]:
    """Pids of all processes that have asked the library for anything."""
    return {call.pid for call in box.calls()}


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
