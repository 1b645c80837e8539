"""Readings of the driver: what is in them, who gets which, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import time
from pathlib import Path

import pytest

from supervisor.core.inventory import Device, GpuState, Health, Holder, Link, Reading
from supervisor.core.message import Event, KillTree, Spawn, Spawned, TreeGone
from supervisor.core.plan import Launch
from supervisor.core.spec import Recipe, WorkerId
from supervisor.host.devices import Devices, parse_reading
from supervisor.host.process import Processes
from tests.host.devices_helpers import DEADLINE_S, ask, descriptors, is_alive, make, probers, until
from tests.nvml.fake import FakeBox


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=3)


async def test_a_good_reading_holds_the_devices(box: FakeBox, devices: Devices) -> None:
    """Every field of a device arrives, and the time is one before the driver was asked."""
    box.change(box.uuids[1], used_bytes=1000)
    before = time.monotonic()

    reading, asked_at = await devices.read()

    assert before <= asked_at <= time.monotonic()
    assert (reading.state, reading.detail) == (GpuState.OK, "")
    assert [device.uuid for device in reading.devices] == box.uuids
    total = box.devices[1].total_bytes
    second = reading.devices[1]
    assert (second.memory_total_bytes, second.memory_free_bytes) == (total, total - 1000)
    assert (second.index, second.name, second.health, second.reason) == (1, "NVIDIA H100 80GB HBM3", Health.OK, "")


async def test_one_prober_serves_many_readings(box: FakeBox, devices: Devices) -> None:
    """A prober that is well stays, and its second reading shows what has changed."""
    await ask(devices)
    box.change(box.uuids[0], used_bytes=7)

    reading = await ask(devices)

    assert reading.devices[0].memory_free_bytes == box.devices[0].total_bytes - 7
    assert len(probers(box)) == 1


async def test_a_fresh_reading_sees_a_device_that_was_added(box: FakeBox, devices: Devices) -> None:
    """NVML shows the devices of its initialisation, so only a new prober sees more; the old one goes."""
    await ask(devices)
    box.add()

    assert len((await ask(devices)).devices) == 3
    assert len((await ask(devices, fresh=True)).devices) == 4
    assert len((await ask(devices)).devices) == 4
    assert len(probers(box)) == 2
    await until(lambda: sum(map(is_alive, probers(box))) == 1)


async def test_a_broken_device_is_named_and_the_state_is_good(box: FakeBox, devices: Devices) -> None:
    """The others are there; the one without an identity is in the detail."""
    box.fail("nvmlDeviceGetHandleByIndex", 1, 15)

    reading = await ask(devices)

    assert reading.state is GpuState.OK
    assert [device.index for device in reading.devices] == [0, 2]
    assert reading.detail == "device 1: nvmlDeviceGetHandleByIndex: GPU is lost"


async def test_a_lost_device_keeps_its_place_with_the_reason(box: FakeBox, devices: Devices) -> None:
    """A device that can be named but not used is among the devices, with its health."""
    box.fail("nvmlDeviceGetMemoryInfo_v2", 1, 15)

    lost = (await ask(devices)).devices[1]

    assert (lost.health, lost.reason) == (Health.LOST, "nvmlDeviceGetMemoryInfo_v2: GPU is lost")


@pytest.mark.parametrize(("code", "state"), [(9, GpuState.NOT_LOADED), (4, GpuState.NO_PERMISSION)])
async def test_a_driver_that_is_not_there_yet_is_asked_again(
    box: FakeBox, devices: Devices, code: int, state: GpuState
) -> None:
    """The same prober tries once more at the next reading."""
    box.init_code(code)

    assert (await ask(devices)).state is state
    box.heal()
    assert (await ask(devices)).state is GpuState.OK
    assert len(probers(box)) == 1


async def test_a_library_that_does_not_fit_the_driver_is_loaded_anew(box: FakeBox, devices: Devices) -> None:
    """After a mismatch a new process maps whatever library is there by then."""
    box.init_code(18)

    assert (await ask(devices)).state is GpuState.MISMATCH
    box.heal()
    assert (await ask(devices)).state is GpuState.OK
    assert len(probers(box)) == 2


async def test_an_absent_library_is_a_state(box: FakeBox, devices: Devices) -> None:
    """A machine without NVIDIA's library has no devices and no error."""
    box.absent()

    reading = await ask(devices)

    assert (reading.state, reading.devices) == (GpuState.ABSENT, ())
    assert reading.detail


