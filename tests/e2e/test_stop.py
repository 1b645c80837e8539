"""How workers end: each way, with what its reason and its record say of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.dead_disk import IS_POSSIBLE, DeadDisk
from tests.e2e.harness import RunningDaemon, is_alive, offspring_of, wait_for
from tests.nvml.fake import FakeBox

# Notes each SIGTERM in the file *heard*, then takes a moment to put things away.
SERVER = """
import pathlib, signal, sys, time
heard = pathlib.Path(sys.argv[1])
def note(*_):
    with heard.open("a") as file:
        file.write("TERM\\n")
signal.signal(signal.SIGTERM, note)
heard.with_suffix(".pid").write_text(str(__import__("os").getpid()))
print("serving", flush=True)
while not heard.exists():
    time.sleep(0.02)
time.sleep(0.3)
with heard.open("a") as file:
    file.write("put away\\n")
"""

# What `conda run` does: waits for a child of its own, and dies of SIGTERM itself.
WAITS = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"

# What `uv run` does: hands SIGTERM on and ends with its child.
HANDS_ON = """
import signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
sys.exit(child.wait())
"""


def listed(*words: object) -> str:
    return json.dumps([str(word) for word in words])


def stopped(daemon: RunningDaemon, name: str) -> dict[str, object]:
    """What is on record of the end of a worker that is stopped now."""
    assert daemon.cli("stop", name).returncode == 0
    worker = daemon.wait(lambda now: now[name]["state"] == "stopped", f"{name} is stopped")[name]
    found: dict[str, object] = worker["last_exit"]
    return found


# ---- wrappers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrapper", "stop"),
    [
        (["sh", "-c", 'python3 "$0" "$1"; echo after'], "{timeout: 20s}"),
        (["python3", "-c", WAITS, "python3"], "{timeout: 20s}"),
        (["python3", "-c", HANDS_ON, "python3"], "{timeout: 20s}"),
        (["bash", "-c", 'trap "echo bye" TERM; python3 "$0" "$1"; true'], "{timeout: 20s, group: true}"),
        (["sh", "-c", 'setsid -w python3 "$0" "$1"; echo after'], "{timeout: 20s, group: true}"),
    ],
    ids=["sh", "conda", "uv", "bash with a trap", "own session in a group"],
)
def test_the_child_of_a_wrapper_gets_its_signal_once_and_the_time_it_needs(
    start: StartDaemon, tmp_path: Path, wrapper: list[str], stop: str
) -> None:
    """Be it that the wrapper ends, hands the signal on, or, with `group`, waits."""
    if shutil.which(wrapper[0]) is None:
        pytest.skip(f"no {wrapper[0]} here")
    program, heard = tmp_path / "server.py", tmp_path / "heard"
    program.write_text(SERVER)
    daemon = start(f"""
services:
  app:
    command: {listed(*wrapper, program, heard)}
    ready: {{after: 50ms}}
    stop: {stop}
""")
    wait_for(lambda: "app/0 | serving" in daemon.output or None, lambda: daemon.output)

    stopped(daemon, "app/0")

    assert heard.read_text() == "TERM\nput away\n"
    assert not is_alive(int(heard.with_suffix(".pid").read_text()))


# ---- the stop command -----------------------------------------------------------------------------------------------

APP = """
services:
  app:
    command: [sh, -c, "trap 'echo got TERM; exit 0' TERM; echo serving; while :; do sleep 0.05; done"]
    ready: {after: 50ms}
    env: {COLOUR: blue}
    stop: STOP
