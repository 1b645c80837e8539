"""`daemon.http` of a real daemon: bound, refused and tried again, moved by a reload, opened by a token."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import PATIENCE_S, RunningDaemon, wait_for

FILE = """\
services:
  job: {{command: "sh -c 'echo last words; exec sleep 1000'", ready: {{after: 50ms}}, env: {{SECRET: hunter2}}}}
daemon: {{http: "{http}"{more}}}
"""
TOKENS = ("first-token-of-this-test", "second-token-of-this-test")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str, token: str = "", *, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def write_token(home: Path, token: str, mode: int = 0o600) -> Path:
    file = home / "token"
    file.write_text(token)
    file.chmod(mode)
    return file


def http_of(daemon: RunningDaemon) -> Any:
    return daemon.status()["daemon"]["http"]


def test_the_api_is_served_where_the_file_says_and_opened_by_the_token(start: StartDaemon, tmp_path: Path) -> None:
    """Open, closed, changed at a reload; a token that others may read is a bad file."""
    port, other = free_port(), free_port()
    token = write_token(tmp_path, f"{TOKENS[0]}\n")
    more = f', http_token_file: "{token}"'
    daemon = start(FILE.format(http=f"127.0.0.1:{port}", more=more))
    daemon.wait_states(job="ready")
    assert http_of(daemon) == {"address": f"127.0.0.1:{port}", "state": "bound", "reason": "", "token": True}

    status, answer = ask(port, "/v1/status")
    assert (status, json.loads(answer)["services"][0]["workers"][0]["env"]) == (200, None)
    assert "hunter2" not in answer + ask(port, "/v1/status", TOKENS[0])[1] + ask(port, "/v1/metrics")[1]
    assert ask(port, "/v1/readyz") == (200, '{"ok": true}\n')
    assert ask(port, "/v1/logs?follow=0")[0] == 401
    wait_for(lambda: "last words" in ask(port, "/v1/logs?follow=0", TOKENS[0])[1], lambda: daemon.output)
    assert ask(port, "/v1/restart?target=job", method="POST")[0] == 401
    assert ask(port, "/v1/restart?target=job", TOKENS[0], method="POST")[0] == 200
    wait_for(lambda: "127.0.0.1:" in daemon.output and "restart job" in daemon.output, lambda: daemon.output)

    write_token(tmp_path, TOKENS[1])
    assert daemon.cli("reload").returncode == 0
    wait_for(lambda: ask(port, "/v1/logs?follow=0", TOKENS[1])[0] == 200, lambda: daemon.output)
    assert ask(port, "/v1/logs?follow=0", TOKENS[0])[0] == 401

    write_token(tmp_path, TOKENS[0], 0o644)
    done = daemon.cli("reload")
    assert done.returncode == 78
    assert "others may read" in done.stderr
    assert f"chmod 600 {token}" in done.stderr
    assert ask(port, "/v1/logs?follow=0", TOKENS[1])[0] == 200

    assert daemon.reload(FILE.format(http=f"[::1]:{other}", more="")).returncode == 0
    wait_for(lambda: http_of(daemon)["address"] == f"[::1]:{other}", lambda: daemon.output)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not any(one in daemon.output for one in TOKENS)
    assert daemon.stop() == 0


def test_an_address_in_use_is_told_and_tried_again(start: StartDaemon) -> None:
    """The daemon goes on without it, says who has it, and takes it when it is free."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        daemon = start(FILE.format(http=f"127.0.0.1:{port}", more=""))
        daemon.wait_states(job="ready")
        found = http_of(daemon)
        assert (found["state"], found["token"]) == ("refused", False)
        assert "listens there" in found["reason"]
        assert "not served over TCP: cannot listen on" in daemon.cli("status").stdout
        wait_for(lambda: "http.refused" in daemon.output, lambda: daemon.output)

    wait_for(lambda: http_of(daemon)["state"] == "bound", lambda: daemon.output)
    assert ask(port, "/v1/healthz")[0] == 200
    assert ask(port, "/v1/restart?target=job", "anything", method="POST")[0] == 403
    assert daemon.stop() == 0


def test_an_address_that_others_reach_needs_a_token(start: StartDaemon, tmp_path: Path) -> None:
    """`check` says so, and what to do; a token that can be guessed is a warning."""
    daemon = start("services: {}")
    daemon.file.write_text(FILE.format(http="0.0.0.0:9400", more=""))
    refused = daemon.cli("check", str(daemon.file))
    assert refused.returncode == 78
    assert "daemon.http: others reach 0.0.0.0:9400 over the network, so it needs http_token_file" in refused.stderr

    token = write_token(tmp_path, "short")
    daemon.file.write_text(FILE.format(http="0.0.0.0:9400", more=f', http_token_file: "{token}"'))
    taken = daemon.cli("check", str(daemon.file))
    assert taken.returncode == 0
    assert "short enough to be guessed" in taken.stdout + taken.stderr
