"""A face that is served over TCP as the daemon serves it, and clients that say exactly what a test wants said."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from supervisor.front.api import make_app
from supervisor.front.gate import Gate
from supervisor.front.guests import GUESTS_MAX, House, Patience
from supervisor.host.web_socket import listen_http
from tests.front.fakes import PATIENCE_S, FakeFace

TOKEN = "0123456789abcdef-the-token"
BEARER = f"Authorization: Bearer {TOKEN}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Served:
    """Where a face is served."""

    port: int
    house: House
    gate: list[Gate] = field(default_factory=list)

    async def say(self, raw: bytes) -> bytes:
        """Everything that is answered to these bytes, until the other end hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def ask(self, method: str, path: str, *headers: str, host: str = "", body: bytes = b"") -> Answer:
        """One request with exactly these headers, but for its length."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{self.port}'}", *headers]
        lines += [f"Content-Length: {len(body)}"] if body else []
        return parse(await self.say("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body))


def parse(raw: bytes) -> Answer:
    """An answer of HTTP/1.1 with a length."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


@asynccontextmanager
async def serving_tcp(
    face: FakeFace,
    *,
    token: str | None = TOKEN,
    guests_max: int = GUESTS_MAX,
    host: str = "127.0.0.1",
    patience_s: float | None = None,
) -> AsyncIterator[Served]:
    """A face on a port of loopback, within the running loop."""
    digest = None if token is None else hashlib.sha256(token.encode()).digest()
    gate = [Gate(host, frozenset({"gpubox"}), digest)]
    runner = web.AppRunner(make_app(face, lambda: gate[0], body_s=patience_s or PATIENCE_S), shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    patience = Patience() if patience_s is None else Patience(patience_s, patience_s, patience_s)
    house = House(runner.server, guests_max=guests_max, patience=patience)
    listener = listen_http(host, 0)
    port = listener.getsockname()[1]
    listening = await asyncio.get_running_loop().create_server(house, sock=listener)
    try:
        yield Served(port, house, gate)
    finally:
        listening.close()
        await runner.cleanup()
