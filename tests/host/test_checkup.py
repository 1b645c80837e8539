"""When devices are looked at more closely, and what it may cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core.inventory import Checkup, GpuState, Health, Reading
from supervisor.host.process import Processes
from tests.host.devices_helpers import ask, make
from tests.nvml.fake import FakeBox

WELL = Checkup(throttle=0, busy_percent=0, used_bytes=0)


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=2)


def checkups(reading: Reading) -> list[Checkup | None]:
    assert reading.state is GpuState.OK
    return [one.checkup for one in reading.devices]


async def test_a_checkup_is_made_now_and_then_and_by_every_new_prober(processes: Processes, box: FakeBox) -> None:
    """Readings come as often as somebody waits for memory; what counts over minutes is not asked that often."""
    devices = make(processes, box)

    assert checkups(await ask(devices)) == [WELL, WELL]
    assert checkups(await ask(devices)) == [None, None]
    assert checkups(await ask(devices, fresh=True)) == [WELL, WELL]
    await devices.close()


async def test_it_is_due_again_after_its_time(processes: Processes, box: FakeBox) -> None:
    """With the links, by where they lead."""
    first, second = box.uuids
    box.nvlink(first, second)
    box.nvlink(second, first)
    devices = make(processes, box, checkup_s=0.0)

    for _ in range(2):
        found = checkups(await ask(devices))
        assert [one.nvlinks for one in found if one is not None] == [((second, 1),), ((first, 1),)]
    await devices.close()


async def test_one_that_breaks_a_reading_does_not_break_the_next(processes: Processes, box: FakeBox) -> None:
    """A driver that dies of one of its questions has no sick device, and is asked the others."""
    devices = make(processes, box, checkup_s=0.0)
    box.crash("nvmlDeviceGetRepairStatus", 0)

    assert (await ask(devices)).state is GpuState.ERROR
    for _ in range(2):
        after = await ask(devices)
        assert (after.state, [one.health for one in after.devices]) == (GpuState.OK, [Health.OK, Health.OK])
        assert checkups(after) == [None, None]
    await devices.close()
