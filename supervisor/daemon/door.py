"""The way in for clients: the control socket that is served, and its file made anew when somebody has removed it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from aiohttp import web

from supervisor.errors import CannotError
from supervisor.front.guests import ENDLESS, House
from supervisor.host.sockets import BoundControl, renew_control

log = structlog.get_logger()

GUESTS_MAX = 1 << 20
BACKLOG = 1024
"""A unix socket refuses whoever comes to a full one: a daemon that is busy for a second has room for as many."""
"""As many as there are descriptors: who may open our socket may as well end us."""


class Door:
    """
    Serves the control socket.

    Args:
        control: Bound and listening; owned from now on.
    """

    def __init__(self, control: BoundControl) -> None:
        self._control = control
        self._listening: asyncio.Server | None = None
        self._house: House | None = None
        self._lock = asyncio.Lock()

    @property
    def path(self) -> Path:
        """Of the control socket."""
        return self._control.path

    async def open(self, server: web.Server) -> None:
        """Let clients in, whom *server* answers."""
        self._house = House(server, guests_max=GUESTS_MAX, patience=ENDLESS)
        await self._listen(self._house)

    async def _listen(self, house: House) -> None:
        self._listening = await asyncio.get_running_loop().create_server(
            house, sock=self._control.socket, backlog=BACKLOG
        )

    async def look(self) -> None:
        """
        Make the socket's file anew where it is gone. Asked for by a signal: no file can be watched for nothing.

        Whoever is connected stays so; what somebody else put into its place is told of and left alone.
        """
        async with self._lock:
            if self._house is None:
                return
            before, old = self._control, self._listening
            try:
                renewed = renew_control(before)
            except CannotError as error:
                log.error("control.lost", socket=str(before.path), reason=str(error), hint=HINT)  # noqa: TRY400
                return
            if renewed is None:
                return
            self._control = renewed
            if renewed.socket is not before.socket:
                await self._listen(self._house)
                if old is not None:
                    old.close()
            log.warning("control.restored", socket=str(renewed.path), reason="its file was gone")

    def shut(self) -> None:
        """Let nobody in any more; who is there may stay."""
        self._house = None
        if self._listening is not None:
            self._listening.close()

    def close(self) -> None:
        """Let nobody in any more, and remove what is ours."""
        self._house = None
        self._control.close()


HINT = "the daemon goes on without it; free the place and send SIGHUP"
