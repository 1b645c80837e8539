"""Values of the core as JSON and back: every class of the language, whatever stands in its fields."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from supervisor.core.codec import Codec, CodecError, Pool
from supervisor.core.file.listen import Address
from supervisor.core.file.service import Recipe, Restart, WorkerId
from supervisor.core.message import Action, Event, Exited
from supervisor.core.recording import NAMES, SHARED
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker

CLASSES = [*get_args(Event), *get_args(Action), Worker, Fleet]
TEXT = st.text(max_size=5)
WORKER_IDS = st.builds(WorkerId, st.from_regex(r"[a-z0-9][a-z0-9_-]{0,5}", fullmatch=True), st.integers(0, 9999))
ADDRESSES = st.builds(lambda port: Address("tcp", "::1", port), st.integers(1, 65535)) | st.builds(
    lambda path: Address("unix", f"/{path}"), TEXT
)
SCALARS: Mapping[Any, st.SearchStrategy[Any]] = {
    object: st.recursive(st.none() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=2), max_leaves=3),
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(),
    str: TEXT,
    float: st.floats(allow_nan=False),
    WorkerId: WORKER_IDS,
    Address: ADDRESSES,
}


def values_of(hint: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Any value of a type, made without the codec."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in {Union, types.UnionType}:
        # What is a part of itself comes to an end.
        some = [one for one in arguments if one is type(None)] if depth > 2 else list(arguments)
        return st.one_of(*(values_of(one, depth) for one in some or arguments))
    few = 0 if depth > 2 else 2
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(values_of(arguments[0], depth + 1), max_size=few).map(tuple)
    if origin is tuple:
        return st.tuples(*(values_of(one, depth + 1) for one in arguments))
    if origin is frozenset:
        return st.frozensets(values_of(arguments[0], depth + 1), max_size=few)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = (values_of(one, depth + 1) for one in arguments)
        keys = key.filter(lambda one: "/" not in one if isinstance(one, str) else True)
        return st.dictionaries(keys, value, max_size=few)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    return st.deferred(lambda: objects_of(hint, depth + 1))


def objects_of(cls: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Any object of a class; each field may have its default."""
    if issubclass(cls, BaseModel):
        hints = {name: one.annotation for name, one in cls.model_fields.items()}
        made = {name: values_of(hint, depth) for name, hint in hints.items()}
        return st.fixed_dictionaries({}, optional=made).map(
            lambda values: cls.model_validate({"command": ("x",), **values} if "command" in made else values)
        )
    hints = get_type_hints(cls, localns=dict(NAMES))
    return st.fixed_dictionaries({one.name: values_of(hints[one.name], depth) for one in fields(cls) if one.init}).map(
        lambda values: cls(**values)
    )


def there_and_back(codec: Codec, hint: Any, value: Any) -> Any:
    return codec.decode(hint, json.loads(json.dumps(codec.encode(hint, value))))


@pytest.mark.slow
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_is_written_comes_back(cls: type) -> None:
    """Events, actions, and the fleet with all that is in it."""
    codec = Codec(NAMES)
    hint = Event if cls in get_args(Event) else Action if cls in get_args(Action) else cls

    @settings(max_examples=10, deadline=None, database=None)
    @given(objects_of(cls))
    def check(value: Any) -> None:
        assert there_and_back(codec, hint, value) == value

    check()


def test_what_has_its_default_is_left_out() -> None:
    exited = Exited(WorkerId("llm", 0), 1, 0, None)

    assert Codec(NAMES).encode(Event, exited) == {
        "Exited": {"worker": "llm/0", "incarnation": 1, "code": 0, "signal": None}
    }


def test_a_number_is_no_truth() -> None:
    """0 and False are equal, and not the same."""

    @dataclass(frozen=True)
    class Mixed:
        one: int | bool = 0

    assert there_and_back(Codec({}), Mixed, Mixed(one=False)).one is False


def test_a_class_may_be_a_part_of_itself() -> None:
    policy = Restart(on=(("exit", Restart(limit=3)),))

    assert there_and_back(Codec(NAMES), Restart, policy) == policy


def test_what_is_shared_is_written_once() -> None:
    codec = Codec(NAMES, shared=SHARED)
    codec.pool = Pool()
    recipes = tuple(Recipe(command=("x",)) for _ in range(3))

    written = codec.encode(tuple[Recipe, ...], recipes)

    assert written == [0, 0, 0]
    assert codec.pool.fresh == [{"Recipe": {"command": ["x"]}}]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        3,
        "Spawned",
        {},
        {"Spawned": {}},
        {"Spawned": {}, "Exited": {}},
        {"Popen": {"args": ["true"]}},
        {"Spawned": {"worker": "llm", "incarnation": 1, "pid": 2}},
        {"Spawned": {"worker": "llm/0", "incarnation": True, "pid": 2}},
        {"Spawned": {"worker": "llm/0", "incarnation": 1, "pid": 2, "more": 1}},
        {"TimePassed": {"workers": {"llm/0": 1}}},
        {"InventoryRead": {"reading": {"state": "fine"}, "asked_at": 1.0}},
        {"SpecLoaded": {"spec": {"services": {"a": {"workers": "many"}}}}},
        {"ScaleRequested": {"counts": {"a": "b"}}},
        {"DevicesFreed": {"uuids": "GPU-1"}},
    ],
)
def test_what_nobody_wrote_is_refused(raw: object) -> None:
    """Only classes of the language are made, and only of what their fields may be."""
    with pytest.raises(CodecError):
        Codec(NAMES).decode(Event, raw)


def test_depth_is_no_way_to_break_it() -> None:
    raw: Any = {"limit": 1}
    for _ in range(5000):
        raw = {"on": [["exit", raw]]}

    with pytest.raises(CodecError):
        Codec(NAMES).decode(Restart, raw)


def test_every_class_of_the_language_can_be_written() -> None:
    """A field of a type for which there is no way fails here, and not in a daemon."""
    shape = Codec(NAMES).shape(Event, Action, Fleet)

    named = {one.partition("(")[0] for one in shape}
    assert named >= {cls.__name__ for cls in CLASSES} | {"Recipe", "Device", "ServiceSpec", "Host", "RestartAt"}
