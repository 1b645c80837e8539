"""Which devices CUDA shows and in which order, asked in a process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.host.cuda_client import CudaError, read_cuda_order
from supervisor.host.process import Processes
from tests.host.devices_helpers import DEADLINE_S
from tests.nvml.fake import FakeBox


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=4)


async def order(
    processes: Processes, box: FakeBox, environ: Mapping[str, str] | None = None, *, deadline_s: float = 15.0
) -> list[int]:
    """Indices of the devices, as NVML counts them."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    async with asyncio.timeout(DEADLINE_S):
        found = await read_cuda_order(processes, {**inherited, **box.env, **(environ or {})}, deadline_s=deadline_s)
    return [[uuid.partition("-")[2] for uuid in box.uuids].index(each) for each in found]


@pytest.mark.parametrize(
    ("environ", "indices"),
    [
        ({}, [2, 0, 1, 3]),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "3,0"}, [3, 2]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "1,9,2"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "1,1"}, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
async def test_the_answer_is_what_a_program_with_that_environment_would_see(
    processes: Processes, box: FakeBox, environ: dict[str, str], indices: list[int]
) -> None:
    """In CUDA's own order, less what the variable hides; to show nothing is an answer."""
    box.cuda_order(*(box.uuids[index] for index in (2, 0, 1, 3)))

    assert await order(processes, box, environ) == indices


async def test_an_older_library_tells_by_its_first_version(processes: Processes, box: FakeBox) -> None:
    """The identity of a GPU is the same in both."""
    box.cuda("old")

    assert await order(processes, box) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("fail 999", "cuInit: CUDA_ERROR_UNKNOWN"),
        ("fail 802", "cuInit: error 802"),
        ("crash", r"the process that asks CUDA crashed \(SIGSEGV\) in cuInit"),
    ],
)
async def test_trouble_is_said_in_words(processes: Processes, box: FakeBox, what: str, words: str) -> None:
    """With CUDA's name for it, where it has one."""
    box.cuda(what)

    with pytest.raises(CudaError, match=words):
        await order(processes, box)


async def test_a_library_that_hangs_is_given_up(processes: Processes, box: FakeBox) -> None:
    """And its process is killed: `running` finds nothing left of it."""
    box.cuda("hang")

    with pytest.raises(CudaError, match=r"cuInit has not answered for 3 s"):
        await order(processes, box, deadline_s=3.0)


async def test_without_a_library_there_is_no_answer(processes: Processes, box: FakeBox) -> None:
    """What the loader says."""
    box.cuda_absent()

    with pytest.raises(CudaError, match=r"libcuda\.so\.1"):
        await order(processes, box)
