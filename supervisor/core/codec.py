"""
Values of the core as JSON and back, by the types of their fields. Knows no class by name; a new one needs nothing here.

What comes back is built of the classes that a type names and of nothing else, so a file of a stranger's can be read.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cached_property
from inspect import get_annotations
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from supervisor.core.file.listen import Address
from supervisor.core.file.service import WorkerId

Hook = Callable[[Any], Any]
"""What is written in place of a value."""


class CodecError(ValueError):
    """JSON that no value of the type was written as."""


@dataclass(frozen=True, slots=True)
class Coder:
    """How values of one type are written and read; *suits* tells them from those of the other members of a union."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    suits: Callable[[Any], bool]


class Codec:
    """
    Coders by type.

    Args:
        names: What names stand for in types that only type checkers have imported.
        hooks: Class and field -> what is written in place of its value.
        shared: Classes of which a `Pool` writes equal values only once.
    """

    def __init__(
        self,
        names: Mapping[str, Any],
        hooks: Mapping[tuple[type, str], Hook] | None = None,
        shared: Collection[type] = (),
    ) -> None:
        self.names = dict(names)
        self.hooks = dict(hooks or {})
        self.pool: Pool | None = None
        self._shared = frozenset(shared)
        self._coders: dict[Any, Coder] = {}
        self._structures: dict[type, _Structure] = {}

    def encode(self, hint: Any, value: Any) -> Any:
        """A value as what `json.dumps` takes."""
        return self.coder(hint).encode(value)

    def decode(self, hint: Any, raw: Any) -> Any:
        """
        The value that was written so.

        Raises:
            CodecError: None was.
        """
        try:
            return self.coder(hint).decode(raw)
        except RecursionError:
            raise CodecError("it is nested too deeply") from None

    def coder(self, hint: Any) -> Coder:
        """How values of a type are written and read."""
        found = self._coders.get(hint)
        if found is None:
            found = self._coders[hint] = self._make(hint)
        return found

    def shape(self, *hints: Any) -> tuple[str, ...]:
        """Every class that values of these types are made of, with its fields and their types, sorted."""
        for hint in hints:
            self.coder(hint)
        seen: set[type] = set()
        while rest := [one for cls, one in list(self._structures.items()) if cls not in seen]:
            for one in rest:
                seen.add(one.cls)
                _ = one.fields
        return tuple(sorted(one.shape for one in self._structures.values()))

    def structure(self, cls: type) -> _Structure:
        """How values of a class are written."""
        if cls not in self._structures:
            self._structures[cls] = _Structure(self, cls)
        return self._structures[cls]

    def _make(self, hint: Any) -> Coder:  # noqa: C901, PLR0912 - One case for each kind of type.
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is object or hint is Any:
            return Coder(_same, _same, _always)
        if hint is None or hint is type(None):
            return _scalar(type(None))
        if hint in {bool, int, str}:
            return _scalar(hint)
        if hint is float:
            return Coder(_same, _number, lambda value: type(value) in {float, int})
        if hint is WorkerId:
            return Coder(str, _worker_id, lambda value: isinstance(value, WorkerId))
        if hint is Address:
            return Coder(str, _address, lambda value: isinstance(value, Address))
        if origin is Literal:
            return Coder(_same, _one_of(arguments), lambda value: value in arguments)
        if origin in {Union, types.UnionType}:
            return _union(self, arguments)
        if origin is tuple:
            return _tuple(self, arguments)
        if origin is frozenset:
            return _set(self, arguments[0])
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return _mapping(self, *arguments)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return Coder(lambda value: value.value, _member(hint), lambda value: isinstance(value, hint))
        if isinstance(hint, type) and _is_structure(hint):
            return self._class(hint)
        raise TypeError(f"no coder for {hint}")

    def _class(self, cls: type) -> Coder:
        structure = self.structure(cls)
        if cls not in self._shared:
            return Coder(structure.encode, structure.decode, lambda value: type(value) is cls)

        def encode(value: Any) -> Any:
            return structure.encode(value) if self.pool is None else self.pool.put(cls, value, structure.encode)

        def decode(raw: Any) -> Any:
            return structure.decode(raw) if self.pool is None else self.pool.take(cls, raw)

        return Coder(encode, decode, lambda value: type(value) is cls)


