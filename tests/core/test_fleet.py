"""All workers together: who may start when, on what, and whose word counts."""

from __future__ import annotations

import pytest

from supervisor.core.inventory import GpuState
from supervisor.core.message import (
    BecameReady,
    Exited,
    ReadInventory,
    ReloadRequested,
    Report,
    Say,
    ShutdownRequested,
    Spawn,
    Spawned,
    StartRequested,
    StopRequested,
    TimePassed,
    TreeGone,
)
from supervisor.core.spec import WorkerId
from supervisor.errors import InvariantBrokenError
from tests.core.builders import GIB, LLM, bad, device, devices, good, of_type, spec_of
from tests.core.stage import Stage, running

ONE_EACH = {"workers": 2, "resources": {"gpu": 1}, "port": 8000}
AT_ONCE = {"restart": {"delay": "0s", "max_delay": "0s"}}
WITH_MEMORY = {"workers": 2, "resources": {"gpu": 1, "gpu_memory": "20GiB"}, "port": 8000}


# ---- starting -------------------------------------------------------------------------------------------------------


def test_workers_without_gpus_start_before_the_driver_has_answered() -> None:
    """And those with one as soon as it has."""
    stage = Stage().load(spec_of(web={"workers": 2}, llm=ONE_EACH))

    assert stage.spawns() == ("web/0", "web/1")
    assert of_type(ReadInventory, stage.actions) == [ReadInventory()]
    assert stage.read(good(*devices(2))).spawns() == ("llm/0", "llm/1")


def test_a_spawn_carries_all_that_the_process_gets() -> None:
    """Rendered for this incarnation and this slice."""
    stage = Stage(environ={"HOME": "/root"}).load(spec_of(llm={**ONE_EACH, "command": "serve --port $(PORT)"}))

    spawn = of_type(Spawn, stage.read(good(*devices(2))).actions)[1]

    assert (str(spawn.worker), spawn.incarnation, spawn.argv) == ("llm/1", 2, ("serve", "--port", "8001"))
    assert (spawn.env["CUDA_VISIBLE_DEVICES"], spawn.env["WORKER_COUNT"], spawn.env["HOME"]) == ("1", "2", "/root")
    assert spawn.launch.slice == stage["llm/1"].occupied


def test_incarnations_are_never_used_again() -> None:
    """Not for another worker, and not after a restart."""
    stage = Stage().load(spec_of(a=AT_ONCE, b={}))
    stage.spawned("a/0").exited("a/0")

    assert [spawn.incarnation for spawn in of_type(Spawn, stage.history)] == [1, 2, 3]
    assert of_type(Spawn, stage.history)[-1].env["WORKER_RESTARTS"] == "1"


def test_restarts_are_counted_from_the_second_process_on() -> None:
    """`WORKER_RESTARTS` of the first is 0."""
    stage = Stage().load(spec_of(a={}))

    assert of_type(Spawn, stage.actions)[0].env["WORKER_RESTARTS"] == "0"


# ---- the memory gate ------------------------------------------------------------------------------------------------


def test_declared_memory_is_waited_for_and_read_again() -> None:
    """The reason has the numbers; half a second later the driver is asked; the worker starts when it is there."""
    stage = Stage().load(spec_of(llm={**WITH_MEMORY, "workers": 1}))
    stage.read(good(device(0, free=20 * GIB)))

    assert stage.states() == {"llm/0": "pending"}
    assert stage["llm/0"].reason == (
        "needs 20480 MiB on GPU 0 beside a headroom of 1638 MiB, 20480 of 81920 MiB are free"
    )
    stage.pass_time(0.5)
    assert ReadInventory() in stage.actions
    assert stage.read(good(device(0, free=22 * GIB))).states() == {"llm/0": "starting"}


@pytest.mark.parametrize(
    ("headroom", "free_gib", "starts"), [("2GiB", 21, False), ("2GiB", 22, True), ("0%", 20, True)]
)
def test_headroom_is_left_free(headroom: str, free_gib: int, starts: bool) -> None:
    """As much as the file says."""
    stage = Stage().load(spec_of(llm={**WITH_MEMORY, "workers": 1}, daemon={"headroom": headroom}))

    stage.read(good(device(0, free=free_gib * GIB)))

    assert starts == (stage.state("llm/0") == "starting")


def test_memory_that_the_device_does_not_tell_is_not_waited_for() -> None:
    """Unified memory: there is no number to compare with."""
    stage = Stage().load(spec_of(llm={**WITH_MEMORY, "workers": 1}))

    assert stage.read(good(device(0, free=None))).states() == {"llm/0": "starting"}


def test_memory_is_judged_by_a_reading_asked_for_after_the_last_end() -> None:
    """One that was under way when the process ended still shows its memory, or not."""
    stage = running(
        spec_of(llm={**WITH_MEMORY, "workers": 1, "restart": {"delay": "0s", "max_delay": "0s"}}), device(0)
    )
    stage.at(100.0).exited("llm/0")
    assert stage.states() == {"llm/0": "releasing"}

    stage.at(100.2).read(good(device(0)), asked_at=99.9)
    assert stage.states() == {"llm/0": "releasing"}

    stage.at(100.3).read(good(device(0, free=5 * GIB)), asked_at=100.1)
    assert stage.states() == {"llm/0": "releasing"}

    stage.at(100.6).read(good(device(0)), asked_at=100.5)
    assert stage.states() == {"llm/0": "pending"}

    stage.at(100.7).read(good(device(0)), asked_at=100.6)
    assert stage.states() == {"llm/0": "starting"}


