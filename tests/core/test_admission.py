"""Whose turn it is to start: so many at once, one on a device that declares nothing, first starts first."""

from __future__ import annotations

import time
from dataclasses import replace
from errno import EAGAIN

import pytest

from supervisor.core.inventory import Holder
from supervisor.core.message import BecameReady, HostRead, ReadInventory, StopRequested
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.standing import is_up
from tests.core.builders import GIB, bad, device, devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

TURN = "waiting for its turn: {} with a GPU start at once (daemon.start_parallel)"


def llm(workers: int = 4, *, parallel: int | None = None, **keys: object) -> Spec:
    """Workers with a GPU each and a port, which are ready when their probe says so."""
    daemon = None if parallel is None else {"start_parallel": parallel}
    return spec_of(llm={"workers": workers, "resources": {"gpu": 1}, "port": 8000, **keys}, daemon=daemon)


def staged(spec: Spec, count: int) -> Stage:
    """A fleet at second 0 on a box of so many GPUs, whose driver answers at once."""
    stage = Stage().load(spec)
    stage.driver = good(*devices(count))
    return stage.read(stage.driver)


def starting(stage: Stage) -> list[str]:
    return [name for name, state in stage.states().items() if state == "starting"]


# ---- so many at once ------------------------------------------------------------------------------------------------


def test_two_start_at_once_and_the_next_when_one_of_them_is_ready() -> None:
    """In their order; the others say what they wait for, which is what the daemon's own start waits for too."""
    stage = staged(llm(4), 4)

    assert starting(stage) == ["llm/0", "llm/1"]
    assert [stage[one].reason for one in ("llm/2", "llm/3")] == [TURN.format(2)] * 2
    assert is_up(stage.spawned("llm/0", "llm/1").fleet)
    assert stage.at(40.0).ready("llm/1").spawns() == ("llm/2",)
    assert stage.at(50.0).ready("llm/0").spawns() == ("llm/3",)


def test_a_start_that_ends_makes_room_for_the_next() -> None:
    """At once, whatever becomes of it."""
    stage = staged(llm(3, parallel=1), 3).spawned("llm/0")

    assert stage.at(5.0).exited("llm/0", 1).spawns() == ("llm/1",)
    assert stage.state("llm/0") == "backoff"


def test_a_start_counts_for_two_minutes_at_the_most() -> None:
    """A model that takes longer holds up nobody: then most of its memory is taken."""
    stage = staged(llm(3, parallel=1, ready={"timeout": "15m"}), 3).spawned("llm/0")

    assert starting(stage.pass_time(119.9)) == ["llm/0"]
    assert starting(stage.pass_time(120.0)) == ["llm/0", "llm/1"]
    stage.spawned("llm/1")
    assert starting(stage.pass_time(239.9)) == ["llm/0", "llm/1"]
    assert starting(stage.pass_time(240.0)) == ["llm/0", "llm/1", "llm/2"]


@pytest.mark.parametrize("gpu", [1, 0.6])
def test_all_in_line_are_looked_at_when_several_starts_count_no_more(gpu: float) -> None:
    """Only the first of them has a moment to look; and of a share nobody reads anything, so no answer stirs them."""
    stage = staged(llm(4, parallel=2, resources={"gpu": gpu}), 4).spawned("llm/0", "llm/1")
    stage.driver = stage.driver if gpu == 1 else None

    stage.pass_time(120.0)

    assert starting(stage) == ["llm/0", "llm/1", "llm/2", "llm/3"]


def test_the_next_in_line_looks_when_the_first_of_it_is_stopped() -> None:
    """Whoever is at the head by then has the time to look."""
    stage = staged(llm(3, parallel=1, ready={"timeout": "15m"}), 3).spawned("llm/0")

    stage.at(10.0).meet(StopRequested((WorkerId("llm", 1),)))

    assert stage["llm/2"].deadline == 120.0
    assert starting(stage.pass_time(120.0)) == ["llm/0", "llm/2"]


