"""The routes, through a real unix socket and a fake face."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import uvloop

from supervisor.errors import CannotError, ProblemsError
from tests.front.fakes import PATIENCE_S, FakeFace, a_device, a_status, a_worker, serving

Answer = tuple[int, Any]


def without_details(status: int, answer: Any) -> Any:
    """What a refusal says in words of our own."""
    standard = {name: answer.pop(name) for name in ("type", "title", "status", "detail")}
    title, detail = HTTPStatus(status).phrase, "; ".join(answer["problems"])
    assert standard == {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return answer


class Asking:
    """A session on the socket."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, method: str, url: str, **more: Any) -> Answer:
        """Status and JSON; of a refusal what is ours of its problem details, once the rest is as the standard says."""
        async with self._session.request(method, f"http://localhost{url}", **more) as response:
            answer = json.loads(await response.read())
            if response.status < 400:
                assert response.content_type == "application/json"
                return response.status, answer
            assert response.content_type == "application/problem+json"
            return response.status, without_details(response.status, answer)

    async def get(self, url: str) -> Answer:
        return await self.ask("GET", url)

    async def post(self, url: str, **more: Any) -> Answer:
        return await self.ask("POST", url, **more)


@asynccontextmanager
async def asking(face: FakeFace, path: Path) -> AsyncIterator[Asking]:
    async with serving(face, path), aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        yield Asking(session)


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def comes(face: FakeFace) -> None:
    """Return when a request waits for a change."""
    async with asyncio.timeout(PATIENCE_S):
        await face.waiting.wait()


# ---- questions ------------------------------------------------------------------------------------------------------


async def test_status_is_the_faces_status(control: Path) -> None:
    """GET /v1/status answers with what the face shows, unchanged."""
    face = FakeFace(a_status(a_worker("llm/0"), devices=(a_device(),)))
    async with asking(face, control) as api:
        assert (200, face.shown) == await api.get("/v1/status")


async def test_figures_are_read_for_who_asks(control: Path) -> None:
    """With a target, and after waiting, too; nobody else pays for them."""
    face = FakeFace(a_status(a_worker("llm/0"), a_worker("web/0"), devices=(a_device(),)))
    async with asking(face, control) as api:
        await api.get("/v1/status?figures=0")
        await api.get("/v1/devices")
        assert face.asked == []
        _, status = await api.get("/v1/status?target=llm&wait=ready&figures=1")
        await api.get("/v1/devices?figures=1")
        refused = await api.get("/v1/devices?figures=all")

    assert status["figures"]
    assert [one["name"] for one in status["services"]] == ["llm"]
    assert face.asked == ["figures", "figures"]
    assert refused == (400, {"problems": ['figures: expected 0 or 1, got "all"']})


async def test_status_of_a_target_has_only_its_services_and_workers(control: Path) -> None:
    """A target restricts the services to one, and the workers to one where it names one."""
    face = FakeFace(a_status(a_worker("llm/0"), a_worker("llm/1"), a_worker("web/0")))
    async with asking(face, control) as api:
        _, service = await api.get("/v1/status?target=llm")
        _, worker = await api.get("/v1/status?target=llm/1")

    assert [one["worker"] for one in service["services"][0]["workers"]] == ["llm/0", "llm/1"]
    assert [one["name"] for one in service["services"]] == ["llm"]
    assert [one["worker"] for one in worker["services"][0]["workers"]] == ["llm/1"]
    assert worker["services"][0]["target"] == 2


async def test_status_of_an_unknown_name_is_404_with_the_nearest(control: Path) -> None:
    """An unknown service names the nearest one, an unknown worker those there are."""
    async with asking(FakeFace(a_status(a_worker("llm/0"), a_worker("llm/1"))), control) as api:
        service = await api.get("/v1/status?target=lm")
        worker = await api.get("/v1/status?target=llm/7")

    assert service == (404, {"problems": ['there is no service "lm"'], "hint": "did you mean llm?"})
    assert worker == (404, {"problems": ['there is no worker "llm/7"'], "hint": "llm has llm/0 to llm/1"})


