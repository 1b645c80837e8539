"""A new file: only the difference, and never half of it; who is asked again by it and who is not."""

from __future__ import annotations

from supervisor.core.message import (
    FinishReload,
    InventoryRead,
    ReadInventory,
    ReadSpec,
    ReloadRequested,
    Report,
    Say,
    Signal,
    SpecLoaded,
    SpecRejected,
    StopRequested,
)
from supervisor.core.outcome import failures_since_reload
from supervisor.core.spec import Spec, WorkerId, parse_spec
from tests.core.builders import GIB, bad, device, devices, good, of_type, spec_of
from tests.core.stage import Stage, running

FOUR = good(*devices(4))


def llm(workers: int = 4, **keys: object) -> Spec:
    """One service of workers with a GPU each and a port."""
    return spec_of(llm={"workers": workers, "resources": {"gpu": 1}, "port": 8000, **keys})


def answered(finish: FinishReload) -> dict[str, str]:
    """The difference by name."""
    assert finish.ok
    return {str(worker): what for worker, what in (finish.difference or {}).items()}


# ---- the difference -------------------------------------------------------------------------------------------------


def test_an_unchanged_file_does_nothing() -> None:
    """No signal, no spawn, no step."""
    stage = running(llm(), *devices(4))
    before = stage.fleet.workers

    finish = stage.at(100.0).reload(llm(), FOUR)

    assert (answered(finish), finish.changed, stage.fleet.workers) == ({}, (), before)
    assert not of_type(Report, stage.actions)
    assert (stage.fleet.generation, stage.fleet.state) == (2, "running")


def test_a_changed_policy_is_taken_without_a_restart() -> None:
    """It holds for the processes that live."""
    stage = running(llm(), *devices(4))

    finish = stage.at(100.0).reload(llm(stop={"timeout": "90s", "signal": "SIGINT"}), FOUR)
    actions = stage.meet(StopRequested((WorkerId("llm", 0),)))

    assert (answered(finish), finish.changed) == ({}, ("services.llm",))
    assert [(one.signal, one.scope) for one in of_type(Signal, actions)] == [(2, "main")]
    assert stage["llm/0"].deadline == 190.0


def test_what_moves_no_worker_is_told_by_its_key() -> None:
    """Else a reload that was taken says that there was nothing to do."""
    stage = running(llm(), *devices(4))
    other = {"health": {"on_fault": "kill", "canary": "./burn"}, "daemon": {"poll": "9s"}, "gpus": [0, 1, 2, 3]}
    keys = {"command": "serve", "workers": 4, "resources": {"gpu": 1}, "port": 8000}

    finish = stage.at(100.0).reload(parse_spec({"services": {"llm": keys}, **other}, base_dir="/srv"), FOUR)

    assert (answered(finish), finish.changed) == ({}, ("gpus", "daemon.poll", "health.on_fault", "health.canary"))
    finish = stage.at(200.0).reload(llm(2), FOUR)
    assert "services.llm" not in finish.changed


def test_shrinking_takes_the_highest_indices() -> None:
    """All at once; the others do not notice."""
    stage = running(llm(), *devices(4))

    finish = stage.at(100.0).reload(llm(2), FOUR)

    assert answered(finish) == {"llm/2": "stop", "llm/3": "stop"}
    assert stage.states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "stopping", "llm/3": "stopping"}
    assert stage.exited("llm/2", 0).exited("llm/3", 0).states() == {"llm/0": "ready", "llm/1": "ready"}


def test_growing_fills_the_holes_and_gives_back_the_old_places() -> None:
    """4 -> 2 -> 4: the same slices as at first."""
    stage = running(llm(), *devices(4))
    stage.at(100.0).reload(llm(2), FOUR)
    stage.exited("llm/2", 0).exited("llm/3", 0)

    finish = stage.at(200.0).reload(llm(4), FOUR)

    assert answered(finish) == {"llm/2": "start", "llm/3": "start"}
    assert stage.slices() == {"llm/0": (0,), "llm/1": (1,), "llm/2": (2,), "llm/3": (3,)}


