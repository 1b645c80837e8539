"""The driver's events on their own channel: told at once, by a process that is as expendable as the prober."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.inventory import GpuState, Inventory
from supervisor.core.message import DeviceEventTold, Event
from supervisor.core.turn import Fleet, Gpu
from supervisor.daemon.sentry import LOOK, Sentry
from tests.core.builders import device
from tests.host.devices_helpers import is_alive, probers, running, until
from tests.nvml.fake import FakeBox

XID = 0x8


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=2)


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
async def sentry(box: FakeBox, told: list[Event]) -> AsyncIterator[Sentry]:
    async with running() as processes:
        made = Sentry(processes, {**os.environ, **box.env}, told.append)
        yield made
        await made.close()


def fleet(box: FakeBox, *, spared: tuple[str, ...] = ()) -> Fleet:
    devices = tuple(replace(device(at), uuid=uuid) for at, uuid in enumerate(box.uuids))
    known = Inventory(devices)
    return Fleet(inventory=known, gpu=Gpu(GpuState.OK), wants_gpu=True, spared=frozenset(spared))


async def listening(box: FakeBox, count: int = 1) -> None:
    await until(lambda: len(box.calls("nvmlEventSetWait_v2")) >= count)


async def test_an_xid_is_told_with_its_device(box: FakeBox, sentry: Sentry, told: list[Event]) -> None:
    """And its MIG instance, where it has one; other events too."""
    sentry.hear(fleet(box))
    await listening(box)

    box.xid(box.uuids[1], 79)
    box.xid(box.uuids[0], 31, gi=7, ci=0)
    box.event(box.uuids[0], 0x8000)
    box.event(box.uuids[0], 0x10)  # A clock has changed: nobody wants to know.
    box.xid(box.uuids[0], 999)

    await until(lambda: len(told) == 4)
    assert told == [
        DeviceEventTold(box.uuids[1], XID, 79),
        DeviceEventTold(box.uuids[0], XID, 31, (7, 0)),
        DeviceEventTold(box.uuids[0], 0x8000, 0),
        DeviceEventTold(box.uuids[0], XID, 999),
    ]
    assert len(probers(box)) == 1


async def test_a_lost_gpu_still_has_a_name(box: FakeBox, sentry: Sentry, told: list[Event]) -> None:
    """It cannot be asked for it any more when it tells of its end."""
    sentry.hear(fleet(box))
    await listening(box)
    box.fail("nvmlDeviceGetUUID", 0, 15)

    box.xid(box.uuids[0], 79)

    await until(lambda: told == [DeviceEventTold(box.uuids[0], XID, 79)])


async def test_one_that_cannot_be_watched_leaves_the_others(box: FakeBox, sentry: Sentry, told: list[Event]) -> None:
    """A card without events, or one that is lost."""
    box.fail("nvmlDeviceRegisterEvents", 0, 3)
    sentry.hear(fleet(box))
    await listening(box)

    box.xid(box.uuids[1], 48)

    await until(lambda: told == [DeviceEventTold(box.uuids[1], XID, 48)])


async def test_a_watcher_that_ends_is_replaced(box: FakeBox, sentry: Sentry, told: list[Event]) -> None:
    """After a second; an error of the driver is no reason to come back without a pause. What was missed shows."""
    sentry.hear(fleet(box))
    await listening(box)
    (pid,) = probers(box)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len({one.pid for one in box.calls("nvmlEventSetWait_v2")}) == 2)

    box.xid(box.uuids[0], 63)

    await until(lambda: told == [LOOK, DeviceEventTold(box.uuids[0], XID, 63)])


async def test_other_devices_are_another_watch_and_none_is_none(box: FakeBox, sentry: Sentry) -> None:
    """A device that is to be reset is not opened; while the driver errs nothing changes."""
    sentry.hear(fleet(box))
    await listening(box)
    first = probers(box)
    known = len(box.calls())

    sentry.hear(fleet(box, spared=(box.uuids[0],)))
    await until(lambda: len(probers(box)) == 2 and not any(is_alive(pid) for pid in first))
    await until(lambda: any(one.name == "nvmlEventSetWait_v2" for one in box.calls()[known:]))
    assert not [one for one in box.calls()[known:] if one.device == 0]
    sentry.hear(replace(fleet(box), gpu=Gpu(GpuState.ERROR)))
    assert len(probers(box)) == 2

    sentry.hear(replace(fleet(box), wants_gpu=False))

    await until(lambda: not any(is_alive(pid) for pid in probers(box)))
