"""
The keys by which a worker is asked: `ready` and `alive`, and the URLs in them.

Pure: asks nobody. What a name in a URL stands for is known at the start of a process, so URLs are split twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.core.file.names import names_in
from supervisor.core.file.problems import (
    BadValueError,
    Place,
    Section,
    as_text,
    leaf,
    map_or_empty,
    read_section,
    shown,
)
from supervisor.core.file.quantities import duration, parse_duration_s
from supervisor.core.file.service import Alive, Ready

SHORTEST_S = 0.001  # Of what must not be nothing: a probe's interval of 0 would never rest.
FAILURES_MAX = 1000
READY_KINDS = ("http", "tcp", "exec", "notify", "after")
ALIVE_KINDS = ("http", "tcp", "exec", "notify")

_LAST_PORT = 65535
_HTTP_PORT = 80
_URL = re.compile(r"http://(127(?:\.[0-9]{1,3}){3}|localhost|\[::1\])(?::([0-9]{1,5}))?(/.*)?", re.ASCII)
_PATH = re.compile(r"/[!-~]*", re.ASCII)
_A_PORT = "1"  # Stands for a name in a URL while the file is checked.
_URL_EXAMPLE = "write http: /health, or http://127.0.0.1:9000/health"


@dataclass(frozen=True, slots=True)
class Url:
    """
    What is asked for by HTTP.

    Args:
        host: An address of loopback; empty for the worker's own port.
        port: None for the worker's own.
        path: With its query, as it goes over the wire.
    """

    host: str
    port: int | None
    path: str


def split_url(text: str) -> Url:
    """
    What a path or a URL means, once every ``$(NAME)`` in it is replaced.

    Raises:
        BadValueError: It is neither, or leads off this host.
    """
    text = text.partition("#")[0]
    if text.startswith("/"):
        return Url("", None, _checked_path(text))
    match = _URL.fullmatch(text)
    if match is None:
        message = f"expected a path, or an http:// URL on 127.0.0.1, localhost or [::1], got {shown(text)}"
        hint = "https is not supported" if text.startswith("https:") else _URL_EXAMPLE
        raise BadValueError(message, hint)
    host, port = match[1].strip("[]"), int(match[2] or _HTTP_PORT)
    if not 0 < port <= _LAST_PORT or any(int(part) > 255 for part in host.split(".") if part.isdecimal()):
        raise BadValueError(f"there is no such address: {shown(text)}", _URL_EXAMPLE)
    return Url("127.0.0.1" if host == "localhost" else host, port, _checked_path(match[3] or "/"))


def _checked_path(path: str) -> str:
    if _PATH.fullmatch(path) is None:
        raise BadValueError(f"expected a path of printable ASCII without spaces, got {shown(path)}", "write %20")
    return path


def _parse_http(value: object) -> str:
    text = as_text(value)
    whole = text
    for name in names_in(text):
        whole = whole.replace(f"$({name})", _A_PORT)
    split_url(whole)
    return text


def read_argv(place: Place) -> tuple[str, ...] | None:
    """A command that is run beside the worker; no shell is."""
    if isinstance(place.value, str):
        place.refuse("expected a list, no shell is run", "write exec: [sh, -c, '...']")
        return None
    words = [item.read(as_text) for item in place.items("exec: [./check.sh, --fast]")]
    if isinstance(place.value, list | tuple) and (not words or words[0] == ""):
        place.refuse("expected a command, got an empty one")
        return None
    return tuple(word for word in words if word is not None) or None


def _parse_true(value: object) -> bool:
    if value is not True:
        raise BadValueError(f"expected true, got {shown(value)}", "leave it out" if value is False else "write true")
    return True


def _parse_failures(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= FAILURES_MAX:
        raise BadValueError(f"expected a whole number from 1 to {FAILURES_MAX}, got {shown(value)}")
    return value


def read_ready(place: Place) -> Ready:
    """When a worker is ready. Without a word on how it is ``after`` until the port is known."""
    good = read_section(place, READY)
    written = map_or_empty(place.value)
    kind = _kind(place, written, READY_KINDS) or "after"
    ready = Ready.model_validate(_without_flags(good) | {"kind": kind})
    is_timeout_good = "timeout" in good or "timeout" not in written
    if kind == "after" and "after" in good and is_timeout_good and ready.after_s >= ready.timeout_s:
        place.refuse("expected less than timeout, after which the start has failed", below=("after",))
    return ready


def read_alive(place: Place) -> Alive:
    """How one sees that a worker lives on."""
    good = read_section(place, ALIVE)
    written = map_or_empty(place.value)
    kind = _kind(place, written, ALIVE_KINDS)
    if kind is None and written and place.path[:1] != ("defaults",):
        place.refuse("expected one of http, tcp, exec and notify, got none", ALIVE.example)
    if kind == "notify" and "timeout" in written:
        message = "there is no timeout beside notify: a sign of life is due every interval x failures"
        place.refuse(message, "leave it out", below=("timeout",), at_key=True)
    return Alive.model_validate(_without_flags(good) | {"kind": kind or "off"})


def _kind(place: Place, written: Mapping[str, object], kinds: tuple[str, ...]) -> str | None:
    """The one way of asking that is written; None, and a problem noted, where there are several."""
    found = [kind for kind in kinds if kind in written]
    if len(found) > 1:
        place.refuse(f"expected one of {' and '.join(found)}, got {'both' if len(found) == 2 else 'all of them'}")
    return found[0] if found else None


def _without_flags(good: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in good.items() if key not in {"tcp", "notify"}}


READY = Section(
    keys={
        "http": leaf(_parse_http),
        "tcp": leaf(_parse_true),
        "exec": read_argv,
        "notify": leaf(_parse_true),
        "after": leaf(parse_duration_s),
        "timeout": leaf(duration(SHORTEST_S)),
        "interval": leaf(duration(SHORTEST_S)),
    },
    elsewhere={"failures": "a worker that was ready is unready after three failures", "path": "write http: /health"},
    example="ready: {http: /health} or ready: {after: 5s}",
)
ALIVE = Section(
    keys={
        "http": leaf(_parse_http),
        "tcp": leaf(_parse_true),
        "exec": read_argv,
        "notify": leaf(_parse_true),
        "interval": leaf(duration(SHORTEST_S)),
        "timeout": leaf(duration(SHORTEST_S)),
        "failures": leaf(_parse_failures),
    },
    elsewhere={"after": "it begins with the first ready"},
    example="alive: {http: /health}",
)
