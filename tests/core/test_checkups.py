"""What is seen of devices over minutes, and machines whose GPUs have yet to join their NVSwitches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.core.checkups import APART_S, LASTING, NOBODYS_BYTES, UNWATCHED, Watch, throttles, watch
from supervisor.core.inventory import Checkup, Device, Health, Holder, Vitals
from supervisor.core.message import InventoryRead, ReleaseRequested, Say
from supervisor.core.snapshot import View, make_devices
from tests.core.builders import device, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

ONE = {"resources": {"gpu": 1}}
PAIR = {"resources": {"gpu": 2}}
MINUTE = 60.0
IDLE = Checkup(throttle=0, repair_pending=False, busy_percent=0, used_bytes=0)
HAUNTED = replace(IDLE, busy_percent=100)
HOT = replace(IDLE, throttle=0x48)


def found(index: int, checkup: Checkup | None = IDLE, /, **vitals: Any) -> Device:
    return replace(device(index), checkup=checkup, holders=(), vitals=Vitals(**vitals))


def links(**ends: int) -> Checkup:
    """Active links to devices by their index, and to switches."""
    told = ((name, count) if name != "switch" else ("", count) for name, count in ends.items())
    return replace(IDLE, nvlinks=tuple((uuid_of(int(name[1:])) if name else "", count) for name, count in told))


def minutes(stage: Stage, *readings: tuple[Device, ...]) -> Stage:
    """Readings a minute apart."""
    for one in readings:
        stage.at(stage.now + MINUTE).read(good(*one))
    return stage


def health(stage: Stage) -> list[str]:
    """Of each device, as people see it."""
    shown = make_devices(stage.fleet, View(rfc3339=str))["devices"]
    return [one["health"] for one in sorted(shown, key=lambda one: str(one["uuid"]))]


def after(*checkups: Checkup | None, apart_s: float = MINUTE, **changes: Any) -> Watch:
    """The books of a device that nobody of ours is on."""
    books = UNWATCHED
    for number, one in enumerate(checkups):
        read = replace(found(0, one), **changes)
        books = watch(books, read, number * apart_s, is_used=False, absent=())
    return books


# ---- what lasts -----------------------------------------------------------------------------------------------------


def test_what_lasts_is_counted_once_a_minute() -> None:
    """Who asks in between does not make five of one, and a reading without a checkup says nothing."""
    assert after(*[HAUNTED] * 5).haunted == LASTING
    assert after(*[HAUNTED] * 5, apart_s=1.0).haunted == 1
    assert after(HAUNTED, None, HAUNTED, apart_s=APART_S).haunted == 2
    assert after(*[HAUNTED] * 4, IDLE).haunted == 0
    assert after(*[HOT] * 4, IDLE, HOT).hot == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"checkup": replace(HAUNTED, busy_percent=94)},
        {"checkup": replace(HAUNTED, busy_percent=None)},
        {"checkup": replace(HAUNTED, used_bytes=NOBODYS_BYTES + 1)},
        {"checkup": replace(HAUNTED, used_bytes=None)},
        {"holders": None},
        {"holders": (Holder(7, 4096),)},
    ],
)
def test_only_what_is_surely_nobodys_work_haunts_a_device(changes: dict[str, Any]) -> None:
    """A figure that is not known, a list that is not told, a process, memory: each is enough to leave it alone."""
    assert after(*[HAUNTED] * 9, **changes).haunted == 0


def test_one_of_ours_does_not_haunt_its_device() -> None:
    """Whatever the driver's list says of it."""
    assert watch(UNWATCHED, found(0, HAUNTED), 0.0, is_used=True, absent=()).haunted == 0


@pytest.mark.parametrize("throttle", [0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x100, None])
def test_what_software_decides_makes_nothing_hot(throttle: int | None) -> None:
    """A power cap is an administrator's will, and idle is no illness."""
    assert after(*[replace(IDLE, throttle=throttle)] * 9).hot == 0


def test_what_slows_a_device_down_has_the_names_of_nvidia_smi() -> None:
    """Bits that slow nothing down have none."""
    assert throttles(UNWATCHED) is None
    assert throttles(Watch(throttle=0x1 | 0x10 | 0x100)) == ()
    assert throttles(Watch(throttle=0x4 | 0x40)) == ("sw_power_cap", "hw_thermal_slowdown")


