"""What a document means, and what is said of one that means nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.spec import (
    Percent,
    Ready,
    Request,
    Restart,
    Stop,
    WorkerId,
    home_of,
    parse_spec,
    unknown_names,
)
from tests.core.spec_documents import Document, problems_of, spec_of, workers_of

# ---- what keys mean --------------------------------------------------------------------------------------------------


def test_a_service_with_a_command_alone_has_the_contracts_defaults() -> None:
    """One worker, no GPU, always restarted, ready after a second."""
    (worker,) = workers_of()

    assert worker.id == WorkerId("llm", 0)
    assert (worker.recipe.command, worker.recipe.env, worker.recipe.working_dir) == (("serve",), (), "/srv")
    assert (worker.recipe.port, worker.recipe.gpu_memory, worker.request) == (None, None, Request())
    assert worker.policy.on_no_gpu == "wait"
    assert worker.policy.ready == Ready(kind="after", after_s=1.0, timeout_s=600.0, interval_s=2.0)
    assert worker.policy.stop == Stop(signal=15, timeout_s=30.0)
    assert worker.policy.restart == Restart(
        policy="always", delay_s=1.0, max_delay_s=60.0, start_limit=5, limit=10, permanent_exit=(78,)
    )


def test_the_contracts_example_is_understood() -> None:
    """Each key of it that this version has."""
    workers = workers_of(
        command="vllm serve Qwen/Qwen3-8B --port $(PORT)",
        workers=4,
        resources={"gpu": 1, "gpu_memory": "20GiB"},
        port=8000,
        ready={"timeout": "15m"},
        stop={"timeout": "60s"},
        env={"HF_HOME": "/srv/hf"},
    )

    assert [worker.recipe.port for worker in workers] == [8000, 8001, 8002, 8003]
    assert workers[3].recipe.command == ("vllm", "serve", "Qwen/Qwen3-8B", "--port", "$(PORT)")
    assert workers[3].recipe.env == (("HF_HOME", "/srv/hf"),)
    assert workers[3].request == Request(gpu=1000, gpu_memory=20 * 2**30)
    assert workers[3].policy.ready == Ready(kind="tcp", timeout_s=900.0)
    assert workers[3].policy.stop.timeout_s == 60.0


def test_workers_are_in_the_files_order_then_by_index() -> None:
    """Names are not sorted: the order of the file says who is placed first."""
    document = {"services": {"b": {"command": "x", "workers": 2}, "a": {"command": "x", "workers": "cpu_count"}}}

    ids = [str(worker.id) for worker in parse_spec(document, base_dir="/").expand(3)]

    assert ids == ["b/0", "b/1", "a/0", "a/1", "a/2"]


def test_no_workers_are_no_workers() -> None:
    """Zero and an empty list keep the service in the file and start nothing."""
    assert workers_of(workers=0) == workers_of(workers=[]) == ()


@pytest.mark.parametrize(
    ("entry", "request_"),
    [
        ({}, Request(gpu=1000, gpus=("0", "1", "2"), gpu_memory=1024)),
        (None, Request(gpu=1000, gpus=("0", "1", "2"), gpu_memory=1024)),
        ({"gpus": [3, "GPU-ab"]}, Request(gpu=2000, gpus=("3", "GPU-ab"), exact=True, gpu_memory=1024)),
        ({"gpus": [3, 4], "gpu": 1}, Request(gpu=1000, gpus=("3", "4"), gpu_memory=1024)),
        ({"gpu": "all"}, Request(gpu="all", gpus=("0", "1", "2"), gpu_memory=1024)),
        ({"gpu": 0}, Request()),
        ({"gpu_memory": "50%"}, Request(gpu=1000, gpus=("0", "1", "2"), gpu_memory=Percent(500))),
    ],
)
def test_an_entry_overrides_the_service(entry: object, request_: Request) -> None:
    """GPUs without a count are exactly these; a worker without a GPU asks for nothing else about them."""
    (worker,) = workers_of(workers=[entry], resources={"gpu": 1, "gpus": [0, 1, "2"], "gpu_memory": "1KiB"})

    assert worker.request == request_
    assert worker.recipe.gpu_memory == request_.gpu_memory


def test_an_entrys_port_is_exact_and_its_env_is_merged() -> None:
    """Others keep port + index; the entry's word on a variable wins."""
    workers = workers_of(port=8000, env={"A": 1, "B": 2}, workers=[{}, {"port": 9000, "env": {"B": 3, "C": 4}}, {}])

    assert [worker.recipe.port for worker in workers] == [8000, 9000, 8002]
    assert workers[1].recipe.env == (("A", "1"), ("B", "3"), ("C", "4"))
    assert workers[2].recipe.env == (("A", "1"), ("B", "2"))