def test_an_index_that_is_wanted_again_before_it_is_gone_comes_back() -> None:
    """With its old slice, once its process has ended."""
    stage = running(llm(), *devices(4))
    stage.at(100.0).reload(llm(3), FOUR)
    assert stage.state("llm/3") == "stopping"

    stage.at(101.0).reload(llm(4), FOUR)

    assert stage.exited("llm/3", 0).states()["llm/3"] == "starting"
    assert stage.slices()["llm/3"] == (3,)


def test_a_new_worker_waits_for_the_device_of_one_that_is_on_its_way_out() -> None:
    """The reason names it; nobody is booked twice."""
    stage = running(spec_of(a={"resources": {"gpu": 1}}), device(0))

    stage.at(100.0).reload(spec_of(b={"resources": {"gpu": 1}}), good(device(0)))

    assert stage.states() == {"a/0": "stopping", "b/0": "pending"}
    assert stage["b/0"].reason == "waiting for its GPUs, held by a/0"
    assert stage.exited("a/0", 0).states() == {"b/0": "starting"}


def test_what_is_waiting_and_has_a_place_is_no_difference() -> None:
    """Neither is what backs off: a changed policy is all that it gets."""
    stage = running(llm(), *devices(4))
    stage.at(10.0).exited("llm/0")

    finish = stage.at(10.1).reload(llm(stop={"timeout": "5s"}), FOUR)

    assert (stage.state("llm/0"), answered(finish)) == ("backoff", {})


def test_a_worker_without_a_place_is_told_as_waiting() -> None:
    """The fifth of four."""
    stage = running(llm(), *devices(4))

    assert answered(stage.at(100.0).reload(llm(5), FOUR)) == {"llm/4": "wait"}


# ---- how a reload goes ----------------------------------------------------------------------------------------------


def test_a_reload_waits_for_both_the_file_and_the_devices() -> None:
    """In either order; a reading that was asked for before it does not count."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).meet(ReloadRequested())
    assert stage.fleet.state == "reloading"

    stage.meet(InventoryRead(FOUR, 99.0))
    stage.meet(SpecLoaded(llm(3)))
    assert len(stage.states()) == 2

    stage.meet(InventoryRead(FOUR, 100.0))
    assert of_type(FinishReload, stage.actions)
    assert len(stage.states()) == 3


def test_a_bad_file_changes_nothing() -> None:
    """Its problems are the answer, and stay to be read."""
    stage = running(llm(2), *devices(4))
    before = stage.fleet.workers
    stage.at(100.0).meet(ReloadRequested())
    stage.read(FOUR)

    actions = stage.meet(SpecRejected(("demo.yaml:4:5: unknown key",)))

    assert actions == (FinishReload(ok=False, problems=("demo.yaml:4:5: unknown key",)),)
    assert (stage.fleet.workers, stage.fleet.generation, stage.fleet.state) == (before, 1, "running")
    assert failures_since_reload(stage.fleet) == ("demo.yaml:4:5: unknown key",)


def test_a_reload_goes_on_when_the_driver_does_not_answer() -> None:
    """Known slices stay, what is new waits."""
    stage = running(llm(2), *devices(4))

    finish = stage.at(100.0).reload(llm(3), bad())

    assert answered(finish) == {"llm/2": "wait"}
    assert stage.states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "pending"}


def test_of_two_requests_the_newest_file_wins() -> None:
    """What was read when the second came may be old: it is read once more, and both get the one answer."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).meet(ReloadRequested())

    assert stage.at(101.0).meet(ReloadRequested()) == ()
    stage.meet(SpecLoaded(llm(3)))
    actions = stage.meet(InventoryRead(FOUR, 100.0))
    assert actions == (ReadSpec(),)
    stage.meet(SpecLoaded(llm(4)))

    assert of_type(FinishReload, stage.history) == of_type(FinishReload, stage.actions)
    assert len(stage.states()) == 4


