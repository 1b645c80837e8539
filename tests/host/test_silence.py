"""One device on which calls hang or crash, or which nobody may touch: the others are read all the same."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.core.inventory import GpuState, Health, Reading
from supervisor.host.devices import Devices
from supervisor.host.silence import Silences
from tests.core.builders import devices as fake_devices
from tests.core.builders import good
from tests.host.devices_helpers import ask, probers, running
from tests.nvml.fake import FakeBox

HUNG = "nvmlDeviceGetMemoryInfo_v2 on device 1 has not answered for 0.5 s"


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=3)


class Spared:
    """Whom not to touch, by now."""

    def __init__(self) -> None:
        self.uuids: frozenset[str] = frozenset()

    def __call__(self) -> frozenset[str]:
        return self.uuids


@pytest.fixture
def spared() -> Spared:
    return Spared()


@pytest.fixture
async def devices(box: FakeBox, spared: Spared, tmp_path: Path) -> AsyncIterator[Devices]:
    async with running() as processes:
        made = Devices(
            processes,
            time.monotonic,
            {**os.environ, **box.env},
            init_deadline_s=10.0,
            call_deadline_s=0.5,
            spared=spared,
            silences=Silences(tmp_path / "gpus"),
        )
        yield made
        await made.close()


def shown(reading: Reading) -> list[tuple[int, Health, str]]:
    return [(one.index, one.health, one.reason) for one in reading.devices]


async def test_a_device_that_hangs_is_left_out_and_the_others_are_read(box: FakeBox, devices: Devices) -> None:
    """After two probers; it is lost, with its reason, and what it was is still known."""
    before = await ask(devices)
    box.hang("nvmlDeviceGetMemoryInfo_v2", 1)
    assert [(await ask(devices, fresh=True)).state for _ in range(2)] == [GpuState.UNRESPONSIVE] * 2

    after = await ask(devices, fresh=True)

    assert after.state is GpuState.OK
    assert shown(after) == [(0, Health.OK, ""), (1, Health.LOST, HUNG), (2, Health.OK, "")]
    assert [one.uuid for one in after.devices] == [one.uuid for one in before.devices]
    assert len([one for one in box.calls("nvmlDeviceGetMemoryInfo_v2") if one.device == 1]) == 3
    assert (await ask(devices)).state is GpuState.OK


async def test_a_device_that_takes_probers_down_is_left_out_too(box: FakeBox, devices: Devices) -> None:
    """From the first reading on, when nothing is known of it but its index."""
    box.crash("nvmlDeviceGetName", 0)
    assert [(await ask(devices, fresh=True)).state for _ in range(2)] == [GpuState.ERROR] * 2

    after = await ask(devices, fresh=True)

    assert (after.state, [one.index for one in after.devices]) == (GpuState.OK, [1, 2])
    assert after.detail == "device 0: the prober crashed (SIGSEGV) in nvmlDeviceGetName 0"


async def test_a_device_that_is_to_be_reset_is_not_opened(box: FakeBox, devices: Devices, spared: Spared) -> None:
    """By another prober, which never asks for its handle: NVML opens a device then, and not before."""
    before = await ask(devices)
    spared.uuids = frozenset({box.uuids[1]})
    known = len(box.calls())

    reading = await ask(devices)

    assert [one.uuid for one in reading.devices] == [before.devices[0].uuid, before.devices[2].uuid]
    assert not [one for one in box.calls()[known:] if one.device == 1]
    assert len(probers(box)) == 2
    spared.uuids = frozenset()
    assert len((await ask(devices)).devices) == 3


async def test_a_gpu_that_the_kernel_shows_anew_is_seen_by_a_new_prober(
    box: FakeBox, devices: Devices, tmp_path: Path
) -> None:
    """NVML sees the devices of its initialisation; the kernel's list takes no lock."""
    (tmp_path / "gpus" / "0000:10:00.0").mkdir(parents=True)
    assert len((await ask(devices)).devices) == 3
    box.add()
    assert len((await ask(devices)).devices) == 3

    (tmp_path / "gpus" / "0000:13:00.0").mkdir()

    assert len((await ask(devices)).devices) == 4


def test_a_silent_device_is_tried_again_later_and_later(tmp_path: Path) -> None:
    """And not as long as a prober hangs in it: each of them may be one more."""
    silences = Silences(tmp_path)
    silences.complete(good(*fake_devices(2)), (), frozenset())
    silences.note_hang("nvmlDeviceGetName 1", "hangs", 0.0)
    assert silences.left_out((), 0.0, is_stuck=False) == ()
    silences.note_hang("nvmlDeviceGetName 1", "hangs", 10.0)
    assert silences.left_out((), 69.0, is_stuck=False) == (1,)
    assert silences.left_out((), 71.0, is_stuck=True) == (1,)
    assert silences.left_out((), 71.0, is_stuck=False) == ()

    silences.note_hang("nvmlDeviceGetName 1", "hangs", 80.0)
    assert silences.left_out((), 199.0, is_stuck=False) == (1,)
    silences.complete(good(*fake_devices(2)), (), frozenset())
    assert silences.left_out((), 199.0, is_stuck=False) == ()


def test_a_call_that_concerns_no_device_says_nothing_of_any(tmp_path: Path) -> None:
    """Such as nvmlInit."""
    silences = Silences(tmp_path)
    for _ in range(3):
        silences.note_hang("nvmlInit", "hangs", 0.0)
    assert silences.left_out((), 0.0, is_stuck=False) == ()
