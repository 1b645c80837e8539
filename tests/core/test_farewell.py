"""A GPU that is gone for good: told of until an operator releases it, and then nothing is remembered of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.health import Ailment
from supervisor.core.inventory import Device, Health, Reading
from supervisor.core.message import (
    DeviceEventTold,
    QuarantineRequested,
    ReadInventory,
    ReleaseRequested,
    RunCanary,
    Say,
)
from supervisor.core.snapshot import View, make_devices
from supervisor.core.spec import HealthSpec
from supervisor.core.turn import Fleet
from supervisor.core.wards import find_gpu, recalled
from supervisor.errors import CannotError
from tests.core.builders import device, devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

ONE = {"resources": {"gpu": 1}}
FIRST = uuid_of(0)
RELEASED = ReleaseRequested((FIRST,))


def without_first(*found: Device, detail: str = "", kernel: frozenset[str] | None = None) -> Reading:
    """Of two GPUs the second alone, at the index of the first."""
    return replace(good(*found, replace(device(1), index=0)), detail=detail, kernel=kernel)


def gone(spec: dict[str, object] | None = None) -> Stage:
    """A fleet on two GPUs of which the first has had trouble and is pulled out at second 20; nobody is there."""
    stage = running(spec_of(llm={**ONE, "resources": {"gpu": 1, "gpus": [1]}, **(spec or {})}), *devices(2))
    stage.driver = None
    stage.at(10.0).meet(DeviceEventTold(FIRST, 8, 31))
    return stage.at(20.0).read(without_first())


def listed(stage: Stage) -> list[tuple[str, str]]:
    found = make_devices(stage.fleet, View(rfc3339=str))["devices"]
    return [(one["uuid"], one["health"]) for one in found]


def is_remembered(stage: Stage, uuid: str) -> bool:
    fleet = stage.fleet
    books = (fleet.missing, fleet.ailments, fleet.xids, fleet.watches, fleet.uncorrected, fleet.ended_at, fleet.parting)
    return any(uuid in book for book in books)


def test_it_is_listed_until_it_is_released_and_looked_for_once_more() -> None:
    """By a fresh prober, since NVML sees only what it was initialised with; a reading of before says nothing."""
    stage = gone()
    assert listed(stage) == [(uuid_of(1), "ok"), (FIRST, "lost")]

    stage.at(30.0).meet(RELEASED)
    assert ReadInventory(fresh=True) in stage.actions
    stage.read(without_first(), asked_at=29.0)
    assert listed(stage) == [(uuid_of(1), "ok"), (FIRST, "lost")]
    stage.at(31.0).read(without_first())

    assert listed(stage) == [(uuid_of(1), "ok")]
    assert not is_remembered(stage, FIRST)
    assert [one.fields["device"] for one in of_type(Say, stage.actions) if one.event == "device.forgotten"] == [FIRST]
    with pytest.raises(CannotError):
        find_gpu(stage.fleet, FIRST)


def test_without_that_word_it_is_waited_for() -> None:
    """Nobody is to overlook that it is gone, and one that comes back is who it was."""
    stage = gone()
    stage.pass_time(5000.0)
    stage.read(without_first())

    assert listed(stage)[1] == (FIRST, "lost")
    assert FIRST in stage.fleet.xids


def test_one_that_is_back_in_time_is_used() -> None:
    """And has to be released anew when it goes again."""
    stage = gone()
    stage.at(30.0).meet(RELEASED)

    stage.at(31.0).read(good(*devices(2)))
    assert (listed(stage), stage.fleet.parting) == ([(FIRST, "ok"), (uuid_of(1), "ok")], {})
    stage.at(40.0).read(without_first())
    stage.at(41.0).read(without_first())

    assert listed(stage)[1] == (FIRST, "lost")


def test_what_the_kernel_still_lists_is_not_gone() -> None:
    """It has fallen off the bus and is in its slot: why it is not forgotten is told, and it is as soon as it may be."""
    stage = gone()
    stage.at(30.0).meet(RELEASED)
    for at in (31.0, 32.0):
        stage.at(at).read(without_first(kernel=frozenset({device(0).pci, device(1).pci})))

    assert listed(stage)[1] == (FIRST, "lost")
    reason = stage.fleet.ailments[FIRST].reason
    assert reason.endswith("; released, it is forgotten when the kernel's driver does not list it any more")
    assert reason.count("released") == 1
    stage.at(90.0).read(without_first(kernel=frozenset({device(1).pci})))
    assert not is_remembered(stage, FIRST)


def test_where_the_kernel_tells_nothing_one_that_nvml_cannot_read_is_not_gone() -> None:
    """It is there, and has no name."""
    stage = gone()
    stage.at(30.0).meet(RELEASED)

    stage.at(31.0).read(without_first(detail="device 0: nvmlDeviceGetUUID: Unknown Error"))
    assert listed(stage)[1] == (FIRST, "lost")
    stage.at(32.0).read(without_first(detail="device 1: nvmlDeviceGetUUID: Unknown Error"))

    assert not is_remembered(stage, FIRST)


def test_who_lives_there_is_not_forgotten_with_it() -> None:
    """It goes on, and when it has ended the GPU is forgotten with the next look."""
    stage = running(spec_of(llm=ONE), *devices(2))
    stage.driver = None
    stage.at(20.0).read(without_first()).meet(RELEASED)
    stage.at(21.0).read(without_first())
    assert (stage.state("llm/0"), listed(stage)[1]) == ("ready", (FIRST, "lost"))

    stage.at(22.0).exited("llm/0", 1)
    stage.at(30.0).read(without_first())
    assert stage.slices()["llm/0"] == (1,)
    stage.at(40.0).read(without_first())

    assert not is_remembered(stage, FIRST)


def test_one_that_an_operator_holds_is_released_and_forgotten_at_once() -> None:
    """It was taken out of use, then out of the machine."""
    stage = running(spec_of(llm={**ONE, "resources": {"gpu": 1, "gpus": [1]}}), *devices(2))
    stage.driver = None
    stage.at(10.0).meet(QuarantineRequested((FIRST,)))
    stage.at(20.0).read(without_first())
    assert listed(stage)[1] == (FIRST, "lost")

    stage.at(30.0).meet(RELEASED)
    stage.at(31.0).read(without_first())

    assert not is_remembered(stage, FIRST)


def test_what_is_not_there_after_a_start_of_the_machine_is_forgotten_by_itself() -> None:
    """Its quarantine is over with the boot; there is nothing to look at, and no canary runs on nothing for ever."""
    known = {"GPU-old": Ailment(Health.QUARANTINED, 50.0, "XID 79", strikes=2, until=900.0)}
    stage = Stage()
    stage.fleet = Fleet(ailments=recalled(known, now=0.0, is_same_boot=False))
    canary = HealthSpec(canary=("./burn",))
    stage.load(spec_of(llm=ONE).model_copy(update={"health": canary}))
    stage.pass_time(1.0)
    assert of_type(RunCanary, tuple(stage.history))

    stage.read(good(*devices(2)))

    assert not is_remembered(stage, "GPU-old")
    assert listed(stage) == [(FIRST, "ok"), (uuid_of(1), "ok")]


def test_what_an_operator_holds_is_remembered_over_a_start_of_the_machine() -> None:
    """Whether it is there or not: it may be back with the next one."""
    known = {"GPU-old": Ailment(Health.QUARANTINED, 50.0, "by the operator", is_held=True)}
    stage = Stage()
    stage.fleet = Fleet(ailments=recalled(known, now=0.0, is_same_boot=False))
    stage.load(spec_of(llm=ONE)).read(good(*devices(2))).pass_time(100.0)

    assert "GPU-old" in stage.fleet.ailments
