"""What the surfaces see of the daemon: snapshots to read, and a few things to ask for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from supervisor.core.explain import make_explanation
from supervisor.core.inventory import Device
from supervisor.core.message import (
    Event,
    QuarantineRequested,
    ReleaseRequested,
    ReloadRequested,
    RestartRequested,
    ScaleRequested,
    ShutdownRequested,
    SpecLoaded,
    StartRequested,
    StopRequested,
)
from supervisor.core.outcome import failures_since_reload, unsettled
from supervisor.core.preview import preview
from supervisor.core.snapshot import Json, View, make_devices, make_plan_json, make_rollout_json, make_status
from supervisor.core.spec import Spec, WorkerId, scale_problems
from supervisor.core.turn import Fleet
from supervisor.core.wards import find_gpu, parts_of, workers_on
from supervisor.daemon.chronicle import Chronicle
from supervisor.daemon.gauges import Gauges
from supervisor.daemon.reader import SpecReader
from supervisor.daemon.tally import Tally
from supervisor.daemon.telling import Telling
from supervisor.errors import ProblemsError
from supervisor.front.counts import Counts
from supervisor.host.clock import Clock


class Source(Protocol):
    """What of the daemon a face looks at."""

    fleet: Fleet
    reader: SpecReader
    tally: Tally
    clock: Clock
    gauges: Gauges

    @property
    def view(self) -> View:
        """What snapshots need beside the fleet."""

    @property
    def unkept(self) -> str:
        """Why what is known against devices will not outlive this daemon; empty where it will."""

    def post(self, event: Event) -> None:
        """Let the core see an event."""

    def decide(self, event: Event) -> None:
        """Let the core see an event now: the fleet after the call is the one after the event."""

    @property
    def telling(self) -> Telling:
        """Who reads what workers say."""

    @property
    def chronicle(self) -> Chronicle:
        """Who knows what happened."""

    async def find_openers(self, device: Device) -> list[Json] | None:
        """Who has a GPU open at this moment; None where that cannot be told."""

    async def read_inventory(self) -> None:
        """Ask the driver, and let the core see what it says."""


log = structlog.get_logger()

REFRESH_S = 2.0
EMPTY_S = 90.0
"""For so long whoever wants to reset a GPU waits until it is empty; then who is left there is told."""

CLAIM_S = 5.0
"""Claims are answered at once, but for what our own keeper has yet to let go."""

ORDERS: Mapping[str, type[StartRequested | StopRequested | RestartRequested]] = {
    "start": StartRequested,
    "stop": StopRequested,
    "restart": RestartRequested,
}

STOPPING: Json = {"ok": False, "problems": ["the daemon is stopping"], "difference": {}}


class DaemonFace:
    """The daemon as `front` knows it; see `front.api.Face`."""

    def __init__(self, daemon: Source) -> None:
        self.life = os.urandom(4).hex()
        self._daemon = daemon
        self._changed: asyncio.Future[None] | None = None
        self._reloads: list[asyncio.Future[Json]] = []
        self._is_closed = False
        self._shown: tuple[Fleet, Json] | None = None

    def status(self, *, figures: bool = False) -> Json:
        """The status JSON. Who asks in the same turn of the loop gets the same, and only reads it."""
        fleet = self._daemon.fleet
        if figures:
            return make_status(fleet, self._view(figures=True))
        if self._shown is None or self._shown[0] is not fleet:
            self._shown = (fleet, make_status(fleet, self._daemon.view))
            asyncio.get_running_loop().call_soon(self._forget)
        return self._shown[1]

    def _forget(self) -> None:
        self._shown = None

    async def read_figures(self, *, rates: bool = True) -> None:
        """Read what devices and workers do, unless somebody just did; see `Gauges`."""
        await self._daemon.gauges.read(rates=rates)

    async def devices(self, *, figures: bool = False) -> Json:
        """The devices JSON, as they are now; see `_refresh`."""
        await (self.read_figures() if figures else self._refresh())
        return make_devices(self._daemon.fleet, self._view(figures=figures))

    def _view(self, *, figures: bool) -> View:
        view = self._daemon.view
        return replace(view, figures=self._daemon.gauges.figures) if figures else view

    async def plan(self, file: str | None) -> Json:
        """
        What a file would do here, now.

        Args:
            file: Absolute path, None for the daemon's own.

        Raises:
            ProblemsError: The file is bad.
        """
        reader = self._daemon.reader if file is None else SpecReader(Path(file), self._daemon.fleet.host.environ)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        reader.read_in_thread(lambda event: None if answer.done() else answer.set_result(event))
        event = await answer
        if not isinstance(event, SpecLoaded):
            raise ProblemsError(getattr(event, "problems", ()))
        await self._refresh()
        fleet = self._daemon.fleet
        wanted = preview(fleet, event.spec, event.cpu_count)
        found = {worker: placement for worker, placement in wanted.items() if worker not in fleet.extras}
        rollout = make_rollout_json(fleet, event.spec, found)
        return {**make_plan_json(fleet, found, self._daemon.view), "rollout": rollout}

    async def _refresh(self) -> None:
        """Read the devices. A driver that takes its time is not waited for: then they are as they were read last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                await self._daemon.read_inventory()

    def counts(self) -> Counts:
        """What was counted since the start, for `/v1/metrics`."""
        return self._daemon.tally.counts(self._daemon.clock.monotonic())

    def explain(self, worker: str) -> Json:
        """Why a worker of the fleet is as it is."""
        worker_id = WorkerId.parse(worker)
        explained = make_explanation(self._daemon.fleet, self._daemon.view, worker_id)
        return {**explained, **self._daemon.chronicle.story(worker_id)}

    def events(
        self, target: str | None, *, lines: int | None, after: int | None, follow: bool
    ) -> AsyncGenerator[Json, None]:
        """What happened to workers, and happens; see `Chronicle.follow`."""
        return self._daemon.chronicle.follow(target, lines=lines, after=after, follow=follow)

    def logs(self, target: str | None, *, lines: int, after: int | None, follow: bool) -> AsyncGenerator[Json, None]:
        """What workers said and say; see `Telling.tell`."""
        return self._daemon.telling.tell(target, lines=lines, after=after, follow=follow)

    async def reload(self) -> Json:
        """Ask for a reload and wait for its answer."""
        if self._is_closed:
            return STOPPING
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._reloads.append(answer)
        self._daemon.post(ReloadRequested())
        return await answer

    async def settled(self) -> Json:
        """Wait until every worker has its new launch, or the roll-out was halted."""
        while not self._is_closed and unsettled(self._daemon.fleet):
            await self.changed()
        problems = failures_since_reload(self._daemon.fleet)
        return {"ok": not problems, "problems": list(problems)}

    def order(self, verb: str, targets: tuple[str, ...]) -> None:
        """Let the core know what an operator wants of services and workers."""
        workers = tuple(WorkerId.parse(target) for target in targets if "/" in target)
        services = tuple(target for target in targets if "/" not in target)
        self._daemon.decide(ORDERS[verb](workers, services))

    def scale(self, counts: Mapping[str, int]) -> None:
        """
        Let the core know of other counts than the file's.

        Raises:
            ProblemsError: The file does not allow them.
        """
        fleet = self._daemon.fleet
        file = (fleet.spec or Spec()).scale(fleet.sizes)
        if problems := scale_problems(file, {**fleet.scaled, **counts}, fleet.cpu_count):
            raise ProblemsError(problems)
        self._daemon.decide(ScaleRequested(counts))

    async def order_device(self, verb: str, target: str, *, for_reset: bool, reason: str = "") -> Json:
        """
        Let the core know what an operator wants of GPUs; for a reset, answer once nobody of ours is there.

        Raises:
            CannotError: There is no such GPU; then nothing is done to the others either.
        """
        devices = {one.uuid: one for one in (find_gpu(self._daemon.fleet, token) for token in target.split(","))}
        before = {one["uuid"]: one["health"] for one in self._devices_of(devices)}
        uuids = tuple(devices)
        is_taken = verb == "quarantine" or for_reset
        self._daemon.decide(
            QuarantineRequested(uuids, for_reset=for_reset, reason=reason) if is_taken else ReleaseRequested(uuids)
        )
        parts = {part for one in uuids for part in parts_of(self._daemon.fleet, one)}
        await self._wait_while(lambda fleet: not fleet.claiming.isdisjoint(parts), CLAIM_S)
        if for_reset:
            await self._wait_while(lambda fleet: any(workers_on(fleet, one) for one in uuids), EMPTY_S)
        await self._refresh()
        found = {
            **make_devices(self._daemon.fleet, self._daemon.view),
            "devices": self._devices_of(devices),
            "before": before,
            "warnings": [self._daemon.unkept] if self._daemon.unkept else [],
        }
        return {**found, "openers": await self._find_openers(devices.values())} if for_reset else found

    def _devices_of(self, uuids: Collection[str]) -> list[Json]:
        """These GPUs and their instances, as they are shown."""
        every: list[Json] = make_devices(self._daemon.fleet, self._daemon.view)["devices"]
        return [one for one in every if {one["uuid"], one["parent"]} & set(uuids)]

    async def _find_openers(self, devices: Iterable[Device]) -> list[Json] | None:
        """Who has any of these open, each once; None where it cannot be told of one."""
        found: dict[int, Json] = {}
        for device in devices:
            openers = await self._daemon.find_openers(device)
            if openers is None:
                return None
            found |= {one["pid"]: one for one in openers}
        return list(found.values())

    async def _wait_while(self, is_so: Callable[[Fleet], bool], limit_s: float) -> None:
        """Return once something is not so any more, or in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while is_so(self._daemon.fleet) and not self._is_closed:
                    await self.changed()

    def shutdown(self) -> None:
        """Ask the daemon to end."""
        self._daemon.post(ShutdownRequested())

    async def changed(self) -> None:
        """Return after the next change."""
        if self._is_closed:
            return
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def log_change(self, what: str, peer: Mapping[str, int | str]) -> None:
        """Say who asked for a change."""
        log.info("daemon.asked", what=what, **peer)

    def notice(self) -> None:
        """Something has changed: wake who waits for that."""
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    def finish_reload(self, answer: Json) -> None:
        """Answer everybody who waits for a reload."""
        waiting, self._reloads = self._reloads, []
        for future in waiting:
            if not future.done():
                future.set_result(answer)

    def close(self) -> None:
        """The daemon ends: nobody waits any more."""
        self._is_closed = True
        self._daemon.telling.close()
        self._daemon.chronicle.close()
        self.finish_reload(STOPPING)
        self.notice()
