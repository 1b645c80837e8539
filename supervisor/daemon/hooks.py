"""
Tells hooks what happens, each in its own time and in order: the loop never waits for one.

Keeps a bounded number of events for each. What is lost is counted, logged, and told with the next event that arrives.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import structlog

from supervisor.core.file.hooks import Hook
from supervisor.core.message import Action, FinishReload, Report, Say, State
from supervisor.core.snapshot import Json
from supervisor.core.story import transition_json
from supervisor.host.hooks import HookCommand, Teller, Webhook
from supervisor.host.prober_client import Spawner

log = structlog.get_logger()

KEPT = 1000
FLUSH_S = 3.0
RETRY_S = 1.0
RETRY_MAX_S = 30.0

_LEVELS = {State.BACKOFF: "warning", State.UNREADY: "warning", State.FAILED: "error"}


@dataclass(frozen=True, slots=True)
class Means:
    """
    What hooks need of the daemon.

    Args:
        spawner: Starts commands.
        environ: Of the daemon, of which commands get a part.
        folder: Where they run.
        describe: The daemon, for whoever hears from several.
        rfc3339: A monotonic second as a wall time.
        monotonic: Seconds.
        count: Takes how many events were ``delivered``, ``failed`` (every try did) or ``dropped`` (there was no room).
        retry_s: Before the second try; before each further one twice as long.
        flush_s: At the end, for what is kept.
    """

    spawner: Spawner
    environ: Mapping[str, str]
    folder: str
    describe: Callable[[], Json]
    rfc3339: Callable[[float], str]
    monotonic: Callable[[], float]
    count: Callable[[str, int], None]
    retry_s: float = RETRY_S
    flush_s: float = FLUSH_S

    def make_teller(self, hook: Hook, place: int) -> Teller:
        """
        How to tell a hook.

        Args:
            hook: Of the file.
            place: A number that no other hook has.
        """
        if hook.url:
            return Webhook(hook.url)
        return HookCommand(self.spawner, place, hook.command, self.environ, self.folder)


class Hooks:
    """
    All hooks of the file.

    Args:
        means: What they need.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._specs: tuple[Hook, ...] = ()
        self._lines: list[_Line] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._number = 0
        self._places = count()

    def use(self, specs: tuple[Hook, ...]) -> None:
        """Tell these from now on. One that stays as it is keeps what it has not been told yet."""
        if specs == self._specs:
            return
        old = list(zip(self._specs, self._lines, strict=True))
        self._specs, self._lines = specs, []
        for spec in specs:
            known = next((pair for pair in old if pair[0] == spec), None)
            if known is not None:
                old.remove(known)
            # Shims go by their number: one that is on its way out has its own.
            line = known[1] if known else _Line(spec, self._means.make_teller(spec, next(self._places)), self._means)
            self._lines.append(line)
        for _, line in old:
            task = asyncio.get_running_loop().create_task(line.close(0.0))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def hear(self, actions: Iterable[Action]) -> None:
        """One turn of the core."""
        if not self._lines:
            return
        for action in actions:
            match action:
                case Report(transition=step):
                    level = _LEVELS.get(step.after, "info") if step.after else "info"
                    name = f"worker.{step.after or 'gone'}"
                    self._put(name, level, transition_json(step, self._means.rfc3339))
                case Say(event=name, fields=fields, is_warning=is_warning):
                    self.tell(name, fields, is_warning=is_warning)
                case FinishReload(ok=ok, problems=problems, is_late=False):
                    self.tell("spec.loaded" if ok else "spec.rejected", {"problems": list(problems)}, is_warning=not ok)
                case _:
                    pass

    def tell(self, name: str, fields: Mapping[str, object], *, is_warning: bool) -> None:
        """Something that is no step of a worker."""
        if self._lines:
            at = self._means.rfc3339(self._means.monotonic())
            self._put(name, "warning" if is_warning else "info", {"at": at, **fields})

    def warn(self, name: str, fields: Mapping[str, object]) -> None:
        """Something that is no step of a worker, and that a person should look at."""
        self.tell(name, fields, is_warning=True)

    def _put(self, name: str, level: str, fields: Json) -> None:
        self._number += 1
        head = {"event": name, "number": self._number, "level": level}
        for line in self._lines:
            if line.wants(name):
                line.put({**head, **fields})

    async def close(self) -> None:
        """The end: what is kept is still told, for a moment."""
        await asyncio.gather(*(line.close(self._means.flush_s) for line in self._lines), *self._ending)


class _Line:
    """Events on their way to one hook."""

    def __init__(self, spec: Hook, teller: Teller, means: Means) -> None:
        self._spec = spec
        self._teller = teller
        self._means = means
        self._kept: deque[Json] = deque()
        self._lost = 0
        self._is_losing = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def wants(self, name: str) -> bool:
        return not self._spec.events or name in self._spec.events

    def put(self, event: Json) -> None:
        """Keep an event; the oldest goes where there is no room."""
        if len(self._kept) >= KEPT:
            self._kept.popleft()
            self._lose(1, "dropped")
            if not self._is_losing:
                self._is_losing = True
                log.warning("hook.full", hook=self._teller.name, kept=KEPT, reason="the oldest events are dropped")
        self._kept.append(event)
        self._idle.clear()
        self._wake.set()

    async def close(self, patience_s: float) -> None:
        """Tell what is kept, for so long, and end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._idle.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self._idle.is_set():
            untold = 1 + len(self._kept)  # The one that was being told, and those behind it.
            self._lose(untold, "dropped")
            log.warning("hook.closed", hook=self._teller.name, untold=untold)
        await self._teller.close()

    async def _run(self) -> None:
        while True:
            while self._kept:
                await self._deliver(self._kept.popleft())
            self._is_losing = False
            self._idle.set()
            self._wake.clear()
            await self._wake.wait()

    async def _deliver(self, event: Json) -> None:
        lost = self._lost
        body = json.dumps({**event, "dropped": lost, "daemon": self._means.describe()}, default=str).encode()
        delay_s = self._means.retry_s
        for left in range(self._spec.retries, -1, -1):
            told = await self._teller.tell(body, self._spec.timeout_s)
            if not told.fault:
                self._lost -= lost
                self._means.count("delivered", 1)
                return
            is_last = told.is_final or not left
            words = {"hook": self._teller.name, "about": event["event"], "number": event["number"]}
            log.warning("hook.failed", **words, reason=told.fault, retry_in_s=None if is_last else delay_s)
            if is_last:
                break
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_MAX_S)
        self._lose(1, "failed")

    def _lose(self, events: int, how: str) -> None:
        self._lost += events
        self._means.count(how, events)
