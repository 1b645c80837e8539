"""The API over TCP as an attacker sees it: nothing without the token, nobody's page, and no place for who dawdles."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
from collections.abc import AsyncGenerator
from itertools import count
from typing import Any

import pytest
import structlog

from supervisor.front.routes import ROUTES
from tests.front.fakes import PATIENCE_S, FakeFace, a_device, a_status, a_worker, an_exit
from tests.front.tcp import BEARER, TOKEN, Served, serving_tcp

SECRETS = ("hunter2", "last words")


def a_face() -> FakeFace:
    """A worker whose variables and last words are nobody's business."""
    exit_ = an_exit(tail=["last words"])
    worker = a_worker("llm/0", env={"CUDA_VISIBLE_DEVICES": "0", "HUNTER": "hunter2"}, last_exit=exit_)
    face = FakeFace(a_status(worker, devices=(a_device(),)))
    face.told = ({"lines": [{"number": 1, "worker": "llm/0", "incarnation": 1, "at": "", "line": "last words"}]},)
    return face


# ---- the token ------------------------------------------------------------------------------------------------------


async def test_without_the_token_one_sees_what_is_everybodys() -> None:
    """Status without variables and last lines; devices, metrics, health. With it, all of it."""
    async with serving_tcp(a_face()) as served:
        for path in ("/v1/status", "/v1/devices", "/v1/metrics", "/v1/healthz", "/v1/readyz", "/v1/status?target=llm"):
            answer = await served.ask("GET", path)
            assert answer.status == 200, path
            assert not any(secret in answer.body.decode() for secret in SECRETS), path
        hidden = (await served.ask("GET", "/v1/status")).json["services"][0]["workers"][0]
        assert (hidden["env"], hidden["last_exit"]["tail"], hidden["last_exit"]["code"]) == (None, None, 1)

        seen = (await served.ask("GET", "/v1/status", BEARER)).json
        assert seen == a_face().shown


@pytest.mark.parametrize("route", [one for one in ROUTES if not one.is_open], ids=lambda one: one.name)
async def test_everything_else_needs_the_token(route: object) -> None:
    """Nothing is asked of the daemon before it is there, and no answer has a secret in it."""
    face = a_face()
    method, path = route.method, route.path  # type: ignore[attr-defined]
    query = "?target=llm/0" if "explain" in path or method == "POST" else ""
    async with serving_tcp(face) as served:
        for headers in (
            (),
            ("Authorization: Bearer wrong",),
            ("Authorization: Bearer",),
            (f"Authorization: Basic {TOKEN}",),
            (f"Authorization: {TOKEN}",),
            (f"Authorization: Bearer {TOKEN}x",),
            (f"Authorization: Bearer {TOKEN[:-1]}",),
            ("Authorization: Bearer \xff\xfe",),
            (BEARER, "Authorization: Bearer wrong"),
            (f"Cookie: token={TOKEN}",),
            (f"X-Token: {TOKEN}",),
        ):
            answer = await served.ask(method, path + query, *headers)
            assert answer.status == 401, headers
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert not any(secret in answer.body.decode() for secret in (*SECRETS, TOKEN))
        token_in_query = await served.ask(method, f"{path}{query}{'&' if query else '?'}token={TOKEN}")
        assert token_in_query.status == 401

    assert face.asked == []


async def test_a_wrong_token_is_not_taken_for_none_and_is_told_of() -> None:
    """Who sends one wants to see more. The log says who guesses, not what, and not for every guess."""
    with structlog.testing.capture_logs() as logs:
        async with serving_tcp(a_face()) as served:
            for _ in range(3):
                assert (await served.ask("GET", "/v1/status", "Authorization: Bearer guessed")).status == 401

    (line,) = logs
    assert (line["event"], line["path"], line["peer"].split(":")[0]) == ("http.denied", "/v1/status", "127.0.0.1")
    assert "guessed" not in str(line)


async def test_where_the_file_names_no_token_nothing_opens_what_needs_one() -> None:
    """Not even an empty one."""
    face = a_face()
    async with serving_tcp(face, token=None) as served:
        assert (await served.ask("GET", "/v1/status")).status == 200
        for headers in ((), ("Authorization: Bearer",), ("Authorization: Bearer None",), (BEARER,)):
            answer = await served.ask("POST", "/v1/stop?target=llm", *headers)
            assert answer.status == 403
            assert "daemon.http_token_file" in answer.json["hint"]

    assert face.asked == []


async def test_with_the_token_changes_are_made_and_logged_with_the_address() -> None:
    face = a_face()
    async with serving_tcp(face) as served:
        assert (await served.ask("POST", "/v1/stop?target=llm", BEARER)).status == 200
        assert b"last words" in (await served.ask("GET", "/v1/logs?follow=0", BEARER)).body

    what, peer = face.asked[0][1:]
    assert what == "stop llm"
    assert peer["peer"].startswith("127.0.0.1:")
    assert ("stop", ("llm",)) in face.asked


