"""
Connections of clients: over TCP so many at the most, and none that takes its time.

A client that sends its request bit by bit, or never reads its answer, costs a place for some seconds and nobody else
anything. What a request says is none of this file's business.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web
from aiohttp.typedefs import Handler

from supervisor.front.problem import make_problem

GUESTS_MAX = 128
"""Far more than browsers, scrapers and balancers of one machine; each is a descriptor and some memory."""

LINGER_S = 1.0
"""How long the rest of a refused body is taken in, so that its sender sees the answer."""

QUIET = logging.getLogger("supervisor.http")
"""What a client sends that is no HTTP is answered, and is nobody's business in the log."""
QUIET.disabled = True


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long a client may take, in seconds.

    Args:
        head: For its first request to come, from its connection on; None for no limit, as of the others.
        idle: Between two requests; longer than most scrapers wait for the next one.
        read: For an answer to be taken, whenever the system's own buffer is full.
    """

    head: float | None = 10.0
    idle: float | None = 60.0
    read: float | None = 10.0


ENDLESS = Patience(None, None, None)
"""With those who may do everything anyhow."""


class House:
    """
    Makes a `Guest` of every connection; what `loop.create_server` takes.

    Args:
        server: Answers their requests.
        guests_max: Who comes when so many are there takes the place of the one who has waited longest with nothing
            asked, or is turned away.
        patience: With each of them.
    """

    def __init__(self, server: web.Server, *, guests_max: int = GUESTS_MAX, patience: Patience = Patience()) -> None:
        self.patience = patience
        self._server = server
        self._max = guests_max
        self._guests: set[Guest] = set()
        self._idle: dict[Guest, None] = {}

    def __call__(self) -> Guest:
        """A guest at the door."""
        return Guest(self, self._server, loop=asyncio.get_running_loop())

    @property
    def count(self) -> int:
        """How many are there."""
        return len(self._guests)

    def enter(self, guest: Guest) -> bool:
        """Whether there is room."""
        if len(self._guests) >= self._max:
            if not self._idle:
                return False
            next(iter(self._idle)).cut()
        self._guests.add(guest)
        return True

    def rest(self, guest: Guest) -> None:
        """It has nothing asked."""
        if guest in self._guests:
            self._idle[guest] = None

    def serve(self, guest: Guest) -> None:
        """It has asked something."""
        self._idle.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        """It has gone."""
        self._guests.discard(guest)
        self._idle.pop(guest, None)

    def clear(self) -> None:
        """Nobody stays: who came by an address or a token of the past asks again."""
        for guest in list(self._guests):
            guest.cut()


class Guest(web.RequestHandler):
    """One connection, with a limit on everything that it can keep us waiting for."""

    def __init__(self, house: House, server: web.Server, *, loop: asyncio.AbstractEventLoop) -> None:
        # None is what aiohttp's own runner gives too, for no log of accesses.
        super().__init__(server, loop=loop, access_log=None, logger=QUIET, lingering_time=LINGER_S)  # type: ignore[arg-type]
        self._house = house
        self._line: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_idle = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has come."""
        self._line = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        if not self._house.enter(self):
            self._line.write(FULL)
            self.force_close()
            return
        self._house.rest(self)
        self._limit(self._house.patience.head)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has gone."""
        self._house.leave(self)
        self._limit(None)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """It does not read what it is told."""
        super().pause_writing()
        self._limit(self._house.patience.read)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._limit(self._house.patience.idle if self._is_idle else None)

    def began(self) -> None:
        """A request is there."""
        self._is_idle = False
        self._house.serve(self)
        self._limit(None)

    def ended(self) -> None:
        """Its answer is ready to be sent."""
        self._is_idle = True
        self._house.rest(self)
        self._limit(self._house.patience.idle)

    def cut(self) -> None:
        """Hang up, whatever is on its way."""
        self._house.leave(self)
        self._limit(None)
        if self._line is not None:
            self._line.abort()

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What cannot be understood gets an answer like every other refusal."""
        del request, exc, message
        words = "internal error" if status >= 500 else "that is no request of HTTP/1.1 that can be understood"
        answer = make_problem(status, words)
        answer.force_close()
        return answer

    def _limit(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.cut)


@web.middleware
async def watch_guest(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let its connection know that a request has come, and when it was answered."""
    guest = request.protocol
    if not isinstance(guest, Guest):
        return await handler(request)
    guest.began()
    try:
        return await handler(request)
    finally:
        guest.ended()


FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
