"""Where output goes: what the file may say of it, and that it takes effect without a restart."""

from __future__ import annotations

import pytest

from supervisor.core.message import Redirect, Signal, Spawn
from supervisor.core.spec import INHERIT, Logs, WorkerId, parse_spec, unknown_names
from tests.core.builders import devices, good, of_type, spec_of
from tests.core.spec_documents import problems_of
from tests.core.stage import running

FOUR = good(*devices(4))


def logs_of(value: object) -> Logs:
    """What a service's `logs` means, in a file of /srv."""
    document = {"services": {"a": {"command": "x", "logs": value}}}
    return parse_spec(document, base_dir="/srv").services["a"].logs


def test_logs_are_inherited_unless_the_file_says_otherwise() -> None:
    """The default, and the two words."""
    assert parse_spec({"services": {"a": {"command": "x"}}}, base_dir="/").services["a"].logs == INHERIT
    assert logs_of("inherit") == INHERIT
    assert logs_of("journal") == Logs(kind="journal")


def test_log_file_has_its_defaults_and_begins_at_the_files_directory() -> None:
    """100MiB and 5; names stand for the worker's environment, also at the very beginning."""
    logs = logs_of({"file": "logs/$(SERVICE_NAME)/$(WORKER_INDEX).log"})

    assert (logs.max_size, logs.keep) == (100 * 1024**2, 5)
    assert logs.path({"SERVICE_NAME": "llm", "WORKER_INDEX": "3"}) == "/srv/logs/llm/3.log"
    assert logs_of({"file": "$(WORKER_INDEX).log"}).path({"WORKER_INDEX": "3"}) == "/srv/3.log"
    assert logs_of({"file": "/var/log/../x.log"}).path({}) == "/var/x.log"
    assert logs_of({"file": "x", "max_size": "1MB", "keep": 0}).max_size == 1_000_000


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ("jornal", "", "expected inherit, journal or a map with a file, got 'jornal'"),
        ([], "", "expected a map"),
        ({}, "", "a log file needs a name"),
        ({"file": ""}, "file", "expected the path of a file, got ''"),
        ({"file": "logs/"}, "file", "expected the path of a file, got 'logs/'"),
        ({"file": "x", "max_size": "1KiB"}, "max_size", "expected at least 4KiB, got '1KiB'"),
        ({"file": "x", "keep": -1}, "keep", "expected a whole number from 0 to 1000, got -1"),
        ({"file": "x", "size": 1}, "size", "unknown key 'size'"),
    ],
)
def test_logs_that_cannot_be_meant_are_refused(value: object, path: str, message: str) -> None:
    """At their place, and nothing else is said."""
    ((place, problem),) = problems_of({"services": {"a": {"command": "x", "logs": value}}}).items()

    assert place == ".".join(filter(None, ("services.a.logs", path)))
    assert problem.message.startswith(message)


def test_name_without_a_value_in_a_log_file_is_found() -> None:
    """As everywhere else."""
    spec = parse_spec({"services": {"a": {"command": "x", "logs": {"file": "$(NOPE).log"}}}}, base_dir="/")

    (problem,) = unknown_names(spec, {})

    assert (problem.path, problem.message) == (("services", "a", "logs", "file"), "$(NOPE) has no value")


def test_process_starts_with_its_output_where_the_file_says() -> None:
    """The spawn says where."""
    stage = running(spec_of(llm={"logs": "journal"}), *devices(1))

    assert [one.logs for one in of_type(Spawn, stage.history)] == [Logs(kind="journal")]


def test_changed_logs_take_effect_on_living_processes() -> None:
    """Each is told once; nobody is restarted, and there is no difference to speak of."""
    stage = running(spec_of(llm={"workers": 2}), *devices(4))

    finish = stage.at(100.0).reload(spec_of(llm={"workers": 2, "logs": "journal"}), FOUR)

    assert (finish.ok, finish.difference) == (True, {})
    told = of_type(Redirect, stage.actions)
    assert [(str(one.worker), one.incarnation, one.logs.kind) for one in told] == [
        ("llm/0", 1, "journal"),
        ("llm/1", 2, "journal"),
    ]
    assert of_type(Signal, stage.actions) == []
    assert of_type(Spawn, stage.actions) == []
    stage.at(200.0).reload(spec_of(llm={"workers": 2, "logs": "journal"}), FOUR)
    assert of_type(Redirect, stage.actions) == []


def test_process_on_its_way_down_follows_too() -> None:
    """Its last words go where the newest file wants them."""
    stage = running(spec_of(llm={}), *devices(1))
    stage.at(50.0).reload(spec_of(llm={"workers": 0}), good(*devices(1)))
    assert stage["llm/0"].state == "stopping"

    stage.at(51.0).reload(spec_of(llm={"logs": "journal"}), good(*devices(1)))

    assert of_type(Redirect, stage.actions) == [Redirect(WorkerId("llm", 0), 1, Logs(kind="journal"))]
