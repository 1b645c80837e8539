"""GPUs that are short, busy, out of bounds, or whose driver is in trouble."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, environment_of, wait_for
from tests.nvml.fake import FakeBox

RELEASE_S = 100.0
"""Memory that nobody can tell of is given up after a minute."""

GIB = 1 << 30


def service(more: str = "", *, workers: int = 1, gpu: str = "1") -> str:
    return f"""
services:
  llm:
    command: sleep 1000
    workers: {workers}
    resources: {{gpu: {gpu}}}
    ready: {{after: 50ms}}
    restart: {{delay: 50ms}}
    {more}
"""


def test_without_a_gpu_a_worker_waits_and_says_why(start: StartDaemon) -> None:
    """`wait` is the default: never silently the CPU."""
    daemon = start(service())

    workers = daemon.wait(lambda now: "needs 1 GPU" in now["llm/0"]["reason"], "a reason")

    assert workers["llm/0"]["state"] == "pending"
    assert daemon.status()["daemon"]["gpu"]["state"] == "absent"


def test_a_written_policy_runs_it_on_the_cpu_with_one_warning(start: StartDaemon) -> None:
    """`on_no_gpu: cpu`: -1, shown in status, warned about once for the service."""
    daemon = start(service("on_no_gpu: cpu", workers=3))

    workers = daemon.wait_states(llm="ready")

    assert {worker["fallback"] for worker in workers.values()} == {"cpu"}
    assert environment_of(workers["llm/0"]["pid"])["CUDA_VISIBLE_DEVICES"] == "-1"
    assert daemon.output.count("plan.degraded") == 1


def test_a_worker_on_the_cpu_stays_there_over_a_reload(start: StartDaemon, tmp_path: Path) -> None:
    """Only `restart` moves it to a GPU that has come."""
    box = FakeBox(tmp_path / "none", gpus=0)
    daemon = start(service("on_no_gpu: cpu"), box=box)
    before = daemon.wait_states(llm="ready")

    box.add()
    assert daemon.cli("reload").returncode == 0

    assert daemon.workers()["llm/0"]["pid"] == before["llm/0"]["pid"]
    assert len(daemon.status()["devices"]) == 1


def test_fail_is_asked_again_at_a_reload(start: StartDaemon, tmp_path: Path) -> None:
    """`on_no_gpu: fail`: failed with the arithmetic, and up once there is a GPU."""
    box = FakeBox(tmp_path / "none", gpus=0)
    daemon = start(service("on_no_gpu: fail"), box=box)
    failed = daemon.wait_states(llm="failed")
    assert "needs 1 GPU" in failed["llm/0"]["reason"]

    box.add()
    assert daemon.cli("reload").returncode == 0

    daemon.wait_states(llm="ready")


def test_explicit_lists_are_booked_for_everybody(start: StartDaemon, box: FakeBox) -> None:
    """Several services share one ledger: who names its GPUs gets them, others go round."""
    daemon = start(
        f"""
services:
  first: {{command: sleep 1000, workers: 2, resources: {{gpu: 1}}, ready: {{after: 50ms}}}}
  named:
    command: sleep 1000
    workers:
      - {{gpus: [0]}}
      - {{gpus: ["{box.uuids[2]}"]}}
    ready: {{after: 50ms}}
