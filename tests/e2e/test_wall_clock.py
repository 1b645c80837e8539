"""Somebody sets the wall clock, back and forth, while a daemon works."""

from __future__ import annotations

import os
import re
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, wait_for
from tests.e2e.mischief import Mischief

FILE = """
services:
  calm: {command: sleep 1000, workers: 2, ready: {after: 50ms}}
  bad: {command: sh -c 'sleep 0.2; exit 1', ready: {after: 50ms}, restart: {delay: 1s, max_delay: 1s, limit: 0}}
"""
DAY_S = 24 * 3600


@pytest.mark.parametrize("ahead", [-10 * DAY_S, 10 * DAY_S], ids=["back", "forth"])
def test_a_clock_that_is_set_moves_no_deadline(start: StartDaemon, tmp_path: Path, ahead: int) -> None:
    """Nobody restarts for it, who backs off comes back in a second, and every time shown is by the new clock."""
    mischief = Mischief(tmp_path / "mischief")
    daemon = start(FILE, env=mischief.env)
    before = daemon.wait_states(calm="ready")

    mischief.turn_clock(ahead)
    restarts = daemon.worker("bad/0")["restarts"]
    after = daemon.wait(lambda now: now["bad/0"]["restarts"] >= restarts + 3, "back-offs end as they did")

    for name in ("calm/0", "calm/1"):
        assert (after[name]["pid"], after[name]["state"]) == (before[name]["pid"], "ready")
    assert "daemon.stalled" not in daemon.output
    os.kill(before["calm/0"]["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["calm/0"]["restarts"] == 1 and now["calm/0"]["state"] == "ready", "a restart")
    for seconds in ages(daemon.status(), ahead):
        assert 0 <= seconds < 60
    page = daemon.cli("status").stdout
    assert not re.search(r"-\d|\dd\b", page.split("RESTARTS")[1]), page
    lines = [line for line in daemon.output.splitlines() if '"worker": "calm/0"' in line and "worker.ready" in line]
    assert abs((parse(lines[-1].split('"')[3]) - parse(lines[0].split('"')[3])) - ahead) < 60

    mischief.turn_clock(0)
    wait_for(lambda: all(0 <= one < 60 for one in ages(daemon.status(), 0)), "the old times again")
    assert daemon.stop() == 0


def ages(status: Json, ahead: int) -> list[float]:
    """How long ago everything was that the status says, by the clock as it was set."""
    now = datetime.now(UTC).timestamp() + ahead
    workers = [worker for service in status["services"] for worker in service["workers"]]
    times = [status["daemon"]["since"], *(one["since"] for one in workers)]
    times += [one["last_exit"]["at"] for one in workers if one["last_exit"]]
    # Whole seconds, and two clocks that are read one after the other.
    return [now - parse(one) + 1.0 for one in times]


def parse(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
