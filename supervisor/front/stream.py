"""
Server-sent events: what workers say, to whoever reads it as fast as it comes.

Who reads too slowly is let go, so that nothing piles up for them. Source of the format:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import hdrs, web

from supervisor.front.verdict import Json

SLOW_S = 10.0
"""A reader who takes nothing for so long has stopped reading."""

BEAT_MIN_S = 1.0
"""Comments more often than that keep no proxy awake any better."""

BEAT = b":\n\n"


async def stream_lines(
    request: web.Request, batches: AsyncGenerator[Json, None], *, life: str, heartbeat_s: float | None = None
) -> web.StreamResponse:
    """
    Answer with one event for each line, its number within this life as the event's id, and one of type ``end``.

    Args:
        request: Its connection is cut when it does not read.
        batches: ``{"lines": [...]}``, and ``{"end": reason}``.
        life: Of the daemon: numbers begin anew with each.
        heartbeat_s: A comment when nothing was said for so long; None for none.
    """
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store"})
    response.headers["X-Accel-Buffering"] = "no"  # Else nginx gathers events before it passes them on.
    try:
        await response.prepare(request)
        told = batches if heartbeat_s is None else _with_beats(batches, max(heartbeat_s, BEAT_MIN_S))
        async with aclosing(batches), aclosing(told):
            async for batch in told:
                async with asyncio.timeout(SLOW_S):
                    await response.write(BEAT if batch is None else _events(batch, life))
        await response.write_eof()
    except ConnectionError:
        pass  # It has gone, which is how following usually ends.
    except (TimeoutError, asyncio.CancelledError) as error:
        # Half an answer is out: another one on the same connection would be taken for more of it.
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
    return response


async def _with_beats(batches: AsyncGenerator[Json, None], beat_s: float) -> AsyncGenerator[Json | None, None]:
    """The same, with None whenever nothing came for a while."""
    waiting: asyncio.Task[Json] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(batches))
            done, _ = await asyncio.wait({waiting}, timeout=beat_s)
            if not done:
                yield None
                continue
            task, waiting = waiting, None
            try:
                batch = task.result()
            except StopAsyncIteration:
                return
            yield batch
    finally:
        if waiting is not None:
            # A generator cannot be closed while somebody waits for its next value.
            waiting.cancel()
            await asyncio.wait({waiting})


def _events(batch: Json, life: str) -> bytes:
    if "end" in batch:
        return f"event: end\ndata: {json.dumps({'reason': batch['end']})}\n\n".encode()
    lines = ({key: value for key, value in line.items() if key != "number"} for line in batch["lines"])
    texts = (
        f"id: {life}-{line['number']}\ndata: {json.dumps(data)}\n\n"
        for line, data in zip(batch["lines"], lines, strict=True)
    )
    return "".join(texts).encode()
