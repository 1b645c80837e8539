"""The command line: within this process for what it says, as a process of its own for how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from supervisor.cli.commands import cli
from supervisor.cli.grammar import GROUPS, NOT_YET
from supervisor.errors import CannotError, ProblemsError
from tests.front.fakes import (
    PATIENCE_S,
    FakeFace,
    Served,
    a_device,
    a_row,
    a_status,
    a_worker,
    an_exit,
    canned,
    http_answer,
    served,
)

GOOD = "services:\n  llm: {command: sleep 100, workers: 2}\n  web: {command: [sh, -c, exit]}\n"


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def daemon(control: Path) -> Iterator[Served]:
    with served(FakeFace(a_status(a_worker("llm/0"), a_worker("llm/1"), a_worker("web/0"))), control) as daemon:
        yield daemon


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(GOOD)
    return path


def call(control: Path, *words: str, env: dict[str, str] | None = None) -> Result:
    """A command to the daemon at a socket."""
    return CliRunner().invoke(cli, [words[0], "--socket", str(control), *words[1:]], env=env, catch_exceptions=False)


def tell(*words: str, env: dict[str, str] | None = None) -> Result:
    """A command to no daemon."""
    return CliRunner().invoke(cli, words, env=env, catch_exceptions=False)


def process(*words: str, **more: Any) -> subprocess.Popen[str]:
    """A command as a process of its own, with signals as a shell in the foreground has them."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # What is started in the background ignores SIGINT, and so does all that comes of it.
    command = ["env", "--default-signal", sys.executable, "-m", "supervisor", *words]
    return subprocess.Popen(command, **{**pipes, **more})


