"""Who is ready, as load balancers and Prometheus read it; and how the file asks for that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.core.endpoints import find_endpoints, render
from supervisor.core.file.endpoints import EndpointsSpec, Form
from supervisor.core.message import BecameUnready, SocketsBound, StopRequested
from supervisor.core.spec import WorkerId, parse_spec
from tests.core.builders import devices, spec_of, uuid_of
from tests.core.spec_documents import problems_of
from tests.core.stage import Stage, running

SPEC = spec_of(
    web={"workers": 2, "port": 9000},
    llm={"workers": 2, "port": 8000, "resources": {"gpu": 1}},
    api={"listen": {"http": "tcp://0.0.0.0:80", "admin": "unix:/run/a.sock", "six": "tcp://[::1]:81"}},
    batch={},
)


def all_ready() -> Stage:
    """Everybody, the sockets bound."""
    stage = running(SPEC, *devices(2))
    stage.meet(SocketsBound(tuple(one.address for one in SPEC.services["api"].listen)))
    return stage.ready("api/0")


def endpoints(value: object) -> EndpointsSpec | None:
    return parse_spec({"services": {}, "daemon": {"endpoints": value}}, base_dir="/srv").daemon.endpoints


def text(stage: Stage, form: Form, host: str = "127.0.0.1") -> str:
    return render(form, find_endpoints(stage.fleet), host)


def rows(stage: Stage) -> dict[str, Any]:
    return {row["worker"]: row for row in json.loads(text(stage, "json"))["endpoints"]}


def servers(nginx: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in nginx.splitlines():
        words = line.split()
        if words[0] == "upstream":
            found[words[1]] = []
        elif words[0] == "server":
            found[list(found)[-1]].append(line.strip().removeprefix("server "))
    return found


def test_files_are_named_by_form() -> None:
    """Relative ones begin beside the service file."""
    found = endpoints({"json": "e.json", "nginx": "/etc/n.conf", "reload": "nginx -s reload", "host": "10.0.0.1"})

    files = (("json", "/srv/e.json"), ("nginx", "/etc/n.conf"))
    assert found == EndpointsSpec(files=files, reload=("nginx", "-s", "reload"), host="10.0.0.1")
    assert endpoints({"prometheus": "t.yml"}) == EndpointsSpec(files=(("prometheus", "/srv/t.yml"),))


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ({}, "", "expected one of json, prometheus and nginx"),
        ({"reload": ["x"]}, "", "expected one of json, prometheus and nginx"),
        ({"json": ""}, ".json", "the path of a file"),
        ({"json": "/run/"}, ".json", "the path of a file"),
        ({"prometheus": "targets.txt"}, ".prometheus", "Prometheus reads .json"),
        ({"json": "a.json", "prometheus": "/srv/a.json"}, ".prometheus", "is written already"),
        ({"json": "a", "reload": "a && b"}, ".reload", "&&"),
        ({"json": "a", "reload": []}, ".reload", "an empty one"),
        ({"json": "a", "host": "a b"}, ".host", "a name or an IP address"),
        ({"json": "a", "haproxy": "b"}, ".haproxy", "unknown key"),
    ],
)
def test_what_cannot_be_written_is_refused(value: object, path: str, words: str) -> None:
    """With its place."""
    ((where, problem),) = problems_of({"services": {}, "daemon": {"endpoints": value}}).items()

    assert where == f"daemon.endpoints{path}"
    assert words in problem.message


def test_everybody_who_is_ready_is_there_in_the_order_of_the_file() -> None:
    """With its address and its devices; nobody else."""
    stage = all_ready()
    stage.exited("llm/1")
    found = rows(stage)

    assert list(found) == ["web/0", "web/1", "llm/0", "api/0", "batch/0"]
    gpus = [{"uuid": uuid_of(0), "index": 0}]
    own = {"service": "llm", "worker": "llm/0", "host": "127.0.0.1", "port": 8000, "listen": [], "gpus": gpus}
    assert found["llm/0"] == own
    assert (found["batch/0"]["host"], found["batch/0"]["port"]) == (None, None)
    assert found["api/0"]["listen"][0] == {"name": "http", "address": "tcp://0.0.0.0:80"}


def test_who_is_to_be_stopped_or_is_not_ready_any_more_is_gone_at_once() -> None:
    """Before its process hears of it."""
    stage = all_ready()
    web = stage.fleet.workers[WorkerId("web", 0)]
    stage.meet(BecameUnready(web.id, web.incarnation, "no answer"))
    stage.meet(StopRequested((), ("llm",)))

    assert stage.states()["llm/0"] == "stopping"
    assert list(rows(stage)) == ["web/1", "api/0", "batch/0"]


def test_prometheus_gets_a_target_for_each_port_and_each_socket() -> None:
    """A socket is that of its service, whoever answers; one of the file system is none."""
    groups = json.loads(text(all_ready(), "prometheus", "::1"))

    assert {tuple(one["targets"]): one["labels"] for one in groups} == {
        ("[::1]:9000",): {"service": "web", "worker": "web/0", "gpu": ""},
        ("[::1]:9001",): {"service": "web", "worker": "web/1", "gpu": ""},
        ("[::1]:8000",): {"service": "llm", "worker": "llm/0", "gpu": "0"},
        ("[::1]:8001",): {"service": "llm", "worker": "llm/1", "gpu": "1"},
        ("[::1]:80",): {"service": "api", "listen": "http"},
        ("[::1]:81",): {"service": "api", "listen": "six"},
    }


def test_nginx_gets_an_upstream_for_each_service_and_each_socket() -> None:
    """One without a server would be an error of nginx: it has one that is down."""
    stage = all_ready()
    full = servers(text(stage, "nginx"))
    stage.meet(StopRequested((), ("llm", "api")))
    less = servers(text(stage, "nginx"))

    web = ["127.0.0.1:9000;  # web/0", "127.0.0.1:9001;  # web/1"]
    llm = ["127.0.0.1:8000;  # llm/0", "127.0.0.1:8001;  # llm/1"]
    sockets = {"api.http": ["127.0.0.1:80;"], "api.admin": ["unix:/run/a.sock;"], "api.six": ["[::1]:81;"]}
    nobody = ["127.0.0.1:1 down;  # nobody is ready"]
    assert full == {"web": web, "llm": llm, **sockets}
    assert less == {"web": web, "llm": nobody, **dict.fromkeys(sockets, nobody)}
