"""A daemon that is stopped for a while, alone or with all that it started, ends nobody on account of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, RunningDaemon, offspring_of, wait_for

LISTENER = """
import os, socket, time
while not os.path.exists("listen"):
    time.sleep(0.02)
with socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=64):
    time.sleep(1000)
"""
SLOW_END = """
import os, signal, sys, time
def end(*_):
    while not os.path.exists("end"):
        time.sleep(0.02)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("trapped", flush=True)
while True:
    time.sleep(1000)
"""  # It starts no processes: those that are listed are those that are stopped.
STOP_S = 12.0
"""Longer than every limit here, and than the keeper and the shims give each other."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)):
        return True


def file(port: int) -> str:
    return f"""
services:
  slow:
    command: {json.dumps([sys.executable, "-c", LISTENER])}
    port: {port}
    ready: {{tcp: true, timeout: 10s, interval: 100ms}}
  calm: {{command: sleep 1000, workers: 3, ready: {{after: 50ms}}}}
  end:
    command: {json.dumps([sys.executable, "-c", SLOW_END])}
    ready: {{after: 50ms}}
    stop: {{timeout: 10s}}
"""


def pass_time(seconds: float) -> None:
    """What is tested is that time passes."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, "the time")


def begin(daemon: RunningDaemon) -> dict[str, tuple[int, int]]:
    """One starts, one is asked to end, the others are ready; on a busy machine too their limits have just begun."""
    daemon.wait_states(calm="ready", end="ready")
    daemon.ask("/v1/stop?target=slow", method="POST")
    daemon.wait_states(slow="stopped")
    wait_for(lambda: "trapped" in daemon.output, "the trap")
    daemon.ask("/v1/start?target=slow", method="POST")
    daemon.ask("/v1/stop?target=end", method="POST")
    before = daemon.wait_states(slow="starting", end="stopping")
    return processes(before)


def processes(workers: dict[str, Json]) -> dict[str, tuple[int, int]]:
    """Who everybody is, but for the one that ends."""
    return {name: (one["pid"], one["restarts"]) for name, one in workers.items() if name != "end/0"}


def check(daemon: RunningDaemon, before: dict[str, tuple[int, int]]) -> None:
    """Everybody is who he was, the start succeeds, and the end was one of its own."""
    after = daemon.wait_states(calm="ready", slow="ready", end="stopped")
    assert after["end/0"]["last_exit"]["code"] == 0, daemon.output
    assert processes(after) == before
    assert "daemon.stalled" in daemon.output
    assert daemon.stop() == 0


def test_limits_that_end_while_the_daemon_is_stopped_end_nobody(start: StartDaemon) -> None:
    """A worker that gets ready, or ends, in that time is seen before its limit is."""
    port = free_port()
    daemon = start(file(port))
    before = begin(daemon)

    daemon.send(signal.SIGSTOP)
    (daemon.home / "listen").touch()
    (daemon.home / "end").touch()
    wait_for(lambda: is_listening(port), "the worker listens")
    pass_time(STOP_S)
    daemon.send(signal.SIGCONT)

    check(daemon, before)


def test_all_that_it_started_may_be_stopped_with_it(start: StartDaemon) -> None:
    """As a container is paused: keeper, shims and workers too; then there is as much time left as there was."""
    daemon = start(file(free_port()))
    before = begin(daemon)

    everybody = [daemon.pid, *(pid for pid in offspring_of(daemon.home) if pid != daemon.pid)]
    assert len(everybody) >= 10
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    (daemon.home / "listen").touch()
    (daemon.home / "end").touch()
    pass_time(STOP_S)
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)

    check(daemon, before)