def outcome(*words: str, **more: Any) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of such a process."""
    with process(*words, **more) as running:
        out, err = running.communicate(timeout=60)
    return running.returncode, out, err


# ---- status ---------------------------------------------------------------------------------------------------------


def test_status_shows_workers_and_is_0_when_all_is_well(control: Path, daemon: Served) -> None:
    """A line for each worker."""
    result = call(control, "status")

    assert result.exit_code == 0
    assert {"llm/0", "llm/1", "web/0"} <= {line.split()[0] for line in result.stdout.splitlines() if line}


@pytest.mark.parametrize(
    ("state", "code"),
    [("ready", 0), ("stopped", 0), ("exited", 0), ("failed", 3), ("unready", 3), ("pending", 3), ("backoff", 3)],
)
def test_status_is_3_unless_each_worker_is_ready_stopped_or_done(
    control: Path, daemon: Served, state: str, code: int
) -> None:
    """One worker that is not decides."""
    daemon.face.shown = a_status(a_worker("llm/0"), a_worker("llm/1", state))

    assert call(control, "status").exit_code == code


def test_status_as_json_is_the_daemons_answer_alone(control: Path, daemon: Served) -> None:
    """Nothing else is on standard output."""
    result = call(control, "status", "--json")

    assert json.loads(result.stdout) == daemon.face.shown
    assert result.stderr == ""


def test_status_of_a_service_or_worker_is_of_that_alone(control: Path, daemon: Served) -> None:
    """Others are neither shown nor judged."""
    daemon.face.shown = a_status(a_worker("llm/0"), a_worker("llm/1"), a_worker("web/0", "failed"))

    service = call(control, "status", "llm", "--json")
    worker = call(control, "status", "llm/1")

    assert service.exit_code == worker.exit_code == 0
    assert [one["name"] for one in json.loads(service.stdout)["services"]] == ["llm"]
    assert "llm/1" in worker.stdout
    assert "llm/0" not in worker.stdout
    assert call(control, "status", "web").exit_code == 3


def test_status_of_one_worker_has_its_last_words(control: Path, daemon: Served) -> None:
    """The lines that its previous process wrote last, but not in the table of all."""
    last = an_exit(code=3, tail=["CUDA out of memory"])
    daemon.face.shown = a_status(a_worker("llm/0", "backoff", last_exit=last))

    assert "  CUDA out of memory\n" in call(control, "status", "llm/0").stdout
    assert "CUDA out of memory" not in call(control, "status").stdout


@pytest.mark.parametrize(
    ("target", "hint"), [("lm", "did you mean llm?"), ("llm/9", "llm has llm/0 to llm/1"), ("x", "there is llm, web")]
)
def test_status_of_an_unknown_name_is_2_with_what_there_is(
    control: Path, daemon: Served, target: str, hint: str
) -> None:
    """The nearest service, or the workers there are."""
    result = call(control, "status", target)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"cannot show the status of {target}: there is no ")
    assert f"hint: {hint}\n" in result.stderr


def test_status_waits_until_all_are_ready(control: Path, daemon: Served) -> None:
    """It returns with the change that makes it so."""
    daemon.face.shown = a_status(a_worker("llm/0", "starting"))
    results: list[Result] = []
    waiting = threading.Thread(target=lambda: results.append(call(control, "status", "--wait", "ready", "--json")))
    waiting.start()
    daemon.wait_for_waiting()
    daemon.show(a_status(a_worker("llm/0", "ready")))
    waiting.join(PATIENCE_S)

    assert [result.exit_code for result in results] == [0]
    assert json.loads(results[0].stdout) == daemon.face.shown


def test_status_does_not_wait_for_what_has_failed(control: Path, daemon: Served) -> None:
    """3 at once, though another is still starting."""
    daemon.face.shown = a_status(a_worker("llm/0", "starting"), a_worker("llm/1", "failed"))

    result = call(control, "status", "--wait", "ready")

    assert result.exit_code == 3
    assert "llm/1" in result.stdout


def test_status_is_3_when_its_time_is_up(control: Path, daemon: Served) -> None:
    """With the status as it is then; a ready worker is not a stopped one."""
    result = call(control, "status", "--wait", "stopped", "--timeout", "10ms")

    assert result.exit_code == 3
    assert "llm/0" in result.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--timeout", "5s"], "cannot use --timeout: there is nothing to wait for"),
        (["--wait", "ready", "--timeout", "5x"], "cannot use --timeout: expected a duration"),
        (["--wait", "soon"], "cannot understand the command line: '--wait': 'soon' is not one of"),
    ],
)
def test_status_refuses_times_that_mean_nothing(control: Path, words: list[str], error: str) -> None:
    """Usage, before anybody is asked."""
    result = call(control, "status", *words)

    assert result.exit_code == 2
    assert result.stderr.startswith(error)


# ---- which daemon ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "reload", "shutdown"])
def test_without_a_daemon_a_command_is_4_and_says_how_to_start_one(control: Path, command: str) -> None:
    """On standard error, with the path that was tried."""
    result = call(control, command)

    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith("cannot reach the daemon: ")
    assert str(control) in result.stderr
    assert "hint: start one with `gpu-supervisor run FILE`" in result.stderr


def test_the_socket_may_be_named_before_the_command_after_it_or_in_the_environment(
    control: Path, daemon: Served, tmp_path: Path
) -> None:
    """What stands after the command counts most."""
    nobody = str(tmp_path / "nobody.sock")

    assert tell("--socket", str(control), "status").exit_code == 0
    assert tell("status", env={"GPU_SUPERVISOR_SOCKET": str(control)}).exit_code == 0
    assert call(control, "status", env={"GPU_SUPERVISOR_SOCKET": nobody}).exit_code == 0
    assert tell("--socket", nobody, "status", "--socket", str(control)).exit_code == 0
    assert tell("--socket", str(control), "status", "--socket", nobody).exit_code == 4


def test_a_name_that_no_instance_can_have_is_2() -> None:
    """Refused as usage, with the rule."""
    result = tell("status", "--instance", "../x")

    assert result.exit_code == 2
    assert result.stderr.startswith('cannot use instance "../x": ')


# ---- reload and shutdown --------------------------------------------------------------------------------------------


def test_reload_prints_a_line_for_each_worker_it_touches(control: Path, daemon: Served) -> None:
    """The worker and what is done with it."""
    daemon.face.reload_answer = {"ok": True, "problems": [], "difference": {"llm/0": "replace", "web/1": "stop"}}

    result = call(control, "reload")

    assert (result.exit_code, result.stdout) == (0, "llm/0 replace\nweb/1 stop\n")
    assert "settled" not in daemon.face.asked


def test_reload_that_changes_nothing_says_so(control: Path, daemon: Served) -> None:
    """No line for no worker."""
    assert call(control, "reload").stdout == "nothing to do\n"


def test_reload_of_a_bad_file_is_78_with_every_problem_on_stderr(control: Path, daemon: Served) -> None:
    """Nothing is on standard output but for JSON, which has it all."""
    refused = {"ok": False, "problems": ["demo.yaml:1:1: one", "demo.yaml:2:1: two"], "difference": {}}
    daemon.face.reload_answer = refused

    plain, as_json = call(control, "reload"), call(control, "reload", "--wait", "--json")

    assert (plain.exit_code, plain.stdout) == (78, "")
    assert plain.stderr.splitlines()[1:] == refused["problems"]
    assert as_json.exit_code == 78
    assert json.loads(as_json.stdout) == refused


def test_reload_with_wait_is_3_when_it_did_not_roll_out(control: Path, daemon: Served) -> None:
    """The difference on standard output, and why on standard error."""
    daemon.face.reload_answer = {"ok": True, "problems": [], "difference": {"llm/0": "replace"}}
    daemon.face.settled_answer = {"ok": False, "problems": ["llm/0 failed with its new launch"]}

    result = call(control, "reload", "--wait")

    assert (result.exit_code, result.stdout) == (3, "llm/0 replace\n")
    assert result.stderr == "cannot roll the file out: llm/0 failed with its new launch\n"


def test_reload_of_a_daemon_that_stops_is_1(control: Path, daemon: Served) -> None:
    """That is no bad file."""
    daemon.face.shown = a_status(state="stopping")
    daemon.face.reload_answer = {"ok": False, "problems": ["the daemon is stopping"], "difference": {}}

    result = call(control, "reload")

    assert (result.exit_code, result.stderr) == (1, "cannot reload: the daemon is stopping\n")


def test_shutdown_returns_when_the_daemon_is_gone(control: Path, daemon: Served) -> None:
    """Nobody answers any more when it is back."""
    result = call(control, "shutdown")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert call(control, "status").exit_code == 4


def test_shutdown_of_a_systemd_service_says_that_it_may_come_back(control: Path) -> None:
    """Who is not told would take it for a bug."""
    with served(FakeFace(a_status(unit="gpu-supervisor@llm.service")), control):
        result = call(control, "shutdown")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("hint: systemd starts it again if gpu-supervisor@llm.service says so")
    assert "`systemctl stop gpu-supervisor@llm.service`" in result.stderr


# ---- plan and devices -----------------------------------------------------------------------------------------------


def test_plan_asks_the_daemon_with_an_absolute_path(
    control: Path, daemon: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's directory is not that of the person."""
    monkeypatch.chdir(file.parent)

    result = call(control, "plan", file.name, "--json")

    assert (result.exit_code, json.loads(result.stdout)) == (0, daemon.face.plan_answer)
    assert daemon.face.asked == [("plan", str(file))]


