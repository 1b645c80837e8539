"""`events` and `GET /v1/events`: what happened to workers, in words and as server-sent events."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli.events import show
from supervisor.front.client import AnswerError, Client
from tests.front.fakes import PATIENCE_S, SINCE, FakeFace, Json, a_status, a_worker, served


def step(number: int, before: str | None, after: str | None, reason: str = "") -> Json:
    told = {"worker": "llm/0", "before": before, "after": after, "cause": "Exited", "at": SINCE, "reason": reason}
    return {"number": number, **told}


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def face(control: Path) -> Iterator[FakeFace]:
    face = FakeFace(a_status(a_worker("llm/0")))
    face.happened = [{"lines": [step(7, None, "pending"), step(8, "ready", "backoff", "exited with 1:\x1b[1m a\nb")]}]
    with served(face, control):
        yield face


def test_transitions_come_with_their_numbers(face: FakeFace, control: Path) -> None:
    events = list(Client(control).stream("/v1/events", {"follow": "0", "target": "llm", "lines": "5"}))

    assert [number for number, _, _ in events] == [7, 8, None]
    assert events[-1][1:] == ("end", {"reason": "done"})
    assert face.asked == [("events", "llm", 5, None, False)]


def _raw(control: Path, query: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(control))
    connection.request("GET", f"/v1/events{query}", headers=headers)
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    return response.status, answer


def test_who_comes_again_goes_on_where_it_was(face: FakeFace, control: Path) -> None:
    """By the header that a browser sends, or by `after`; ids of another life of the daemon count for nothing."""
    status, first = _raw(control, "?follow=0")
    assert (status, "id: cafe-7\n" in first) == (200, True)

    for query, headers in (
        ("?follow=0", {"Last-Event-ID": "cafe-7"}),
        ("?follow=0&after=7", {"Last-Event-ID": "cafe-9"}),
        ("?follow=0&after=cafe-7", {}),
        ("?follow=0", {"Last-Event-ID": "beef-7"}),
    ):
        assert _raw(control, query, **headers)[0] == 200
    assert [one[3] for one in face.asked] == [None, 7, 7, 7, None]
    for bad in ("-7", "cafe", "cafe-x"):
        assert _raw(control, "?follow=0", **{"Last-Event-ID": bad})[0] == 400


def test_a_proxy_that_hangs_up_is_kept_awake_by_who_asks_for_that(face: FakeFace, control: Path) -> None:
    """Comments while nothing happens; they are no events."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_S)
    connection.connect(str(control))
    connection.sendall(b"GET /v1/events?heartbeat=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    said = b""
    while said.count(b":\n\n") < 2:
        said += connection.recv(4096)
    connection.close()

    assert said.count(b"data: ") == 2


def test_bad_parameters_and_unknown_names_are_refused(face: FakeFace, control: Path) -> None:
    with pytest.raises(AnswerError) as bad:
        list(Client(control).stream("/v1/events", {"lines": "many", "follow": "yes"}))
    with pytest.raises(AnswerError) as unknown:
        list(Client(control).stream("/v1/events", {"target": "lm"}))

    assert (bad.value.status, len(bad.value.problems)) == (400, 2)
    assert unknown.value.status == 404


def test_each_is_one_line_whatever_its_reason_holds(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(Client(control), None, lines=None, follow=False, is_json=False) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"{SINCE} llm/0 new -> pending (it ended)",
        f"{SINCE} llm/0 ready -> backoff (it ended): exited with 1:\\x1b[1m a b",
    ]


def test_a_device_is_named_with_what_became_of_it_and_of_whom(
    face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its health like a worker's state; an error without one."""
    sick = {**step(9, "ok", "draining", "XID 79"), "worker": None, "device": "GPU-a", "name": "GPU 3"}
    xid = {**sick, "before": None, "after": None, "cause": "device.xid", "workers": ["llm/0", "llm/1"]}
    well = {**sick, "number": 11, "before": "probing", "after": "ok", "reason": "", "was": "XID 79"}
    face.happened = [{"lines": [{**sick, "cause": "device.draining"}, {**xid, "number": 10}, well]}]

    assert show(Client(control), None, lines=None, follow=False, is_json=False) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"{SINCE} GPU 3 ok -> draining: XID 79",
        f"{SINCE} GPU 3 xid: XID 79 (llm/0, llm/1 there)",
        f"{SINCE} GPU 3 probing -> ok: it was XID 79",
    ]


def test_a_sick_gpu_as_a_cause_is_a_sentence(face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Like every other."""
    face.happened = [{"lines": [{**step(9, "ready", "stopping"), "cause": "device"}]}]

    show(Client(control), None, lines=None, follow=False, is_json=False)

    assert capsys.readouterr().out == f"{SINCE} llm/0 ready -> stopping (its GPU is sick)\n"


def test_json_is_one_object_a_line(face: FakeFace, control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(Client(control), None, lines=None, follow=False, is_json=True) == 0

    assert [json.loads(line)["after"] for line in capsys.readouterr().out.splitlines()] == ["pending", "backoff"]
