"""A model behind an ASGI server, as small as it can be: on its GPU if it has one, else on the CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import torch

# The supervisor has chosen: what is visible is this worker's own, and the first of it is cuda:0.
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
MODEL = torch.nn.Linear(4, 1).to(DEVICE).eval()

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """``/health`` for the supervisor, everything else is an answer of the model."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    told = {"device": str(DEVICE), "worker": os.environ.get("WORKER", ""), "threads": torch.get_num_threads()}
    if scope["path"] != "/health":
        with torch.inference_mode():
            told["answer"] = round(float(MODEL(torch.ones(4, device=DEVICE))), 4)
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


async def _live(receive: Receive, send: Send) -> None:
    """Started when uvicorn asks; ended when it has waited for the requests that were under way."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
