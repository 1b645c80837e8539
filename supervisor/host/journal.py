"""
Owns the socket to systemd's journal: entries go there as datagrams, by its native protocol.

Must never block: what the journal does not take now waits in a bounded queue, and beyond that is dropped and counted.
Source of the protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

JOURNAL = "/run/systemd/journal/socket"

QUEUE_LIMIT = 1 << 20
"""Bytes of entries that wait for a journal that is slower than what is said."""

ENTRY_MAX = 256 * 1024
"""Of one line; a longer one comes in several entries."""

PRIORITY = b"6"
"""LOG_INFO, unless a line begins with a level of its own, as in sd-daemon(3): ``<3>``."""

_TOO_BIG = {errno.EMSGSIZE, errno.ENOBUFS}
_GONE = {errno.ECONNREFUSED, errno.ENOTCONN, errno.ENOENT, errno.EPIPE, errno.ECONNRESET, errno.EACCES, errno.EPERM}


class Journal:
    """
    A bounded, never blocking way to the journal; an outlet of `Outputs`.

    Args:
        loop: Wakes us when the journal takes more.
        tell: Takes log events about what is lost.
        path: Of its socket.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tell: Callable[[str, Mapping[str, object]], None], path: str = JOURNAL
    ) -> None:
        self.moved = 0
        self.on_relief: Callable[[], None] = _nothing
        self._loop = loop
        self._tell = tell
        self._path = path
        self._socket: socket.socket | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._lost = 0
        self._is_watching = False
        self._is_missed = False  # That it is not there has been told.

    @property
    def is_congested(self) -> bool:
        """More than half of the queue is taken."""
        return self._queued > QUEUE_LIMIT // 2

    def is_there(self) -> bool:
        """Whether there is a journal to write to; that there is none is told once."""
        if self._socket is None:
            self._connect()
        return self._socket is not None

    def write(self, entry: bytes) -> bool:
        """
        Send one entry, and return at once.

        Args:
            entry: As `make_entry` makes it.

        Returns:
            Whether there is a journal; an entry that it was too slow for is dropped and counted all the same.
        """
        if not self._queue:
            sent = self._send(entry)
            if sent is not False:
                if sent and self._lost:
                    self._tell_resumed()
                return sent or self._socket is not None
        if self._queued + len(entry) > QUEUE_LIMIT:
            self._lose("the journal does not keep up")
            return True
        self._queue.append(entry)
        self._queued += len(entry)
        self._watch()
        return True

    def close(self) -> None:
        """Send what the journal takes now, and let go."""
        self._flush()
        self._unwatch()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        try:
            ours.connect(self._path)
        except OSError as error:
            ours.close()
            if not self._is_missed:
                self._is_missed = True
                fields = {"socket": self._path, "reason": error.strerror, "instead": "the daemon's own output"}
                self._tell("logs.no_journal", fields)
        else:
            self._socket = ours
            self._is_missed = False

    def _send(self, entry: bytes) -> bool | None:
        """True: sent. False: the journal is busy. None: lost, or the journal is gone."""
        for _ in range(2):
            if not self.is_there():
                return None
            assert self._socket is not None
            try:
                self._send_somehow(self._socket, entry)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _GONE:
                    self._lose(error.strerror or str(error))
                    return None
                # It may have been started anew, with another socket of the same name.
                self._disconnect()
            else:
                self.moved += len(entry)
                return True
        return None

    def _send_somehow(self, to: socket.socket, entry: bytes) -> None:
        try:
            to.send(entry)
        except OSError as error:
            if error.errno not in _TOO_BIG:
                raise
            fd = _sealed(entry)
            try:
                to.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            finally:
                os.close(fd)

    def _flush(self) -> None:
        while self._queue:
            sent = self._send(self._queue[0])
            if sent is False:
                return
            if sent is None and self._socket is None:
                self._lose("the journal has gone")
            self._queued -= len(self._queue.popleft())

    def _resume(self) -> None:
        was_congested = self._queued > QUEUE_LIMIT // 4
        self._flush()
        if not self._queue:
            self._unwatch()
        if self._queued <= QUEUE_LIMIT // 4:
            if self._lost:
                self._tell_resumed()
            if was_congested:
                self.on_relief()

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self._tell("logs.dropping", {"file": "journal", "reason": reason})
        self._lost += 1

    def _tell_resumed(self) -> None:
        self._tell("logs.resumed", {"file": "journal", "lines": self._lost})
        self._lost = 0

    def _watch(self) -> None:
        if not self._is_watching and self._socket is not None:
            self._loop.add_writer(self._socket.fileno(), self._resume)
            self._is_watching = True

    def _unwatch(self) -> None:
        if self._is_watching and self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())
        self._is_watching = False

    def _disconnect(self) -> None:
        is_watched = self._is_watching
        self._unwatch()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if is_watched and self.is_there():
            self._watch()


def make_fields(service: str, index: int, incarnation: int) -> bytes:
    """What all entries of one process have in common."""
    worker = f"{service}/{index}"
    return (
        f"SYSLOG_IDENTIFIER={worker}\nWORKER={worker}\nSERVICE_NAME={service}\nWORKER_INDEX={index}\n"
        f"WORKER_INCARNATION={incarnation}\n"
    ).encode()


def make_entry(fields: bytes, line: bytes) -> bytes:
    """
    One entry.

    Args:
        fields: As `make_fields` makes them.
        line: Without its line feed. A level in front of it (``<3>``) becomes the entry's.
    """
    priority = PRIORITY
    if line[:1] == b"<" and line[2:3] == b">" and line[1:2] in b"01234567" and len(line) > 2:
        priority, line = line[1:2], line[3:]
    return b"MESSAGE=%b\nPRIORITY=%b\n%b" % (line, priority, fields)


def _sealed(entry: bytes) -> int:
    """A file in memory that nobody can change any more, which is what the journal demands."""
    fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(entry)
        while view:
            view = view[os.write(fd, view) :]
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        with suppress(OSError):
            os.close(fd)
        raise
    return fd


def _nothing() -> None:
    pass
