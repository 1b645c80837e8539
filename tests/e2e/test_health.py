"""Sick GPUs under a real daemon: who is there leaves, nobody starts there, and nobody elsewhere notices."""

from __future__ import annotations

import json
import os
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
  canary: ./canary.sh %s
"""

CANARY = """#!/bin/sh
# Sees this device, is where the file is, and finds nothing that only the daemon is told.
test "$CUDA_VISIBLE_DEVICES" = "$1" && test -e service.yaml && test -z "$INVOCATION_ID" || { echo "not me"; exit 1; }
"""


def health(daemon: RunningDaemon, box: FakeBox) -> list[str]:
    """Of each device of the box, as the driver is asked now."""
    found = {one["uuid"]: one["health"] for one in daemon.ask("/v1/devices")["devices"]}
    return [found[uuid] for uuid in box.uuids]


def on(daemon: RunningDaemon, worker: str) -> list[str]:
    return [one["uuid"] for one in daemon.worker(worker)["gpus"]]


def sees_without_a_daemon(daemon: RunningDaemon, box: FakeBox) -> None:
    """What was known is in the daemon's file."""
    known = json.loads(daemon.cli("devices", "--json").stdout)["devices"]
    assert [one["health"] for one in known if one["uuid"] == box.uuids[0]] == ["quarantined"]
    assert "GPU 0 quarantined: " in daemon.cli("top").stdout
    plan = json.loads(daemon.cli("plan", daemon.file.name, "--json").stdout)["workers"]
    assert [one["gpus"][0]["index"] for one in plan] == [1, 2]
    findings = json.loads(daemon.cli("doctor", "--json").stdout)["findings"]
    assert [one["level"] for one in findings if one["found"].startswith("quarantined: ")] == ["problem"]


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
    assert "quarantined: " in daemon.cli("doctor").stdout

    daemon.send(signal.SIGKILL)
    daemon.process.wait()
    box.change(sick, recovery=0)
    sees_without_a_daemon(daemon, box)
    again = start(FILE % ("1h", sick), box=box, env=env)
    again.wait_states(llm="ready", web="ready")
    assert health(again, box) == ["quarantined", "ok", "ok"]


def test_xids_and_operators(start: StartDaemon, tmp_path: Path) -> None:
    """An error of the worker's own is in its crash record, one of the GPU's moves it; an operator takes and gives."""
    box = FakeBox(tmp_path / "box", gpus=2)
    first, second = box.uuids
    daemon = start(FILE.replace("web:", "x-web:") % ("1h", first), box=box, env={"INVOCATION_ID": "x"})
    (daemon.home / "canary.sh").write_text(CANARY)
    (daemon.home / "canary.sh").chmod(0o755)
    before = daemon.wait_states(llm="ready")["llm/0"]
    wait_for(lambda: bool(box.calls("nvmlEventSetWait_v2")), "the driver is listened to")

    box.xid(first, 31)
    wait_for(lambda: "device.xid" in daemon.output, "it is told")
    os.kill(before["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["llm/0"]["state"] == "ready" and now["llm/0"]["restarts"] == 1, "it is back")
    crash = daemon.worker("llm/0")["last_exit"]
    assert (crash["cause"], crash["detail"]) == ("signal", "XID 31 (memory page fault) on GPU 0")
    assert on(daemon, "llm/0") == [first]

    box.xid(first, 79)
    daemon.wait(lambda now: now["llm/0"]["state"] == "ready" and now["llm/0"]["restarts"] == 2, "it has moved")
    assert on(daemon, "llm/0") == [second]
    assert daemon.worker("llm/0")["last_exit"]["cause"] == "device"
    wait_for(lambda: health(daemon, box) == ["quarantined", "ok"], "it is empty")

    assert daemon.cli("devices", "quarantine", "9").returncode == 2
    taken = daemon.cli("devices", "quarantine", second)
    assert (taken.returncode, "GPU 1 " in taken.stdout, taken.stderr) == (0, True, "")
    daemon.wait(lambda now: now["llm/0"]["state"] == "pending", "there is no other")
    wait_for(lambda: "; GPU 0, 1 quarantined" in daemon.worker("llm/0")["reason"], "both are empty")
    told = daemon.cli("events", "llm").stdout
    assert "GPU 0 xid: XID 79 " in told
    assert "GPU 0 draining -> quarantined: XID 79 " not in told.replace("(llm/0 there)", "")
    assert "GPU 0 draining -> quarantined: XID 79 " in daemon.cli("events").stdout
    assert [one["xid"] for one in daemon.ask("/v1/devices")["devices"][0]["xids"]] == [31, 79]

    assert daemon.cli("devices", "quarantine", "0", "9").returncode == 2
    assert "operator" not in str(daemon.ask("/v1/devices")["devices"][0]["reason"])
    half = daemon.home / ".devices.json.new"
    half.mkdir()
    (half / "in the way").touch()
    both = daemon.cli("devices", "quarantine", "0", second, "--reason", "RMA 4711")
    fault = "XID 79 (GPU has fallen off the bus): reboot the machine"
    assert both.stdout.splitlines() == [
        f"GPU 0 quarantined (by the operator: RMA 4711; before that: {fault})",
        "GPU 1 quarantined (by the operator: RMA 4711)",
    ]
    assert (both.returncode, "warning: cannot keep it beyond this daemon: " in both.stderr) == (0, True)
    (half / "in the way").unlink()
    half.rmdir()

    given = daemon.cli("devices", "release", second[:12], "--for-reset")
    assert (given.returncode, given.stderr) == (0, "")
    assert "quarantined (for a reset; before that: by the operator: RMA 4711)" in given.stdout
    known = len(box.calls())
    assert health(daemon, box) == ["quarantined", "quarantined"]
    assert not [one for one in box.calls()[known:] if one.device == 1]

    assert daemon.cli("devices", "release", "0").returncode == 0
    daemon.wait(lambda now: now["llm/0"]["state"] == "ready" and on(daemon, "llm/0") == [first], "after its canary")
    assert daemon.cli("devices", "release", "1").returncode == 0
    # Its canary wants the other device: it fails there.
    wait_for(lambda: "its canary: canary.sh exited with 1: not me" in str(daemon.ask("/v1/devices")), "it is looked at")