def test_zero_is_no_limit_and_another_number_is_taken_at_a_reload() -> None:
    """As other limits of the file."""
    assert len(starting(staged(llm(4, parallel=0), 4))) == 4
    stage = staged(llm(4, parallel=1), 4)

    stage.reload(llm(4, parallel=3), good(*devices(4)))

    assert starting(stage) == ["llm/0", "llm/1", "llm/2"]
    assert stage["llm/3"].reason == TURN.format(3)


def test_workers_without_a_gpu_take_no_turn() -> None:
    """They start all at once, beside those with one."""
    spec = spec_of(
        llm={"workers": 2, "resources": {"gpu": 1}, "port": 8000}, web={"workers": 5}, daemon={"start_parallel": 1}
    )

    stage = staged(spec, 2)

    assert starting(stage) == ["llm/0", *(f"web/{index}" for index in range(5))]


def test_first_starts_go_before_restarts_of_those_that_fail() -> None:
    """Though their names come later."""
    spec = spec_of(
        a={"resources": {"gpu": 1}, "port": 8000, "restart": {"delay": "0s", "max_delay": "0s"}},
        b={"resources": {"gpu": 1}, "port": 8100},
        c={"resources": {"gpu": 1}, "port": 8200},
        daemon={"start_parallel": 1},
    )
    stage = staged(spec, 3).spawned("a/0")

    assert stage.at(1.0).exited("a/0", 1).spawns() == ("b/0",)
    assert stage.at(2.0).ready("b/0").spawns() == ("c/0",)
    assert stage.at(3.0).ready("c/0").spawns() == ("a/0",)


def test_a_healthy_worker_that_ends_once_is_in_its_own_place() -> None:
    """Its restart is no trouble, so it goes by its name."""
    stage = running(llm(3, parallel=1), *devices(3)).at(100.0)
    for worker in ("llm/2", "llm/1", "llm/0"):
        stage.exited(worker, 0)

    assert starting(stage) == ["llm/2"]
    assert stage.ready("llm/2").spawns() == ("llm/0",)


# ---- one on a device that declares nothing --------------------------------------------------------------------------


def halves(count: int = 2, *, memory: str | None = None, parallel: int = 0) -> Spec:
    """Workers of half a GPU each."""
    resources = {"gpu": 0.5} | ({} if memory is None else {"gpu_memory": memory})
    return llm(count, parallel=parallel, resources=resources, ready={"timeout": "15m"})


def test_who_declares_no_memory_starts_alone_on_its_device() -> None:
    """The next on it starts when that one is ready or has ended; other devices are free to be started on."""
    stage = staged(halves(4), 2)
    assert starting(stage) == ["llm/0", "llm/2"]
    assert stage["llm/1"].reason == "waiting until llm/0 has started, which declares no gpu_memory on the same GPU"

    assert stage.at(30.0).ready("llm/0").spawns() == ("llm/1",)
    assert stage.at(40.0).spawned("llm/2").exited("llm/2", 1).spawns() == ("llm/3",)


def test_a_lease_ends_after_two_minutes() -> None:
    """Nobody waits for ever for one that never gets ready."""
    stage = staged(halves(2), 1).spawned("llm/0")

    assert starting(stage.pass_time(119.9)) == ["llm/0"]
    assert starting(stage.pass_time(120.0)) == ["llm/0", "llm/1"]


def test_with_declared_memory_nothing_is_serialised() -> None:
    """The books know what the first will take: both start off one reading."""
    stage = Stage().load(halves(2, memory="30GiB"))

    stage.read(good(device(0, free=79 * GIB)))

    assert starting(stage) == ["llm/0", "llm/1"]


def test_who_declares_memory_waits_for_one_beside_it_that_does_not() -> None:
    """How much that one takes is not known before it is ready."""
    spec = spec_of(
        a={"resources": {"gpu": 0.5}, "port": 8000},
        b={"resources": {"gpu": 0.5, "gpu_memory": "10GiB"}, "port": 8100},
    )
    stage = staged(spec, 1)
    assert stage.states() == {"a/0": "starting", "b/0": "pending"}

    assert stage.at(30.0).ready("a/0").spawns() == ("b/0",)


# ---- cheap ----------------------------------------------------------------------------------------------------------