def test_a_worker_waiting_for_memory_keeps_nobody_else_waiting() -> None:
    """The next one starts on its own device."""
    stage = Stage().load(spec_of(llm=WITH_MEMORY)).read(good(device(0, free=GIB), device(1)))

    assert stage.states() == {"llm/0": "pending", "llm/1": "starting"}


def test_the_driver_is_asked_for_one_reading_at_a_time() -> None:
    """However many wait for memory."""
    stage = Stage().load(spec_of(llm={**WITH_MEMORY, "workers": 8}))
    stage.read(good(*[device(index, free=GIB) for index in range(8)]))

    stage.pass_time(0.6)

    assert of_type(ReadInventory, stage.history) == [ReadInventory()] * 2


# ---- a driver in trouble --------------------------------------------------------------------------------------------


def test_a_known_slice_restarts_while_the_driver_errs() -> None:
    """And a new worker waits, whatever its on_no_gpu."""
    stage = running(spec_of(llm=WITH_MEMORY | AT_ONCE), *devices(2))
    stage.at(50.0).read(bad()).at(100.0).exited("llm/0")

    stage.pass_time(161.0)

    assert stage.states() == {"llm/0": "starting", "llm/1": "ready"}
    assert stage.slices()["llm/0"] == (0,)


@pytest.mark.parametrize("on_no_gpu", ["wait", "cpu", "fail"])
def test_a_new_worker_waits_while_the_driver_errs(on_no_gpu: str) -> None:
    """On_no_gpu is not asked before there is an answer."""
    stage = Stage().load(spec_of(llm={**ONE_EACH, "on_no_gpu": on_no_gpu})).read(bad())

    assert stage.states() == {"llm/0": "pending", "llm/1": "pending"}
    assert stage["llm/0"].reason == "no answer within 10 s"


def test_a_driver_in_trouble_is_not_asked_by_everybody_who_waits() -> None:
    """Every asking may leave a stuck process behind: 5, 10, 20, 40, 60, 60 seconds."""
    stage = Stage().load(spec_of(llm=WITH_MEMORY)).read(good(device(0, free=GIB), device(1, free=GIB)))
    asked = []

    stage.at(1.0).read(bad())
    for _ in range(6):
        before = stage.now
        stage.pass_time(stage.fleet.deadline or 0.0)
        asked += [(round(stage.now - before, 1), one.fresh) for one in of_type(ReadInventory, stage.actions)]
        stage.read(bad())

    assert asked == [(5.0, True), (10.0, True), (20.0, True), (40.0, True), (60.0, True), (60.0, True)]


def test_neither_is_it_asked_by_those_who_wait_for_memory_to_come_back() -> None:
    """They look every half second, but only as the driver's own schedule lets them."""
    stage = running(spec_of(llm=WITH_MEMORY), *devices(2))
    stage.at(100.0).exited("llm/0").read(bad())
    asked = []

    for tick in range(1, 119):
        known = len(stage.history)
        stage.pass_time(100.0 + tick / 2)
        if of_type(ReadInventory, stage.history[known:]):
            asked.append(stage.now)
            stage.read(bad())

    assert (stage.state("llm/0"), asked) == ("releasing", [105.0, 115.0, 135.0])


def test_a_reload_that_wants_the_first_gpu_has_the_driver_asked_again() -> None:
    """It had failed while nobody wanted one."""
    stage = Stage().load(spec_of(web={})).read(bad())
    assert stage.fleet.deadline is None

    stage.at(10.0).meet(ReloadRequested())
    stage.read(bad()).load(spec_of(web={}, llm=ONE_EACH))

    assert stage.fleet.deadline is not None


def test_a_dirty_slice_is_said_and_used() -> None:
    """After a minute the next start's own memory gate is all that protects it."""
    stage = running(spec_of(llm={**WITH_MEMORY, "workers": 1}), device(0))
    stage.at(100.0).exited("llm/0")
    for second in range(101, 160):
        stage.pass_time(float(second)).read(good(device(0, free=GIB)))
        assert stage.states() == {"llm/0": "releasing"}

    stage.pass_time(161.0).read(good(device(0, free=GIB)))

    assert [say.event for say in of_type(Say, stage.history)] == [
        "inventory.read",
        "worker.memory_late",
        "worker.dirty",
    ]
    assert stage.states() == {"llm/0": "pending"}
    assert stage["llm/0"].reason.startswith("needs 20480 MiB on GPU 0")
    assert stage.fleet.gpu.state is GpuState.OK


# ---- devices that come free, and devices that are lost --------------------------------------------------------------


