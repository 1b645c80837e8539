"""What a device and the host have left for one more worker, and who has the rest, in words."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from supervisor.core.inventory import Device, Holder
from supervisor.core.memory import HostBooks, HostSums
from supervisor.core.message import HostRead, ReadHost, ReadInventory, Say, TimePassed
from supervisor.core.spec import Spec
from tests.core.builders import GIB, device, devices, good, of_type, spec_of, uuid_of
from tests.core.effort import count_calls
from tests.core.stage import Stage, running

ANN = Holder(99, 20 * GIB, "python", "ann")


def llm(workers: int = 1, *, gpu: object = 1, memory: str | None = None, **keys: object) -> Spec:
    """Workers that are ready when their probe says so, all of which may start at once."""
    resources = {"gpu": gpu} | ({} if memory is None else {"gpu_memory": memory})
    return spec_of(llm={"workers": workers, "resources": resources, "port": 8000, **keys}, daemon={"start_parallel": 0})


def held(number: int, *holders: Holder, free: int) -> Device:
    """A device and who has memory of it."""
    return replace(device(number, free=free), holders=holders)


def ours(worker: str, gib: int, pid: int = 1001) -> Holder:
    return Holder(pid, gib * GIB, "serve", "bob", worker)


# ---- whole devices, nothing declared --------------------------------------------------------------------------------


@pytest.mark.parametrize(("free_gib", "starts"), [(72, True), (71, False), (80, True), (0, False)])
def test_a_whole_device_has_to_be_nine_tenths_free(free_gib: int, starts: bool) -> None:
    """For a worker that does not say how much it needs."""
    stage = Stage().load(llm()).read(good(device(0, free=free_gib * GIB)))

    assert starts == (stage.state("llm/0") == "starting")


def test_each_device_of_a_slice_has_to_be_free() -> None:
    """One is enough to wait for."""
    stage = Stage().load(llm(gpu=2)).read(good(device(0), held(1, ANN, free=59 * GIB)))

    assert stage["llm/0"].reason == (
        "GPU 1 is not free, 60416 of 81920 MiB are; needs 90 %; held by pid 99 (python, ann): 20480 MiB"
    )


def test_who_holds_a_device_is_named_foreign_ones_first() -> None:
    """Pid, name, user and MiB; ours by their names; what is not known is left out."""
    holders = (ours("web/0", 3), Holder(7, None), ANN, ours("llm/0", 1, 1002), Holder(98, 30 * GIB, "java"))
    stage = Stage().load(llm()).read(good(held(0, *holders, free=10 * GIB)))

    assert stage["llm/0"].reason.partition("held by ")[2] == (
        "pid 98 (java): 30720 MiB, pid 99 (python, ann): 20480 MiB, pid 7: unknown, web/0 (pid 1001): 3072 MiB"
        " and 1 more"
    )


def test_a_foreign_holder_that_leaves_lets_it_start() -> None:
    """The driver is asked every half second at first, less often when it takes long; nobody is signalled."""
    stage = Stage().load(llm()).read(good(held(0, ANN, free=59 * GIB)))
    asked = []
    for _ in range(80):
        stage.pass_time(stage.due() or 0.0)
        if stage.actions:
            assert stage.actions == (ReadInventory(),)
            asked.append(stage.now)
            stage.read(good(held(0, ANN, free=59 * GIB)))

    assert asked[:3] == [0.5, 1.0, 1.5]
    assert {round(later - sooner, 3) for sooner, later in pairwise(asked)} == {0.5, 1.0, 5.0}
    stage.pass_time(stage.due() or 0.0)
    assert stage.read(good(held(0, free=79 * GIB))).spawns() == ("llm/0",)


def test_memory_on_its_way_back_is_waited_for_at_a_restart() -> None:
    """With the numbers, and without a charge: the worker has not failed again."""
    stage = running(llm(restart={"delay": "0s", "max_delay": "0s"}), device(0)).at(10.0)
    stage.driver = good(held(0, ours("llm/0", 40), free=39 * GIB))
    stage.exited("llm/0", 1)

    assert (stage.state("llm/0"), stage["llm/0"].history.failures) == ("releasing", 1)
    assert stage["llm/0"].reason == (
        "waiting for the memory of its ended process to come back: GPU 0: 39936 of 81920 MiB are free,"
        " the driver still lists its process"
    )
    stage.driver = good(held(0, free=79 * GIB))
    assert stage.pass_time(10.5).state("llm/0") == "starting"
    assert stage["llm/0"].history.failures == 1


@pytest.mark.parametrize(
    ("holders", "words"), [(None, "who holds it is not told"), ((), "nobody is listed as holding it")]
)
def test_memory_that_nobody_is_known_to_have_is_said_so(holders: tuple[Holder, ...] | None, words: str) -> None:
    """In a container, for a dead process, or without a list at all."""
    stage = Stage().load(llm()).read(good(replace(device(0, free=50 * GIB), holders=holders)))

    assert stage["llm/0"].reason.endswith(words)


def test_a_fraction_that_declares_nothing_waits_for_no_memory() -> None:
    """Its room is its share."""
    stage = Stage().load(llm(gpu=0.5)).read(good(held(0, ANN, free=GIB)))

    assert stage.state("llm/0") == "starting"


# ---- declared and not yet taken -------------------------------------------------------------------------------------


def beside(first: Device, *, ready: bool) -> Stage:
    """`a/0`, which declares 30 GiB, is on its way or ready, and then `b/0`, which declares 40, wants to start."""
    a = {"resources": {"gpu": 0.5, "gpu_memory": "30GiB"}, "port": 8000}
    b = {"resources": {"gpu": 0.5, "gpu_memory": "40GiB"}, "port": 8100}
    stage = Stage().load(spec_of(a=a)).read(good(device(0))).spawned("a/0")
    if ready:
        stage.at(10.0).ready("a/0")
    stage.driver = good(first)
    stage.at(20.0).reload(spec_of(a=a, b=b), good(first))
    return stage


@pytest.mark.parametrize(
    ("free_gib", "ready", "listed_gib", "starts"),
    [
        (72, False, None, True),  # 72 - 30 = 42 >= 40 + 1.6
        (71, False, None, False),
        (42, True, None, True),  # It has taken what it will.
        (41, True, None, False),
        (62, False, 10, True),  # 20 are still to come: 62 - 20 = 42.
        (61, False, 10, False),
        (62, True, 10, True),
        (61, True, 10, False),
        (42, True, 35, True),  # It has more than it said; nothing is to come.
    ],
)
def test_what_a_neighbour_has_declared_and_not_taken_is_not_free(
    free_gib: int, ready: bool, listed_gib: int | None, starts: bool
) -> None:
    """By the driver's list; without one nothing is taken before it is ready, and all of it then."""
    found = replace(device(0, free=free_gib * GIB), holders=None if listed_gib is None else (ours("a/0", listed_gib),))

    assert starts == (beside(found, ready=ready).state("b/0") == "starting")


