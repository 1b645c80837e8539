"""
Framing between master, keeper and shims: a stream of JSON messages that may carry descriptors.

Standard library only, since keeper and shims run it without site-packages. Knows no message and waits for nothing.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct

VERSION = 1
HEADER = struct.Struct("!IBB")  # Length of the JSON text, version, number of descriptors.
MESSAGE_MAX_BYTES = 64 << 20  # Arguments and environment may reach 2 MiB, six times that once escaped.
READ_BYTES = 64 << 10
READS_PER_TURN = 64  # A peer that never stops talking must not hold up the rest.
DESCRIPTORS_MAX = 253  # SCM_MAX_FD of the kernel.

# Importing typing would cost memory in every shim.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]


class WireError(Exception):
    """The peer speaks another protocol; nothing it says from here on can be understood."""


class Channel:
    """
    One end of a stream socket. Nothing here blocks: what the socket does not take stays queued.

    Args:
        sock: A connected Unix stream socket, owned from now on.

    Attributes:
        ended: The peer is gone, or we closed: nothing more comes.
        stalled: The kernel refused descriptors for want of room (ETOOMANYREFS) while the socket itself is writable, so
            flush() has to be tried again after a moment rather than on writability.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming = bytearray()
        # One bundle per message that carries descriptors, in order. A bundle may be short: the kernel drops what does
        # not fit into our descriptor table.
        self._bundles: list[tuple[int, ...]] = []
        self._outgoing: list[tuple[memoryview, tuple[int, ...]]] = []
        self.ended = False
        self.stalled = False

    def fileno(self) -> int:
        """Return the descriptor to poll, -1 once closed."""
        return self._sock.fileno()

    @property
    def is_pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """
        Send, or queue, a message.

        Args:
            message: Anything that JSON can say.
            fds: Descriptors that go with it, 253 at most. They are owned from now on: closed once sent, or when the
                channel closes before.
        """
        assert len(fds) <= DESCRIPTORS_MAX
        text = json.dumps(message, separators=(",", ":")).encode()
        if self.ended:
            close_all(fds)
            return
        self._outgoing.append((memoryview(HEADER.pack(len(text), VERSION, len(fds)) + text), fds))
        if len(self._outgoing) == 1:
            self.flush()

    def flush(self) -> None:
        """Send of the queue what the socket takes now."""
        self.stalled = False
        while self._outgoing:
            rest, fds = self._outgoing[0]
            try:
                sent = self._send_once(rest, fds)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    self.stalled = True
                    return
                self._drop_outgoing()  # The peer is gone. What it said before can still be read.
                return
            # The descriptors travel with the first byte; the rest of a long message goes without.
            close_all(fds)
            if sent < len(rest):
                self._outgoing[0] = (rest[sent:], ())
            else:
                del self._outgoing[0]

    def receive(self) -> list[tuple[Message, tuple[int, ...] | None]]:
        """
        Read what has come.

        Returns:
            Messages with their descriptors (not inheritable, owned by the caller), in order; None for descriptors
            that did not fit into our table.

        Raises:
            WireError: The peer speaks another protocol.
        """
        for _ in range(READS_PER_TURN):
            if self.ended or not self._receive_once():
                break
        messages = []
        while (message := self._take_message()) is not None:
            messages.append(message)
        return messages

    def close(self) -> None:
        """Close the socket and every descriptor in either queue. Takes effect once."""
        self.ended = True
        self._drop_outgoing()
        for bundle in self._bundles:
            close_all(bundle)
        self._bundles.clear()
        self._sock.close()

    def _send_once(self, rest: memoryview, fds: tuple[int, ...]) -> int:
        if not fds:
            return self._sock.send(rest)
        return self._sock.sendmsg([rest], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])

    def _receive_once(self) -> bool:
        """Read once; False when there was nothing to read."""
        try:
            # Received descriptors are inheritable unless the kernel is told otherwise in the same call.
            data, ancillary, flags, _ = self._sock.recvmsg(
                READ_BYTES, socket.CMSG_SPACE(DESCRIPTORS_MAX * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.ended = True
            return False
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        # The kernel never merges the descriptors of two messages into one read, so a read is a bundle.
        if fds or flags & socket.MSG_CTRUNC:
            self._bundles.append(tuple(fds))
        self._incoming += data
        self.ended = not data
        return bool(data)

    def _take_message(self) -> tuple[Message, tuple[int, ...] | None] | None:
        if len(self._incoming) < HEADER.size:
            return None
        length, version, count = HEADER.unpack_from(self._incoming)
        if version != VERSION or length > MESSAGE_MAX_BYTES:
            raise WireError(f"message of version {version}, {length} bytes; version {VERSION} is spoken here")
        end = HEADER.size + length
        if len(self._incoming) < end:
            return None
        try:
            message = json.loads(self._incoming[HEADER.size : end])
        except ValueError as error:
            raise WireError(f"message is not JSON: {error}") from error
        del self._incoming[:end]
        return message, self._take_bundle(count)

    def _take_bundle(self, count: int) -> tuple[int, ...] | None:
        if not count:
            return ()
        bundle = self._bundles.pop(0) if self._bundles else ()
        if len(bundle) == count:
            return bundle
        close_all(bundle)
        return None

    def _drop_outgoing(self) -> None:
        for _, fds in self._outgoing:
            close_all(fds)
        self._outgoing.clear()


def close_all(fds: tuple[int, ...]) -> None:
    """Close each once: the same pipe end may serve as stdout and stderr."""
    for fd in set(fds):
        os.close(fd)
