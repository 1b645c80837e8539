"""
Keeps the files of `daemon.endpoints` as the fleet is, and lets whoever reads them know.

Writes in a thread, one look at the fleet at a time and always the newest. Who is to be stopped is held back until he is
out of the files, for a moment only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from supervisor.core.endpoints import Endpoints, find_endpoints, is_open, render
from supervisor.core.file.endpoints import EndpointsSpec, Form
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker
from supervisor.host.endpoint_files import in_thread, write_file
from supervisor.host.hooks import HookCommand
from supervisor.host.prober_client import Spawner

log = structlog.get_logger()

HOLD_S = 0.5
"""For how long a stop waits for the files: a disk that does not answer must not keep workers alive."""
RETRY_S = 5.0
REST_S = 1.0
"""From the end of a reload command to the next: many changes make one."""
RELOAD_S = 30.0
RELOAD_RETRY_MAX_S = 60.0
CLOSE_S = 3.0

NOBODY: frozenset[WorkerId] = frozenset()

Tell = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class _Job:
    """What to write: *emptied* are files that nobody is in any more, since the service file does not name them now."""

    number: int
    endpoints: Endpoints
    spec: EndpointsSpec
    emptied: tuple[tuple[Form, str], ...]


class EndpointFiles:
    """
    The files of one daemon.

    Args:
        spawner: Starts the reload command.
        environ: Of the daemon, of which that command gets a part.
        folder: Where it runs.
        tell: Takes what went wrong, for hooks.
    """

    def __init__(self, spawner: Spawner, environ: Mapping[str, str], folder: str, tell: Tell) -> None:
        self._spawner = spawner
        self._environ = environ
        self._folder = folder
        self._tell_hooks = tell
        self._spec: EndpointsSpec | None = None
        self._fleet = Fleet()
        self._emptied: tuple[tuple[Form, str], ...] = ()
        self._wanted = self._written = 0
        self._wake, self._settled, self._reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._settled.set()
        self._is_reloading = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []

    def look(self, before: Fleet, after: Fleet) -> frozenset[WorkerId]:
        """
        One turn of the core.

        Returns:
            Who was in the files and is not to be: his stop waits for `settled`.
        """
        spec = after.spec.daemon.endpoints if after.spec else None
        if spec is None and self._spec is None:
            return NOBODY
        is_new = spec != self._spec
        if is_new:
            self._use(spec)
        pairs = [(one, before.workers.get(one), after.workers.get(one)) for one in after.touched]
        changed = {one for one, old, new in pairs if _differ(old, new)}
        is_new = is_new or after.spec is not before.spec
        if is_new or changed or (before.inventory is not after.inventory and _indices(before) != _indices(after)):
            self._fleet = after
            self._wanted += 1
            self._settled.clear()
            self._idle.clear()
            self._wake.set()
        return frozenset(one for one in changed if not is_open(after.workers.get(one)))

    async def settled(self) -> None:
        """Wait until the files are as the fleet was when this was called, but not for long."""
        wanted = self._wanted
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S):
                while self._written < wanted:
                    self._settled.clear()
                    await self._settled.wait()

    async def close(self) -> None:
        """The end: nobody is in the files any more, and who reads them has been told, within bounds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._idle.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _use(self, spec: EndpointsSpec | None) -> None:
        old = set(self._spec.files) if self._spec else set()
        kept = spec.files if spec else ()
        self._emptied = (*(one for one in self._emptied if one not in kept), *sorted(old - set(kept)))
        self._spec = spec
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._write()), loop.create_task(self._reload_readers())]

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            job = _Job(self._wanted, find_endpoints(self._fleet), self._spec or EndpointsSpec(), self._emptied)
            changed, faults = await in_thread(partial(_write_all, job))
            if not faults:
                self._emptied = tuple(one for one in self._emptied if one not in job.emptied)
            self._written = job.number
            self._settled.set()
            for path, reason in faults.items():
                self._complain("endpoints.failed", path=path, reason=reason, retry_in_s=RETRY_S)
            if faults:
                asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
            if changed and job.spec.reload:
                self._reload.set()
            self._look_idle()

    async def _reload_readers(self) -> None:
        """At once, then at most every second; one that fails is tried again until it works or something changes."""
        retry_s, command = REST_S, None
        argv: tuple[str, ...] = ()
        while True:
            await self._reload.wait()
            self._reload.clear()
            if self._spec is None or not self._spec.reload:
                continue
            self._is_reloading = True
            if command is None or argv != self._spec.reload:
                if command is not None:
                    await command.close()
                argv = self._spec.reload
                command = HookCommand(self._spawner, 0, argv, self._environ, self._folder, key="endpoints")
            told = await command.tell(b"", RELOAD_S)
            self._is_reloading = False
            if told.fault:
                retry_s = min(2 * retry_s, RELOAD_RETRY_MAX_S)
                self._complain("endpoints.reload_failed", reason=told.fault, retry_in_s=retry_s)
                asyncio.get_running_loop().call_later(retry_s, self._reload.set)
            else:
                retry_s = REST_S
            self._look_idle()
            await asyncio.sleep(REST_S)

    def _look_idle(self) -> None:
        if self._written == self._wanted and not self._is_reloading and not self._reload.is_set():
            self._idle.set()

    def _complain(self, event: str, **fields: object) -> None:
        log.warning(event, **fields)
        self._tell_hooks(event, fields)


def _differ(old: Worker | None, new: Worker | None) -> bool:
    """Whether it comes, goes, or may stand at another place or have other devices."""
    if is_open(old) and is_open(new):
        assert old is not None
        assert new is not None
        return old.held is not new.held
    return is_open(old) != is_open(new)


def _indices(fleet: Fleet) -> tuple[tuple[str, int], ...]:
    return tuple((one.uuid, one.index) for one in fleet.inventory.devices) if fleet.inventory else ()


def _write_all(job: _Job) -> tuple[bool, dict[str, str]]:
    """In a thread. Whether a file is another one now, and why those are not as they should be that are not."""
    changed, faults = False, {}
    texts = [(path, render(form, job.endpoints, job.spec.host)) for form, path in job.spec.files]
    texts += [(path, render(form, Endpoints(), job.spec.host)) for form, path in job.emptied]
    for path, text in texts:
        try:
            changed |= write_file(path, text)
        except OSError as error:
            faults[path] = (error.strerror or str(error)).lower()
    return changed, faults
