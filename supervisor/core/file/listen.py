"""
The key `listen`: sockets that the daemon binds for the workers of a service, and which addresses there are.

Pure: nothing is bound here, and no name is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from posixpath import isabs, join, normpath
from typing import TYPE_CHECKING, Literal

from supervisor.core.file.names import names_in
from supervisor.core.file.problems import BadValueError, Path, Place, Problem, as_text, shown

if TYPE_CHECKING:
    from supervisor.core.file.service import ServiceSpec

SOCKETS_MAX = 64  # Descriptors of one start go in one message.
UNIX_PATH_MAX = 107  # Of sun_path, less its NUL.

DAEMON_HTTP = "daemon.http"
_PORT_MAX = 65535
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_TCP = re.compile(r"tcp://(?:\[([^\]]*)\]|([^:\[\]]*))(?::(.*))?", re.ASCII)
_EXAMPLE = "write listen: {http: tcp://127.0.0.1:8000}, or {http: unix:run/web.sock}"
_ADDRESS_EXAMPLE = "write tcp://127.0.0.1:8000, tcp://[::]:8000 or unix:run/web.sock"
_EVERY = {"0.0.0.0": "0.0.0.0", "::": "::"}  # noqa: S104 - Compared with, not bound.


@dataclass(frozen=True, order=True, slots=True)
class Address:
    """
    Where a socket listens.

    Args:
        kind: ``tcp`` or ``unix``.
        host: An IP address as it is written shortest; of a unix socket its absolute path.
        port: 0 for a unix socket.
    """

    kind: Literal["tcp", "unix"]
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.host}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """
        The address that ``str`` made this text of.

        Raises:
            ValueError: There is none.
        """
        if text.startswith("unix:"):
            return cls("unix", text.removeprefix("unix:"))
        return parse_address(text)

    def overlaps(self, other: Address) -> bool:
        """Whether the system lets only one of the two be bound. ``[::]`` takes IPv4 too."""
        if (self.kind, self.port) != (other.kind, other.port):
            return False
        return self.host == other.host or self._covers(other) or other._covers(self)

    def _covers(self, other: Address) -> bool:
        return self.kind == "tcp" and (self.host == "::" or (self.host in _EVERY and ":" not in other.host))


@dataclass(frozen=True, slots=True)
class Socket:
    """A listening socket of a service: the name under which its workers find it, and where it listens."""

    name: str
    address: Address


def read_listen(place: Place) -> tuple[Socket, ...]:
    """The sockets of a service in the order of the file, which is that of the descriptors from 3 on."""
    written = place.as_map("{http: tcp://127.0.0.1:8000}")
    if len(written) > SOCKETS_MAX:
        place.refuse(f"expected {SOCKETS_MAX} sockets at the most, got {len(written)}")
        return ()
    found = []
    for name, value in written.items():
        at = place.child(name, value)
        address = at.read(parse_address)
        if _NAME.fullmatch(name) is None:
            hint = "it is what LISTEN_FDNAMES says, where a ':' stands between two"
            message = f"expected a name of up to 63 letters, digits, '-', '_' and '.', got {shown(name)}"
            at.refuse(message, hint, at_key=True)
        elif address is not None:
            found.append(Socket(name, address))
    return tuple(found)


def parse_address(value: object) -> Address:
    """
    An address as the file writes it; the path of a unix socket may still be a relative one.

    Raises:
        BadValueError: It is none, or none that can be bound without asking somebody for it.
    """
    text = as_text(value)
    if names_in(text):
        raise BadValueError("names are not replaced here: every worker of the service has the same sockets")
    if text.startswith("unix:"):
        return Address("unix", _parse_path(text))
    match = _TCP.fullmatch(text)
    if match is None:
        raise BadValueError(f"expected tcp://HOST:PORT or unix:PATH, got {shown(text)}", _ADDRESS_EXAMPLE)
    bracketed, plain, port = match.groups()
    host = parse_host(plain if bracketed is None else bracketed, is_bracketed=bracketed is not None)
    return Address("tcp", host, parse_port(port))


def _parse_path(text: str) -> str:
    path = text.removeprefix("unix:")
    path = path.removeprefix("//") if path.startswith("///") else path
    if path.startswith("@"):
        raise BadValueError("abstract unix sockets are not supported yet", "write the path of a file")
    if not path or path.endswith("/") or path.rpartition("/")[2] in {".", ".."}:
        raise BadValueError(f"expected the path of a socket, got {shown(text)}", "write unix:run/web.sock")
    if path.startswith("//"):
        raise BadValueError(f"expected unix:PATH, got {shown(text)}", "write unix:PATH, with one slash or none")
    return path


def parse_host(text: str, *, is_bracketed: bool) -> str:
    """
    An IP address as it is written shortest.

    Raises:
        BadValueError: It is none, or one that means different things on different links.
    """
    if text == "localhost" and not is_bracketed:
        return "127.0.0.1"
    if text in {"", "*"}:
        raise BadValueError("expected an address", "write 0.0.0.0 for every IPv4 address, or [::] for every address")
    if "%" in text:
        raise BadValueError("addresses with a zone are not supported yet", "write [::] for every address")
    try:
        host: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        hint = "write an address of this machine, localhost, or 0.0.0.0 or [::] for all; names are not looked up"
        raise BadValueError(f"expected an IP address, got {shown(text)}", hint) from None
    if isinstance(host, IPv6Address):
        if not is_bracketed:
            raise BadValueError(f"expected brackets around an IPv6 address, got {shown(text)}", f"write [{text}]")
        return str(host.ipv4_mapped or host)
    if is_bracketed:
        raise BadValueError(f"expected an IPv6 address in brackets, got {shown(text)}", f"write {text} without them")
    return str(host)


def parse_port(text: str | None) -> int:
    """
    A port that can be asked for.

    Raises:
        BadValueError: It is none.
    """
    if not text:
        raise BadValueError("expected a port after the host", _ADDRESS_EXAMPLE)
    if not (text.isdecimal() and text.isascii()) or len(text) > 5 or not 1 <= int(text) <= _PORT_MAX:
        raise BadValueError(f"expected a port from 1 to {_PORT_MAX}, got {shown(text)}")
    return int(text)


def settle_paths(place: Place, sockets: tuple[Socket, ...], base_dir: str) -> tuple[Socket, ...]:
    """The same with absolute paths; what is too long for the system is noted."""
    found = []
    for socket in sockets:
        address = socket.address
        if address.kind == "unix":
            path = normpath(address.host if isabs(address.host) else join(base_dir, address.host))
            address = replace(address, host=path)
            if (size := len(path.encode())) > UNIX_PATH_MAX:
                message = f"the path of a socket has at most {UNIX_PATH_MAX} bytes, {shown(path)} has {size}"
                place.refuse(
                    message, "write a shorter path, such as unix:/run/NAME.sock", below=("listen", socket.name)
                )
        found.append(replace(socket, address=address))
    return tuple(found)


# ---- what services have to share -------------------------------------------------------------------------------------


def listen_problems(services: Mapping[str, ServiceSpec], http: Address | None = None) -> Iterator[Problem]:
    """
    Addresses that only one of two sockets can have, and ports of workers at which a socket listens already.

    Args:
        services: By name.
        http: Where the daemon itself listens.
    """
    owners: dict[tuple[str, int, str], list[tuple[str, Address]]] = {}
    if http is not None:
        owners[http.kind, http.port, ""] = [(DAEMON_HTTP, http)]
    for name, service in services.items():
        for socket in service.listen:
            address, what = socket.address, f"listen.{socket.name} of {name}"
            key = (address.kind, address.port, address.host if address.kind == "unix" else "")
            path: Path = ("services", name, "listen", socket.name)
            clash = next((one for one in owners.get(key, ()) if one[1].overlaps(address)), None)
            if clash is not None:
                at = "" if clash[1] == address else f" at {clash[1]}"
                hint = "[::] takes IPv4 too" if "::" in {clash[1].host, address.host} and at else ""
                yield Problem(path, f"{address} is taken by {clash[0]}{at}", hint)
            owners.setdefault(key, []).append((what, address))
    yield from _port_clashes(services, owners)


def _port_clashes(
    services: Mapping[str, ServiceSpec], owners: Mapping[tuple[str, int, str], list[tuple[str, Address]]]
) -> Iterator[Problem]:
    """A worker's own port is one on loopback, where it is asked whether it is ready."""
    said: set[Path] = set()
    for name, service in services.items() if owners else ():
        for index, port, below in service.ports(1):
            loopback = Address("tcp", "127.0.0.1", port)
            clash = next((one for one in owners.get(("tcp", port, ""), ()) if one[1].overlaps(loopback)), None)
            path: Path = ("services", name, *below)
            if clash is not None and path not in said:
                said.add(path)
                hint = "a worker finds its sockets open already; leave port out, or give it another one"
                hint = "" if clash[0] == DAEMON_HTTP else hint
                yield Problem(path, f"worker {name}/{index} would get port {port}, which is {clash[0]}", hint)
