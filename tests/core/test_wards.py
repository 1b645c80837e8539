"""Sick devices in a fleet: nobody starts there, who is there leaves, and nobody elsewhere notices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from supervisor.core import xids
from supervisor.core.deaths import column_of, suspicious
from supervisor.core.explain import make_explanation
from supervisor.core.gpus import MISMATCH
from supervisor.core.health import Ailment
from supervisor.core.inventory import Device, GpuState, Health, Inventory, Reading, Vitals
from supervisor.core.message import (
    CanaryFinished,
    DeviceEventTold,
    Exited,
    InventoryRead,
    KillTree,
    QuarantineRequested,
    ReadInventory,
    ReleaseRequested,
    RunCanary,
    Say,
    Signal,
)
from supervisor.core.snapshot import View, make_devices
from supervisor.core.spec import HealthSpec, Spec, parse_spec
from supervisor.core.turn import Death, Fleet
from supervisor.core.wards import find_gpu, recalled
from supervisor.core.xids import CLASSES, TABLE
from supervisor.errors import CannotError
from tests.core.builders import bad, device, devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

ONE = {"resources": {"gpu": 1}}
XID = 0x8


def file(health: Mapping[str, object] | None = None, **services: Mapping[str, object]) -> Spec:
    document = {"services": {name: {"command": "serve", **keys} for name, keys in services.items()}}
    return parse_spec({**document, "health": dict(health or {})}, base_dir="/srv")


def ill(index: int, **vitals: int | bool) -> Device:
    return replace(device(index), vitals=Vitals(**vitals))  # type: ignore[arg-type]


def of_two(*found: Device) -> Reading:
    """Two GPUs of which some are as given."""
    known = {one.uuid: one for one in found}
    return good(*(known.get(one.uuid, one) for one in devices(2)))


def health(stage: Stage) -> dict[int, str]:
    """Index -> health, as whoever starts sees it."""
    assert stage.fleet.inventory is not None
    return {one.index: str(one.health) for one in stage.fleet.inventory.devices}


def xid(stage: Stage, number: int, index: int = 0) -> Stage:
    stage.meet(DeviceEventTold(uuid_of(index), XID, number))
    return stage


@pytest.mark.parametrize(
    ("vitals", "expected"),
    [
        ({"recovery": 0}, "ok"),
        *(({"recovery": action}, "quarantined") for action in range(1, 9)),
        ({"remap_failed": True}, "quarantined"),
        ({"remap_pending": True}, "suspect"),
        ({"pages_pending": True}, "suspect"),
        ({"uncorrected": 5}, "ok"),
    ],
)
def test_what_the_driver_tells_of_an_empty_device(vitals: dict[str, int], expected: str) -> None:
    """Recovery action, row remapper, retired pages; that there were ECC errors once says nothing."""
    stage = Stage().load(spec_of(llm=ONE)).read(of_two(ill(1, **vitals)))

    assert health(stage) == {0: "ok", 1: expected}


def test_ecc_errors_that_become_more_make_a_device_suspect() -> None:
    """Nobody is moved for it; who starts goes elsewhere where that is possible."""
    stage = running(spec_of(a=ONE, b=ONE), *devices(2))
    stage.at(10.0).read(of_two(ill(0, uncorrected=3)))
    stage.at(20.0).read(of_two(ill(0, uncorrected=4)))

    assert health(stage) == {0: "suspect", 1: "ok"}
    assert set(stage.states().values()) == {"ready"}


@pytest.mark.parametrize("code", [15, 16])
def test_a_device_that_is_lost_is_left(code: int) -> None:
    """GPU_IS_LOST and RESET_REQUIRED: NVML's words for a card that is broken."""
    stage = running(spec_of(llm=ONE), *devices(2))
    lost = replace(ill(0, fault=code), health=Health.LOST, reason="GPU is lost")

    stage.at(10.0).read(of_two(lost))

    assert health(stage) == {0: "lost", 1: "ok"}
    assert stage["llm/0"].state == "stopping"


def test_an_unknown_error_of_one_moment_moves_nobody() -> None:
    """999 is anything: nobody starts there, and whoever is there goes on."""
    stage = running(spec_of(llm=ONE), *devices(2))
    odd = replace(ill(0, fault=999), health=Health.LOST, reason="Unknown Error")

    stage.at(10.0).read(of_two(odd))
    assert (health(stage)[0], stage.state("llm/0")) == ("lost", "ready")
    stage.at(15.0).read(of_two())
    assert (health(stage)[0], stage.state("llm/0")) == ("ok", "ready")