def test_explain_asks_for_one_worker(control: Path) -> None:
    """As a page or as JSON; a service alone is a wrong question, with the right one beside it."""
    with served(FakeFace(a_status(a_worker("llm/0"))), control):
        page = call(control, "explain", "llm/0")
        shown = call(control, "explain", "llm/0", "--json")
        service = call(control, "explain", "llm")
        unknown = call(control, "explain", "llm/9")

    assert (page.exit_code, page.stdout.splitlines()[1]) == (0, "asks for 1 GPU")
    assert json.loads(shown.stdout)["worker"] == "llm/0"
    assert (service.exit_code, service.stderr.splitlines()[1]) == (2, "hint: for example: explain llm/0")
    assert (unknown.exit_code, unknown.stderr.count('there is no worker "llm/9"')) == (2, 1)


def test_plan_is_3_when_something_has_no_place(control: Path, daemon: Served, file: Path) -> None:
    """And says what, and why."""
    rows = [a_row("llm/0"), a_row("llm/1", placed=False, action="wait", reason="needs 1 GPU, 0 are free")]
    daemon.face.plan_answer = {"gpu": None, "devices": [a_device()], "workers": rows}

    result = call(control, "plan", str(file))

    assert result.exit_code == 3
    assert "needs 1 GPU, 0 are free" in result.stdout


