"""
Owns the way to the service manager: what it gave us, and the datagrams that tell it how we are.

Must not decide what is told, and must never hold up the loop: what the manager does not take now is sent later.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger()

RETRY_S = 0.1
"""The manager reads its socket quickly; if it does not, it has more to do than to read it again at once."""

QUEUE_MAX = 64
"""Few things are told, each once. More than this means that nobody reads."""


@dataclass(frozen=True, slots=True)
class Manager:
    """
    What a service manager has asked of this process.

    Args:
        address: Of its notification socket, for `socket.sendto`; an abstract one begins with a zero byte.
        watchdog_s: Within how many seconds it wants a sign of life again and again, None for never.
    """

    address: str
    watchdog_s: float | None = None


def find_manager(environ: MutableMapping[str, str], pid: int) -> Manager | None:
    """
    Take over what a service manager said in the environment.

    The variables are taken out of it: keeper, shims, prober and workers must not speak in our place.

    Args:
        environ: The process' own.
        pid: Our own: WATCHDOG_PID of somebody else means that the watchdog is not for us.

    Returns:
        None when there is no service manager.

    Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
    """
    path = environ.pop("NOTIFY_SOCKET", "")
    usec, watched = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if path[:1] not in {"/", "@"}:
        return None
    is_ours = usec.isdecimal() and int(usec) > 0 and watched in {"", str(pid)}
    return Manager("\0" + path[1:] if path[0] == "@" else path, int(usec) / 1e6 if is_ours else None)


def find_unit(environ: Mapping[str, str], pid: int, proc: Path = Path("/proc/self")) -> str | None:
    """
    Name of the systemd service whose main process we are, None if we are none's.

    Args:
        environ: The process' own. What a terminal's service left in it is told apart by the pid beside it.
        pid: Our own.
        proc: Of this process.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html, INVOCATION_ID, SYSTEMD_EXEC_PID
    """
    if "INVOCATION_ID" not in environ or environ.get("SYSTEMD_EXEC_PID") != str(pid):
        return None
    try:
        parts = (proc / "cgroup").read_text().splitlines()[-1].split("/")
    except (OSError, IndexError):
        return None
    return next((part for part in reversed(parts) if part.endswith(".service")), None)


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """
    Whether a descriptor is a stream into the journal, which takes ``<4>`` before a line as its priority.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html, JOURNAL_STREAM
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Notifier:
    """
    Sends to the service manager, in order, without ever waiting. Used inside a running event loop.

    Args:
        address: See `Manager`.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._queue: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._has_complained = False

    def tell(self, **fields: str | int) -> None:
        """
        Send one message.

        Args:
            fields: In lower case: ``ready=1``, ``status="4 of 4 workers ready"``. Line feeds become spaces.
        """
        lines = (f"{name.upper()}={' '.join(str(value).splitlines())}" for name, value in fields.items())
        message = "\n".join(lines).encode(errors="backslashreplace")
        is_said = bool(self._queue) and self._queue[-1] == message
        if not is_said and len(self._queue) < QUEUE_MAX:
            self._queue.append(message)
        if self._timer is None:
            self._flush()

    def close(self) -> None:
        """Send what is left, if the manager takes it, and be silent from now on."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()

    def _flush(self) -> None:
        self._timer = None
        while self._queue:
            try:
                self._socket.sendto(self._queue[0], self._address)
            except BlockingIOError:
                self._timer = self._loop.call_later(RETRY_S, self._flush)
                return
            except OSError as error:
                # A variable that some parent left behind, or a manager that is being replaced: no reason to end.
                if not self._has_complained:
                    self._has_complained = True
                    log.warning("manager.unreachable", reason=os.strerror(error.errno or 0))
            self._queue.popleft()