def test_a_thousand_that_wait_cost_nothing_at_an_event_that_is_none_of_theirs() -> None:
    """Only what something has changed for is looked at: the time of an event does not grow with the line."""
    few, many = staged(llm(10), 10), staged(llm(1000), 1000)

    def cost_s(stage: Stage) -> float:
        began = time.perf_counter()
        for _ in range(200):
            stage.meet(BecameReady(WorkerId("llm", 0), 999))
        return (time.perf_counter() - began) / 200

    cost_s(few)
    assert cost_s(many) < 50 * cost_s(few) + 0.0005
    assert not many.fleet.touched


def test_those_in_line_are_not_looked_at_while_nobody_may_start() -> None:
    """Though something that others wait for has changed."""
    stage = staged(llm(50, parallel=1), 50).spawned("llm/0")

    stage.at(1.0).read(good(*devices(50)))

    assert stage.fleet.touched == frozenset()
    assert len(stage.fleet.in_line) == 49


def test_the_driver_is_asked_at_the_moment_of_a_start() -> None:
    """A reading of an hour ago says nothing about now."""
    stage = staged(llm(2, parallel=1), 2).spawned("llm/0")
    stage.driver = None

    stage.at(3600.0).exited("llm/0", 0)

    assert starting(stage) == []
    assert ReadInventory() in stage.actions
    assert stage.read(good(*devices(2))).spawns() == ("llm/1",)


def test_those_that_cannot_start_while_the_driver_errs_are_in_nobodys_way() -> None:
    """Whoever ran on its GPUs restarts there, though others whose names come first are next in line."""
    spec = {"b": {"resources": {"gpu": 1}, "port": 8000}}
    stage = running(spec_of(**spec, daemon={"start_parallel": 1}), *devices(3)).at(100.0)  # type: ignore[arg-type]
    stage.driver = None
    stage.rivals = {}
    a = {"workers": 2, "resources": {"gpu": 1}, "port": 8100}
    stage.left_open = {uuid_of(1), uuid_of(2)}
    stage.reload(spec_of(a=a, **spec, daemon={"start_parallel": 1}), good(*devices(3)))  # type: ignore[arg-type]
    stage.left_open = set()
    stage.read(bad())
    assert stage.states() == {"a/0": "pending", "a/1": "pending", "b/0": "ready"}

    stage.exited("b/0", 0).pass_time(160.5)

    assert stage.states() == {"a/0": "pending", "a/1": "pending", "b/0": "starting"}
    assert stage["a/0"].reason.startswith("the GPUs cannot be read")


def test_as_many_ask_as_may_start() -> None:
    """A thousand that wait need not all have their memory looked at for one free place; the rest stay in line."""
    stage = staged(llm(20, parallel=2), 20).spawned("llm/0", "llm/1")
    stage.driver = None

    stage.at(100.0).ready("llm/0")

    assert of_type(ReadInventory, stage.actions) == [ReadInventory()]
    assert stage.fleet.touched == {WorkerId("llm", 0), WorkerId("llm", 2)}
    assert stage.read(good(*devices(20))).spawns() == ("llm/2",)
    assert len(stage.fleet.in_line) == 17


def mixed(number: int = 1) -> Stage:
    """Two that start, one that reads, and shares of a GPU that declare nothing, of which nobody reads anything."""
    again = {"delay": "0s", "max_delay": "0s"}
    shares = {"workers": number, "resources": {"gpu": 0.2}, "port": 8100, "restart": again}
    spec = spec_of(
        a={"workers": 2, "resources": {"gpu": 1}, "port": 8000},
        b={"resources": {"gpu": 1}, "port": 8050},
        c=shares,
        daemon={"start_parallel": 2},
    )
    stage = staged(spec, 4).spawned("a/0", "a/1")
    stage.driver = None
    return stage.at(100.0)


def test_who_needs_no_reading_does_not_wait_for_one() -> None:
    """A driver that hangs holds up those that have asked it, and nobody else in line."""
    stage = mixed()
    assert stage["c/0"].reason == TURN.format(2)
    assert "c/0" in stage.ready("a/0").spawns()

    stage = mixed()
    stage.fleet = replace(stage.fleet, asked=99.9)  # By somebody else.
    assert "c/0" in stage.ready("a/0").spawns()

    stage = mixed(2).ready("a/0")
    assert [stage[one].reason for one in ("b/0", "c/1")] == ["reading the free memory of its GPUs", TURN.format(2)]
    assert stage.spawn_failed("c/0", EAGAIN).spawns() == ("c/1",)