def test_plan_of_a_bad_file_is_78_with_every_problem(control: Path, daemon: Served, file: Path) -> None:
    """As the daemon found them."""
    daemon.face.plan_answer = ProblemsError(("demo.yaml:1:1: one", "demo.yaml:2:1: two"))

    result = call(control, "plan", str(file))

    assert (result.exit_code, result.stdout) == (78, "")
    assert {"demo.yaml:1:1: one", "demo.yaml:2:1: two"} <= set(result.stderr.splitlines())


def test_plan_that_the_daemon_cannot_make_is_1(control: Path, daemon: Served, file: Path) -> None:
    """With the daemon's own words."""
    daemon.face.plan_answer = CannotError("use the pool", "it is empty", hint="fill it")

    result = call(control, "plan", str(file))

    assert result.exit_code == 1
    assert "it is empty" in result.stderr
    assert "hint: fill it" in result.stderr


def test_devices_are_the_daemons_where_there_is_one(control: Path, daemon: Served) -> None:
    """Its inventory, with who is on each device."""
    daemon.face.shown = a_status(devices=(a_device(workers=["llm/0"]),))

    assert json.loads(call(control, "devices", "--json").stdout) == asyncio.run(daemon.face.devices())
    assert "llm/0" in call(control, "devices").stdout


@pytest.mark.slow
def test_without_a_daemon_plan_and_devices_look_themselves(control: Path, file: Path) -> None:
    """On standard output as ever; on standard error a word that nobody answered where a daemon was named."""
    code, out, err = outcome("plan", str(file), "--json", "--socket", str(control))
    assert (code, {row["worker"] for row in json.loads(out)["workers"]}) == (0, {"llm/0", "llm/1", "web/0"})
    assert "this is the machine as it is without one" in err

    code, out, _ = outcome("devices", "--json", "--socket", str(control))
    assert (code, set(json.loads(out))) == (0, {"gpu", "devices"})


# ---- check and run --------------------------------------------------------------------------------------------------


def test_check_of_a_good_file_counts_what_is_in_it(file: Path) -> None:
    """On standard output, and nothing else anywhere."""
    result = tell("check", str(file))

    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{file}: ok, 2 services, 3 workers\n", "")


def test_check_says_every_problem_and_is_78(file: Path) -> None:
    """Each with its place; standard output stays empty."""
    file.write_text("services:\n  llm: {comand: x}\n  web: {command: x, workers: -1}\n")

    result = tell("check", str(file))

    assert (result.exit_code, result.stdout) == (78, "")
    assert f"{file}:2:" in result.stderr
    assert f"{file}:3:" in result.stderr


def test_check_of_a_file_that_is_not_there_is_78(tmp_path: Path) -> None:
    """Said like every other problem."""
    result = tell("check", str(tmp_path / "none.yaml"))

    assert result.exit_code == 78
    assert "none.yaml:1:1: " in result.stderr


