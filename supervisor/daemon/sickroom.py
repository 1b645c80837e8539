"""What the daemon does for sick devices: remembers them for its next life, and runs canaries on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from supervisor.core import environment
from supervisor.core.environment import Host
from supervisor.core.message import CanaryFinished, Event, RunCanary, Spawn
from supervisor.core.plan import Launch
from supervisor.core.snapshot import Json
from supervisor.core.spec import Recipe, WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.wards import recalled
from supervisor.host.exec_probe import Command
from supervisor.host.holders import Describer
from supervisor.host.openers import find_openers
from supervisor.host.prober_client import Spawner
from supervisor.host.sickbay import Sickbay

UNABLE = "this machine is short of what a process needs"


class Sickroom:
    """
    Beside one daemon.

    Args:
        processes: Where canaries are started.
        environ: Of the daemon; a canary finds of it what a worker does, and of devices it sees only its own.
        folder: Where they run: that of the service file.
        post: Takes what comes of them.
    """

    def __init__(
        self, processes: Spawner, environ: Mapping[str, str], folder: str, post: Callable[[Event], None]
    ) -> None:
        self._processes = processes
        self._host = Host(environ)
        self._folder = folder
        self._post = post
        self._sickbay: Sickbay | None = None
        self._numbers = 0

    def recall(self, file: Path, fleet: Fleet, now: float) -> Fleet:
        """The fleet with what an earlier life has kept in a file, which is written from now on."""
        self._sickbay = Sickbay(file)
        ailments, is_same_boot = self._sickbay.read()
        found = recalled(ailments, now=now, is_same_boot=is_same_boot)
        return fleet if not found else Fleet(**{**vars(fleet), "ailments": found})

    def hear(self, before: Fleet, after: Fleet) -> None:
        """One turn of the core."""
        if self._sickbay is not None and before.ailments is not after.ailments:
            self._sickbay.write(after.ailments)

    @property
    def unkept(self) -> str:
        """Why nothing outlives this daemon; empty where it does."""
        fault = self._sickbay.fault if self._sickbay is not None else ""
        return f"cannot keep it beyond this daemon: {fault}" if fault else ""

    async def find_openers(self, minor: int | None, owners: Mapping[int, WorkerId]) -> list[Json] | None:
        """Who has a GPU's file open; None where not everybody could be looked at, and nobody was found."""
        found, hidden = await asyncio.to_thread(find_openers)
        describer = Describer(owners)
        who = [describer.describe(pid, None) for pid, minors, _ in found if minor is None or minor in minors]
        if hidden and not who:
            return None
        return [{"pid": one.pid, "name": one.name, "user": one.user, "worker": one.worker} for one in who]

    async def run_canary(self, order: RunCanary) -> None:
        """Run a command that sees one device."""
        self._numbers += 1
        env = environment.one_device(self._host, order.uuid)
        launch = Launch(Recipe(command=order.argv, env=(), working_dir=self._folder, port=None, gpu_memory=None))
        start = Spawn(WorkerId("canary", self._numbers), 1, launch, order.argv, env, self._folder)
        command = Command(self._processes, start, order.argv, "canary")
        try:
            fault = await command.ask(order.timeout_s)
        finally:
            command.close()
        self._post(CanaryFinished(order.uuid, UNABLE if fault is None else fault, is_unable=not command.has_run))