async def test_another_file_is_planned_over_the_control_socket_only() -> None:
    """What its problems say would tell what stands in any file of the machine."""
    face = a_face()
    async with serving_tcp(face) as served:
        assert (await served.ask("GET", "/v1/plan?file=/etc/shadow", BEARER)).status == 403
        assert (await served.ask("GET", "/v1/plan", BEARER)).status == 200

    assert face.asked == [("plan", None)]


# ---- pages of other sites -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost", 200),
        ("LOCALHOST:9400", 200),
        ("localhost.:9400", 200),
        ("page.localhost", 200),
        ("[::1]:9400", 200),
        ("gpubox:9400", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evillocalhost", 421),
        ("10.0.0.1", 421),
        ("127.0.0.1@evil.example", 421),
        ("evil.example/127.0.0.1", 421),
        ("[::1", 421),
        ("127.0.0.1:x", 421),
        ("2130706433", 421),
    ],
)
async def test_nobody_is_answered_who_asks_for_somebody_else(host: str, status: int) -> None:
    """A name of an attacker's that points here is told by the Host header alone."""
    async with serving_tcp(a_face()) as served:
        for headers in ((), (BEARER,)):
            answer = await served.ask("GET", "/v1/status", *headers, host=host)
            assert answer.status == status
            assert status == 200 or b"llm" not in answer.body


async def test_whoever_binds_every_address_is_asked_at_any() -> None:
    """An address cannot be rebound; a name still can."""
    async with serving_tcp(a_face(), host="0.0.0.0") as served:
        assert (await served.ask("GET", "/v1/status", host="10.1.2.3:9400")).status == 200
        assert (await served.ask("GET", "/v1/status", host="evil.example")).status == 421


async def test_one_host_header_and_no_whole_url() -> None:
    """What a proxy and we could understand in two ways is refused."""
    async with serving_tcp(a_face()) as served:
        for raw in (
            b"GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n",
            b"GET /v1/status HTTP/1.0\r\n\r\n",
            b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            b"GET http://evil.example/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET http://localhost/v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        ):
            answer = await served.say(raw)
            assert b" 400 " in answer.splitlines()[0], raw
            assert b"llm" not in answer


@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: http://evil.example",),
        ("Origin: null",),
        ("Origin: https://localhost.evil.example",),
        ("Sec-Fetch-Site: cross-site",),
        ("Sec-Fetch-Site: same-site",),
    ],
)
async def test_no_page_of_another_site_changes_anything(headers: tuple[str, ...]) -> None:
    """Not even with the token."""
    face = a_face()
    async with serving_tcp(face) as served:
        answer = await served.ask("POST", "/v1/stop?target=llm", BEARER, *headers)
        assert answer.status == 403
        own = f"Origin: http://127.0.0.1:{served.port}"
        assert (await served.ask("POST", "/v1/stop?target=llm", BEARER, own)).status == 200

    assert face.asked.count(("stop", ("llm",))) == 1


async def test_no_other_site_is_allowed_to_read() -> None:
    """There is no CORS, no framing, no guessing of types; preflights are refused."""
    async with serving_tcp(a_face()) as served:
        for answer in (
            await served.ask("GET", "/v1/status", "Origin: http://evil.example"),
            await served.ask("OPTIONS", "/v1/stop", f"Origin: http://127.0.0.1:{served.port}"),
            await served.ask("GET", "/nothing"),
        ):
            assert not any(name.startswith("access-control-") for name in answer.headers)
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"


# ---- the page -------------------------------------------------------------------------------------------------------


async def test_the_page_may_run_itself_and_ask_us_and_nothing_else() -> None:
    """Its rules name what stands in it by digest; it names no other place, and needs no token to be seen."""
    async with serving_tcp(a_face()) as served:
        answer = await served.ask("GET", "/")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert (await served.ask("GET", "/", host="evil.example")).status == 421
        assert (await served.ask("GET", "/page.html")).status == 404

    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert re.findall(r"https?://[^'\s]+", answer.body.decode()) == ["http://www.w3.org/2000/svg"]
    assert b"innerHTML" not in answer.body


# ---- paths, methods, sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "//v1/reload",
        "/v1/reload/",
        "/v1//reload",
        "/v1/./reload",
        "/v1/status/../reload",
        "/v1/%72eload",
        "/V1/RELOAD",
        "/v1/reload%00",
        "/v1/reload;x",
        "/v1/status%2f..%2freload",
        "/../../etc/passwd",
        "/v1/reload?x=/v1/status",
    ],
)
async def test_no_way_of_writing_a_path_gets_around_the_token(path: str) -> None:
    face = a_face()
    async with serving_tcp(face) as served:
        for method in ("POST", "GET", "PUT", "DELETE"):
            assert (await served.ask(method, path)).status in {400, 401, 404, 405}, method

    assert face.asked == []


async def test_nothing_is_changed_by_get() -> None:
    face = a_face()
    async with serving_tcp(face) as served:
        for route in ROUTES:
            if route.method == "POST":
                assert (await served.ask("GET", route.path, BEARER)).status == 405
                assert (await served.ask("GET", route.path, BEARER, "X-HTTP-Method-Override: POST")).status == 405

    assert face.asked == []