async def test_a_worker_is_explained(control: Path) -> None:
    """GET /v1/explain is the face's; a name that is none is 404, a service or nothing 400."""
    face = FakeFace(a_status(a_worker("llm/0")))
    async with asking(face, control) as api:
        status, answer = await api.get("/v1/explain?target=llm/0")
        assert (status, answer["worker"], answer["asks"]) == (200, "llm/0", "1 GPU")
        assert (await api.get("/v1/explain?target=llm/7"))[0] == 404
        for query in ("", "?target=llm"):
            assert (await api.get(f"/v1/explain{query}"))[0] == 400
    assert face.asked == [("explain", "llm/0")]


async def test_devices_and_health_are_answered(control: Path) -> None:
    """GET /v1/devices is the face's, GET /v1/healthz says that somebody answers."""
    face = FakeFace(a_status(devices=(a_device(),)))
    async with asking(face, control) as api:
        assert (200, await face.devices()) == await api.get("/v1/devices")
        assert await api.get("/v1/healthz") == (200, {"ok": True})


async def test_plan_of_a_file_hands_its_path_to_the_face(control: Path) -> None:
    """The file parameter is decoded and handed over; without it the face plans its own file."""
    face = FakeFace()
    async with asking(face, control) as api:
        assert (await api.get("/v1/plan?file=/srv/my%20demo.yaml"))[0] == 200
        assert (await api.get("/v1/plan"))[0] == 200

    assert face.asked == [("plan", "/srv/my demo.yaml"), ("plan", None)]


async def test_plan_of_a_bad_file_is_400_with_every_problem(control: Path) -> None:
    """ProblemsError of the face becomes 400 with its lines."""
    face = FakeFace()
    face.plan_answer = ProblemsError(("a.yaml:1:1: one", "a.yaml:2:1: two"))
    async with asking(face, control) as api:
        assert await api.get("/v1/plan?file=/a.yaml") == (400, {"problems": ["a.yaml:1:1: one", "a.yaml:2:1: two"]})


@pytest.mark.parametrize(
    ("workers", "daemon", "status", "problems"),
    [
        ((a_worker("llm/0"), a_worker("llm/1", "stopped"), a_worker("job/0", "exited")), {}, 200, None),
        ((), {}, 200, None),
        (
            (a_worker("llm/0", "starting", reason="no answer yet"), a_worker("llm/1"), a_worker("web/0", "failed")),
            {},
            503,
            ["llm/0 is starting: no answer yet", "web/0 is failed"],
        ),
        ((), {"state": "starting"}, 503, ["the daemon is starting"]),
        ((a_worker("llm/0"),), {"state": "stopping"}, 503, ["the daemon is stopping"]),
    ],
)
async def test_readyz_says_who_is_not_ready(
    control: Path, workers: tuple[Any, ...], daemon: dict[str, Any], status: int, problems: list[str] | None
) -> None:
    """200 where `status` ends with 0, else 503 with everybody who is in the way."""
    async with asking(FakeFace(a_status(*workers, **daemon)), control) as api:
        expected = {"ok": True} if problems is None else {"problems": problems}
        assert await api.get("/v1/readyz") == (status, expected)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problems"),
    [
        ("/v1/status?wait=soon", ['wait: expected ready or stopped, got "soon"']),
        ("/v1/status?wait=ready&timeout=nan", ['timeout: expected seconds from 0 to 315360000, got "nan"']),
        ("/v1/status?wait=ready&timeout=-1", ['timeout: expected seconds from 0 to 315360000, got "-1"']),
        ("/v1/status?timeout=1", ["timeout: goes with wait=ready or wait=stopped"]),
        ("/v1/status?tarqet=llm", ['unknown parameter "tarqet"; did you mean target?']),
        ("/v1/status?wait=ready&wait=stopped", ["wait: given 2 times"]),
        ("/v1/status?target=", ["target: is empty"]),
        ("/v1/plan?file=demo.yaml", ['file: expected an absolute path, got "demo.yaml"']),
        ("/v1/devices?x=1", ['unknown parameter "x"']),
        (
            "/v1/status?wait=no&timeout=no",
            ['wait: expected ready or stopped, got "no"', 'timeout: expected seconds from 0 to 315360000, got "no"'],
        ),
    ],
)
async def test_bad_parameters_are_400_with_every_problem(control: Path, url: str, problems: list[str]) -> None:
    """Each problem of the query is said, all at once."""
    async with asking(FakeFace(), control) as api:
        assert (400, {"problems": problems}) == await api.get(url)


