"""
Owns the TCP socket at which the daemon itself listens.

Must not speak over it; whoever serves requests gets it.
"""

from __future__ import annotations

import errno
import socket

from supervisor.errors import CannotError
from supervisor.host.listeners import holder_of

BACKLOG = 128

IDLE_S, INTERVAL_S, PROBES = 30, 10, 3
"""Of TCP's keep-alive: a client whose machine is gone leaves its place within a minute."""


def listen_http(host: str, port: int) -> socket.socket:
    """
    Listen for clients of the API.

    Args:
        host: An IP address; ``::`` is every one.
        port: From 1 on.

    Raises:
        CannotError: Somebody else has it, or the system does not let us.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # Connections of a daemon before us that are not forgotten yet must not keep us from our port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        _keep_alive(listener)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        where = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        raise CannotError(f"listen on {where}", _words(port, error)) from None
    return listener


def _keep_alive(listener: socket.socket) -> None:
    """What is accepted from a socket has its options."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", IDLE_S), ("TCP_KEEPINTVL", INTERVAL_S), ("TCP_KEEPCNT", PROBES)):
        if (option := getattr(socket, name, None)) is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


def _words(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port)
        return f"{holder} listens there" if holder else "somebody listens there"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if error.errno == errno.EACCES:
        return f"port {port} is for root"
    return (error.strerror or str(error)).lower()
