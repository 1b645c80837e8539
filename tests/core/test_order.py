"""`after`: nobody starts before those it comes after were ready; nobody is stopped before those that come after it."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.core.message import (
    Exit,
    ScaleRequested,
    ShutdownRequested,
    Signal,
    StartRequested,
    StopRequested,
)
from supervisor.core.outcome import unsettled
from supervisor.core.spec import Spec, SpecError, WorkerId, parse_spec
from supervisor.core.turn import DaemonState
from tests.core.builders import devices, good, of_type, spec_of
from tests.core.stage import Stage, running

TCP = {"port": 8000}
WEB = {"after": ["db"], "port": 9000}


def two_layers(workers: int = 2, **web: object) -> Spec:
    """`web` comes after the workers of `db`."""
    return spec_of(web={**WEB, **web}, db={"workers": workers, **TCP})


def problems_of(**services: dict[str, object]) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        spec_of(gpus=None, daemon=None, **services)
    return [(".".join(map(str, one.path)), one.message, one.hint) for one in caught.value.problems]


# ---- the file -------------------------------------------------------------------------------------------------------


def test_a_service_that_is_not_there_is_refused_with_the_one_that_was_meant() -> None:
    found = problems_of(web={"after": ["dbs"]}, db={})

    assert found == [("services.web.after", "there is no service 'dbs'", "did you mean db?")]


def test_a_cycle_is_refused_once_with_its_way() -> None:
    found = problems_of(a={"after": ["c"]}, b={"after": ["a"]}, c={"after": ["b"]})

    assert found == [("services.a.after", "a would wait for itself: a -> c -> b -> a", "")]


def test_defaults_may_not_make_a_cycle() -> None:
    """They are merged into the service that they name too."""
    document: dict[str, Any] = {
        "defaults": {"after": ["db"]},
        "services": {"db": {"command": "x"}, "web": {"command": "x"}},
    }
    with pytest.raises(SpecError) as caught:
        parse_spec(document, base_dir="/srv")

    assert [one.path for one in caught.value.problems] == [("defaults", "after")]
    assert "db -> db" in caught.value.problems[0].message
    document["services"]["db"]["after"] = []
    assert parse_spec(document, base_dir="/srv").services["web"].after == ("db",)


def test_who_comes_after_a_bad_service_is_not_wrong_for_that() -> None:
    found = problems_of(web={"after": ["db"]}, db={"workers": "many"})

    assert [path for path, _, _ in found] == ["services.db.workers"]


# ---- starting -------------------------------------------------------------------------------------------------------


def test_a_worker_waits_for_those_it_comes_after_and_says_how_many_are_ready() -> None:
    stage = Stage().load(two_layers())

    assert stage.states() == {"db/0": "starting", "db/1": "starting", "web/0": "pending"}
    assert stage["web/0"].reason == "waits for db: 0 of 2 ready"
    stage.ready("db/0")
    assert stage["web/0"].reason == "waits for db: 1 of 2 ready"
    stage.ready("db/1")
    assert stage.spawns() == ("web/0",)


def test_every_service_is_waited_for() -> None:
    stage = Stage().load(spec_of(web={"after": ["db", "cache"]}, db=TCP, cache={"port": 7000}))

    assert stage["web/0"].reason == "waits for db: 0 of 1 ready, cache: 0 of 1 ready"
    stage.ready("db/0")
    stage.unready("db/0")
    assert stage["web/0"].reason == "waits for cache: 0 of 1 ready"
    stage.ready("cache/0")
    assert stage.spawns() == ("web/0",), "what was ready once is not asked again"


def test_later_unreadiness_stops_nobody_and_keeps_nobody_from_a_restart() -> None:
    stage = Stage().load(two_layers(1)).ready("db/0", "web/0").unready("db/0")

    assert stage.state("web/0") == "ready"
    stage.exited("db/0").exited("web/0")
    stage.pass_time(10.0)
    assert "web/0" in [str(one) for one in stage.fleet.workers if stage.state(str(one)) == "starting"]


def test_nobody_waits_for_a_service_without_workers_or_held_by_the_operator() -> None:
    stage = Stage().load(two_layers(0))
    assert stage.state("web/0") == "starting"

    held = Stage().load(spec_of())
    held.meet(StopRequested(services=("db",)))
    held.reload(two_layers(2), good())
    assert held.states() == {"db/0": "stopped", "db/1": "stopped", "web/0": "starting"}


def test_of_a_service_that_is_held_in_part_the_others_count() -> None:
    stage = Stage().load(two_layers(2))

    stage.meet(StopRequested(workers=(WorkerId("db", 1),)))

    assert stage["web/0"].reason == "waits for db: 0 of 1 ready"
    stage.ready("db/0")
    assert stage.state("web/0") == "starting"


def test_a_service_that_was_held_down_counts_as_new() -> None:
    stage = Stage().load(two_layers(1)).ready("db/0", "web/0")

    stage.meet(StopRequested(services=("db", "web")))
    stage.exited("db/0", 0).exited("web/0", 0)
    stage.meet(StartRequested(services=("db", "web")))

    assert stage["web/0"].reason == "waits for db: 0 of 1 ready"


def test_one_that_did_what_it_was_for_is_as_good_as_ready() -> None:
    """A migration, say."""
    stage = Stage().load(spec_of(web={"after": ["migrate"]}, migrate={"restart": {"policy": "on-failure"}}))
    assert stage.state("web/0") == "pending"

    stage.spawned("migrate/0").exited("migrate/0", 0)

    assert stage.states() == {"migrate/0": "exited", "web/0": "starting"}


def test_who_comes_later_does_not_hold_back_those_that_have_the_service() -> None:
    stage = Stage().load(two_layers(1)).ready("db/0")

    stage.meet(ScaleRequested({"db": 3, "web": 2}))

    assert stage.state("web/1") == "starting"
    assert stage.state("db/2") == "starting"


def test_who_waits_for_another_does_not_take_its_turn_on_the_gpus() -> None:
    spec = spec_of(
        daemon={"start_parallel": 1},
        a={"after": ["z"], "resources": {"gpu": 1}},
        z={"resources": {"gpu": 1}},
    )
    stage = Stage()
    stage.driver = good(*devices(2))
    stage.load(spec).read(good(*devices(2)))

    assert stage.states() == {"a/0": "pending", "z/0": "starting"}


def test_nobody_is_taken_down_to_wait_for_a_new_service() -> None:
    """A new file brings `db`; `web` goes on with its old launch until that is ready."""
    stage = running(spec_of(web={"port": 9000}))

    stage.reload(two_layers(1, command="serve --new"), good())
    assert stage.states() == {"db/0": "starting", "web/0": "ready"}
    stage.ready("db/0")

    assert stage.state("web/0") == "stopping"


def test_a_reload_is_settled_when_nothing_will_come_of_the_rest() -> None:
    """Who waits for one that has failed waits for a person."""
    stage = Stage().load(two_layers(1)).spawn_failed("db/0", 2)

    assert stage.states() == {"db/0": "failed", "web/0": "pending"}
    assert unsettled(stage.fleet) == ()


def test_the_daemon_ends_when_all_that_is_left_waits_for_one_that_has_failed() -> None:
    """`exit_when_failed`, also by way of a third."""
    once = {"restart": {"policy": "never"}}
    spec = spec_of(daemon={"exit_when_failed": True}, db=once, web={"after": ["db"]}, top={"after": ["web"]})
    stage = Stage().load(spec).spawned("db/0").exited("db/0", 1)

    assert Exit(1) in stage.actions


# ---- stopping -------------------------------------------------------------------------------------------------------


def signalled(stage: Stage) -> list[str]:
    return sorted(str(one.worker) for one in of_type(Signal, stage.actions))


def test_the_daemon_stops_in_reverse_order() -> None:
    stage = running(spec_of(web={"after": ["db"], "workers": 2}, db={}, other={}))
    stage.pass_time(5.0).ready("web/0", "web/1")

    stage.meet(ShutdownRequested())
    assert signalled(stage) == ["other/0", "web/0", "web/1"]
    stage.exited("web/0", 0)
    assert signalled(stage) == []
    stage.exited("web/1", 0)
    assert signalled(stage) == ["db/0"]
    stage.exited("other/0", 0).exited("db/0", 0)

    assert stage.actions[-1] == Exit(0)


def layered() -> Stage:
    """`top` after `mid`, which has no workers, after `base`; graces of 10 s and 30 s."""
    return running(
        spec_of(
            base={"port": 8000, "stop": {"timeout": 30}},
            mid={"after": ["base"], "workers": 0},
            top={"after": ["mid"], "port": 9000, "stop": {"timeout": 10}},
        )
    )


def test_a_service_without_workers_still_stands_between_two_others() -> None:
    stage = layered()

    stage.meet(ShutdownRequested())

    assert signalled(stage) == ["top/0"]


def test_each_layer_has_its_own_time() -> None:
    """The longest grace of it, and 6 s."""
    stage = layered().at(100.0)

    stage.meet(ShutdownRequested())
    assert stage.fleet.deadline == 116.0
    stage.at(105.0).exited("top/0", 0)

    assert stage.fleet.deadline == 141.0


def test_a_layer_that_hangs_does_not_keep_the_next_from_its_end() -> None:
    """The daemon ends with 1 and names who is left."""
    stage = layered().at(100.0)
    stage.meet(ShutdownRequested())

    stage.pass_time(116.0)
    assert (stage.state("top/0"), stage.state("base/0")) == ("killing", "stopping")
    stage.exited("base/0", 0).pass_time(200.0)

    assert Exit(1, stuck=(WorkerId("top", 0),)) in stage.history


def test_who_dies_while_it_waits_for_its_end_is_not_started_again() -> None:
    stage = layered()
    stage.meet(ShutdownRequested())

    stage.exited("base/0", 1)

    assert stage.states() == {"top/0": "stopping"}
    assert stage.fleet.state is DaemonState.STOPPING


def test_the_newest_file_says_who_ends_before_whom() -> None:
    """Also of a process that was started when the file said nothing of it."""
    stage = running(spec_of(a={"port": 8000}, b={"port": 9000}))
    stage.reload(spec_of(a={"port": 8000}, b={"port": 9000, "after": ["a"]}), good())

    stage.meet(ShutdownRequested())
    assert signalled(stage) == ["b/0"]
    stage.pass_time(30.0)

    assert stage.states() == {"a/0": "ready", "b/0": "killing"}


def test_a_second_request_waits_for_no_layer() -> None:
    stage = layered()
    stage.meet(ShutdownRequested())
    stage.meet(ShutdownRequested())

    assert stage.states() == {"base/0": "killing", "top/0": "killing"}