async def test_an_unknown_path_is_404_with_the_nearest(control: Path) -> None:
    """A path that is no route is named, with the nearest route as hint."""
    async with asking(FakeFace(), control) as api:
        status, answer = await api.get("/v1/staus")
        others = [
            (await api.get(path))[1]["hint"] for path in ("/v1/", "/v1/nope", "/v1/stop2", "/v2", "/v1/devices/relase")
        ]

    assert (status, answer["problems"], answer["hint"]) == (404, ["there is no /v1/staus"], "did you mean /v1/status?")
    assert not [hint for hint in others if any(verb in hint for verb in ("stop", "start", "release", "scale"))]
    assert others[:2] == ["GET /v1/openapi.json names every path"] * 2


async def test_a_wrong_method_is_405_with_what_is_allowed(control: Path) -> None:
    """GET of a change is refused in words."""
    async with asking(FakeFace(), control) as api:
        assert await api.get("/v1/reload") == (405, {"problems": ["/v1/reload takes POST, not GET"]})


async def test_a_route_that_is_not_built_is_refused_by_name(control: Path) -> None:
    """What the contract has and this version has not is 501, whatever the method."""
    async with asking(FakeFace(), control) as api:
        assert await api.get("/v1/upgrade") == (501, {"problems": ["/v1/upgrade is not supported yet"]})
        assert await api.post("/v1/upgrade") == (501, {"problems": ["/v1/upgrade is not supported yet"]})


async def test_a_body_beyond_the_bound_is_413(control: Path) -> None:
    """Bodies are bounded at 64 KiB, and nothing is changed by one that is too large."""
    face = FakeFace()
    async with asking(face, control) as api:
        status, answer = await api.post("/v1/reload", data=b"x" * 70_000)

    assert (status, answer) == (413, {"problems": ["a body has at most 65536 bytes"]})
    assert face.asked == []


async def test_a_body_is_refused_and_an_empty_object_is_not(control: Path) -> None:
    """A body that says something would be ignored, so it is refused; an empty one is what some clients always send."""
    face = FakeFace()
    async with asking(face, control) as api:
        refused = await api.post("/v1/reload", data=b"wait=1")
        taken = await api.post("/v1/reload", data=b"{}")

    assert refused == (400, {"problems": ["POST /v1/reload takes no body; give parameters in the query"]})
    assert taken[0] == 200


async def test_a_body_of_another_type_is_415(control: Path) -> None:
    """And nothing is done. What `curl --data` says of every body, also of JSON, is not believed."""
    face = FakeFace(a_status(a_worker("llm/0")))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with asking(face, control) as api:
        status, answer = await api.post("/v1/stop", data=b"target=llm", headers=form)
        taken = await api.post("/v1/stop?target=llm", data=b"", headers=form)
        too = await api.post("/v1/stop", data=b'{"targets": ["llm"]}', headers=form)

    assert (status, answer["problems"]) == (
        415,
        ["expected a body of application/json, got application/x-www-form-urlencoded"],
    )
    assert (taken[0], too[0]) == (200, 200)
    assert face.asked.count(("stop", ("llm",))) == 2


async def test_an_unexpected_error_is_500_without_its_words_and_is_logged(control: Path) -> None:
    """What went wrong inside is in the log and not in the answer."""
    face = FakeFace()
    face.broken = RuntimeError("secret")
    with structlog.testing.capture_logs() as logs:
        async with asking(face, control) as api:
            status, answer = await api.get("/v1/status")

    assert (status, answer) == (500, {"problems": ["internal error; the daemon's log has the details"]})
    assert [line["event"] for line in logs] == ["api.failed"]


