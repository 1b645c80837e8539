"""A changed launch: one index at a time, each on its slice, and a halt where the new one does not work."""

from __future__ import annotations

import pytest

from supervisor.core.message import (
    BecameReady,
    FinishReload,
    Say,
    ScaleRequested,
    StartRequested,
    StopRequested,
)
from supervisor.core.outcome import failures_since_reload, unsettled
from supervisor.core.preview import preview
from supervisor.core.snapshot import make_rollout_json
from supervisor.core.spec import Spec, WorkerId
from tests.core.builders import GIB, device, devices, good, of_type, spec_of
from tests.core.stage import Stage, running

FOUR = good(*devices(4))


def llm(workers: int = 4, **keys: object) -> Spec:
    """One service of workers with a GPU each and a port."""
    return spec_of(llm={"workers": workers, "resources": {"gpu": 1}, "port": 8000, **keys})


def answered(finish: FinishReload) -> dict[str, str]:
    """The difference by name."""
    assert finish.ok
    return {str(worker): what for worker, what in (finish.difference or {}).items()}


def launched(stage: Stage, worker: str) -> dict[str, str]:
    """Variables that its process was started with."""
    held = stage[worker].held
    assert held is not None
    return dict(held.wanted.recipe.env)


def test_a_changed_launch_replaces_one_index_at_a_time() -> None:
    """The lowest first, the next when the one before is ready, each on its old slice."""
    stage = running(llm(3), *devices(4))

    finish = stage.at(100.0).reload(llm(3, env={"A": "1"}), FOUR)

    assert answered(finish) == {"llm/0": "replace", "llm/1": "replace", "llm/2": "replace"}
    for worker in ("llm/0", "llm/1", "llm/2"):
        assert [name for name, state in stage.states().items() if state != "ready"] == [worker]
        stage.at(stage.now + 1.0).meet(BecameReady(WorkerId("llm", 0), 999))  # Any event may come meanwhile.
        stage.exited(worker, 0).spawned(worker)
        assert [name for name, state in stage.states().items() if state != "ready"] == [worker]
        stage.at(stage.now + 30.0).ready(worker)
    assert set(stage.states().values()) == {"ready"}
    assert stage.slices() == {"llm/0": (0,), "llm/1": (1,), "llm/2": (2,)}
    assert unsettled(stage.fleet) == ()
    assert [worker.starts for worker in stage.fleet.workers.values()] == [2, 2, 2]


def test_services_are_replaced_beside_each_other() -> None:
    """Each has one index on its way."""
    stage = running(spec_of(a={"workers": 2}, b={"workers": 2})).pass_time(10.0)

    stage.at(100.0).reload(spec_of(a={"workers": 2, "command": "new"}, b={"workers": 2, "command": "new"}), good())

    assert stage.states() == {"a/0": "stopping", "a/1": "ready", "b/0": "stopping", "b/1": "ready"}


