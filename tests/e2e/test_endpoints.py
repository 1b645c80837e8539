"""`daemon.endpoints`: a load balancer that goes by the files asks nobody who does not answer."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import PATIENCE_S, Json, RunningDaemon, wait_for
from tests.nvml.fake import FakeBox

WORKER = """
import os, signal, socket, sys
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
def end(*_):
    listener.close()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    listener.accept()[0].close()
"""

RELOAD = "if [ -e busy ]; then echo twice >>reloads; fi; touch busy; sleep 0.1; echo once >>reloads; rm busy"


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    for port in range(23000, 30000, 10):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for at, one in enumerate(sockets):
                one.bind(("127.0.0.1", port + at))
        except OSError:
            continue
        else:
            return port
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no ports")


def file(port: int, endpoints: Json, greeting: str = "a") -> str:
    llm = {
        "command": [sys.executable, "-c", WORKER, greeting],
        "workers": 3,
        "port": port,
        "resources": {"gpu": 1},
        "ready": {"tcp": True, "interval": "100ms"},
        "update": {"max_unavailable": 2},
    }
    return json.dumps({"services": {"llm": llm}, "daemon": {"endpoints": endpoints}})


class Balancer(threading.Thread):
    """Asks everybody who is in the file, again and again."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._done = threading.Event()
        self.asked = 0
        self.wrong: list[str] = []
        self.counts: set[int] = set()

    def listed(self) -> dict[str, int]:
        return {one["worker"]: one["port"] for one in json.loads(self._path.read_text())["endpoints"]}

    def run(self) -> None:
        while not self._done.is_set():
            listed = self.listed()
            self.counts.add(len(listed))
            for worker, port in listed.items():
                self.asked += 1
                if not answers(port) and worker in self.listed() and not answers(port):
                    self.wrong.append(worker)

    def end(self) -> None:
        self._done.set()
        self.join(PATIENCE_S)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except OSError:
        return False
    return True


def complete(daemon: RunningDaemon, name: str) -> list[Json] | None:
    found: list[Json] = json.loads((daemon.home / name).read_text())["endpoints"]
    return found if len(found) == 3 else None


def test_a_roll_out_sends_nobody_to_a_worker_that_is_not_ready(start: StartDaemon, box: FakeBox) -> None:
    """Who is stopped leaves the files before its signal; who reads them is told, never twice at a time."""
    port = free_ports(3)
    endpoints: Json = {"json": "e.json", "prometheus": "t.json", "nginx": "n.conf", "reload": ["sh", "-c", RELOAD]}
    daemon = start(file(port, endpoints), box=box)
    daemon.wait_states(llm="ready")
    rows = wait_for(lambda: complete(daemon, "e.json"), "three in the file")
    balancer = Balancer(daemon.home / "e.json")
    balancer.start()
    daemon.write(file(port, endpoints, greeting="b"))
    done = daemon.cli("reload", "--wait", timeout=3 * PATIENCE_S)
    wait_for(lambda: complete(daemon, "e.json"), "three in the file")
    balancer.end()

    assert done.returncode == 0, done.stderr
    assert balancer.wrong == []
    assert balancer.asked > 10
    assert {2, 3} <= balancer.counts
    assert [(one["worker"], one["port"], one["gpus"][0]["uuid"]) for one in rows] == [
        (f"llm/{at}", port + at, box.uuids[at]) for at in range(3)
    ]
    targets = {one["labels"]["worker"]: one["targets"] for one in json.loads((daemon.home / "t.json").read_text())}
    assert targets == {f"llm/{at}": [f"127.0.0.1:{port + at}"] for at in range(3)}
    assert (daemon.home / "n.conf").read_text().count("    server 127.0.0.1:") == 3
    wait_for((daemon.home / "reloads").exists, "a reload of who reads them")

    # Another file in place of those: nobody is in the old ones any more, and what goes wrong is said.
    other = {"json": "none/e.json", "nginx": "m.conf", "reload": ["sh", "-c", "exit 3"]}
    assert daemon.reload(file(port, other, greeting="b")).returncode == 0
    wait_for(lambda: "endpoints.reload_failed" in daemon.output, lambda: daemon.output)
    assert "endpoints.failed" in daemon.output
    assert "sh exited with 3" in daemon.output
    wait_for(lambda: json.loads((daemon.home / "e.json").read_text()) == {"endpoints": []}, "the old one emptied")
    assert (daemon.home / "m.conf").read_text().count("    server 127.0.0.1:") == 3
    assert daemon.stop() == 0
    assert "down;" in (daemon.home / "m.conf").read_text()
    assert "twice" not in (daemon.home / "reloads").read_text()


def test_nginx_takes_the_file(start: StartDaemon, box: FakeBox, tmp_path: Path) -> None:
    """Full and empty."""
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    port = free_ports(3)
    daemon = start(file(port, {"nginx": "n.conf", "json": "e.json"}), box=box)
    daemon.wait_states(llm="ready")
    wait_for(lambda: complete(daemon, "e.json"), "three in the file")
    conf = tmp_path / "nginx.conf"
    head = f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\n"
    conf.write_text(f"{head}http {{ access_log off; include {daemon.home}/n.conf; }}\n")

    for _ in range(2):
        checked = subprocess.run([nginx, "-t", "-c", str(conf)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        daemon.end()
