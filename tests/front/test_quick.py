"""`status` without click: which lines it takes, and that it says what the ordinary command says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.cli.commands import cli
from supervisor.cli.quick import _understand, answer
from tests.front.fakes import FakeFace, Served, a_status, a_worker, an_exit, served


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Served]:
    last = an_exit(tail=["out of memory"])
    face = FakeFace(a_status(a_worker("llm/0", "failed", last_exit=last), a_worker("web/0")))
    with served(face, tmp_path / "control.sock") as daemon:
        yield daemon


@pytest.mark.parametrize(
    "line",
    [
        "status",
        "status --json",
        "status llm",
        "status llm/0 --json",
        "--socket {socket} status web",
        "status --socket={socket} --json",
        "status nobody",
        "status llm/7",
    ],
)
def test_it_says_what_the_ordinary_command_says(
    line: str, daemon: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output, standard error and exit status."""
    monkeypatch.setenv("GPU_SUPERVISOR_SOCKET", str(daemon.path))
    words = line.format(socket=daemon.path).split()

    status = answer(words)

    said = capsys.readouterr()
    ordinary = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert (status, said.err) == (ordinary.exit_code, ordinary.stderr)
    if "--json" in words:
        assert json.loads(said.out) == json.loads(ordinary.stdout)
    else:
        # Ages may differ by a second.
        assert [part.split()[:5] for part in said.out.splitlines()] == [
            part.split()[:5] for part in ordinary.stdout.splitlines()
        ]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "version",
        "status --help",
        "status -h",
        "status --wait ready",
        "status --watch",
        "status a b",
        "--json status",
        "status --socket",
        "status --socket a --instance b",
        "status --socket a --socket b",
        "status --nonsense",
        "--instance status",
    ],
)
def test_what_is_not_plain_is_left_to_the_ordinary_command(line: str) -> None:
    """Nothing is done and nothing said."""
    assert answer(line.split()) is None


def test_a_name_may_look_like_the_command() -> None:
    """Once the command has been given, the next word is a name."""
    assert _understand(["status", "status"]) == {"command": "status", "target": "status"}


def test_no_daemon_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its own exit status."""
    assert answer(["status", "--socket", str(tmp_path / "none.sock")]) == 4
    assert capsys.readouterr().err.count("cannot reach the daemon") == 1
