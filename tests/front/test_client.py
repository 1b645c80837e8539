"""The client: answers of a served face, and everything that can be wrong at the other end of a socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import CannotError, ProblemsError
from supervisor.front import client as client_module
from supervisor.front.client import AnswerError, Client
from tests.front.fakes import PATIENCE_S, FakeFace, a_status, a_worker, canned, http_answer, served


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def face(control: Path) -> Iterator[FakeFace]:
    face = FakeFace(a_status(a_worker("llm/0")))
    with served(face, control):
        yield face


def refusal(client: Client, route: str = "/v1/status", timeout_s: float = PATIENCE_S) -> CannotError:
    with pytest.raises(CannotError) as caught:
        client.get(route, thing="show the status", timeout_s=timeout_s)
    return caught.value


# ---- answers --------------------------------------------------------------------------------------------------------


def test_get_gives_the_daemons_answer(control: Path, face: FakeFace) -> None:
    """The JSON comes as it was sent."""
    assert face.shown == Client(control).get("/v1/status")


def test_parameters_arrive_as_they_were_given(control: Path, face: FakeFace) -> None:
    """Blanks and signs of the query's own syntax are no trouble."""
    Client(control).get("/v1/plan", {"file": "/srv/a b&c=d?.yaml"})

    assert face.asked == [("plan", "/srv/a b&c=d?.yaml")]


def test_a_file_name_that_is_no_utf8_can_be_asked_for(control: Path, face: FakeFace) -> None:
    """Such names exist; they must not end in an error of encoding."""
    assert face.plan_answer == Client(control).get("/v1/plan", {"file": os.fsdecode(b"/srv/\xff.yaml")})


def test_post_asks_for_a_change(control: Path, face: FakeFace) -> None:
    """POST reaches the face."""
    assert face.reload_answer == Client(control).post("/v1/reload")
    assert "reload" in face.asked


def test_a_refusal_carries_problems_and_answer(control: Path, face: FakeFace) -> None:
    """Problems of the daemon come as values and as words."""
    face.plan_answer = ProblemsError(("a.yaml:1:1: one", "a.yaml:2:1: two"))

    error = refusal(Client(control), "/v1/plan?file=/a.yaml")

    assert isinstance(error, AnswerError)
    assert (error.status, error.problems) == (400, ("a.yaml:1:1: one", "a.yaml:2:1: two"))
    assert str(error) == "cannot show the status: a.yaml:1:1: one; a.yaml:2:1: two"


def test_an_unknown_name_is_exit_2_with_the_nearest(control: Path, face: FakeFace) -> None:
    """404 is what the command line calls an unknown name."""
    error = refusal(Client(control), "/v1/status?target=lm")

    assert (error.exit_code, error.hint) == (2, "did you mean llm?")
    assert str(error) == 'cannot show the status: there is no service "lm"'


# ---- no daemon ------------------------------------------------------------------------------------------------------


def test_a_missing_socket_is_no_daemon(control: Path) -> None:
    """Nothing there: exit 4, the path, and how to start one."""
    error = refusal(Client(control))

    assert error.exit_code == 4
    assert str(control) in str(error)
    assert str(error).startswith("cannot reach the daemon: ")
    assert "gpu-supervisor run FILE" in error.hint


