"""What a prober tells of each device's own health, for every answer that a driver may give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.prober_helpers import Asked
from tests.nvml.fake import FakeBox

WELL = {"recovery": 0, "remap_pending": False, "remap_failed": False, "uncorrected": 0}
CALLS = (
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetRetiredPagesPendingStatus",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetGpuFabricInfoV",
)
CHECKUP = {"throttle": 0, "busy_percent": 0, "used_bytes": 0, "nvlinks": None}
CHECKUP_CALLS = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetRepairStatus",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetNvLinkState",
)
CODES = (1, 2, 3, 4, 6, 13, 15, 16, 18, 19, 25, 27, 29, 999, 12345)


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=2)


@pytest.fixture
def prober(box: FakeBox) -> Iterator[Asked]:
    asked = Asked(box)
    yield asked
    asked.close()


def vitals(prober: Asked) -> list[object]:
    return [(one["health"], one["vitals"]) for one in prober.read()["devices"]]


def test_a_well_device_tells_all_that_its_kind_knows(box: FakeBox, prober: Asked) -> None:
    """Retired pages are for cards before Ampere, rows for those since."""
    box.change(box.uuids[1], remap_pending=-1, pages_pending=1, ecc=-1, recovery=-1)

    assert vitals(prober) == [("ok", WELL), ("ok", {"pages_pending": True})]


def test_what_is_wrong_is_told_as_it_is(box: FakeBox, prober: Asked) -> None:
    """Judging it is the core's business."""
    box.change(box.uuids[0], recovery=4, ecc=7, remap_pending=1, remap_failed=1)

    told = {"recovery": 4, "remap_pending": True, "remap_failed": True, "uncorrected": 7}
    assert vitals(prober) == [("ok", told), ("ok", WELL)]


@pytest.mark.parametrize("code", CODES)
def test_a_question_that_fails_is_left_out(box: FakeBox, prober: Asked, code: int) -> None:
    """Whatever the code: whether the device answers is seen by what it is asked anyway."""
    for call in CALLS:
        box.fail(call, 0, code)

    assert vitals(prober) == [("ok", {}), ("ok", WELL)]


@pytest.mark.parametrize("code", [15, 16, 999])
def test_a_device_that_does_not_answer_tells_its_code_and_is_asked_no_more(
    box: FakeBox, prober: Asked, code: int
) -> None:
    """Each further question may hang."""
    box.fail("nvmlDeviceGetMemoryInfo_v2", 0, code)

    assert vitals(prober) == [("lost", {"fault": code}), ("ok", WELL)]
    assert not [one for one in box.calls() if one.name in CALLS and one.device == 0]


def test_instances_have_no_vitals_of_their_own(box: FakeBox, prober: Asked) -> None:
    """They are as well as their GPU."""
    box.cut(box.uuids[0], [0, 1])

    assert vitals(prober) == [("ok", WELL), ("ok", {}), ("ok", {}), ("ok", WELL)]


# ---- the NVSwitch fabric --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fabric", "status", "told"),
    [
        (0, 0, {}),
        (1, 0, {"fabric": 1}),
        (2, 999, {"fabric": 2}),
        (3, 0, {"fabric": 3}),
        (3, 999, {"fabric": 3, "fabric_fault": 999}),
    ],
)
def test_how_far_a_device_has_joined_the_fabric(
    box: FakeBox, prober: Asked, fabric: int, status: int, told: dict[str, int]
) -> None:
    """A status counts only once it is done; a machine without switches says nothing."""
    box.change(box.uuids[0], fabric=fabric, fabric_status=status)

    assert vitals(prober) == [("ok", {**WELL, **told}), ("ok", WELL)]


def test_an_older_library_tells_it_by_the_first_form_of_the_call(box: FakeBox, prober: Asked) -> None:
    """R525 to R545."""
    box.change(box.uuids[0], fabric=2)
    box.drop_symbol("nvmlDeviceGetGpuFabricInfoV")

    assert vitals(prober) == [("ok", {**WELL, "fabric": 2}), ("ok", WELL)]


# ---- what is looked at once a minute --------------------------------------------------------------------------------


def checkups(prober: Asked, *, checkup: bool = True) -> list[object]:
    return [one.get("checkup") for one in prober.read(checkup=checkup)["devices"]]


def test_a_checkup_is_made_only_where_one_is_asked_for(box: FakeBox, prober: Asked) -> None:
    """Some of it takes many calls."""
    assert checkups(prober, checkup=False) == [None, None]
    assert not [one for one in box.calls() if one.name in CHECKUP_CALLS[:3]]
    assert checkups(prober) == [CHECKUP, CHECKUP]


def test_a_checkup_tells_what_is_going_on(box: FakeBox, prober: Asked) -> None:
    """Throttling, repairs, how busy it is, and who has memory there."""
    box.change(box.uuids[0], throttle=0x44, repair=2, gpu_percent=97, used_bytes=4 << 20, reserved_bytes=1 << 30)
    box.cut(box.uuids[1], [0])

    first, second, instance = checkups(prober)

    told = {"throttle": 0x44, "repair_pending": True, "busy_percent": 97, "used_bytes": 4 << 20, "nvlinks": None}
    assert first == told
    assert second == {"throttle": 0, "used_bytes": 0, "nvlinks": None}
    assert instance is None


@pytest.mark.parametrize("code", CODES)
def test_a_question_of_a_checkup_that_fails_is_left_out(box: FakeBox, prober: Asked, code: int) -> None:
    """And nothing else is."""
    box.nvlink(box.uuids[0], box.uuids[1])
    box.nvlink(box.uuids[1], box.uuids[0])
    for call in CHECKUP_CALLS:
        box.fail(call, 0, code)
    if code in {13, 25}:
        box.fail("nvmlDeviceGetCurrentClocksThrottleReasons", 0, code)

    first = {"used_bytes": 0, "nvlinks": None}
    assert checkups(prober) == [first, {**CHECKUP, "nvlinks": [[box.uuids[0], 1]]}]
    assert [one["health"] for one in prober.read(checkup=True)["devices"]] == ["ok", "ok"]


def test_older_drivers_have_another_name_for_throttling(box: FakeBox, prober: Asked) -> None:
    """Before R535."""
    box.change(box.uuids[0], throttle=0x8)
    box.drop_symbol("nvmlDeviceGetCurrentClocksEventReasons")

    assert checkups(prober) == [{**CHECKUP, "throttle": 0x8}, CHECKUP]


def test_links_are_counted_by_where_they_lead(box: FakeBox, prober: Asked) -> None:
    """One that is down tells nothing of that any more, and one to a GPU that we are not shown is nothing to us."""
    first, second = box.uuids
    box.nvlink(first, second, second, "switch", "hidden")
    box.nvlink(second, first, first)
    assert [one["nvlinks"] for one in checkups(prober)] == [[["", 1], [second, 2]], [[first, 2]]]  # type: ignore[index]

    box.nvlinks_down(first, 1, 2)

    assert [one["nvlinks"] for one in checkups(prober)] == [[[second, 1]], [[first, 2]]]  # type: ignore[index]


def test_a_link_that_cannot_be_told_is_not_down(box: FakeBox, prober: Asked) -> None:
    """Nor is one of which nobody says where it leads."""
    first, second = box.uuids
    box.nvlink(first, second)
    box.nvlink(second, first)
    box.fail("nvmlDeviceGetNvLinkRemotePciInfo_v2", 0, 999)

    assert [one["nvlinks"] for one in checkups(prober)] == [None, [[first, 1]]]  # type: ignore[index]
