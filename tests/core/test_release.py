"""When a dead process' memory is back, by what each witness says, while neighbours come and go beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.file.quantities import MIB
from supervisor.core.inventory import Device, Holder, Opener, Reading
from supervisor.core.message import ReadInventory, Report, Say, StopRequested
from supervisor.core.release import Evidence, Proof, judge, lacking_bytes
from supervisor.core.snapshot import View, make_devices, make_status
from supervisor.core.spec import Spec
from supervisor.core.witnesses import wants_openers
from tests.core.builders import GIB, bad, device, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage

VIEW = View(rfc3339=str)
YES, NO, MUTE = True, False, None


# ---- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "opened", "fits", "lacking", "expected"),
    [
        # The list shows the dead: whatever else is said.
        (YES, NO, YES, 0, None),
        (YES, MUTE, MUTE, None, None),
        # The open files show the dead.
        (NO, YES, YES, 0, None),
        (MUTE, YES, YES, 0, None),
        # The list shows nothing: what is nobody's counts, and nothing else does.
        (NO, NO, NO, 0, Proof.LIST),
        (NO, MUTE, NO, 0, Proof.LIST),
        (NO, MUTE, MUTE, None, Proof.LIST),
        (NO, NO, YES, GIB, None),
        (NO, MUTE, MUTE, GIB, None),
        # No list, or one that lies: free memory.
        (MUTE, MUTE, YES, None, Proof.MEMORY),
        (MUTE, MUTE, YES, GIB, Proof.MEMORY),
        (MUTE, MUTE, NO, 0, Proof.MEMORY),
        (MUTE, MUTE, MUTE, 0, Proof.MEMORY),
        (MUTE, NO, NO, None, None),
        (MUTE, NO, NO, GIB, None),
        (MUTE, NO, MUTE, GIB, None),
        # No figures either: the open files.
        (MUTE, NO, MUTE, None, Proof.FILES),
        # Nobody can tell.
        (MUTE, MUTE, MUTE, None, Proof.NOTHING),
    ],
)
def test_the_surest_witness_there_is_decides(
    listed: bool | None, opened: bool | None, fits: bool | None, lacking: int | None, expected: Proof | None
) -> None:
    """Whoever shows the dead holds it; None here means that it is not back."""
    verdict = judge(Evidence("GPU 0", listed, opened, fits, lacking))

    assert (verdict.proof if verdict.is_back else None) == expected
    assert verdict.is_back or verdict.reason.startswith("GPU 0: ")


def test_who_has_not_been_asked_yet_is_waited_for() -> None:
    """Nothing else is known, and the open files are about to be looked at."""
    assert not judge(Evidence("GPU 0", may_be_asked=True)).is_back
    assert judge(Evidence("GPU 0", fits=True, may_be_asked=True)).is_back


@pytest.mark.parametrize(
    ("total", "lacking", "expected"),
    [(80 * GIB, GIB, 0), (80 * GIB, 2 * GIB, 2 * GIB), (GIB, 64 * MIB, 0), (GIB, 65 * MIB, 65 * MIB), (GIB, -GIB, 0)],
)
def test_figures_may_be_off_by_a_little(total: int, lacking: int, expected: int) -> None:
    """Two per cent, or 64 MiB."""
    assert lacking_bytes(total, total - lacking, total) == expected


# ---- a fleet --------------------------------------------------------------------------------------------------------


def llm(resources: dict[str, object], **keys: object) -> Spec:
    restart = {"delay": "0s", "max_delay": "0s"}
    return spec_of(llm={"resources": resources, "port": 8000, "restart": restart, **keys})


WHOLE: dict[str, object] = {"gpu": 1}
DECLARED: dict[str, object] = {"gpu": 0.5, "gpu_memory": "20GiB"}
PART: dict[str, object] = {"gpu": 0.5}
ANN, SERVE = 99, 1001


def shown(index: int = 0, *, used: int, **gib: int) -> Device:
    """A GPU of 80 GiB of which *used* are used, and how much of that `llm/0` and ann are listed with."""
    names = {"llm": Holder(SERVE, 0, "serve", "bob", "llm/0"), "ann": Holder(ANN, 0, "python", "ann")}
    holders = tuple(replace(names[name], used_bytes=size * GIB) for name, size in gib.items())
    return replace(device(index, free=(80 - used) * GIB), holders=holders)


def died(resources: dict[str, object], before: Device, living: Device, *others: Device) -> Stage:
    """A worker that was started on one reading, looked at on another when it was ready, and has died at second 10."""
    stage = Stage().load(llm(resources)).read(good(before, *others))
    stage.ready("llm/0").read(good(living, *others))
    while stage.fleet.asked is not None:
        stage.read(good(living, *others))
    stage.at(10.0).exited("llm/0")
    assert stage.state("llm/0") == "releasing"
    return stage


@pytest.mark.parametrize("resources", [WHOLE, DECLARED, PART], ids=["whole", "declared", "part"])
@pytest.mark.parametrize(
    ("now", "is_back"),
    [
        (shown(used=0), True),
        (shown(used=20, llm=20), False),
        (shown(used=20), False),  # The list has dropped it, the memory is still away.
        (shown(used=30, ann=30), True),
        (shown(used=50, ann=30), False),
        (shown(used=1), True),
    ],
    ids=["free", "listed", "nobodys", "neighbour", "nobodys beside a neighbour", "a little"],
)
def test_with_a_list_neighbours_may_grow(resources: dict[str, object], now: Device, is_back: bool) -> None:
    """What they have is on the list: only what is nobody's is the dead's."""
    stage = died(resources, shown(used=0), shown(used=20, llm=20))

    stage.read(good(now))

    assert (stage.state("llm/0") != "releasing") == is_back


def test_with_a_list_neighbours_may_shrink() -> None:
    """More is free than before the start, and the dead's memory is not back all the same."""
    stage = died(PART, shown(used=40, ann=40), shown(used=60, ann=40, llm=20))

    assert stage.read(good(shown(used=20))).state("llm/0") == "releasing"
    assert stage.at(11.0).read(good(shown(used=0))).state("llm/0") != "releasing"


