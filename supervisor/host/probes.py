"""
Owns the probes: asks workers again and again whether they are ready and alive, and says when the answer changes.

Must not know what a worker is beyond how it is asked, nor let one that hangs delay another.
"""

from __future__ import annotations

import asyncio
import errno
import os
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING

from supervisor.core.file.names import expand_names, names_in
from supervisor.core.file.probe_keys import split_url
from supervisor.core.file.problems import BadValueError
from supervisor.core.message import BecameReady, BecameUnready, LivenessLost, Probe
from supervisor.host.exec_probe import Command
from supervisor.host.http_probe import http_fault
from supervisor.host.listeners import stranger_on
from supervisor.host.tcp_probe import connection_fault

if TYPE_CHECKING:
    from supervisor.core.message import Event, ProbeAlive, Spawn
    from supervisor.core.spec import Policy, WorkerId
    from supervisor.host.prober_client import Spawner

Ask = Callable[[float], Awaitable[str | None]]
"""Asks once, within so many seconds: empty if all is well, else why not; None if this machine could not even ask."""

ATTEMPT_S = 1.0
"""For one connection over loopback; a listener whose backlog is full does not answer at all."""

SLOW_ATTEMPT_S = 5.0
"""For one answer of a server or one command about readiness, or the interval if that is longer."""

WATCH_S = 10.0
"""Between two attempts at a worker that is ready, at least."""

FAILURES = 3
"""In a row, before a worker that was ready is called unready."""

PAUSE_FIRST_S = 0.05
"""What starts at once is seen at once: the pauses double from here to the interval."""

PAUSE_FIRST_EXEC_S = 0.5
"""A command costs more than a connection, while the worker has better use for the CPU."""

PAUSE_MIN_S = 0.05
"""Between two attempts, whatever the file says: the loop must not spin."""

LATE_S = 0.5
"""An attempt that lasted so much longer than it may was not watched: this process did not run."""

_PLAIN = os.strerror(errno.ECONNREFUSED).lower()