def test_of_those_that_fail_who_needs_no_reading_waits_for_one_a_second() -> None:
    """First starts go first; a driver that hangs is not worth waiting for."""
    stage = mixed().ready("a/0").at(100.5).spawn_failed("c/0", 5)  # No process, no memory to wait for.
    assert stage["b/0"].reason == "reading the free memory of its GPUs"

    assert stage.pass_time(100.9).state("c/0") == "pending"
    assert stage.pass_time(101.0).state("c/0") == "starting"


def test_a_first_start_goes_first_though_what_is_being_read_is_read_for_the_dead() -> None:
    """One that has failed and needs no reading does not take its turn meanwhile."""
    again = {"delay": "0s", "max_delay": "0s"}
    spec = spec_of(
        a={"resources": {"gpu": 0.2}, "port": 8000, "restart": again},
        b={"resources": {"gpu": 1}, "port": 8100},
        c={"resources": {"gpu": 1}, "port": 8200},
        daemon={"start_parallel": 1},
    )
    stage = staged(spec, 3).at(1.0).spawn_failed("a/0", 5).spawned("b/0")
    assert stage.fleet.in_line == {WorkerId("a", 0), WorkerId("c", 0)}
    stage.driver = None

    stage.at(2.0).exited("b/0", 1)

    assert stage.spawns() == ()
    assert stage["c/0"].reason == "reading the free memory of its GPUs"
    assert stage["a/0"].reason == TURN.format(1)
    stage.driver = good(*devices(3))
    assert stage.at(2.1).read(stage.driver, asked_at=2.0).state("c/0") == "starting"


def neighbours(exit_code: int, free: int = 79 * GIB) -> Stage:
    """One that ends as soon as it runs, and on the same GPU one that declares its memory; at second 100."""
    restart = {"delay": "0s", "max_delay": "0s", "start_limit": 0, "limit": 0}
    spec = spec_of(
        a={"resources": {"gpu": 0.2}, "port": 8000, "restart": restart},
        b={"resources": {"gpu": 0.2, "gpu_memory": "10GiB"}, "port": 8100},
    )
    stage = Stage().load(spec).read(good(device(0, free=free)))
    return stage.spawned("a/0").at(100.0).exited("a/0", exit_code)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_one_that_comes_and_goes_starves_nobody_beside_it_who_waits_for_a_reading(exit_code: int) -> None:
    """Each of its starts and ends makes what is being read old, so it waits for one that has waited longer."""
    stage = neighbours(exit_code)
    for _ in range(20):
        if stage.state("a/0") == "starting":
            stage.at(stage.now + 0.01).spawned("a/0").exited("a/0", exit_code)
        if (asked := stage.fleet.asked) is not None and stage.state("b/0") == "pending":
            stage.at(stage.now + 0.05).read(good(*devices(1)), asked_at=asked)
        stage.pass_time(stage.now + 0.01)

    assert stage.state("b/0") == "starting"
    assert stage.now < 102.0


def test_one_that_has_let_a_reading_pass_starts_after_it() -> None:
    """Whatever it has shown for the other."""
    stage = neighbours(1, free=GIB)
    stage.at(100.05).read(good(device(0, free=GIB)), asked_at=100.0)
    assert stage["a/0"].reason == "waiting until the memory of the same GPU has been read for b/0"
    asked = stage.fleet.asked

    stage.at(100.1).read(good(device(0, free=GIB)), asked_at=asked)

    assert stage.states() == {"a/0": "starting", "b/0": "pending"}


def test_a_driver_that_errs_lets_restart_who_ran_there() -> None:
    """And nobody else: their memory cannot be asked for."""
    stage = running(llm(1), device(0)).at(100.0)
    stage.driver = None
    stage.read(bad())

    stage.exited("llm/0", 0)
    assert stage.state("llm/0") == "releasing"  # Nobody can tell whether its memory is back.

    assert stage.pass_time(160.5).state("llm/0") == "starting"


