"""No descendant of a dead worker lives when its replacement starts, whatever it did to get away."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import is_alive, wait_for

# A worker that leaves one process behind, and says at its own start which of them live. How the orphan gets away is
# the test's parameter. The orphan ignores SIGTERM.
WORKER = '''
import ctypes, os, pathlib, signal, sys, time

kind, home = sys.argv[1], pathlib.Path(sys.argv[2])
earlier = [int(one.name) for one in home.glob("[0-9]*")]
living = [pid for pid in earlier if pathlib.Path(f"/proc/{pid}/stat").exists()
          and pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"]
print(f"start beside {living}", flush=True)

def blank_title():
    """What setproctitle does: the new title runs over into the environment, which the kernel then shows as it is."""
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arg_start, arg_end, env_start, env_end = map(int, fields[45:49])
    ctypes.memset(arg_start, 0, env_end - arg_start)

def orphan():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "title":
        blank_title()
        assert not pathlib.Path("/proc/self/environ").read_bytes().strip(b"\\0")
    (home / str(os.getpid())).touch()
    time.sleep(1000)

if os.fork() == 0:
    if kind == "group":
        orphan()
    os.setsid()
    if kind in {"double", "title"} and os.fork() != 0:
        os._exit(0)
    orphan()
time.sleep(1000)
'''


@pytest.mark.parametrize("kind", ["group", "session", "double", "title"])
def test_an_orphan_is_dead_before_the_replacement_starts(start: StartDaemon, tmp_path: Path, kind: str) -> None:
    """Same group, own session, double-forked, and with a title written over its environment; all ignore SIGTERM."""
    program, home = tmp_path / "worker.py", tmp_path / "orphans"
    program.write_text(WORKER)
    home.mkdir()
    daemon = start(f"""
services:
  tree:
    command: [python3, {program}, {kind}, {home}]
    ready: {{after: 50ms}}
    stop: {{timeout: 200ms}}
    restart: {{delay: 0s}}
""")
    worker = daemon.wait_states(tree="ready")["tree/0"]
    orphan = int(wait_for(lambda: next(home.glob("[0-9]*"), None), "the orphan").name)

    os.kill(worker["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["tree/0"]["restarts"] == 1 and now["tree/0"]["state"] == "ready", "the replacement")

    assert not is_alive(orphan)
    starts = wait_for(lambda: lines if len(lines := starts_in(daemon.output)) == 2 else None, "both say how they began")
    assert starts == ["tree/0 | start beside []"] * 2


def starts_in(output: str) -> list[str]:
    return [line for line in output.splitlines() if "start beside" in line]


def test_a_slot_with_a_living_orphan_says_so(start: StartDaemon, tmp_path: Path) -> None:
    """Between the crash and the SIGKILL five seconds later the worker is `killing`, and its reason says why."""
    program, home = tmp_path / "worker.py", tmp_path / "orphans"
    program.write_text(WORKER)
    home.mkdir()
    daemon = start(f"services: {{tree: {{command: [python3, {program}, session, {home}], ready: {{after: 50ms}}}}}}")
    worker = daemon.wait_states(tree="ready")["tree/0"]
    wait_for(lambda: next(home.glob("[0-9]*"), None), "the orphan")

    os.kill(worker["pid"], signal.SIGKILL)
    killing = daemon.wait_states(tree="killing")["tree/0"]

    assert "still live" in killing["reason"]
    assert killing["pid"] is None
    assert killing["last_exit"]["signal"] == "SIGKILL"


def test_sigterm_ends_everything_in_bounded_time_and_a_second_one_at_once(start: StartDaemon, tmp_path: Path) -> None:
    """Exit 0; what ignores SIGTERM is killed after its grace, or at the second signal."""
    file = """
services:
  deaf:
    command: sh -c 'trap "" TERM; echo deaf; while :; do sleep 0.05; done'
    ready: {after: 50ms}
    stop: {timeout: GRACE}
"""
    patient = start(file.replace("GRACE", "500ms"))
    hasty = start(file.replace("GRACE", "10m"))
    pids = [daemon.wait_states(deaf="ready")["deaf/0"]["pid"] for daemon in (patient, hasty)]
    wait_for(lambda: "deaf/0 | deaf" in patient.output or None, "its trap is set")
    wait_for(lambda: "deaf/0 | deaf" in hasty.output or None, "its trap is set")

    patient.send(signal.SIGTERM)
    hasty.send(signal.SIGTERM)
    hasty.wait(lambda now: now["deaf/0"]["state"] == "stopping", "stopping")
    hasty.send(signal.SIGTERM)

    assert patient.process.wait(10) == 0
    assert hasty.process.wait(10) == 0
    assert not any(map(is_alive, pids))