"""


def app(start: StartDaemon, stop: object) -> RunningDaemon:
    daemon = start(APP.replace("STOP", json.dumps(stop)))
    daemon.wait_states(app="ready")
    wait_for(lambda: "app/0 | serving" in daemon.output or None, lambda: daemon.output)
    return daemon


def test_a_stop_command_is_run_as_the_worker_before_its_signal(start: StartDaemon) -> None:
    """With its environment, its folder, and the pid of its main process."""
    script = 'test -d "/proc/$MAINPID" && echo "$WORKER $COLOUR $1 ${NOTIFY_SOCKET-none}" > drained'
    daemon = app(start, {"exec": ["sh", "-c", script, "sh", "$(MAINPID)"], "timeout": "20s"})
    pid = daemon.worker("app/0")["pid"]

    record = stopped(daemon, "app/0")

    assert (daemon.home / "drained").read_text() == f"app/0 blue {pid} none\n"
    assert "app/0 | got TERM" in daemon.output
    assert (record["code"], record["cause"], record["detail"]) == (0, "operator", "")


# Says READY=1 as systemd-notify does. Another user may not run the Python of the tests.
READY = """
socket(my $voice, AF_UNIX, SOCK_DGRAM, 0);
send($voice, "READY=1", 0, pack_sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!;
sleep 1000;
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_is_heard_and_its_commands_are_run_as_it(start: StartDaemon) -> None:
    """Its notify socket is its own, in a folder that is its own."""
    speaks = shutil.which("perl") is not None
    daemon = start(f"""
services:
  app:
    command: {listed("perl", "-MSocket", "-e", READY) if speaks else "sleep 1000"}
    user: nobody
    working_dir: /
    ready: {{{"notify: true" if speaks else "after: 50ms"}}}
    stop: {{exec: [sh, -c, "id -un; exit 1"]}}
""")
    daemon.wait_states(app="ready")

    assert stopped(daemon, "app/0")["detail"] == "stop.exec sh exited with 1: nobody"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sh", "-c", "echo no route; exit 3"], "stop.exec sh exited with 3: no route"),
        (["/no/such/drain"], "stop.exec drain cannot run drain: command not found: /no/such/drain"),
        (["sleep", "1000"], "stop.exec sleep did not end within 0.75 s"),
    ],
)
def test_a_stop_command_that_goes_wrong_is_on_record_and_the_signal_follows(
    start: StartDaemon, command: list[str], words: str
) -> None:
    """It fails, it is not there, it hangs."""
    daemon = app(start, {"exec": command, "timeout": "1500ms"})

    record = stopped(daemon, "app/0")

    assert "app/0 | got TERM" in daemon.output
    assert (record["code"], record["cause"], record["detail"]) == (0, "operator", words)


def test_a_stop_command_says_that_it_runs_and_leaves_nothing_behind(start: StartDaemon) -> None:
    """Nor does it outlive the worker that it is about."""
    leaves = "(trap '' TERM; setsid sleep 1000) & sleep 1000"
    daemon = app(start, {"exec": ["sh", "-c", leaves], "timeout": "10m"})
    pid = daemon.worker("app/0")["pid"]

    assert "stopping (stopped by the operator; stop.exec sh runs)" in daemon.cli("stop", "app/0").stdout
    wait_for(lambda: sleepers(daemon) >= 2 or None, "the command and what it leaves")
    os.kill(pid, signal.SIGTERM)
    daemon.wait_states(app="stopped")

    wait_for(lambda: sleepers(daemon) == 0 or None, "nothing of the command is left")


def sleepers(daemon: RunningDaemon) -> int:
    """How many `sleep 1000` of a daemon live."""
    lines = []
    for pid in offspring_of(daemon.home):
        try:
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue
    return lines.count(b"sleep\x001000\x00")


# ---- hard cases -----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_stopped_by_sigstop_takes_its_signal(start: StartDaemon) -> None:
    """It is continued behind the signal, so it ends in order, long before its grace is over."""
    daemon = app(start, {"timeout": "10m"})
    os.kill(daemon.worker("app/0")["pid"], signal.SIGSTOP)

    record = stopped(daemon, "app/0")

    assert "app/0 | got TERM" in daemon.output
    assert (record["code"], record["signal"]) == (0, None)


def test_what_is_stopped_below_a_main_process_takes_its_signal_too(start: StartDaemon) -> None:
    """When the main process has ended."""
    child = "trap 'echo child got TERM; exit 0' TERM; kill -STOP $$; while :; do sleep 0.05; done"
    daemon = start(f"""
services:
  app:
    command: [sh, -c, 'sh -c "$0" & echo serving; exec sleep 1000', {json.dumps(child)}]
    ready: {{after: 50ms}}
    stop: {{timeout: 10m}}
""")
    daemon.wait_states(app="ready")
    wait_for(lambda: "app/0 | serving" in daemon.output or None, lambda: daemon.output)
    wait_for(lambda: stopped_below(daemon) or None, "the child has stopped itself")

    stopped(daemon, "app/0")

    assert "app/0 | child got TERM" in daemon.output


def stopped_below(daemon: RunningDaemon) -> list[int]:
    found = []
    for pid in offspring_of(daemon.home):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [pid] * (state == "T")
    return found


def test_who_does_not_listen_is_killed_and_that_is_on_record(start: StartDaemon) -> None:
    daemon = start("""
services:
  deaf:
    command: [sh, -c, "trap '' TERM; echo deaf; while :; do sleep 0.05; done"]
    ready: {after: 50ms}
    stop: {timeout: 300ms}
""")
    wait_for(lambda: "deaf/0 | deaf" in daemon.output or None, lambda: daemon.output)

    record = stopped(daemon, "deaf/0")

    assert (record["signal"], record["detail"]) == ("SIGKILL", "it did not end when it got SIGTERM")
    assert "did not end within 0.3 s: SIGKILL sent" in daemon.cli("events", "deaf").stdout


