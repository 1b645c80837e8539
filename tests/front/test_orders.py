"""start, stop, restart and scale: what a request may say, what the command line makes of it, and what is completed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from supervisor.cli.commands import cli
from supervisor.errors import ProblemsError
from supervisor.front.client import AnswerError, Client
from supervisor.front.orders import read_counts, read_targets
from tests.e2e.harness import ROOT
from tests.front.fakes import FakeFace, Served, a_status, a_worker, served

PEER = {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def daemon(control: Path) -> Iterator[Served]:
    status = a_status(a_worker("llm/0"), a_worker("llm/1", "stopped", reason="held"), a_worker("web/0"))
    with served(FakeFace(status), control) as daemon:
        yield daemon


def call(control: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, [words[0], "--socket", str(control), *words[1:]], catch_exceptions=False)


# ---- what a request says --------------------------------------------------------------------------------------------


def test_targets_come_from_query_and_body() -> None:
    """Each once, in their order."""
    assert read_targets([("target", "llm"), ("target", "web/1")], b"") == ("llm", "web/1")
    assert read_targets([("target", "llm")], b'{"targets": ["web/1", "llm"]}') == ("llm", "web/1")


def test_counts_come_from_query_and_body() -> None:
    """As numbers."""
    assert read_counts([("target", "llm=4")], b'{"targets": {"web": 0}}') == {"llm": 4, "web": 0}


@pytest.mark.parametrize(
    ("query", "body", "count"),
    [
        ([], b"", 1),
        ([("target", "")], b"", 1),
        ([("tarqet", "llm"), ("x", "1")], b"{", 3),
        ([], b'{"targets": "llm"}', 1),
        ([], b'{"targets": [1], "y": 2}', 2),
        ([], b"[" * 60_000, 1),
    ],
)
def test_every_problem_of_a_request_is_said(query: list[tuple[str, str]], body: bytes, count: int) -> None:
    """All at once."""
    with pytest.raises(ProblemsError) as refused:
        read_targets(query, body)

    assert len(refused.value.lines) == count


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ([], b""),
        ([("target", "llm")], b""),
        ([("target", "llm=-1")], b""),
        ([("target", "llm=1"), ("target", "llm=2")], b""),
        ([], b'{"targets": {"llm": true}}'),
        ([], b'{"targets": {"llm": 1.5}}'),
        ([], b'{"targets": ["llm=1"]}'),
    ],
)
def test_bad_counts_are_refused(query: list[tuple[str, str]], body: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(ProblemsError):
        read_counts(query, body)


# ---- over the socket ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_an_order_is_given_and_logged_with_who_asked(control: Path, daemon: Served, verb: str) -> None:
    """The answer shows those that it is about, as they are now."""
    answer = Client(control).post(f"/v1/{verb}", body={"targets": ["llm/1", "web"]})

    assert [("log", f"{verb} llm/1 web", PEER), (verb, ("llm/1", "web"))] == daemon.face.asked
    assert [[one["worker"] for one in service["workers"]] for service in answer["services"]] == [["llm/1"], ["web/0"]]


def test_all_names_are_checked_before_anything_is_done(control: Path, daemon: Served) -> None:
    """404 with each that is not there."""
    with pytest.raises(AnswerError) as refused:
        Client(control).post("/v1/stop", body={"targets": ["llm", "lm", "web/7"]})

    assert refused.value.status == 404
    assert refused.value.problems == ('there is no service "lm"', 'there is no worker "web/7"')
    assert daemon.face.asked == []


def test_counts_that_the_file_refuses_are_400(control: Path, daemon: Served) -> None:
    """With every problem."""
    daemon.face.scale_problems = ("one", "two")

    with pytest.raises(AnswerError) as refused:
        Client(control).post("/v1/scale", {"target": "llm=9"})

    assert (refused.value.status, refused.value.problems) == (400, ("one", "two"))


def test_a_daemon_that_stops_takes_no_orders(control: Path, daemon: Served) -> None:
    """409: nothing will come of it."""
    daemon.face.shown = a_status(a_worker("llm/0"), state="stopping")

    with pytest.raises(AnswerError) as refused:
        Client(control).post("/v1/start", body={"targets": ["llm"]})

    assert refused.value.status == 409
    assert daemon.face.asked == []


def test_a_body_beyond_the_bound_is_413(control: Path, daemon: Served) -> None:
    """As for every route."""
    with pytest.raises(AnswerError) as refused:
        Client(control).post("/v1/stop", body={"targets": ["x" * 70_000]})

    assert refused.value.status == 413


# ---- the command line -----------------------------------------------------------------------------------------------


def test_stop_says_what_each_worker_is_in(control: Path, daemon: Served) -> None:
    """One line each, exit 0."""
    result = call(control, "stop", "llm")

    assert (result.exit_code, result.stdout) == (0, "llm/0 ready\nllm/1 stopped (held)\n")


def test_an_unknown_name_is_2_and_nothing_is_done(control: Path, daemon: Served) -> None:
    """Also beside one that is there."""
    result = call(control, "restart", "llm", "nope")

    assert result.exit_code == 2
    assert result.stderr.startswith('cannot restart llm nope: there is no service "nope"\nhint: ')
    assert daemon.face.asked == []


def test_restart_says_who_stays_down(control: Path, daemon: Served) -> None:
    """On standard error: it is no failure."""
    result = call(control, "restart", "llm")

    assert result.exit_code == 0
    assert result.stderr == "hint: held down, `start` lets run: llm/1\n"


def test_orders_as_json_stand_alone(control: Path, daemon: Served) -> None:
    """The daemon's answer."""
    result = call(control, "start", "web", "--json")

    assert json.loads(result.stdout)["services"][0]["name"] == "web"