def test_one_that_was_lost_begins_anew() -> None:
    """But the links that it had are those that it should have."""
    known = Watch(at=0.0, hot=9, haunted=9, throttle=0x40, nvlinks=(("", 18),), down=2)
    lost = replace(found(0, None), health=Health.LOST)

    assert watch(known, lost, 60.0, is_used=False, absent=()) == Watch(at=0.0, nvlinks=(("", 18),))


# ---- what becomes of it ---------------------------------------------------------------------------------------------


def test_a_haunted_device_is_out_of_use_until_it_is_quiet() -> None:
    """Nobody starts there; each checkup that finds it so begins its quarantine anew."""
    stage = Stage().load(spec_of()).read(good(found(0)))
    minutes(stage, *[(found(0, HAUNTED),)] * 4)
    assert health(stage) == ["ok"]
    minutes(stage, (found(0, HAUNTED),))
    assert health(stage) == ["quarantined"]
    assert "it is busy and nobody is there" in stage.fleet.ailments[uuid_of(0)].reason

    stage.load(spec_of(llm=ONE))
    assert stage["llm/0"].reason == "needs 1 GPU, 0 of 1 are free; GPU 0 quarantined"
    until = stage.fleet.ailments[uuid_of(0)].until
    minutes(stage, (found(0, HAUNTED),))
    assert (stage.fleet.ailments[uuid_of(0)].until or 0.0) > (until or 0.0)

    stage.pass_time(stage.now + 400.0).read(good(found(0, None)))
    assert health(stage) == ["quarantined"]  # What was seen last still holds.
    stage.pass_time(stage.now + 700.0).read(good(found(0, IDLE)))
    assert health(stage) == ["ok"]


def test_an_operators_word_ends_what_checkups_have_found() -> None:
    """It is counted anew from then on."""
    stage = Stage().load(spec_of()).read(good(found(0)))
    minutes(stage, *[(found(0, HAUNTED),)] * 5)
    stage.meet(ReleaseRequested((uuid_of(0),)))
    stage.read(good(found(0, HAUNTED)))

    assert health(stage) == ["ok"]


def test_a_hot_device_is_the_last_choice_and_nobody_leaves_it() -> None:
    """For as long as it is hot, and ten minutes more."""
    stage = running(spec_of(llm=ONE), *(found(index) for index in range(3)))
    minutes(stage, *[(found(0, HOT), found(1, HOT), found(2))] * 5)
    assert (health(stage), stage.state("llm/0")) == (["suspect", "suspect", "ok"], "ready")
    assert "because of heat" in stage.fleet.ailments[uuid_of(0)].reason

    stage.load(spec_of(llm=ONE, web=ONE))
    stage.ready("web/0")
    assert stage.slices()["web/0"] == (2,)
    minutes(stage, (found(0), found(1), found(2)))
    stage.pass_time(stage.now + 601.0)
    assert health(stage) == ["ok", "ok", "ok"]


def test_a_pending_repair_is_a_doubt() -> None:
    """As a row that is to be remapped."""
    stage = Stage().load(spec_of()).read(good(found(0, replace(IDLE, repair_pending=True))))

    assert health(stage) == ["suspect"]


@pytest.mark.parametrize("fault", [{"remap_pending": 1}, {"pages_pending": 1}])
def test_a_doubt_keeps_nobody_from_coming_back(fault: dict[str, Any]) -> None:
    """One that was lost answers again, one that was in quarantine has been looked at: it is suspect, not away."""
    stage = Stage().load(spec_of()).read(good(found(0)))
    lost = replace(found(0), health=Health.LOST, reason="Unknown Error")
    minutes(stage, (lost,))
    assert health(stage) == ["lost"]
    minutes(stage, (found(0, **fault),))
    assert health(stage) == ["suspect"]

    minutes(stage, (found(0, recovery=1),), (found(0, **fault),))
    assert health(stage) == ["quarantined"]
    stage.pass_time(stage.now + 400.0).read(good(found(0, **fault)))
    assert health(stage) == ["suspect"]