@pytest.mark.parametrize(("exit_code", "status"), [(1, 409), (2, 404), (78, 400)])
async def test_what_cannot_be_done_gets_the_status_of_its_nature(control: Path, exit_code: int, status: int) -> None:
    """CannotError is a conflict, an unknown name or bad input, by its exit status."""
    face = FakeFace()
    face.plan_answer = CannotError("plan", "it is not the day", hint="wait", exit_code=exit_code)
    async with asking(face, control) as api:
        assert (status, {"problems": ["cannot plan: it is not the day"], "hint": "wait"}) == await api.get("/v1/plan")


# ---- changes --------------------------------------------------------------------------------------------------------


async def test_reload_answers_with_the_difference_and_logs_who_asked(control: Path) -> None:
    """POST /v1/reload gives the face's answer; the peer's pid, uid and gid are logged before anything is done."""
    face = FakeFace()
    face.reload_answer = {"ok": True, "problems": [], "difference": {"llm/0": "replace"}}
    async with asking(face, control) as api:
        assert (200, face.reload_answer) == await api.post("/v1/reload")

    peer = {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}
    assert [("log", "reload", peer), "reload"] == face.asked


async def test_a_refused_reload_is_400_with_the_problems(control: Path) -> None:
    """The whole answer comes, and curl -f fails."""
    face = FakeFace()
    face.reload_answer = {"ok": False, "problems": ["demo.yaml:4:5: no"], "difference": {}}
    async with asking(face, control) as api:
        assert (400, face.reload_answer) == await api.post("/v1/reload?wait=1")

    assert "settled" not in face.asked


async def test_reload_with_wait_answers_when_it_is_rolled_out(control: Path) -> None:
    """wait=1 adds what became of the roll-out to the difference."""
    face = FakeFace()
    face.reload_answer = {"ok": True, "problems": [], "difference": {"llm/0": "replace"}}
    face.settled_answer = {"ok": False, "problems": ["llm/0 failed"]}
    async with asking(face, control) as api:
        status, answer = await api.post("/v1/reload?wait=1")

    assert status == 200
    assert answer == {"ok": False, "problems": ["llm/0 failed"], "difference": {"llm/0": "replace"}}


async def test_reload_of_a_daemon_that_stops_is_a_conflict(control: Path) -> None:
    """A reload that fails since the daemon ends is no bad file."""
    face = FakeFace(a_status(state="stopping"))
    face.reload_answer = {"ok": False, "problems": ["the daemon is stopping"], "difference": {}}
    async with asking(face, control) as api:
        assert await api.post("/v1/reload") == (409, {"problems": ["the daemon is stopping"]})


async def test_shutdown_asks_once_and_says_whom_to_wait_for(control: Path) -> None:
    """A daemon that is stopping is not asked again: a second asking kills."""
    face = FakeFace()
    async with asking(face, control) as api:
        first = await api.post("/v1/shutdown")
        face.shown = a_status(state="stopping")
        second = await api.post("/v1/shutdown")

    assert (200, {"ok": True, "pid": 1, "unit": None}) == first == second
    assert face.asked.count("shutdown") == 1


def test_the_peer_is_known_under_uvloop_too(control: Path) -> None:
    """The daemon runs on uvloop, whose sockets are not Python's."""
    face = FakeFace()

    async def reload() -> None:
        async with asking(face, control) as api:
            await api.post("/v1/reload")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(reload())

    assert ("log", "reload", {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}) in face.asked


# ---- waiting --------------------------------------------------------------------------------------------------------


async def test_waiting_for_ready_answers_after_the_change_that_brings_it(control: Path) -> None:
    """The request stays open until the last worker is ready."""
    face = FakeFace(a_status(a_worker("llm/0", "starting")))
    async with asking(face, control) as api:
        waiting = asyncio.create_task(api.get("/v1/status?wait=ready"))
        await comes(face)
        assert not waiting.done()
        face.show(a_status(a_worker("llm/0", "ready")))
        assert (200, face.shown) == await waiting


