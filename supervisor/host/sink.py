"""
Owns the daemon's stderr: everything that the daemon or a worker says leaves through one bounded queue.

Must never block the loop, and must not set O_NONBLOCK on a file description that a shell or other processes share.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import stat
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from supervisor.host.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUEUE_LIMIT = 1 << 20
"""Bytes held for a reader that is slower than what is said. Beyond it lines are lost, and counted."""

OWN_SHARE = 16
"""One part in so many of the queue is for the daemon's own lines, so that a flood of a worker's cannot hide them."""

WRITE_SIZE = 64 * 1024


class Sink:
    """
    A bounded, never blocking way to a file descriptor.

    Args:
        fd: Where to; a duplicate is kept. One that is closed, or breaks later, swallows everything silently.
        limit: Bytes to hold while the other side is slow.
    """

    def __init__(self, fd: int = 2, *, limit: int = QUEUE_LIMIT) -> None:
        self._channel = _open_channel(fd)
        self._limit = limit
        self._queue: deque[bytes] = deque()
        self._offset = 0  # Of the head of the queue: what of it has left already.
        self._queued = 0
        self._lost = 0
        self._epoll: select.epoll | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.moved = 0
        """Bytes that have left so far: whether the other side takes anything at all."""
        self.on_relief: Callable[[], None] = _nothing
        """Called when a queue that was congested is nearly empty again."""
        self.report_loss: Callable[[int], None] = self._report_loss
        """Says how many lines were lost, by a line of its own."""

    @property
    def is_congested(self) -> bool:
        """More than half of the queue is taken: who can wait should not add to it."""
        return self._queued > self._limit // 2

    def write(self, *lines: bytes | memoryview, own: bool = False) -> None:
        """
        Send whole lines on their way, in order, and return at once.

        Args:
            lines: Each with its line feed; may be cut anywhere. What does not fit into the queue is dropped by whole
                lines and counted.
            own: The daemon's own words, which may use the reserved part of the queue.
        """
        self._tell_loss()
        size = sum(map(len, lines))
        sent = 0 if self._queue or not size else self._send(lines)
        if sent == size:
            return
        rest = b"".join(lines)
        if sent:
            sent = self._push(rest, sent)
        if sent < len(rest) and self._channel is not None:
            self._keep(rest[sent:], is_torn=sent > 0, own=own)
            self._watch()

    def close(self, timeout_s: float = 1.0) -> None:
        """Wait at most *timeout_s* (blocking: for the end of the daemon) until the queue has left, then let go."""
        clock = Clock()
        deadline = clock.monotonic() + timeout_s
        self._unwatch()
        while self._channel is not None and self._flush():
            poll = select.poll()
            poll.register(self._channel.fd, select.POLLOUT)
            left_s = deadline - clock.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                break
        self._break(max(0.0, deadline - clock.monotonic()))

    def _push(self, data: bytes, start: int) -> int:
        """Write *data* from *start* until it would block; returns how far it came, all of it if it was lost."""
        view = memoryview(data)
        while start < len(data) and (count := self._send((view[start:],))):
            start += count
        return start

    def _send(self, parts: Sequence[bytes | memoryview]) -> int:
        """Write once; returns how much left, 0 if it would block, all of it if it was lost."""
        if self._channel is None:
            return 0
        try:
            count = self._channel.write(parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._fail(error, parts)
            return sum(map(len, parts))
        self.moved += count
        return count

    def _keep(self, lines: bytes, *, is_torn: bool, own: bool) -> None:
        """Queue what fits. *is_torn*: the first line has left in part already and is kept in any case."""
        limit = self._limit if own else self._limit - self._limit // OWN_SHARE
        # Once lines were lost the queue empties to the half before more are taken, so that one note covers many.
        room = 0 if self._lost and self.is_congested and not own else max(0, limit - self._queued)
        if len(lines) > room:
            cut = lines.rfind(b"\n", 0, room) + 1
            if is_torn:
                cut = max(cut, lines.find(b"\n") + 1)
            self._lost += lines.count(b"\n", cut)
            lines = lines[:cut]
        if lines:
            self._queue.append(lines)
            self._queued += len(lines)

    def _flush(self) -> bool:
        """Write from the queue until it would block; returns whether something is left."""
        while self._queue:
            head = self._queue[0]
            reached = self._push(head, self._offset)
            if not self._queue:  # The other side is gone.
                return False
            self._queued -= reached - self._offset
            self._offset = reached
            if reached < len(head):
                return True
            self._queue.popleft()
            self._offset = 0
        return False

    def _resume(self) -> None:
        """Continue: the other side takes again, or has gone."""
        was_congested = self._queued > self._limit // 4
        self._flush()
        self._tell_loss()
        if not self._queue:
            self._unwatch()
        if was_congested and self._queued <= self._limit // 4:
            self.on_relief()

    def _tell_loss(self) -> None:
        if self._lost and not self.is_congested and self._channel is not None:
            lost, self._lost = self._lost, 0
            self.report_loss(lost)
            if self._lost:  # The note was lost as well: a full disk.
                self._lost = lost

    def _report_loss(self, lines: int) -> None:
        self.write(b"gpu-supervisor | %d lines lost, nobody took them\n" % lines, own=True)

    def _fail(self, error: OSError, parts: Sequence[bytes | memoryview]) -> None:
        """Outlive an error: a full disk may empty again, everything else is the end of this stderr."""
        if self._channel is not None and self._channel.is_file and error.errno != errno.EBADF:
            self._lost += b"".join(parts).count(b"\n")
        else:
            self._break()

    def _break(self, wait_s: float = 0.0) -> None:
        self._unwatch()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        if self._channel is not None:
            self._channel.close(wait_s)
            self._channel = None
        self._queue.clear()
        self._queued = self._offset = self._lost = 0
        self.on_relief()

    def _watch(self) -> None:
        """
        Wake up when there is room.

        Through an epoll of our own: the loop's writer would do, but libuv makes every descriptor that it watches
        non-blocking, and with it the terminal of the shell that started us.
        """
        if self._loop is not None or self._channel is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # Before or after the loop; the next write or close takes it along.
            self._flush()
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._channel.fd, select.EPOLLOUT)
        self._loop = loop
        loop.add_reader(self._epoll.fileno(), self._resume)

    def _unwatch(self) -> None:
        if self._loop is not None and self._epoll is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._loop = None


class _Channel(Protocol):
    """A descriptor of ours, and how to write to it: at once, or BlockingIOError."""

    fd: int
    is_file: bool

    def write(self, parts: Sequence[bytes | memoryview]) -> int: ...
    def close(self, wait_s: float = 0.0) -> None: ...


class _Direct:
    """A regular file, which never blocks, or a file description of our own that is non-blocking."""

    def __init__(self, fd: int, *, is_file: bool) -> None:
        self.fd = fd
        self.is_file = is_file

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        return os.writev(self.fd, parts)

    def close(self, wait_s: float = 0.0) -> None:  # noqa: ARG002 - Nothing is under way here.
        os.close(self.fd)


class _Relay(_Direct):
    """
    A pipe or terminal that cannot be opened anew, written to by a thread that may block.

    Asking poll first does not do: a terminal that polls as writable blocks on a line of 100 bytes all the same (tried).
    """

    def __init__(self, fd: int) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        super().__init__(write_end, is_file=False)
        # As a daemon thread it does not hold up the end of the process when it is stuck.
        self._thread = threading.Thread(target=_copy, args=(read_end, fd), name="stderr", daemon=True)
        self._thread.start()

    def close(self, wait_s: float = 0.0) -> None:
        super().close()
        self._thread.join(wait_s)


class _Stream:
    """A socket, such as the journal's: it can be told for each call not to block."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self.fd = fd
        self.is_file = False

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        return self._socket.sendmsg(parts, [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self, wait_s: float = 0.0) -> None:  # noqa: ARG002 - Nothing is under way here.
        self._socket.close()


def _open_channel(fd: int) -> _Channel | None:
    """Pick how to write to *fd*; None if it is closed."""
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return _Direct(os.dup(fd), is_file=True)
        if stat.S_ISSOCK(mode):
            return _Stream(os.dup(fd))
    except OSError:
        return None
    try:
        # A second file description of the same pipe or terminal: O_NONBLOCK on it is nobody else's business.
        return _Direct(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), is_file=False)
    except OSError:  # Another user's, after `su`; or no /proc.
        return _Relay(os.dup(fd))


def _copy(source: int, target: int) -> None:
    """A relay's thread: until the end of file, or until nobody takes it any more."""
    with suppress(OSError):
        while data := memoryview(os.read(source, WRITE_SIZE)):
            while data:
                data = data[os.write(target, data) :]
    os.close(source)
    os.close(target)


def _nothing() -> None:
    pass