def test_one_that_answers_again_and_is_sick_is_not_lost_any_more() -> None:
    """It is in quarantine, and comes out of it by itself."""
    stage = Stage().load(spec_of()).read(good(found(0)))
    minutes(stage, (replace(found(0), health=Health.LOST, reason="Unknown Error"),), (found(0, recovery=1),))
    assert health(stage) == ["quarantined"]

    stage.pass_time(stage.now + 400.0).read(good(found(0)))
    assert health(stage) == ["ok"]


# ---- links ----------------------------------------------------------------------------------------------------------


def test_links_that_are_down_move_those_with_several_devices() -> None:
    """Who has one alone stays; nobody new comes; with the links it is well again."""
    well = (found(0, links(_1=4)), found(1, links(_0=4)), found(2), found(3))
    bent = (found(0, links(_1=2)), *well[1:])
    stage = running(spec_of(pair=PAIR, solo={"resources": {"gpu": 1, "gpus": [2]}}), *well)
    assert stage.slices() == {"pair/0": (0, 1), "solo/0": (2,)}

    minutes(stage, bent)

    assert stage.states() == {"pair/0": "stopping", "solo/0": "ready"}
    assert "2 of its 4 NVLinks are down" in stage["pair/0"].reason
    stage.exited("pair/0", 0)
    assert health(stage)[0] == "quarantined"
    minutes(stage, well)
    stage.pass_time(stage.now + 400.0).read(good(*well))
    assert health(stage)[0] == "ok"


def test_one_with_a_single_device_stays_where_links_are_down() -> None:
    """It has no use for them."""
    stage = running(spec_of(llm=ONE), found(0, links(_1=4)), found(1, links(_0=4)))
    minutes(stage, (found(0, links(_1=3)), found(1, links(_0=3))))

    assert stage.state("llm/0") == "ready"
    assert health(stage) == ["draining", "quarantined"]


@pytest.mark.parametrize(
    "peer",
    [
        (),
        (replace(found(1, None), health=Health.LOST, reason="GPU is lost"),),
        (found(1, None, recovery=2),),
    ],
)
def test_a_link_to_what_is_away_or_sick_is_not_its_own_fault(peer: tuple[Device, ...]) -> None:
    """A fault on one device changes nothing elsewhere; those to switches are its own."""
    stage = Stage().load(spec_of()).read(good(found(0, links(_1=4, switch=2)), found(1, links(_0=4))))
    minutes(stage, (found(0, links(switch=2)), *peer))
    assert stage.fleet.ailments.get(uuid_of(0)) is None

    minutes(stage, (found(0, links(switch=1)), *peer))
    assert "1 of its 6 NVLinks is down" in stage.fleet.ailments[uuid_of(0)].reason


def test_links_that_come_up_with_the_fabric_are_not_missed_before() -> None:
    """The driver was loaded anew: the switches are trained, and then the GPUs join them."""
    stage = Stage().load(spec_of()).read(good(found(0, links(switch=18), fabric=3)))
    minutes(stage, (found(0, links(), fabric=1),))
    assert health(stage) == ["held"]

    minutes(stage, (found(0, links(switch=18), fabric=3),))
    assert health(stage) == ["ok"]


def test_links_that_never_were_active_are_not_missed() -> None:
    """What there is to begin with is what there should be; they may take their time to come up."""
    stage = Stage().load(spec_of()).read(good(found(0, links(_1=0)), found(1)))
    minutes(stage, (found(0, links(_1=4)), found(1)), (found(0, replace(IDLE, nvlinks=None)), found(1)))
    assert health(stage) == ["ok", "ok"]

    minutes(stage, (found(0, links()), found(1)))
    assert health(stage) == ["quarantined", "ok"]
    stage.meet(ReleaseRequested((uuid_of(0),)))
    minutes(stage, (found(0, links()), found(1)), (found(0, links()), found(1)))
    assert health(stage) == ["ok", "ok"]


# ---- the NVSwitch fabric --------------------------------------------------------------------------------------------


