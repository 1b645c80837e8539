"""Workers that share GPUs, on a box of four, through the command line."""

from __future__ import annotations

import json

from tests.e2e.conftest import StartDaemon
from tests.nvml.fake import FakeBox

GIB = 1 << 30
FILE = """
services:
  pair: {command: sleep 1000, resources: {gpu: 2, gpu_memory: 20GiB}, ready: {after: 50ms}}
  part:
    command: sleep 1000
    workers: 5
    resources: {gpu: 0.25, gpu_memory: 10GiB, gpu_type: "*H100*"}
    ready: {after: 50ms}
  each: {command: sleep 1000, workers: per_gpu, resources: {gpu: 1, gpus: [3]}, on_no_gpu: cpu, ready: {after: 50ms}}
"""


def test_fractions_share_what_pairs_leave(start: StartDaemon, box: FakeBox) -> None:
    """Four quarters on one GPU and the fifth on the next, where nobody finds a whole one any more."""
    daemon = start(FILE, box=box)

    workers = daemon.wait_states(pair="ready", part="ready", each="ready")

    places = {name: [gpu["index"] for gpu in one["gpus"]] for name, one in workers.items()}
    assert places == {"pair/0": [0, 1], **{f"part/{index}": [2] for index in range(4)}, "part/4": [3], "each/0": []}
    assert {one["share"] for one in workers["part/0"]["gpus"]} == {0.25}
    assert "needs 1 GPU, 0 of 1 are free; reserved for part/4" in workers["each/0"]["reason"]
    (device, *_) = json.loads(daemon.cli("devices", "--json").stdout)["devices"]
    assert device["type"] == "nvidia-h100-80gb"


def test_who_has_more_than_it_declares_is_seen(start: StartDaemon, box: FakeBox) -> None:
    """Though nothing but the guard asks the driver any more; and that nothing enforces a share is said aloud."""
    daemon = start(
        """
services:
  part:
    command: sleep 1000
    workers: 2
    resources: {gpu: 0.5, gpu_memory: 10GiB}
    ready: {after: 50ms}
daemon: {poll: 1s}
""",
        box=box,
    )
    workers = daemon.wait_states(part="ready")
    box.claim(workers["part/0"]["pid"], box.uuids[0], 10 * GIB)
    box.claim(workers["part/1"]["pid"], box.uuids[0], 11 * GIB)

    now = daemon.wait(lambda seen: seen["part/1"]["gpu_limits"]["over_since"] is not None, "it to be seen")

    assert now["part/0"]["gpu_limits"] == {**now["part/1"]["gpu_limits"], "over_since": None}
    assert now["part/1"]["gpu_limits"]["exceeded"] is False
    assert now["part/1"]["gpu_limits"]["guard"] == "warn"
    for command in (["plan", str(daemon.file)], ["status"], ["explain", "part/0"]):
        assert "not enforced on the GPU: its share and gpu_memory" in daemon.cli(*command).stdout