def test_a_worker_is_probed_at_its_port_if_it_has_one() -> None:
    """Without a word on readiness each worker of the list gets what fits it."""
    workers = workers_of(workers=[{"port": 9000}, {}], ready={"timeout": "5m"})

    assert [(worker.policy.ready.kind, worker.policy.ready.timeout_s) for worker in workers] == [
        ("tcp", 300.0),
        ("after", 300.0),
    ]
    assert workers_of(port=1, ready={"after": "5s"})[0].policy.ready == Ready(kind="after", after_s=5.0)
    assert spec_of(port=1).services["llm"].ready.kind == "tcp"


@pytest.mark.parametrize("written", ["SIGINT", "INT", "sigint", 2, "2"])
def test_a_signal_is_named_or_numbered(written: object) -> None:
    """With and without SIG."""
    assert spec_of(stop={"signal": written}).services["llm"].stop.signal == 2


@pytest.mark.parametrize(
    ("written", "directory"),
    [(".", "/srv"), ("a/b", "/srv/a/b"), ("/var", "/var"), ("a$(X)", "/srv/a$(X)"), ("$(HOME)/a", "$(HOME)/a")],
)
def test_a_directory_is_relative_to_the_file(written: str, directory: str) -> None:
    """One that begins with a name is absolute or not by the name's value."""
    assert directory == spec_of(working_dir=written).services["llm"].working_dir


def test_values_of_env_are_strings() -> None:
    """Numbers are written out; nothing is expanded yet."""
    assert spec_of(env={"A": 1, "B": 1.5, "C": "$(A)", "x-D": ""}).services["llm"].env == {
        "A": "1",
        "B": "1.5",
        "C": "$(A)",
        "x-D": "",
    }


def test_a_list_command_is_taken_as_it_stands() -> None:
    """Nothing is looked for in it; numbers are written out."""
    assert spec_of(command=["sh", "-c", "a | b", ">", "$HOME", 3]).services["llm"].command[3:] == (">", "$HOME", "3")


def test_restart_and_file_wide_keys_are_read() -> None:
    """Every key that is not asked elsewhere."""
    spec = parse_spec(
        {
            "services": {
                "a": {"command": "x", "restart": {"policy": "never", "delay": 0, "permanent_exit": [3, 3, 4]}}
            },
            "gpus": [0, "GPU-1"],
            "daemon": {"headroom": "2%", "gpu_wait": "1m", "log_format": "json"},
        },
        base_dir="/",
    )

    assert spec.services["a"].restart == Restart(policy="never", delay_s=0.0, permanent_exit=(3, 4))
    assert (spec.gpus, spec.daemon.headroom) == (("0", "GPU-1"), Percent(20))
    assert (spec.daemon.gpu_wait, spec.daemon.log_format) == (60.0, "json")


def test_keys_starting_with_x_are_nobodys() -> None:
    """In every map of ours they are ignored, whatever they hold."""
    junk: Document = {"x-junk": {"any": [object()]}}
    maps = {key: dict(junk) for key in ("resources", "ready", "stop", "restart")}
    document = {
        "services": {"a": {"command": "x", "workers": [dict(junk)], **maps, **junk}, **junk},
        "defaults": dict(junk),
        "daemon": dict(junk),
        **junk,
    }

    assert list(parse_spec(document, base_dir="/").services) == ["a"]


def test_equal_values_are_equal_and_hashable() -> None:
    """Plans compare recipes and policies, and keep them in sets."""
    assert len({*workers_of(workers=1, env={"A": 1}), *workers_of(workers=1, env={"A": 1})}) == 1


# ---- defaults --------------------------------------------------------------------------------------------------------


def with_defaults(defaults: Mapping[str, object], **keys: object) -> Document:
    return {"defaults": defaults, "services": {"llm": {"command": "x", **keys}, "b": {"command": "y"}}}


def test_defaults_are_merged_deep_for_maps_and_replaced_otherwise() -> None:
    """A map is merged key by key, a list or scalar of the service takes the place of the default's."""
    defaults = {"env": {"A": 1, "B": 2}, "restart": {"permanent_exit": [1, 2], "delay": "2s"}, "workers": 3}
    document = with_defaults(defaults, env={"B": 3}, restart={"permanent_exit": [9]}, workers=1)

    llm, b = parse_spec(document, base_dir="/").services.values()

    assert llm.env == {"A": "1", "B": "3"}
    assert (llm.restart.permanent_exit, llm.restart.delay_s, llm.workers) == ((9,), 2.0, 1)
    assert (b.env, b.workers, b.restart.permanent_exit) == ({"A": "1", "B": "2"}, 3, (1, 2))