def test_starts_wait_until_a_device_has_joined_the_fabric() -> None:
    """No crash loop at boot: nobody fails, nobody falls back to the CPU, and the reason says it."""
    stage = Stage().load(spec_of(llm={**ONE, "on_no_gpu": "cpu"}, all={"workers": "per_gpu", **ONE}))
    stage.at(1.0).read(good(*(found(index, fabric=2) for index in range(2))))

    assert (health(stage), stage.states()) == (
        ["held", "held"],
        {"all/0": "pending", "all/1": "pending", "llm/0": "pending"},
    )
    reason = "held: GPU 0: it has not joined the NVSwitch fabric (under way), without which CUDA does not start"
    assert stage["llm/0"].reason == reason
    told = [one.fields["device"] for one in of_type(Say, stage.actions) if one.event == "device.held"]
    assert told == [uuid_of(0), uuid_of(1)]

    stage.at(6.0).read(good(*(found(index, fabric=3) for index in range(2))))
    assert health(stage) == ["ok", "ok"]
    assert stage.state("llm/0") == "starting"
    assert [one.event for one in of_type(Say, stage.actions)] == ["device.ok"] * 2


def test_it_is_looked_at_again_soon_and_then_less_often() -> None:
    """5 s, and then as long as has been waited for, up to a minute."""
    stage = Stage().load(spec_of(llm=ONE)).read(good(found(0, fabric=1)))
    looks = []
    for _ in range(6):
        before, due = stage.now, stage.due()
        assert due is not None
        looks.append(due - before)
        stage.pass_time(due).read(good(found(0, fabric=1)))

    assert looks == [5.0, 5.0, 10.0, 20.0, 40.0, 60.0]


def test_who_may_choose_takes_a_device_that_has_joined() -> None:
    """Also who waits already, and who comes back."""
    stage = Stage().load(spec_of(llm=ONE)).read(good(found(0, fabric=2), found(1, fabric=2)))
    assert stage.state("llm/0") == "pending"

    stage.at(10.0).read(good(found(0, fabric=2), found(1, fabric=3)))
    stage.ready("llm/0")
    assert stage.slices()["llm/0"] == (1,)

    stage.at(20.0).read(good(found(0, fabric=3), found(1, fabric=1)))
    assert stage.state("llm/0") == "ready"
    stage.exited("llm/0", 1)
    stage.pass_time(stage.now + 5.0).read(good(found(0, fabric=3), found(1, fabric=1)))
    assert stage["llm/0"].target is not None
    assert stage["llm/0"].target.launch is not None
    assert stage["llm/0"].target.launch.slice[0].uuid == uuid_of(0)


def test_who_lives_there_goes_on() -> None:
    """Fabric Manager was restarted: what has started works."""
    stage = running(spec_of(llm=ONE), found(0, fabric=3))
    minutes(stage, (found(0, fabric=1),))

    assert (health(stage), stage.state("llm/0")) == (["held"], "ready")


def test_an_operator_may_know_better() -> None:
    """There are machines that never join and compute all the same; once it has joined the word is forgotten."""
    stage = Stage().load(spec_of(llm=ONE)).read(good(found(0, fabric=1)))
    stage.driver = good(found(0, fabric=1))
    stage.meet(ReleaseRequested((uuid_of(0),)))
    stage.read(stage.driver)
    assert (health(stage), stage.state("llm/0")) == (["ok"], "starting")

    minutes(stage, (found(0, fabric=3),), (found(0, fabric=1),))
    assert health(stage) == ["held"]


@pytest.mark.parametrize("changes", [{"is_cut": True}, {"health": Health.LOST, "reason": "GPU is lost"}])
def test_a_device_that_is_cut_up_or_lost_is_not_kept_waiting_for_it(changes: dict[str, object]) -> None:
    """MIG has no use for links, and what is lost has worse."""
    one = replace(found(0, fabric=1), **changes)  # type: ignore[arg-type]
    stage = Stage().load(spec_of()).read(good(one))

    assert stage.fleet.unready == {}


def test_one_that_could_not_join_is_suspect() -> None:
    """CUDA starts there, and reaches no other GPU."""
    stage = Stage().load(spec_of(llm=ONE)).read(good(found(0, fabric=3, fabric_fault=999), found(1)))

    assert health(stage) == ["suspect", "ok"]
    assert stage.slices()["llm/0"] == (1,)


def test_readings_that_fail_say_nothing_of_it() -> None:
    """What was known stays."""
    stage = Stage().load(spec_of(llm=ONE)).read(good(found(0, fabric=1)))
    bad = replace(good(), state="unresponsive", detail="no answer")  # type: ignore[arg-type]
    stage.meet(InventoryRead(bad, stage.now))

    assert uuid_of(0) in stage.fleet.unready
