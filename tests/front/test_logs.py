from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from supervisor.cli.logs import Asked, read_since, show
from supervisor.errors import CannotError
from supervisor.front.client import AnswerError, Client
from tests.front.fakes import SINCE, FakeFace, Json, a_status, a_worker, served

NOW = datetime(2026, 11, 20, 10, 5, 0, tzinfo=UTC)


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
    assert show(Client(control), Asked(("llm",), 5), is_json=False) == 0

    assert capsys.readouterr().out == "llm/0  | one \x1b[1m\nllm/10 | t\x00wo\u2028\n"
    assert face.asked == [("logs", "llm", 5, None, False)]


def test_one_worker_needs_no_name_and_json_is_one_object_a_line(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For pipes and for programs."""
    show(Client(control), Asked(("llm/0",), 5), is_json=False)
    assert capsys.readouterr().out == "one \x1b[1m\nt\x00wo\u2028\n"

    show(Client(control), Asked(("llm",), 5), is_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert lines[0] == {"worker": "llm/0", "incarnation": 3, "at": SINCE, "line": "one \x1b[1m"}
    assert len(lines) == 2


def test_several_are_picked_out_of_all_with_their_names(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Services and workers side by side; a name that is not there is one for all of them."""
    face.shown = a_status(a_worker("llm/0"), a_worker("llm/10"), a_worker("web/0"), a_worker("web/1"))
    names = ("llm/0", "web/0", "llm/10", "web/1")
    face.told = ({"lines": [said(number, name, "x") for number, name in enumerate(names)]},)

    assert show(Client(control), Asked(("web", "llm/10")), is_json=False) == 0
    assert capsys.readouterr().out == "web/0  | x\nllm/10 | x\nweb/1  | x\n"
    assert face.asked == [("logs", None, 100, None, False)]

    with pytest.raises(CannotError, match='there is no service "wbe"; there is no worker "llm/3"') as caught:
        show(Client(control), Asked(("wbe", "llm/3")), is_json=False)
    assert caught.value.exit_code == 2


def test_on_a_terminal_each_name_has_its_colour_and_no_line_colours_the_next(
    face: FakeFace, control: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a worker leaves open is closed behind its line."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    face.told = ({"lines": [said(1, "llm/0", "\x1b[31mred"), said(2, "llm/10", "plain")]},)

    show(Client(control), Asked(()), is_json=False)

    assert capsys.readouterr().out == ("\x1b[36mllm/0  |\x1b[0m \x1b[31mred\x1b[0m\n\x1b[33mllm/10 |\x1b[0m plain\n")


def test_since_leaves_out_what_is_older_and_asks_for_all_that_is_kept(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of the same second is not older."""
    old, new = said(1, "llm/0", "old"), said(2, "llm/0", "new")
    face.told = ({"lines": [{**old, "at": "2026-11-20T09:59:59Z"}, new]},)

    show(Client(control), Asked(("llm/0",), since=read_since("2026-11-20T10:00:00.5Z", NOW)), is_json=False)

    assert capsys.readouterr().out == "new\n"
    assert face.asked == [("logs", "llm/0", 1_000_000, None, False)]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("5m", "2026-11-20T10:00:00+00:00"),
        ("300", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20T12:00:00+02:00", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20", None),
    ],
)
def test_since_is_a_duration_or_a_time(text: str, at: str | None) -> None:
    """A time without a zone is that of the person's own clock."""
    found = read_since(text, NOW)

    assert found == (datetime.fromisoformat(at) if at else datetime.fromisoformat(text).astimezone())


@pytest.mark.parametrize("text", ["", "soon", "10 parsecs", "2026-13-01", "-5m"])
def test_since_that_is_neither_is_a_usage_error(text: str) -> None:
    """With an example of both."""
    with pytest.raises(CannotError, match="expected a duration such as 10m, or a time such as") as caught:
        read_since(text, NOW)

    assert caught.value.exit_code == 2


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

    assert show(Client(control), Asked(("llm/0",), 5, follow=True), is_json=False) == 0

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
