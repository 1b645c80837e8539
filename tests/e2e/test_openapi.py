"""The document that the daemon serves says what it does: schemathesis asks everything in it, and judges the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import PATIENCE_S
from tests.e2e.test_http import ask, free_port, write_token
from tests.nvml.fake import FakeBox

TOKEN = "a-token-of-32-characters-or-more-"
EXAMPLES = 5
"""Of each operation: some seconds in all."""

WAITING = {"wait", "timeout"}
"""For minutes, for workers that never come."""

CHECKED = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance"),
)

FILE = """\
services:
  llm: {{command: sleep 1000, workers: 2, resources: {{gpu: 1, gpu_memory: 1GiB}}, ready: {{after: 50ms}}}}
  job: {{command: "sh -c 'echo last words; exit 3'", restart: {{policy: never}}}}
daemon: {{http: "127.0.0.1:{port}", http_token_file: "{token}"}}
"""


def test_the_daemon_answers_as_its_document_says(start: StartDaemon, tmp_path: Path, box: FakeBox) -> None:
    """With the token and without, over TCP; what is asked is made up, good and bad."""
    port = free_port()
    token = write_token(tmp_path, TOKEN)
    daemon = start(FILE.format(port=port, token=token), box=box)
    daemon.wait_states(llm="ready", job="failed")
    assert ask(port, "/v1/openapi.json")[0] == 200

    _ask_everything(port)

    assert daemon.process.poll() is None
    assert "api.failed" not in daemon.output


NAMED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/status", {"target": "llm"}),
    ("/v1/status", {"target": "llm/0", "figures": "1"}),
    ("/v1/status", {"wait": "ready", "timeout": "0"}),
    ("/v1/devices", {"figures": "1"}),
    ("/v1/explain", {"target": "job/0"}),
    ("/v1/logs", {"target": "job", "follow": "0"}),
    ("/v1/events", {"follow": "0", "lines": "3"}),
    ("/v1/restart", {"target": ["llm/0"]}),
    ("/v1/stop", {"target": ["job", "llm/1"]}),
    ("/v1/start", {"target": ["llm"]}),
    ("/v1/scale", {"target": ["llm=1"]}),
    ("/v1/reload", {"wait": "1"}),
)
"""Good requests with the names of the file."""


def _ask_everything(port: int) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/v1/openapi.json")
    operations = {one.ok().path: one.ok() for one in schema.get_all_operations()}  # type: ignore[union-attr]
    checks: list[Any] = [check for check in CHECKS.get_all() if check.__name__ in CHECKED]
    assert len(checks) == len(CHECKED)
    for path, query in NAMED:
        case = operations[path].Case(query=query, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = case.call(timeout=PATIENCE_S)
        assert answer.status_code == 200, (path, query, answer.text)
        case.validate_response(answer, checks=checks)
    for path, operation in operations.items():
        if path != "/v1/shutdown":  # Others are still to be asked.
            _make_up(operation, checks)


def _make_up(operation: Any, checks: list[Any]) -> None:
    """Requests that its parameters allow, of whom most name nobody there is."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def examine(case: Any) -> None:
        case.query = {name: value for name, value in (case.query or {}).items() if name not in WAITING}
        if case.operation.path in {"/v1/logs", "/v1/events"}:
            case.query["follow"] = "0"
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
            answer = case.call(headers={**(case.headers or {}), **headers}, timeout=PATIENCE_S)
            case.validate_response(answer, checks=checks)

    examine()
