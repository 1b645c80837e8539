"""Devices are claimed machine-wide before anybody starts on them, and let go when nobody is placed there."""

from __future__ import annotations

from supervisor.core.message import Claim, DevicesClaimed, DevicesFreed, LetGo
from supervisor.core.snapshot import View, make_devices
from tests.core.builders import devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

ONE = {"resources": {"gpu": 1}}
RIVAL = "held by another daemon (pid 7, user ann)"


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