def test_the_reason_says_what_is_still_to_be_taken() -> None:
    """Else the numbers would not add up."""
    stage = beside(device(0, free=71 * GIB), ready=False)

    assert stage["b/0"].reason == (
        "needs 40960 MiB on GPU 0 beside a headroom of 1638 MiB, 72704 of 81920 MiB are free,"
        " 30720 MiB of that are declared and not yet taken"
    )


def test_a_list_without_a_ready_worker_is_believed_where_it_explains_what_is_used() -> None:
    """In a container its pids are of another world: what nobody known has is then the worker's."""
    lists = {"complete": (Holder(99, 8 * GIB, "python", "ann"),), "of another world": (Holder(4711, 30 * GIB),)}

    states = {
        name: beside(replace(device(0, free=free * GIB), holders=holders), ready=True).state("b/0")
        for (name, holders), free in zip(lists.items(), (71, 46), strict=True)
    }

    assert states == {"complete": "pending", "of another world": "starting"}


def test_what_a_dead_process_is_known_to_have_left_is_not_its_neighbours() -> None:
    """Memory that nobody on the list has is not taken for that of one who has taken nothing yet."""
    service = {"resources": {"gpu": 0.3, "gpu_memory": "30GiB"}, "port": 8000}
    found = replace(device(0), holders=())
    stage = Stage().load(spec_of(a=service, b={**service, "port": 8100})).read(good(found)).ready("a/0", "b/0")
    stage.at(10.0).read(good(replace(found, memory_free_bytes=50 * GIB, holders=(ours("a/0", 30),))))
    stage.driver = good(replace(found, memory_free_bytes=50 * GIB))

    stage.at(100.0).exited("a/0", 1).pass_time(170.0).at(170.1).read(stage.driver, asked_at=170.05)

    assert list(stage.fleet.dirty) == [uuid_of(0)]
    assert stage.state("a/0") == "pending"


