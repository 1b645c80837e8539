"""`daemon.http` and `daemon.http_token_file`: where the API may listen, and what a token is."""

from __future__ import annotations

import pytest

from supervisor.core.file.problems import BadValueError, SpecError
from supervisor.core.file.web import is_loopback, parse_http, parse_token, show_http
from supervisor.core.spec import DaemonSpec, parse_spec


def read(**daemon: object) -> DaemonSpec:
    return parse_spec({"services": {}, "daemon": daemon}, base_dir="/srv").daemon


def problems_of(services: dict[str, object] | None = None, **daemon: object) -> dict[str, tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        parse_spec({"services": services or {}, "daemon": daemon}, base_dir="/srv")
    return {".".join(map(str, one.path)): (one.message, one.hint) for one in caught.value.problems}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("127.0.0.1:9400", "127.0.0.1:9400"),
        ("localhost:1", "127.0.0.1:1"),
        ("[::1]:9400", "[::1]:9400"),
        ("[0:0::1]:65535", "[::1]:65535"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
        ("0.0.0.0:9400", "0.0.0.0:9400"),
    ],
)
def test_an_address_is_read_and_shown_shortest(written: str, shown: str) -> None:
    assert show_http(parse_http(written)) == shown


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (9400, "expected an address and a port, got 9400"),
        ("9400", "expected HOST:PORT, got '9400'"),
        (":9400", "expected an address"),
        ("*:9400", "expected an address"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:", "expected a port"),
        ("127.0.0.1:0", "from 1 to 65535"),
        ("127.0.0.1:99999", "from 1 to 65535"),
        ("example.com:9400", "expected an IP address"),
        ("::1:9400", "expected HOST:PORT"),
        ("http://127.0.0.1:9400", "expected HOST:PORT"),
        ("unix:/run/a.sock", "expected an IP address"),
        (["::1"], "got a list"),
        ("[fe80::1%eth0]:1", "zone"),
        (None, "got nothing"),
        (True, "got the boolean true"),
    ],
)
def test_what_is_no_address_is_refused_in_words(written: object, words: str) -> None:
    with pytest.raises(BadValueError) as caught:
        parse_http(written)

    assert words in str(caught.value)


def test_only_loopback_may_do_without_a_token() -> None:
    """127.0.0.0/8 and ::1; whatever else is bound can be reached from elsewhere."""
    for address in ("127.0.0.1:1", "127.8.9.1:1", "[::1]:1"):
        assert is_loopback(parse_http(address))
        assert read(http=address).http == parse_http(address)
    for address in ("0.0.0.0:9400", "[::]:9400", "10.0.0.1:9400"):
        message, hint = problems_of(http=address)["daemon.http"]
        assert f"others reach {address}" in message
        assert "127.0.0.1" in hint
        assert read(http=address, http_token_file="token").http == parse_http(address)


def test_the_token_file_is_found_from_the_file_on() -> None:
    assert read(http="127.0.0.1:1", http_token_file="secrets/token").http_token_file == "/srv/secrets/token"
    assert read(http="127.0.0.1:1", http_token_file="/etc/token").http_token_file == "/etc/token"
    assert "says nothing without http" in problems_of(http_token_file="token")["daemon.http_token_file"][0]
    assert list(problems_of(http="x", http_token_file="")) == ["daemon.http", "daemon.http_token_file"]


def test_no_worker_and_no_socket_gets_the_daemons_own_port() -> None:
    service = {"command": "x", "workers": 2, "port": 9399}
    assert problems_of({"a": service}, http="127.0.0.1:9400")["services.a.port"] == (
        "worker a/1 would get port 9400, which is daemon.http",
        "",
    )
    listening = {"command": "x", "listen": {"http": "tcp://0.0.0.0:9400"}}
    found = problems_of({"a": listening}, http="127.0.0.1:9400")["services.a.listen.http"][0]
    assert found == "tcp://0.0.0.0:9400 is taken by daemon.http at tcp://127.0.0.1:9400"


def test_a_token_is_one_line_that_a_header_can_hold() -> None:
    assert parse_token(b" s3cret-token\n") == b"s3cret-token"
    for bad in (b"", b" \n", b"two\nlines\n", b"two words", b"\xc3\xa4", b"a\0b"):
        with pytest.raises(BadValueError):
            parse_token(bad)
