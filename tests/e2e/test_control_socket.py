"""The control socket's file while a daemon runs: removed, replaced, or another's by now."""

from __future__ import annotations

import shutil
import signal
import socket
import sys

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import RunningDaemon, wait_for

MANAGER = """
import os, socket, sys
path = os.environ["GPU_SUPERVISOR_SOCKET"]
os.umask(0o177)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
os.umask(0o022)
os.dup2(listener.fileno(), 60), os.dup2(60, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="control")
os.closerange(4, 100)
os.execv(sys.argv[1], sys.argv[1:])
"""

FILE = "services: {job: {command: sleep 1000, ready: {after: 50ms}}}"


def wait_for_words(daemon: RunningDaemon, *words: str) -> None:
    wait_for(lambda: all(word in daemon.output for word in words), lambda: f"{words}\n{daemon.output}")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_removed_socket_comes_back_at_a_signal(start: StartDaemon, number: signal.Signals) -> None:
    """The client says what is wrong and which signal helps; after it everything answers, and no worker has changed."""
    daemon = start(FILE)
    before = daemon.wait_states(job="ready")["job/0"]["pid"]
    daemon.socket.unlink()

    refused = daemon.cli("status")
    assert refused.returncode == 4
    assert f"it runs (pid {daemon.pid}), but the file of its socket is gone" in refused.stderr
    assert f"kill -HUP {daemon.pid}" in refused.stderr

    daemon.send(number)
    wait_for(daemon.status, lambda: daemon.output)
    assert daemon.worker("job/0")["pid"] == before
    wait_for_words(daemon, "control.restored")
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    assert not daemon.socket.with_name("control.sock.lock").exists()


def test_a_removed_folder_comes_back_too(start: StartDaemon) -> None:
    """Socket and lock, as a cleaner of /run takes them; then a second daemon is still kept off."""
    daemon = start(FILE, socket="run/control.sock")
    daemon.wait_states(job="ready")
    shutil.rmtree(daemon.socket.parent)
    assert "somebody listens under that name without a file" in daemon.cli("status").stderr

    daemon.send(signal.SIGHUP)
    wait_for(daemon.status, lambda: daemon.output)

    second = daemon.cli("run", str(daemon.file))
    assert second.returncode == 75
    assert f"pid {daemon.pid}" in second.stderr


def test_who_waits_over_a_connection_goes_on_waiting(start: StartDaemon) -> None:
    """Making the file anew cuts nobody off."""
    daemon = start(FILE)
    daemon.wait_states(job="ready")
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.settimeout(20)
        waiting.connect(str(daemon.socket))
        waiting.sendall(b"GET /v1/status?wait=stopped HTTP/1.1\r\nHost: localhost\r\n\r\n")
        daemon.socket.unlink()
        daemon.send(signal.SIGUSR1)
        wait_for(daemon.status, lambda: daemon.output)

        assert daemon.cli("stop", "job").returncode == 0

        assert waiting.recv(100).startswith(b"HTTP/1.1 200")


def test_what_is_no_http_is_refused_as_everything_is(start: StartDaemon) -> None:
    """Problem details, and nothing in the log: it is nobody's business there."""
    daemon = start(FILE)
    daemon.wait_states(job="ready")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(20)
        stranger.connect(str(daemon.socket))
        stranger.sendall(b"\x16\x03\x01 who are you\r\n\r\n")
        answer = b"".join(iter(lambda: stranger.recv(4096), b""))

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"application/problem+json" in answer
    assert "who are you" not in daemon.output
    assert daemon.stop() == 0


def test_anothers_socket_in_its_place_is_left_alone(start: StartDaemon) -> None:
    """The daemon says who has it, goes on, and takes nothing away, at its end neither."""
    daemon = start(FILE)
    daemon.wait_states(job="ready")
    daemon.socket.unlink()
    with socket.socket(socket.AF_UNIX) as thief:
        thief.bind(str(daemon.socket))
        thief.listen()
        inode = daemon.socket.stat().st_ino

        daemon.send(signal.SIGHUP)
        wait_for_words(daemon, "control.lost", "another daemon (pid ", "spec.loaded")

        assert daemon.socket.stat().st_ino == inode
        assert daemon.stop() == 0
        assert daemon.socket.stat().st_ino == inode


def test_a_dead_ones_socket_in_its_place_is_replaced(start: StartDaemon) -> None:
    """Nobody listens there any more."""
    daemon = start(FILE)
    daemon.wait_states(job="ready")
    daemon.socket.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(daemon.socket))
    assert "the file of its socket is gone" in daemon.cli("status").stderr

    daemon.send(signal.SIGHUP)

    wait_for(daemon.status, lambda: daemon.output)


def test_a_file_in_its_place_is_left_alone_until_it_is_gone(start: StartDaemon) -> None:
    """No socket at all: told, and tried again at the next signal."""
    daemon = start(FILE)
    daemon.wait_states(job="ready")
    daemon.socket.unlink()
    daemon.socket.write_text("mine")

    daemon.send(signal.SIGHUP)
    wait_for_words(daemon, "control.lost", "is no socket")
    assert daemon.socket.read_text() == "mine"
    daemon.socket.unlink()
    daemon.send(signal.SIGHUP)

    wait_for(daemon.status, lambda: daemon.output)


def test_a_socket_that_a_service_manager_has_made_is_served_and_left_to_him(start: StartDaemon) -> None:
    """Its file is there before the daemon and after it; a second daemon is kept off, workers find nothing of it."""
    daemon = start(FILE, prefix=(sys.executable, "-c", MANAGER))
    daemon.wait_states(job="ready")
    inode = daemon.socket.stat().st_ino
    assert "socket.unclaimed" not in daemon.output

    daemon.send(signal.SIGHUP)
    wait_for(lambda: daemon.status()["daemon"]["generation"] == 2, lambda: daemon.output)
    assert daemon.cli("run", str(daemon.file)).returncode == 75

    assert daemon.stop() == 0
    assert daemon.socket.stat().st_ino == inode
    assert not daemon.socket.with_name("control.sock.lock").exists()