def test_the_books_count_where_the_driver_shows_more_free() -> None:
    """A neighbour that is ready and holds little may take what it declared at any time."""
    a = {"resources": {"gpu": 0.5, "gpu_memory": "40GiB"}, "port": 8000}
    b = {"resources": {"gpu": 0.5, "gpu_memory": "35GiB"}, "port": 8100}
    stage = Stage().load(spec_of(a=a, b=b)).read(good(device(0))).ready("a/0", "b/0").at(100.0)

    stage.reload(spec_of(a=a, b=b, daemon={"headroom": "6GiB"}), good(device(0)))
    stage.exited("b/0", 0)
    stage.at(100.1).read(good(device(0, free=75 * GIB)))
    stage.at(100.2).read(good(device(0, free=75 * GIB)))

    assert (stage.state("a/0"), stage.state("b/0")) == ("ready", "pending")
    assert "GPU 0 has 34 GiB left beside 40 GiB declared (a/0)" in stage["b/0"].reason


def test_a_neighbour_that_is_on_its_way_out_is_waited_for() -> None:
    """The plan has its memory for somebody else, and its process still has it."""
    a = {"resources": {"gpu": 0.5, "gpu_memory": "60GiB"}, "port": 8000}
    b = {"resources": {"gpu": 0.5, "gpu_memory": "40GiB"}, "port": 8100}
    stage = running(spec_of(a=a), device(0)).at(100.0)

    stage.reload(spec_of(b=b), good(device(0)))

    assert stage.states() == {"a/0": "stopping", "b/0": "pending"}
    assert stage["b/0"].reason == "waiting for its GPUs, held by a/0"
    stage.at(101.0).exited("a/0", 0).read(good(device(0)), asked_at=101.0)
    assert stage.states() == {"b/0": "starting"}


def test_foreign_holders_are_named_for_declared_memory_too() -> None:
    """So that a person knows whom to ask."""
    stage = Stage().load(llm(memory="70GiB")).read(good(held(0, ANN, free=59 * GIB)))

    assert stage["llm/0"].reason.endswith("60416 of 81920 MiB are free; held by pid 99 (python, ann): 20480 MiB")


def test_releasing_ends_when_the_list_shows_nothing_of_the_dead() -> None:
    """Who has taken the memory meanwhile is the next start's business."""
    stage = running(llm(memory="40GiB"), device(0)).at(100.0)
    stage.exited("llm/0", 0)
    assert stage.state("llm/0") == "releasing"

    stage.at(100.1).read(good(held(0, ours("llm/0", 40), free=39 * GIB)))
    assert stage.state("llm/0") == "releasing"

    stage.at(100.2).read(good(held(0, Holder(99, 50 * GIB, "python", "ann"), free=29 * GIB)))
    assert stage.state("llm/0") == "pending"


# ---- memory that is the host's, or is not told ----------------------------------------------------------------------


def unified(free: int, *holders: Holder) -> Device:
    return replace(device(0, free=free, total=120 * GIB), is_unified=True, holders=holders or None)


def test_on_unified_memory_the_hosts_is_what_counts_and_the_reason_says_so() -> None:
    """The figures are the host's, and so is the budget."""
    stage = Stage().load(llm(memory="60GiB")).read(good(unified(50 * GIB)))

    assert stage["llm/0"].reason == (
        "needs 61440 MiB on GPU 0 beside a headroom of 2457 MiB,"
        " 51200 of 122880 MiB of the host's memory, which it shares, are free"
    )


def test_on_unified_memory_only_who_uses_the_gpu_makes_it_not_free() -> None:
    """The system itself has more than a tenth on small boards."""
    free = Stage().load(llm()).read(good(unified(80 * GIB)))
    taken = Stage().load(llm()).read(good(unified(80 * GIB, ANN)))

    assert (free.state("llm/0"), taken.state("llm/0")) == ("starting", "pending")