def test_workers_of_a_sick_device_move_to_a_free_one_uncharged() -> None:
    """A grace, another device, no failure on their record; nobody else notices."""
    stage = running(spec_of(llm=ONE, web=ONE), *devices(3))
    before = stage["web/0"]

    xid(stage.at(10.0), 119)

    assert stage.state("llm/0") == "stopping"
    assert health(stage)[0] == "draining"
    assert "XID 119 (GSP does not answer): reset the GPU" in stage["llm/0"].reason
    stage.exited("llm/0", 0)
    assert stage.slices()["llm/0"] == (2,)
    last = stage["llm/0"].last_exit
    assert last is not None
    assert (str(last.cause), stage["llm/0"].history.failures) == ("device", 0)
    assert health(stage)[0] == "quarantined"
    assert stage["web/0"] == before


def test_without_another_device_they_wait_and_say_so() -> None:
    """Nothing starts on the sick one meanwhile."""
    stage = running(spec_of(llm=ONE), *devices(1))
    xid(stage.at(10.0), 79).exited("llm/0", 0)

    assert stage.state("llm/0") == "pending"
    assert stage["llm/0"].reason == "needs 1 GPU, 0 of 1 are free; GPU 0 quarantined"
    stage.pass_time(309.0)
    assert stage.state("llm/0") == "pending"
    stage.pass_time(400.0)
    assert (health(stage)[0], ReadInventory(fresh=True) in stage.history) == ("probing", True)
    stage.read(good(*devices(1)))
    assert (health(stage)[0], stage.state("llm/0")) == ("ok", "starting")


def test_one_that_is_well_again_is_not_told_with_what_it_had() -> None:
    """A line that says it is in order, and then to reboot the machine, would be believed in neither."""
    stage = running(spec_of(llm=ONE), *devices(2))
    xid(stage.at(10.0), 79).exited("llm/0", 0)

    stage.pass_time(310.0)
    stage.at(311.0).read(good(*devices(2)))

    said = {one.event: one.fields for one in of_type(Say, stage.history)}
    assert said["device.ok"]["was"] == "XID 79 (GPU has fallen off the bus): reboot the machine"
    assert "reason" not in said["device.ok"]
    assert said["device.quarantined"]["reason"] == said["device.ok"]["was"]


@pytest.mark.parametrize(("policy", "state"), [("drain", "stopping"), ("kill", "killing"), ("ignore", "ready")])
def test_what_becomes_of_them_is_the_files_word(policy: str, state: str) -> None:
    """`health.on_fault`; whatever it is, nobody new starts there."""
    stage = running(file({"on_fault": policy}, llm=ONE), *devices(2))

    xid(stage.at(10.0), 79)

    assert stage.state("llm/0") == state
    assert [type(one) for one in stage.actions if isinstance(one, Signal | KillTree)] == {
        "drain": [Signal],
        "kill": [KillTree],
        "ignore": [],
    }[policy]
    if policy == "ignore":
        assert health(stage)[0] == "draining"
        stage.exited("llm/0", 1)
        assert stage.slices()["llm/0"] == (1,)
        assert stage["llm/0"].history.failures == 0


def test_a_link_that_is_down_concerns_who_has_several_devices() -> None:
    """One with a single GPU has no use for it, and stays; nobody new comes."""
    stage = running(spec_of(pair={"resources": {"gpu": 2}}, solo=ONE), *devices(4))

    xid(xid(stage.at(10.0), 74, 0), 74, 2)

    assert stage.states() == {"pair/0": "stopping", "solo/0": "ready"}
    assert (health(stage)[0], health(stage)[2]) == ("draining", "draining")


