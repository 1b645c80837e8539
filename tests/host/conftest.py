"""What tests of devices share; the box is each file's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from supervisor.host.devices import Devices
from supervisor.host.process import Processes
from tests.host.devices_helpers import make, running
from tests.nvml.fake import FakeBox


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    """At the end nothing of them is left."""
    async with running() as processes:
        yield processes


@pytest.fixture
async def devices(processes: Processes, box: FakeBox) -> AsyncIterator[Devices]:
    """Of the box."""
    devices = make(processes, box)
    yield devices
    await devices.close()
