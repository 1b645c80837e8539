"""A device's health as people and programs see it: since when, until when, and what workers and daemons add to it."""

from __future__ import annotations

from typing import Any

from supervisor.core.message import DeviceEventTold, DevicesClaimed, TreeExamined
from supervisor.core.snapshot import View, make_devices
from tests.core.builders import device, devices, good, spec_of, uuid_of
from tests.core.stage import Stage, running

ONE = {"resources": {"gpu": 1}}


def shown(stage: Stage) -> list[tuple[Any, ...]]:
    """Index, health, since, until of each device."""
    found = make_devices(stage.fleet, View(rfc3339=lambda at: f"{at:g} s"))["devices"]
    return [(one["index"], one["health"], one["health_since"], one["health_until"]) for one in found]


def test_of_a_sick_one_it_is_told_since_when_and_until_when() -> None:
    """Of one that is well neither."""
    stage = running(spec_of(llm=ONE), *devices(2))
    stage.at(10.0).meet(DeviceEventTold(uuid_of(0), 8, 79))
    assert shown(stage) == [(0, "draining", "10 s", None), (1, "ok", None, None)]

    stage.at(12.0).exited("llm/0", 0)

    assert shown(stage) == [(0, "quarantined", "12 s", "312 s"), (1, "ok", None, None)]


def test_one_that_is_gone_is_shown_without_the_index_that_is_somebody_elses() -> None:
    """With its reason, until it is back."""
    stage = running(spec_of(llm=ONE), *devices(2))
    stage.at(10.0).read(good(device(1)))

    assert shown(stage) == [(1, "ok", None, None), (None, "lost", "10 s", None)]
    stage.at(20.0).read(good(*devices(2)))
    assert shown(stage) == [(0, "ok", None, None), (1, "ok", None, None)]


def test_a_process_that_does_not_die_makes_its_device_stuck() -> None:
    """From when a person should know; and where it hangs is the reason."""
    stage = running(spec_of(llm={**ONE, "stop": {"timeout": "1s"}}), *devices(1))
    stage.at(10.0).load(spec_of()).pass_time(20.0)
    assert shown(stage)[0][1] == "ok"

    stage.pass_time(22.0)
    stage.meet(TreeExamined(stage["llm/0"].id, stage["llm/0"].incarnation, "process 7 hangs in nvidia_ioctl"))

    found = make_devices(stage.fleet, View(rfc3339=str))["devices"][0]
    assert (found["health"], found["health_since"]) == ("stuck", "11.0")
    assert "llm/0 still not gone after" in found["reason"]
    assert "process 7 hangs in nvidia_ioctl" in found["reason"]


def test_a_fault_is_told_before_what_another_daemon_has() -> None:
    """Of one that is well the other daemon is."""
    stage = Stage().load(spec_of()).read(good(*devices(2)))
    stage.meet(DevicesClaimed(held={uuid_of(0): "held by pid 7", uuid_of(1): "held by pid 7"}))
    stage.at(5.0).meet(DeviceEventTold(uuid_of(1), 8, 79))

    assert [one[1] for one in shown(stage)] == ["held", "quarantined"]
