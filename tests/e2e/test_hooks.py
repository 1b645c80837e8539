"""`daemon.on_event`: a command and a URL are told what happens, and the fleet does not wait for them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, is_alive, wait_for

HOOK = """
import os, subprocess, sys, time
event = sys.stdin.read()
if "unready" in event:
    time.sleep(1000)
left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
with open("heard", "a") as file:
    file.write(f"{left.pid} {os.environ.get('SECRET', 'none')} {event}\\n")
"""


class Ear(ThreadingHTTPServer):
    """Hears what is posted; the first post is refused."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heard: list[Json] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Ear)
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(503 if len(self.server.heard) == 1 else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def ear() -> Iterator[Ear]:
    server = Ear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_hooks_are_told_in_order_and_nobody_waits_for_them(start: StartDaemon, ear: Ear) -> None:
    """A command with leftovers, and a URL that refuses once; at the end both are told the rest."""
    llm = {
        "command": ["sh", "-c", 'trap "exit 3" USR1; while :; do sleep 0.02; done'],
        "ready": {"after": "50ms"},
        "restart": {"delay": "10ms", "limit": 1},
    }
    told = [
        {"command": [sys.executable, "-c", HOOK], "events": ["ready", "failed", "stopped", "gone", "rejected"]},
        {"url": f"http://127.0.0.1:{ear.server_port}/hook?token=SECRET", "events": ["worker.failed", "dirty"]},
    ]
    daemon = start(json.dumps({"services": {"llm": llm}, "daemon": {"on_event": told}}), env={"SECRET": "SECRET"})
    daemon.wait_states(llm="ready")

    def heard() -> list[tuple[int, str, Json]]:
        file = daemon.home / "heard"
        lines = file.read_text().splitlines() if file.exists() else []
        parts = [line.split(" ", 2) for line in lines]
        return [(int(pid), secret, json.loads(event)) for pid, secret, event in parts]

    def names() -> list[str]:
        return [event["event"] for _, _, event in heard()]

    wait_for(lambda: names() == ["worker.ready"], lambda: f"the first event: {daemon.output}")
    os.kill(daemon.worker("llm/0")["pid"], signal.SIGUSR1)
    daemon.wait_states(llm="failed")
    wait_for(lambda: names() == ["worker.ready", "worker.failed"], lambda: f"{names()}: {daemon.output}")
    assert daemon.reload("services: 3\n").returncode != 0
    wait_for(lambda: len(names()) == 3 and len(ear.heard) == 2, lambda: f"{names()} {ear.heard}: {daemon.output}")

    first, again = ear.heard
    assert first == again
    assert (first["event"], first["worker"], first["level"]) == ("worker.failed", "llm/0", "error")
    assert (first["daemon"]["pid"], first["dropped"]) == (daemon.pid, 0)
    assert names()[2] == "spec.rejected"
    assert {secret for _, secret, _ in heard()} == {"none"}
    assert "SECRET" not in daemon.output
    wait_for(lambda: not any(is_alive(pid) for pid, _, _ in heard()), "leftovers ended")
    assert 'gpu_supervisor_hook_events_total{result="delivered"} 4.0' in daemon.text("/v1/metrics")
    assert daemon.stop() == 0
