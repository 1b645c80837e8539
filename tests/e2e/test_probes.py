"""When a worker is ready and alive: asked by HTTP, by a command, or told by itself; and by nobody else on its port."""

from __future__ import annotations

import os
import socket
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, environment_of, is_alive, wait_for

SERVER = """
import http.server, os, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists(self.path.partition("?")[0].strip("/")) else 503)
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"""

SPEAKER = """
import faulthandler, os, signal, socket, sys, time

faulthandler.enable()
voice = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
voice.connect(os.environ["NOTIFY_SOCKET"])
voice.send(b"STATUS=loading 3 of 4\\nEXTEND_TIMEOUT_USEC=600000000")
while not os.path.exists("loaded"):
    time.sleep(0.02)
voice.send(b"READY=1\\nSTATUS=serving\\nMAINPID=1")
while not os.path.exists("hung"):
    voice.send(b"WATCHDOG=1")
    time.sleep(0.05)
def stuck_here():
    time.sleep(1000)
stuck_here()
"""


class Well(BaseHTTPRequestHandler):
    """All is well, and nothing is said of it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_server_that_answers_is_ready_and_one_that_stops_answering_is_restarted(
    start: StartDaemon, tmp_path: Path
) -> None:
    """503 is why it is not ready yet; liveness ends it with its own cause, and its successor is ready again."""
    (tmp_path / "server.py").write_text(SERVER)
    daemon = start(f"""
services:
  web:
    command: python3 server.py
    working_dir: {tmp_path}
    port: {free_port()}
    env: {{TOKEN: hunter2}}
    ready: {{http: /loaded?token=$(TOKEN), interval: 100ms}}
    alive: {{http: "http://localhost:$(PORT)/well", interval: 200ms, failures: 2}}
    restart: {{delay: 100ms}}
""")
    (tmp_path / "well").touch()
    loading = daemon.wait(lambda now: bool(now["web/0"]["reason"]), "says why it is not ready")["web/0"]
    assert (loading["state"], loading["reason"]) == ("starting", "/loaded?token=*** answered 503")
    assert loading["ready_by"]

    (tmp_path / "loaded").touch()
    first = daemon.wait_states(web="ready")["web/0"]
    (tmp_path / "well").unlink()
    daemon.wait(lambda now: now["web/0"]["last_exit"] is not None, "is ended")
    (tmp_path / "well").touch()
    second = daemon.wait(lambda now: now["web/0"]["state"] == "ready" and now["web/0"]["pid"] != first["pid"], "back")

    last = second["web/0"]["last_exit"]
    assert (last["cause"], last["detail"]) == ("liveness", "/well answered 503, 2 times in a row")
    assert second["web/0"]["time_to_ready"] is not None


def test_a_command_says_whether_a_worker_is_ready_and_leaves_nothing(start: StartDaemon, tmp_path: Path) -> None:
    """It runs where the worker does; what it leaves is killed, one that hangs delays nobody."""
    daemon = start(f"""
services:
  job:
    command: sleep 1000
    working_dir: {tmp_path}
    ready: {{exec: [sh, -c, "setsid sleep 600 & echo $! >>left; test -e go || {{ echo not yet; exit 4; }}"]}}
  stuck:
    command: sleep 1000
    ready: {{exec: [sleep, "600"], timeout: 1h}}
""")
    daemon.wait(lambda now: now["job/0"]["reason"] == "sh exited with 4: not yet", "says why it is not ready")
    (tmp_path / "go").touch()
    daemon.wait_states(job="ready", stuck="starting")

    wait_for(
        lambda: not any(is_alive(int(pid)) for pid in (tmp_path / "left").read_text().split()) or None,
        lambda: "what probes left is dead",
    )


def test_a_worker_speaks_for_itself(start: StartDaemon, tmp_path: Path) -> None:
    """STATUS while it loads, more time than the file gives, READY; silent, it is ended and says where it hung."""
    (tmp_path / "speaker.py").write_text(SPEAKER)
    daemon = start(f"""
services:
  llm:
    command: python3 speaker.py
    working_dir: {tmp_path}
    ready: {{notify: true, timeout: 20s}}
    alive: {{notify: true, interval: 500ms, failures: 4}}
    restart: {{delay: 60s}}
""")
    loading = daemon.wait(lambda now: now["llm/0"]["status_text"] is not None, "says how it is")["llm/0"]
    assert (loading["state"], loading["reason"]) == ("starting", "loading 3 of 4")
    daemon.wait(lambda now: _start_may_take_s(now["llm/0"]) > 60.0, "has more time than the file gives")
    assert environment_of(loading["pid"])["WATCHDOG_USEC"] == "2000000"
    place = Path(environment_of(loading["pid"])["NOTIFY_SOCKET"])
    assert (place.parent.stat().st_mode & 0o777, place.parent.stat().st_uid) == (0o700, os.geteuid())

    (tmp_path / "loaded").touch()
    assert daemon.wait_states(llm="ready")["llm/0"]["status_text"] == "serving"
    (tmp_path / "hung").touch()
    last = daemon.wait(lambda now: now["llm/0"]["last_exit"] is not None, "is ended")["llm/0"]["last_exit"]

    assert (last["cause"], last["signal"]) == ("watchdog", "SIGABRT")
    assert last["detail"].startswith("no sign of life (WATCHDOG=1) within 2 s")
    assert any("stuck_here" in line for line in last["tail"]), last["tail"]
    wait_for(lambda: not place.exists() or None, lambda: "its socket is gone")


def _start_may_take_s(worker: Json) -> float:
    return (datetime.fromisoformat(worker["ready_by"]) - datetime.fromisoformat(worker["since"])).total_seconds()


def test_a_port_that_somebody_else_answers_makes_nobody_ready(start: StartDaemon) -> None:
    """The reason names who it is, also where a whole URL is asked; what another port answers is as good as any."""
    with socket.create_server(("127.0.0.1", 0)) as stranger, HTTPServer(("127.0.0.1", 0), Well) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port, url_port = stranger.getsockname()[1], server.server_port
        daemon = start(f"""
services:
  web:
    command: >
      python3 -c "import socket, time;
      time.sleep(1000)"
    port: {port}
    ready: {{interval: 100ms}}
  whole:
    command: sleep 1000
    port: {url_port}
    ready: {{http: "http://127.0.0.1:$(PORT)/", interval: 100ms}}
  other:
    command: sleep 1000
    port: {free_port()}
    ready: {{http: "http://127.0.0.1:{url_port}/", interval: 100ms}}
""")
        reason = daemon.wait(lambda now: bool(now["web/0"]["reason"]), "says who it is")["web/0"]["reason"]

        assert reason.startswith(f"port {port} is answered by another process: pid {os.getpid()} (")
        assert daemon.worker("web/0")["state"] == "starting"
        whole = daemon.wait(lambda now: bool(now["whole/0"]["reason"]), "says who it is")["whole/0"]
        assert whole["reason"].startswith(f"port {url_port} is answered by another process: pid {os.getpid()} (")
        daemon.wait_states(whole="starting", other="ready")
        server.shutdown()