def test_a_worker_that_ends_by_itself_comes_back_with_the_old_launch_until_the_new_one_is_proven() -> None:
    """What may not work is tried by one alone."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(llm(2, env={"A": "1"}), FOUR)

    stage.at(101.0).exited("llm/1", 1)

    assert stage.state("llm/1") == "starting"
    assert launched(stage, "llm/1") == {}
    stage.ready("llm/1").exited("llm/0", 0).ready("llm/0")
    stage.exited("llm/1", 0)
    assert launched(stage, "llm/1") == {"A": "1"}


def test_who_ends_by_itself_once_the_new_launch_is_proven_comes_back_with_it() -> None:
    """It costs nobody anything."""
    stage = running(llm(3), *devices(4))
    stage.at(100.0).reload(llm(3, env={"A": "1"}), FOUR)
    stage.exited("llm/0", 0).ready("llm/0")
    assert stage.states() == {"llm/0": "ready", "llm/1": "stopping", "llm/2": "ready"}

    stage.at(101.0).exited("llm/2", 1)

    assert launched(stage, "llm/2") == {"A": "1"}


def test_a_canary_that_does_not_get_ready_goes_back_to_the_old_launch() -> None:
    """The rest keep it, nobody is left failed, and the reload has."""
    stage = running(llm(3), *devices(4))
    stage.at(100.0).reload(llm(3, command="broken"), FOUR)

    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2, "command not found: broken")

    assert stage.states() == {"llm/0": "starting", "llm/1": "ready", "llm/2": "ready"}
    assert stage["llm/0"].held is not None
    assert stage["llm/0"].held == stage["llm/0"].target
    assert stage["llm/0"].held.wanted.recipe.command == ("serve",)
    assert [say.event for say in of_type(Say, stage.actions)] == ["plan.halted"]
    assert stage.fleet.last_reload is not None
    assert not stage.fleet.last_reload.ok
    assert stage.fleet.last_reload.problems[0] == (
        "llm/0 did not get ready with its new launch (command not found: broken); 3 of llm keep the old one until the"
        " next reload"
    )
    assert unsettled(stage.fleet) == ()
    assert failures_since_reload(stage.fleet) == stage.fleet.last_reload.problems
    assert stage.ready("llm/0").states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "ready"}


def test_a_reload_that_was_halted_stays_halted_until_the_next_one() -> None:
    """Devices that come and go, crashes and restarts do not take it up again; the same file does."""
    spec = llm(3, command="broken")
    stage = running(llm(3), *devices(4))
    stage.at(100.0).reload(spec, FOUR)
    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2)
    stage.ready("llm/0")
    said = len(_said_of_plans(stage))

    for second in range(110, 120):
        stage.at(float(second)).read(good(*devices(4 if second % 2 else 5)))
    stage.exited("llm/1", 1).pass_time(125.0).ready("llm/1")
    assert len(_said_of_plans(stage)) == said
    assert set(stage.states().values()) == {"ready"}
    assert {one.held.wanted.recipe.command for one in stage.fleet.workers.values() if one.held} == {("serve",)}

    finish = stage.at(200.0).reload(spec, FOUR)

    assert answered(finish) == {"llm/0": "replace", "llm/1": "replace", "llm/2": "replace"}
    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready", "llm/2": "ready"}


def _said_of_plans(stage: Stage) -> list[Say]:
    return [one for one in of_type(Say, stage.history) if not one.event.startswith("device.")]


def test_a_worker_that_comes_into_a_halted_service_is_what_the_others_are() -> None:
    """More of what is known not to work helps nobody."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(llm(2, command="broken"), FOUR)
    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2)

    stage.meet(ScaleRequested({"llm": 3}))

    held = stage["llm/2"].held
    assert held is not None
    assert (held.wanted.recipe.command, held.wanted.recipe.port) == (("serve",), 8002)


def test_policies_of_a_new_file_hold_for_those_that_keep_the_old_launch() -> None:
    """But for how they get ready: that belongs to what they run."""
    stage = running(llm(2), *devices(4))
    new = llm(2, command="broken", stop={"timeout": "90s"}, ready={"tcp": True, "timeout": "7s"})
    stage.at(100.0).reload(new, FOUR)
    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2)

    policy = stage["llm/1"].policy

    assert (policy.stop.timeout_s, policy.ready.timeout_s) == (90.0, 600.0)


def test_max_unavailable_is_how_many_may_be_missing_once_one_is_ready() -> None:
    """First one alone, then two at a time."""
    update = {"max_unavailable": 2}
    stage = running(llm(4, update=update), *devices(4))

    stage.at(100.0).reload(llm(4, update=update, env={"A": "1"}), FOUR)
    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready", "llm/2": "ready", "llm/3": "ready"}
    stage.exited("llm/0", 0).ready("llm/0")
    assert stage.states() == {"llm/0": "ready", "llm/1": "stopping", "llm/2": "stopping", "llm/3": "ready"}
    stage.exited("llm/1", 0).exited("llm/2", 0).ready("llm/1")

    assert stage.states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "starting", "llm/3": "stopping"}


