"""
Keeps a process that waits for the driver's events, and hands on what it tells. A new one for other devices.

Owns when one is started and given up; the process itself is `host.watcher`, and what an event means is the core's word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from supervisor.core.inventory import GpuState
from supervisor.core.message import DeviceEventTold, Event
from supervisor.core.turn import Fleet
from supervisor.host.prober_client import Prober, Spawner

log = structlog.get_logger()

BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 60.0
"""An error of the driver's must not make it come back at once: some plugins ask a sick one without a pause."""

PATIENCE_S = 3600.0
GONE_S = 2.0
ABANDONED_MAX = 3

LOOK = DeviceEventTold("", 0)
"""It is not known of which device: whatever has happened, the next reading shows what has become of it."""

Key = tuple[tuple[str, ...], frozenset[str]]
"""GPUs that there are, and those of them that nothing of ours is to have open."""


class Sentry:
    """
    One watcher at a time.

    Args:
        processes: Where it is started.
        environ: Its environment.
        post: Takes what it tells.
    """

    def __init__(self, processes: Spawner, environ: Mapping[str, str], post: Callable[[Event], None]) -> None:
        self._processes = processes
        self._environ = environ
        self._post = post
        self._key: Key | None = None
        self._task: asyncio.Task[None] | None = None
        self._watcher: Prober | None = None
        self._left: list[Prober] = []
        self._number = 0
        self._has_nobody = False  # None of the devices can be watched.
        self._has_missed = False  # There was nobody to hear: who is watched now was not for a while.

    def hear(self, fleet: Fleet) -> None:
        """One turn of the core: whom to watch now. While the driver is in trouble it is as before."""
        if fleet.gpu.state is not GpuState.OK or fleet.inventory is None:
            return
        uuids = tuple(one.uuid for one in fleet.inventory.devices if one.parent is None)
        key = (uuids, fleet.spared) if fleet.wants_gpu and uuids else None
        if key != self._key:
            self._key = key
            self._end()
            if key is not None:
                spare = [
                    one.index for one in fleet.inventory.devices if one.uuid in fleet.spared and one.parent is None
                ]
                self._task = asyncio.get_running_loop().create_task(self._run(spare))

    async def close(self) -> None:
        """Nobody is watched any more."""
        self._key = None
        task = self._task
        self._end()
        if task is not None:
            await asyncio.wait([task])
        for one in self._left:
            await one.wait_gone(GONE_S)

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._retire()

    def _retire(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._left.append(self._watcher)
            self._watcher = None
        self._left = [one for one in self._left if not one.is_gone]

    async def _run(self, spare: list[int]) -> None:
        delay_s = BACKOFF_FIRST_S
        while True:
            began = asyncio.get_running_loop().time()
            with contextlib.suppress(OSError):
                await self._watch(spare)
            self._retire()
            self._has_missed = True
            if asyncio.get_running_loop().time() - began > BACKOFF_MAX_S:
                delay_s = BACKOFF_FIRST_S
            await asyncio.sleep(PATIENCE_S if self._has_nobody else delay_s)
            delay_s = min(2 * delay_s, BACKOFF_MAX_S)

    async def _watch(self, spare: list[int]) -> None:
        """Start one and listen until it has nothing more to say."""
        if len(self._left) >= ABANDONED_MAX:
            return
        self._number += 1
        place = min({*range(ABANDONED_MAX + 1)} - {one.place for one in self._left})
        watcher = Prober(self._processes, place=place, number=self._number, environ=self._environ, program="watcher")
        self._watcher = watcher
        watcher.ask(self._number, "events", spare=spare)
        while True:
            try:
                line = await watcher.wait_line(PATIENCE_S)
            except TimeoutError:
                continue
            if line is None and self._has_nobody:
                return
            if line is None:
                log.warning("watcher.ended", reason=await watcher.describe_end(GONE_S))
                return
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            message: dict[str, Any] = json.loads(line)
            if "event" in message:
                told = message["event"]
                instance = None if told["instance"] is None else (int(told["instance"][0]), int(told["instance"][1]))
                self._post(DeviceEventTold(str(told["uuid"]), int(told["kind"]), int(told["number"]), instance))
            elif "watched" in message:
                self._has_nobody = not message["watched"]
                log.info("watcher.started", devices=list(message["watched"]))
                if self._has_missed:
                    self._has_missed = False
                    self._post(LOOK)
            elif "error" in message:
                log.warning("watcher.failed", reason=str(message["error"]))
                self._post(LOOK)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            log.warning("watcher.failed", reason=f"it said {line[:200].decode(errors='replace')}")