async def test_who_asks_during_a_reading_gets_the_next_one_together_with_others(box: FakeBox, devices: Devices) -> None:
    """Nobody gets a reading that was asked for before his call; all who wait share one."""
    await ask(devices)
    box.hang("nvmlDeviceGetName", 2)
    first = asyncio.ensure_future(devices.read())
    await until(lambda: len(box.calls("nvmlDeviceGetName")) == 6)
    box.change(box.uuids[0], used_bytes=9)
    called_at = time.monotonic()
    others = [asyncio.ensure_future(devices.read()) for _ in range(3)]
    await asyncio.sleep(0)
    box.heal()

    async with asyncio.timeout(DEADLINE_S):
        early, early_at = await first
        late = await asyncio.gather(*others)

    assert early_at < called_at
    assert early.devices[0].memory_free_bytes == box.devices[0].total_bytes
    assert late[0] == late[1] == late[2]
    assert late[0][1] >= called_at
    assert late[0][0].devices[0].memory_free_bytes == box.devices[0].total_bytes - 9
    assert len(box.calls("nvmlDeviceGetCount_v2")) == 3


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(box: FakeBox, devices: Devices) -> None:
    """A cancelled caller is nobody else's business."""
    box.hang("nvmlInit")
    callers = [asyncio.ensure_future(devices.read()) for _ in range(2)]
    await until(lambda: bool(box.calls()))
    callers[0].cancel()
    box.heal()

    async with asyncio.timeout(DEADLINE_S):
        reading, _ = await callers[1]

    assert reading.state is GpuState.OK
    assert len(box.calls("nvmlDeviceGetCount_v2")) == 1


async def test_closing_leaves_nothing_and_turns_readers_away(processes: Processes, box: FakeBox) -> None:
    """Neither a process nor a descriptor is left, and who waits, or asks later, gets an answer."""
    open_before = descriptors()
    devices = make(processes, box)
    box.hang("nvmlDeviceGetCount")
    waiting = [asyncio.ensure_future(devices.read()) for _ in range(2)]
    await until(lambda: bool(box.calls("nvmlDeviceGetCount_v2")))
    waiting.append(asyncio.ensure_future(devices.read()))
    await asyncio.sleep(0)

    await devices.close()

    async with asyncio.timeout(DEADLINE_S):
        answers = [(await future)[0] for future in waiting] + [(await devices.read())[0]]
    assert answers == [Reading(GpuState.ERROR, "the daemon is stopping")] * 4
    assert not any(map(is_alive, probers(box)))
    await until(lambda: descriptors() <= open_before)


async def test_closing_at_once_answers_a_reading_that_was_never_begun(processes: Processes, box: FakeBox) -> None:
    """A reader is not forgotten when everything ends before its turn came."""
    devices = make(processes, box)
    reader = asyncio.ensure_future(devices.read())
    await asyncio.sleep(0)

    await devices.close()

    async with asyncio.timeout(DEADLINE_S):
        assert (await reader)[0].state is GpuState.ERROR


