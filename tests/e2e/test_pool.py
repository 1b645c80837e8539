"""What `CUDA_VISIBLE_DEVICES` of the daemon itself leaves it to hand out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import RunningDaemon, environment_of
from tests.nvml.fake import FakeBox


def service(workers: int) -> str:
    return f"""
services:
  llm: {{command: sleep 1000, workers: {workers}, resources: {{gpu: 1}}, ready: {{after: 50ms}}}}
"""


def given(daemon: RunningDaemon, count: int) -> list[str]:
    """What the first so many workers got; one more has to wait."""

    def is_so(workers: dict[str, dict[str, object]]) -> bool:
        return [one["state"] for one in workers.values()] == ["ready"] * count + ["pending"]

    workers = daemon.wait(is_so, f"{count} ready and one that waits")
    return [environment_of(workers[f"llm/{index}"]["pid"])["CUDA_VISIBLE_DEVICES"] for index in range(count)]


def test_the_pool_is_what_the_daemon_itself_may_see(start: StartDaemon, box: FakeBox) -> None:
    """UUIDs in the daemon's own CUDA_VISIBLE_DEVICES, in their order; `--pool all` ignores them."""
    pool = {"CUDA_VISIBLE_DEVICES": f"{box.uuids[3]},{box.uuids[1]}"}
    daemon = start(service(3), box=box, env=pool)
    assert given(daemon, 2) == ["3", "1"]
    assert daemon.stop() == 0
    everything = start(service(3), box=box, env=pool, arguments=("--pool", "all"))
    free = everything.wait_states(llm="ready")

    assert [one["gpus"][0]["index"] for one in free.values()] == [0, 1, 2]


def test_devices_without_a_daemon_marks_what_is_outside_the_pool(start: StartDaemon, box: FakeBox) -> None:
    """By the environment of whoever asks."""
    daemon = start(service(1), box=box, env={"CUDA_VISIBLE_DEVICES": box.uuids[2]})
    daemon.wait_states(llm="ready")
    assert daemon.stop() == 0

    answer = json.loads(daemon.cli("devices", "--json").stdout)

    assert [one["in_pool"] for one in answer["devices"]] == [at == 2 for at in range(len(box.uuids))]


def test_positions_in_pci_order_are_indices(start: StartDaemon, box: FakeBox) -> None:
    """Nobody is asked what they mean."""
    box.cuda("fail 999")
    daemon = start(service(2), box=box, env={"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})

    assert given(daemon, 1) == ["2"]


@pytest.mark.parametrize(("value", "indices"), [("0,1", [2, 0]), ("3,1,-1,2", [3, 0])])
def test_positions_in_cudas_own_order_are_asked_of_cuda(
    start: StartDaemon, box: FakeBox, value: str, indices: Sequence[int]
) -> None:
    """As within Slurm, which sets nothing else; the order stays."""
    box.cuda_order(*(box.uuids[index] for index in (2, 0, 1, 3)))

    daemon = start(service(3), box=box, env={"CUDA_VISIBLE_DEVICES": value, "SLURM_JOB_ID": "7"})

    assert given(daemon, 2) == [str(index) for index in indices]


def test_positions_that_nobody_can_tell_are_refused(start: StartDaemon, box: FakeBox) -> None:
    """With what to do about it; one GPU needs no order."""
    box.cuda_absent()
    refused = start(service(1), box=box, env={"CUDA_VISIBLE_DEVICES": "0,1"})

    assert refused.process.wait(20) == 78
    assert "libcuda.so.1" in refused.output
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in refused.output


def test_a_driver_that_is_not_ready_is_no_fault_of_the_variable(start: StartDaemon, box: FakeBox) -> None:
    """1, so that a service manager tries again; 78 it would not."""
    box.init_code(9)
    box.cuda("fail 999")
    refused = start(service(1), box=box, env={"CUDA_VISIBLE_DEVICES": "0,1"})

    assert refused.process.wait(20) == 1
    assert "CUDA_ERROR_UNKNOWN" in refused.output


def test_one_gpu_needs_no_order(start: StartDaemon, tmp_path: Path) -> None:
    """Nor does a machine without one."""
    box = FakeBox(tmp_path / "one", gpus=1)
    box.cuda_absent()
    one = start(service(2), box=box, env={"CUDA_VISIBLE_DEVICES": "0"})
    none = start(service(1), env={"CUDA_VISIBLE_DEVICES": "0,1"})

    assert given(one, 1) == ["0"]
    assert none.wait(lambda now: "needs 1 GPU" in now["llm/0"]["reason"], "a reason")


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_a_pool_of_nothing_leaves_no_gpu(start: StartDaemon, box: FakeBox, value: str) -> None:
    """And the reason says whose doing it is."""
    daemon = start(service(1), box=box, env={"CUDA_VISIBLE_DEVICES": value})

    words = "CUDA_VISIBLE_DEVICES of the daemon leaves no GPU"
    assert daemon.wait(lambda now: words in now["llm/0"]["reason"], "the reason")["llm/0"]["state"] == "pending"


def test_a_pool_may_be_mig_instances(start: StartDaemon, box: FakeBox) -> None:
    """In its order, by either form of the name."""
    first, second, third = box.cut(box.uuids[0], (0, 2, 3))
    old_name = f"MIG-{box.uuids[0]}/9/0"

    daemon = start(service(3), box=box, env={"CUDA_VISIBLE_DEVICES": f"{third},{old_name}"})

    assert given(daemon, 2) == [third, second]
    assert first not in daemon.output
