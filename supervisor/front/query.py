"""The parameters of a request as its route has them. Every problem is noted; what they mean is another's business."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from multidict import MultiMapping

from supervisor.core.file.problems import nearest, show_words
from supervisor.core.file.quantities import DURATION_MAX_S
from supervisor.errors import ProblemsError
from supervisor.front.routes import Param

DIGITS_MAX = 18

Values = dict[str, Any]
"""By parameter; None for what is not given."""


class _BadError(ValueError):
    """A value that a parameter does not take."""


def read_query(params: tuple[Param, ...], given: MultiMapping[str]) -> Values:
    """
    What a request says.

    Args:
        params: Of its route.
        given: Its query; parameters nobody asked for are problems too.

    Raises:
        ProblemsError: With everything that is wrong.
    """
    problems: list[str] = []
    values: Values = {param.name: _read(param, given.getall(param.name, []), problems) for param in params}
    for param in params:
        if param.beside and values[param.name] is not None and param.beside not in given:
            beside = next(one for one in params if one.name == param.beside)
            words = show_words(tuple(f"{beside.name}={choice}" for choice in beside.choices))
            problems.append(f"{param.name}: goes with {words}")
    for name in dict.fromkeys(given):
        if name not in values:
            hint = nearest(name, list(values))
            problems.append(f"unknown parameter {_quoted(name)}" + (f"; {hint}" if hint else ""))
    if problems:
        raise ProblemsError(tuple(problems))
    return values


def read_after(query: Values, headers: Mapping[str, str], life: str) -> int | None:
    """
    The number after which a stream of events goes on.

    Args:
        query: Of the request, as read.
        headers: A browser that comes again says there by itself how far it has come.
        life: Of the daemon: of another one's events there are none any more.

    Raises:
        ProblemsError: The header says nothing that we have ever said.
    """
    mark = query["after"]
    if mark is None and (said := headers.get("Last-Event-ID")):
        if not _is_mark(said):
            raise ProblemsError((f"Last-Event-ID: expected the id of an event, got {_quoted(said)}",))
        mark = said
    if mark is None:
        return None
    of, _, number = mark.rpartition("-")
    return int(number) if of in {"", life} else None


def _read(param: Param, values: list[str], problems: list[str]) -> Any:
    if len(values) > 1:
        problems.append(f"{param.name}: given {len(values)} times")
        return None
    if values and not values[0]:
        problems.append(f"{param.name}: is empty")
        return None
    if not values:
        if param.is_required:
            problems.append(f"{param.name}: {_EXPECTED[param.kind]}")
        return None
    try:
        return _READERS[param.kind](param, values[0])
    except _BadError as error:
        problems.append(f"{param.name}: {error}")
        return None


def _quoted(value: str) -> str:
    return f'"{value[:60]}"'


def _text(_param: Param, value: str) -> str:
    return value


def _worker(_param: Param, value: str) -> str:
    if "/" not in value:
        raise _BadError(_EXPECTED["worker"])
    return value


def _path(_param: Param, value: str) -> str:
    if not value.startswith("/"):
        raise _BadError(f"expected an absolute path, got {_quoted(value)}")
    return value


def _choice(param: Param, value: str) -> str:
    if value not in param.choices:
        raise _BadError(f"expected {show_words(param.choices)}, got {_quoted(value)}")
    return value


def _flag(_param: Param, value: str) -> bool:
    if value not in {"0", "1"}:
        raise _BadError(f"expected 0 or 1, got {_quoted(value)}")
    return value == "1"


def _number(_param: Param, value: str) -> int:
    if not _is_number(value):
        raise _BadError(f"expected a whole number, got {_quoted(value)}")
    return int(value)


def _mark(_param: Param, value: str) -> str:
    if not _is_mark(value):
        raise _BadError(f"expected the id of an event, got {_quoted(value)}")
    return value


def _is_mark(value: str) -> bool:
    """``LIFE-NUMBER``, or a number alone, of this life."""
    life, dash, number = value.rpartition("-")
    return _is_number(number) and bool(dash) == bool(life)


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) <= DIGITS_MAX


def _seconds(_param: Param, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= DURATION_MAX_S:
        raise _BadError(f"expected seconds from 0 to {DURATION_MAX_S:.0f}, got {_quoted(value)}")
    return seconds


_EXPECTED = {"worker": "expected a worker, SERVICE/N"}

_READERS: Mapping[str, Callable[[Param, str], Any]] = {
    "text": _text,
    "worker": _worker,
    "path": _path,
    "choice": _choice,
    "flag": _flag,
    "number": _number,
    "mark": _mark,
    "seconds": _seconds,
}
