"""
The keys `daemon.http` and `daemon.http_token_file`: where the API listens beside its unix socket, and who may use it.

Pure: nothing is bound or read here.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any

from supervisor.core.file.listen import Address, parse_host, parse_port
from supervisor.core.file.problems import BadValueError, Place, as_text, shown

TOKEN_MAX_BYTES = 4096
TOKEN_MIN_LENGTH = 16
"""A shorter one can be guessed over a network; nobody is refused for it, but told."""

_EXAMPLE = 'write 127.0.0.1:9400, "[::1]:9400", or 0.0.0.0:9400 with http_token_file'
_WRITTEN = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):([^:]*)", re.ASCII)
_TOKEN = re.compile(rb"[\x21-\x7e]+")


def parse_http(value: object) -> Address:
    """
    Where the API listens.

    Raises:
        BadValueError: It is no address of TCP, or one that somebody would have to be asked for.
    """
    if isinstance(value, list | tuple):
        raise BadValueError("expected an address, got a list", 'quote it: "[::1]:9400"')
    if isinstance(value, int) and not isinstance(value, bool):
        raise BadValueError(f"expected an address and a port, got {value}", _EXAMPLE)
    text = as_text(value)
    match = _WRITTEN.fullmatch(text)
    if match is None or "://" in text:
        raise BadValueError(f"expected HOST:PORT, got {shown(text)}", _EXAMPLE)
    bracketed, plain, port = match.groups()
    host = parse_host(plain if bracketed is None else bracketed, is_bracketed=bracketed is not None)
    return Address("tcp", host, parse_port(port))


def is_loopback(address: Address) -> bool:
    """Whether nobody can reach it from another machine."""
    return ip_address(address.host).is_loopback


def settle_http(place: Place, good: dict[str, Any], base_dir: str) -> dict[str, Any]:
    """
    What the two keys say together.

    Args:
        place: Of `daemon`; problems are noted there.
        good: What could be read of it.
        base_dir: Absolute; where the token file's path begins.
    """
    address, file = good.get("http"), good.get("http_token_file")
    if isinstance(file, str):
        good = good | {"http_token_file": str(PurePosixPath(base_dir, file))}
        if "http" not in place.as_map():
            place.refuse("it says nothing without http", "write http: 127.0.0.1:9400", below=("http_token_file",))
    elif isinstance(address, Address) and not is_loopback(address):
        words = f"others reach {show_http(address)} over the network, so it needs http_token_file"
        place.refuse(words, "name a file with a secret token, or write 127.0.0.1", below=("http",))
    return good


def show_http(address: Address) -> str:
    """``127.0.0.1:9400``, ``[::1]:9400``."""
    return str(address).removeprefix("tcp://")


def parse_token(content: bytes) -> bytes:
    """
    The token of a file: its one line.

    Raises:
        BadValueError: There is none that could stand in a header.
    """
    token = content.strip()
    if not token:
        raise BadValueError("the file is empty", "openssl rand -hex 32 >FILE makes a token")
    if _TOKEN.fullmatch(token) is None:
        raise BadValueError("expected one line of ASCII without blanks", "openssl rand -hex 32 >FILE makes a token")
    return token