def test_check_does_not_count_what_the_gpus_decide(file: Path) -> None:
    """It asks no device."""
    file.write_text("services:\n  a: {command: sh, workers: per_gpu, resources: {gpu: 1}}\n")

    assert tell("check", str(file)).stdout == f"{file}: ok, 1 service, at least 1 worker, the GPUs decide\n"


@pytest.mark.parametrize(
    ("service", "warning"),
    [
        ("{command: no-such-program}", "services.a.command: warning: command not found: no-such-program"),
        (
            "{command: sh, resources: {gpu: 1, gpu_memory: 99%}}",
            "services.a.resources.gpu_memory: warning: 99% fits on no GPU beside a headroom of 2%: it would wait",
        ),
        ("{command: sh, resources: {cpu: 5000}}", "services.a.resources.cpu: warning: 5000 cores for each worker, and"),
        (
            "{command: sh, workers: [{gpus: [0], gpu: 3}]}",
            "services.a.workers[0].gpu: warning: 3 GPUs for each worker, and gpus names 1: it would wait",
        ),
        (
            "{command: sh, resources: {gpus: [0, 1], gpu: 3}}",
            "services.a.resources.gpu: warning: 3 GPUs for each worker, and gpus names 2: it would wait",
        ),
        (
            "{command: sh, workers: [{cpu: 5000}]}",
            "services.a.workers[0].cpu: warning: 5000 cores for each worker, and",
        ),
        ("{command: ./none}", "services.a.command: warning: command not found: ./none"),
        ("{command: sh, working_dir: /no/such}", "services.a.working_dir: warning: no such directory here: /no/such"),
        ("{command: sh, env: {PATH: /no/such}}", "services.a.command: warning: command not found: sh"),
        ('{command: "sh -c $(NOBODY_SET_THIS)"}', "services.a.command: warning: $(NOBODY_SET_THIS) has no value"),
    ],
)
def test_check_warns_of_what_is_not_here_and_fails_only_when_strict(file: Path, service: str, warning: str) -> None:
    """Another machine, or another environment, may have it."""
    file.write_text(f"services:\n  a: {service}\n")

    lenient, strict = tell("check", str(file)), tell("check", str(file), "--strict")

    assert (lenient.exit_code, lenient.stdout) == (0, f"{file}: ok, 1 service, 1 worker\n")
    assert f"{file}:2:" in lenient.stderr
    assert warning in lenient.stderr
    assert (strict.exit_code, strict.stdout, strict.stderr) == (78, "", lenient.stderr)


@pytest.mark.parametrize(
    ("keys", "warning"),
    [
        ("health: {canary: ./burn --quick}", "2:18: health.canary: warning: command not found: ./burn (on this"),
        ("health: {canary: [no-burn]}", "2:18: health.canary: warning: command not found: no-burn"),
        ("daemon: {on_event: ./tell}", "2:20: daemon.on_event: warning: command not found: ./tell"),
        ("daemon: {on_event: {command: [./tell]}}", "2:30: daemon.on_event.command: warning: command not found: ./t"),
        (
            "daemon: {on_event: [{url: 'http://h/'}, {command: ./tell}]}",
            "2:51: daemon.on_event[1].command: warning: command not found: ./tell",
        ),
        (
            "daemon: {endpoints: {json: e.json, reload: [./again]}}",
            "2:44: daemon.endpoints.reload: warning: command not found: ./again",
        ),
    ],
)
def test_check_warns_of_what_the_daemon_itself_could_not_run(file: Path, keys: str, warning: str) -> None:
    """Canary, hooks, and who reloads: they run beside the file, where `check` looks for them, too."""
    file.write_text(f"services: {{}}\n{keys}\n")

    lenient, strict = tell("check", str(file)), tell("check", str(file), "--strict")

    assert (lenient.exit_code, strict.exit_code) == (0, 78)
    assert warning in lenient.stderr == strict.stderr
    for name in ("burn", "tell", "again", "no-burn"):
        (file.parent / name).write_text("#!/bin/sh\n")
        (file.parent / name).chmod(0o755)
    assert tell("check", str(file), "--strict", env={"PATH": str(file.parent)}).stderr == ""


