"""
Sockets that a service manager has bound for us, as sd_listen_fds(3) hands them over.

Must not accept on them, nor bind any of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from supervisor.core.file.listen import Address

FIRST = 3
"""SD_LISTEN_FDS_START."""

CONTROL = "control"
"""FileDescriptorName of the control socket; those of services have a dot in theirs."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """
    A socket that somebody has bound for us.

    Args:
        name: FileDescriptorName of its unit, or empty.
        address: Where it listens; None for what is no listening stream socket.
    """

    name: str
    address: Address | None
    socket: socket.socket

    @property
    def path(self) -> Path:
        """Of a unix socket."""
        assert self.address is not None
        return Path(self.address.host)


def take_sockets(environ: MutableMapping[str, str], pid: int) -> tuple[Inherited, ...]:
    """
    Take over what a service manager has passed to this process.

    The variables are taken out of the environment, and nobody that we start gets the descriptors unasked.

    Args:
        environ: The process' own.
        pid: Our own: what was meant for another process is left alone.

    Source: https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
    """
    whose, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    environ.pop("LISTEN_PIDFDID", None)
    if whose != str(pid) or not count.isdecimal():
        return ()
    named = dict(enumerate(names.split(":"), FIRST))
    found = []
    for fd in range(FIRST, FIRST + int(count)):
        try:
            os.set_inheritable(fd, False)
            one = socket.socket(fileno=fd)
        except OSError:  # A FIFO or a file: nothing of ours.
            continue
        one.setblocking(True)
        found.append(Inherited(named.get(fd, ""), _address_of(one), one))
    return tuple(found)


def find_control(inherited: Iterable[Inherited], path: str) -> Inherited | None:
    """The one that is the daemon's control socket: named ``control``, or else bound where we would have bound it."""
    found = [one for one in inherited if one.address is not None and one.address.kind == "unix"]
    named = [one for one in found if one.name == CONTROL]
    return next(iter(named or [one for one in found if one.address and one.address.host == path]), None)


def _address_of(one: socket.socket) -> Address | None:
    if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return None
    name = one.getsockname()
    if one.family == socket.AF_UNIX:
        return Address("unix", name) if isinstance(name, str) and name.startswith("/") else None
    if one.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    host = ip_address(name[0].partition("%")[0])
    return Address("tcp", str(getattr(host, "ipv4_mapped", None) or host), name[1])
