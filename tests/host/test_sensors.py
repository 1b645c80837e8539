"""What GPUs do at this moment: asked for after a reading, and never at its cost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.figures import Sensors
from supervisor.core.inventory import GpuState
from supervisor.host.process import Processes
from tests.host.devices_helpers import DEADLINE_S, make
from tests.host.prober_helpers import Asked
from tests.nvml.fake import FakeBox


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=2)


def read_sensors(box: FakeBox) -> dict[str, Any]:
    """What a prober says after its reading."""
    asked = Asked(box)
    try:
        asked.tell(json.dumps({"id": 1, "ask": "inventory", "sensors": True}).encode())
        while (message := asked.hear()) is not None:
            if "sensors" in message:
                found: dict[str, Any] = message["sensors"]
                return found
        raise AssertionError("it ended")
    finally:
        asked.close()


def test_every_gpu_tells_what_it_does(box: FakeBox) -> None:
    """How busy, how hot, what it draws; one that is cut up has no utilization, and its instances tell nothing."""
    first, second = box.uuids
    box.change(first, gpu_percent=40, memory_percent=7, celsius=55, milliwatts=300_500, limit_milliwatts=650_000)
    box.cut(second, slots=[0])

    found = read_sensors(box)

    assert found == {
        first: {"gpu": 40, "memory": 7, "celsius": 55, "draw": 300_500, "limit": 650_000},
        second: {"gpu": None, "memory": None, "celsius": 30, "draw": 70_000, "limit": 700_000},
    }


def test_what_a_driver_does_not_know_is_unknown(box: FakeBox) -> None:
    """One by one; an older driver is asked for the temperature in its own words."""
    box.drop_symbol("nvmlDeviceGetTemperatureV")
    box.drop_symbol("nvmlDeviceGetEnforcedPowerLimit")
    box.fail("nvmlDeviceGetPowerUsage", 1, 3)
    box.fail("nvmlDeviceGetTemperature", 1, 15)
    box.fail("nvmlDeviceGetUtilizationRates", 0, 999)

    found = list(read_sensors(box).values())

    assert found == [
        {"gpu": None, "memory": None, "celsius": 30, "draw": 70_000, "limit": None},
        {"gpu": 0, "memory": 0, "celsius": None, "draw": None, "limit": None},
    ]


def test_a_driver_that_is_not_there_has_no_sensors(box: FakeBox) -> None:
    """Whatever the reading before says."""
    box.init_code(9)

    assert read_sensors(box) == {}


async def test_sensors_come_with_the_reading_that_asks_for_them(processes: Processes, box: FakeBox) -> None:
    """In watts; others cost the driver no question."""
    devices = make(processes, box)
    async with asyncio.timeout(DEADLINE_S):
        await devices.read()
        assert box.calls("nvmlDeviceGetPowerUsage") == []
        reading, _ = await devices.read(sensors=True)

    assert reading.state is GpuState.OK
    assert devices.sensors[box.uuids[0]] == Sensors(0, 0, 30, 70.0, 700.0)
    await devices.close()


@pytest.mark.parametrize("act", ["hang", "crash"])
async def test_a_sensor_that_hangs_costs_no_reading(processes: Processes, box: FakeBox, act: str) -> None:
    """It is named, and not asked for again at once; the next reading has a prober of its own."""
    devices = make(processes, box)
    getattr(box, act)("nvmlDeviceGetPowerUsage", 1)
    async with asyncio.timeout(DEADLINE_S):
        reading, _ = await devices.read(sensors=True)
        again, _ = await devices.read(sensors=True)

    assert [one.state for one in (reading, again)] == [GpuState.OK] * 2
    assert [len(one.devices) for one in (reading, again)] == [2, 2]
    assert devices.sensors == {}
    assert devices.silent_sensor.endswith("in nvmlDeviceGetPowerUsage 1")
    assert [call.device for call in box.calls("nvmlDeviceGetPowerUsage")] == [0, 1]
    await devices.close()
