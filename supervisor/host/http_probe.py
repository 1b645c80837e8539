"""
Asks a server on loopback by HTTP whether it is well: one GET, its status, no redirect followed.

Must not know whose server it is, and reads no more of an answer than it has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
from typing import TYPE_CHECKING

from supervisor.host.tcp_probe import ADDRESSES, OUR_FAULTS, connect, new_socket

if TYPE_CHECKING:
    from supervisor.core.file.probe_keys import Url

HEAD_MAX_BYTES = 32 * 1024
BODY_MAX_BYTES = 16 * 1024
BODY_MAX_S = 1.0
"""Of a body something is read, so that the server does not log a connection that was reset; what it says is not."""

WELL = range(200, 400)
"""As kubelet has it; a redirect is an answer, and where it leads is not asked."""

_STATUS = re.compile(rb"HTTP/[0-9.]+ +([1-5][0-9][0-9])\b")
_SHOWN_MAX = 40


async def http_fault(loop: asyncio.AbstractEventLoop, url: Url, port: int, timeout_s: float) -> str | None:
    """
    Ask once.

    Args:
        loop: The running one.
        url: What is asked for; without a host on 127.0.0.1 and, if refused there, on ::1.
        port: The worker's own, for a URL without one.
        timeout_s: For all of it.

    Returns:
        Empty if the answer is 200 to 399, else why not, in words; None if this machine could not even ask.
    """
    port = url.port or port
    try:
        async with asyncio.timeout(timeout_s):
            sock, code = await _reach(loop, url.host, port, timeout_s)
            if sock is None:
                return None if code in OUR_FAULTS else f"port {port}: {os.strerror(code).lower()}"
            return await _converse(sock, url, port)
    except TimeoutError:
        return f"port {port}: {url.path} was not answered within {timeout_s:g} s"


async def _reach(
    loop: asyncio.AbstractEventLoop, host: str, port: int, timeout_s: float
) -> tuple[socket.socket | None, int]:
    """A connected socket, or none and the error of the first address."""
    first = 0
    for family, address in ADDRESSES if not host else [(_family(host), host)]:
        try:
            sock = new_socket(family)
        except OSError as error:
            code = error.errno or errno.EIO
        else:
            try:
                code = await connect(loop, sock, (address, port), timeout_s)
            except BaseException:
                sock.close()
                raise
            if code == 0:
                return sock, 0
            sock.close()
        first = first or code
        if code not in {errno.ECONNREFUSED, errno.EAFNOSUPPORT}:
            break
    return None, first


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def _converse(sock: socket.socket, url: Url, port: int) -> str | None:
    reader, writer = await asyncio.open_connection(sock=sock, limit=HEAD_MAX_BYTES)
    try:
        name = f"[{url.host}]" if ":" in url.host else url.host or "127.0.0.1"
        head = f"GET {url.path} HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: gpu-supervisor\r\nAccept: */*\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode("ascii"))
        status = await _read_status(reader)
        if isinstance(status, int):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BODY_MAX_S):
                    await _read_rest(reader)
    except OSError as error:
        status = f"not answered: {os.strerror(error.errno or errno.EIO).lower()}"
    finally:
        writer.transport.abort()
    if isinstance(status, str):
        return f"port {port}: {url.path} was {status}"
    return "" if status in WELL else f"{url.path} answered {status}"


async def _read_status(reader: asyncio.StreamReader) -> int | str:
    """The status of the final answer, or in words what came instead."""
    read = 0
    try:
        while read < HEAD_MAX_BYTES:
            line = await reader.readline()
            match = _STATUS.match(line)
            if match is None:
                return f"answered by no HTTP: {line[:_SHOWN_MAX].decode('latin-1')!a}" if line else "not answered"
            if int(match[1]) >= 200:
                return int(match[1])
            while (line := await reader.readline()).strip():  # Something on the way, such as 103; the answer follows.
                read += len(line)
            read += 1
    except ValueError:  # A line beyond the limit.
        pass
    return "answered by no HTTP: too long"


async def _read_rest(reader: asyncio.StreamReader) -> None:
    left = BODY_MAX_BYTES
    with contextlib.suppress(OSError):
        while left > 0 and (piece := await reader.read(left)):
            left -= len(piece)
