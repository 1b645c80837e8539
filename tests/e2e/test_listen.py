"""`listen`: sockets that outlive the workers, handed over as systemd does it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, RunningDaemon, environment_of, wait_for
from tests.e2e.load import APP, Load

SERVER = """
import os, socket, sys
listener = socket.socket(fileno=3)
while True:
    caller, _ = listener.accept()
    caller.recv(4096)
    caller.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\n\\r\\n" + str(os.getpid()).encode())
    caller.close()
"""


@pytest.fixture
def run() -> Iterator[Path]:
    """A folder for unix sockets: their paths are short."""
    folder = tempfile.mkdtemp(prefix="gs")
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def port() -> int:
    """One that nobody has at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def service(address: str, *, name: str = "web", workers: int = 1, program: str = SERVER, more: str = "") -> str:
    return f"""
  {name}:
    command: [{sys.executable}, -c, {json.dumps(program)}]
    workers: {workers}
    listen: {{http: "{address}"}}
    ready: {{after: 200ms}}
    restart: {{delay: 0s, limit: 0, start_limit: 0}}
    {more}
"""


def listening(daemon: RunningDaemon, name: str = "web") -> list[Json]:
    found: list[Json] = next(one["listen"] for one in daemon.status()["services"] if one["name"] == name)
    return found


def answer(address: tuple[str, int] | str) -> str:
    """Of a server there."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as caller:
        caller.settimeout(20)
        caller.connect(address)
        caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return caller.makefile().read().rpartition("\n")[2]


def test_no_request_is_lost_while_uvicorn_is_replaced_and_killed(start: StartDaemon, run: Path, port: int) -> None:
    """
    Under constant load: rolling reloads, and crashes of all workers between two requests.

    What a process has accepted dies with it when it is killed; nobody who waits to be accepted does.
    """

    def file(version: int) -> str:
        return f"""
services:
  web:
    command: [{sys.executable}, {run}/app.py]
    workers: 2
    listen: {{http: "tcp://127.0.0.1:{port}"}}
    ready: {{after: 1s}}
    restart: {{delay: 0s, limit: 0, start_limit: 0}}
    env: {{VERSION: "{version}"}}
"""

    (run / "app.py").write_text(APP)
    daemon = start(file(0))
    daemon.wait_states(web="ready")
    with Load(("127.0.0.1", port)) as load:
        load.wait_for_more(20)
        for version in (1, 2):
            daemon.write(file(version))
            assert daemon.cli("reload", "--wait", timeout=60).returncode == 0
            load.wait_for_more(20)
        for _ in range(2):
            pids = {one["pid"] for one in daemon.wait_states(web="ready").values()}
            with load.between_requests():
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
            load.wait_for_more(20)

    assert load.outcome.failed == {}
    assert len(load.outcome.served) >= 2 + 2 * 2 + 2


def test_a_worker_is_told_of_its_sockets_and_has_nothing_else_of_ours(start: StartDaemon, run: Path, port: int) -> None:
    """As sd_listen_fds(3) wants it: its own pid too; and who connects before it is there is answered."""
    listen = f'{{http: "tcp://127.0.0.1:{port}", admin: "unix:{run}/a.sock"}}'
    text = service("x").replace('{http: "x"}', listen)
    daemon = start(f"services:{text}")
    pid = int(wait_for(lambda: answer(("127.0.0.1", port)), "an answer"))

    env = environment_of(pid)
    assert (env["LISTEN_FDS"], env["LISTEN_FDNAMES"], env["LISTEN_PID"]) == ("2", "http:admin", str(pid))
    assert {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()} <= {0, 1, 2, 3, 4, 5}
    assert [one["address"] for one in listening(daemon)] == [f"tcp://127.0.0.1:{port}", f"unix:{run}/a.sock"]
    shown = daemon.worker("web/0")["env"]
    assert (shown["LISTEN_FDS"], shown["LISTEN_FDNAMES"]) == ("2", "http:admin")
    assert "bound" in daemon.cli("status").stdout
    assert f"shares tcp://127.0.0.1:{port} (http)" in daemon.cli("explain", "web/0").stdout


def test_an_address_in_use_is_that_services_trouble_alone_until_it_is_free(start: StartDaemon, port: int) -> None:
    """Its workers wait with the reason and who it is; the others run; it is tried again."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        other = "  plain:\n    command: sleep 1000\n    ready: {after: 100ms}\n"
        daemon = start(f"services:{service(f'tcp://127.0.0.1:{port}')}{other}")
        workers = daemon.wait(
            lambda now: now["plain/0"]["state"] == "ready" and "cannot listen" in now["web/0"]["reason"], "both"
        )
        assert workers["web/0"]["state"] == "pending"
        reason = f"cannot listen on tcp://127.0.0.1:{port}: address already in use by pid {os.getpid()}"
        assert workers["web/0"]["reason"].startswith(reason)
        assert listening(daemon)[0]["state"] == "refused"
        assert reason in daemon.cli("plan", str(daemon.file)).stdout

    daemon.wait_states(web="ready", plain="ready")
    assert daemon.output.count("socket.refused") == 1