def test_a_failed_worker_frees_its_gpu_for_one_that_waits() -> None:
    """In the same moment."""
    stage = running(spec_of(a={**ONE_EACH, "workers": 1}, b={**ONE_EACH, "workers": 1, "port": 9000}), device(0))
    assert stage.states() == {"a/0": "ready", "b/0": "pending"}

    stage.at(10.0).exited("a/0", 78)

    assert (stage.states(), stage.slices()["b/0"]) == ({"a/0": "failed", "b/0": "starting"}, (0,))


def test_a_device_lost_during_backoff_is_planned_anew() -> None:
    """The worker starts at once on another one."""
    stage = running(spec_of(llm={**ONE_EACH, "workers": 1}), *devices(2))
    stage.at(10.0).exited("llm/0")
    assert stage.states() == {"llm/0": "backoff"}

    stage.at(10.1).read(good(device(0, sick=True), device(1)))

    assert (stage.states(), stage.slices()) == ({"llm/0": "starting"}, {"llm/0": (1,)})


def test_a_lost_device_leaves_its_living_worker_alone() -> None:
    """It stays, also when the reading does not show the device at all; and it does not come back there."""
    stage = running(spec_of(llm={**ONE_EACH, "workers": 1}), *devices(2))

    stage.at(10.0).read(good(device(1)))
    assert (stage.states(), stage.slices()) == ({"llm/0": "ready"}, {"llm/0": (0,)})

    stage.at(80.0).exited("llm/0")
    assert (stage.states(), stage.slices()) == ({"llm/0": "starting"}, {"llm/0": (1,)})


def test_a_worker_on_a_lost_device_waits_when_the_driver_errs_by_then() -> None:
    """The last good reading did not show it, so there is nothing to start on and nobody to ask."""
    stage = running(spec_of(llm={**ONE_EACH, "workers": 1}), *devices(1))

    stage.at(10.0).read(good()).at(20.0).read(bad()).at(80.0).exited("llm/0")
    assert stage.states() == {"llm/0": "releasing"}
    stage.pass_time(140.5)

    assert stage.states() == {"llm/0": "pending"}
    assert stage.at(150.0).read(good(device(0))).states() == {"llm/0": "starting"}


# ---- late words -----------------------------------------------------------------------------------------------------


def test_words_of_another_incarnation_are_dropped() -> None:
    """A process that is long gone changes nothing, whatever the state; nor does one of a worker that is gone."""
    stage = running(spec_of(llm={**ONE_EACH, "workers": 1}), device(0))
    before = stage.fleet.workers

    for event in (Spawned(LLM, 0, 1), BecameReady(LLM, 9), Exited(LLM, 0, 1, None), TreeGone(WorkerId("x", 0), 1)):
        assert stage.meet(event) == ()
        assert stage.fleet.workers == before


def test_a_word_that_cannot_be_is_our_own_fault_and_changes_nothing() -> None:
    """The fleet before it stands."""
    stage = running(spec_of(llm={**ONE_EACH, "workers": 1}), device(0))
    before = stage.fleet

    with pytest.raises(InvariantBrokenError):
        stage.meet(TreeGone(LLM, stage["llm/0"].incarnation))

    assert stage.fleet is before
    assert before.workers[LLM].state == "ready"


def test_a_deadline_that_was_moved_is_not_a_deadline() -> None:
    """Whoever keeps the time may be late to learn of it."""
    stage = Stage().load(spec_of(web={})).spawned("web/0")

    stage.at(0.5).meet(TimePassed((WorkerId("web", 0), WorkerId("web", 7))))

    assert (stage.actions, stage.states()) == ((), {"web/0": "starting"})


def test_every_step_is_reported_once() -> None:
    """From nothing to nothing."""
    stage = Stage().load(spec_of(web={"stop": {"timeout": "5s"}})).spawned("web/0").pass_time(10.0)
    stage.meet(ShutdownRequested())
    stage.exited("web/0", 0)

    steps = [report.transition for report in of_type(Report, stage.history)]

    assert [str(step.before) for step in steps] == ["None", "pending", "starting", "ready", "stopping"]
    assert [str(step.after) for step in steps] == ["pending", "starting", "ready", "stopping", "None"]


# ---- the operator ---------------------------------------------------------------------------------------------------


def test_a_stopped_worker_frees_its_gpu_and_asks_for_one_when_it_is_started() -> None:
    """Somebody else may have it by then."""
    stage = running(spec_of(a={**ONE_EACH, "workers": 1}, b={**ONE_EACH, "workers": 1, "port": 9000}), device(0))
    a, b = WorkerId("a", 0), WorkerId("b", 0)

    stage.at(10.0).meet(StopRequested((a, WorkerId("nobody", 0))))
    stage.exited("a/0", 0).ready("b/0")
    stage.meet(StartRequested((a,)))

    assert stage.states() == {"a/0": "pending", "b/0": "ready"}
    assert stage["a/0"].reason == "needs 1 GPU, 0 of 1 are free; reserved for b/0"
    stage.meet(StopRequested((b,)))
    assert stage.exited("b/0", 0).states() == {"a/0": "starting", "b/0": "stopped"}