@pytest.mark.slow
async def test_descriptors_and_processes_stay_flat(processes: Processes, box: FakeBox) -> None:
    """Twenty new probers, some of them crashed, leave what one leaves."""
    devices = make(processes, box)
    await ask(devices)
    open_before = descriptors()
    for attempt in range(10):
        box.crash("nvmlDeviceGetName", 1)
        await ask(devices, fresh=True)
        box.heal()
        assert (await ask(devices, fresh=True)).state is GpuState.OK, attempt

    await until(lambda: descriptors() <= open_before)
    await until(lambda: sum(map(is_alive, probers(box))) == 1)
    await devices.close()


async def test_who_has_memory_of_a_device_is_named_and_ours_are_told_apart(processes: Processes, box: FakeBox) -> None:
    """A process below one of our shims is that worker's; another one is a stranger with a name and a user."""
    worker = WorkerId("llm", 0)
    launch = Launch(Recipe(command=("sh",), env=(), working_dir="/"))
    argv = ("sh", "-c", "sleep 1000 & wait")
    heard: list[Event] = []
    processes.listen(worker, heard.append)
    processes.spawn(Spawn(worker, 1, launch, argv, dict(os.environ), "/"), {})
    await until(lambda: any(isinstance(event, Spawned) for event in heard))
    pid = next(event.pid for event in heard if isinstance(event, Spawned))
    await until(lambda: bool(children_of(pid)))
    (child,) = children_of(pid)
    box.list_process(box.uuids[0], child, 5)
    box.list_process(box.uuids[0], os.getpid(), 7)
    box.list_process(box.uuids[1], 2**22 + 1, None)
    devices = make(processes, box, owners=processes.read_owners)

    reading = await ask(devices)

    name = own_name()
    user = pwd.getpwuid(os.getuid()).pw_name
    assert set(reading.devices[0].holders or ()) == {
        Holder(child, 5, "sleep", user, "llm/0"),
        Holder(os.getpid(), 7, name, user),
    }
    assert reading.devices[1].holders == (Holder(2**22 + 1, None),)
    assert reading.devices[2].holders == ()
    processes.kill_tree(KillTree(worker, 1))
    await until(lambda: any(isinstance(event, TreeGone) or getattr(event, "alone", False) for event in heard))
    assert Holder(child, 5, "sleep", user, "llm/0") in ((await ask(devices)).devices[0].holders or ())
    await devices.close()


def own_name() -> str:
    return Path("/proc/self/comm").read_text().rstrip("\n")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_answer_becomes_a_reading() -> None:
    """The protocol's fields are the reading's, unknown ones stay None, and what is none is refused."""
    device = {
        "uuid": "GPU-1",
        "index": 0,
        "name": "GB10",
        "pci": "000f:01:00.0",
        "numa": None,
        "memory_total": None,
        "memory_free": None,
        "health": "ok",
        "reason": "",
        "parent": None,
        "instance": None,
        "is_cut": True,
        "is_unified": False,
        "holders": None,
    }
    part = {**device, "uuid": "MIG-1", "parent": "GPU-1", "instance": [7, 0], "is_cut": False, "holders": [[5, None]]}
    answer = {
        "state": "ok",
        "detail": "",
        "devices": [device, part],
        "broken": [{"index": 1, "detail": "x: GPU is lost"}],
        "links": [{"one": "GPU-1", "other": "GPU-2", "nvlinks": 4, "level": 10}],
    }

    known = Device("GPU-1", 0, "GB10", "000f:01:00.0", None, None, None, is_cut=True)
    instance = Device(
        *("MIG-1", 0, "GB10", "000f:01:00.0", None, None, None),
        parent="GPU-1",
        instance=(7, 0),
        holders=(Holder(5),),
    )
    links = (Link("GPU-1", "GPU-2", 4, 10),)
    assert parse_reading(answer) == Reading(GpuState.OK, "device 1: x: GPU is lost", (known, instance), links)
    for field, value in (("state", "fine"), ("devices", [{**device, "health": "so-so"}])):
        with pytest.raises(ValueError, match=re.escape(value if isinstance(value, str) else "so-so")):
            parse_reading({**answer, field: value})
