"""What workers said and say, for a surface: batches of lines as JSON, each only when the one before was taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from itertools import islice

from supervisor.core.snapshot import Json
from supervisor.core.spec import WorkerId
from supervisor.host.logs import Follower, Outputs, Said

BATCH = 256
"""Lines made into JSON at once; the loop goes round between two of them."""


class Telling:
    """
    Those who read or follow what workers say.

    Args:
        outputs: Of the workers.
        rfc3339: A second of the loop's clock as a wall time.
    """

    def __init__(self, outputs: Outputs, rfc3339: Callable[[float], str]) -> None:
        self._outputs = outputs
        self._rfc3339 = rfc3339
        self._wakes: set[asyncio.Event] = set()
        self._is_closed = False

    async def tell(
        self, target: str | None, *, lines: int, after: int | None, follow: bool
    ) -> AsyncGenerator[Json, None]:
        """
        The last lines of some workers, and then what they say.

        Args:
            target: ``llm``, ``llm/0``, None for everybody. It need not be there, or not yet.
            lines: Of each at the most.
            after: Only lines with a higher number than that.
            follow: Go on until the daemon ends or the reader is too slow.

        Yields:
            ``{"lines": [...]}``; at the end ``{"end": "done" | "stopping" | "slow"}``.
        """
        wants = chooser(target)
        wake = asyncio.Event()
        follower = Follower(wants, wake.set)
        if follow:
            self._outputs.follow(follower)
        self._wakes.add(wake)
        try:
            newest = -1 if after is None else after
            for batch in _batches(self._outputs.last(wants, lines, newest)):
                yield self._json(batch)
                newest = batch[-1].number
            while follow and not follower.is_dropped and not self._is_closed:
                await wake.wait()
                wake.clear()
                for batch in _batches(said for said in follower.take() if said.number > newest):
                    yield self._json(batch)
            yield {"end": "slow" if follower.is_dropped else "stopping" if self._is_closed else "done"}
        finally:
            self._outputs.unfollow(follower)
            self._wakes.discard(wake)

    def close(self) -> None:
        """The daemon ends: nobody follows any more."""
        self._is_closed = True
        for wake in self._wakes:
            wake.set()

    def _json(self, batch: list[Said]) -> Json:
        return {
            "lines": [
                {
                    "number": said.number,
                    "worker": str(said.worker),
                    "incarnation": said.incarnation,
                    "at": self._rfc3339(said.at),
                    "line": said.line,
                }
                for said in batch
            ]
        }


def chooser(target: str | None) -> Callable[[WorkerId], bool]:
    """Whether somebody asks for a worker, by its own name, its service's, or none."""
    if target is None:
        return lambda _worker: True
    with suppress(ValueError):
        only = WorkerId.parse(target)
        return lambda worker: worker == only
    return lambda worker: worker.service == target


def _batches(said: Iterator[Said]) -> Iterator[list[Said]]:
    while batch := list(islice(said, BATCH)):
        yield batch
