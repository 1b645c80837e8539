from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli.logs import show
from supervisor.errors import CannotError
from supervisor.front.client import AnswerError, Client
from tests.front.fakes import SINCE, FakeFace, Json, a_status, a_worker, served


def said(number: int, worker: str, line: str) -> Json:
    return {"number": number, "worker": worker, "incarnation": 3, "at": SINCE, "line": line}


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def face(control: Path) -> Iterator[FakeFace]:
    face = FakeFace(a_status(a_worker("llm/0"), a_worker("llm/10")))
    face.told = ({"lines": [said(7, "llm/0", "one \x1b[1m")]}, {"lines": [said(9, "llm/10", "t\x00wo\u2028")]})
    with served(face, control):
        yield face


def test_lines_come_as_events_with_their_numbers(face: FakeFace, control: Path) -> None:
    """And the last event says why there are no more."""
    events = list(Client(control).stream("/v1/logs", {"follow": "0"}))

    assert events == [
        (7, "message", {"worker": "llm/0", "incarnation": 3, "at": SINCE, "line": "one \x1b[1m"}),
        (9, "message", {"worker": "llm/10", "incarnation": 3, "at": SINCE, "line": "t\x00wo\u2028"}),
        (None, "end", {"reason": "done"}),
    ]
    assert face.asked == [("logs", None, 100, None, False)]


def test_bad_parameters_and_unknown_names_are_refused(face: FakeFace, control: Path) -> None:
    """400 with every problem, 404."""
    with pytest.raises(AnswerError) as bad:
        list(Client(control).stream("/v1/logs", {"lines": "many", "after": "-1", "follow": "yes"}))
    with pytest.raises(AnswerError) as unknown:
        list(Client(control).stream("/v1/logs", {"target": "lm"}))

    assert (bad.value.status, len(bad.value.problems)) == (400, 3)
    assert (unknown.value.status, unknown.value.exit_code) == (404, 2)
    assert face.asked == []


def test_names_stand_in_one_column_and_lines_as_they_were_written(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal gets the escapes that the worker wrote, as it would have from the worker."""
    assert show(Client(control), "llm", lines=5, follow=False, is_json=False) == 0

    assert capsys.readouterr().out == "llm/0  | one \x1b[1m\nllm/10 | t\x00wo\u2028\n"
    assert face.asked == [("logs", "llm", 5, None, False)]


def test_one_worker_needs_no_name_and_json_is_one_object_a_line(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For pipes and for programs."""
    show(Client(control), "llm/0", lines=5, follow=False, is_json=False)
    assert capsys.readouterr().out == "one \x1b[1m\nt\x00wo\u2028\n"

    show(Client(control), "llm", lines=5, follow=False, is_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert lines[0] == {"worker": "llm/0", "incarnation": 3, "at": SINCE, "line": "one \x1b[1m"}
    assert len(lines) == 2


def test_who_was_too_slow_goes_on_where_it_was(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon lets a slow reader go; it asks again for what came after, and says so."""
    first = face.told
    face.told = (*first, {"end": "slow"})
    turns = 0

    async def logs(target: str | None, *, lines: int, after: int | None, follow: bool):  # type: ignore[no-untyped-def]
        nonlocal turns
        turns += 1
        face.asked.append(after)
        for batch in face.told if turns == 1 else ({"lines": [said(12, "llm/0", "three")]}, {"end": "stopping"}):
            yield batch

    face.logs = logs  # type: ignore[method-assign]

    assert show(Client(control), "llm/0", lines=5, follow=True, is_json=False) == 0

    out = capsys.readouterr()
    assert out.out.endswith("three\n")
    assert "lines may be missing" in out.err
    assert face.asked == [None, 9]


def test_daemon_that_dies_in_the_middle_is_no_end(face: FakeFace, control: Path) -> None:
    """A stream without its last event was cut off: exit 4."""

    async def logs(*_: object, **__: object):  # type: ignore[no-untyped-def]
        yield {"lines": [said(1, "llm/0", "one")]}

    face.logs = logs  # type: ignore[method-assign]

    with pytest.raises(CannotError) as caught:
        list(Client(control).stream("/v1/logs"))

    assert caught.value.exit_code == 4
