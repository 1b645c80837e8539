"""Readings within their deadlines: real processes, real binding, a library that does what the test says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from supervisor.core.inventory import Device, GpuState, Health, Reading
from supervisor.core.message import Event, KillTree, Spawn
from supervisor.core.spec import WorkerId
from supervisor.host.devices import Devices, parse_reading
from supervisor.host.prober_client import Spawner
from supervisor.host.process import Processes
from tests.nvml.fake import FakeBox

DEADLINE_S = 20.0


class Stubborn:
    """Real processes of which none can be killed, as those that wait in the driver."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.refused = 0

    def listen(self, worker: WorkerId, callback: Callable[[Event], None]) -> None:
        self._processes.listen(worker, callback)

    def spawn(self, order: Spawn, fds: Mapping[int, int]) -> None:
        self._processes.spawn(order, fds)

    def kill_tree(self, order: KillTree) -> None:
        self.refused += 1

    def dismiss(self, worker: WorkerId) -> None:
        self._processes.dismiss(worker)


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=3)


@asynccontextmanager
async def running() -> AsyncIterator[Processes]:
    strays: list[Event] = []
    processes = Processes(strays.append)
    await processes.start()
    yield processes
    await processes.close()
    assert strays == [], "events of a prober went to the fleet"


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    async with running() as processes:
        yield processes


def make(
    processes: Spawner, box: FakeBox, *, init_s: float = 10.0, call_s: float = 10.0, gone_s: float = 2.0
) -> Devices:
    return Devices(
        processes,
        time.monotonic,
        {**os.environ, **box.env},
        init_deadline_s=init_s,
        call_deadline_s=call_s,
        gone_deadline_s=gone_s,
    )


@pytest.fixture
async def devices(processes: Processes, box: FakeBox) -> AsyncIterator[Devices]:
    devices = make(processes, box)
    yield devices
    await devices.close()


async def ask(devices: Devices, *, fresh: bool = False) -> Reading:
    async with asyncio.timeout(DEADLINE_S):
        reading, _ = await devices.read(fresh=fresh)
    return reading


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - What is waited for happens in other processes.
            await asyncio.sleep(0.005)


def probers(box: FakeBox) -> set[int]:
    """Pids of all processes that have asked the library for anything."""
    return {call.pid for call in box.calls()}


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


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


@pytest.mark.slow
async def test_a_call_that_hangs_is_unresponsive_in_time_and_the_next_reading_recovers(
    processes: Processes, box: FakeBox
) -> None:
    """The deadline is of the call; the prober is killed, and a new one reads when the driver is well again."""
    devices = make(processes, box, call_s=0.5)
    box.hang("nvmlDeviceGetMemoryInfo_v2", 2)

    reading = await ask(devices)

    words = "nvmlDeviceGetMemoryInfo_v2 on device 2 has not answered for 0.5 s"
    assert (reading.state, reading.detail.split(";")[0], reading.devices) == (GpuState.UNRESPONSIVE, words, ())
    await until(lambda: not any(map(is_alive, probers(box))))
    box.heal()
    assert (await ask(devices)).state is GpuState.OK
    await devices.close()


@pytest.mark.slow
async def test_initialising_has_a_deadline_of_its_own(processes: Processes, box: FakeBox) -> None:
    """nvmlInit may take longer than any other call, but not for ever."""
    patient = make(processes, box, init_s=10.0, call_s=0.4)
    box.delay("nvmlInit", "*", 700)
    assert (await ask(patient)).state is GpuState.OK
    await patient.close()

    box.hang("nvmlInit")
    devices = make(processes, box, init_s=1.5)

    reading = await ask(devices)
    assert reading.state is GpuState.UNRESPONSIVE
    assert reading.detail.startswith("nvmlInit has not answered for 1.5 s")
    await devices.close()


