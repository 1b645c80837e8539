"""The machine has no memory for another process: ENOMEM out of the keeper's fork and the shims' spawn, and a limit."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import is_alive, wait_for
from tests.e2e.mischief import Mischief

FILE = """
services:
  job: {command: sleep 1000, workers: 2, ready: {after: 50ms}, restart: {delay: 50ms, limit: 2, start_limit: 2}}
"""


@pytest.fixture
def mischief(tmp_path: Path) -> Mischief:
    return Mischief(tmp_path / "mischief")


def test_no_memory_for_a_worker_is_waited_for(start: StartDaemon, mischief: Mischief) -> None:
    """Back-off with words, again and again, and uncharged: its limits are of two failures."""
    daemon = start(FILE, env=mischief.env)
    before = daemon.wait_states(job="ready")

    mischief.refuse("spawn", is_on=True)
    os.kill(before["job/0"]["pid"], signal.SIGKILL)
    daemon.wait(lambda now: "cannot allocate memory" in now["job/0"]["reason"], "the reason")
    wait_for(lambda: daemon.output.count('"cause": "SpawnFailed"') >= 3, lambda: daemon.output)
    assert daemon.worker("job/0")["state"] in {"backoff", "starting", "pending"}
    assert daemon.cli("status").returncode == 3

    mischief.refuse("spawn", is_on=False)
    after = daemon.wait_states(job="ready")
    assert before["job/1"]["pid"] == after["job/1"]["pid"]
    assert daemon.stop() == 0


def test_no_memory_for_a_shim_is_waited_for(start: StartDaemon, mischief: Mischief) -> None:
    """The keeper cannot fork; the workers that are there go on."""
    daemon = start(FILE, env=mischief.env)
    before = daemon.wait_states(job="ready")

    mischief.refuse("fork", is_on=True)
    assert daemon.reload(FILE.replace("workers: 2", "workers: 4")).returncode == 0
    daemon.wait(
        lambda now: all("cannot fork a shim" in now.get(name, {}).get("reason", "") for name in ("job/2", "job/3")),
        "the reason",
    )
    assert all(is_alive(one["pid"]) for one in before.values())

    mischief.refuse("fork", is_on=False)
    after = daemon.wait_states(job="ready")
    assert len(after) == 4
    assert all(one["restarts"] == 0 for one in after.values())
    assert daemon.stop() == 0


def test_a_dead_keeper_without_memory_for_another_is_replaced_later(start: StartDaemon, mischief: Mischief) -> None:
    """The daemon tries again until it can, and says so."""
    daemon = start(FILE, env=mischief.env)
    before = daemon.wait_states(job="ready")
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    keeper = next(int(pid) for pid in children if b"keeper" in Path(f"/proc/{pid}/cmdline").read_bytes())

    mischief.refuse("spawn", is_on=True)
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: "keeper.refused" in daemon.output, lambda: daemon.output)
    os.kill(before["job/0"]["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["job/0"]["state"] != "ready", "it is missed")

    mischief.refuse("spawn", is_on=False)
    daemon.wait_states(job="ready")
    assert daemon.stop() == 0


def test_a_limit_on_the_address_space_of_keeper_and_shims(start: StartDaemon) -> None:
    """Whatever breaks in them of want of memory, for real: the daemon lives, and all is well once there is some."""
    daemon = start(FILE)
    before = daemon.wait_states(job="ready")
    below = [pid for pid in _everybody_below(daemon.pid) if b"gpu-supervisor: " in _title(pid)]
    assert len(below) >= 3
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_AS)
    for pid in below:
        resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, hard))

    os.kill(before["job/0"]["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["job/0"]["pid"] != before["job/0"]["pid"], "it is missed")
    assert daemon.cli("status", "job/1").returncode == 0
    for pid in filter(is_alive, below):
        resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))

    after = daemon.wait_states(job="ready")
    assert before["job/1"]["pid"] == after["job/1"]["pid"]
    assert daemon.stop() == 0


def _everybody_below(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for child in children for one in (child, *_everybody_below(child))]


def _title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