def test_scale_takes_several_services(control: Path, daemon: Served) -> None:
    """And says what holds for how long."""
    result = call(control, "scale", "llm=2", "web=1")

    assert result.exit_code == 0
    assert ("scale", {"llm": 2, "web": 1}) in daemon.face.asked
    assert result.stdout == "llm: 2 workers, as the file says\nweb: 1 worker, as the file says\n"


@pytest.mark.parametrize("words", [("llm",), ("llm=x",), ("=3",), ("llm=-1",), ("llm=1", "llm=2"), ()])
def test_bad_counts_are_2(control: Path, daemon: Served, words: tuple[str, ...]) -> None:
    """Before the daemon is asked."""
    result = call(control, "scale", *words)

    assert result.exit_code == 2
    assert result.stderr.startswith("cannot understand the command line: ")
    assert daemon.face.asked == []


def test_schema_is_json() -> None:
    """For a file that editors are pointed to."""
    result = CliRunner().invoke(cli, ["schema"], catch_exceptions=False)

    assert json.loads(result.stdout)["required"] == ["services"]


# ---- completion -----------------------------------------------------------------------------------------------------


def completed(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What the program offers a shell for the last of the words."""
    line = {"COMP_WORDS": " ".join(("gpu-supervisor", *words)), "COMP_CWORD": str(len(words))}
    given: dict[str, Any] = {**os.environ, **line, "_GPU_SUPERVISOR_COMPLETE": "bash_complete", **env}
    command = [sys.executable, "-m", "supervisor"]
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=60, check=False)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    """It asks the program by a variable of its own."""
    result = CliRunner().invoke(cli, ["completion", shell], catch_exceptions=False)

    assert result.exit_code == 0
    assert f"_GPU_SUPERVISOR_COMPLETE={shell}_complete" in result.stdout
    assert "gpu-supervisor" in result.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("sto",), {"stop"}),
        (("stop", ""), {"llm", "web"}),
        (("stop", "llm/"), {"llm/0", "llm/1"}),
        (("stop", "llm", ""), {"web"}),
        (("scale", "l"), {"llm=2"}),
        (("status", "w"), {"web"}),
    ],
)
def test_names_are_completed_from_the_daemon(
    control: Path, daemon: Served, words: tuple[str, ...], offered: set[str]
) -> None:
    """Services, workers of a service that is written out, counts."""
    done = completed(*words, GPU_SUPERVISOR_SOCKET=str(control))

    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_with_what_is_printed_for_it(control: Path, daemon: Served, tmp_path: Path) -> None:
    """The script in a real bash, the program by its name."""
    program = tmp_path / "gpu-supervisor"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m supervisor "$@"\n')
    program.chmod(0o755)
    script = """
eval "$(gpu-supervisor completion bash)"
COMP_WORDS=(gpu-supervisor logs llm/0 w); COMP_CWORD=3
_gpu_supervisor_completion gpu-supervisor
echo "${COMPREPLY[@]}"
"""
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "GPU_SUPERVISOR_SOCKET": str(control), "PYTHONPATH": str(ROOT)}

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60, check=False)

    assert (done.stdout, done.stderr) == ("web\n", "")


def test_completion_without_a_daemon_is_silent(control: Path) -> None:
    """Nothing is offered and nothing is said."""
    done = completed("stop", "", GPU_SUPERVISOR_SOCKET=str(control))

    assert (done.stdout.strip(), done.stderr) == ("", "")