def test_a_later_one_that_fails_goes_back_and_the_ready_ones_stay_new() -> None:
    """Nobody who works is replaced once more for it."""
    stage = running(llm(3), *devices(4))
    stage.at(100.0).reload(llm(3, env={"A": "1"}), FOUR)
    stage.exited("llm/0", 0).ready("llm/0").exited("llm/1", 0)

    stage.spawn_failed("llm/1", 2)

    assert [launched(stage, f"llm/{index}") for index in range(3)] == [{"A": "1"}, {}, {}]
    assert stage.states() == {"llm/0": "ready", "llm/1": "starting", "llm/2": "ready"}


def test_another_file_in_the_middle_of_a_roll_out_goes_on_with_the_same_canary() -> None:
    """Who is on its way goes on to the newest; where that fails, to what was before both."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(llm(2, command="second"), FOUR)
    stage.exited("llm/0", 0).spawned("llm/0")

    stage.at(101.0).reload(llm(2, command="third"), FOUR)

    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}
    stage.exited("llm/0", 0).spawn_failed("llm/0", 2)
    assert stage.states() == {"llm/0": "starting", "llm/1": "ready"}
    assert stage["llm/0"].held is not None
    assert stage["llm/0"].held.wanted.recipe.command == ("serve",)


def test_the_old_file_in_the_middle_of_a_roll_out_ends_it() -> None:
    """Only who was on its way is replaced."""
    stage = running(llm(3), *devices(4))
    stage.at(100.0).reload(llm(3, command="second"), FOUR)
    stage.exited("llm/0", 0).spawned("llm/0")

    finish = stage.at(101.0).reload(llm(3), FOUR)

    assert answered(finish) == {"llm/0": "replace"}
    stage.exited("llm/0", 0).ready("llm/0")
    assert set(stage.states().values()) == {"ready"}
    assert [one.starts for _, one in sorted(stage.fleet.workers.items())] == [3, 1, 1]
    assert not stage.fleet.rolls


def test_the_same_file_in_the_middle_of_a_roll_out_changes_nothing() -> None:
    """The canary is the same process, and it is still waited for."""
    new = llm(2, command="second")
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(new, FOUR)
    stage.exited("llm/0", 0).spawned("llm/0")
    before = stage["llm/0"].incarnation

    stage.at(101.0).reload(new, FOUR)

    assert stage["llm/0"].incarnation == before
    assert stage.states() == {"llm/0": "starting", "llm/1": "ready"}
    assert stage.ready("llm/0").states() == {"llm/0": "ready", "llm/1": "stopping"}


def test_a_canary_that_crashes_for_ever_is_given_up_after_the_time_of_a_start() -> None:
    """Its restart policy may never end."""
    never = {"restart": {"start_limit": 0, "limit": 0}, "ready": {"tcp": True, "timeout": "20s"}}
    stage = running(llm(2, **never), *devices(4))
    stage.at(100.0).reload(llm(2, command="broken", **never), FOUR)
    stage.exited("llm/0", 0)

    for _ in range(12):
        if not stage.fleet.tried:
            break
        stage.spawned("llm/0").at(stage.now + 1.0).exited("llm/0", 1)
        if stage.fleet.tried:
            stage.pass_time(stage["llm/0"].deadline or 0.0)

    assert not stage.fleet.tried
    assert 120.0 <= stage.now <= 140.0
    assert stage.state("llm/0") == "starting"
    assert stage["llm/0"].held == stage["llm/0"].target


def test_a_launch_without_a_place_takes_nobody_down() -> None:
    """It can be told beforehand."""
    stage = running(llm(3), *devices(4))

    stage.at(100.0).reload(llm(3, resources={"gpu": 1, "gpu_type": "nvidia-l4"}), FOUR)

    assert set(stage.states().values()) == {"ready"}
    assert "no place" in failures_since_reload(stage.fleet)[0]


def test_nobody_makes_room_who_would_fail_for_that() -> None:
    """Two GPUs for each of two, of two: one would get them, and the other fail for want of a GPU."""
    stage = running(llm(2, on_no_gpu="fail"), *devices(2))

    stage.at(100.0).reload(llm(2, on_no_gpu="fail", resources={"gpu": 2}), good(*devices(2)))

    assert stage.states() == {"llm/0": "ready", "llm/1": "ready"}
    assert stage.slices() == {"llm/0": (0,), "llm/1": (1,)}
    assert "no place" in failures_since_reload(stage.fleet)[0]


def test_who_would_make_room_goes_first_where_it_has_a_place_of_its_own() -> None:
    """The other serves until there is one for it too."""
    stage = running(spec_of(llm={"workers": [{"gpu": 0}, {"gpu": 1}]}), device(0))
    stage.at(100.0).reload(spec_of(llm={"workers": 2, "resources": {"gpu": 0.5}}), good(device(0)))
    assert stage.states() == {"llm/0": "ready", "llm/1": "stopping"}

    stage.exited("llm/1", 0).ready("llm/1")
    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}
    stage.exited("llm/0", 0).ready("llm/0")

    assert stage.slices() == {"llm/0": (0,), "llm/1": (0,)}


def test_who_makes_room_goes_back_too() -> None:
    """Two GPUs for each of four: the canary needs that of its neighbour, and both get theirs back."""
    stage = running(llm(4), *devices(4))

    stage.at(100.0).reload(llm(4, resources={"gpu": 2}), FOUR)
    assert stage.states() == {"llm/0": "stopping", "llm/1": "stopping", "llm/2": "ready", "llm/3": "ready"}
    stage.exited("llm/0", 0).exited("llm/1", 0)
    assert stage.slices() == {"llm/0": (0, 1), "llm/1": (), "llm/2": (2,), "llm/3": (3,)}
    stage.spawn_failed("llm/0", 2)

    assert stage.slices() == {"llm/0": (0,), "llm/1": (1,), "llm/2": (2,), "llm/3": (3,)}
    assert stage.states() == {"llm/0": "starting", "llm/1": "starting", "llm/2": "ready", "llm/3": "ready"}


def test_who_serves_nobody_is_the_first_to_go() -> None:
    """One in back-off, failed or starting costs nothing."""
    stage = running(llm(3), *devices(4))
    stage.at(5.0).exited("llm/2", 1)
    assert stage.state("llm/2") == "backoff"

    stage.at(5.1).reload(llm(3, command="second"), FOUR)

    assert stage.states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "starting"}


def test_a_service_of_which_nobody_serves_gets_its_new_launch_at_once() -> None:
    """There is nothing to lose, and nobody to wait for."""
    stage = running(llm(3), *devices(4))
    for name in ("llm/0", "llm/1", "llm/2"):
        stage.at(5.0).exited(name, 1)

    stage.at(5.1).reload(llm(3, command="second"), FOUR)

    assert not stage.fleet.kept
    assert {one.target.wanted.recipe.command for one in stage.fleet.workers.values() if one.target} == {("second",)}


def test_who_is_held_down_is_what_the_others_are_when_it_is_started() -> None:
    """The old one while the new one is not proven, the new one at the end."""
    stage = running(llm(3), *devices(4))
    stage.meet(StopRequested((WorkerId("llm", 2),)))
    stage.exited("llm/2", 0)
    stage.at(100.0).reload(llm(3, env={"A": "1"}), FOUR)
    stage.exited("llm/0", 0).ready("llm/0").exited("llm/1", 0).ready("llm/1")
    assert not stage.fleet.rolls

    stage.meet(StartRequested((WorkerId("llm", 2),)))

    assert launched(stage, "llm/2") == {"A": "1"}


def test_a_halted_reload_goes_on_with_a_better_file() -> None:
    """The failed one is asked again, then the others get their turn."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(llm(2, command="broken"), FOUR)
    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2)

    stage.at(200.0).reload(llm(2, command="better"), FOUR)

    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}
    stage.exited("llm/0", 0).ready("llm/0")
    assert stage.states() == {"llm/0": "ready", "llm/1": "stopping"}


