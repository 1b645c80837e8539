"""Hooks are told in order, again where it failed, for a bounded time, and nobody waits for them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from supervisor.core.file.hooks import Hook
from supervisor.daemon import hooks as hooking
from supervisor.daemon.hooks import Hooks, Means

Json = dict[str, Any]

PATIENCE_S = 20.0


class NoSpawner:
    """Nobody runs a command here."""

    def listen(self, worker: object, callback: object) -> None: ...
    def spawn(self, order: object, fds: object) -> None: ...
    def kill_tree(self, order: object) -> None: ...
    def dismiss(self, worker: object) -> None: ...


class Ear:
    """A server that hears, and answers as it is told to."""

    def __init__(self) -> None:
        self.heard: list[Json] = []
        self.statuses: list[int] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def take(self, request: web.Request) -> web.Response:
        self.heard.append(await request.json())
        await self.answers.wait()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)


@asynccontextmanager
async def telling(*, flush_s: float = PATIENCE_S, **fields: Any) -> AsyncIterator[tuple[Ear, Hooks, Counter[str]]]:
    """One hook, and the server that it posts to."""
    ear, counts = Ear(), Counter[str]()
    app = web.Application()
    app.router.add_post("/hook", ear.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    means = Means(
        *(NoSpawner(), {}, "/", lambda: {"pid": 1}, str, lambda: 7.0),
        count=lambda how, events: counts.update({how: events}),
        retry_s=0.01,
        flush_s=flush_s,
    )
    hooks = Hooks(means)
    hooks.use((Hook(url=f"http://127.0.0.1:{port}/hook", **fields),))
    try:
        yield ear, hooks, counts
    finally:
        ear.answers.set()
        await hooks.close()
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - Another task's doing.
            await asyncio.sleep(0.005)


def tell(hooks: Hooks, *numbers: int, name: str = "plan.halted") -> None:
    for number in numbers:
        hooks.tell(name, {"n": number}, is_warning=True)


async def test_events_come_whole_and_in_order() -> None:
    """Each with its name, number, level and time, and whose it is."""
    async with telling() as (ear, hooks, counts):
        tell(hooks, 1, 2, 3)
        await until(lambda: counts["delivered"] == 3)

    first = {"event": "plan.halted", "number": 1, "level": "warning", "at": "7.0", "n": 1}
    assert ear.heard[0] == {**first, "dropped": 0, "daemon": {"pid": 1}}
    assert [one["n"] for one in ear.heard] == [1, 2, 3]


async def test_only_what_it_wants() -> None:
    """The numbers count all events."""
    async with telling(events=("device.held",)) as (ear, hooks, counts):
        tell(hooks, 1)
        tell(hooks, 2, name="device.held")
        await until(lambda: counts["delivered"] == 1)

    assert [(one["event"], one["number"]) for one in ear.heard] == [("device.held", 2)]


async def test_a_try_that_failed_is_repeated_before_the_next_event() -> None:
    """So often and no more; what is refused for good is not tried again, and the next event says what is missing."""
    async with telling(retries=2) as (ear, hooks, counts):
        ear.statuses = [500, 429, 200, 503, 503, 503, 404, 302]
        tell(hooks, 1, 2, 3, 4, 5)
        await until(lambda: counts["delivered"] == 2)

    assert [one["n"] for one in ear.heard] == [1, 1, 1, 2, 2, 2, 3, 4, 5]
    assert ear.heard[-1]["dropped"] == 3
    assert counts == {"delivered": 2, "failed": 3}


async def test_one_that_does_not_answer_is_bounded_in_time_and_room() -> None:
    """The oldest events are dropped, and the newest arrive in the end."""
    async with telling(timeout_s=0.1, retries=0) as (ear, hooks, counts):
        ear.answers.clear()
        tell(hooks, 0)
        await until(lambda: len(ear.heard) == 1)
        tell(hooks, *range(1, hooking.KEPT + 100))
        await until(lambda: counts["failed"] > 0)
        ear.answers.set()
        await until(lambda: sum(counts.values()) == hooking.KEPT + 100)

    assert (counts["dropped"], ear.heard[-1]["n"]) == (99, hooking.KEPT + 99)
    told = [one["n"] for one in ear.heard]
    assert told == sorted(told)


async def test_the_end_waits_for_a_moment_only() -> None:
    """What is not told by then is counted."""
    async with telling(flush_s=0.1) as (ear, hooks, counts):
        ear.answers.clear()
        tell(hooks, 1, 2)
        await hooks.close()

        assert counts == {"dropped": 2}


async def test_a_hook_that_stays_keeps_what_it_was_not_told_yet() -> None:
    """One that goes is told no more; the server that nobody is named for hears nothing."""
    async with telling() as (ear, hooks, counts):
        (own,) = hooks._specs
        ear.answers.clear()
        tell(hooks, 1, 2)
        hooks.use((Hook(url="http://127.0.0.1:9/", retries=0), own))
        ear.answers.set()
        await until(lambda: counts["delivered"] == 2)
        hooks.use(())
        tell(hooks, 3)

    assert [one["n"] for one in ear.heard] == [1, 2]
    assert json.dumps(ear.heard)