def test_on_unified_memory_what_is_declared_of_the_host_counts_too() -> None:
    """One memory, one budget."""
    spec = spec_of(
        a={"resources": {"memory": "50GiB"}, "port": 8000},
        b={"resources": {"gpu": 1, "gpu_memory": "80GiB"}, "port": 8100},
    )
    stage = Stage().load(spec)
    stage.host = (119 * GIB, 120 * GIB)
    stage.meet(HostRead(*stage.host))
    stage.ready("a/0")

    stage.read(good(unified(119 * GIB)))

    assert stage.states() == {"a/0": "ready", "b/0": "pending"}
    assert "51200 of 122880 MiB of the host's memory, which it shares, are declared" in stage["b/0"].reason


def test_on_unified_memory_what_is_declared_of_a_gpu_is_not_the_hosts_to_give() -> None:
    """The other way round: what others have been promised, and what of it they are still to take."""
    spec = spec_of(
        a={"resources": {"gpu": 1, "gpu_memory": "80GiB"}, "port": 8000},
        b={"resources": {"memory": "50GiB"}, "port": 8100},
    )
    stage = Stage().load(spec).read(good(unified(110 * GIB)))
    assert stage.state("a/0") == "starting"

    stage.meet(HostRead(110 * GIB, 120 * GIB))
    assert stage["b/0"].reason.endswith("81920 MiB of that are declared and not yet taken")
    stage.host = (60 * GIB, 120 * GIB)
    stage.ready("a/0")

    assert "81920 of 122880 MiB are declared by other workers" in stage.pass_time(10.0)["b/0"].reason


def test_on_unified_memory_what_a_starting_worker_will_take_of_the_host_is_not_free() -> None:
    """Somebody else has the rest of what is not declared."""
    spec = spec_of(
        a={"resources": {"memory": "30GiB"}, "port": 8000},
        b={"resources": {"gpu": 1, "gpu_memory": "60GiB"}, "port": 8100},
    )
    stage = Stage().load(spec)
    stage.host = (80 * GIB, 120 * GIB)
    stage.meet(HostRead(*stage.host))

    stage.read(good(unified(80 * GIB)))

    assert stage.states() == {"a/0": "starting", "b/0": "pending"}
    assert "30720 MiB of that are declared and not yet taken" in stage["b/0"].reason


def test_on_unified_memory_what_the_host_has_taken_is_not_what_was_declared_of_the_gpu() -> None:
    """One that is ready and not on the driver's list has taken nothing; a pid that nobody knows may be its own."""
    spec = llm(2, gpu=0.5, memory="40GiB")

    def second(*holders: Holder) -> str:
        stage = Stage().load(spec).read(good(replace(unified(80 * GIB), holders=())))
        stage.at(20.0).ready("llm/0").read(good(replace(unified(70 * GIB), holders=holders)))
        return stage.state("llm/1")

    assert (second(), second(Holder(7, 40 * GIB))) == ("pending", "starting")


def test_a_device_that_tells_no_memory_keeps_nobody_waiting_and_is_said_once() -> None:
    """There is no number to keep a rule by."""
    spec = llm(2, restart={"delay": "0s", "max_delay": "0s"})
    stage = running(spec, device(0, free=None), device(1))
    assert stage.driver is not None
    stage.driver = replace(stage.driver, openers=())  # Nobody has its files open.
    stage.at(100.0).exited("llm/0", 0)

    said = [say for say in of_type(Say, stage.history) if say.event == "device.unmeasured"]

    assert stage.state("llm/0") == "starting"
    assert [say.fields["reason"] for say in said] == ["GPU 0 does not tell its memory, so nobody waits for it there"]


# ---- the host's -----------------------------------------------------------------------------------------------------


def web(workers: int, memory: str = "10GiB", **keys: object) -> Spec:
    return spec_of(web={"workers": workers, "resources": {"memory": memory}, "port": 8000, **keys})


def test_the_hosts_memory_is_looked_at_at_the_moment_of_a_start() -> None:
    """Once for all who wait; those that have just been started have taken nothing of it yet."""
    stage = Stage()

    assert stage.load(web(4)).spawns() == ()
    assert of_type(ReadHost, stage.actions) == [ReadHost()]
    stage.meet(HostRead(25 * GIB, 64 * GIB))

    assert list(stage.states().values()) == ["starting", "starting", "pending", "pending"]
    assert stage["web/2"].reason == (
        "needs 10240 MiB of the host's memory, 25600 of 65536 MiB are available,"
        " 20480 MiB of that are declared and not yet taken"
    )