def test_check_says_nothing_of_what_only_a_start_knows(file: Path) -> None:
    """A directory that is named after a port which is not chosen yet."""
    file.write_text("services:\n  a: {command: sh, working_dir: /run/$(MASTER_PORT), resources: {gpu: 2}}\n")

    found = tell("check", str(file), "--strict")

    assert (found.exit_code, found.stderr) == (0, "")


def test_check_finds_a_command_where_the_worker_will(file: Path) -> None:
    """In the PATH of the service, relative to its directory, and with the worker's own names filled in."""
    tool = file.parent / "bin" / "tool-0"
    tool.parent.mkdir()
    tool.write_text("")
    tool.chmod(0o755)
    file.write_text(
        "services:\n"
        "  a: {command: tool-0, env: {PATH: './none:$(HOME)/bin'}}\n"
        "  b: {command: ./bin/tool-$(WORKER_INDEX)}\n"
    )

    assert tell("check", str(file), "--strict", env={"HOME": str(file.parent)}).exit_code == 0


def test_run_of_a_bad_file_is_78_with_every_problem(control: Path, file: Path) -> None:
    """Nothing is started for it."""
    file.write_text("services:\n  llm: {comand: x}\n")

    result = call(control, "run", str(file))

    assert (result.exit_code, result.stdout) == (78, "")
    assert f"{file}:2:" in result.stderr
    assert not control.exists()


