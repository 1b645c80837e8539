"""A changed launch: one index at a time, each on its slice, and a halt where the new one does not work."""

from __future__ import annotations

import pytest

from supervisor.core.message import (
    BecameReady,
    FinishReload,
    Say,
)
from supervisor.core.rescale import failures_since_reload, unsettled
from supervisor.core.spec import Spec, WorkerId
from tests.core.builders import GIB, device, devices, good, of_type, spec_of
from tests.core.stage import running

FOUR = good(*devices(4))


def llm(workers: int = 4, **keys: object) -> Spec:
    """One service of workers with a GPU each and a port."""
    return spec_of(llm={"workers": workers, "resources": {"gpu": 1}, "port": 8000, **keys})


def answered(finish: FinishReload) -> dict[str, str]:
    """The difference by name."""
    assert finish.ok
    return {str(worker): what for worker, what in (finish.difference or {}).items()}


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


def test_a_worker_that_ends_by_itself_comes_back_with_the_new_launch() -> None:
    """It needs no turn: what it was is gone anyway."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(llm(2, env={"A": "1"}), FOUR)

    stage.at(101.0).exited("llm/1", 1)

    assert stage.state("llm/1") == "starting"
    assert not stage["llm/1"].is_outdated


def test_a_new_launch_that_fails_halts_the_reload() -> None:
    """The first one alone goes down; the rest keep the old launch, and say so."""
    stage = running(llm(3), *devices(4))
    stage.at(100.0).reload(llm(3, command="broken"), FOUR)

    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2, "command not found: broken")

    assert stage.states() == {"llm/0": "failed", "llm/1": "ready", "llm/2": "ready"}
    assert [say.event for say in of_type(Say, stage.actions)] == ["plan.halted"]
    assert stage.fleet.last_reload is not None
    assert not stage.fleet.last_reload.ok
    assert "2 of llm keep the old one" in stage.fleet.last_reload.problems[0]
    assert unsettled(stage.fleet) == ()
    assert failures_since_reload(stage.fleet) == stage.fleet.last_reload.problems


def test_a_reload_that_was_halted_stays_halted() -> None:
    """Devices that come and go do not take it up again, and neither does the same file."""
    spec = llm(3, command="broken")
    stage = running(llm(3), *devices(4))
    stage.at(100.0).reload(spec, FOUR)
    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2)
    said = len(of_type(Say, stage.history))

    for second in range(110, 120):
        stage.at(float(second)).read(good(*devices(4 if second % 2 else 5)))
    assert len(of_type(Say, stage.history)) == said
    stage.at(200.0).reload(spec, FOUR)

    assert stage.states() == {"llm/0": "failed", "llm/1": "ready", "llm/2": "ready"}


def test_a_halted_reload_goes_on_with_a_better_file() -> None:
    """The failed one is asked again, then the others get their turn."""
    stage = running(llm(2), *devices(4))
    stage.at(100.0).reload(llm(2, command="broken"), FOUR)
    stage.at(101.0).exited("llm/0", 0).spawn_failed("llm/0", 2)

    stage.at(200.0).reload(llm(2, command="better"), FOUR)

    assert stage.states() == {"llm/0": "starting", "llm/1": "ready"}
    stage.ready("llm/0")
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


def test_workers_that_stand_in_each_others_way_are_replaced_together() -> None:
    """One GPU each becomes two each: whoever waits for a device makes its holder go, whoever's turn it is."""
    stage = running(llm(2), *devices(4))
    assert stage.slices() == {"llm/0": (0,), "llm/1": (1,)}

    stage.at(100.0).reload(llm(2, resources={"gpu": 2}), FOUR)
    stage.exited("llm/0", 0)
    assert stage.states() == {"llm/0": "pending", "llm/1": "stopping"}
    stage.exited("llm/1", 0)

    assert stage.states() == {"llm/0": "starting", "llm/1": "starting"}
    assert stage.slices() == {"llm/0": (0, 1), "llm/1": (2, 3)}


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
