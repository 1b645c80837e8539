"""What is said of a document that is no good service file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.spec import SpecError, parse_spec, unknown_names
from tests.core.spec_documents import Document, problem_of, problems_of

# ---- problems --------------------------------------------------------------------------------------------------------


def test_every_problem_of_a_file_is_reported_at_once() -> None:
    """Values, unknown keys, missing keys and things that do not go together, across sections."""
    document = {
        "services": {
            "a": {"workers": -1, "prot": 1, "resources": {"gpu": 1.5}, "port": 8000, "env": {"PORT": 1, "": 2}},
            "b": {"command": "x | y", "port": 8000, "stop": {"signal": "SIGTREM", "exec": "x"}},
            "C": {"command": "x"},
            "d": 3,
        },
        "daemon": {"gpu_wait": "soon", "http": "x"},
        "gpus": [],
    }

    problems = problems_of(document)

    assert set(problems) == {
        "services.a.command",
        "services.a.workers",
        "services.a.prot",
        "services.a.resources.gpu",
        "services.a.env.PORT",
        "services.a.env.",
        "services.b.command",
        "services.b.port",
        "services.b.stop.signal",
        "services.b.stop.exec",
        "services.C",
        "services.d",
        "daemon.gpu_wait",
        "daemon.http",
        "gpus",
    }


@pytest.mark.parametrize(
    ("keys", "path", "hint"),
    [
        ({"restart": "always"}, "restart", "write restart: {policy: always}"),
        ({"restart": "unless-stopped"}, "restart", "write restart: {policy: always}"),
        ({"restart": "no"}, "restart", "write restart: {policy: never}"),
        ({"restart": False}, "restart", "write restart: {policy: never}"),
        ({"restart": {"condition": "any"}}, "restart.condition", "policy"),
        ({"depends_on": ["b"]}, "depends_on", "after"),
        ({"environment": {}}, "environment", "env"),
        ({"replicas": 2}, "replicas", "workers"),
        ({"healthcheck": {}}, "healthcheck", "write ready for"),
        ({"image": "vllm"}, "image", "no container"),
        ({"deploy": {}}, "deploy", "resources"),
        ({"ExecStart": "x"}, "ExecStart", "command"),
        ({"health": {}}, "health", "the file's key"),
        ({"on_fault": "drain"}, "on_fault", "under health, the file's key"),
        ({"stop": {"signal": "SIGTREM"}}, "stop.signal", "did you mean SIGTERM?"),
        ({"stop": {"signal": "SIGFOO"}}, "stop.signal", "`kill -l`"),
        ({"resources": {"cpu": "500M"}}, "resources.cpu", "did you mean 500m?"),
        ({"resources": {"nvidia.com/gpu": 1}}, "resources.nvidia.com/gpu", "gpu"),
    ],
)
def test_who_comes_from_elsewhere_is_told_what_it_is_called_here(keys: Document, path: str, hint: str) -> None:
    """Of docker compose, systemd, Kubernetes and supervisord; nothing is guessed where nothing is alike."""
    where, problem = problem_of(**keys)

    assert (where, hint in problem.hint) == (path, True), problem.hint


@pytest.mark.parametrize(
    ("keys", "path", "words"),
    [
        ({"command": ""}, "command", "empty"),
        ({"command": []}, "command", "empty"),
        ({"command": [""]}, "command", "empty"),
        ({"command": 3}, "command", "got 3"),
        ({"command": None}, "command", "got nothing"),
        ({"command": ["a", True]}, "command.1", "boolean true"),
        ({"command": ["a", "\0"]}, "command.1", "NUL"),
        ({"command": {"python": "a:b"}}, "command", "not supported yet"),
        ({"command": {"pyton": "a:b"}}, "command", "got a map"),
        ({"workers": "x"}, "workers", "got 'x'"),
        ({"workers": True}, "workers", "got true"),
        ({"workers": 1.5}, "workers", "got 1.5"),
        ({"workers": 10**400}, "workers", "more than 40 digits"),
        ({"workers": float("nan")}, "workers", "got nan"),
        ({"workers": [3]}, "workers.0", "expected a map"),
        ({"resources": {"gpu": -1}}, "resources.gpu", "got -1"),
        ({"resources": {"gpu": "1"}}, "resources.gpu", "got '1'"),
        ({"resources": {"gpu": float("inf")}}, "resources.gpu", "got inf"),
        ({"resources": {"gpu": 1, "gpu_memory": 0}}, "resources.gpu_memory", "more than nothing"),
        ({"resources": {"gpu": 1, "gpu_memory": "1XB"}}, "resources.gpu_memory", "expected a size"),
        ({"resources": {"gpu": 1, "gpus": 0}}, "resources.gpus", "expected a list"),
        ({"resources": {"gpu": 1, "gpus": [1, "1"]}}, "resources.gpus.1", "twice"),
        ({"resources": {"gpu": 1, "gpus": ["GPU-a", "gpu-A"]}}, "resources.gpus.1", "twice"),
        ({"resources": {"gpu": 1, "gpus": [True]}}, "resources.gpus.0", "got true"),
        ({"resources": {"gpu": 1, "gpus": ["a b"]}}, "resources.gpus.0", "got 'a b'"),
        ({"sharing": "mps"}, "sharing", "not supported yet"),
        ({"resources": {"gpu_memory": "1GiB"}}, "resources.gpu_memory", "needs gpu"),
        ({"resources": {"gpu": 0, "gpu_memory": "1GiB"}}, "resources.gpu_memory", "needs gpu"),
        ({"resources": {"gpus": [0]}}, "resources.gpus", "needs gpu"),
        ({"workers": [{"gpu_memory": 1}]}, "workers.0.gpu_memory", "needs gpu"),
        ({"workers": [{"gpu": 0, "gpus": [1]}]}, "workers.0.gpus", "needs gpu"),
        ({"on_no_gpu": "gpu"}, "on_no_gpu", "wait, cpu or fail"),
        ({"env": ["A=1"]}, "env", "expected a map"),
        ({"env": {"A=B": 1}}, "env.A=B", "without '='"),
        ({"env": {"A": "\0"}}, "env.A", "NUL"),
        ({"env": {"A": None}}, "env.A", "got nothing"),
        ({"env": {"A": False}}, "env.A", "boolean false"),
        ({"env": {"A": []}}, "env.A", "got a list"),
        ({"env": {"CUDA_VISIBLE_DEVICES": 0}}, "env.CUDA_VISIBLE_DEVICES", "cannot be set"),
        ({"env": {"CUDA_DEVICE_ORDER": 0}}, "env.CUDA_DEVICE_ORDER", "cannot be set"),
        ({"workers": [{"env": {"WORKER_GPU_X": 0}}]}, "workers.0.env.WORKER_GPU_X", "cannot be set"),
        ({"workers": [{"env": {"PORT": 0}, "port": 1}]}, "workers.0.env.PORT", "beside port"),
        ({"env": {"PORT": 0}, "workers": [{"port": 1}]}, "env.PORT", "beside port"),
        ({"working_dir": ""}, "working_dir", "empty"),
        ({"working_dir": 3.5, "port": 0}, "port", "from 1 to 65535, got 0"),
        ({"port": 65536}, "port", "got 65536"),
        ({"port": "80"}, "port", "got '80'"),
        ({"port": 65535, "workers": 2}, "port", "llm/1 would get port 65536"),
        ({"port": 80, "workers": [{}, {"port": 80}]}, "workers.1.port", "which is llm/0's"),
        ({"ready": "tcp"}, "ready", "expected a map"),
        ({"ready": {"tcp": True}}, "ready.tcp", "needs a port"),
        ({"ready": {"tcp": True}, "workers": [{"port": 1}, {}]}, "ready.tcp", "needs a port"),
        ({"ready": {"tcp": False}, "port": 1}, "ready.tcp", "expected true"),
        ({"ready": {"tcp": True, "after": 1}, "port": 1}, "ready", "got both"),
        ({"ready": {"after": "10m"}}, "ready.after", "less than timeout"),
        ({"ready": {"after": "1s", "timeout": "1s"}}, "ready.after", "less than timeout"),
        ({"ready": {"timeout": "1s"}}, "ready.timeout", "more than the 1s"),
        ({"ready": {"interval": 0}}, "ready.interval", "at least 1ms"),
        ({"ready": {"timeout": -1}}, "ready.timeout", "got -1"),
        ({"ready": {"http": "/"}}, "ready.http", "http needs a port"),
        ({"ready": {"http": "https://localhost/"}}, "ready.http", "expected a path, or an http:// URL"),
        (
            {"ready": {"http": "http://10.0.0.1:$(PORT)/"}, "port": 1},
            "ready.http",
            "expected a path, or an http:// URL",
        ),
        ({"ready": {"http": "/a b"}, "port": 1}, "ready.http", "without spaces"),
        ({"ready": {"exec": "true"}}, "ready.exec", "expected a list, no shell is run"),
        ({"ready": {"exec": []}}, "ready.exec", "empty"),
        ({"ready": {"http": "/", "exec": ["a"], "notify": True}, "port": 1}, "ready", "got all of them"),
        ({"alive": {"interval": 1}}, "alive", "expected one of http, tcp, exec and notify"),
        ({"alive": {"tcp": True}}, "alive.tcp", "tcp needs a port"),
        ({"alive": {"after": 1, "tcp": True}, "port": 1}, "alive.after", "unknown key"),
        ({"alive": {"notify": True, "timeout": 1}}, "alive.timeout", "no timeout beside notify"),
        ({"alive": {"exec": ["a"], "failures": 0}}, "alive.failures", "from 1 to 1000, got 0"),
        ({"stop": {"signal": 0}}, "stop.signal", "got 0"),
        ({"stop": {"signal": True}}, "stop.signal", "got true"),
        ({"stop": {"signal": 9**99}}, "stop.signal", "expected a signal"),
        ({"stop": {"timeout": "ever"}}, "stop.timeout", "expected a duration"),
        ({"stop": {"timeout": 0, "exec": ["x"]}}, "stop.timeout", "exec has a part of it"),
        ({"stop": {"exec": "drain --now"}}, "stop.exec", "no shell is run"),
        ({"stop": {"exec": []}}, "stop.exec", "got an empty one"),
        ({"stop": {"group": "yes"}}, "stop.group", "expected true or false"),
        ({"restart": {"policy": "no"}}, "restart.policy", "always, on-failure or never"),
        ({"restart": {"delay": "2m"}}, "restart.delay", "max_delay (60s)"),
        ({"restart": {"limit": -1}}, "restart.limit", "got -1"),
        ({"restart": {"permanent_exit": 78}}, "restart.permanent_exit", "expected a list"),
        ({"restart": {"permanent_exit": [0]}}, "restart.permanent_exit.0", "from 1 to 255"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(keys: Document, path: str, words: str) -> None:
    """One problem, one place, and words that say what was expected."""
    place, problem = problem_of(**keys)

    assert place == path
    assert words in problem.message


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"wrkers": 1}, "did you mean workers?"),
        ({"live": 1}, "did you mean alive?"),
        ({"gpu": 1}, "it belongs under resources"),
        ({"stop": {"timout": 1}}, "did you mean timeout?"),
        ({"workers": [{"resources": {}}]}, "write gpu, gpus and gpu_memory directly in the entry"),
        ({"workers": [{"command": "x"}]}, "it belongs to the service, not to one worker"),
        ({"workers": "cpu-count"}, "did you mean cpu_count?"),
        ({"on_no_gpu": "Wait"}, "did you mean wait?"),
        ({"stop": {"signal": "SIGTREM"}}, "did you mean SIGTERM?"),
        ({"env": {"A": True}}, 'quote it: "true"'),
        ({"command": "a | b"}, "write sh -c '...', or the command as a list"),
        ({"command": "a $HOME"}, "write $(HOME)"),
        ({"zzzz": 1}, ""),
    ],
)
def test_a_hint_says_what_was_meant(keys: Document, hint: str) -> None:
    """Where there is a likely one."""
    assert hint == problem_of(**keys)[1].hint


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a.b", "a/b", "ä", "a" * 64, "a\n"])
def test_a_bad_name_of_a_service_is_refused(name: str) -> None:
    """Names become ids, paths and labels."""
    assert len(problems_of({"services": {name: {"command": "x"}}})) == 1


def test_a_good_name_of_a_service_is_taken() -> None:
    """Up to 63 characters."""
    assert parse_spec({"services": {"0" + "a_-" * 20 + "zz": {"command": "x"}}}, base_dir="/")


@pytest.mark.parametrize("document", [None, [], 3, "x", {}, {"services": []}, {"service": {}}, {1: 2, "services": {}}])
def test_what_is_no_service_file_is_refused(document: object) -> None:
    """Another shape, a missing or misspelt ``services``, keys that are no strings."""
    with pytest.raises(SpecError):
        parse_spec(document, base_dir="/")


def test_two_services_cannot_have_one_port() -> None:
    """Said once for each place, although five workers collide; a bad service is no excuse."""
    document = {
        "services": {"a": {"port": 8000, "workers": 5}, "b": {"command": "x", "port": 8000, "workers": 5, "nice": 1}}
    }

    problems = problems_of(document)

    assert "which is a/0's" in problems["services.b.port"].message


def test_ports_that_only_this_machine_makes_collide_are_refused_at_expand() -> None:
    """How many ``cpu_count`` means is known no earlier."""
    document = {
        "services": {"a": {"command": "x", "port": 1, "workers": "cpu_count"}, "b": {"command": "x", "port": 3}}
    }
    spec = parse_spec(document, base_dir="/")

    assert len(spec.expand(2)) == 3
    with pytest.raises(SpecError, match="which is a/2's"):
        spec.expand(4)


def test_a_file_with_too_many_workers_is_refused() -> None:
    """Each service may be within the bound and their sum not."""
    document = {"services": {name: {"command": "x", "workers": 60_000} for name in "ab"}}

    assert set(problems_of(document)) == {"services"}


# ---- anything whatever -----------------------------------------------------------------------------------------------

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
WORDS = "command workers resources env port ready stop restart gpu gpus gpu_memory tcp after timeout signal delay"
KEYS = st.one_of(st.sampled_from(WORDS.split()), st.text(max_size=3))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.dictionaries(KEYS, VALUES, max_size=6), VALUES, VALUES)
def test_no_document_makes_anything_but_a_spec_or_problems(service: Document, defaults: object, daemon: object) -> None:
    """Whatever stands where."""
    document = {"services": {"a": service, "b": {"command": "x"}}, "defaults": defaults, "daemon": daemon}
    try:
        spec = parse_spec(document, base_dir="/")
    except SpecError as refused:
        assert refused.problems
        assert all(problem.message and "\n" not in problem.message for problem in refused.problems)
    else:
        assert unknown_names(spec, {}) is not None
