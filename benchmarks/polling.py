"""
What looking at GPUs costs: one reading of the prober, beside a bare loop over the same binding that asks for memory.

    python -m benchmarks.polling [--gpus 8] [--readings 300] [--real]

Without ``--real`` the driver is the fake one of the tests, so that what is measured is ours and the binding's alone.
With it the machine's own driver answers, and the calls take what they take there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.host.prober_helpers import Asked
from tests.nvml.fake import FakeBox

BARE = """
import sys, time
import pynvml
pynvml.nvmlInit()
handles = [pynvml.nvmlDeviceGetHandleByIndex(one) for one in range(pynvml.nvmlDeviceGetCount())]
began, before = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[1])):
    for handle in handles:
        pynvml.nvmlDeviceGetMemoryInfo(handle)
print(time.perf_counter() - began, time.process_time() - before)
"""
WARM = 20


class ThisBox(FakeBox):
    """The machine's own driver."""

    def __init__(self) -> None:
        pass

    @property
    def env(self) -> dict[str, str]:
        return {}


def main() -> int:
    options = parse_options()
    with tempfile.TemporaryDirectory() as directory:
        box = ThisBox() if options.real else FakeBox(Path(directory), gpus=options.gpus)
        bare = bare_loop(box, options.readings)
        say("bare loop over memory", *bare, bare[1])
        say("a reading", *readings(box, options.readings), bare[1])
        say("a reading with a checkup", *readings(box, options.readings, checkup=True), bare[1])
        if not options.real:
            sys.stdout.write(f"calls of NVML in a reading: {calls(box)}, with a checkup: {calls(box, checkup=True)}\n")
    return 0


def bare_loop(box: FakeBox, count: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU, for each round over all devices."""
    command = [sys.executable, "-c", BARE, str(count)]
    said = subprocess.run(command, env={**os.environ, **box.env}, check=True, capture_output=True, text=True).stdout
    wall, cpu = map(float, said.split())
    return wall / count, cpu / count


def readings(box: FakeBox, count: int, *, checkup: bool = False) -> tuple[float, float]:
    """Seconds until the answer is here, and seconds of the prober's CPU, for each reading."""
    asked = Asked(box)
    try:
        for number in range(WARM):
            asked.read(number, checkup=checkup)
        process = psutil.Process(asked.process.pid)
        before, began = sum(process.cpu_times()[:2]), time.perf_counter()
        for number in range(count):
            asked.read(number, checkup=checkup)
        took = time.perf_counter() - began
        return took / count, (sum(process.cpu_times()[:2]) - before) / count
    finally:
        asked.close()


def calls(box: FakeBox, *, checkup: bool = False) -> int:
    """How often a reading that is not the first calls the library."""
    asked = Asked(box)
    try:
        asked.read(1, checkup=checkup)
        before = len(box.calls())
        asked.read(2, checkup=checkup)
        return len(box.calls()) - before
    finally:
        asked.close()


def say(what: str, wall_s: float, cpu_s: float, base_s: float) -> None:
    ratio = cpu_s / base_s if base_s else float("nan")
    sys.stdout.write(f"{what:26} {1e3 * wall_s:8.2f} ms {1e3 * cpu_s:8.2f} ms CPU {ratio:7.1f}\n")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polling", description=__doc__)
    parser.add_argument("--gpus", type=int, default=8, help="of the fake box (8)")
    parser.add_argument("--readings", type=int, default=300, help="how many are timed (300)")
    parser.add_argument("--real", action="store_true", help="ask the driver of this machine")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