@pytest.mark.slow
async def test_every_call_has_the_whole_deadline(processes: Processes, box: FakeBox) -> None:
    """Many slow calls are no hang, though together they take longer than one may."""
    devices = make(processes, box, call_s=0.8)
    box.delay("nvmlDeviceGetName", "*", 300)
    began = time.monotonic()

    assert (await ask(devices)).state is GpuState.OK
    assert time.monotonic() - began > 0.9
    await devices.close()


@pytest.mark.slow
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_loop_that_was_late_itself_does_not_blame_the_driver(box: FakeBox, run: Callable[..., Reading]) -> None:
    """Answers that came in time count, though this process looked at them after the deadline."""

    async def scene() -> Reading:
        async with running() as processes:
            devices = make(processes, box, call_s=0.3)
            await ask(devices)
            box.delay("nvmlDeviceGetUUID", 1, 150)
            reading = asyncio.ensure_future(ask(devices))
            await until(lambda: len(box.calls("nvmlDeviceGetUUID")) == 5)
            time.sleep(0.6)  # noqa: ASYNC251 - The loop is held up on purpose.
            await reading
            await devices.close()
            return reading.result()

    # The loops differ in what they look at first when they are late: their timers, or their descriptors.
    assert run(scene()).state is GpuState.OK


async def test_a_crash_is_an_error_with_the_call_and_the_next_reading_recovers(box: FakeBox, devices: Devices) -> None:
    """A library that takes the prober down takes nothing else with it."""
    box.crash("nvmlDeviceGetName", 1)

    assert await ask(devices) == Reading(GpuState.ERROR, "the prober crashed (SIGSEGV) in nvmlDeviceGetName 1")
    box.heal()
    assert (await ask(devices)).state is GpuState.OK


async def test_a_prober_killed_while_idle_is_replaced_unnoticed(box: FakeBox, devices: Devices) -> None:
    """Somebody's SIGKILL between two readings, the kernel's too, costs nobody a reading."""
    await ask(devices)
    (pid,) = probers(box)
    os.kill(pid, 9)
    await until(lambda: devices._prober is not None and devices._prober.has_ended)

    assert (await ask(devices)).state is GpuState.OK


async def test_a_prober_killed_while_it_reads_is_said_to_be_killed(box: FakeBox, devices: Devices) -> None:
    """A kill is not called a crash."""
    box.hang("nvmlDeviceGetName", 0)
    reading = asyncio.ensure_future(ask(devices))
    await until(lambda: bool(box.calls("nvmlDeviceGetName")))
    (pid,) = probers(box)
    os.kill(pid, 9)

    assert await reading == Reading(GpuState.ERROR, "the prober was killed (SIGKILL) in nvmlDeviceGetName 0")


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


