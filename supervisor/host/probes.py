"""
Owns the probes: asks workers' ports whether they take connections and says when the answer changes.

Must not know what a worker is beyond its port, nor let one that hangs delay another.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import zlib
from typing import TYPE_CHECKING

from supervisor.core.message import BecameReady, BecameUnready

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.core.message import Event, Probe
    from supervisor.core.spec import WorkerId

ATTEMPT_S = 1.0
"""For one connection over loopback; a listener whose backlog is full does not answer at all."""

WATCH_S = 10.0
"""Between two attempts at a worker that is ready, at least."""

FAILURES = 3
"""In a row, before a worker that was ready is called unready."""

PAUSE_FIRST_S = 0.05
"""What starts at once is seen at once: the pauses double from here to the interval."""

PAUSE_MIN_S = 0.05
"""Between two attempts, whatever the file says: the loop must not spin."""

OUR_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors of a connection that say something about this machine and nothing about the worker."""

ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class TcpProbes:
    """
    One probe for each worker that is watched, and nothing else: no timer runs when nobody is.

    Args:
        loop: Runs it.
        on_event: Gets BecameReady and BecameUnready; it may call `watch` and `forget`.
        attempt_s: Limit of one connection.
        watch_s: Between two attempts at a worker that is ready.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[Event], None],
        *,
        attempt_s: float = ATTEMPT_S,
        watch_s: float = WATCH_S,
    ) -> None:
        self._loop = loop
        self._on_event = on_event
        self._attempt_s = attempt_s
        self._watch_s = watch_s
        self._tasks: dict[WorkerId, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()  # With those that are forgotten and about to end.

    def watch(self, order: Probe) -> None:
        """Ask from now on, at once for the first time; an earlier order for the same worker is forgotten."""
        self.forget(order.worker)
        task = self._loop.create_task(self._probe(order))
        task.add_done_callback(self._ended)
        self._running.add(task)
        self._tasks[order.worker] = task

    def forget(self, worker: WorkerId) -> None:
        """Ask no more; no event of this worker comes after this call."""
        task = self._tasks.pop(worker, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Forget everybody, and wait until their connections are closed."""
        for worker in tuple(self._tasks):
            self.forget(worker)
        if self._running:
            await asyncio.wait(self._running)

    async def _probe(self, order: Probe) -> None:
        """One worker's life: until ready, until unready, and again."""
        while True:
            await self._until_ready(order)
            self._on_event(BecameReady(order.worker, order.incarnation))
            detail = await self._until_failing(order)
            self._on_event(BecameUnready(order.worker, order.incarnation, detail))

    async def _until_ready(self, order: Probe) -> None:
        pause_s = min(PAUSE_FIRST_S, order.interval_s)
        while True:
            started = self._loop.time()
            if await connection_fault(self._loop, order.port, self._attempt_s) == "":
                return
            await asyncio.sleep(max(PAUSE_MIN_S, started + pause_s - self._loop.time()))
            pause_s = min(2 * pause_s, order.interval_s)

    async def _until_failing(self, order: Probe) -> str:
        """Returns what the last of `FAILURES` failures in a row was."""
        period_s = max(order.interval_s, self._watch_s)
        failures = 0
        while True:
            await asyncio.sleep(max(PAUSE_MIN_S, wait_for_slot_s(str(order.worker), period_s, self._loop.time())))
            fault = await connection_fault(self._loop, order.port, self._attempt_s)
            if fault is None:
                continue
            failures = failures + 1 if fault else 0
            if failures == FAILURES:
                return fault

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A probe that ends unasked is our bug, and must not end unheard."""
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "probe failed", "exception": error, "task": task})


def wait_for_slot_s(name: str, period_s: float, now: float) -> float:
    """
    Seconds until *name*'s next turn.

    Every name has its own phase of the period, the same at all times, so that many workers that became ready together
    are not asked together for ever.

    Returns:
        More than 0, at most *period_s*.
    """
    phase_s = zlib.crc32(name.encode()) / 2**32 * period_s
    return period_s - (now - phase_s) % period_s


async def connection_fault(
    loop: asyncio.AbstractEventLoop,
    port: int,
    timeout_s: float,
    make_socket: Callable[[socket.AddressFamily], socket.socket] | None = None,
) -> str | None:
    """
    Connect to a port on loopback and close the connection again.

    Args:
        loop: The running one.
        port: 1 to 65535, asked on 127.0.0.1 and, if refused there, on ::1.
        timeout_s: For each of the two.
        make_socket: Makes a non-blocking stream socket of an address family.

    Returns:
        Empty if something listens, else why not, in words; None if this machine could not even ask.
    """
    first = 0
    for family, host in ADDRESSES:
        try:
            code = await _connect(loop, (make_socket or _make_socket)(family), (host, port), timeout_s)
        except TimeoutError:
            return f"port {port} did not answer within {timeout_s:g} s"
        except OSError as error:  # No socket to be had: out of descriptors, or no such family.
            code = error.errno or errno.EIO
        if code == 0:
            return ""
        first = first or code
        if code not in {errno.ECONNREFUSED, errno.EAFNOSUPPORT}:
            break
    if first in OUR_FAULTS:
        return None
    return f"port {port}: {os.strerror(first).lower()}"


def _make_socket(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


async def _connect(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, address: tuple[str, int], timeout_s: float
) -> int:
    """
    Error number of a connection, 0 if it came about.

    Not `loop.sock_connect`: when cancelled it takes its descriptor out of the loop a turn later, and by then it is
    closed, or somebody else's.
    """
    with sock:
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            connected = loop.create_future()
            loop.add_writer(sock.fileno(), _done, connected)
            try:
                async with asyncio.timeout(timeout_s):
                    await connected
            finally:
                loop.remove_writer(sock.fileno())
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == errno.ECONNRESET:
            return 0  # It was taken, and thrown away before we looked; a refusal is another error.
        if code == 0 and sock.getsockname()[:2] == address:
            # Nobody listens, but TCP let the socket meet itself, the port being one that it may pick for our end.
            # Reset it: a proper end would keep the worker off its own port for a minute (TIME_WAIT).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return errno.ECONNREFUSED
        return code


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
