"""
What an operator's request names: services, workers and counts, from a query or a JSON body.

Knows the words of a request alone; whether there is anything of that name is the caller's question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.core.file.problems import nearest, shown
from supervisor.errors import ProblemsError

_TARGETS = 'expected {"targets": ["llm", "web/1"]}, or target=llm in the query'
_COUNTS = 'expected {"targets": {"llm": 4}}, or target=llm=4 in the query'


def read_targets(query: Iterable[tuple[str, str]], body: bytes) -> tuple[str, ...]:
    """
    Services and workers as they were named, each once.

    Args:
        query: Names and values.
        body: As it came, or empty.

    Raises:
        ProblemsError: With everything that is wrong.
    """
    problems: list[str] = []
    targets: list[str] = [value for _, value in _known(query, problems)]
    given = _targets_of(body, problems, _TARGETS)
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        targets += given
    elif given is not None:
        problems.append(f"targets: {_TARGETS}, got {shown(given)}")
    if "" in targets:
        problems.append("target: is empty")
    if not targets and not problems:
        problems.append(f"nobody is named: {_TARGETS}")
    _raise(problems)
    return tuple(dict.fromkeys(targets))


def read_counts(query: Iterable[tuple[str, str]], body: bytes) -> dict[str, int]:
    """Services and how many workers each is to have; arguments and errors as of `read_targets`."""
    problems: list[str] = []
    pairs: list[tuple[str, object]] = []
    for _, value in _known(query, problems):
        name, _, count = value.rpartition("=")
        pairs.append((name or value, int(count) if name and count.isascii() and count.isdecimal() else value))
    given = _targets_of(body, problems, _COUNTS)
    if isinstance(given, Mapping):
        pairs += given.items()
    elif given is not None:
        problems.append(f"targets: {_COUNTS}, got {shown(given)}")
    counts: dict[str, int] = {}
    for name, wanted in pairs:
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
            problems.append(f"{shown(name)}: expected a number of workers from 0, got {shown(wanted)}")
        elif counts.setdefault(name, wanted) != wanted:
            problems.append(f"{shown(name)}: given {counts[name]} and {wanted}")
    if not pairs and not problems:
        problems.append(f"nobody is named: {_COUNTS}")
    _raise(problems)
    return counts


def _known(query: Iterable[tuple[str, str]], problems: list[str]) -> list[tuple[str, str]]:
    """The targets of a query; anything else in it is a problem."""
    pairs = list(query)
    for name in dict.fromkeys(name for name, _ in pairs if name != "target"):
        hint = nearest(name, ("target",))
        problems.append(f"unknown parameter {shown(name)}" + (f"; {hint}" if hint else ""))
    return [pair for pair in pairs if pair[0] == "target"]


def _targets_of(body: bytes, problems: list[str], expected: str) -> Any:
    """What a body says under `targets`, None if there is no such thing."""
    if not body.strip():
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        problems.append(f"the body is no JSON object: {expected}")
        return None
    problems += [f"unknown key {shown(name)}: {expected}" for name in document if name != "targets"]
    return document.get("targets")


def _raise(problems: list[str]) -> None:
    if problems:
        raise ProblemsError(tuple(problems))