# ---- making way -----------------------------------------------------------------------------------------------------


def test_one_that_is_to_have_less_of_a_device_makes_way_for_its_sibling() -> None:
    """Otherwise the roll-out waits for the sibling, and the sibling for the roll-out."""
    whole, half = ({"resources": {"gpu": gpu}, "port": 8000} for gpu in (1, 0.5))
    stage = running(spec_of(llm=whole), device(0)).at(100.0)

    stage.reload(spec_of(llm=half | {"workers": 2}), good(device(0)))

    assert stage.state("llm/0") == "stopping"
    stage.exited("llm/0", 0)
    assert stage.state("llm/0") == "starting"
    assert stage.ready("llm/0").state("llm/1") == "starting"
    assert stage.slices()["llm/0"] == stage.slices()["llm/1"] == (0,)


def test_one_that_is_to_have_less_memory_of_a_device_makes_way() -> None:
    """The plan's books have room, those of the living have not: only the change itself makes it."""
    before, after = (
        {"workers": [{"gpu_memory": size} for size in sizes], "resources": {"gpu": 0.5}, "port": 8000}
        for sizes in (("35GiB", "35GiB"), ("20GiB", "55GiB"))
    )
    stage = running(spec_of(llm=before), device(0)).at(100.0).exited("llm/1")

    stage.reload(spec_of(llm=after), good(device(0)))

    assert stage.states() == {"llm/0": "stopping", "llm/1": "pending"}


def test_a_place_without_room_beside_the_living_is_given_up() -> None:
    """Another headroom ends nobody, but who has ended is planned anew: with the arithmetic, or elsewhere."""
    a, b = (
        {"resources": {"gpu": 0.5, "gpu_memory": size}, "port": port}
        for size, port in (("40GiB", 8000), ("35GiB", 8100))
    )
    stage = running(spec_of(a=a, b=b), device(0)).at(100.0)
    stage.reload(spec_of(a=a, b=b, daemon={"headroom": "6GiB"}), good(*devices(2)))
    assert stage.states()["b/0"] == "ready"

    stage.exited("b/0", 0)
    stage.at(100.1).read(good(*devices(2)))

    assert stage.slices() == {"a/0": (0,), "b/0": (1,)}


# ---- strangers, other daemons, slow drivers -------------------------------------------------------------------------


def test_one_that_waits_goes_to_another_gpu_when_a_stranger_fills_its_own() -> None:
    """Not only at the next reload."""
    stage = Stage().load(spec_of(llm={"resources": {"gpu": 1}}))
    stage.left_open = {uuid_of(0)}
    stage.read(good(*devices(2)))
    assert stage.state("llm/0") == "pending"

    stranger = (Holder(99, 70 * GIB, "python", "ann"),)
    stage.at(1.0).read(good(replace(device(0, free=9 * GIB), holders=stranger), device(1)))

    assert (stage.slices(), stage.state("llm/0")) == ({"llm/0": (1,)}, "starting")


def test_what_another_daemon_has_is_planned_around_in_the_files_order() -> None:
    """Though it is known only when the GPUs are claimed, and by then all have been given a place."""
    spec = spec_of(first={"resources": {"gpu": 1}}, later={"resources": {"gpu": 1}})
    stage = Stage()
    stage.rivals = {uuid_of(0): "held by another daemon"}

    stage.load(spec).read(good(*devices(2)))

    assert stage.states() == {"first/0": "starting", "later/0": "pending"}


def test_a_driver_that_takes_long_to_answer_holds_up_nobody_for_ever() -> None:
    """The host's memory is read after its answer, and by then that is old, but it is the newest there is."""
    stage = Stage().load(spec_of(llm={"resources": {"gpu": 1, "memory": "1GiB"}}))
    stage.read(good(*devices(1)))

    stage.at(100.0).read(good(*devices(1)), asked_at=91.0)
    stage.at(100.1).meet(HostRead(8 * GIB, 16 * GIB))

    assert stage.state("llm/0") == "starting"