@pytest.mark.parametrize(
    ("on_fault", "number", "why"),
    [("ignore", 79, "health.on_fault is ignore"), ("drain", 74, "has no use for links")],
)
def test_who_stays_on_a_sick_device_is_named_and_is_told(on_fault: str, number: int, why: str) -> None:
    """It is draining until they leave, which may be never: who keeps it so has to know."""
    stage = running(file({"on_fault": on_fault}, llm=ONE), *devices(2))
    xid(stage.at(10.0), number)

    shown = make_devices(stage.fleet, View(rfc3339=str))["devices"][0]
    story = make_explanation(stage.fleet, View(rfc3339=str), stage["llm/0"].id)
    fault = f"{xids.words(number)}: {TABLE[number].advice}"
    assert (shown["health"], stage.state("llm/0")) == ("draining", "ready")
    assert shown["reason"] == f"{fault}; llm/0 stays ({why}), and it is drained when it leaves"
    assert story["reason"] == f"GPU 0 is draining: {fault}"
    assert story["verdicts"][0]["verdict"] == f"its own, draining: {fault}"

    stage.exited("llm/0", 1).ready("llm/0")
    assert make_devices(stage.fleet, View(rfc3339=str))["devices"][0]["reason"] == fault
    assert make_explanation(stage.fleet, View(rfc3339=str), stage["llm/0"].id)["reason"] == ""


def test_who_is_leaving_a_sick_device_does_not_stay() -> None:
    """Of several each is named; on a part of a GPU it is the GPU that is sick."""
    half = {"resources": {"gpu": 0.5}}
    stage = running(file({"on_fault": "drain"}, a=half, b=half, c=ONE), *devices(2))
    xid(stage.at(10.0), 74)
    reason = make_devices(stage.fleet, View(rfc3339=str))["devices"][0]["reason"]
    assert "; a/0, b/0 stay (have no use for links), and it is drained when they leave" in reason

    xid(stage, 79)

    assert "stay" not in make_devices(stage.fleet, View(rfc3339=str))["devices"][0]["reason"]


@pytest.mark.parametrize("number", sorted({*TABLE, 999, 500}))
def test_every_xid_does_what_its_class_says(number: int) -> None:
    """To the device and to the worker on it."""
    stage = running(spec_of(llm=ONE), *devices(2))
    kind = TABLE[number].kind if number in TABLE else "unknown"

    xid(stage.at(100.0), number)

    moved = kind == "hardware"
    assert stage.state("llm/0") == ("stopping" if moved else "ready")
    assert health(stage)[0] == ("draining" if moved or kind == "link" else "ok")
    said = [one for one in of_type(Say, stage.history) if one.event == "device.xid"]
    assert [(one.fields["xid"], one.fields["class"]) for one in said] == [(number, kind)]
    assert said[0].fields["workers"] == ["llm/0"]
    assert said[0].is_warning == (kind != "information")


def test_the_file_may_say_otherwise() -> None:
    """Any class for any number."""
    for kind in CLASSES:
        spec = spec_of(llm=ONE).model_copy(update={"health": HealthSpec(xids=((31, kind),))})
        stage = running(spec, *devices(2))
        xid(stage.at(100.0), 31)
        assert (stage.state("llm/0") == "stopping") == (kind == "hardware")
        assert any(one.event == "device.xid" for one in of_type(Say, stage.history)) == (kind != "ignore")


def test_who_leaves_a_sick_device_for_another_launch_starts_with_clean_counts() -> None:
    """What the file does not say any more is no record of what it says now."""
    stage = Stage().load(spec_of(llm=ONE)).read(good(*devices(2)))
    stage.driver = good(*devices(2))
    stage.spawned("llm/0").exited("llm/0").read(good(*devices(2))).pass_time(10.0)
    assert (stage.state("llm/0"), stage["llm/0"].history.failures) == ("starting", 1)
    stage.spawned("llm/0")
    xid(stage, 119)
    stage.reload(spec_of(llm={**ONE, "env": {"A": "1"}}), good(*devices(2)))

    stage.exited("llm/0", 0).read(good(*devices(2)))

    assert (stage.state("llm/0"), stage["llm/0"].history.failures) == ("starting", 0)


def test_a_crash_after_an_error_of_its_own_says_so_and_is_charged() -> None:
    """An application's XID is in the record of the crash."""
    stage = running(spec_of(llm=ONE, web=ONE), *devices(2))

    xid(stage.at(10.0), 31).at(11.0).exited("llm/0", 1)

    last = stage["llm/0"].last_exit
    assert last is not None
    assert (str(last.cause), last.detail) == ("exit", "XID 31 (memory page fault) on GPU 0")
    assert stage["llm/0"].history.failures == 1


def test_of_several_on_a_device_nobody_is_blamed() -> None:
    """Nor is one that ends long after it."""
    half = {"resources": {"gpu": 0.5}}
    stage = running(spec_of(a=half, b=half, c=ONE), *devices(2))
    xid(stage.at(10.0), 31).at(11.0).exited("a/0", 1)
    xid(stage, 31, 1).at(99.0).exited("c/0", 1)

    for worker in ("a/0", "c/0"):
        last = stage[worker].last_exit
        assert last is not None
        assert last.detail == ""


