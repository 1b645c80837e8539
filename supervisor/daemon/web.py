"""The way in over TCP: `daemon.http` is bound where the file wants it, tried again while it cannot be, and moved."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog
from aiohttp import web

from supervisor.core.file.daemon import DaemonSpec
from supervisor.core.file.listen import Address
from supervisor.core.file.web import show_http
from supervisor.core.snapshot import Json
from supervisor.errors import CannotError
from supervisor.front.api import make_app
from supervisor.front.face import Face
from supervisor.front.gate import Gate
from supervisor.front.guests import House
from supervisor.host.tokens import Token
from supervisor.host.web_socket import listen_http

log = structlog.get_logger()

END_S = 2.0
"""For those who are being answered when the daemon ends; its workers have ended by then."""

RETRY_S = 5.0
"""Whoever has our address may go at any moment, and nobody tells."""


class WebDoor:
    """
    Serves the API over TCP, or says why it cannot.

    Args:
        face: Of the daemon.
        noticed: Called whenever `state` is another one.
    """

    def __init__(self, face: Face, noticed: Callable[[], None]) -> None:
        self._face = face
        self._noticed = noticed
        self._address: Address | None = None
        self._token: Token | None = None
        self._gate = Gate("127.0.0.1")
        self._reason: str | None = None
        self._runner: web.AppRunner | None = None
        self._house: House | None = None
        self._listening: asyncio.Server | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @property
    def state(self) -> Json | None:
        """As the status has it; None where the file wants nothing."""
        if self._address is None:
            return None
        state = "bound" if self._listening is not None else "refused" if self._reason else "binding"
        has_token = self._token is not None
        return {"address": show_http(self._address), "state": state, "reason": self._reason or "", "token": has_token}

    async def take(self, wanted: DaemonSpec, token: Token | None) -> None:
        """Do as a file says: nothing where it says what it said before, but for an address that is still not ours."""
        async with self._lock:
            if token != self._token or wanted.http != self._address:
                host = wanted.http.host if wanted.http else "127.0.0.1"
                self._gate = Gate(host, _names(), None if token is None else token.digest)
                # Who came by an old address or token is to come again by the new one.
                if self._house is not None:
                    self._house.clear()
            self._token = token
            if wanted.http != self._address:
                self._leave()
                self._address, self._reason = wanted.http, None
            if self._address is not None and self._listening is None:
                await self._enter()
        self._noticed()

    async def close(self) -> None:
        """The daemon ends: answer who waits, and let nobody in any more."""
        async with self._lock:
            self._leave()
            self._address = None
        if self._runner is not None:
            await self._runner.cleanup()

    async def _enter(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        assert self._address is not None
        address, loop = self._address, asyncio.get_running_loop()
        try:
            listener = listen_http(address.host, address.port)
        except CannotError as error:
            if str(error) != self._reason:
                hint = f"the daemon goes on without it and tries again every {RETRY_S:.0f} s"
                log.warning("http.refused", address=show_http(address), reason=str(error), hint=hint)
            self._reason = str(error)
            self._retry = loop.call_later(RETRY_S, self._again)
            return
        house = await self._furnish()
        self._listening = await loop.create_server(house, sock=listener)
        self._reason = None
        log.info("http.bound", address=show_http(address), token=self._token is not None)

    def _again(self) -> None:
        self._retry = None
        self._retrying = asyncio.get_running_loop().create_task(self._enter_again())

    async def _enter_again(self) -> None:
        async with self._lock:
            if self._address is None or self._listening is not None:
                return
            await self._enter()
        self._noticed()

    async def _furnish(self) -> House:
        """Made when it is first needed: who has no `daemon.http` pays nothing."""
        if self._house is None:
            self._runner = web.AppRunner(make_app(self._face, lambda: self._gate), shutdown_timeout=END_S)
            await self._runner.setup()
            assert self._runner.server is not None
            self._house = House(self._runner.server)
        return self._house

    def _leave(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            log.info("http.closed", address=self._address and show_http(self._address))


def _names() -> frozenset[str]:
    """What this machine is called; nobody is asked, since that could take its time."""
    name = socket.gethostname().lower()
    return frozenset({name, name.partition(".")[0]} - {""})