def test_who_is_ready_has_taken_its_part_of_the_hosts_memory() -> None:
    """Then what the host shows counts, and the books."""
    stage = Stage()
    stage.host = (25 * GIB, 64 * GIB)
    stage.load(web(3)).spawned("web/0", "web/1")
    assert stage.state("web/2") == "pending"

    stage.ready("web/0", "web/1").pass_time(1.0)

    assert stage.state("web/2") == "starting"


def test_the_hosts_memory_is_looked_at_again_and_after_every_end() -> None:
    """Others give it back without a word."""
    stage = Stage()
    stage.host = (5 * GIB, 64 * GIB)
    stage.load(web(1))
    assert stage["web/0"].deadline == 0.5

    stage.host = (15 * GIB, 64 * GIB)

    assert stage.pass_time(0.5).state("web/0") == "starting"


def test_the_books_of_the_host_count_too() -> None:
    """What is declared may be taken, whatever is free at the moment."""
    stage = Stage()
    stage.host = (64 * GIB, 64 * GIB)
    stage.load(web(3, "25GiB")).spawned("web/0", "web/1").ready("web/0", "web/1")

    assert stage.pass_time(1.0)["web/2"].reason == (
        "needs 25600 MiB of the host's memory, 51200 of 65536 MiB are declared by other workers"
    )
    assert stage.at(50.0).exited("web/0", 78).state("web/2") == "starting"


def test_more_than_the_machine_has_waits_and_says_so() -> None:
    """It is no failure: the machine may be another one tomorrow."""
    stage = Stage()
    stage.host = (60 * GIB, 64 * GIB)
    stage.load(web(1, "1TiB"))

    assert (stage.state("web/0"), stage["web/0"].reason) == (
        "pending",
        "needs 1048576 MiB of the host's memory, there are 65536 MiB in all",
    )


def test_a_small_worker_passes_one_for_which_there_is_no_room() -> None:
    """Nobody waits for another's memory."""
    spec = spec_of(
        a={"resources": {"memory": "40GiB"}, "port": 8000}, b={"resources": {"memory": "1GiB"}, "port": 8100}
    )
    stage = Stage()
    stage.host = (20 * GIB, 64 * GIB)

    assert stage.load(spec).states() == {"a/0": "pending", "b/0": "starting"}


def test_gpu_and_host_are_both_asked() -> None:
    """A worker that declares both starts when both are there, off readings of this moment."""
    spec = spec_of(llm={"resources": {"gpu": 1, "gpu_memory": "20GiB", "memory": "8GiB"}, "port": 8000})
    stage = Stage().load(spec)

    stage.read(good(*devices(1)))
    assert of_type(ReadHost, stage.actions) == [ReadHost()]
    stage.meet(HostRead(9 * GIB, 64 * GIB))

    assert stage.state("llm/0") == "starting"


def test_twice_the_workers_are_twice_the_work() -> None:
    """When the host's memory is read and half of them wait for it, nobody sums up all the others for itself."""

    def reading(workers: int) -> int:
        stage = Stage().load(web(2 * workers, "1GiB"))
        stage.meet(HostRead(2 * workers * GIB, workers * GIB))
        stage.ready(*(f"web/{at}" for at in range(workers))).at(1.0)
        assert stage.state(f"web/{workers}") == "pending"
        stage.meet(TimePassed((stage[f"web/{workers}"].id,)))
        assert ReadHost() in stage.actions
        return count_calls(lambda: stage.meet(HostRead(2 * workers * GIB, workers * GIB)))

    assert reading(160) < 5 * reading(40)


def test_the_books_of_one_turn_count_each_start_in_it() -> None:
    """As if they were summed up anew for each: twenty start at once, and the next one has no room."""
    stage = Stage().load(web(22, "1GiB"))
    stage.meet(HostRead(64 * GIB, 20 * GIB))
    assert [stage.state(f"web/{at}") for at in (0, 19, 20)] == ["starting", "starting", "pending"]
    assert "20480 of 20480 MiB are declared" in stage["web/20"].reason

    books, fleet = HostBooks(), stage.fleet
    sums = books.of_others(fleet, fleet.workers, stage["web/0"].id)

    assert sums == HostSums(19 * GIB, 19 * GIB)
    assert books.of_others(fleet, fleet.workers, stage["web/21"].id) == HostSums(20 * GIB, 20 * GIB)