def test_a_list_with_more_on_it_than_there_is_leaves_nobody_waiting() -> None:
    """Memory that two share is listed twice: nothing is missing when both are gone."""
    stage = died(PART, shown(used=0), shown(used=80, ann=80, llm=20))

    assert stage.read(good(shown(used=0))).state("llm/0") != "releasing"


def test_a_list_that_has_never_shown_it_is_not_believed() -> None:
    """In a container its pids mean nobody here: then free memory counts, whatever the list says."""
    nameless = replace(device(0, free=60 * GIB), holders=(Holder(7, 20 * GIB),))
    stage = died(PART, shown(used=0), nameless)

    stage.read(good(shown(used=20)))
    assert stage.state("llm/0") == "releasing"
    assert "who has the rest is not told" in stage["llm/0"].reason

    stage.at(11.0).read(good(shown(used=0)))
    assert stage["llm/0"].release is not None
    assert stage["llm/0"].release.proof is Proof.MEMORY


def test_without_a_list_free_memory_counts_beside_those_that_came_later() -> None:
    """What they have declared since is theirs."""
    spec = spec_of(
        llm={"resources": PART, "port": 8000},
        web={"resources": {"gpu": 0.5, "gpu_memory": "30GiB"}, "port": 9000},
        daemon={"start_parallel": 0},
    )
    stage = Stage().load(spec).read(good(device(0, free=80 * GIB))).ready("llm/0")
    for _ in range(3):
        stage.read(good(device(0, free=60 * GIB)))
    assert stage.ready("web/0").states() == {"llm/0": "ready", "web/0": "ready"}
    stage.at(10.0).exited("llm/0")

    for _ in range(2):
        stage.read(good(device(0, free=30 * GIB)))
    assert stage.state("llm/0") == "releasing"
    for _ in range(2):
        stage.read(good(device(0, free=50 * GIB)))
    assert stage.state("llm/0") != "releasing"


