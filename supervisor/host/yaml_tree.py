"""
YAML text as plain values that know their lines: one document, safe tags only, bounded.

The only importer of yaml. Works on parser events with a stack of its own, so that no text can exhaust Python's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from supervisor.core.file.problems import BadValueError, Path, shown

NODES_MAX = 100_000  # Aliases written out; a file of a thousand services has a fifth of it.
DEPTH_MAX = 50
_DIGITS_MAX = 300

NUMBERED = frozenset({("health", "xids")})
"""Maps whose keys are numbers to everybody; elsewhere one without quotes is a mistake, as in `env`."""

Mark = tuple[int, int]
"""Line and column, both counted from 1."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is wrong with the text as YAML."""

    mark: Mark
    message: str
    hint: str = ""
    path: Path = ()


@dataclass(slots=True, eq=False)
class Node:
    """
    A value and where it stands.

    Args:
        mark: Where it begins; behind an alias, where the anchor's value begins.
        value: A scalar; for a map its entries by key, for a list its items.
        size: Nodes in it, aliases written out.
        height: Levels in it, itself included.
        is_merge: Whether it is the key ``<<``.
    """

    mark: Mark
    value: Any
    size: int = 1
    height: int = 1
    is_merge: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a map, and its value."""

    mark: Mark
    node: Node


class WrittenInt(int):
    """A whole number that prints as it was written, so that ``VERSION: 0x1F`` reaches a process as it stands."""

    text: str

    def __str__(self) -> str:
        return self.text


class WrittenFloat(float):
    """A number that prints as it was written: ``PYTHON: 3.10`` is not 3.1."""

    text: str

    def __str__(self) -> str:
        return self.text


class _AbandonedError(Exception):
    """No use reading on; the flaw is noted."""


@dataclass(slots=True)
class _Open:
    """A map or list whose end has not come yet."""

    node: Node
    key: Node | None = None
    merges: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class _Builder:
    """Makes a tree of events. Everything that a person can put right is noted, and the reading goes on."""

    flaws: list[Flaw] = field(default_factory=list)
    root: Node | None = None
    _stack: list[_Open] = field(default_factory=list)
    _anchors: dict[str, Node] = field(default_factory=dict)
    _open_ids: set[int] = field(default_factory=set)
    _nodes: int = 0
    _documents: int = 0

    def take(self, event: yaml.Event) -> None:
        """The next event of the parser."""
        mark = _mark_of(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._abandon(mark, "expected one document, got another one", "remove the line ---")
            case yaml.AliasEvent():
                self._add(self._behind_alias(mark, event.anchor))
            case yaml.ScalarEvent():
                self._add(self._begin(event, mark, self._scalar(event, mark)))
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                is_map = isinstance(event, yaml.MappingStartEvent)
                if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if is_map else 'seq'}"):
                    self._refuse_tag(mark, event.tag)
                self._stack.append(_Open(node := self._begin(event, mark, {} if is_map else [])))
                self._open_ids.add(id(node))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._pop()

    def _begin(self, event: yaml.NodeEvent, mark: Mark, value: object) -> Node:
        is_merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and _is_plain(event)
        node = Node(mark, value, is_merge=is_merge)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._count(mark, 1, height=1)
        return node

    def _pop(self) -> None:
        closed = self._stack.pop()
        self._open_ids.discard(id(closed.node))
        for merge in closed.merges:
            self._merge(closed.node, merge)
        self._add(closed.node)

    def _add(self, node: Node) -> None:
        """Put a finished node where it belongs."""
        if not self._stack:
            self.root = node
            return
        parent = self._stack[-1]
        parent.node.size += node.size
        parent.node.height = max(parent.node.height, node.height + 1)
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            self._add_entry(parent, parent.key, node)
            parent.key = None

    def _add_entry(self, parent: _Open, key: Node, node: Node) -> None:
        entries: dict[str, Entry] = parent.node.value
        if key.is_merge:
            if parent.merges:
                self._note(key.mark, "duplicate key <<", "write one: <<: [*first, *second]")
            parent.merges.append(node)
        elif isinstance(key.value, WrittenInt) and tuple(self._path())[:-1] in NUMBERED:
            self._add_entry(parent, Node(key.mark, key.value.text), node)
        elif not isinstance(key.value, str):
            got = "nothing" if key.value is None else shown(key.value)
            self._note(key.mark, f"keys are strings, got {got}", "quote it")
        elif key.value in entries:
            first = entries[key.value].mark[0]
            self._note(key.mark, f"duplicate key {shown(key.value)}; the first is in line {first}")
        else:
            entries[key.value] = Entry(key.mark, node)

    def _merge(self, node: Node, source: Node) -> None:
        """``<<``: entries that the map itself does not have; of several sources the first one counts."""
        sources = source.value if isinstance(source.value, list) else [source]
        for each in sources:
            if isinstance(each.value, dict):
                for key, entry in each.value.items():
                    node.value.setdefault(key, entry)
            else:
                self._note(source.mark, "<< takes a map or a list of maps", "write <<: *anchor")

    def _behind_alias(self, mark: Mark, name: str | None) -> Node:
        node = self._anchors.get(name or "")
        if node is None:
            self._abandon(mark, f"unknown alias {shown(name)}", "its anchor (&) has to stand before it")
        if id(node) in self._open_ids:
            self._abandon(mark, f"alias {shown(name)} stands inside of what it names")
        self._count(mark, node.size, height=node.height)
        return node

    def _count(self, mark: Mark, size: int, *, height: int) -> None:
        self._nodes += size
        if self._nodes > NODES_MAX:
            self._abandon(mark, f"more than {NODES_MAX} values, aliases written out")
        if len(self._stack) + height > DEPTH_MAX:
            self._abandon(mark, f"nested deeper than {DEPTH_MAX} levels")

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> object:
        try:
            event.value.encode()  # An escape can write half of a surrogate pair, which no file name or variable takes.
            return _resolve(event)
        except UnicodeEncodeError:
            self._note(mark, "an escape stands for half a character", "write the character itself")
        except BadValueError as error:
            self._note(mark, str(error), error.hint)
        except KeyError:
            self._refuse_tag(mark, event.tag)
        return ""

    def _refuse_tag(self, mark: Mark, tag: str | None) -> None:
        self._note(mark, f"unknown tag {shown(tag)}", "remove it")

    def _note(self, mark: Mark, message: str, hint: str = "") -> None:
        self.flaws.append(Flaw(mark, message, hint, tuple(self._path())))

    def _path(self) -> Iterator[str | int]:
        """Where the value goes that is being read."""
        for each in self._stack:
            if isinstance(each.node.value, list):
                yield len(each.node.value)
            elif each.key is not None:
                yield each.key.value if isinstance(each.key.value, str) else shown(each.key.value)

    def _abandon(self, mark: Mark, message: str, hint: str = "") -> NoReturn:
        self._note(mark, message, hint)
        raise _AbandonedError


def read_tree(text: str) -> tuple[Node | None, list[Flaw]]:
    """
    The one document of a text.

    Args:
        text: YAML 1.2 core schema, with anchors, aliases and merge keys.

    Returns:
        Its root, None if there is none to go on with, and what is wrong.
    """
    builder = _Builder()
    try:
        for event in _events(text):
            builder.take(event)
    except _AbandonedError:
        return None, builder.flaws
    except yaml.MarkedYAMLError as error:
        return None, [*builder.flaws, _syntax_flaw(error, text)]
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # The parser in Python lets chr() raise.
        return None, [*builder.flaws, Flaw((1, 1), f"no YAML: {shown(str(error))}")]
    return builder.root, builder.flaws


def plain(node: Node) -> object:
    """The values alone: dicts, lists and scalars. What aliases share is shared."""
    done: dict[int, object] = {}

    def convert(node: Node) -> object:
        if id(node) not in done:
            if isinstance(node.value, dict):
                done[id(node)] = {key: convert(entry.node) for key, entry in node.value.items()}
            elif isinstance(node.value, list):
                done[id(node)] = [convert(item) for item in node.value]
            else:
                done[id(node)] = node.value
        return done[id(node)]

    return convert(node)


def mark_of(root: Node, path: Path, *, at_key: bool = False) -> Mark:
    """
    Where a value stands.

    Args:
        root: The document.
        path: Keys and indices. Where it leads to nothing, the last key that exists counts.
        at_key: The key's place is asked and not the value's.
    """
    node, key_mark = root, root.mark
    for part in path:
        if isinstance(node.value, dict) and isinstance(part, str) and part in node.value:
            entry = node.value[part]
            key_mark, node = entry.mark, entry.node
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            key_mark = node.mark
        else:
            return key_mark
    return key_mark if at_key else node.mark


# ---- scalars ---------------------------------------------------------------------------------------------------------

# YAML 1.2's core schema. PyYAML knows 1.1, in which NO is false, 1:30 is 90, 0755 is 493 and 10:00.0 (a PCI address)
# is 600: everybody who wrote that in a service file meant the text.
_NULL = re.compile(r"|~|null|Null|NULL", re.ASCII)
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE", re.ASCII)
# Without leading zeros, which 1.1 reads as octal and 1.2 does not: such a thing stays text and is no number anywhere.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)

_CORE = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}


def _is_plain(event: yaml.ScalarEvent) -> bool:
    return event.tag is None and bool(event.implicit[0])


def _resolve(event: yaml.ScalarEvent) -> object:
    """The value of a scalar. KeyError: an unknown tag."""
    if event.tag is None or event.tag in ("!", f"{_CORE}str"):
        return _core_value(event.value) if _is_plain(event) else event.value
    kinds = _TAGGED[event.tag.removeprefix(_CORE)]
    value = _core_value(event.value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise BadValueError(f"{shown(event.value)} is not what its tag says", "remove the tag")
    return value


def _core_value(text: str) -> object:
    if _NULL.fullmatch(text):
        return None
    if match := _BOOL.fullmatch(text):
        return match[1] is not None
    if len(text) > _DIGITS_MAX and (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
        raise BadValueError(f"a number of {len(text)} digits", "quote it if it is text")
    if _INT.fullmatch(text):
        number = WrittenInt(int(text, 0))
        number.text = text
        return number
    if _FLOAT.fullmatch(text) or _SPECIAL_FLOAT.fullmatch(text):
        real = WrittenFloat(text.replace(".", "", 1) if _SPECIAL_FLOAT.fullmatch(text) else text)
        real.text = text
        return real
    return text


# ---- the parser ------------------------------------------------------------------------------------------------------


def _events(text: str) -> Iterator[yaml.Event]:
    """Parsed by libyaml where PyYAML was built with it: some 10 x as fast, which a reload of a large file feels."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.parse(text, Loader=loader)


def _mark_of(mark: Any) -> Mark:
    return mark.line + 1, mark.column + 1


def _syntax_flaw(error: yaml.MarkedYAMLError, text: str) -> Flaw:
    mark = error.problem_mark or error.context_mark
    line, column = _mark_of(mark) if mark else (1, 1)
    lines = text.split("\n")
    rest = lines[line - 1][column - 1 :] if line <= len(lines) else ""
    if rest.startswith("\t"):
        return Flaw((line, column), "a tab where YAML wants spaces", "indent with spaces")
    if rest[:1] in ("@", "`", "%"):
        return Flaw((line, column), f"a value cannot begin with {rest[0]}", "quote it")
    hint = "quote a value that has ': ' in it" if "mapping values are not allowed" in (error.problem or "") else ""
    return Flaw((line, column), f"no YAML: {error.problem or error.context}", hint)