""",
        box=box,
    )

    workers = daemon.wait_states(first="ready", named="ready")

    assert {name: one["gpus"][0]["index"] for name, one in workers.items()} == {
        "first/0": 1,
        "first/1": 3,
        "named/0": 0,
        "named/1": 2,
    }


def test_a_start_waits_until_its_memory_is_there(start: StartDaemon, box: FakeBox) -> None:
    """`gpu_memory` is a gate before every start: the reason says the numbers."""
    for uuid in box.uuids:
        box.change(uuid, used_bytes=70 * GIB)
    daemon = start(service().replace("{gpu: 1}", "{gpu: 1, gpu_memory: 20GiB}"), box=box)
    waiting = daemon.wait(lambda now: "20480 MiB" in now["llm/0"]["reason"], "the arithmetic")
    assert waiting["llm/0"]["state"] == "pending"

    for uuid in box.uuids:
        box.change(uuid, used_bytes=0)

    daemon.wait_states(llm="ready")


@pytest.mark.long
def test_an_nvml_that_hangs_stops_nothing(start: StartDaemon, box: FakeBox) -> None:
    """
    Workers go on, the API answers, a reload comes back; new placements wait.

    One that ends restarts on its slice: after a minute, since nobody can tell whether its memory is back.
    """
    daemon = start(service(workers=2), box=box)
    before = daemon.wait_states(llm="ready")

    box.hang("nvmlDeviceGetMemoryInfo_v2")
    box.hang("nvmlDeviceGetMemoryInfo")
    # Ten seconds for its own reading, and as many for one that hangs already when it comes.
    reload = daemon.reload(service(workers=3), timeout=60)
    os.kill(before["llm/1"]["pid"], signal.SIGKILL)
    daemon.wait(lambda now: "the driver cannot be asked" in now["llm/1"]["reason"], "llm/1 waits for the driver")
    wait_for(lambda: daemon.worker("llm/1")["restarts"] == 1, "llm/1 is back", timeout=RELEASE_S)
    after = daemon.wait(lambda now: now["llm/1"]["state"] == "ready", "llm/1 is back")

    assert reload.returncode == 0
    assert after["llm/1"]["release"]["dirty"]
    assert after["llm/0"]["pid"] == before["llm/0"]["pid"]
    assert after["llm/1"]["gpus"] == before["llm/1"]["gpus"]
    assert after["llm/2"]["state"] == "pending"
    assert daemon.status()["daemon"]["gpu"]["state"] == "unresponsive"
    assert "nvmlDeviceGetMemoryInfo" in daemon.status()["daemon"]["gpu"]["detail"]

    box.heal()
    assert daemon.cli("reload").returncode == 0
    daemon.wait_states(llm="ready")


def test_each_answer_of_the_driver_has_its_state_and_the_daemon_goes_on(start: StartDaemon, box: FakeBox) -> None:
    """The last good inventory stays in force whatever NVML says at the next reload."""
    daemon = start(service(), box=box)
    before = daemon.wait_states(llm="ready")
    seen = {}

    for code in (9, 4, 18, 999):
        box.init_code(code)
        assert daemon.cli("reload").returncode == 0
        seen[code] = daemon.status()["daemon"]["gpu"]["state"]
    box.heal()
    box.crash("nvmlDeviceGetName")
    assert daemon.cli("reload").returncode == 0
    seen[0] = daemon.status()["daemon"]["gpu"]["state"]

    assert seen == {9: "not_loaded", 4: "no_permission", 18: "mismatch", 999: "error", 0: "error"}
    assert daemon.workers()["llm/0"]["pid"] == before["llm/0"]["pid"]
    assert len(daemon.status()["devices"]) == 4


def test_a_driver_that_is_still_being_loaded_is_waited_for(start: StartDaemon, box: FakeBox) -> None:
    """Within `gpu_wait` nobody falls back to the CPU; after it `on_no_gpu` is asked."""
    box.init_code(9)
    patient = start("daemon: {gpu_wait: 60s}" + service("on_no_gpu: cpu"), box=box)
    hasty = start("daemon: {gpu_wait: 1s}" + service("on_no_gpu: cpu"), box=box)

    assert hasty.wait_states(llm="ready")["llm/0"]["fallback"] == "cpu"
    patient.wait_states(llm="pending")
    box.heal()

    assert patient.wait_states(llm="ready")["llm/0"]["fallback"] is None


EATER = (
    "import json, os, pathlib; have = bytearray(40 << 20);"
    " claim = pathlib.Path(os.environ['FAKE_NVML_CLAIMS']) / str(os.getpid());"
    " claim.write_text(os.environ['WORKER_GPU_UUIDS'] + ' 1000000');"
    " exec('while True: pass')"
)


def test_figures_of_devices_and_workers(start: StartDaemon, box: FakeBox) -> None:
    """Read for who asks: what the driver's sensors say, and what the processes of a worker use."""
    box.change(box.uuids[0], gpu_percent=40, memory_percent=7, celsius=55, milliwatts=300_500)
    box.drop_symbol("nvmlDeviceGetEnforcedPowerLimit")
    llm = {"command": [sys.executable, "-c", EATER], "resources": {"gpu": 1, "gpus": [0]}, "ready": {"after": "50ms"}}
    idle = {"command": "sleep 1000", "ready": {"after": "50ms"}}
    daemon = start(json.dumps({"services": {"llm": llm, "idle": idle}}), box=box)
    daemon.wait_states(llm="ready", idle="ready")
    assert box.calls("nvmlDeviceGetPowerUsage") == []

    def busy() -> Json | None:
        status = daemon.ask("/v1/status?figures=1")
        worker: Json = status["services"][0]["workers"][0]
        is_there = worker["usage"]["gpu_memory"] and worker["usage"]["cpu"] and worker["usage"]["memory"] > 40 << 20
        return status if is_there else None

    status = wait_for(busy, "figures")
    usage = status["services"][0]["workers"][0]["usage"]

    assert (usage["gpu_memory"], usage["cpu_seconds"] > 0) == (1_000_000, True)
    assert status["services"][1]["workers"][0]["usage"]["gpu_memory"] == 0
    first = status["devices"][0]
    assert (first["utilization"], first["temperature"]) == ({"gpu": 40, "memory": 7}, 55)
    assert first["power"] == {"draw": 300.5, "limit": None}
    assert "usage" not in daemon.worker("llm/0")
    asked = json.loads(daemon.cli("devices", "--json").stdout)
    assert asked["devices"][0]["temperature"] == 55
    assert daemon.stop() == 0
    alone = json.loads(daemon.cli("devices", "--json").stdout)
    assert [one["power"]["draw"] for one in alone["devices"]] == [300.5, 70.0, 70.0, 70.0]


def test_plan_and_devices_need_no_daemon(start: StartDaemon, box: FakeBox, tmp_path: Path) -> None:
    """`plan` says where everybody would go and why not; exit 3 when somebody has no place."""
    daemon = start(service(), box=box)
    daemon.wait_states(llm="ready")
    assert daemon.stop() == 0
    daemon.write(service(workers=5))

    plan = daemon.cli("plan", str(daemon.file))
    devices = daemon.cli("devices")

    assert plan.returncode == 3
    assert "needs 1 GPU, 0 of 4 are free" in plan.stdout
    assert devices.returncode == 0
    assert all(uuid in devices.stdout for uuid in box.uuids)
