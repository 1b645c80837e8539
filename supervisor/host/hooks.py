"""
Owns how a hook is told: its command run with an event on standard input, or its URL posted to. One try, bounded.

Must not decide whether there is another try, nor what is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import aiohttp

from supervisor import __version__
from supervisor.core.file.names import literal
from supervisor.core.message import Spawn
from supervisor.core.plan import Launch
from supervisor.core.spec import Recipe, WorkerId
from supervisor.host.exec_probe import Command

if TYPE_CHECKING:
    from supervisor.host.prober_client import Spawner

NAMES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR")
"""Of the daemon's environment, in which secrets may be; a hook asks for others itself."""

SHORT = "could not be started: this machine is short of processes, descriptors or memory"
_AGAIN = {408, 425, 429}
_SITE = re.compile(r"[a-z]+://[^/?]+")


@dataclass(frozen=True, slots=True)
class Told:
    """
    What came of a try.

    Args:
        fault: Why it failed, in words; empty if it did not.
        is_final: Another try is of no use.
    """

    fault: str = ""
    is_final: bool = False


class Teller(Protocol):
    """One hook."""

    name: str
    """In words, without what may be secret."""

    async def tell(self, body: bytes, timeout_s: float) -> Told:
        """Tell one event, once."""

    async def close(self) -> None:
        """Leave nothing behind."""


class HookCommand:
    """
    A command of the daemon's user. What it leaves behind is ended with it.

    Args:
        spawner: Starts it, below a shim of its own.
        place: Of the hook in the file; names the shim.
        argv: The command.
        env: Of the daemon.
        folder: Where it runs.
        key: Of the file, which has it; names the shim, too.
    """

    def __init__(
        self,
        spawner: Spawner,
        place: int,
        argv: tuple[str, ...],
        env: Mapping[str, str],
        folder: str,
        *,
        key: str = "on_event",
    ) -> None:
        kept = {name: env[name] for name in NAMES if name in env}
        launch = Launch(Recipe(command=argv, env=(), working_dir=folder, port=None, gpu_memory=None))
        # Nothing in its words is replaced: there is no worker whose variables it could be.
        words = tuple(map(literal, argv))
        start = Spawn(WorkerId(key, place), 1, launch, argv, kept, folder)
        self._command = Command(spawner, start, words, "hook")
        self.name = self._command.name

    async def tell(self, body: bytes, timeout_s: float) -> Told:
        """Run it once with the event on its standard input."""
        fault = await self._command.ask(timeout_s, body)
        return Told(SHORT if fault is None else fault)

    async def close(self) -> None:
        """End it."""
        self._command.close()


class Webhook:
    """
    A URL.

    Args:
        url: ``http`` or ``https``.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        site = _SITE.match(url)
        self.name = site[0] if site else "a URL"  # A path or a query may well be a password.

    async def tell(self, body: bytes, timeout_s: float) -> Told:
        """Post the event once. Redirects are not followed: where they lead nobody has written into the file."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"User-Agent": f"gpu-supervisor/{__version__}"})
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                status = answer.status
        except TimeoutError:
            return Told(f"did not answer within {timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Told(_words(error))
        if status < 300:
            return Told()
        return Told(f"answered {status}", is_final=status < 500 and status not in _AGAIN)

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or "cannot be reached").lower()
    return type(error).__name__ if isinstance(error, aiohttp.InvalidURL | ValueError) else str(error)[:200].lower()