async def test_a_prober_that_cannot_be_started_is_an_error_in_words(
    box: FakeBox, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that is not there any more, after an upgrade perhaps, is named."""
    monkeypatch.setattr(sys, "executable", "/none/python")

    reading = await ask(devices)

    assert reading.state is GpuState.ERROR
    assert reading.detail.startswith("cannot start the prober: ")
    assert "/none/python" in reading.detail


async def test_a_prober_that_complains_is_quoted(processes: Processes, box: FakeBox, tmp_path: Path) -> None:
    """The last line of its standard error says why it ended, without an import of ours in the way."""
    (tmp_path / "pynvml.py").write_text("raise ImportError('no such binding')\n")
    devices = Devices(processes, time.monotonic, {**os.environ, **box.env, "PYTHONPATH": str(tmp_path)})

    reading = await ask(devices)

    assert reading.state is GpuState.ERROR
    assert reading.detail == "the prober exited with status 1: ImportError: no such binding"
    await devices.close()


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


async def test_failures_in_a_row_are_held_back_but_a_fresh_reading_is_not(box: FakeBox, devices: Devices) -> None:
    """The first failure costs no wait, the second a second; who wants a fresh reading gets it at once."""
    box.crash("nvmlInit")
    assert (await ask(devices)).state is GpuState.ERROR
    assert (await ask(devices)).state is GpuState.ERROR
    failed_at = time.monotonic()
    assert len(probers(box)) == 2

    held_back = asyncio.ensure_future(ask(devices))
    await asyncio.sleep(0.1)
    assert not held_back.done()
    assert len(probers(box)) == 2
    box.heal()
    assert (await ask(devices, fresh=True)).state is GpuState.OK
    assert (await held_back).state is GpuState.OK
    assert time.monotonic() - failed_at < 1.0

    box.crash("nvmlDeviceGetCount")
    assert (await ask(devices)).state is GpuState.ERROR
    failed_at = time.monotonic()
    box.heal()
    assert (await ask(devices)).state is GpuState.OK
    assert time.monotonic() - failed_at < 1.0, "one that answered did not end the row"


@pytest.mark.slow
async def test_a_reading_held_back_comes_after_its_second(box: FakeBox, devices: Devices) -> None:
    """Back-off delays a reading; it does not refuse it."""
    box.crash("nvmlInit")
    await ask(devices)
    await ask(devices)
    failed_at = time.monotonic()
    box.heal()

    reading, asked_at = await devices.read()

    assert reading.state is GpuState.OK
    assert 0.9 < asked_at - failed_at < 5.0


@pytest.mark.slow
async def test_three_that_cannot_be_killed_are_enough(processes: Processes, box: FakeBox) -> None:
    """With three abandoned probers readings say so at once, and no fourth is started, until one of them is gone."""
    stubborn = Stubborn(processes)
    devices = make(stubborn, box, call_s=0.1, gone_s=0.05)
    box.hang("nvmlDeviceGetCount")
    open_before = descriptors()
    for _ in range(3):
        assert (await ask(devices, fresh=True)).state is GpuState.UNRESPONSIVE
    assert len(probers(box)) == stubborn.refused == 3

    for fresh in (False, True):
        began = time.monotonic()
        reading = await ask(devices, fresh=fresh)
        assert reading.state is GpuState.UNRESPONSIVE
        assert reading.detail.startswith("3 probers hang in the driver and cannot be killed")
        assert time.monotonic() - began < 1.0
    assert len(probers(box)) == 3
    assert all(map(is_alive, probers(box)))

    # Their descriptors here are closed: they end as soon as they can say something to nobody.
    box.heal()
    await until(lambda: not any(map(is_alive, probers(box))))
    async with asyncio.timeout(DEADLINE_S):
        while (await devices.read(fresh=True))[0].state is not GpuState.OK:
            pass
    await devices.close()
    await until(lambda: descriptors() <= open_before)


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


@pytest.mark.slow
def test_the_whole_works_under_uvloop(box: FakeBox) -> None:
    """The daemon's loop: a good reading, a hang, a recovery, a clean end."""

    async def scene() -> list[GpuState]:
        async with running() as processes:
            devices = make(processes, box, call_s=0.5)
            states = [(await ask(devices)).state]
            box.hang("nvmlDeviceGetUUID", 1)
            states.append((await ask(devices)).state)
            box.heal()
            states.append((await ask(devices)).state)
            await devices.close()
            return states

    assert uvloop.run(scene()) == [GpuState.OK, GpuState.UNRESPONSIVE, GpuState.OK]


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
    }
    answer = {"state": "ok", "detail": "", "devices": [device], "broken": [{"index": 1, "detail": "x: GPU is lost"}]}

    known = Device("GPU-1", 0, "GB10", "000f:01:00.0", None, None, None)
    assert parse_reading(answer) == Reading(GpuState.OK, "device 1: x: GPU is lost", (known,))
    for field, value in (("state", "fine"), ("devices", [{**device, "health": "so-so"}])):
        with pytest.raises(ValueError, match=re.escape(value if isinstance(value, str) else "so-so")):
            parse_reading({**answer, field: value})