def test_a_socket_that_nobody_listens_on_is_no_daemon(control: Path) -> None:
    """A daemon that was killed leaves its socket: exit 4."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(control))

    assert refusal(Client(control)).exit_code == 4


def test_a_file_in_the_sockets_place_is_no_daemon(control: Path) -> None:
    """Not a socket: refused by the system as one that nobody listens on."""
    control.write_text("")

    assert refusal(Client(control)).exit_code == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may everything")
def test_a_socket_of_somebody_else_is_named_as_such(control: Path, face: FakeFace) -> None:
    """Permission denied is not "no daemon"."""
    control.chmod(0)

    error = refusal(Client(control))

    assert (1, f"cannot reach the daemon: permission denied on {control}") == (error.exit_code, str(error))


def test_permission_denied_is_named_and_is_not_no_daemon(control: Path) -> None:
    """The words for it, also where tests run as root."""
    error = client_module._unreachable(str(control), PermissionError(13, "Permission denied"))

    assert (1, f"cannot reach the daemon: permission denied on {control}") == (error.exit_code, str(error))
    assert "root" in error.hint


# ---- no good answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words", "exit_code"),
    [
        (http_answer(b"<html>"), "is no JSON object", 1),
        (http_answer(b"[1]"), "is no JSON object", 1),
        (http_answer(b"[" * 100_000), "is no JSON object", 1),
        (http_answer(b"{}", status="503 Busy"), "the daemon refuses (HTTP 503)", 1),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "gave no good answer", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "ended before it had answered", 4),
        (b"", "ended before it had answered", 4),
    ],
)
def test_a_bad_answer_is_a_sentence(control: Path, answer: bytes, words: str, exit_code: int) -> None:
    """Whatever comes back, the error says what was wrong and where."""
    with canned(control, answer):
        error = refusal(Client(control))

    assert words in str(error)
    assert str(control) in str(error) or "HTTP" in str(error)
    assert exit_code == error.exit_code


def test_an_answer_beyond_the_bound_is_refused(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is read up to its bound and no further."""
    monkeypatch.setattr(client_module, "ANSWER_MAX_BYTES", 10)
    with canned(control, http_answer(b'{"a": "0123456789"}')):
        assert "more than 10 bytes" in str(refusal(Client(control)))


def test_a_daemon_that_does_not_answer_is_not_waited_for(control: Path) -> None:
    """Silence has its limit; it is not "no daemon", since somebody listens."""
    hold = threading.Event()
    with canned(control, http_answer(b"{}"), hold=hold):
        error = refusal(Client(control), timeout_s=0.05)
        hold.set()

    assert (1, f"cannot show the status: the daemon at {control} does not answer") == (error.exit_code, str(error))


def test_a_daemon_that_takes_no_connections_is_not_waited_for(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog is waited for a while, and then said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(control))
        listener.listen(0)
        first.connect(str(control))

        with pytest.raises(CannotError) as caught:
            client_module._connect(str(control), 0.05)

    assert f"cannot reach the daemon: the daemon at {control} takes no connections" == str(caught.value)


# ---- the end --------------------------------------------------------------------------------------------------------


def test_shut_down_returns_when_the_connection_has_ended(control: Path) -> None:
    """Where the peer's process cannot be told (this one is the test's own), the end of the connection counts."""
    face = FakeFace()
    with served(face, control):
        Client(control).shut_down()

    assert "shutdown" in face.asked
    assert refusal(Client(control)).exit_code == 4


def test_shut_down_waits_for_the_process_not_only_for_its_socket(tmp_path: Path, control: Path) -> None:
    """A daemon that has hung up may still hold its lock: the next one must find it free."""
    program = textwrap.dedent(
        """
        import json, os, socket, sys, pathlib
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(sys.argv[1])
        listener.listen()
        print("listening", flush=True)
        connection, _ = listener.accept()
        connection.recv(65536)
        body = json.dumps({"ok": True, "pid": os.getpid()}).encode()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
        connection.close()
        listener.close()
        print("hung up", flush=True)
        sys.stdin.read()
        pathlib.Path(sys.argv[2]).touch()
        """
    )
    last = tmp_path / "last"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program, str(control), str(last)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdin is not None
        daemon.stdout.readline()
        seen: list[bool] = []

        def ask() -> None:
            Client(control).shut_down()
            seen.append(last.exists())

        asking = threading.Thread(target=ask)
        asking.start()
        assert daemon.stdout.readline() == b"hung up\n"
        daemon.stdin.close()
        asking.join(PATIENCE_S)

    assert seen == [True]


def test_shut_down_of_nobody_is_no_daemon(control: Path) -> None:
    """Exit 4, as for every command."""
    with pytest.raises(CannotError) as caught:
        Client(control).shut_down()

    assert caught.value.exit_code == 4
