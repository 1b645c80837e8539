"""`devices quarantine` and `devices release`: what they ask for, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from supervisor.cli.commands import cli
from supervisor.cli.devices import show_openers, show_released
from supervisor.errors import CannotError
from supervisor.front.client import AnswerError, Client
from tests.front.fakes import FakeFace, Served, a_device, a_status, a_worker, served


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def daemon(control: Path) -> Iterator[Served]:
    with served(FakeFace(a_status(a_worker("llm/0"))), control) as daemon:
        yield daemon


def call(control: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["devices", "--socket", str(control), *words], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("quarantine", "3"), ("quarantine", "3", False)),
        (("quarantine", "0", "1", "--reason", "RMA 4711"), ("quarantine", "0,1", False, "RMA 4711")),
        (("release", "0", "GPU-b"), ("release", "0,GPU-b", False)),
        (("release", "GPU-a"), ("release", "GPU-a", False)),
        (("release", "0", "--for-reset"), ("release", "0", True)),
    ],
)
def test_what_is_asked_for(control: Path, daemon: Served, words: tuple[str, ...], asked: object) -> None:
    """By whichever name."""
    result = call(control, *words)

    assert result.exit_code == 0
    assert asked in daemon.face.asked


def test_the_answer_as_json_stands_alone(control: Path, daemon: Served) -> None:
    """As `devices --json`, of that GPU."""
    assert "devices" in json.loads(call(control, "quarantine", "0", "--json").stdout)


def test_a_name_that_is_needed_and_one_that_means_none(control: Path, daemon: Served) -> None:
    """400, and 404 as what the face refuses."""
    with pytest.raises(AnswerError):
        Client(control).post("/v1/devices/quarantine", {})
    daemon.face.broken = CannotError("find the GPU", 'there is no GPU "9"', exit_code=2)

    result = call(control, "quarantine", "9")

    assert (result.exit_code, 'there is no GPU "9"' in result.stderr) == (2, True)


def test_a_reason_is_one_short_line(control: Path, daemon: Served) -> None:
    """It stands in every list from then on."""
    for reason in ("x" * 201, "two\nlines"):
        result = call(control, "quarantine", "0", "--reason", reason)
        assert (result.exit_code, "reason: expected one line of at most 200" in result.stderr) == (1, True)


def test_what_was_not_done_is_a_warning(control: Path, daemon: Served) -> None:
    """A quarantine that the next daemon will not know of is not what was asked for."""
    daemon.face.warnings = ["cannot keep it beyond this daemon: no space left on device"]

    result = call(control, "quarantine", "0", "--json")

    assert (result.exit_code, result.stderr) == (0, f"warning: {daemon.face.warnings[0]}\n")
    assert json.loads(result.stdout)["warnings"] == daemon.face.warnings


@pytest.mark.parametrize(
    ("before", "health", "reason", "line"),
    [
        ("quarantined", "ok", "", "GPU 1 ok, in use again"),
        ("ok", "ok", "", "GPU 1 was not quarantined: it is ok"),
        ("suspect", "ok", "", "GPU 1 was not quarantined: it is ok"),
        ("quarantined", "probing", "XID 79", "GPU 1 probing: looked at once more, and used again if it is well"),
        ("probing", "quarantined", "its canary: x", "GPU 1 quarantined again (its canary: x)"),
        ("lost", "lost", "gone", "GPU 1 lost, used when it is there again (gone)"),
        ("held", "held", "pid 7", "GPU 1 was not quarantined: it is held (pid 7)"),
    ],
)
def test_what_became_of_a_release(before: str, health: str, reason: str, line: str) -> None:
    """Who works there is no news; a reason of last time is none of now."""
    device = a_device(1, health=health, reason=reason, workers=["tp/0"], parent=None)

    assert show_released(device, before) == line


def test_who_has_it_open_is_listed() -> None:
    """Or that nobody has, or that it cannot be told."""
    some = [
        {"pid": 7, "name": "dcgm", "user": "root", "worker": ""},
        {"pid": 8, "name": "x", "user": "", "worker": "a/0"},
    ]

    assert show_openers(some) == ["open: pid 7 (dcgm, root)", "open: pid 8 (a/0)"]
    assert show_openers([]) == ["nobody has it open"]
    assert show_openers(None) == ["who has it open cannot be told: not every process may be looked at"]