class Pool:
    """
    Values that many others share, each written once, under its number.

    What is shared may share something in turn: that has a lower number.
    """

    def __init__(self) -> None:
        self.fresh: list[dict[str, Any]] = []
        """Written since somebody last took them away from here, in the order of their numbers."""
        self._numbers: dict[tuple[type, Any], int] = {}
        self._values: list[Any] = []

    def put(self, cls: type, value: Any, encode: Callable[[Any], Any]) -> int:
        """The number of a value."""
        number = self._numbers.get((cls, value))
        if number is None:
            raw = encode(value)
            number = self._numbers[cls, value] = len(self._numbers)
            self.fresh.append({cls.__name__: raw})
        return number

    def add(self, codec: Codec, raw: Any, classes: Mapping[str, type]) -> None:
        """Take over what was written; to be called in the order of the numbers."""
        name, inner = _only_item(raw)
        cls = classes.get(name)
        if cls is None:
            raise CodecError(f"{name!r} is nothing that is shared")
        self._values.append(codec.structure(cls).decode(inner))

    def take(self, cls: type, raw: Any) -> Any:
        """The value of a number."""
        if type(raw) is not int or not 0 <= raw < len(self._values) or type(self._values[raw]) is not cls:
            raise CodecError(f"{raw!r} is the number of no {cls.__name__}")
        return self._values[raw]


class _Structure:
    """A dataclass or a pydantic model: an object of its fields, without those that have their default."""

    def __init__(self, codec: Codec, cls: type) -> None:
        self.cls = cls
        self._codec = codec

    @cached_property
    def fields(self) -> tuple[tuple[str, Coder, Callable[[Any], Any], Any], ...]:
        """Name, coder, what encodes it, default; made late, since a class may be a part of itself."""
        made = []
        for name, hint, default in self._declared():
            coder = self._codec.coder(hint)
            hook = self._codec.hooks.get((self.cls, name))
            made.append((name, coder, _hooked(coder, hook) if hook else coder.encode, default))
        return tuple(made)

    @property
    def shape(self) -> str:
        """The class with its fields and their types, as they are written: Python itself shows a type in many ways."""
        written = {name: hint for base in self.cls.__mro__ for name, hint in get_annotations(base).items()}
        return f"{self.cls.__name__}({', '.join(f'{name}: {written[name]}' for name, *_ in self.fields)})"

    def _declared(self) -> list[tuple[str, Any, Any]]:
        if issubclass(self.cls, BaseModel):
            return [
                (name, one.annotation, MISSING if one.is_required() else one.get_default(call_default_factory=True))
                for name, one in self.cls.model_fields.items()
            ]
        hints = get_type_hints(self.cls, localns=self._codec.names)
        found = []
        for one in fields(self.cls):  # type: ignore[arg-type]
            if one.init:
                default = one.default_factory() if one.default_factory is not MISSING else one.default
                found.append((one.name, hints[one.name], default))
        return found

    def encode(self, value: Any) -> dict[str, Any]:
        found = {}
        for name, _, encode, default in self.fields:
            one = getattr(value, name)
            if one is default or (type(one) is type(default) and one == default):
                continue
            found[name] = one if encode is _same else encode(one)
        return found

    def decode(self, raw: Any) -> Any:
        if type(raw) is not dict:
            raise CodecError(f"expected the fields of a {self.cls.__name__}, got {raw!r:.60}")
        known = {name: coder for name, coder, _, _ in self.fields}
        if unknown := raw.keys() - known.keys():
            raise CodecError(f"a {self.cls.__name__} has no {', '.join(sorted(unknown))}")
        values = {name: known[name].decode(one) for name, one in raw.items()}
        try:
            return self.cls.model_validate(values) if issubclass(self.cls, BaseModel) else self.cls(**values)
        except (TypeError, ValueError) as error:
            raise CodecError(f"this is no {self.cls.__name__}: {error}") from None


def _hooked(coder: Coder, hook: Hook) -> Callable[[Any], Any]:
    return lambda value: coder.encode(hook(value))


def _is_structure(cls: type) -> bool:
    return is_dataclass(cls) or issubclass(cls, BaseModel)


# ---- kinds of types -------------------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


def _always(_value: Any) -> bool:
    return True


def _scalar(cls: type) -> Coder:
    def decode(raw: Any) -> Any:
        if type(raw) is not cls:
            raise CodecError(f"expected {cls.__name__}, got {raw!r:.60}")
        return raw

    # An Enum that is a str stands in a field of str as the text that it is.
    return Coder(_same, decode, lambda value: isinstance(value, cls) and (cls is not int or type(value) is not bool))


def _number(raw: Any) -> Any:
    if type(raw) not in {float, int}:
        raise CodecError(f"expected a number, got {raw!r:.60}")
    return raw


