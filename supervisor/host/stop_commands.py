"""
Runs the commands that precede the signal of a stop: as the worker's user, with its environment and its MAINPID.

Must not know how long one may take, nor what follows it: both are for the core to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.core.file.names import MAIN_PID
from supervisor.core.message import StopCommandEnded
from supervisor.host.exec_probe import Command

if TYPE_CHECKING:
    from supervisor.core.message import Event, RunStopCommand, Spawn
    from supervisor.core.spec import WorkerId
    from supervisor.host.prober_client import Spawner

SHORT = "could not be started: this machine is short of processes, descriptors or memory"


class StopCommands:
    """
    One task for each command that runs.

    Args:
        loop: Runs them.
        on_event: Gets StopCommandEnded.
        spawner: Starts them, each below a shim of its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_event: Callable[[Event], None], spawner: Spawner) -> None:
        self._loop = loop
        self._on_event = on_event
        self._spawner = spawner
        self._starts: dict[WorkerId, Spawn] = {}
        self._tasks: dict[WorkerId, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def equip(self, start: Spawn) -> None:
        """Keep a worker's start: its command has the same environment, user and working directory."""
        self._starts[start.worker] = start

    def run(self, order: RunStopCommand) -> None:
        """Run a command of a worker that was equipped; StopCommandEnded comes, unless it is ended before."""
        self.end(order.worker)
        self._tasks[order.worker] = self._loop.create_task(self._run(order))

    def end(self, worker: WorkerId) -> None:
        """Kill it and whatever it started; nothing is told of it any more."""
        task = self._tasks.pop(worker, None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def forget(self, worker: WorkerId) -> None:
        """Its process is no more."""
        self.end(worker)
        self._starts.pop(worker, None)

    async def close(self) -> None:
        """End them all."""
        for worker in tuple(self._tasks):
            self.forget(worker)
        if self._ending:
            await asyncio.wait(self._ending)

    async def _run(self, order: RunStopCommand) -> None:
        start = self._starts[order.worker]
        started_as = replace(start, env={**start.env, MAIN_PID: str(order.pid)})
        command = Command(self._spawner, started_as, order.argv, "stop")
        try:
            fault = await command.ask(None)
        finally:
            command.close()
        self._tasks.pop(order.worker, None)
        fault = SHORT if fault is None else fault.removeprefix(command.name).strip()
        self._on_event(StopCommandEnded(order.worker, order.incarnation, fault))
