"""The keeper of a running daemon dies."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import RunningDaemon, is_alive, wait_for


def keeper_of(daemon: RunningDaemon) -> int:
    """The one child whose title says so."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    titles = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next(pid for pid, title in titles.items() if b"keeper" in title)


def test_a_killed_keeper_is_told_once_and_costs_no_worker(start: StartDaemon) -> None:
    """One line that says how it ended; everybody goes on; what starts later has another keeper."""
    file = "services: {job: {command: sleep 1000, workers: 3, ready: {after: 50ms}, restart: {delay: 0s}}}"
    daemon = start(file)
    before = {name: one["pid"] for name, one in daemon.wait_states(job="ready").items()}
    keeper = keeper_of(daemon)

    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: daemon.output.count("keeper.started") == 2, lambda: daemon.output)

    lines = [line for line in daemon.output.splitlines() if "keeper.ended" in line]
    assert len(lines) == 1
    assert f'"pid": {keeper}, "reason": "killed by SIGKILL"' in lines[0]
    assert before == {name: one["pid"] for name, one in daemon.wait_states(job="ready").items()}

    os.kill(before["job/1"], signal.SIGKILL)
    daemon.wait(lambda now: now["job/1"]["restarts"] == 1 and now["job/1"]["state"] == "ready", "a restart")
    assert daemon.reload(file.replace("workers: 3", "workers: 4")).returncode == 0
    daemon.wait(lambda now: now.get("job/3", {}).get("state") == "ready", "a worker of the new keeper")
    everybody = {keeper_of(daemon), *before.values()}
    assert daemon.stop() == 0
    assert not any(map(is_alive, everybody))


def test_a_keeper_that_is_killed_again_and_again_is_always_replaced(start: StartDaemon) -> None:
    """With its shims too: their workers come back uncharged."""
    daemon = start("services: {job: {command: sleep 1000, workers: 2, ready: {after: 50ms}}}")
    daemon.wait_states(job="ready")

    for number in range(2, 5):
        os.kill(keeper_of(daemon), signal.SIGKILL)
        wait_for(partial(_has_started, daemon, number), lambda: daemon.output)

    workers = daemon.wait_states(job="ready")
    assert [one["restarts"] for one in workers.values()] == [0, 0]
    assert daemon.stop() == 0


def _has_started(daemon: RunningDaemon, keepers: int) -> bool:
    return daemon.output.count("keeper.started") == keepers
