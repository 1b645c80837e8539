"""Ports to meet at, threads, CPUs beside the devices, limits: as a worker finds them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import environment_of, wait_for
from tests.nvml.fake import FakeBox

PAIRS = """
services:
  llm:
    command: ["sh", "-c", "sleep 1000; true", "sh", "--meet-at=$(MASTER_PORT)"]
    workers: 2
    resources: {gpu: 2, cpu: 1500m}
    pin: uuid
    port: 20000
    ready: {after: 0s}
    restart: {delay: 0s, max_delay: 0s}
  solo: {command: sleep 1000, resources: {gpu: 0}, ready: {after: 0s}}
"""


def test_workers_with_several_gpus_meet_at_ports_of_their_own(start: StartDaemon, box: FakeBox) -> None:
    """Also in the command, and in `status`; others have none. Another process has another one, and nobody restarts."""
    daemon = start(PAIRS, box=box, env={"MASTER_PORT": "1", "OMP_NUM_THREADS": "9"})
    workers = daemon.wait_states(llm="ready", solo="ready")

    found = {name: environment_of(worker["pid"]) for name, worker in workers.items()}
    ports = {name: found[name]["MASTER_PORT"] for name in ("llm/0", "llm/1")}

    assert ports["llm/0"] != ports["llm/1"]
    assert not {"20000", "20001", "1"} & set(ports.values())
    assert found["solo/0"]["MASTER_PORT"] == "1"
    for name, port in ports.items():
        assert workers[name]["env"]["MASTER_PORT"] == port
        assert f"--meet-at={port}" in Path(f"/proc/{workers[name]['pid']}/cmdline").read_text().split("\0")
        assert found[name]["CUDA_VISIBLE_DEVICES"] == found[name]["WORKER_GPU_UUIDS"]
        assert (found[name]["OMP_NUM_THREADS"], found[name]["RAYON_RS_NUM_CPUS"]) == ("2", "2")
    assert daemon.cli("reload").stdout == "nothing to do\n"

    os.kill(workers["llm/0"]["pid"], 9)
    again = daemon.wait(lambda now: now["llm/0"]["restarts"] == 1 and now["llm/0"]["state"] == "ready", "a restart")

    assert environment_of(again["llm/0"]["pid"])["MASTER_PORT"] not in ports.values()
    assert again["llm/1"]["pid"] == workers["llm/1"]["pid"]


def test_limits_that_do_not_hold_are_said(start: StartDaemon) -> None:
    """The worker runs; `status` and its JSON say why, and the log once."""
    daemon = start("""
services:
  a: {command: sleep 1000, workers: 3, resources: {cpu: 0.5, memory: 64MiB}, ready: {after: 0s}}
  b: {command: sleep 1000, ready: {after: 0s}}
""")
    workers = daemon.wait_states(a="ready", b="ready")

    limits = workers["a/0"]["limits"]
    if limits["enforced"]:
        pytest.skip("the tests run in a cgroup with controllers")

    assert (limits["cpu"], limits["memory"], limits["enforced"]) == (0.5, 64 << 20, False)
    assert limits["reason"].startswith("cpu and memory are not enforced: ")
    assert workers["b/0"]["limits"] is None
    assert f"{limits['reason']} (a/0, a/1, a/2)" in daemon.cli("status").stdout
    assert daemon.output.count("limits.ignored") == 1


def test_a_worker_near_its_gpu_runs_on_the_cpus_beside_it(start: StartDaemon, box: FakeBox, tmp_path: Path) -> None:
    """As sysfs says, which here is a copy in a namespace of the daemon's own; without a GPU it runs anywhere."""
    own = sorted(os.sched_getaffinity(0))
    if os.geteuid() != 0 or shutil.which("unshare") is None or len(own) < 2:
        pytest.skip("needs root, unshare and two CPUs")
    for serial, cpu in ((0, own[0]), (1, own[1])):
        folder = tmp_path / f"pci/0000:{0x10 + serial:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{serial}\n")
        (folder / "local_cpulist").write_text(f"{cpu}\n")
    mounted = f'mount --bind {tmp_path}/pci /sys/bus/pci/devices && exec "$@"'

    daemon = start(
        """
services:
  near:
    command: sleep 1000
    numa: near
    workers: [{gpus: [1]}, {gpus: [0]}, {gpus: [2]}, {gpu: 0}]
    ready: {after: 0s}
""",
        box=box,
        prefix=("unshare", "-m", "sh", "-c", mounted, "sh"),
    )
    workers = daemon.wait_states(near="ready")

    assert os.sched_getaffinity(workers["near/0"]["pid"]) == {own[1]}
    assert os.sched_getaffinity(workers["near/1"]["pid"]) == {own[0]}
    assert os.sched_getaffinity(workers["near/2"]["pid"]) == set(own)
    assert os.sched_getaffinity(workers["near/3"]["pid"]) == set(own)
    wait_for(lambda: daemon.output.count("numa.ignored") == 1, "a word on the device whose node is not known")
