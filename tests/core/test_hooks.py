"""Who is told what happens, as the file says it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import supervisor
from supervisor.core.file.hooks import EVENTS, NOTICES, STATES, Hook
from supervisor.core.health import TABLE
from supervisor.core.message import State
from supervisor.core.recording import make_codec
from supervisor.core.spec import DaemonSpec, parse_spec
from supervisor.core.veil import Veil
from tests.core.spec_documents import problems_of

CORE = Path(supervisor.__file__).parent / "core"


def hooks(value: object) -> tuple[Hook, ...]:
    return parse_spec({"services": {}, "daemon": {"on_event": value}}, base_dir="/").daemon.on_event


def problem(value: object) -> tuple[str, str]:
    """Where, and in which words."""
    ((path, found),) = problems_of({"services": {}, "daemon": {"on_event": value}}).items()
    return path, f"{found.message}; {found.hint}"


def test_a_hook_is_a_command_or_a_url() -> None:
    """In short, with more to say, or several of them."""
    assert hooks("./tell.sh 'a b'") == (Hook(command=("./tell.sh", "a b")),)
    assert hooks(["sh", "-c", "cat | jq"]) == (Hook(command=("sh", "-c", "cat | jq")),)
    assert hooks("https://[::1]:9/x?y=1") == (Hook(url="https://[::1]:9/x?y=1"),)
    full = {"command": ["a"], "events": ["failed", "worker.dirty"], "retries": 0, "timeout": "2s"}
    names = ("worker.failed", "inventory.failed", "daemon.failed", "endpoints.failed", "worker.dirty")
    first = Hook(command=("a",), events=names, retries=0, timeout_s=2.0)
    assert hooks(full) == (first,)
    assert hooks([full, {"url": "http://a/"}]) == (first, Hook(url="http://a/"))
    assert hooks({"url": "http://a"}) == (Hook(url="http://a", retries=3, timeout_s=10.0),)


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ("cat | jq", "", "|"),
        ([], "", "an empty one"),
        ("ftp://a/", "", "an http:// or https:// URL"),
        ("http://me:secret@a/", "", "an http:// or https:// URL"),
        ({}, "", "neither"),
        ({"command": "a", "url": "http://a"}, "", "both"),
        ({"url": "a"}, ".url", "an http:// or https:// URL"),
        ({"command": "a", "events": ["faild"]}, ".events.0", "did you mean"),
        ({"command": "a", "events": ["xyzzy"]}, ".events.0", "there are pending, starting"),
        ({"command": "a", "events": []}, ".events", "leave it out for all"),
        ({"command": "a", "retries": -1}, ".retries", "got -1"),
        ({"command": "a", "timeout": "1h"}, ".timeout", "100ms to 5m"),
        ({"command": "a", "retry": 1}, ".retry", "retries"),
        ([{"command": "a"}] * 17, "", "16 hooks"),
        (3, "", "expected a list"),
    ],
)
def test_what_is_no_hook_is_refused(value: object, path: str, words: str) -> None:
    """With its place, and a hint."""
    where, said = problem(value)

    assert where == f"daemon.on_event{path}"
    assert words in said


def test_every_event_that_there_is_can_be_named() -> None:
    """The states, and everything that the core says beside them."""
    said = {
        node.args[0].value if isinstance(node.args[0], ast.Constant) else ast.unparse(node.args[0])
        for path in CORE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Say"
    }
    either = {"'inventory.read' if is_expected else 'inventory.failed'", "f'device.{after.health}'"}

    assert {*map(str, State), "gone"} == set(STATES)
    assert said - either <= set(NOTICES)
    assert either <= said
    assert {f"device.{health}" for health in TABLE} <= set(NOTICES)
    assert len(set(EVENTS)) == len(EVENTS)


def test_a_url_is_not_recorded() -> None:
    """In its path or query is what lets one post there."""
    written = make_codec(Veil(b"key")).encode(DaemonSpec, DaemonSpec(on_event=(Hook(url="https://a/SECRET"),)))

    assert "SECRET" not in str(written)
    assert "redacted" in str(written)