def test_without_a_list_who_takes_the_place_of_a_neighbour_takes_nothing_of_the_dead() -> None:
    """What the neighbour leaves and the next one takes is no sign that the dead's memory is back."""
    half = {"gpu": 0.5, "gpu_memory": "40GiB"}
    restart = {"restart": {"delay": "0s", "max_delay": "0s"}}
    spec = spec_of(
        web={"resources": half, "port": 9000, **restart},
        llm={"resources": half, "port": 8000, **restart},
        daemon={"start_parallel": 0, "headroom": 0},
    )
    empty, one, both = (good(device(0, free=free * GIB)) for free in (80, 40, 0))
    stage = Stage().load(spec).read(empty).ready("web/0")
    for _ in range(3):
        stage.read(one)
    stage.ready("llm/0").read(both)
    stage.at(10.0).exited("web/0").at(11.0)
    for _ in range(3):
        stage.read(one)
    stage.ready("web/0").read(both)
    assert stage.states() == {"web/0": "ready", "llm/0": "ready"}
    stage.at(20.0).exited("llm/0")

    stage.at(21.0).read(both)
    assert stage.state("llm/0") == "releasing"
    stage.at(22.0).read(one)
    assert stage.state("llm/0") != "releasing"


@pytest.mark.parametrize(
    ("free", "expected"), [(80, Proof.MEMORY), (40, Proof.NOTHING), (20, None)], ids=["all", "some", "less than before"]
)
def test_without_a_list_what_a_neighbour_has_left_may_be_what_it_declared_or_less(
    free: int, expected: Proof | None
) -> None:
    """Memory is a witness only where that makes no difference."""
    spec = spec_of(
        app={"resources": {"gpu": 0.5, "gpu_memory": "40GiB"}, "port": 9000},
        llm={"resources": PART, "port": 8000},
        daemon={"start_parallel": 0},
    )
    stage = Stage().load(spec).read(good(device(0, free=80 * GIB))).ready("app/0")
    for _ in range(3):
        stage.read(good(device(0, free=40 * GIB)))
    stage.ready("llm/0").read(good(device(0, free=20 * GIB)))
    assert stage.states() == {"app/0": "ready", "llm/0": "ready"}
    stage.meet(StopRequested(services=("app",)))
    stage.at(10.0).exited("app/0").at(11.0).read(good(device(0, free=60 * GIB)))
    assert stage.state("app/0") == "stopped"
    stage.at(20.0).exited("llm/0")

    for now in (21.0, 22.0):
        stage.at(now).read(good(device(0, free=free * GIB)))

    release = stage["llm/0"].release
    assert (release.proof if release and stage.state("llm/0") != "releasing" else None) == expected


def test_a_device_that_tells_nothing_is_not_waited_for_and_that_is_said() -> None:
    """The end of its processes is all there is to know."""
    mute = device(0, free=None, total=None)
    stage = died(PART, mute, mute)

    stage.read(good(mute))
    assert stage.state("llm/0") == "releasing"  # Who has it open may still be told.
    stage.at(11.0).read(good(mute))

    assert stage["llm/0"].release is not None
    assert (stage["llm/0"].release.proof, stage["llm/0"].release.took_s) == (Proof.NOTHING, 1.0)
    (worker,) = make_status(stage.fleet, VIEW)["services"][0]["workers"]
    assert worker["release"] == {"seconds": 1.0, "proof": "nothing", "dirty": False}


def test_a_reading_from_before_the_end_proves_nothing() -> None:
    """It shows a GPU that the dead had not left yet, or had not taken yet."""
    stage = died(PART, shown(used=0), shown(used=20, llm=20))

    stage.read(good(shown(used=0)), asked_at=9.9)

    assert stage.state("llm/0") == "releasing"


def test_the_time_that_it_took_is_in_the_event() -> None:
    """With the word on which it counts as back."""
    stage = died(PART, shown(used=0), shown(used=20, llm=20))

    stage.at(12.5).read(good(shown(used=0)))

    (one, *_) = [report.transition for report in of_type(Report, stage.actions)]
    assert (one.fields["released_in_s"], one.fields["proof"]) == (2.5, "list")


# ---- given up -------------------------------------------------------------------------------------------------------


def stuck(stage: Stage, until: float, *found: Device) -> list[Say]:
    """Time passes and the driver shows the same again and again; what is said meanwhile."""
    said: list[Say] = []
    while (due := stage.due()) is not None and due <= until:
        stage.pass_time(due)
        said += of_type(Say, stage.actions)
        while stage.fleet.asked is not None:
            stage.read(good(*found))
            said += of_type(Say, stage.actions)
    return said


