"""Readings within their deadlines: a driver that hangs, crashes, or keeps its prober from dying."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from supervisor.core.inventory import GpuState, Reading
from supervisor.host.devices import Devices
from supervisor.host.process import Processes
from tests.host.devices_helpers import DEADLINE_S, Stubborn, ask, descriptors, is_alive, make, probers, running, until
from tests.nvml.fake import FakeBox


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=3)


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