def test_a_contained_memory_error_is_not_charged() -> None:
    """The process that it hit ends and comes back, there too."""
    stage = running(spec_of(llm=ONE), *devices(1))

    xid(stage.at(10.0), 94).at(11.0).exited("llm/0", 1)

    last = stage["llm/0"].last_exit
    assert last is not None
    assert (str(last.cause), last.detail) == ("device", "XID 94 (contained memory error) on GPU 0")
    assert (stage["llm/0"].history.failures, health(stage)[0]) == (0, "ok")


def test_who_the_kernel_killed_for_memory_did_not_die_of_a_sick_device() -> None:
    """Want of the host's memory is its own doing, and no word against a device, whatever else is known of that."""
    stage = running(file({"on_fault": "ignore"}, llm=ONE, web=ONE), *devices(2))
    xid(xid(stage.at(10.0), 119, 0), 119, 1).at(11.0)

    ends = []
    for worker, starved in (("llm/0", True), ("web/0", False)):
        one = stage[worker]
        stage.meet(Exited(one.id, one.incarnation, None, 9, alone=True, out_of_memory=starved))
        last = stage[worker].last_exit
        assert last is not None
        ends.append((str(last.cause), last.detail.partition(" is ")[0]))

    assert ends == [("host_oom", "out of memory"), ("device", "GPU 1")]
    assert [one.service for one in stage.fleet.deaths] == ["web"]


@pytest.mark.parametrize("number", [43, 45])
def test_the_echo_of_a_kill_of_ours_is_no_news(number: int) -> None:
    """Only alone such a number means something."""
    stage = running(spec_of(llm=ONE), *devices(2))
    stage.at(10.0).load(spec_of())
    assert stage.state("llm/0") == "stopping"
    xid(stage.at(11.0), number)
    stage.at(12.0).exited("llm/0", None, signal=9)
    xid(stage.at(14.0), number)
    assert not [one for one in of_type(Say, stage.history) if one.event == "device.xid"]

    xid(stage.at(30.0), number)

    assert [one.fields["xid"] for one in of_type(Say, stage.actions) if one.event == "device.xid"] == [number]


def test_errors_of_several_services_on_one_device_are_not_their_own_any_more() -> None:
    """Three within ten minutes."""
    stage = running(spec_of(a=ONE), *devices(1))
    xid(xid(stage.at(10.0), 31), 13)
    assert health(stage)[0] == "ok"
    stage.load(spec_of(b=ONE)).exited("a/0", 0).ready("b/0")

    xid(stage.at(100.0), 31)

    assert health(stage)[0] == "suspect"


def test_other_events_of_the_driver_make_it_look() -> None:
    """What they mean is what the driver then tells."""
    stage = running(spec_of(llm=ONE), *devices(1))
    stage.driver = None

    stage.at(10.0).meet(DeviceEventTold(uuid_of(0), 0x8000))

    assert ReadInventory() in stage.actions


# ---- quarantine -----------------------------------------------------------------------------------------------------


def test_a_canary_decides_where_there_is_one() -> None:
    """The driver's word alone does not."""
    stage = running(file({"canary": ["./burn", "--fast"], "canary_timeout": "5s"}, llm=ONE), *devices(1))
    xid(stage.at(10.0), 79).exited("llm/0", 0)

    stage.pass_time(310.0)
    assert health(stage)[0] == "probing"
    assert RunCanary(uuid_of(0), ("./burn", "--fast"), 5.0) in stage.history
    stage.at(311.0).read(good(*devices(1)))
    assert health(stage)[0] == "probing"
    stage.at(312.0).meet(CanaryFinished(uuid_of(0), "exited with 1"))
    assert health(stage)[0] == "quarantined"
    assert stage.fleet.ailments[uuid_of(0)].until == 912.0

    stage.pass_time(912.0)
    stage.at(913.0).read(good(*devices(1))).meet(CanaryFinished(uuid_of(0)))

    assert (health(stage)[0], stage.state("llm/0")) == ("ok", "starting")


