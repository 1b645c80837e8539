"""Devices are claimed machine-wide before anybody starts on them, and let go when nobody is placed there."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.inventory import Checkup
from supervisor.core.message import (
    CanaryFinished,
    Claim,
    DeviceEventTold,
    DevicesClaimed,
    DevicesFreed,
    LetGo,
    QuarantineRequested,
    ReleaseRequested,
    RunCanary,
    ScaleRequested,
)
from supervisor.core.snapshot import View, make_devices
from supervisor.core.spec import Spec, parse_spec
from tests.core.builders import device, devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

ONE = {"resources": {"gpu": 1}}
RIVAL = "held by another daemon (pid 7, user ann)"


def with_canary() -> Spec:
    return file(health={"canary": ["./burn"]})


def file(**more: object) -> Spec:
    return parse_spec({"services": {"llm": {"command": "serve", **ONE}}, **more}, base_dir="/srv")


def shown(stage: Stage) -> tuple[str, str]:
    """Health of the first device, and why, as everybody sees it."""
    one = make_devices(stage.fleet, View(rfc3339=str))["devices"][0]
    return one["health"], one["reason"]


def test_nobody_starts_before_its_devices_are_ours() -> None:
    """The claim is asked for at once; until it is answered the worker waits."""
    stage = Stage()
    stage.left_open = {uuid_of(0)}

    stage.load(spec_of(llm=ONE)).read(good(*devices(1)))

    assert of_type(Claim, stage.actions) == [Claim((uuid_of(0),))]
    assert stage.states() == {"llm/0": "pending"}
    assert stage["llm/0"].reason == "claiming its GPUs"
    stage.at(1.0).read(good(*devices(1)))
    assert stage.states() == {"llm/0": "pending"}
    stage.meet(DevicesClaimed((uuid_of(0),)))
    assert stage.spawns() == ("llm/0",)


def test_a_worker_goes_where_no_other_daemon_is() -> None:
    """A device that another daemon has is as good as taken."""
    stage = Stage()
    stage.rivals = {uuid_of(0): RIVAL}

    stage.load(spec_of(llm=ONE)).read(good(*devices(2)))

    assert stage.slices() == {"llm/0": (1,)}


def test_who_finds_every_device_held_waits_and_says_by_whom() -> None:
    """`on_no_gpu` is asked as for any other reservation; the reason names the holder."""
    stage = Stage()
    stage.rivals = {uuid_of(0): RIVAL}

    stage.load(spec_of(llm=ONE, soft={**ONE, "on_no_gpu": "cpu"}, hard={**ONE, "on_no_gpu": "fail"}))
    stage.read(good(*devices(1)))

    assert stage.states() == {"hard/0": "failed", "llm/0": "pending", "soft/0": "starting"}
    assert stage["llm/0"].reason == f"needs 1 GPU, 0 of 1 are free; GPU 0 {RIVAL}"


def test_a_device_that_is_let_go_is_given_to_who_waits() -> None:
    """At once, without anybody reading anything again."""
    stage = Stage()
    stage.rivals = {uuid_of(0): RIVAL}
    stage.load(spec_of(llm=ONE)).read(good(*devices(1)))

    stage.rivals = {}
    stage.meet(DevicesFreed((uuid_of(0),)))

    assert stage.spawns() == ("llm/0",)


def test_a_device_is_kept_over_a_crash_and_let_go_with_its_last_worker() -> None:
    """Restarts and back-offs keep it; a reload that drops the worker lets it go when its process is gone."""
    stage = running(spec_of(llm=ONE), *devices(1))

    stage.exited("llm/0").pass_time(100.0)
    assert of_type(LetGo, stage.history) == []
    stage.reload(spec_of(web={}), good(*devices(1)))
    assert of_type(LetGo, stage.history) == []
    stage.exited("llm/0", 0)

    assert of_type(LetGo, stage.actions) == [LetGo((uuid_of(0),))]


def test_a_failed_worker_keeps_no_device_from_others() -> None:
    """What nobody is placed on is free for other daemons."""
    stage = running(spec_of(llm={**ONE, "restart": {"policy": "never"}}), *devices(1))

    stage.exited("llm/0", 1)

    assert stage.states() == {"llm/0": "failed"}
    assert of_type(LetGo, stage.actions) == [LetGo((uuid_of(0),))]


def test_a_held_device_shows_as_held() -> None:
    """With who has it."""
    stage = Stage()
    stage.rivals = {uuid_of(0): RIVAL}
    stage.load(spec_of(llm=ONE)).read(good(*devices(1)))

    shown = make_devices(stage.fleet, View(rfc3339=str))["devices"][0]

    assert (shown["health"], shown["reason"]) == ("held", RIVAL)


# ---- what is out of use ---------------------------------------------------------------------------------------------


def test_a_device_that_its_workers_have_left_is_kept_from_other_daemons() -> None:
    """For as long as it is sick; then it is let go, where nobody of ours has a use for it."""
    stage = running(spec_of(llm=ONE), *devices(2))

    stage.at(10.0).meet(DeviceEventTold(uuid_of(0), 0x8, 79))
    stage.exited("llm/0", 0).ready("llm/0")

    assert (stage.slices()["llm/0"], shown(stage)[0]) == ((1,), "quarantined")
    assert stage.fleet.claimed == {uuid_of(0), uuid_of(1)}
    stage.pass_time(310.0)
    stage.at(311.0).read(good(*devices(2)))
    assert shown(stage)[0] == "ok"
    assert of_type(LetGo, stage.history) == [LetGo((uuid_of(0),))]


def test_a_device_that_an_operator_takes_is_taken_from_everybody() -> None:
    """Be it in our pool or not, and until it is released."""
    stage = running(
        parse_spec({"services": {"llm": {"command": "serve", **ONE}}, "gpus": [0]}, base_dir="/srv"), *devices(2)
    )

    stage.at(10.0).meet(QuarantineRequested((uuid_of(1),)))
    assert stage.fleet.claimed == {uuid_of(0), uuid_of(1)}
    stage.pass_time(90_000.0)
    stage.meet(ReleaseRequested((uuid_of(1),)))
    stage.read(good(*devices(2)))

    assert of_type(LetGo, stage.history) == [LetGo((uuid_of(1),))]


def test_a_sick_device_that_we_have_no_use_for_is_left_to_others() -> None:
    """They see its faults themselves."""
    stage = running(
        parse_spec({"services": {"llm": {"command": "serve", **ONE}}, "gpus": [0]}, base_dir="/srv"), *devices(2)
    )

    stage.at(10.0).meet(DeviceEventTold(uuid_of(1), 0x8, 79))

    assert stage.fleet.ailments[uuid_of(1)].health == "quarantined"
    assert stage.fleet.claimed == {uuid_of(0)}


def test_a_sick_device_is_kept_from_others_once_an_operator_wants_workers_with_gpus() -> None:
    """Nobody has wanted any when it fell ill; those that wait for it now are not placed."""
    stage = running(spec_of(llm={**ONE, "workers": 0}, cpu={}), *devices(1))
    stage.at(10.0).meet(DeviceEventTold(uuid_of(0), 0x8, 79))
    assert stage.fleet.claimed == set()

    stage.at(20.0).meet(ScaleRequested({"llm": 1}))

    assert stage.states()["llm/0"] == "pending"
    assert stage.fleet.claimed == {uuid_of(0)}


def test_a_device_of_another_daemon_is_kept_as_soon_as_that_one_lets_go() -> None:
    """Until then it is both, and shown as both."""
    stage = Stage()
    stage.rivals = {uuid_of(0): RIVAL}
    stage.load(spec_of(llm=ONE)).read(good(*devices(2)))

    stage.at(10.0).meet(QuarantineRequested((uuid_of(0),)))
    assert shown(stage) == ("quarantined", f"by the operator; {RIVAL}")
    stage.rivals = {}
    stage.at(20.0).meet(DevicesFreed((uuid_of(0),)))

    assert shown(stage) == ("quarantined", "by the operator")
    assert uuid_of(0) in stage.fleet.claimed
    assert stage.slices() == {"llm/0": (1,)}


def test_a_canary_waits_for_another_daemon_to_let_go() -> None:
    """It would disturb those who work there, and be disturbed."""
    stage = Stage()
    stage.rivals = {uuid_of(0): RIVAL}
    stage.load(with_canary()).read(good(*devices(1)))
    stage.at(10.0).meet(DeviceEventTold(uuid_of(0), 0x8, 79))

    stage.pass_time(310.0)
    stage.at(311.0).read(good(*devices(1)))
    assert shown(stage) == ("probing", f"XID 79 (GPU has fallen off the bus): reboot the machine; {RIVAL}")
    assert of_type(RunCanary, stage.history) == []
    stage.rivals = {}
    stage.at(400.0).meet(DevicesFreed((uuid_of(0),)))
    assert of_type(RunCanary, stage.history) == [RunCanary(uuid_of(0), ("./burn",), 30.0)]
    stage.at(401.0).meet(CanaryFinished(uuid_of(0)))
    stage.at(402.0).read(good(*devices(1)))

    assert stage.spawns() == ("llm/0",)


def test_the_canary_of_an_earlier_look_decides_nothing() -> None:
    """It was begun before the device fell ill again; another one is run."""
    stage = running(with_canary(), *devices(1))
    stage.at(10.0).meet(QuarantineRequested((uuid_of(0),)))
    stage.exited("llm/0", 0)
    stage.at(20.0).meet(ReleaseRequested((uuid_of(0),)))
    stage.at(21.0).meet(QuarantineRequested((uuid_of(0),)))
    stage.at(22.0).meet(ReleaseRequested((uuid_of(0),)))
    assert len(of_type(RunCanary, stage.history)) == 1

    stage.at(23.0).meet(CanaryFinished(uuid_of(0)))

    assert shown(stage)[0] == "probing"
    assert len(of_type(RunCanary, stage.history)) == 2
    stage.at(24.0).meet(CanaryFinished(uuid_of(0)))
    assert shown(stage)[0] == "ok"


def test_a_canary_that_a_new_file_brings_is_run_for_who_waits_already() -> None:
    """Else nobody would ever say that the device is well."""
    stage = running(spec_of(llm=ONE), *devices(1))
    stage.at(10.0).meet(QuarantineRequested((uuid_of(0),)))
    stage.exited("llm/0", 0)
    stage.at(20.0).meet(ReleaseRequested((uuid_of(0),)))

    stage.load(with_canary())

    assert of_type(RunCanary, stage.history) == [RunCanary(uuid_of(0), ("./burn",), 30.0)]


def test_a_device_that_is_busy_for_another_daemon_is_not_haunted() -> None:
    """Its processes may be where the driver does not list them."""
    stage = Stage()
    stage.rivals = {uuid_of(0): RIVAL}
    stage.load(spec_of(llm=ONE))
    busy = replace(device(0), checkup=Checkup(busy_percent=100, used_bytes=0), holders=())

    for minute in range(10):
        stage.at(60.0 * minute).read(good(busy))

    assert shown(stage) == ("held", RIVAL)