def test_a_new_launch_that_crashes_is_waited_for_through_its_backoff() -> None:
    """Nobody else goes down before it is ready or has failed."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(llm(2, env={"A": "1"}), FOUR)
    stage.at(101.0).exited("llm/0", 0).spawned("llm/0").exited("llm/0", 1)

    assert stage.states() == {"llm/0": "backoff", "llm/1": "ready"}
    stage.pass_time(103.0)
    assert stage.states() == {"llm/0": "starting", "llm/1": "ready"}
    assert stage.ready("llm/0").states() == {"llm/0": "ready", "llm/1": "stopping"}


def test_who_gets_more_gpus_takes_those_that_are_free_first() -> None:
    """One GPU each becomes two each, and two are free: one of the workers serves at every moment."""
    stage = running(llm(2), *devices(4))
    assert stage.slices() == {"llm/0": (0,), "llm/1": (1,)}

    stage.at(100.0).reload(llm(2, resources={"gpu": 2}), FOUR)
    stage.exited("llm/0", 0)
    assert stage.states() == {"llm/0": "starting", "llm/1": "ready"}
    stage.ready("llm/0").exited("llm/1", 0).ready("llm/1")

    assert stage.slices() == {"llm/0": (0, 2), "llm/1": (1, 3)}


@pytest.mark.parametrize("gpus", [2, 4])
def test_more_gpus_for_each_than_there_are_does_not_lock_up(gpus: int) -> None:
    """Those who have a place run, the others wait with the arithmetic."""
    stage = running(llm(4), *devices(4))

    stage.at(100.0).reload(llm(4, resources={"gpu": gpus}), FOUR)
    for _ in range(20):
        for name, state in stage.states().items():
            if state == "stopping":
                stage.exited(name, 0)
            if state == "starting":
                stage.ready(name)

    assert sorted(stage.states().values()) == ["pending"] * (4 - 4 // gpus) + ["ready"] * (4 // gpus)
    assert unsettled(stage.fleet) == ()


def test_a_replaced_worker_waits_for_its_own_memory() -> None:
    """Stop, memory back, start: same index, same slice."""
    resources = {"gpu": 1, "gpu_memory": "40GiB"}
    stage = running(llm(1, resources=resources), device(0))
    stage.at(100.0).reload(llm(1, resources=resources, env={"A": "1"}), good(device(0, free=30 * GIB)))
    stage.at(105.0).exited("llm/0", 0)
    assert stage.states() == {"llm/0": "releasing"}

    stage.at(106.0).read(good(device(0, free=30 * GIB)))
    assert stage.states() == {"llm/0": "releasing"}

    stage.at(107.0).read(good(device(0))).at(107.5).read(good(device(0)))
    assert stage.states() == {"llm/0": "starting"}


def test_the_order_is_told_beforehand_and_is_the_one_that_is_taken() -> None:
    """With how many are ready at every step."""
    update = {"max_unavailable": 2}
    stage = running(llm(4, update=update), *devices(4))
    new = llm(4, update=update, env={"A": "1"})

    found = make_rollout_json(stage.fleet, new, preview(stage.fleet, new, 1))

    steps = [
        {"workers": ["llm/0"], "ready": 3},
        {"workers": ["llm/1", "llm/2"], "ready": 2},
        {"workers": ["llm/3"], "ready": 3},
    ]
    assert found == [{"service": "llm", "target": 4, "steps": steps}]
    stage.at(100.0).reload(new, FOUR)
    for step in steps:
        going = [name for name, state in stage.states().items() if state == "stopping"]
        assert {"workers": going, "ready": list(stage.states().values()).count("ready")} == step
        for name in going:
            stage.exited(name, 0)
        stage.ready(*going)


def test_nothing_is_told_where_nobody_is_replaced() -> None:
    """The same file, or more of the same."""
    stage = running(llm(2), *devices(4))

    assert make_rollout_json(stage.fleet, llm(4), preview(stage.fleet, llm(4), 1)) == []


def test_one_that_never_came_is_not_waited_for_where_it_waits_for_memory() -> None:
    """It may wait for that of those who are to be replaced, who have more than they declare."""

    def half(workers: int, **keys: object) -> Spec:
        resources = {"gpu": 0.5, "gpu_memory": 20 * GIB}
        return spec_of(llm={"workers": workers, "resources": resources, "port": 8000, **keys})

    stage = running(half(1), *devices(1))
    full = good(device(0, free=10 * GIB))

    stage.at(100.0).reload(half(2, env={"A": "1"}), full)
    stage.read(full)

    assert stage.states() == {"llm/0": "stopping", "llm/1": "pending"}
