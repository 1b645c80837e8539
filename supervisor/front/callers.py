"""Who is at the other end of a request, as far as the system says."""

from __future__ import annotations

import socket
import struct
from typing import Any

from aiohttp import web

_PEER = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid.


def read_peer(request: web.Request) -> dict[str, int | str]:
    """Process and user over a unix socket, the address over TCP; empty where the system does not say."""
    connection: Any = request.transport and request.transport.get_extra_info("socket")
    if connection is None:
        return {}
    if connection.family != socket.AF_UNIX:
        host, port, *_ = request.transport.get_extra_info("peername") if request.transport else ("", 0)
        return {"peer": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return {}
    pid, uid, gid = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _PEER.size))
    return {"pid": pid, "uid": uid, "gid": gid}
