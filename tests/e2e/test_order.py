"""`after`, and why somebody died, with real workers."""

from __future__ import annotations

import json

from tests.e2e.conftest import StartDaemon

LAYERS = """
services:
  web: {command: sleep 1000, after: [db], ready: {after: 50ms}}
  db: {command: sleep 1000, ready: {exec: [test, -e, go]}}
"""
OOM = """
services:
  llm:
    command: [sh, -c, "echo 'RuntimeError: CUDA out of memory.'; exit 1"]
    restart: {on: {cuda_oom: {policy: never}}}
"""


def test_a_worker_waits_for_those_before_it_and_is_stopped_before_them(start: StartDaemon) -> None:
    daemon = start(LAYERS)
    daemon.wait_states(db="starting")

    assert daemon.worker("web/0")["reason"] == "waits for db: 0 of 1 ready"
    (daemon.file.parent / "go").touch()
    daemon.wait_states(db="ready", web="ready")
    assert daemon.stop() == 0

    stops = [line for line in daemon.output.splitlines() if "worker.stopping" in line]
    assert ["web/0" in line for line in stops] == [True, False]


def test_a_cycle_is_refused_with_its_place(start: StartDaemon) -> None:
    daemon = start(LAYERS)
    daemon.wait_states(db="starting")

    done = daemon.reload(LAYERS.replace("db: {command", "db: {after: [web], command"))

    assert done.returncode == 78
    assert "services.web.after: web would wait for itself: web -> db -> web" in done.stderr
    assert ":3:" in done.stderr


def test_why_it_died_is_told_and_kept(start: StartDaemon) -> None:
    """By explain, by events, and in a file that the daemon leaves behind."""
    daemon = start(OOM)
    daemon.wait_states(llm="failed")

    (death,) = json.loads(daemon.cli("explain", "llm/0", "--json").stdout)["deaths"]
    assert (death["cause"], death["code"]) == ("cuda_oom", 1)
    assert "llm/0 starting -> failed (it ended): exited with 1" in daemon.cli("events", "llm").stdout
    assert daemon.stop() == 0

    (file,) = daemon.file.parent.rglob("llm.0.json")
    assert json.loads(file.read_text())["deaths"][0]["tail"] == ["RuntimeError: CUDA out of memory."]