# ---- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", NOT_YET)
def test_a_command_that_is_not_built_is_refused_by_name(command: str) -> None:
    """Whatever options it is given; and it is not offered."""
    result = tell(command, "llm/0", "-f", "--json", "--help")

    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"cannot {command}: not supported yet\n")
    assert command not in tell("--help").stdout.split()


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["stauts"], 'there is no command "stauts"', "did you mean status?"),
        (["frobnicate"], 'there is no command "frobnicate"', "see gpu-supervisor --help"),
        (["status", "--jsn"], "no such option", "did you mean --json?"),
        (["check"], "'FILE' is missing", "check --help"),
        (["check", "a", "b"], "unexpected extra argument", "check --help"),
        (["run", "a", "--pool", "some"], "'--pool': 'some' is not", "run --help"),
        ([], "missing command", "--help"),
    ],
)
def test_usage_is_2_in_our_words(words: list[str], error: str, hint: str) -> None:
    """With the nearest name, or where to read."""
    result = tell(*words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot understand the command line: " in result.stderr
    assert error in result.stderr
    assert f"{hint}\n" in result.stderr
    assert ("Show services and workers" in result.stderr) == (words == [])


def test_version_and_help_are_on_stdout() -> None:
    """Asked for, they are no errors."""
    assert json.loads(tell("version", "--json").stdout) == {"version": "0.1.0"}
    assert tell("version").stdout == tell("--version").stdout == "gpu-supervisor 0.1.0\n"
    assert tell("status", "--help").exit_code == 0
    assert "--wait" in tell("status", "-h").stdout


# ---- how it ends ----------------------------------------------------------------------------------------------------


def test_the_help_has_every_command_once_and_whole() -> None:
    """In groups, without dots at the end of a line on a terminal of 80 columns."""
    lines = tell("--help").stdout.split("Commands:")[1].splitlines()
    named = [line.split()[0] for line in lines if line.strip()]

    assert sorted(named) == sorted(name for name, command in cli.commands.items() if not command.hidden)
    assert [line for line in lines if line.endswith("...") or len(line) > 79] == []
    assert {name for group in GROUPS for name in group} == set(named)


def test_an_error_of_ours_is_one_sentence(control: Path) -> None:
    """No traceback, unless somebody looks for the bug."""
    with canned(control, http_answer(b"{}")):
        plain = call(control, "status")
        debugged = call(control, "status", env={"GPU_SUPERVISOR_DEBUG": "1"})

    assert (plain.exit_code, plain.stdout) == (1, "")
    assert plain.stderr.startswith("cannot status: internal error: KeyError: ")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debugged.stderr


def test_nothing_in_an_error_does_anything_to_a_terminal() -> None:
    """Names come from elsewhere."""
    assert "\x1b" not in tell("\x1b[2J").stderr


@pytest.mark.slow
def test_as_a_process_it_keeps_answers_and_errors_apart(control: Path, daemon: Served) -> None:
    """The exit status, standard output and standard error of a good answer and of an error."""
    code, out, err = outcome("status", "--json", "--socket", str(control))
    assert (code, json.loads(out), err) == (0, daemon.face.shown, "")

    code, out, err = outcome("status", "nobody", "--socket", str(control))
    assert (code, out) == (2, "")
    assert err.startswith("cannot show the status of nobody: ")


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error(control: Path, daemon: Served) -> None:
    """As behind `| head`: silence, and the status of a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = outcome("status", "--socket", str(control), stdout=writer)
    os.close(writer)

    assert (code, err) == (141, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_cannot_be_written_is_said(control: Path, daemon: Served) -> None:
    """A full disk must not look like an answer."""
    with Path("/dev/full").open("w") as full:
        code, _, err = outcome("status", "--socket", str(control), stdout=full)

    assert (code, err) == (1, "cannot write the output: no space left on device\n")


@pytest.mark.slow
def test_an_interrupted_wait_is_130_and_silent(control: Path, daemon: Served) -> None:
    """Ctrl-C is no error of ours."""
    daemon.face.shown = a_status(a_worker("llm/0", "starting"))
    with process("status", "--wait", "ready", "--socket", str(control)) as waiting:
        daemon.wait_for_waiting()
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=PATIENCE_S)

    assert (waiting.returncode, out, err.strip()) == (130, "", "")


@pytest.mark.slow
def test_colour_is_for_terminals_and_not_with_no_color(control: Path, daemon: Served) -> None:
    """Escapes on a terminal, none with NO_COLOR, and none in a pipe."""
    words = ("status", "--socket", str(control))
    plain = {**os.environ, "TERM": "xterm-256color"}
    plain.pop("NO_COLOR", None)

    assert "\x1b[" in on_terminal(*words, env=plain)
    assert "\x1b[" not in on_terminal(*words, env={**plain, "NO_COLOR": "1"})
    assert "\x1b[" not in outcome(*words, env={**plain, "FORCE_COLOR": "1"})[1]


def on_terminal(*words: str, env: dict[str, str]) -> str:
    """What a command writes to a terminal."""
    import pty

    ours, theirs = pty.openpty()
    with process(*words, stdout=theirs, stderr=theirs, env=env) as running:
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:  # The other end has been closed.
            pass
        running.wait(PATIENCE_S)
    os.close(ours)
    assert b"llm/0" in text
    return text.decode()


@pytest.mark.slow
def test_status_imports_nothing_that_makes_it_slow(control: Path, daemon: Served) -> None:
    """A prompt that asks for it at each line must not wait: little of the standard library is all it takes."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "supervisor", "status", "--json", "--socket", str(control)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        out, err = running.communicate(timeout=60)

    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in err.splitlines()}
    assert running.returncode == 0
    assert "llm/0" in out
    assert "json" in imported
    assert not imported & {"aiohttp", "pydantic", "yaml", "rich", "structlog", "uvloop", "psutil", "pynvml"}
    # What Python itself imports before us, for a package that is installed to be edited, is not ours.
    bare = subprocess.run([sys.executable, "-X", "importtime", "-c", ""], capture_output=True, text=True, check=True)
    before = {line.rpartition("|")[2].strip().partition(".")[0] for line in bare.stderr.splitlines()}
    assert not (imported - before) & {"click", "http", "urllib", "inspect", "dataclasses", "typing", "pathlib", "email"}
