"""A daemon that comes after one which was killed with its keeper and shims finds what they left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import is_alive

FILE = "services: {job: {command: sleep 1000, workers: 3, ready: {after: 50ms}}}"


def below(pid: int) -> list[int]:
    found = []
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += [int(word) for word in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return found


@pytest.fixture
def strangers() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts processes that are nobody's business, and ends them after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "1000"]))
        return started[-1]

    yield start_one
    for one in started:
        one.kill()
        one.wait()


def test_what_a_killed_daemon_left_is_ended_before_anything_starts(
    start: StartDaemon, strangers: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """Stopped first, so that neither keeper nor shims can do it; then killed. Strangers live on."""
    daemon = start(FILE)
    old = {one["pid"] for one in daemon.wait_states(job="ready").values()}
    stranger = strangers()
    ours: list[int] = []
    while new_ones := [pid for pid in below(daemon.pid) if pid not in old and pid not in ours]:
        ours += new_ones  # One that was about to be started is there the next time; then nobody is left to start any.
        for pid in new_ones:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
    # From below: a stopped group whose parent has gone is told to go on, and a shim would end its worker.
    for pid in reversed(ours):
        with contextlib.suppress(ProcessLookupError):  # Some go with the one before.
            os.kill(pid, signal.SIGKILL)
    daemon.process.wait()
    assert all(map(is_alive, old))

    command = [sys.executable, "-m", "supervisor", "run", str(daemon.file)]
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=daemon.home, env=daemon.env)
    new = {one["pid"] for one in daemon.wait_states(job="ready").values()}

    assert not any(map(is_alive, old))
    assert new.isdisjoint(old)
    assert stranger.poll() is None
    second_life = daemon.output.rpartition("sweep.ended")[2]
    assert second_life.count("daemon.started") == 1
    assert "worker.starting" in second_life
    assert daemon.stop() == 0
    assert not daemon.socket.with_name("control.sock.state").exists()
