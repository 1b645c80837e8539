"""What a person types, and what comes of it."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import ROOT, wait_for
from tests.nvml.fake import FakeBox

ONE = "services: {web: {command: sleep 1000, ready: {after: 50ms}}}"


def test_status_waits_until_everybody_is_ready(start: StartDaemon) -> None:
    """`--wait ready` comes back when they are, with exit 0."""
    daemon = start(ONE)
    wait_for(daemon.status, "the socket answers")

    done = daemon.cli("status", "--wait", "ready", "--timeout", "15s")

    assert done.returncode == 0
    assert "web/0" in done.stdout
    assert "ready" in done.stdout


def test_status_json_stands_alone_on_stdout(start: StartDaemon, box: FakeBox) -> None:
    """Programs read stdout; the keys are those of the contract."""
    daemon = start(ONE, box=box)
    daemon.wait_states(web="ready")
    # Who wants no GPU does not wait for the driver.
    wait_for(lambda: daemon.status()["daemon"]["gpu"]["state"] is not None, lambda: daemon.output)

    done = daemon.cli("status", "--json")
    status = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert status["daemon"]["file"] == str(daemon.file)
    assert status["daemon"]["gpu"]["state"] == "ok"
    assert status["services"][0]["workers"][0]["env"]["CUDA_VISIBLE_DEVICES"] == "-1"
    assert len(status["devices"]) == 4


def test_secrets_of_env_are_nowhere_in_status_nor_in_what_is_kept_of_the_dead(start: StartDaemon) -> None:
    """Also where a worker, its probe or its stop command says one; what a worker writes is passed on as it is."""
    daemon = start("""
defaults: {env: {TOKEN: hunter2}, restart: {policy: never}}
services:
  web: {command: sleep 1000, ready: {after: 50ms}, stop: {exec: [sh, -c, "echo no $TOKEN; exit 1"]}}
  crash: {command: [sh, -c, "env | grep ^TOKEN; exit 3"]}
  asked: {command: sleep 1000, ready: {exec: [sh, -c, "echo no $TOKEN; exit 1"], interval: 100ms}}
  none: {command: "/no/$(TOKEN)"}
