"""
Asks a port on loopback whether it takes connections, and nothing more.

Must not know whose port it is.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

OUR_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors of a connection that say something about this machine and nothing about the worker."""

ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


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
            code = await _try(loop, (make_socket or new_socket)(family), (host, port), timeout_s)
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


def new_socket(family: socket.AddressFamily) -> socket.socket:
    """A stream socket that does not block."""
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


async def _try(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: tuple[str, int], timeout_s: float) -> int:
    with sock:
        code = await connect(loop, sock, address, timeout_s)
        # It was taken, and thrown away before we looked; a refusal is another error.
        return 0 if code == errno.ECONNRESET else code


async def connect(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, address: tuple[str, int], timeout_s: float
) -> int:
    """
    Error number of a connection, 0 if it came about. The socket stays the caller's.

    Not `loop.sock_connect`: when cancelled it takes its descriptor out of the loop a turn later, and by then it is
    closed, or somebody else's.
    """
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
    if code == 0 and sock.getsockname()[:2] == address:
        # Nobody listens, but TCP let the socket meet itself, the port being one that it may pick for our end.
        # Reset it: a proper end would keep the worker off its own port for a minute (TIME_WAIT).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return errno.ECONNREFUSED
    return code


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