async def test_what_is_too_large_is_refused() -> None:
    """Heads of any shape, and bodies that say their size, or do not."""
    face = a_face()
    async with serving_tcp(face) as served:
        assert (await served.ask("GET", f"/v1/status?{'x' * 100_000}")).status == 400
        assert (await served.ask("GET", "/v1/status", f"X-Large: {'x' * 100_000}")).status == 400
        answer = await served.ask("POST", "/v1/reload", BEARER, body=b"x" * 200_000)
        assert answer.status == 413
        head = f"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\n{BEARER}\r\nConnection: close\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n"
        said = await served.say(head.encode() + b"10000\r\n" + b"x" * 65536 + b"\r\n" + b"1\r\nx\r\n0\r\n\r\n")
        assert b" 413 " in said.splitlines()[0]

    assert face.asked == []


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/status HTTP/1.1\nHost: localhost\n\n",
        b"GET /v1/status\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_could_be_understood_in_two_ways_is_refused_and_the_line_cut(raw: bytes) -> None:
    """A second request hidden behind it is not seen."""
    face = a_face()
    hidden = f"POST /v1/stop?target=llm HTTP/1.1\r\nHost: localhost\r\n{BEARER}\r\nContent-Length: 0\r\n\r\n".encode()
    async with serving_tcp(face) as served:
        said = await served.say(raw + hidden)

    assert said[:12] in {b"HTTP/1.1 400", b"HTTP/1.0 400"}, said
    assert b"application/problem+json" in said
    assert face.asked == []


# ---- time -----------------------------------------------------------------------------------------------------------


async def test_who_sends_bit_by_bit_is_cut_off() -> None:
    """Nothing at all, half a head, half a body, and half a second request."""
    face = a_face()
    body = f"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\n{BEARER}\r\nContent-Length: 10\r\n\r\nGET"
    async with serving_tcp(face, patience_s=1) as served:
        nothing, half_a_head, half_a_body, half_a_second = await asyncio.gather(
            served.say(b""),
            served.say(b"GET /v1/status HTTP/1.1\r\nHost: loc"),
            served.say(body.encode()),
            served.say(b"GET /v1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/sta"),
        )

    assert nothing == half_a_head == b""
    assert b" 408 " in half_a_body
    assert half_a_second.count(b"HTTP/1.1 200") == 1
    assert face.asked == []


async def test_who_does_not_read_is_cut_off() -> None:
    """An answer larger than what the system keeps for a client, and an endless one."""
    face = a_face()
    face.shown["daemon"]["file"] = "x" * 20_000_000
    async with serving_tcp(face, patience_s=0.5) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            while not served.house.count:  # noqa: ASYNC110 - Nobody tells.
                await asyncio.sleep(0.01)
        await _wait_gone(served)
        writer.close()
        del reader


async def test_a_stream_that_nobody_reads_ends_for_its_source_too() -> None:
    """What workers say does not pile up for a client that has stopped reading."""
    face = a_face()
    closed = asyncio.Event()

    async def logs(*_: object, **__: object) -> AsyncGenerator[Any, None]:
        line = {"worker": "llm/0", "incarnation": 1, "at": "", "line": "x" * 10_000}
        try:
            for number in count():
                yield {"lines": [{"number": number, **line}]}
        finally:
            closed.set()

    face.logs = logs  # type: ignore[method-assign]
    async with serving_tcp(face, patience_s=0.5) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.write(f"GET /v1/logs HTTP/1.1\r\nHost: localhost\r\n{BEARER}\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()
        await _wait_gone(served)
        writer.close()


async def _wait_gone(served: Served) -> None:
    """Return when nobody is there any more."""
    async with asyncio.timeout(PATIENCE_S):
        while served.house.count:  # noqa: ASYNC110 - Nobody tells.
            await asyncio.sleep(0.01)


async def test_a_full_house_lets_go_who_waits_longest_with_nothing_asked() -> None:
    """Whoever takes all places by being silent keeps nobody out; those who are being answered stay."""
    face = FakeFace(a_status(a_worker("llm/0", "starting")))
    async with serving_tcp(face, guests_max=3) as served:
        waiting = asyncio.create_task(served.ask("GET", "/v1/status?wait=ready"))
        async with asyncio.timeout(PATIENCE_S):
            await face.waiting.wait()
        silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(5)]
        assert (await served.ask("GET", "/v1/healthz")).status == 200
        face.show(a_status(a_worker("llm/0")))
        assert (await waiting).status == 200
        for _, writer in silent:
            writer.close()


async def test_who_comes_when_everybody_is_being_answered_is_told_so() -> None:
    face = FakeFace(a_status(a_worker("llm/0", "starting")))
    async with serving_tcp(face, guests_max=1) as served:
        waiting = asyncio.create_task(served.ask("GET", "/v1/status?wait=ready"))
        async with asyncio.timeout(PATIENCE_S):
            await face.waiting.wait()
        assert (await served.say(b"")).startswith(b"HTTP/1.1 503 ")
        face.show(a_status(a_worker("llm/0")))
        assert (await waiting).status == 200