# Chains in which each process starts its successor and ends: a list of pids is old when it is read.
RELAY = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(6):
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()
print("relay", flush=True)
signal.pause()
"""


def test_a_tree_that_forks_while_it_is_killed_is_gone_in_the_end(start: StartDaemon) -> None:
    daemon = start(f"""
services:
  relay:
    command: {listed("python3", "-c", RELAY)}
    ready: {{after: 50ms}}
    stop: {{timeout: 100ms}}
""")
    wait_for(lambda: "relay/0 | relay" in daemon.output or None, lambda: daemon.output)

    record = stopped(daemon, "relay/0")

    assert record["signal"] == "SIGKILL"
    assert not [pid for pid in offspring_of(daemon.home) if b"signal.pause" in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("is_first", [True, False], ids=["exit first", "stop first"])
def test_a_stop_that_meets_an_exit_is_one_end_and_the_worker_stays_down(start: StartDaemon, is_first: bool) -> None:
    """While the daemon does not look, the worker dies and the operator stops it: both are seen in one turn."""
    daemon = start("services: {app: {command: sleep 1000, ready: {after: 50ms}, restart: {delay: 0s}}}")
    pid = daemon.wait_states(app="ready")["app/0"]["pid"]
    daemon.send(signal.SIGSTOP)
    try:
        if is_first:
            os.kill(pid, signal.SIGKILL)
        asking = threading.Thread(target=lambda: daemon.ask("/v1/stop?target=app", method="POST"))
        asking.start()
        if not is_first:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid), "the worker is dead")
    finally:
        daemon.send(signal.SIGCONT)
    asking.join()

    worker = daemon.wait_states(app="stopped")["app/0"]

    assert worker["restarts"] == worker["incarnation"] - 1
    told = json.loads(daemon.cli("explain", "app/0", "--json").stdout)
    assert [death["incarnation"] for death in told["deaths"]] == list(range(1, worker["incarnation"] + 1))


# ---- stuck in the kernel --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not IS_POSSIBLE, reason="needs root and /dev/fuse")
def test_who_hangs_in_the_kernel_says_where_and_keeps_its_gpu(start: StartDaemon, tmp_path: Path, box: FakeBox) -> None:
    """SIGKILL has no effect; nobody else is kept from anything, and the slice is given on when it is gone at last."""
    with DeadDisk(tmp_path / "disk") as disk:
        daemon = start(
            f"""
services:
  stuck:
    command: [cat, {disk.folder}/weights]
    resources: {{gpu: 4}}
    ready: {{after: 50ms}}
    stop: {{timeout: 200ms}}
  next: {{command: sleep 1000, workers: 0, resources: {{gpu: 1}}, ready: {{after: 50ms}}}}
  other: {{command: sleep 1000, ready: {{after: 50ms}}}}
""",
            box=box,
        )
        pid = daemon.wait_states(stuck="ready", other="ready")["stuck/0"]["pid"]
        assert daemon.cli("stop", "stuck").returncode == 0
        assert daemon.cli("scale", "next=1").returncode == 0

        seen = daemon.wait(lambda now: "hangs in" in now["stuck/0"]["reason"], "it was looked at")

        assert seen["stuck/0"]["state"] == "killing"
        reason = seen["stuck/0"]["reason"]
        assert reason.startswith("still not gone after 10 s in spite of SIGKILL; its GPUs stay taken: ")
        assert f"process {pid} (cat) hangs in " in reason
        assert "(state D, uninterruptible)" in reason
        assert (seen["next/0"]["state"], seen["other/0"]["state"]) == ("pending", "ready")
        assert f"process {pid} (cat) hangs in " in daemon.cli("explain", "stuck/0").stdout
        assert "worker.unkillable" in daemon.output

        disk.release()
        daemon.wait_states(stuck="stopped", next="ready")


@pytest.mark.skipif(not IS_POSSIBLE, reason="needs root and /dev/fuse")
def test_a_daemon_that_cannot_end_a_worker_ends_with_1_and_says_where_it_hangs(
    start: StartDaemon, tmp_path: Path
) -> None:
    with DeadDisk(tmp_path / "disk") as disk:
        daemon = start(f"""
services:
  stuck: {{command: [cat, {disk.folder}/weights], ready: {{after: 50ms}}, stop: {{timeout: 200ms}}}}
  other: {{command: sleep 1000, ready: {{after: 50ms}}, stop: {{timeout: 1s}}}}
""")
        workers = daemon.wait_states(stuck="ready", other="ready")

        assert daemon.stop() == 1

        (line,) = [line for line in daemon.output.splitlines() if "daemon.stuck" in line]
        assert f"process {workers['stuck/0']['pid']} (cat) hangs in " in line
        assert not is_alive(workers["other/0"]["pid"])
