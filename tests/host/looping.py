"""What tests of the loop's neighbours share: both loops, waiting with a deadline, descriptors that are all closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from supervisor.host.clock import Clock

Run = Callable[[Coroutine[Any, Any, None]], None]

# From its first loop on libuv keeps two descriptors of its own.
uvloop.new_event_loop().close()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine; both loops, as libuv treats descriptors in its own way."""

    def runner(main: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(main)

    return runner


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Hold a test to closing what it opens; a thread that was stuck may end a moment later."""
    before = descriptors()
    yield
    clock = Clock()
    deadline = clock.monotonic() + 5
    while descriptors() != before and clock.monotonic() < deadline:
        pass
    assert descriptors() == before


def descriptors() -> int:
    """Open ones of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Only their number.


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition, and fail when it does not come about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - Processes and the kernel set no asyncio.Event.
            await asyncio.sleep(0.002)