def test_a_services_probe_and_its_gpu_0_overrule_the_defaults() -> None:
    """Merged key by key they would contradict each other."""
    defaults = {"ready": {"after": "9s", "timeout": "1m"}, "resources": {"gpu": 1, "gpu_memory": "1GiB", "gpus": [1]}}
    document = with_defaults(defaults, ready={"tcp": True}, port=1, resources={"gpu": 0})

    llm, b = parse_spec(document, base_dir="/").expand(1)

    assert llm.policy.ready == Ready(kind="tcp", timeout_s=60.0)
    assert (llm.request, b.request.gpu_memory) == (Request(), 2**30)


def test_a_problem_of_the_defaults_is_said_once_and_there() -> None:
    """However many services inherit it; also what goes wrong only together with a service."""
    defaults = {"prot": 1, "stop": {"signal": "X"}, "env": {"WORKER": 1, "PORT": 1}, "alive": "x"}

    problems = problems_of(with_defaults(defaults, port=8000))

    assert set(problems) == {"defaults.prot", "defaults.stop.signal", "defaults.env.WORKER", "defaults.env.PORT"} | {
        "defaults.alive"
    }


def test_a_problem_of_defaults_that_nobody_inherits_is_said() -> None:
    """Overridden by each service, or without any."""
    assert set(problems_of({"defaults": {"port": "x"}, "services": {}})) == {"defaults.port"}
    assert set(problems_of({"defaults": 3, "services": {"a": {"command": "x"}}})) == {"defaults"}


def test_a_services_own_problem_stays_with_it() -> None:
    """Also where the defaults have that key."""
    assert set(problems_of(with_defaults({"port": 8000, "workers": 0}, port=0))) == {"services.llm.port"}
    assert home_of(("services", "a", "env", "A"), {"services": {"a": None}, "defaults": {"env": {"A": 1}}}) == (
        "defaults",
        "env",
        "A",
    )


# ---- names -----------------------------------------------------------------------------------------------------------


def missing_names(environ: Mapping[str, str] | None = None, **keys: object) -> list[tuple[str, str]]:
    """Place below the service and message of each."""
    found = unknown_names(spec_of(**keys), environ or {})
    return [(".".join(str(part) for part in problem.path[2:]), problem.message) for problem in found]


def test_a_name_that_no_worker_has_is_found() -> None:
    """In command, env and directory; each once, with the hint to keep it for the shell."""
    assert missing_names(command="a $(B) $(B) $$(C)", env={"D": "$(E)"}, working_dir="$(F)") == [
        ("command", "$(B) has no value"),
        ("working_dir", "$(F) has no value"),
        ("env.D", "$(E) has no value"),
    ]
    assert unknown_names(spec_of(command="a $(B)"), {})[0].hint == "write $$(B) for the shell, or set B under env"


def test_names_come_from_the_table_env_and_the_daemon() -> None:
    """All three of them; what the daemon does not hand on does not count."""
    assert missing_names(command="$(WORKER) $(A) $(HOME)", env={"A": 1}, environ={"HOME": "/"}) == []
    assert missing_names(command="a $(RANK) $(HIP_VISIBLE_DEVICES)", environ={"RANK": "0"}) == [
        ("command", "$(RANK) has no value"),
        ("command", "$(HIP_VISIBLE_DEVICES) has no value"),
    ]


def test_a_name_of_the_table_counts_where_the_worker_has_it() -> None:
    """PORT with a port, declared memory where it is declared; worker by worker."""
    assert missing_names(command="a $(PORT)") == [("command", "$(PORT) has no value")]
    assert missing_names(command="a $(PORT)", port=1) == []
    assert missing_names(command="a $(PORT)", workers=[{"port": 1}, {}]) == [("command", "$(PORT) has no value")]
    assert missing_names(command="a $(WORKER_GPU_MEMORY_MIB)") == [("command", "$(WORKER_GPU_MEMORY_MIB) has no value")]
    assert missing_names(command="a $(WORKER_GPU_MEMORY_MIB)", resources={"gpu": 1, "gpu_memory": 1}) == []
    assert missing_names(workers=[{"env": {"A": "$(B)"}}, {"env": {"B": 1}}]) == [
        ("workers.0.env.A", "$(B) has no value")
    ]


# ---- ids -------------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True), st.integers(0, 10**9))
def test_an_id_round_trips(service: str, index: int) -> None:
    """What is shown can be typed."""
    assert WorkerId.parse(str(WorkerId(service, index))) == WorkerId(service, index)


@pytest.mark.parametrize("text", ["", "llm", "llm/", "/0", "llm/x", "llm/-1", "llm/00", "llm/0/1", "llm/٣"])
def test_what_is_no_id_is_refused(text: str) -> None:
    """No second spelling of an index."""
    with pytest.raises(ValueError, match="expected SERVICE/N"):
        WorkerId.parse(text)
