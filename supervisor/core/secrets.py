"""
Which values of a worker's environment are secrets, and texts without them. Values in, values out.

What a worker or its probe says of its end is kept, shown and sent on; a token that is part of it must not be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.core.message import (
    BecameUnready,
    Exited,
    LivenessLost,
    ProgressTold,
    SpawnFailed,
    StopCommandEnded,
)

if TYPE_CHECKING:
    from supervisor.core.message import Event

SHOWN = "***"

SECRET_WORDS = frozenset(
    {
        "apikey",
        "auth",
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "dsn",
        "key",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "pw",
        "secret",
        "secrets",
        "token",
    }
)
"""A variable with one of these in its name holds a secret."""

PLACE_WORDS = frozenset({"dir", "file", "path"})
"""One whose name ends so says only where it is."""

SECRET_MIN = 6
"""A shorter value is no secret worth the name, and stands in too many other words."""

_WORDS = re.compile(r"[^a-z0-9]+")
_IN_URL = re.compile(r"://[^/@\s:]*:([^@\s/]+)@")


def secrets_of(env: Mapping[str, str]) -> tuple[str, ...]:
    """Values that are not to be seen, longest first: passwords in URLs, and what its name calls a secret."""
    found: set[str] = set()
    for name, value in env.items():
        words = _WORDS.split(name.lower())
        if SECRET_WORDS.intersection(words) and words[-1] not in PLACE_WORDS:
            found.update(line.strip() for line in value.splitlines())
        found.update(_IN_URL.findall(value))
    return tuple(sorted((one for one in found if len(one) >= SECRET_MIN), key=lambda one: (-len(one), one)))


def without(text: str, secrets: tuple[str, ...]) -> str:
    """A text in which nobody reads them."""
    for one in secrets:
        text = text.replace(one, SHOWN)
    return text


def hushed(event: Event, secrets: tuple[str, ...]) -> Event:
    """An event of a worker, whose words are without its secrets."""
    match event:
        case Exited(tail=tail) if tail:
            return replace(event, tail=tuple(without(line, secrets) for line in tail))
        case BecameUnready(detail=detail) | LivenessLost(detail=detail) | SpawnFailed(detail=detail):
            return replace(event, detail=without(detail, secrets))
        case StopCommandEnded(fault=fault):
            return replace(event, fault=without(fault, secrets))
        case ProgressTold(text=text):
            return replace(event, text=without(text, secrets))
        case _:
            return event