def test_a_reload_to_an_address_that_is_taken_takes_nobody_down(start: StartDaemon, port: int) -> None:
    """It has failed, with the reason, and the service serves on."""
    daemon = start(f"services:{service(f'tcp://127.0.0.1:{port}')}")
    daemon.wait_states(web="ready")
    pid = answer(("127.0.0.1", port))
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        daemon.write(f"services:{service(f'tcp://127.0.0.1:{taken}')}")

        done = daemon.cli("reload", "--wait")

    assert done.returncode == 3
    assert f"cannot listen on tcp://127.0.0.1:{taken}: address already in use" in done.stderr
    assert pid == answer(("127.0.0.1", port))


def test_sockets_go_with_their_service_and_descriptors_stay_as_many(start: StartDaemon, run: Path, port: int) -> None:
    """An address that changes is bound anew; one that does not stays, whatever else changes."""

    def fds() -> int:
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))  # noqa: PTH208 - Only their number.

    plain = "services:\n  plain:\n    command: sleep 1000\n    ready: {after: 100ms}\n"
    daemon = start(plain)
    daemon.wait_states(plain="ready")
    before = fds()
    for version in range(3):
        more = f'env: {{VERSION: "{version}"}}'
        text = service(f"tcp://127.0.0.1:{port}", workers=2, more=more)
        daemon.write(plain + text + service(f"unix:{run}/{version}.sock", name="other"))
        assert daemon.cli("reload", "--wait", timeout=60).returncode == 0
        assert [one.name for one in run.iterdir()] == [f"{version}.sock"]
        answer(("127.0.0.1", port))
        answer(f"{run}/{version}.sock")

    assert daemon.reload(plain).returncode == 0
    daemon.wait(lambda now: set(now) == {"plain/0"}, "the others are gone")

    wait_for(lambda: not list(run.iterdir()), "the file is gone")
    with pytest.raises(ConnectionRefusedError):
        answer(("127.0.0.1", port))
    wait_for(lambda: fds() <= before, lambda: f"{fds()} descriptors, {before} before")


def test_a_killed_daemon_leaves_nobody_listening_and_its_socket_file_is_taken_over(
    start: StartDaemon, run: Path, port: int
) -> None:
    """Workers, shims and keeper end with it, and none of them has kept a socket."""
    address = f"unix:{run}/a.sock"
    text = f"services:{service(address)}{service(f'tcp://127.0.0.1:{port}', name='tcp')}"
    daemon = start(text)
    daemon.wait_states(web="ready", tcp="ready")

    daemon.process.kill()
    daemon.process.wait()

    def is_refused() -> bool:
        with socket.socket() as caller, socket.socket(socket.AF_UNIX) as other:
            found = (caller.connect_ex(("127.0.0.1", port)), other.connect_ex(f"{run}/a.sock"))
            return found == (errno.ECONNREFUSED, errno.ECONNREFUSED)

    wait_for(is_refused, "nobody listens")
    assert (run / "a.sock").exists()
    again = start(text)
    again.wait_states(web="ready", tcp="ready")
    assert answer(f"{run}/a.sock")
    assert again.stop() == 0
    assert not list(run.iterdir())


def test_what_is_wrong_with_an_address_is_said_with_its_place(start: StartDaemon, port: int) -> None:
    """Line and column, as of every problem."""
    daemon = start(f"services:{service(f'tcp://127.0.0.1:{port}')}")
    daemon.write(f"services:{service(f'tcp://[::]:{port}')}{service(f'tcp://127.0.0.1:{port}', name='other')}")

    done = daemon.cli("check", str(daemon.file))

    assert done.returncode == 78
    where = f"{daemon.file}:13:20: services.other.listen.http: "
    assert f"{where}tcp://127.0.0.1:{port} is taken by listen.http of web at tcp://[::]:{port}" in done.stderr


MANAGER = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
other = socket.create_server(("127.0.0.1", 0))
os.dup2(listener.fileno(), 60), os.dup2(other.fileno(), 61)
os.dup2(60, 3), os.dup2(61, 4)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web.http:web.admin")
os.closerange(5, 100)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_sockets_of_a_service_manager_are_used_as_they_are(start: StartDaemon, port: int) -> None:
    """What it has bound is not bound again, also when the service comes back; what nobody wants is told of."""
    text = f"services:{service(f'tcp://127.0.0.1:{port}')}"
    daemon = start(text, prefix=(sys.executable, "-c", MANAGER, str(port)))
    daemon.wait_states(web="ready")
    assert "LISTEN_FDS" not in environment_of(keeper_of(daemon))

    assert answer(("127.0.0.1", port))
    assert daemon.reload("services: {}").returncode == 0
    daemon.wait(lambda now: not now, "nobody is left")
    assert daemon.reload(text).returncode == 0
    daemon.wait_states(web="ready")

    assert answer(("127.0.0.1", port))
    assert daemon.output.count("socket.inherited") == 1
    assert daemon.output.count("socket.unclaimed") == 1
    assert daemon.stop() == 0


def keeper_of(daemon: RunningDaemon) -> int:
    """Its pid; it has what the daemon leaves to others."""
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    return int(children[0])
