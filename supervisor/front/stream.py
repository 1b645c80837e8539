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


async def stream_lines(request: web.Request, batches: AsyncGenerator[Json, None]) -> web.StreamResponse:
    """
    Answer with one event for each line, its number as the event's id, and one of type ``end``.

    Args:
        request: Its connection is cut when it does not read.
        batches: ``{"lines": [...]}``, and ``{"end": reason}``.
    """
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store"})
    try:
        await response.prepare(request)
        async with aclosing(batches):
            async for batch in batches:
                async with asyncio.timeout(SLOW_S):
                    await response.write(_events(batch))
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


def _events(batch: Json) -> bytes:
    if "end" in batch:
        return f"event: end\ndata: {json.dumps({'reason': batch['end']})}\n\n".encode()
    lines = ({key: value for key, value in line.items() if key != "number"} for line in batch["lines"])
    texts = (
        f"id: {line['number']}\ndata: {json.dumps(data)}\n\n" for line, data in zip(batch["lines"], lines, strict=True)
    )
    return "".join(texts).encode()