class Probes:
    """
    One task for each worker and purpose that is watched, and nothing else: no timer runs when nobody is.

    Args:
        loop: Runs it.
        on_event: Gets BecameReady, BecameUnready and LivenessLost; it may call `watch` and `forget`.
        spawner: Runs commands.
        find_root: Pid of the process below which is all of a worker's tree, None if that is not known.
        told: Hears of every question its kind and how many seconds it took.
        attempt_s: Limit of one connection.
        watch_s: Between two attempts at a worker that is ready.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[Event], None],
        spawner: Spawner | None = None,
        *,
        find_root: Callable[[WorkerId], int | None] = lambda _: None,
        told: Callable[[str, float], None] = lambda _kind, _s: None,
        attempt_s: float = ATTEMPT_S,
        watch_s: float = WATCH_S,
    ) -> None:
        self._loop = loop
        self._on_event = on_event
        self._spawner = spawner
        self._find_root = find_root
        self._told = told
        self._attempt_s = attempt_s
        self._watch_s = watch_s
        self._tasks: dict[tuple[WorkerId, str], asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()  # With those that are forgotten and about to end.
        self._starts: dict[WorkerId, Spawn] = {}
        self._commands: dict[tuple[WorkerId, str], Command] = {}
        self._stalls = 0

    def equip(self, start: Spawn) -> None:
        """Keep a worker's start: its environment and user are those of its commands, and replace names in its URLs."""
        self._starts[start.worker] = start

    def watch(self, order: Probe) -> None:
        """Ask from now on, at once for the first time; an earlier order for the same worker is forgotten."""
        self._forget(order.worker, "ready")
        self._run(order.worker, "ready", self._probe(order, self._measured(order, "ready", order.kind)))

    def watch_alive(self, order: ProbeAlive) -> None:
        """Ask from now on, at the worker's next turn for the first time; what is too often unwell is said once."""
        self._forget(order.worker, "alive")
        self._run(order.worker, "alive", self._keep_asking(order, self._measured(order, "alive", order.alive.kind)))

    def forget(self, worker: WorkerId) -> None:
        """Ask no more; no event of this worker comes after this call."""
        self._forget(worker, "ready")
        self._forget(worker, "alive")
        self._starts.pop(worker, None)

    def forgive(self) -> None:
        """This process did not run for a while: what is under way and fails says nothing."""
        self._stalls += 1

    async def close(self) -> None:
        """Forget everybody, and wait until their connections are closed."""
        for worker, _ in tuple(self._tasks):
            self.forget(worker)
        if self._running:
            await asyncio.wait(self._running)

    # ---- how it is asked ---------------------------------------------------------------------------------------------

    def _measured(self, order: Probe | ProbeAlive, purpose: str, kind: str) -> Ask:
        ask = self._make_ask(order, purpose, kind)

        async def measure(timeout_s: float) -> str | None:
            started = self._loop.time()
            fault = await ask(timeout_s)
            self._told(kind, self._loop.time() - started)
            return fault

        return measure

    def _make_ask(self, order: Probe | ProbeAlive, purpose: str, kind: str) -> Ask:
        how = order if isinstance(order, Probe) else order.alive
        start = self._starts.get(order.worker)
        if kind == "http":
            return partial(self._ask_http, self._text_of(order, how.http), order.port or 0)
        if kind == "exec":
            assert start is not None, "a worker with a command was equipped"
            assert self._spawner is not None, "whoever watches commands can run them"
            command = Command(self._spawner, start, how.exec, purpose)
            self._commands[order.worker, purpose] = command
            return command.ask
        assert order.port is not None, "the spec refuses a tcp probe without a port"
        return partial(connection_fault, self._loop, order.port)

    async def _ask_http(self, text: str, port: int, timeout_s: float) -> str | None:
        try:
            url = split_url(text)
        except BadValueError as error:
            return str(error)
        return await http_fault(self._loop, url, port, timeout_s)

    async def _attempt(self, ask: Ask, timeout_s: float) -> str | None:
        """Ask once. A failure in a time in which this process did not run, or not all the time, is none."""
        stalls, started = self._stalls, self._loop.time()
        fault = await ask(timeout_s)
        was_seen = self._stalls == stalls and self._loop.time() - started <= timeout_s + LATE_S
        return fault if fault == "" or was_seen else None

    # ---- when it is asked --------------------------------------------------------------------------------------------

    async def _probe(self, order: Probe, ask: Ask) -> None:
        """One worker's life: until ready, until unready, and again."""
        limit_s = self._attempt_s if order.kind == "tcp" else max(SLOW_ATTEMPT_S, order.interval_s)
        is_new = True
        while True:
            await self._until_ready(order, ask, limit_s, is_new=is_new)
            is_new = False
            self._on_event(BecameReady(order.worker, order.incarnation))
            period_s = max(order.interval_s, self._watch_s)
            detail = await self._until_failing(str(order.worker), ask, period_s, limit_s, FAILURES)
            self._on_event(BecameUnready(order.worker, order.incarnation, detail))

    async def _until_ready(self, order: Probe, ask: Ask, limit_s: float, *, is_new: bool) -> None:
        pause_s = min(PAUSE_FIRST_EXEC_S if order.kind == "exec" else PAUSE_FIRST_S, order.interval_s)
        told = ""
        while True:
            started = self._loop.time()
            fault = await self._attempt(ask, limit_s)
            if fault == "" and (fault := await self._stranger_fault(order)) == "":
                return
            # That nobody listens yet goes without saying; anything else helps whoever looks at a long start.
            if is_new and fault and fault != told and not fault.endswith(_PLAIN):
                told = fault
                self._on_event(BecameUnready(order.worker, order.incarnation, fault))
            await asyncio.sleep(max(PAUSE_MIN_S, started + pause_s - self._loop.time()))
            pause_s = min(2 * pause_s, order.interval_s)

    async def _stranger_fault(self, order: Probe) -> str:
        """What a port answers that is somebody else's says nothing about the worker. Looked up when it gets ready."""
        root = self._find_root(order.worker)
        if root is None or order.port is None or not self._asks_its_port(order):
            return ""
        # In a thread: a tree may have very many descriptors.
        stranger = await self._loop.run_in_executor(None, stranger_on, order.port, root)
        return f"port {order.port} is answered by another process: {stranger}" if stranger else ""

    def _asks_its_port(self, order: Probe) -> bool:
        """Where else a URL leads may well be somebody else's: a proxy's, or that of all workers together."""
        if order.kind != "http":
            return order.kind == "tcp"
        try:
            return split_url(self._text_of(order, order.http)).port in {0, order.port}
        except BadValueError:
            return False

    def _text_of(self, order: Probe | ProbeAlive, text: str) -> str:
        start = self._starts.get(order.worker)
        return expand_names(text, start.env) if start else text

    async def _keep_asking(self, order: ProbeAlive, ask: Ask) -> None:
        alive = order.alive
        name = f"{order.worker} alive"
        fault = await self._until_failing(name, ask, alive.interval_s, alive.timeout_s, alive.failures)
        times = "" if alive.failures == 1 else f", {alive.failures} times in a row"
        self._on_event(LivenessLost(order.worker, order.incarnation, fault + times))

    async def _until_failing(self, name: str, ask: Ask, period_s: float, limit_s: float, most: int) -> str:
        """Returns what the last of *most* failures in a row was."""
        failures = 0
        while True:
            await asyncio.sleep(max(PAUSE_MIN_S, wait_for_slot_s(name, period_s, self._loop.time())))
            fault = await self._attempt(ask, limit_s)
            if fault is None:
                continue
            failures = failures + 1 if fault else 0
            if failures == most:
                return fault

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def _run(self, worker: WorkerId, purpose: str, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(self._ended)
        self._running.add(task)
        self._tasks[worker, purpose] = task

    def _forget(self, worker: WorkerId, purpose: str) -> None:
        task = self._tasks.pop((worker, purpose), None)
        if task is not None:
            task.cancel()
        command = self._commands.pop((worker, purpose), None)
        if command is not None:
            command.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A probe that ends unasked is our bug, and must not end unheard."""
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "probe failed", "exception": error, "task": task})


def needs_start(policy: Policy) -> bool:
    """Whether somebody's probes have to be equipped with his start."""
    return any(how.kind == "exec" or names_in(how.http) for how in (policy.ready, policy.alive))


def wait_for_slot_s(name: str, period_s: float, now: float) -> float:
    """
    Seconds until *name*'s next turn.

    Every name has its own phase of the period, the same at all times, so that many workers that became ready together
    are not asked together for ever.

    Returns:
        More than 0, at most *period_s*.
    """
    phase_s = zlib.crc32(name.encode()) / 2**32 * period_s
    return period_s - (now - phase_s) % period_s
