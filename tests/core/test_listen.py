"""The key `listen`: addresses, names, and what no two sockets can share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from supervisor.core.file.listen import Address, Socket, parse_address
from supervisor.core.file.problems import BadValueError
from supervisor.core.spec import Problem, Spec, SpecError, parse_spec, unknown_names


def read(*, defaults: object = None, **services: Mapping[str, object]) -> Spec:
    document: dict[str, object] = {"services": {name: {"command": "serve", **keys} for name, keys in services.items()}}
    return parse_spec(document | ({} if defaults is None else {"defaults": defaults}), base_dir="/srv")


def problems(*, defaults: object = None, **services: Mapping[str, object]) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        read(defaults=defaults, **services)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
        ("tcp://localhost:1", "tcp://127.0.0.1:1"),
        ("tcp://0.0.0.0:65535", "tcp://0.0.0.0:65535"),
        ("tcp://[::]:8000", "tcp://[::]:8000"),
        ("tcp://[0:0::1]:8000", "tcp://[::1]:8000"),
        ("tcp://[::ffff:10.0.0.1]:8000", "tcp://10.0.0.1:8000"),
        ("unix:run/web.sock", "unix:run/web.sock"),
        ("unix:///run/web.sock", "unix:/run/web.sock"),
    ],
)
def test_an_address_has_one_spelling(text: str, shown: str) -> None:
    """However it is written: two of them are compared."""
    assert shown == str(parse_address(text))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tcp://127.0.0.1:0", "a port from 1 to 65535, got '0'"),
        ("tcp://127.0.0.1:65536", "a port from 1 to 65535, got '65536'"),
        ("tcp://127.0.0.1:http", "a port from 1 to 65535"),
        ("tcp://127.0.0.1", "expected a port after the host"),
        ("tcp://:8000", "expected an address"),
        ("tcp://*:8000", "expected an address"),
        ("tcp://::1:8000", "expected an address"),
        ("tcp://[127.0.0.1]:8000", "an IPv6 address in brackets"),
        ("tcp://web.example:8000", "expected an IP address, got 'web.example'"),
        ("tcp://[fe80::1%eth0]:8000", "zone are not supported yet"),
        ("unix:", "the path of a socket"),
        ("unix:run/", "the path of a socket"),
        ("unix:@web", "not supported yet"),
        ("unix://run/web.sock", "expected unix:PATH"),
        ("unix:run/$(WORKER_INDEX).sock", "names are not replaced here"),
        ("http://127.0.0.1:8000", "expected tcp://HOST:PORT or unix:PATH"),
        (8000, "expected tcp://HOST:PORT or unix:PATH"),
        (None, "expected a string"),
    ],
)
def test_what_is_no_address_is_refused_in_words(text: object, part: str) -> None:
    """What was expected, and what to write."""
    with pytest.raises(BadValueError) as caught:
        parse_address(text)

    assert part in str(caught.value)


def test_sockets_come_in_the_order_of_the_file_and_paths_begin_at_its_folder() -> None:
    """The order is that of the descriptors."""
    spec = read(web={"listen": {"z": "tcp://[::1]:9000", "a": "unix:run/../web.sock"}})

    expected = (Socket("z", Address("tcp", "::1", 9000)), Socket("a", Address("unix", "/srv/web.sock")))
    assert expected == spec.services["web"].listen
    assert expected == spec.expand(1)[0].recipe.listen


def test_every_problem_of_a_listen_is_said_at_its_place() -> None:
    """Bad names and bad addresses, both of one entry too."""
    found = problems(web={"listen": {"a:b": "tcp://x:1", "c": "udp://127.0.0.1:1"}}, api={"listen": "tcp://0.0.0.0:1"})

    assert [one.path for one in found] == [
        ("services", "web", "listen", "a:b"),
        ("services", "web", "listen", "a:b"),
        ("services", "web", "listen", "c"),
        ("services", "api", "listen"),
    ]
    assert "LISTEN_FDNAMES" in found[1].hint
    assert found[3].hint == "write {http: tcp://127.0.0.1:8000}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp://127.0.0.1:8000", "tcp://localhost:8000"),
        ("tcp://0.0.0.0:8000", "tcp://10.0.0.1:8000"),
        ("tcp://127.0.0.1:8000", "tcp://0.0.0.0:8000"),
        ("tcp://[::]:8000", "tcp://127.0.0.1:8000"),
        ("tcp://[::1]:8000", "tcp://[::]:8000"),
        ("unix:a.sock", "unix:/srv/./a.sock"),
    ],
)
def test_one_address_twice_is_refused_at_the_second(one: str, other: str) -> None:
    """Also where one of them is every address."""
    (found,) = problems(web={"listen": {"http": one}}, api={"listen": {"main": other}})

    assert found.path == ("services", "api", "listen", "main")
    assert "is taken by listen.http of web" in found.message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8001"),
        ("tcp://127.0.0.1:8000", "tcp://10.0.0.1:8000"),
        ("tcp://0.0.0.0:8000", "tcp://[::1]:8000"),
        ("tcp://127.0.0.1:8000", "unix:8000"),
    ],
)
def test_different_addresses_do_not_meet(one: str, other: str) -> None:
    """The system takes both."""
    assert len(read(web={"listen": {"http": one, "main": other}}).services["web"].listen) == 2


def test_defaults_give_one_address_to_two_services() -> None:
    """Which is one too many, said where it is written."""
    (found,) = problems(defaults={"listen": {"http": "tcp://0.0.0.0:80"}}, web={}, api={})

    assert found.path == ("defaults", "listen", "http")


def test_a_port_at_which_a_socket_listens_is_no_workers() -> None:
    """Nor that of a later worker of the service."""
    (found,) = problems(web={"listen": {"http": "tcp://0.0.0.0:8001"}}, api={"workers": 3, "port": 8000})

    assert found.path == ("services", "api", "port")
    assert found.message == "worker api/1 would get port 8001, which is listen.http of web"
    assert read(web={"listen": {"http": "tcp://10.0.0.1:8001"}}, api={"workers": 3, "port": 8000})


def test_a_path_that_is_too_long_is_refused() -> None:
    """The system would only say so at the start."""
    (found,) = problems(web={"listen": {"http": f"unix:{'a' * 110}"}})

    assert "at most 107 bytes" in found.message


def test_a_probe_by_port_is_not_answered_by_a_sibling() -> None:
    """The sockets are those of all workers: without a port of its own a worker is asked otherwise, or counts by age."""
    listen = {"http": "tcp://127.0.0.1:8000"}

    (found,) = problems(web={"listen": listen, "ready": {"http": "/health"}})

    assert "the sockets of listen are those of all its workers" in found.message
    assert found.hint == "write port: 8000, or one of after, exec and notify"
    by_age, by_port = read(web={"listen": listen}, api={"port": 9000, "listen": {"a": "unix:a"}}).expand(1)
    assert (by_age.policy.ready.kind, by_port.policy.ready.kind) == ("after", "tcp")


def test_what_tells_of_the_sockets_is_the_supervisors() -> None:
    """Only beside `listen`; and a pid is not known before the process is there."""
    env = {"env": {"LISTEN_FDS": "1"}}
    (found,) = problems(web={"listen": {"http": "unix:a"}, **env})
    assert found.path == ("services", "web", "env", "LISTEN_FDS")
    assert read(web=env)

    def missing(command: str, **keys: object) -> list[str]:
        return [one.message for one in unknown_names(read(web={"command": command, **keys}), {})]

    assert missing("serve $(LISTEN_FDS) $(LISTEN_FDNAMES)", listen={"http": "unix:a"}) == []
    assert missing("serve $(LISTEN_FDS)") == ["$(LISTEN_FDS) has no value"]
    assert missing("serve $(LISTEN_PID)", listen={"http": "unix:a"}) == [
        "$(LISTEN_PID) has no value before the process is there"
    ]