def test_a_bad_file_is_read_once_more_when_somebody_asked_meanwhile() -> None:
    """It may have been mended."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).meet(ReloadRequested())
    stage.meet(ReloadRequested())

    assert stage.meet(SpecRejected(("half written",))) == (ReadSpec(),)
    stage.read(FOUR).load(llm(3))

    assert answered(of_type(FinishReload, stage.actions)[0]) == {"llm/2": "start"}


def test_a_third_request_is_answered_with_the_second() -> None:
    """And asks for nothing of its own."""
    stage = running(llm(2), *devices(4))
    for second in (100.0, 101.0, 102.0):
        stage.at(second).meet(ReloadRequested())

    assert of_type(ReadSpec, stage.history) == [ReadSpec()]
    assert of_type(ReadInventory, stage.history)[1:] == [ReadInventory(fresh=True)]


# ---- who is asked again ---------------------------------------------------------------------------------------------


def test_a_fallback_stays_on_the_cpu_and_says_so_once() -> None:
    """Moving a worker that runs is the operator's word."""
    stage = Stage().load(llm(1, on_no_gpu="cpu")).read(good()).ready("llm/0")
    degraded = [say for say in of_type(Say, stage.history) if say.event == "plan.degraded"]

    finish = stage.at(100.0).reload(llm(1, on_no_gpu="cpu"), FOUR)

    assert (answered(finish), stage.slices()) == ({}, {"llm/0": ()})
    assert stage["llm/0"].held is not None
    assert stage["llm/0"].held.fallback
    assert [say.fields["workers"] for say in degraded] == [["llm/0"]]
    assert not of_type(Say, stage.actions)


def test_a_worker_failed_for_want_of_a_gpu_is_asked_again_at_a_reload_only() -> None:
    """A device that appears by itself is not for it; the same file read again is."""
    spec = llm(1, on_no_gpu="fail")
    stage = Stage().load(spec).read(good())
    assert (stage.states(), stage["llm/0"].reason) == ({"llm/0": "failed"}, "needs 1 GPU, there is none")

    stage.at(50.0).read(FOUR)
    assert stage.states() == {"llm/0": "failed"}

    assert answered(stage.at(100.0).reload(spec, FOUR)) == {"llm/0": "start"}
    assert stage.states() == {"llm/0": "starting"}


def test_a_worker_that_failed_by_itself_is_not_asked_again_by_the_same_file() -> None:
    """But by one with another launch, with clean counts."""
    stage = running(llm(1), *devices(4))
    stage.at(10.0).exited("llm/0", 78)

    stage.at(100.0).reload(llm(1), FOUR)
    assert stage.states() == {"llm/0": "failed"}

    stage.at(200.0).reload(llm(1, env={"A": "1"}), FOUR)
    assert stage.states() == {"llm/0": "starting"}
    assert stage["llm/0"].history.failures == 0


def test_a_worker_that_is_held_down_stays_down_through_a_reload() -> None:
    """Also when the file has something else for it."""
    stage = running(llm(1), *devices(4))
    stage.meet(StopRequested((WorkerId("llm", 0),)))
    stage.exited("llm/0", 0)

    stage.at(100.0).reload(llm(1, env={"A": "1"}), FOUR)

    assert stage.states() == {"llm/0": "stopped"}


def test_a_changed_launch_ends_a_backoff_with_clean_counts() -> None:
    """The file was mended: there is nothing to wait for."""
    stage = running(llm(1), *devices(4))
    stage.at(10.0).exited("llm/0", 1)

    stage.at(10.1).reload(llm(1, env={"A": "1"}), FOUR)

    assert (stage.state("llm/0"), stage["llm/0"].history.failures) == ("starting", 0)


def test_who_starts_keeps_its_launch_too_where_the_new_one_can_never_have_its_memory() -> None:
    """Though nobody served when the file came: what it runs is better than nothing."""
    db = {"resources": {"memory": "1GiB"}, "port": 8100}
    web: dict[str, object] = {"port": 8000}
    stage = Stage()
    stage.host = (64 * GIB, 64 * GIB)
    stage.load(spec_of(db=db, web=web)).spawned("web/0", "db/0")

    stage.at(1.0).reload(spec_of(db=db, web={**web, "resources": {"memory": "1TiB"}}), good())

    (problem,) = failures_since_reload(stage.fleet)
    assert problem == (
        "web/0 did not get ready with its new launch (no place: needs 1048576 MiB of the host's memory,"
        " there are 65536 MiB in all); 1 of web keeps the old one until the next reload"
    )
    assert stage.at(2.0).ready("web/0").state("web/0") == "ready"
    assert stage.at(100.0).exited("web/0", 0).state("web/0") == "starting"