def test_memory_that_never_comes_back_is_warned_of_and_given_up_with_the_holders() -> None:
    """A warning at 5 s with the numbers, dirty at 60 s; the device says so until the memory is back."""
    now = shown(used=50, ann=30)
    stage = died(WHOLE, shown(used=0), shown(used=20, llm=20))
    stage.read(good(now))

    said = stuck(stage, 71.0, now)

    warning, dirty = [say for say in said if say.event in {"worker.memory_late", "worker.dirty"}]
    assert "30720 of 81920 MiB are free, its last process had 20480 MiB, 20480 MiB are used by" in str(
        warning.fields["reason"]
    )
    assert 5.0 <= float(str(warning.fields["waited_s"])) < 6.0
    assert (dirty.event, dirty.fields["waited_s"]) == ("worker.dirty", 60.0)
    assert "held by pid 99 (python, ann): 30720 MiB" in str(dirty.fields["reason"])
    assert stage.state("llm/0") == "pending"
    (shown_device,) = make_devices(stage.fleet, VIEW)["devices"]
    assert shown_device["health"] == "dirty"
    assert "memory of a dead process of llm/0 is not back" in shown_device["reason"]

    stuck(stage, 200.0, shown(used=0))

    assert make_devices(stage.fleet, VIEW)["devices"][0]["health"] == "ok"
    assert stage.state("llm/0") == "starting"


def test_a_worker_that_may_go_elsewhere_goes() -> None:
    """It is not bound to the device: after a minute it starts on another one."""
    now, other = shown(used=20), shown(1, used=0)
    stage = died(WHOLE, shown(used=0), shown(used=20, llm=20), other)
    assert stage.slices()["llm/0"] == (0,)
    stage.read(good(now, other))

    stuck(stage, 71.0, now, other)

    assert (stage.state("llm/0"), stage.slices()["llm/0"]) == ("starting", (1,))
    assert [one["health"] for one in make_devices(stage.fleet, VIEW)["devices"]] == ["dirty", "ok"]


def test_a_worker_that_may_go_nowhere_else_waits_where_it_was() -> None:
    """Memory that is only busy is no want of a GPU: it neither fails nor falls back."""
    now, other = shown(used=20), shown(1, used=0)
    spec = {"gpu": 1, "gpus": [0]}
    stage = died(spec, shown(used=0), shown(used=20, llm=20), other)
    stage.read(good(now, other))

    stuck(stage, 75.0, now, other)

    assert stage.state("llm/0") == "pending"
    assert "GPU 0 is not free" in stage["llm/0"].reason


def test_a_silent_driver_is_waited_for_a_minute_and_then_it_starts_where_it_was() -> None:
    """Nobody else is put there, and nothing is known: that share alone is dirty."""
    stage = died(WHOLE, shown(used=0), shown(used=20, llm=20))
    stage.read(bad()).pass_time(69.0)
    assert stage.state("llm/0") == "releasing"
    assert "the driver cannot be asked: no answer within 10 s" in stage["llm/0"].reason

    stage.pass_time(71.0)

    assert (stage.state("llm/0"), stage.slices()["llm/0"]) == ("starting", (0,))
    assert "the driver cannot be asked" in make_devices(stage.fleet, VIEW)["devices"][0]["reason"]


def test_whoever_gets_ready_on_a_gpu_is_looked_at() -> None:
    """What the driver shows of it then is what its end is measured by."""
    stage = Stage().load(llm(PART)).read(good(shown(used=0)))

    stage.ready("llm/0")

    assert ReadInventory() in stage.actions


# ---- open files -----------------------------------------------------------------------------------------------------


def opened(*found: Device, by: str = "llm/0", hidden: int = 0, computes: bool = True) -> Reading:
    """What the driver shows, and one process that has GPU 0 open."""
    openers = (Opener(Holder(SERVE, None, "serve", "bob", by), (0,), computes),) if by else ()
    return replace(good(*(replace(one, minor=one.index) for one in found)), openers=openers, hidden=hidden)