def _worker_id(raw: Any) -> WorkerId:
    try:
        return WorkerId.parse(raw)
    except (TypeError, ValueError):
        raise CodecError(f"expected SERVICE/N, got {raw!r:.60}") from None


def _address(raw: Any) -> Address:
    try:
        return Address.parse(raw)
    except (TypeError, ValueError):
        raise CodecError(f"expected an address, got {raw!r:.60}") from None


def _one_of(values: tuple[Any, ...]) -> Callable[[Any], Any]:
    def decode(raw: Any) -> Any:
        if raw not in values:
            raise CodecError(f"expected one of {', '.join(map(str, values))}, got {raw!r:.60}")
        return raw

    return decode


def _member(cls: type[Enum]) -> Callable[[Any], Any]:
    def decode(raw: Any) -> Any:
        try:
            return cls(raw)
        except ValueError:
            raise CodecError(f"{raw!r:.60} is no {cls.__name__}") from None

    return decode


def _tuple(codec: Codec, arguments: tuple[Any, ...]) -> Coder:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        inner = codec.coder(arguments[0])
        encode, decode = inner.encode, inner.decode
        return Coder(
            lambda value: list(map(encode, value)),
            lambda raw: tuple(map(decode, _list(raw))),
            lambda value: isinstance(value, tuple),
        )
    coders = tuple(map(codec.coder, arguments))

    def decode_each(raw: Any) -> Any:
        if len(_list(raw)) != len(coders):
            raise CodecError(f"expected {len(coders)} values, got {len(raw)}")
        return tuple(coder.decode(one) for coder, one in zip(coders, raw, strict=True))

    return Coder(
        lambda value: [coder.encode(one) for coder, one in zip(coders, value, strict=True)],
        decode_each,
        lambda value: isinstance(value, tuple),
    )


def _set(codec: Codec, hint: Any) -> Coder:
    inner = codec.coder(hint)
    return Coder(
        lambda value: [inner.encode(one) for one in sorted(value)],
        lambda raw: frozenset(map(inner.decode, _list(raw))),
        lambda value: isinstance(value, frozenset),
    )


def _mapping(codec: Codec, key_hint: Any, value_hint: Any) -> Coder:
    """Its keys are texts, or written as such; the order stays, since somebody may go by it."""
    key, inner = codec.coder(key_hint), codec.coder(value_hint)

    def decode(raw: Any) -> Any:
        if type(raw) is not dict:
            raise CodecError(f"expected an object, got {raw!r:.60}")
        return {key.decode(name): inner.decode(one) for name, one in raw.items()}

    return Coder(
        lambda value: {key.encode(name): inner.encode(one) for name, one in value.items()},
        decode,
        lambda value: isinstance(value, Mapping),
    )


def _union(codec: Codec, members: tuple[Any, ...]) -> Coder:
    """Where several classes may stand, the name says which; else the kind of JSON does."""
    coders = {member: codec.coder(member) for member in members}
    classes = {one.__name__: coders[one] for one in members if isinstance(one, type) and _is_tagged(one)}
    others = [coder for member, coder in coders.items() if coder not in classes.values()]
    is_tagged = len(classes) > 1 or any(not _is_tagged(member) for member in members if member is not type(None))
    by_type = {member: coder for member, coder in coders.items() if isinstance(member, type)}

    def encode(value: Any) -> Any:
        coder = by_type.get(type(value)) or next((one for one in coders.values() if one.suits(value)), None)
        if coder is None:
            raise TypeError(f"{value!r} is of no type of {members}")
        if is_tagged and type(value).__name__ in classes:
            return {type(value).__name__: coder.encode(value)}
        return coder.encode(value)

    def decode(raw: Any) -> Any:
        for coder in others:
            try:
                return coder.decode(raw)
            except CodecError:
                continue
        if not is_tagged and classes:
            return next(iter(classes.values())).decode(raw)
        name, inner = _only_item(raw)
        if name not in classes:
            raise CodecError(f"{name!r:.60} is not known here")
        return classes[name].decode(inner)

    return Coder(encode, decode, lambda value: any(one.suits(value) for one in coders.values()))


def _is_tagged(hint: Any) -> bool:
    return isinstance(hint, type) and hint not in {WorkerId, Address} and _is_structure(hint)


def _only_item(raw: Any) -> tuple[str, Any]:
    if type(raw) is not dict or len(raw) != 1:
        raise CodecError(f"expected an object with one name, got {raw!r:.60}")
    return next(iter(raw.items()))


def _list(raw: Any) -> list[Any]:
    if type(raw) is not list:
        raise CodecError(f"expected a list, got {raw!r:.60}")
    return raw
