"""
What is wrong with a service file: problems with their place, and the walk over a document that collects them all.

Knows nothing of any key's meaning, nor of lines and columns.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

Path = tuple[str | int, ...]
"""Keys and list indices from the top of the document down to a value."""

T = TypeVar("T")

_HINTED_MAX = 100  # Unknown keys of one service beyond these get no hint: likeness takes a millisecond each.


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One thing that is wrong.

    Args:
        path: Where, from the top of the document. It may name a key that is missing.
        message: What, lower case, no full stop.
        hint: What to do about it, or empty.
        at_key: Whether the key is to blame (unknown, not supported) and not its value.
    """

    path: Path
    message: str
    hint: str = ""
    at_key: bool = False


class SpecError(Exception):
    """A document that is no good service file, with every problem of it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{show_path(problem.path)}: {problem.message}" for problem in problems))
        self.problems = problems


class BadValueError(ValueError):
    """A single value that its reader refuses. Its place is known one step further out."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Place:
    """A value of the document, where it stands, and the list that takes what is wrong with it."""

    value: object
    path: Path
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, message: str, hint: str = "", *, below: Path = (), at_key: bool = False) -> None:
        """Note a problem with this value, or with what stands *below* it."""
        self.problems.append(Problem((*self.path, *below), message, hint, at_key))

    def child(self, key: str | int, value: object) -> Place:
        """Where *value* stands, under *key* of this one."""
        return Place(value, (*self.path, key), self.problems)

    def read(self, reader: Callable[[object], T]) -> T | None:
        """The value as *reader* understands it; None, and a problem noted, if it refuses."""
        try:
            return reader(self.value)
        except BadValueError as error:
            self.refuse(str(error), error.hint)
            return None

    def as_map(self, example: str = "") -> Mapping[str, object]:
        """The value as a map. Nothing (an empty ``env:``) is an empty one; anything else is refused and empty too."""
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            self.refuse(f"expected a map, got {shown(self.value)}", f"write {example}" if example else "")
            return {}
        for key in self.value:
            if not isinstance(key, str):
                self.refuse(f"keys are strings, got {shown(key)}", "quote it", at_key=True)
        return {key: value for key, value in self.value.items() if isinstance(key, str)}

    def items(self, example: str) -> list[Place]:
        """The places of a list's items; empty, and a problem noted, if the value is no list."""
        if not isinstance(self.value, list | tuple):
            self.refuse(f"expected a list, got {shown(self.value)}", f"write {example}")
            return []
        return [self.child(index, item) for index, item in enumerate(self.value)]


Reader = Callable[[Place], object]
"""Reads one value; None means that it noted a problem and there is no value."""


@dataclass(frozen=True, slots=True)
class Section:
    """
    The keys that a map of the file may have.

    Args:
        keys: What reads each of them.
        not_yet: Keys that the contract has and this version has not.
        elsewhere: Hints for keys that people put here by mistake.
        example: What to write, for who wrote no map.
    """

    keys: Mapping[str, Reader]
    not_yet: frozenset[str] = frozenset()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    example: str = ""


def read_section(place: Place, section: Section) -> dict[str, object]:
    """The good values of a map by key. Keys starting with ``x-`` are anybody's; what is wrong is noted."""
    good = {}
    for key, value in place.as_map(section.example).items():
        if key.startswith("x-"):
            continue
        if key in section.keys:
            read = section.keys[key](place.child(key, value))
            if read is not None:
                good[key] = read
        elif key in section.not_yet:
            place.refuse(f"{key} is not supported yet", below=(key,), at_key=True)
        else:
            known = (*section.keys, *section.not_yet) if len(place.problems) < _HINTED_MAX else ()
            hint = section.elsewhere.get(key) or nearest(key, known)
            place.refuse(f"unknown key {shown(key)}", hint, below=(key,), at_key=True)
    return good


def leaf(reader: Callable[[object], object]) -> Reader:
    """A reader of a single value as one of places."""
    return lambda place: place.read(reader)


def choice(*words: str) -> Callable[[object], str]:
    """A reader of one word out of *words*."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise BadValueError(f"expected {show_words(words)}, got {shown(value)}", hint)

    return read


def whole_number(low: int, high: int, expected: str = "") -> Callable[[object], int]:
    """A reader of whole numbers from *low* to *high*; a whole float (``2.0``) is one."""
    expected = expected or f"a whole number from {low} to {high}"

    def read(value: object) -> int:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else low - 1
        if not low <= number <= high or number != int(number):
            hint = "write it without quotes" if isinstance(value, str) and value.isdecimal() else ""
            raise BadValueError(f"expected {expected}, got {shown(value)}", hint)
        return int(number)

    return read


def parse_bool(value: object) -> bool:
    """True or false, as YAML spells them."""
    if not isinstance(value, bool):
        raise BadValueError(f"expected true or false, got {shown(value)}")
    return value


def as_text(value: object) -> str:
    """A scalar as the string that a process gets. Booleans and null have no one spelling and are refused."""
    if value is None:
        raise BadValueError("expected a string, got nothing", 'write "" for an empty string')
    if isinstance(value, bool):
        raise BadValueError(f"expected a string, got the boolean {shown(value)}", f'quote it: "{shown(value)}"')
    if not isinstance(value, str | int | float):
        raise BadValueError(f"expected a string, got {shown(value)}")
    if "\0" in (text := str(value)):
        raise BadValueError("a NUL character cannot be passed to a process")
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word that is most like this one, or nothing."""
    match = difflib.get_close_matches(word[:100], list(known), n=1)
    return f"did you mean {match[0]}?" if match else ""


def show_words(words: tuple[str, ...]) -> str:
    """``a, b or c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: object) -> str:
    """A value for a message: short, on one line, in the words of YAML rather than Python's."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = repr(value[:61]) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[0] if isinstance(value, str) else ''}"


def map_or_empty(value: object) -> Mapping[str, object]:
    """A map as it was written, for whoever asks only what is in it; anything else has nothing in it."""
    return value if isinstance(value, Mapping) else {}


def show_path(path: Path) -> str:
    """``services.llm.workers[0].gpu``; whatever is in a key, it stays on one line."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isprintable() and len(part) <= 60 else shown(part)
            text += f".{name}" if text else name
    return text
