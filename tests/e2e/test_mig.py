"""GPUs that MIG has cut up, and who else is on a GPU."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import environment_of, wait_for
from tests.nvml.fake import FakeBox

GIB = 1 << 30


def service(workers: int, gpu: str = "1") -> str:
    return f"""
services:
  llm: {{command: sleep 1000, workers: {workers}, resources: {{gpu: {gpu}}}, ready: {{after: 50ms}}}}
"""


def test_instances_are_devices_and_a_worker_gets_one_by_its_uuid(start: StartDaemon, box: FakeBox) -> None:
    """With gaps between them, beside whole GPUs, and beside one that was cut into nothing."""
    for uuid in box.uuids[3:]:
        box.remove(uuid)
    instances = box.cut(box.uuids[0], (1, 4))
    box.cut(box.uuids[1])
    whole = box.uuids[2]

    daemon = start(service(4), box=box)
    workers = daemon.wait(
        lambda now: sorted(one["state"] for one in now.values()) == ["pending"] + ["ready"] * 3, "three of four"
    )

    ready = [one for one in workers.values() if one["state"] == "ready"]
    seen = {one["gpus"][0]["uuid"]: environment_of(one["pid"])["CUDA_VISIBLE_DEVICES"] for one in ready}
    assert seen == {instances[0]: instances[0], instances[1]: instances[1], whole: "2"}


def test_devices_shows_instances_below_their_gpu(start: StartDaemon, box: FakeBox) -> None:
    """With a daemon and without one."""
    instances = box.cut(box.uuids[1], (1, 4))
    box.cut(box.uuids[3])
    box.change(box.uuids[2], has_memory=False)
    daemon = start(service(1), box=box)
    daemon.wait_states(llm="ready")
    asked = daemon.cli("devices").stdout
    assert daemon.stop() == 0

    for page in (asked, daemon.cli("devices").stdout):
        rows = {line.split()[0]: line for line in page.splitlines()}
        assert list(rows) == ["GPU", "0", "1", "1/0", "1/1", "2", "3"]
        assert instances[1] in rows["1/1"]
        assert "MIG is on, without an instance" in rows["3"]
        assert "its memory is the host's" in rows["2"]


def test_strangers_on_a_gpu_are_named_and_our_workers_are_not_strangers(start: StartDaemon, box: FakeBox) -> None:
    """Pid, name, user and bytes; who is below a worker is that worker's, however deep."""
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        daemon = start(service(1).replace("sleep 1000", "'sh -c \"sleep 1000 & wait\"'"), box=box)
        worker = daemon.wait_states(llm="ready")["llm/0"]
        uuid = worker["gpus"][0]["uuid"]
        other = next(each for each in box.uuids if each != uuid)
        box.claim(worker["pid"], uuid, GIB)
        box.claim(stranger.pid, uuid, 2 * GIB)
        box.claim(stranger.pid, other, 3 * GIB)

        devices = {device["uuid"]: device for device in daemon.ask("/v1/devices")["devices"]}

        assert [named(device) for device in (devices[uuid], devices[other])] == [
            [(stranger.pid, "sleep", 2 * GIB)],
            [(stranger.pid, "sleep", 3 * GIB)],
        ]
        assert f"sleep({stranger.pid}," in daemon.cli("devices").stdout
    finally:
        stranger.kill()
        stranger.wait()
    wait_for(lambda: not any(map(named, daemon.ask("/v1/devices")["devices"])), "the stranger left")


def named(device: dict[str, Any]) -> list[tuple[int, str, int]]:
    return [(one["pid"], one["name"], one["bytes"]) for one in device["foreign"] or ()]
