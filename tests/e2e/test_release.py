"""A replacement waits for the memory of the dead: late, for ever, elsewhere; real processes on the fake NVML."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, RunningDaemon, wait_for
from tests.nvml.fake import FakeBox

GIB = 1 << 30
MINUTES_S = 100.0
"""Memory is given up after a minute."""

LOADER = """
import os, pathlib, sys, time
claims = pathlib.Path(os.environ["FAKE_NVML_CLAIMS"], str(os.getpid()))
lines = [f"{uuid} {int(sys.argv[1])}" for uuid in os.environ["WORKER_GPU_UUIDS"].split(",")]
claims.write_text("\\n".join(lines) + "\\n")
time.sleep(1000)
"""
"""A worker that takes memory of its GPUs and keeps it."""


def loaded(start: StartDaemon, folder: Path, box: FakeBox, resources: str) -> tuple[RunningDaemon, Json]:
    """A daemon whose one worker has 40 GiB of its GPU."""
    loader = folder / "loader.py"
    loader.write_text(LOADER)
    daemon = start(
        f"""
services:
  llm:
    command: python3 {loader} {40 * GIB}
    resources: {{{resources}}}
    ready: {{after: 50ms}}
    restart: {{delay: 50ms}}
""",
        box=box,
    )
    before = daemon.wait_states(llm="ready")["llm/0"]
    wait_for(lambda: daemon.ask("/v1/devices")["devices"][0]["memory"]["free"] < 45 * GIB, "it has its memory")
    return daemon, before


@pytest.mark.parametrize("resources", ["gpu: 1", "gpu: 0.5, gpu_memory: 38GiB", "gpu: 0.5"])
def test_late_memory_is_waited_for_with_the_numbers(start: StartDaemon, tmp_path: Path, resources: str) -> None:
    """Whether the worker declares anything or not; how long it took is on record."""
    box = FakeBox(tmp_path / "box", gpus=1)
    daemon, before = loaded(start, tmp_path, box, resources)

    box.release_after(-1)
    os.kill(before["pid"], signal.SIGKILL)
    late = daemon.wait(lambda now: "its last process had 40960 MiB" in now["llm/0"]["reason"], "the numbers")
    wait_for(lambda: "worker.memory_late" in daemon.output, "a warning")
    assert (late["llm/0"]["state"], late["llm/0"]["restarts"]) == ("releasing", 0)
    box.release_after(0)

    after = daemon.wait(lambda now: now["llm/0"]["state"] == "ready" and now["llm/0"]["restarts"] == 1, "it is back")
    assert after["llm/0"]["gpus"] == before["gpus"]
    release = after["llm/0"]["release"]
    assert (release["proof"], release["dirty"]) == ("list", False)
    assert release["seconds"] >= 5.0
    events = daemon.cli("events", "llm/0", "--json").stdout
    assert '"released_in_s"' in events


@pytest.mark.long
@pytest.mark.slow
def test_memory_that_never_comes_back_makes_the_device_dirty_and_the_worker_goes(
    start: StartDaemon, tmp_path: Path
) -> None:
    """After a minute: the device says why, the worker runs on the other one, and the device is clean when it is."""
    box = FakeBox(tmp_path / "box", gpus=2)
    daemon, before = loaded(start, tmp_path, box, "gpu: 1")
    foreign = daemon.process.pid  # Somebody who lives.
    box.claim(foreign, box.uuids[0], GIB)

    box.release_after(-1)
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(lambda: "worker.dirty" in daemon.output, "a minute", timeout=MINUTES_S)

    after = daemon.wait(lambda now: now["llm/0"]["state"] == "ready" and now["llm/0"]["restarts"] == 1, "it goes on")
    assert [one["uuid"] for one in before["gpus"]] == [box.uuids[0]]
    assert [one["uuid"] for one in after["llm/0"]["gpus"]] == [box.uuids[1]]
    assert after["llm/0"]["release"]["dirty"]
    dirty, clean = daemon.ask("/v1/devices")["devices"]
    assert (dirty["health"], clean["health"]) == ("dirty", "ok")
    assert "memory of a dead process of llm/0 is not back" in dirty["reason"]
    assert f"held by pid {foreign}" in dirty["reason"]
    assert "dirty" in daemon.cli("devices").stdout

    box.release_after(0)

    wait_for(lambda: daemon.ask("/v1/devices")["devices"][0]["health"] == "ok", "it is clean again")


def test_without_a_list_free_memory_is_the_word(start: StartDaemon, tmp_path: Path) -> None:
    """Less proof, and that is said."""
    box = FakeBox(tmp_path / "box", gpus=1)
    for version in ("_v3", "_v2"):
        box.fail(f"nvmlDeviceGetComputeRunningProcesses{version}", "*", 3)
    daemon, before = loaded(start, tmp_path, box, "gpu: 0.5")

    box.release_after(-1)
    os.kill(before["pid"], signal.SIGKILL)
    daemon.wait(lambda now: "who has the rest is not told" in now["llm/0"]["reason"], "the numbers")
    box.release_after(0)

    after = daemon.wait(lambda now: now["llm/0"]["state"] == "ready" and now["llm/0"]["restarts"] == 1, "it is back")
    assert after["llm/0"]["release"]["proof"] == "memory"
