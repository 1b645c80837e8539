"""Sick GPUs under a real daemon: who is there leaves, nobody starts there, and nobody elsewhere notices."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import RunningDaemon, wait_for
from tests.nvml.fake import FakeBox

FILE = """
services:
  llm:
    command: sleep 1000
    resources: {gpu: 1}
    ready: {after: 50ms}
  web:
    command: sleep 1000
    resources: {gpu: 1}
    ready: {after: 50ms}
health:
  probation: %s
  canary: [sh, -c, 'test "$CUDA_VISIBLE_DEVICES" = %s && test ! -e bad']
"""


def health(daemon: RunningDaemon, box: FakeBox) -> list[str]:
    """Of each device of the box, as the driver is asked now."""
    found = {one["uuid"]: one["health"] for one in daemon.ask("/v1/devices")["devices"]}
    return [found[uuid] for uuid in box.uuids]


def on(daemon: RunningDaemon, worker: str) -> list[str]:
    return [one["uuid"] for one in daemon.worker(worker)["gpus"]]


def test_a_sick_gpu_is_left_remembered_and_used_again(start: StartDaemon, tmp_path: Path) -> None:
    """By the driver's recovery action; the daemon is killed meanwhile; a canary has the last word."""
    box = FakeBox(tmp_path / "box", gpus=3)
    sick = box.uuids[0]
    (tmp_path / "state").mkdir()
    env = {"STATE_DIRECTORY": str(tmp_path / "state")}
    daemon = start(FILE % ("1h", sick), box=box, env=env)
    before = daemon.wait_states(llm="ready", web="ready")
    assert on(daemon, "llm/0") == [sick]

    box.change(sick, recovery=1)
    wait_for(lambda: health(daemon, box)[0] in {"draining", "quarantined"}, "it is seen")
    daemon.wait(lambda now: now["llm/0"]["state"] == "ready" and now["llm/0"]["restarts"] == 1, "it has moved")

    assert on(daemon, "llm/0") == [box.uuids[2]]
    moved = daemon.worker("llm/0")["last_exit"]
    assert (moved["cause"], "reset the GPU" in moved["detail"]) == ("device", True)
    assert daemon.worker("web/0") == {**before["web/0"], "since": daemon.worker("web/0")["since"]}
    wait_for(lambda: health(daemon, box) == ["quarantined", "ok", "ok"], "it is empty")
    assert "quarantined" in daemon.cli("devices").stdout
    assert 'health="quarantined"' in daemon.text("/v1/metrics")

    daemon.send(signal.SIGKILL)
    daemon.process.wait()
    box.change(sick, recovery=0)
    again = start(FILE % ("1h", sick), box=box, env=env)
    again.wait_states(llm="ready", web="ready")
    assert health(again, box) == ["quarantined", "ok", "ok"]