""")
    daemon.wait_states(web="ready", crash="failed", none="failed")
    assert daemon.cli("stop", "web").returncode == 0
    seen = daemon.wait(lambda now: now["web/0"]["state"] == "stopped" and bool(now["asked/0"]["reason"]), "all said it")

    assert "TOKEN=***" in seen["crash/0"]["last_exit"]["tail"]
    assert seen["web/0"]["last_exit"]["detail"] == "stop.exec sh exited with 1: no ***"
    assert seen["asked/0"]["reason"] == "sh exited with 1: no ***"
    assert seen["none/0"]["reason"] == "command not found: /no/***"
    assert "crash/0 | TOKEN=hunter2" in daemon.output
    told = [json.dumps(daemon.status()), *(daemon.cli("explain", name, "--json").stdout for name in seen)]
    assert daemon.stop() == 0
    told += [line for line in daemon.output.splitlines() if "TOKEN=" not in line]
    kept = [*(daemon.home / "crashes").glob("*.json"), *(daemon.home / "flight").glob("ring.*")]
    assert len(kept) >= 4
    told += [one.read_text() for one in kept]
    assert not [one for one in told if "hunter2" in one]


def test_shutdown_and_no_daemon_have_their_exit_codes(start: StartDaemon) -> None:
    """0 when it went, 4 when there is none."""
    daemon = start(ONE)
    daemon.wait_states(web="ready")

    done = daemon.cli("shutdown")

    assert done.returncode == 0
    assert daemon.process.wait(10) == 0
    gone = daemon.cli("status")
    assert gone.returncode == 4
    assert "hint:" in gone.stderr


def test_a_second_daemon_on_the_socket_is_told_who_has_it(start: StartDaemon) -> None:
    """Exit 75 with the pid of the first, which goes on."""
    first = start(ONE)
    first.wait_states(web="ready")

    second = start(ONE, arguments=("--socket", str(first.socket)))

    assert second.process.wait(20) == 75
    assert str(first.pid) in second.output
    assert first.wait_states(web="ready")["web/0"]["restarts"] == 0


def test_a_stale_socket_is_taken_over(start: StartDaemon, tmp_path: Path) -> None:
    """What a killed daemon left does not stop the next."""
    path = tmp_path / "control.sock"
    old = start(ONE, arguments=("--socket", str(path)))
    old.socket = path
    old.wait_states(web="ready")
    old.process.kill()
    old.process.wait()
    assert path.exists()

    new = start(ONE, arguments=("--socket", str(path)))
    new.socket = path

    new.wait_states(web="ready")
    assert new.status()["daemon"]["pid"] == new.pid


def test_a_bad_file_is_refused_with_every_problem(start: StartDaemon) -> None:
    """78, one line each, a hint; never a traceback."""
    daemon = start("services:\n  web:\n    comand: x\n    workers: -1\n")

    assert daemon.process.wait(20) == 78
    assert f"{daemon.file}:3:5:" in daemon.output
    assert f"{daemon.file}:4:14:" in daemon.output
    assert "Traceback" not in daemon.output


def test_check_accepts_the_files_that_are_shipped(start: StartDaemon) -> None:
    """`configs/*.yaml` are good."""
    daemon = start(ONE)

    for file in sorted((ROOT / "configs").glob("*.yaml")):
        done = daemon.cli("check", str(file))
        assert (done.returncode, done.stderr) == (0, ""), file


def test_explain_says_who_has_the_gpu_that_a_worker_waits_for(start: StartDaemon, tmp_path: Path) -> None:
    """One GPU, two who want it."""
    one_gpu = "{command: sleep 1000, resources: {gpu: 1}}"
    daemon = start(f"services: {{a: {one_gpu}, b: {one_gpu}}}", box=FakeBox(tmp_path / "one", gpus=1))
    daemon.wait_states(a="ready", b="pending")

    one, other = daemon.cli("explain", "a/0"), daemon.cli("explain", "b/0")

    assert (one.returncode, other.returncode) == (0, 0), one.stderr + other.stderr
    assert re.search(r"^GPU 0 .* its own$", one.stdout, re.MULTILINE), one.stdout
    assert re.search(r"^has waited \d+s: needs 1 GPU, 0 of 1 are free; reserved for a/0$", other.stdout, re.MULTILINE)
    assert re.search(r"^GPU 0 .* is given away \(a/0\)$", other.stdout, re.MULTILINE), other.stdout


def test_plan_against_a_running_daemon_shows_the_difference(start: StartDaemon, box: FakeBox) -> None:
    """Keep, replace, start and stop, before anything is done."""
    daemon = start(
        "services: {a: {command: sleep 1000, resources: {gpu: 1}}, b: {command: sleep 1000}, c: {command: sleep 1000}}",
        box=box,
    )
    daemon.wait_states(a="ready", b="ready", c="ready")
    daemon.write(
        "services: {a: {command: sleep 1000, workers: 2, resources: {gpu: 1}}, b: {command: sleep 2000}}",
    )

    plan = daemon.ask("/v1/plan")
    done = daemon.cli("plan", str(daemon.file), "--json")

    actions = {row["worker"]: row["action"] for row in plan["workers"]}
    assert actions == {"a/0": "keep", "a/1": "start", "b/0": "replace", "c/0": "stop"}
    assert json.loads(done.stdout)["workers"] == plan["workers"]


def test_a_client_that_stalls_holds_up_nobody(start: StartDaemon) -> None:
    """Half a request, and the next one is answered."""
    daemon = start(ONE)
    daemon.wait_states(web="ready")

    with socket.socket(socket.AF_UNIX) as stalled:
        stalled.connect(str(daemon.socket))
        stalled.sendall(b"GET /v1/sta")
        assert daemon.status()["daemon"]["pid"] == daemon.pid


def test_signals_for_what_is_not_built_yet_end_nobody(start: StartDaemon) -> None:
    """SIGUSR2 is said to be ignored."""
    daemon = start(ONE)
    daemon.wait_states(web="ready")

    daemon.send(signal.SIGUSR2)

    wait_for(lambda: "signal.ignored" in daemon.output or None, "a log line")
    assert daemon.worker("web/0")["restarts"] == 0


def test_reload_wait_comes_back_when_everything_is_rolled_out(start: StartDaemon) -> None:
    """0 when it went well, 3 when the new launch does not work: all stay with the old one, or go back to it."""
    file = "services: {web: {command: COMMAND, workers: 2, ready: {after: 50ms}, restart: {start_limit: 1}}}"
    daemon = start(file.replace("COMMAND", "sleep 1000"))
    daemon.wait_states(web="ready")

    daemon.write(file.replace("COMMAND", "sleep 2000"))
    good = daemon.cli("reload", "--wait")
    pids = {name: one["pid"] for name, one in daemon.workers().items()}
    daemon.write(file.replace("COMMAND", "'false'"))
    bad = daemon.cli("reload", "--wait")

    assert good.returncode == 0
    assert bad.returncode == 3
    workers = daemon.workers()
    assert workers["web/0"]["state"] != "failed"
    assert (workers["web/1"]["state"], workers["web/1"]["pid"]) == ("ready", pids["web/1"])
    assert "web/0 did not get ready with its new launch" in daemon.status()["daemon"]["reload"]["problems"][0]


def test_status_wait_with_a_timeout_also_waits_for_a_daemon_that_is_only_just_starting(start: StartDaemon) -> None:
    """`run &` and `status --wait ready --timeout` need no sleep between them."""
    daemon = start(ONE)

    done = daemon.cli("status", "--wait", "ready", "--timeout", "15s")

    assert done.returncode == 0, done.stderr


def test_what_is_no_http_is_answered_and_leaves_no_traceback_in_the_log(start: StartDaemon) -> None:
    """Anybody may send anything to a socket."""
    daemon = start(ONE)
    daemon.wait_states(web="ready")

    with socket.socket(socket.AF_UNIX) as garbage:
        garbage.settimeout(10)
        garbage.connect(str(daemon.socket))
        garbage.sendall(b"\x00\x01garbage\r\n\r\n")
        answer = garbage.recv(1000)

    assert b"400" in answer
    assert daemon.status()["daemon"]["pid"] == daemon.pid
    assert "Traceback" not in daemon.output


def test_the_log_says_why_a_worker_waits(start: StartDaemon, box: FakeBox) -> None:
    """A demand that no GPU here can ever meet reserves none, and is told once."""
    daemon = start(
        """
services:
  big: {command: sleep 1000, resources: {gpu: 1, gpu_memory: 500GiB}}
  rest: {command: sleep 1000, workers: 4, resources: {gpu: 1}, ready: {after: 50ms}}
""",
        box=box,
    )

    workers = daemon.wait_states(rest="ready")

    assert workers["big/0"]["state"] == "pending"
    assert "have 78 GiB of 79.6 GiB beside the headroom" in workers["big/0"]["reason"]
    assert daemon.output.count("plan.waiting") == 1


def test_a_look_without_a_daemon_says_its_answer_and_nothing_else(start: StartDaemon, box: FakeBox) -> None:
    """No log line of the processes that ask the driver gets in between."""
    daemon = start(ONE, box=box)
    daemon.wait_states(web="ready")
    daemon.stop()

    for words in (("plan", "service.yaml"), ("devices",)):
        done = daemon.cli(*words, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(json.loads(done.stdout)["devices"]) == 4