def test_an_operator_takes_a_device_and_gives_it_back() -> None:
    """Its workers move as for a fault; only the operator's word ends it."""
    stage = running(spec_of(llm=ONE), *devices(2))
    stage.at(10.0).meet(QuarantineRequested((uuid_of(0),), reason="RMA 4711"))
    stage.exited("llm/0", 0)
    assert stage.fleet.ailments[uuid_of(0)].reason == "by the operator: RMA 4711"
    assert (stage.slices()["llm/0"], health(stage)[0]) == ((1,), "quarantined")
    stage.ready("llm/0").pass_time(90_000.0)
    assert health(stage)[0] == "quarantined"

    stage.meet(ReleaseRequested((uuid_of(0),)))
    stage.read(good(*devices(2)))

    assert health(stage)[0] == "ok"
    assert stage.slices()["llm/0"] == (1,)


def test_a_device_to_be_reset_is_not_touched_and_not_forgotten() -> None:
    """The driver is asked for the others; the plan knows it as it was."""
    stage = running(file({"on_fault": "ignore"}, llm=ONE), *devices(2))
    stage.at(10.0).meet(QuarantineRequested((uuid_of(0),), for_reset=True))
    assert stage.state("llm/0") == "stopping"
    assert stage.fleet.spared == {uuid_of(0)}

    stage.exited("llm/0", 0).read(good(device(1)))
    assert health(stage) == {0: "quarantined", 1: "ok"}
    stage.meet(ReleaseRequested((uuid_of(0),)))

    assert stage.fleet.spared == frozenset()
    assert ReadInventory(fresh=True) in stage.history


def test_a_device_that_is_given_up_stays_so_through_lives_and_boots() -> None:
    """Until it is released by hand; from then on nothing of that counts."""
    stage = running(file({"max_strikes": 2, "canary": ["./burn"]}, llm=ONE), *devices(2))
    xid(stage.at(10.0), 79).exited("llm/0", 0).pass_time(310.0)
    stage.at(311.0).meet(CanaryFinished(uuid_of(0), "burn exited with 1"))
    (ailment,) = stage.fleet.ailments.values()
    shown = make_devices(stage.fleet, View(rfc3339=str))["devices"][0]
    assert (shown["health"], shown["health_until"], shown["strikes"]) == ("quarantined", None, 2)
    assert "until `devices release`" in shown["reason"]

    for is_same_boot in (True, False):
        kept = recalled({"a": ailment}, now=5.0, is_same_boot=is_same_boot)["a"]
        assert (kept.health, kept.until, kept.is_held) == (Health.QUARANTINED, None, True)
    stage.pass_time(90_000.0)
    assert health(stage)[0] == "quarantined"
    stage.meet(ReleaseRequested((uuid_of(0),)))
    stage.meet(CanaryFinished(uuid_of(0)))

    assert health(stage)[0] == "ok"
    assert uuid_of(0) not in stage.fleet.ailments


def test_what_an_earlier_life_knew_holds_within_one_boot() -> None:
    """A start of the machine mends a lot: then each is looked at at once."""
    sick = Ailment(Health.QUARANTINED, 50.0, "XID 79", strikes=2, until=900.0)
    held = Ailment(Health.QUARANTINED, 50.0, "by the operator", is_held=True)
    known = {"a": sick, "b": held, "c": Ailment(Health.SUSPECT, 50.0, "ECC", until=100.0)}

    assert recalled(known, now=60.0, is_same_boot=True) == known
    anew = recalled(known, now=5.0, is_same_boot=False)

    assert {uuid: (str(one.health), one.until) for uuid, one in anew.items()} == {
        "a": ("quarantined", 5.0),
        "b": ("quarantined", None),
    }


def test_a_fleet_that_recalls_starts_nobody_there() -> None:
    """From its first reading on."""
    stage = Stage()
    sick = Ailment(Health.QUARANTINED, 0.0, "XID 79", strikes=1, until=200.0)
    stage.fleet = Fleet(ailments={uuid_of(0): sick})
    stage.load(spec_of(llm=ONE)).driver = of_two()
    stage.read(of_two())

    assert stage.slices()["llm/0"] == (1,)


# ---- devices come and go --------------------------------------------------------------------------------------------


def test_a_device_that_vanishes_is_lost_and_comes_back_under_another_number() -> None:
    """Its worker goes on; identity is the UUID."""
    stage = running(spec_of(llm={**ONE, "workers": 2}), *devices(2))
    stage.at(10.0).read(good(replace(device(1), index=0)))
    assert str(stage.fleet.ailments[uuid_of(0)].health) == "lost"
    assert set(stage.states().values()) == {"ready"}

    stage.at(20.0).read(good(replace(device(1), index=0), replace(device(0), index=1)))

    assert health(stage) == {0: "ok", 1: "ok"}
    assert uuid_of(0) not in stage.fleet.ailments


