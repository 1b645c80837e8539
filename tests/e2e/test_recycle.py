"""Recycling with real processes: by age, by what they have of the host's memory, by what they have of a GPU's."""

from __future__ import annotations

from tests.e2e.conftest import StartDaemon
from tests.nvml.fake import FakeBox

GIB = 1024**3
HUNGRY = "python3 -c 'import time; have = bytearray(64 << 20); time.sleep(1000)'"


def service(workers: int, recycle: str, command: str = "sleep 1000") -> str:
    return f"""
services:
  llm:
    command: {command}
    workers: {workers}
    resources: {{gpu: 1}}
    ready: {{after: 50ms, timeout: 1s}}
    recycle: {recycle}
daemon: {{poll: 1s}}
"""


def test_old_workers_are_replaced_one_at_a_time_and_uncharged(start: StartDaemon, box: FakeBox) -> None:
    """Each comes back on its own GPU, and never are two missing."""
    daemon = start(service(3, "{after: 2s}"), box=box)
    first = daemon.wait_states(llm="ready")
    seen = set()

    def is_over(now: dict[str, dict[str, object]]) -> bool:
        seen.add(sum(one["state"] == "ready" for one in now.values()))
        return all(one["state"] == "ready" and int(str(one["restarts"])) >= 1 for one in now.values())

    workers = daemon.wait(is_over, "each of them another process")

    assert min(seen) >= 2
    assert {name: one["gpus"] for name, one in workers.items()} == {name: one["gpus"] for name, one in first.items()}
    assert {one["last_exit"]["cause"] for one in workers.values()} == {"recycle"}


def test_one_that_has_grown_on_the_host_is_replaced_once_it_is_healthy(start: StartDaemon, box: FakeBox) -> None:
    """What it has is measured, of the whole of its tree."""
    daemon = start(service(1, "{memory: 48MiB}", HUNGRY), box=box)
    daemon.wait_states(llm="ready")

    workers = daemon.wait(lambda now: now["llm/0"]["last_exit"] is not None, "an end")

    assert workers["llm/0"]["last_exit"]["cause"] == "recycle"


def test_one_that_has_grown_on_its_gpu_is_replaced_alone(start: StartDaemon, box: FakeBox) -> None:
    """As the driver shows it; the other is below, and stays."""
    daemon = start(service(2, "{gpu_memory: 10GiB}"), box=box)
    first = daemon.wait_states(llm="ready")
    for worker, amount in (("llm/0", 9 * GIB), ("llm/1", 11 * GIB)):
        box.claim(int(str(first[worker]["pid"])), box.uuids[int(worker[-1])], amount)

    workers = daemon.wait(lambda now: now["llm/1"]["restarts"] == 1 and now["llm/1"]["state"] == "ready", "another one")

    assert workers["llm/1"]["last_exit"]["cause"] == "recycle"
    assert workers["llm/1"]["gpus"] == first["llm/1"]["gpus"]
    assert workers["llm/0"]["pid"] == first["llm/0"]["pid"]
    assert "recycle.gpu_memory is 10240 MiB" in daemon.cli("events", "llm/1").stdout


def test_one_below_its_limits_stays(start: StartDaemon, box: FakeBox) -> None:
    """It is looked at again and again, and nothing happens to it."""
    daemon = start(service(1, "{memory: 8GiB, gpu_memory: 90%}"), box=box)
    pid = daemon.wait_states(llm="ready")["llm/0"]["pid"]
    asked_at = daemon.status()["devices"][0]["memory"]["read_at"]

    daemon.wait(lambda _: daemon.status()["devices"][0]["memory"]["read_at"] > asked_at, "another reading")

    assert daemon.workers()["llm/0"]["pid"] == pid
