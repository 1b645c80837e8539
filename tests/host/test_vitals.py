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
