"""Every key that the contract names for the service file."""

from __future__ import annotations

import pytest

from supervisor.core.spec import parse_spec
from tests.core.spec_documents import Document, problem_of, problems_of

# ---- every key of the contract ---------------------------------------------------------------------------------------

SERVICE_KEYS: dict[str, object] = {
    "command": "x",
    "workers": 1,
    "resources": {},
    "on_no_gpu": "wait",
    "sharing": "timeslice",
    "placement": "pack",
    "pin": "auto",
    "numa": "any",
    "env": {},
    "env_file": ".env",
    "working_dir": ".",
    "user": "a",
    "group": "a",
    "umask": "022",
    "limits": {},
    "nice": 1,
    "oom_score_adj": 1,
    "port": 8000,
    "listen": {},
    "after": [],
    "ready": {},
    "alive": {},
    "stop": {},
    "restart": {},
    "recycle": {},
    "update": {},
    "logs": "inherit",
    "python": "a:b",
    "preload": [],
}
SECTION_KEYS: dict[str, dict[str, object]] = {
    "resources": {"gpu": 1, "gpus": [0], "gpu_memory": 1, "gpu_type": "nvidia-l4", "cpu": 1, "memory": 1},
    "ready": {"http": "/", "tcp": True, "exec": ["x"], "notify": True, "after": 1, "timeout": 5, "interval": 1},
    "alive": {"http": "/", "tcp": True, "exec": ["x"], "notify": True, "interval": 1, "timeout": 1, "failures": 1},
    "stop": {"signal": 15, "timeout": 1, "group": True, "exec": ["x"]},
    "recycle": {"after": 60, "memory": 1, "gpu_memory": 1},
    "update": {"max_unavailable": 1, "surge": 1},
    "restart": {"policy": "always", "delay": 1, "max_delay": 2, "start_limit": 1, "limit": 1, "parole": 1}
    | {"permanent_exit": []},
}
_TCP: Document = {"tcp": True}
_TIMED = {("alive", "interval"), ("alive", "timeout"), ("alive", "failures")}
ENTRY_KEYS: dict[str, object] = {"gpu": 1, "gpus": [0], "gpu_memory": 1, "cpu": 1, "memory": 1, "env": {}, "port": 1}
DAEMON_KEYS: dict[str, object] = {
    "http": "127.0.0.1:9400",
    "http_token_file": "x",
    "socket_group": "x",
    "headroom": 0,
    "start_parallel": 2,
    "gpu_wait": 1,
    "poll": 5,
    "log_format": "json",
    "exit_when_failed": False,
    "on_event": ["./tell.sh"],
    "endpoints": {"json": "endpoints.json"},
}
WORKING = (
    {"env_file", "user", "group", "umask", "limits", "nice", "oom_score_adj"}
    | {"command", "workers", "resources", "on_no_gpu", "env", "working_dir", "port", "ready", "stop", "restart", "logs"}
    | {"sharing", "placement", "resources.gpu", "resources.gpus", "resources.gpu_memory", "resources.gpu_type"}
    | {"after", "listen", "update", "update.max_unavailable", "update.surge", "recycle", "daemon.poll"}
    | {f"recycle.{key}" for key in SECTION_KEYS["recycle"]}
    | {"alive", "ready.http", "ready.exec", "ready.notify"}
    | {f"alive.{key}" for key in SECTION_KEYS["alive"]}
    | {"ready.tcp", "ready.after", "ready.timeout", "ready.interval"}
    | {f"stop.{key}" for key in SECTION_KEYS["stop"]}
    | {f"restart.{key}" for key in SECTION_KEYS["restart"]}
    | {"workers.gpu", "workers.gpus", "workers.gpu_memory", "workers.env", "workers.port"}
    | {"resources.memory", "workers.memory", "daemon.start_parallel"}
    | {"pin", "numa", "resources.cpu", "workers.cpu"}
    | {"daemon.http", "daemon.http_token_file", "daemon.on_event", "daemon.endpoints"}
    | {"daemon.headroom", "daemon.gpu_wait", "daemon.log_format", "daemon.exit_when_failed"}
)


def contract_keys() -> list[tuple[str, Document]]:
    """Each key of the contract's section 1 in a file that is good but for it."""

    def file(service: Document, **top: object) -> Document:
        return {"services": {"a": {"command": "x", **service}}, **top}

    cases = [(key, file({key: value})) for key, value in SERVICE_KEYS.items()]
    for section, keys in SECTION_KEYS.items():
        own: dict[str, Document] = {"resources": {"gpu": 1}}
        cases += [
            (
                f"{section}.{key}",
                file(
                    ({} if key == "surge" else {"port": 1})
                    | {section: (_TCP if (section, key) in _TIMED else own.get(section, {})) | {key: value}},
                ),
            )
            for key, value in keys.items()
        ]
    cases += [(f"workers.{key}", file({"workers": [{"gpu": 1, key: value}]})) for key, value in ENTRY_KEYS.items()]
    beside: dict[str, Document] = {"http_token_file": {"http": "127.0.0.1:9400"}}
    cases += [
        (f"daemon.{key}", file({}, daemon={**beside.get(key, {}), key: value})) for key, value in DAEMON_KEYS.items()
    ]
    return cases


@pytest.mark.parametrize(("key", "document"), contract_keys(), ids=[key for key, _ in contract_keys()])
def test_a_key_of_the_contract_works_or_is_refused_by_name(key: str, document: Document) -> None:
    """Never accepted and ignored, never unknown."""
    if key in WORKING:
        parse_spec(document, base_dir="/")
        return

    (problem,) = problems_of(document).values()

    assert problem.message == f"{key.rpartition('.')[2]} is not supported yet"
    assert problem.at_key


def test_a_word_of_the_contract_that_is_not_built_is_refused_by_name() -> None:
    """The key is known; that value of it is not supported."""
    assert problem_of(sharing="mps")[1].message == "mps is not supported yet"
