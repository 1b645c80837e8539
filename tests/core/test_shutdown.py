"""How the daemon comes to its end: everybody is asked, then nobody, and it is never late."""

from __future__ import annotations

from supervisor.core.message import (
    Dismiss,
    Event,
    Exit,
    FinishReload,
    InventoryRead,
    KillTree,
    ReloadRequested,
    ShutdownRequested,
    Signal,
    Spawn,
    Spawned,
    SpecLoaded,
    SpecRejected,
    StartRequested,
    StopRequested,
    TimePassed,
)
from supervisor.core.reload import TOO_LATE
from supervisor.core.spec import WorkerId
from tests.core.builders import devices, good, of_type, spec_of
from tests.core.stage import Stage, running

ONE_EACH = {"workers": 2, "resources": {"gpu": 1}, "port": 8000}
WITH_MEMORY = {"workers": 2, "resources": {"gpu": 1, "gpu_memory": "20GiB"}, "port": 8000}


def test_a_daemon_without_workers_ends_at_once() -> None:
    """There is nothing to wait for."""
    assert Stage().meet(ShutdownRequested()) == (Exit(0),)


def test_a_shutdown_asks_everybody_and_ends_with_the_last() -> None:
    """Those without a process are forgotten at once, memory is not waited for."""
    spec = spec_of(llm=WITH_MEMORY, web={"stop": {"timeout": "10s"}}, idle=ONE_EACH | {"port": 9000})
    stage = running(spec, *devices(2))

    actions = stage.at(100.0).meet(ShutdownRequested())

    assert stage.states() == {"llm/0": "stopping", "llm/1": "stopping", "web/0": "stopping"}
    assert [str(one.worker) for one in of_type(Signal, actions)] == ["llm/0", "llm/1", "web/0"]
    assert [str(one.worker) for one in of_type(Dismiss, actions)] == ["idle/0", "idle/1"]
    assert stage.fleet.deadline == 136.0
    stage.exited("llm/0", 0).exited("web/0", 0)
    assert of_type(Exit, stage.history) == []
    stage.exited("llm/1", 0)
    assert stage.actions[-1] == Exit(0)
    assert stage.due() is None


def test_a_daemon_does_not_end_later_than_its_longest_grace_and_six_seconds() -> None:
    """With status 1, and the names of those that are stuck."""
    stage = running(spec_of(llm=ONE_EACH, web={"stop": {"timeout": "10s"}}), *devices(2))
    stage.at(100.0).meet(ShutdownRequested())
    stage.exited("llm/0", 0)

    stage.pass_time(135.9)
    assert of_type(Exit, stage.history) == []
    assert {str(one.worker) for one in of_type(KillTree, stage.history)} == {"web/0", "llm/1"}

    stage.pass_time(136.0)
    assert of_type(Exit, stage.history) == [Exit(1, stuck=(WorkerId("llm", 1), WorkerId("web", 0)))]
    stage.exited("llm/1", None, signal=9).exited("web/0", None, signal=9)
    assert len(of_type(Exit, stage.history)) == 1


def test_asked_a_second_time_a_daemon_kills_what_is_left() -> None:
    """And gives it six seconds, however often it is asked."""
    stage = running(spec_of(llm=ONE_EACH), *devices(2))
    stage.at(100.0).meet(ShutdownRequested())

    actions = stage.at(101.0).meet(ShutdownRequested())
    stage.at(104.0).meet(ShutdownRequested())

    assert [str(one.worker) for one in of_type(KillTree, actions)] == ["llm/0", "llm/1"]
    assert stage.fleet.deadline == 107.0
    stage.exited("llm/0", None, signal=9).exited("llm/1", None, signal=9)
    assert stage.actions[-1] == Exit(0)


def test_a_second_asking_does_not_give_more_time_than_there_was() -> None:
    """The contract's bound is counted from the first."""
    stage = running(spec_of(web={"stop": {"timeout": "2s"}}))

    stage.at(100.0).meet(ShutdownRequested())
    stage.at(107.5).meet(ShutdownRequested())

    assert stage.fleet.deadline == 108.0


def test_nothing_starts_while_the_daemon_stops() -> None:
    """Whatever is read, asked for, or comes late."""
    stage = Stage().load(spec_of(web={}, llm=ONE_EACH))
    stage.at(1.0).meet(ShutdownRequested())
    spawned_before = len(of_type(Spawn, stage.history))

    late: list[Event] = [
        InventoryRead(good(*devices(2)), 1.0),
        SpecLoaded(spec_of(web={"workers": 5})),
        SpecRejected(("bad",)),
        ReloadRequested(),
        StartRequested((WorkerId("web", 0),)),
        StopRequested((WorkerId("web", 0),)),
        Spawned(WorkerId("web", 0), 1, 4711),
        TimePassed((WorkerId("web", 0),)),
    ]
    for event in late:
        stage.meet(event)

    assert stage.states() == {"web/0": "stopping"}
    assert len(of_type(Spawn, stage.history)) == spawned_before
    assert [one.signal for one in of_type(Signal, stage.history)] == [15]
    assert of_type(FinishReload, stage.history) == [TOO_LATE]
    assert stage.exited("web/0", 0).actions[-1] == Exit(0)


def test_a_shutdown_answers_those_who_wait_for_a_reload() -> None:
    """And what comes of that reload is not used."""
    stage = Stage().load(spec_of(web={})).spawned("web/0")
    stage.at(1.0).meet(ReloadRequested())

    actions = stage.at(2.0).meet(ShutdownRequested())

    assert of_type(FinishReload, actions) == [TOO_LATE]
    assert stage.load(spec_of(web={"workers": 3})).states() == {"web/0": "stopping"}
    assert stage.fleet.state == "stopping"
