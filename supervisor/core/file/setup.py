"""
What the file says of a worker's process beyond its command: whose it is, its limits, its place in the machine's queues.

Pure: names are not looked up and nothing is set here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from supervisor.core.file.problems import BadValueError, Place, Reader, as_text, leaf, nearest, shown, whole_number
from supervisor.core.file.quantities import parse_duration_s, parse_size

UMASK_MAX = 0o777
NICE_MIN, NICE_MAX = -20, 19
OOM_MIN, OOM_MAX = -1000, 1000
NOFILE_MIN = 16
"""Less leaves no room for what a start itself needs."""

_ID_MAX = 2**32 - 2
_LIMIT_MAX = 2**63 - 1
_INFINITY = ("infinity", "unlimited")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,255}\$?", re.ASCII)
_OCTAL = re.compile(r"(?:0o)?([0-7]{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limit:
    """
    A soft and a hard limit.

    Args:
        soft: -1 = none.
        hard: -1 = none; None = as the daemon has it.
    """

    soft: int
    hard: int | None


@dataclass(frozen=True, slots=True)
class Setup:
    """
    How a worker's process differs from one that inherits everything; None = it inherits.

    Args:
        user: Name or number.
        group: Name or number; None beside a user = that user's own.
        umask: As a number.
        limits: By name (``nofile``), sorted.
        nice: -20 to 19, not relative to the daemon's.
        oom_score_adj: -1000 to 1000.
    """

    user: str | None = None
    group: str | None = None
    umask: int | None = None
    limits: tuple[tuple[str, Limit], ...] = ()
    nice: int | None = None
    oom_score_adj: int | None = None


NO_SETUP = Setup()


def _number(value: object) -> int:
    return whole_number(0, _LIMIT_MAX, "a whole number from 0, or infinity")(value)


def _seconds(value: object) -> int:
    return int(parse_duration_s(value))


def _descriptors(value: object) -> int:
    return whole_number(NOFILE_MIN, _LIMIT_MAX, f"a whole number from {NOFILE_MIN}, or infinity")(value)


_LIMITS: Mapping[str, Callable[[object], int]] = {
    **dict.fromkeys(("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack"), parse_size),
    **dict.fromkeys(("locks", "nice", "nproc", "rtprio", "rttime", "sigpending"), _number),
    "cpu": _seconds,
    "nofile": _descriptors,
}
"""Names as ulimits of docker compose has them; systemd's are the same after ``Limit``."""


def read_limits(place: Place) -> tuple[tuple[str, Limit], ...]:
    """Limits by name, each one value for both, ``SOFT:HARD`` or a map."""
    found = {}
    for name, value in place.as_map("limits: {nofile: 65536}").items():
        at = place.child(name, value)
        if name not in _LIMITS:
            plain = name.lower().removeprefix("limit").removeprefix("rlimit_")
            hint = f"did you mean {plain}?" if plain in _LIMITS else nearest(name, _LIMITS)
            at.refuse(f"unknown limit {shown(name)}", hint, at_key=True)
        elif (limit := _read_limit(at, _LIMITS[name])) is not None:
            found[name] = limit
    return tuple(sorted(found.items()))


def _read_limit(place: Place, parse: Callable[[object], int]) -> Limit | None:
    """One limit. A soft one above its hard one is refused."""
    match place.value:
        case Mapping():
            soft, hard = _read_pair(place, parse)
        case str() as text if ":" in text:
            first, _, second = text.partition(":")
            soft, hard = (place.child(part, _scalar(part)).read(_or_infinity(parse)) for part in (first, second))
            if soft is None or hard is None:
                return None
        case _:
            soft = hard = place.read(_or_infinity(parse))
    if soft is None:
        return None
    if hard is not None and hard >= 0 and not 0 <= soft <= hard:
        place.refuse("the soft limit is above the hard one")
        return None
    return Limit(soft, hard)


def _read_pair(place: Place, parse: Callable[[object], int]) -> tuple[int | None, int | None]:
    values: dict[str, int | None] = {}
    for key, value in place.as_map().items():
        if key not in {"soft", "hard"}:
            place.refuse(f"unknown key {shown(key)}", nearest(key, ("soft", "hard")), below=(key,), at_key=True)
        else:
            values[key] = place.child(key, value).read(_or_infinity(parse))
    if "soft" not in place.as_map():
        place.refuse("expected a soft limit", "write {soft: 1024, hard: 4096}, or one value for both")
    return values.get("soft"), values.get("hard")


def _or_infinity(parse: Callable[[object], int]) -> Callable[[object], int]:
    return lambda value: -1 if value in _INFINITY or value == -1 else parse(value)


def _scalar(text: str) -> object:
    return int(text) if text.isdecimal() and len(text) < 20 else text


def _parse_account(kind: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = as_text(value)
        if ":" in text:
            raise BadValueError(f"expected a {kind}, got {shown(value)}", "write user: and group: apart")
        if text.lstrip("-").isdecimal() and not (text.isdecimal() and int(text) <= _ID_MAX):
            raise BadValueError(f"expected a number from 0 to {_ID_MAX}, got {shown(value)}")
        if _ACCOUNT.fullmatch(text) is None:
            raise BadValueError(f"expected the name or number of a {kind}, got {shown(value)}")
        return text

    return parse


def _parse_umask(value: object) -> int:
    # However YAML reads its digits, a umask is octal to everybody who writes one.
    match = _OCTAL.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if match is None or int(match[1], 8) > UMASK_MAX:
        raise BadValueError(f"expected an octal umask from 000 to 777 such as 027, got {shown(value)}")
    return int(match[1], 8)


SETUP_KEYS: Mapping[str, Reader] = {
    "user": leaf(_parse_account("user")),
    "group": leaf(_parse_account("group")),
    "umask": leaf(_parse_umask),
    "limits": read_limits,
    "nice": leaf(whole_number(NICE_MIN, NICE_MAX)),
    "oom_score_adj": leaf(whole_number(OOM_MIN, OOM_MAX)),
}
"""The keys of a service that make its Setup."""