def test_one_bad_device_never_stops_the_rest() -> None:
    """It cannot even be named; the reading of the others counts."""
    stage = running(spec_of(llm={**ONE, "workers": 2}), *devices(3))
    detail = "device 0: nvmlDeviceGetHandleByIndex: Unknown Error"
    stage.at(10.0).meet(InventoryRead(replace(good(device(1), device(2)), detail=detail), 10.0))

    assert stage.fleet.ailments[uuid_of(0)].reason == "nvmlDeviceGetHandleByIndex: Unknown Error"
    stage.exited("llm/1", 1).pass_time(15.0)
    assert stage.state("llm/1") in {"starting", "pending"}
    assert isinstance(stage.fleet.inventory, Inventory)


@pytest.mark.parametrize("token", ["1", uuid_of(1), "GPU-1", "0000:11:00.0", "11:00.0"])
def test_an_operator_names_a_gpu_as_they_know_it(token: str) -> None:
    """Index, UUID, its start, PCI id."""
    stage = running(spec_of(llm=ONE), *devices(2))

    assert find_gpu(stage.fleet, token).uuid == uuid_of(1)


@pytest.mark.parametrize("token", ["7", "GPU-", "", "x", "GPU-9"])
def test_a_name_that_means_none_or_several_is_refused(token: str) -> None:
    """With what to do about it."""
    stage = running(spec_of(llm=ONE), *devices(2))

    with pytest.raises(CannotError) as refused:
        find_gpu(stage.fleet, token)
    assert (refused.value.exit_code, "devices" in refused.value.hint) == (2, True)


def test_a_library_that_does_not_fit_holds_every_start_and_ends_nobody() -> None:
    """New CUDA processes fail, again and again; those that run have their own library mapped."""
    stage = running(spec_of(llm={**ONE, "workers": 2}), *devices(2))
    stage.at(10.0).read(bad(GpuState.MISMATCH, "Driver/library version mismatch")).exited("llm/1", 1)

    stage.pass_time(200.0)
    assert stage.states() == {"llm/0": "ready", "llm/1": "pending"}
    assert stage["llm/1"].reason == MISMATCH
    stage.read(good(*devices(2)))

    assert stage.state("llm/1") == "starting"


# ---- the failure matrix ---------------------------------------------------------------------------------------------


def test_several_services_that_die_on_one_device_make_it_suspect() -> None:
    """And one that dies everywhere speaks against itself alone."""
    a, b = frozenset({"A"}), frozenset({"B"})
    three = (Death("x", a, 1.0), Death("y", a, 2.0), Death("x", a, 3.0))
    assert suspicious(three, "A") == ("x", "y")
    assert suspicious(three[:2], "A") == ()
    assert suspicious((*three, Death("x", b, 4.0)), "A") == ()
    assert suspicious(tuple(Death("x", a, float(at)) for at in range(9)), "A") == ()
    assert column_of((*three, Death("x", b, 4.0)), "A") == {"x": 2, "y": 1}
    assert column_of((*three, Death("x", b, 999.0)), "A") == {}


def test_deaths_are_counted_where_they_happen() -> None:
    """Those of processes that ended badly by themselves."""
    half = {"resources": {"gpu": 0.5}, "restart": {"delay": "1s"}}
    stage = running(spec_of(a=half, b=half, c=ONE), *devices(3))
    stage.at(10.0).exited("a/0", 1).exited("b/0", None, signal=11)
    assert health(stage)[0] == "ok"

    stage.at(11.0).pass_time(13.0)
    stage.exited("a/0", 1) if stage.state("a/0") == "starting" else None

    assert len(stage.fleet.deaths) == 3
    explained = make_explanation(stage.fleet, View(rfc3339=str), stage["c/0"].id)["verdicts"]
    assert [one["deaths"] for one in explained] == [{"a": 2, "b": 1}, {}, {}]
    assert explained[0]["verdict"].endswith("; died there lately: a 2 times, b once")
    assert health(stage)[0] == "suspect"


def test_errors_of_links_say_what_they_are() -> None:
    """A number alone sends a person to a catalogue."""
    silent = [number for number, row in TABLE.items() if row.kind == "link" and not row.meaning]

    assert silent == [173]