def mute_and_dead() -> Stage:
    """A worker that has died on a GPU of which the driver tells nothing."""
    mute = device(0, free=None, total=None)
    return died(PART, mute, mute)


@pytest.mark.parametrize(
    ("by", "hidden", "expected"),
    [("llm/0", 0, None), ("", 0, Proof.FILES), ("web/0", 0, Proof.FILES), ("", 3, None)],
    ids=["still open", "closed", "another's", "some are hidden"],
)
def test_open_files_are_the_word_where_nothing_else_is(by: str, hidden: int, expected: Proof | None) -> None:
    """Of everybody, or of nobody: who cannot look at all processes cannot tell."""
    stage = mute_and_dead()

    stage.at(10.1).read(opened(device(0, free=None, total=None), by=by, hidden=hidden))

    release = stage["llm/0"].release
    assert (release.proof if release else None) == expected


def test_who_surely_computes_and_is_not_listed_makes_the_list_a_liar() -> None:
    """Though it has shown others: its silence proves nothing for this one."""
    living = shown(used=20)
    stage = Stage().load(llm(PART)).read(good(shown(used=0))).ready("llm/0")
    while stage.fleet.asked is not None:
        stage.read(opened(living))
    stage.fleet = replace(stage.fleet, has_listed=True)

    stage.at(10.0).exited("llm/0").read(opened(shown(used=20), by=""))

    assert "who has the rest is not told" in stage["llm/0"].reason
    assert stage.at(11.0).read(good(shown(used=0)))["llm/0"].release is not None


def test_openers_are_named_where_no_list_names_them() -> None:
    """Also when the driver does not answer at all."""
    stage = died(WHOLE, shown(used=0), shown(used=20, llm=20))
    stage.read(replace(bad(), openers=opened(by="").openers)).pass_time(69.0)
    stage.read(replace(bad(), openers=(Opener(Holder(ANN, None, "python", "ann"), (0,), computes=True),)))

    stage.pass_time(71.0)

    assert "opened by pid 99 (python, ann)" in make_devices(stage.fleet, VIEW)["devices"][0]["reason"]


def test_everybody_is_looked_at_only_where_that_may_tell_more() -> None:
    """At the second look, at once without a list, and for one that has just got ready."""
    with_list = died(PART, shown(used=0), shown(used=20, llm=20)).fleet

    assert [wants_openers(with_list, now) for now in (10.0, 10.5)] == [False, True]
    assert wants_openers(mute_and_dead().fleet, 10.0)
    ready = Stage().load(llm(PART)).read(good(shown(used=0))).ready("llm/0")
    assert wants_openers(ready.fleet, 0.0)
    assert not wants_openers(ready.at(1.0).read(good(shown(used=0))).fleet, 1.0)


@pytest.mark.parametrize(("free", "health"), [(35, "dirty"), (55, "ok")], ids=["still there", "back"])
def test_a_neighbour_that_was_replaced_hides_nothing_of_what_is_left(free: int, health: str) -> None:
    """Its next process takes what its last one has left, and less than it declares: the rest is not the dead's."""
    app = {"resources": {"gpu": 0.5, "gpu_memory": "40GiB"}, "port": 9000, "restart": {"delay": "0s"}}
    spec = spec_of(app=app, llm={"resources": PART, "port": 8000}, daemon={"start_parallel": 0})
    stage = Stage().load(spec).read(good(device(0, free=80 * GIB))).ready("app/0")
    for _ in range(3):
        stage.read(good(device(0, free=40 * GIB)))
    stage.ready("llm/0").read(good(device(0, free=20 * GIB)))
    stage.at(10.0).meet(StopRequested(services=("llm",)))
    stage.exited("llm/0", 0)
    stuck(stage, 75.0, device(0, free=20 * GIB))
    assert (stage.state("llm/0"), list(stage.fleet.dirty)) == ("stopped", [uuid_of(0)])

    stage.exited("app/0", 0)
    stuck(stage, 80.0, device(0, free=60 * GIB))
    stage.ready("app/0")
    stuck(stage, 200.0, device(0, free=free * GIB))

    assert [one["health"] for one in make_devices(stage.fleet, VIEW)["devices"]] == [health]
