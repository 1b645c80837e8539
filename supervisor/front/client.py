"""
The client's side of the control socket: one request, one bounded answer, and in words what went wrong.

Standard library only, since it is on the way of every command and those must feel instant. Judges no answer.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from supervisor.errors import CannotError
from supervisor.rendezvous import no_daemon, words

Json = dict[str, Any]

ANSWER_MAX_BYTES = 64 * 1024 * 1024
"""Far beyond the status of the most workers a file may have, last words included."""

ANSWER_S = 10.0
"""The daemon answers from memory within milliseconds; one that does not is stopped or in trouble."""

DETAILS = frozenset({"type", "title", "status", "detail"})
"""Of a refusal, by RFC 9457."""

_PEER = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid.
_TIME = struct.Struct("ll")  # struct timeval.


class AnswerError(CannotError):
    """
    The daemon's answer is a refusal.

    Args:
        thing: What was asked for, as an infinitive.
        status: Of HTTP.
        answer: The JSON, with ``problems``; what the standard's members say besides is said by the others.
    """

    def __init__(self, thing: str, status: int, answer: Json) -> None:
        self.status = status
        self.answer = {name: value for name, value in answer.items() if name not in DETAILS}
        self.problems = tuple(str(problem) for problem in answer["problems"])
        hint = str(answer.get("hint", ""))
        super().__init__(thing, "; ".join(self.problems), hint=hint, exit_code=2 if status == 404 else 1)


@dataclass(frozen=True, slots=True)
class Client:
    """
    Asks one daemon. Every request is a connection of its own.

    Args:
        path: Of its control socket.
    """

    path: Path

    def get(
        self,
        route: str,
        params: Mapping[str, str] | None = None,
        *,
        thing: str = "ask the daemon",
        timeout_s: float | None = ANSWER_S,
    ) -> Json:
        """
        Ask for something.

        Args:
            route: ``/v1/status``.
            params: Of the query.
            thing: What for, as an infinitive, for the error.
            timeout_s: Seconds of silence to bear, None = no limit.

        Raises:
            AnswerError: The daemon refuses.
            CannotError: There is no daemon (4), or no answer that can be used.
        """
        return self._ask("GET", route, params, thing, timeout_s)

    def post(
        self,
        route: str,
        params: Mapping[str, str] | None = None,
        *,
        thing: str = "ask the daemon",
        timeout_s: float | None = ANSWER_S,
        body: Mapping[str, object] | None = None,
    ) -> Json:
        """Ask for a change; as `get`. *body*: more of what is asked for, as JSON."""
        return self._ask("POST", route, params, thing, timeout_s, body=body)

    def stream(
        self, route: str, params: Mapping[str, str] | None = None, *, thing: str = "ask the daemon"
    ) -> Iterator[tuple[int | None, str, Json]]:
        """
        Ask for events, for as long as they come.

        Args:
            route: ``/v1/logs``.
            params: Of the query.
            thing: What for, as an infinitive, for the error.

        Yields:
            Number, type (``message`` where none is said) and data of each event.

        Raises:
            AnswerError: The daemon refuses.
            CannotError: There is no daemon (4), or it ends in the middle.
        """
        query = urlencode(params or {}, errors="surrogateescape")
        with closing(_Connection(self.path, ANSWER_S)) as connection:
            try:
                connection.request("GET", f"{route}?{query}" if query else route)
                response = connection.getresponse()
                if response.status != http.client.OK:
                    _understand(response.status, response.read(ANSWER_MAX_BYTES + 1), thing, self.path)
                if connection.sock is not None:
                    connection.sock.settimeout(None)
                yield from _events(response)
            except TimeoutError:
                cause = f"the daemon at {self.path} does not answer"
                raise CannotError(thing, cause, hint="its process may be stopped or very busy") from None
            except (http.client.HTTPException, ConnectionError):
                raise no_daemon(self.path, "the daemon ended before it had answered") from None

    def shut_down(self) -> Json:
        """
        Ask the daemon to end, and return when it has.

        Returns:
            Its answer, with the systemd ``unit`` that it was started by, or None there.

        Raises:
            AnswerError: The daemon refuses.
            CannotError: There is no daemon (4), or no answer that can be used.
        """
        with closing(_Connection(self.path, ANSWER_S)) as connection:
            connection.connect()
            peer = _peer_pid(connection.sock)
            with _pidfd(peer) as process:
                answer = self._exchange(connection, "POST", "/v1/shutdown", "shut down")
                # A listening socket may have been made by somebody else, who does not end: believe both or none.
                if process is not None and answer.get("pid") == peer:
                    _wait_readable(process)
                elif connection.sock is not None:
                    _wait_closed(connection.sock)
        return answer

    def _ask(
        self,
        method: str,
        route: str,
        params: Mapping[str, str] | None,
        thing: str,
        timeout_s: float | None,
        *,
        body: Mapping[str, object] | None = None,
    ) -> Json:
        # Names of files need not be UTF-8.
        query = urlencode(params or {}, errors="surrogateescape")
        with closing(_Connection(self.path, timeout_s)) as connection:
            return self._exchange(connection, method, f"{route}?{query}" if query else route, thing, body=body)

    def _exchange(
        self, connection: _Connection, method: str, url: str, thing: str, *, body: Mapping[str, object] | None = None
    ) -> Json:
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, url, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            content = response.read(ANSWER_MAX_BYTES + 1)
            is_cut = bool(response.length) and len(content) <= ANSWER_MAX_BYTES
        except TimeoutError:
            cause = f"the daemon at {self.path} does not answer"
            raise CannotError(thing, cause, hint="its process may be stopped or very busy") from None
        except (ConnectionResetError, BrokenPipeError):
            raise no_daemon(self.path, "the daemon ended before it had answered") from None
        except (http.client.HTTPException, OSError) as error:
            raise CannotError(thing, f"the daemon at {self.path} gave no good answer: {error}") from error
        if is_cut:
            raise no_daemon(self.path, "the daemon ended before it had answered")
        return _understand(response.status, content, thing, self.path)


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[int | None, str, Json]]:
    """Server-sent events. A stream that ends without an event of type ``end`` was cut off."""
    number, kind = None, "message"
    for line in response:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        match name:
            case "id":
                number = int(value.rpartition("-")[2])
            case "event":
                kind = value
            case "data":
                yield number, kind, json.loads(value)
                if kind == "end":
                    return
                number, kind = None, "message"
            case _:
                pass
    raise http.client.IncompleteRead(b"")


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = _connect(self._path, ANSWER_S)
        self.sock.settimeout(self.timeout)


def _connect(path: Path, patience_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # With a timeout of Python's own, the socket would not block, and a full backlog be an error at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _time(patience_s))
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise no_daemon(path) from None
    except OSError as error:
        connection.close()
        raise _unreachable(path, error) from error
    return connection


def _time(seconds: float) -> bytes:
    """A struct timeval. Nothing at all would mean no limit."""
    whole, part = divmod(max(seconds, 0.001), 1)
    return _TIME.pack(int(whole), int(part * 1_000_000))


def _unreachable(path: Path, error: OSError) -> CannotError:
    if isinstance(error, PermissionError):
        return CannotError(
            "reach the daemon", f"permission denied on {path}", hint="ask as the user who runs it, or as root"
        )
    if isinstance(error, BlockingIOError):
        cause = f"the daemon at {path} takes no connections"
        return CannotError("reach the daemon", cause, hint="its process may be stopped or very busy")
    return CannotError("reach the daemon", f"{words(error)}: {path}")


def _understand(status: int, content: bytes, thing: str, path: Path) -> Json:
    """The JSON of a good answer; a refusal raises."""
    if len(content) > ANSWER_MAX_BYTES:
        raise CannotError(thing, f"the answer of {path} has more than {ANSWER_MAX_BYTES} bytes")
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise CannotError(
            thing, f"the answer of {path} (HTTP {status}) is no JSON object", hint="is it a gpu-supervisor's socket?"
        )
    if 200 <= status < 300:
        return answer
    if not isinstance(answer.get("problems"), list) or not answer["problems"]:
        # A proxy that is in between has problem details of its own, if any.
        answer["problems"] = [str(answer.get("detail") or answer.get("title") or f"the daemon refuses (HTTP {status})")]
    raise AnswerError(thing, status, answer)


def _peer_pid(connection: socket.socket) -> int:
    """Process at the other end; 0 where the system does not say, or where it lives in another pid namespace."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return 0
    pid, _, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _PEER.size))
    return int(pid)


@contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    """A descriptor of the process, None where there is no such thing."""
    try:
        descriptor = os.pidfd_open(pid) if pid > 0 and hasattr(os, "pidfd_open") else None
    except OSError:
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_readable(descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    waiting.poll()


def _wait_closed(connection: socket.socket) -> None:
    connection.settimeout(None)
    with suppress(OSError):
        while connection.recv(4096):
            pass
