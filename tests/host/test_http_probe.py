"""One question by HTTP: what counts as well, what does not, and that nobody is made to wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from supervisor.core.file.probe_keys import split_url
from supervisor.core.file.problems import BadValueError
from supervisor.host.http_probe import HEAD_MAX_BYTES, http_fault
from tests.host import looping
from tests.host.looping import Run, until

run = looping.run
no_leaks = looping.no_leaks

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def server(
    answer: bytes, *, hangs: bool = False, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[int, list[bytes]]]:
    heard: list[bytes] = []
    served: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            if hangs:
                await reader.read()
        writer.close()
        served.append(answer)

    async with await asyncio.start_server(serve, host, 0) as listener:
        yield listener.sockets[0].getsockname()[1], heard
        await until(lambda: len(served) == len(heard))


async def fault_of(answer: bytes, *, text: str = "/health", timeout_s: float = 5.0) -> str | None:
    async with server(answer) as (port, _):
        return await http_fault(asyncio.get_running_loop(), split_url(text), port, timeout_s)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK, ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", ""),
        (b"HTTP/1.1 399 Odd\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 400 Bad\r\n\r\n", "/health answered 400"),
        (b"HTTP/1.1 503 Loading\r\n\r\n", "/health answered 503"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n", "/health answered 500"),
    ],
)
def test_a_status_of_200_to_399_is_well(run: Run, answer: bytes, expected: str) -> None:
    """As kubelet has it; where a redirect leads is not asked."""

    async def main() -> None:
        assert await fault_of(answer) == expected

    run(main())


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 2000 x\r\n", b"x" * (2 * HEAD_MAX_BYTES), b"HTTP/1.1 103 x\r\nA: b\r\n"],
)
def test_what_is_no_http_is_not_well(run: Run, answer: bytes) -> None:
    """And is read to a bound only."""

    async def main() -> None:
        fault = await fault_of(answer)
        assert fault
        assert "/health was " in fault
        assert len(fault) < 120

    run(main())


def test_what_is_asked_is_what_the_file_says(run: Run) -> None:
    """The path with its query, the host as it was named, and no connection that is kept."""

    async def main() -> None:
        async with server(OK) as (port, heard):
            url = split_url(f"http://localhost:{port}/a/b?c=%20#d")
            assert await http_fault(asyncio.get_running_loop(), url, 1, 5.0) == ""

            head = heard[0].decode().split("\r\n")
            assert head[0] == "GET /a/b?c=%20 HTTP/1.1"
            assert f"Host: 127.0.0.1:{port}" in head
            assert "Connection: close" in head

    run(main())


def test_a_server_on_the_other_loopback_is_found(run: Run) -> None:
    """A path is asked on 127.0.0.1 and, if refused there, on ::1."""

    async def main() -> None:
        async with server(OK, host="::1") as (port, _):
            loop = asyncio.get_running_loop()
            assert await http_fault(loop, split_url("/"), port, 5.0) == ""
            assert await http_fault(loop, split_url(f"http://[::1]:{port}"), 1, 5.0) == ""
            fault = await http_fault(loop, split_url(f"http://127.0.0.1:{port}"), 1, 5.0)
            assert fault == f"port {port}: connection refused"

    run(main())


def test_a_server_that_hangs_is_not_waited_for(run: Run) -> None:
    """Before its first byte the probe has failed; behind its status it has not."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with server(b"", hangs=True) as (port, _):
            fault = await http_fault(loop, split_url("/health"), port, 0.2)
            assert fault == f"port {port}: /health was not answered within 0.2 s"
        async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", hangs=True) as (port, _):
            assert await http_fault(loop, split_url("/health"), port, 30.0) == ""

    run(main())


@pytest.mark.parametrize(
    "text",
    [
        *("health", "https://127.0.0.1/", "http://192.0.2.1/", "http://example.com/", "http://127.0.0.1.evil.org/"),
        *("/a b", "http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.999/", "/a\r\nX: y"),
        *("http://u@localhost/", "/\u00e9"),
    ],
)
def test_what_leads_off_this_host_is_no_url(text: str) -> None:
    """Nor is what would not go over the wire as one line."""
    with pytest.raises(BadValueError):
        split_url(text)