async def test_waiting_goes_on_after_a_change_that_does_not_bring_it(control: Path) -> None:
    """Other changes do not end the wait."""
    face = FakeFace(a_status(a_worker("llm/0", "pending")))
    async with asking(face, control) as api:
        waiting = asyncio.create_task(api.get("/v1/status?wait=ready"))
        await comes(face)
        face.waiting.clear()
        face.show(a_status(a_worker("llm/0", "starting")))
        await comes(face)
        assert not waiting.done()
        face.show(a_status(a_worker("llm/0", "ready")))
        assert (200, face.shown) == await waiting


@pytest.mark.parametrize("wait", ["ready", "stopped"])
async def test_waiting_ends_at_once_when_a_worker_has_failed(control: Path, wait: str) -> None:
    """Nothing will come by waiting for a failed worker."""
    face = FakeFace(a_status(a_worker("llm/0", "failed"), a_worker("llm/1", "starting")))
    async with asking(face, control) as api:
        assert (200, face.shown) == await api.get(f"/v1/status?wait={wait}")


async def test_waiting_for_one_worker_is_not_disturbed_by_another(control: Path) -> None:
    """A target's wait looks at the target alone."""
    face = FakeFace(a_status(a_worker("llm/0", "ready"), a_worker("web/0", "failed")))
    async with asking(face, control) as api:
        status, answer = await api.get("/v1/status?wait=ready&target=llm")

    assert (status, [service["name"] for service in answer["services"]]) == (200, ["llm"])


async def test_waiting_for_stopped_ends_when_the_worker_is_gone(control: Path) -> None:
    """A worker that a reload took away has stopped."""
    face = FakeFace(a_status(a_worker("llm/0", "stopping")))
    async with asking(face, control) as api:
        waiting = asyncio.create_task(api.get("/v1/status?wait=stopped&target=llm/0"))
        await comes(face)
        face.show(a_status(a_worker("web/0")))
        status, answer = await waiting

    assert (status, answer["services"]) == (200, [])


async def test_waiting_ends_with_its_timeout_and_the_status_as_it_is(control: Path) -> None:
    """When time is up the answer is the status of that moment."""
    face = FakeFace(a_status(a_worker("llm/0", "starting")))
    async with asking(face, control) as api:
        assert (200, face.shown) == await api.get("/v1/status?wait=ready&timeout=0.01")


async def test_a_client_that_goes_away_ends_its_wait(control: Path) -> None:
    """Nothing of a wait is left when its client hangs up."""
    face = FakeFace(a_status(a_worker("llm/0", "starting")))
    async with serving(face, control):
        _, writer = await asyncio.open_unix_connection(str(control))
        writer.write(b"GET /v1/status?wait=ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await comes(face)
        writer.close()
        async with asyncio.timeout(PATIENCE_S):
            await face.left.wait()


async def test_the_end_of_the_daemon_ends_waits(control: Path) -> None:
    """A waiting client gets the status as it is then, and does not hold up the end."""
    face = FakeFace(a_status(a_worker("llm/0", "starting")))
    async with serving(face, control) as runner:
        reader, writer = await asyncio.open_unix_connection(str(control))
        writer.write(b"GET /v1/status?wait=ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await comes(face)
        async with asyncio.timeout(PATIENCE_S):
            await runner.cleanup()
            answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"llm/0"' in answer


async def test_the_end_of_the_daemon_ends_a_body_that_never_comes(control: Path) -> None:
    """A client that announces a body and sends none does not hold up the end either."""
    face = FakeFace()
    async with serving(face, control) as runner:
        reader, writer = await asyncio.open_unix_connection(str(control))
        writer.write(b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        writer.write(b"GET")
        connection = writer.get_extra_info("socket")
        await writer.drain()
        # The server has read it all when nothing is left on its way.
        while _unsent(connection):  # noqa: ASYNC110 - Nobody tells.
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await runner.cleanup()
            await reader.read()
        writer.close()

    assert face.asked == []


def _unsent(connection: socket.socket) -> int:
    """Bytes that the other end has not read."""
    import fcntl
    import struct
    import termios

    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
