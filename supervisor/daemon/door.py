"""The way in for clients: the control socket that is served, and its file made anew when somebody has removed it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from aiohttp import web

from supervisor.errors import CannotError
from supervisor.host.sockets import BoundControl, renew_control

log = structlog.get_logger()


class Door:
    """
    Serves the control socket.

    Args:
        control: Bound and listening; owned from now on.
    """

    def __init__(self, control: BoundControl) -> None:
        self._control = control
        self._site: web.SockSite | None = None
        self._server: web.AppRunner | None = None
        self._lock = asyncio.Lock()

    @property
    def path(self) -> Path:
        """Of the control socket."""
        return self._control.path

    async def open(self, server: web.AppRunner) -> None:
        """Let clients in, whom *server* answers."""
        self._server = server
        self._site = web.SockSite(server, self._control.socket)
        await self._site.start()

    async def look(self) -> None:
        """
        Make the socket's file anew where it is gone. Asked for by a signal: no file can be watched for nothing.

        Whoever is connected stays so; what somebody else put into its place is told of and left alone.
        """
        async with self._lock:
            if self._server is None:
                return
            before, old = self._control, self._site
            try:
                renewed = renew_control(before)
            except CannotError as error:
                log.error("control.lost", socket=str(before.path), reason=str(error), hint=HINT)  # noqa: TRY400
                return
            if renewed is None:
                return
            self._control = renewed
            if renewed.socket is not before.socket:
                await self.open(self._server)
                if old is not None:
                    await old.stop()
            log.warning("control.restored", socket=str(renewed.path), reason="its file was gone")

    def close(self) -> None:
        """Let nobody in any more, and remove what is ours."""
        self._server = None
        self._control.close()


HINT = "the daemon goes on without it; free the place and send SIGHUP"
