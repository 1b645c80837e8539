"""
The client's side of the control socket: one request, one bounded answer, and in words what went wrong.

The little of HTTP that it takes is here: http.client, dataclasses, typing and pathlib together take twice as long to
import as an interpreter to start, and every command comes by here. Judges no answer.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from contextlib import closing, contextmanager, suppress

from supervisor.errors import CannotError
from supervisor.rendezvous import no_daemon, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, BinaryIO

    Json = dict[str, Any]

ANSWER_MAX_BYTES = 64 * 1024 * 1024
"""Far beyond the status of the most workers a file may have, last words included."""

ANSWER_S = 10.0
"""The daemon answers from memory within milliseconds; one that does not is stopped or in trouble."""

DETAILS = frozenset({"type", "title", "status", "detail"})
"""Of a refusal, by RFC 9457."""

LINE_MAX_BYTES = 64 * 1024
"""Of a line of a head; the daemon's are short."""

_PEER = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid.
_TIME = struct.Struct("ll")  # struct timeval.


class _GarbledError(Exception):
    """What came is not HTTP."""


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


class Client:
    """
    Asks one daemon. Every request is a connection of its own.

    Args:
        path: Of its control socket.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

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
        with closing(_connect(self.path, ANSWER_S)) as connection:
            try:
                connection.settimeout(ANSWER_S)
                with _ask(connection, "GET", _url(route, params), None) as file:
                    status, _ = _read_head(file)
                    if status != 200:
                        _understand(status, file.read(ANSWER_MAX_BYTES + 1), thing, self.path)
                    connection.settimeout(None)
                    yield from _events(file)
            except TimeoutError:
                cause = f"the daemon at {self.path} does not answer"
                raise CannotError(thing, cause, hint="its process may be stopped or very busy") from None
            except (EOFError, ConnectionError):
                raise no_daemon(self.path, "the daemon ended before it had answered") from None
            except _GarbledError as error:
                raise CannotError(thing, f"the daemon at {self.path} gave no good answer: {error}") from None

    def shut_down(self) -> Json:
        """
        Ask the daemon to end, and return when it has.

        Returns:
            Its answer, with the systemd ``unit`` that it was started by, or None there.

        Raises:
            AnswerError: The daemon refuses.
            CannotError: There is no daemon (4), or no answer that can be used.
        """
        with closing(_connect(self.path, ANSWER_S)) as connection:
            connection.settimeout(ANSWER_S)
            peer = _peer_pid(connection)
            with _pidfd(peer) as process:
                answer = self._exchange(connection, "POST", "/v1/shutdown", "shut down", is_kept=True)
                # A listening socket may have been made by somebody else, who does not end: believe both or none.
                if process is not None and answer.get("pid") == peer:
                    _wait_readable(process)
                else:
                    _wait_closed(connection)
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
        with closing(_connect(self.path, ANSWER_S)) as connection:
            connection.settimeout(timeout_s)
            return self._exchange(connection, method, _url(route, params), thing, body=body)

    def _exchange(
        self,
        connection: socket.socket,
        method: str,
        url: str,
        thing: str,
        *,
        body: Mapping[str, object] | None = None,
        is_kept: bool = False,
    ) -> Json:
        content = None if body is None else json.dumps(body).encode()
        try:
            with _ask(connection, method, url, content, is_kept=is_kept) as file:
                status, length = _read_head(file)
                limit = ANSWER_MAX_BYTES + 1
                answer = file.read(limit if length is None else min(length, limit))
        except TimeoutError:
            cause = f"the daemon at {self.path} does not answer"
            raise CannotError(thing, cause, hint="its process may be stopped or very busy") from None
        except (EOFError, ConnectionResetError, BrokenPipeError):
            raise no_daemon(self.path, "the daemon ended before it had answered") from None
        except (_GarbledError, OSError) as error:
            raise CannotError(thing, f"the daemon at {self.path} gave no good answer: {error}") from error
        if length is not None and len(answer) < min(length, limit):
            raise no_daemon(self.path, "the daemon ended before it had answered")
        return _understand(status, answer, thing, self.path)


def _url(route: str, params: Mapping[str, str] | None) -> str:
    if not params:
        return route
    from urllib.parse import urlencode  # noqa: PLC0415 - See the module.

    # Names of files need not be UTF-8.
    return f"{route}?{urlencode(params, errors='surrogateescape')}"


def _ask(connection: socket.socket, method: str, url: str, body: bytes | None, *, is_kept: bool = False) -> BinaryIO:
    """Send a request; what comes back. Of version 1.0 an answer comes in one piece and ends the connection."""
    head = [f"{method} {url} HTTP/1.{int(is_kept)}", "Host: localhost", "Accept-Encoding: identity"]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    connection.sendall("\r\n".join((*head, "", "")).encode() + (body or b""))
    return connection.makefile("rb")


def _read_head(file: BinaryIO) -> tuple[int, int | None]:
    """The status of an answer and the bytes of its body, None where it goes on to the end."""
    line = file.readline(LINE_MAX_BYTES)
    if not line:
        raise EOFError
    words = line.split()
    if not line.startswith(b"HTTP/1.") or len(words) < 2 or not words[1].isdigit():
        raise _GarbledError(repr(line[:60].decode(errors="replace")))
    status, length = int(words[1]), None
    while (line := file.readline(LINE_MAX_BYTES)) not in {b"\r\n", b"\n"}:
        if not line:
            raise EOFError
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            if not value.strip().isdigit():
                raise _GarbledError(f"a length of {value.strip().decode(errors='replace')}")
            length = int(value)
    return status, length


def _events(file: BinaryIO) -> Iterator[tuple[int | None, str, Json]]:
    """Server-sent events. A stream that ends without an event of type ``end`` was cut off."""
    number, kind = None, "message"
    for line in file:
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
    raise EOFError


def _connect(path: str, patience_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # With a timeout of Python's own, the socket would not block, and a full backlog be an error at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _time(patience_s))
        connection.connect(path)
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


def _unreachable(path: str, error: OSError) -> CannotError:
    if isinstance(error, PermissionError):
        return CannotError(
            "reach the daemon", f"permission denied on {path}", hint="ask as the user who runs it, or as root"
        )
    if isinstance(error, BlockingIOError):
        cause = f"the daemon at {path} takes no connections"
        return CannotError("reach the daemon", cause, hint="its process may be stopped or very busy")
    return CannotError("reach the daemon", f"{words(error)}: {path}")


def _understand(status: int, content: bytes, thing: str, path: str) -> Json:
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
