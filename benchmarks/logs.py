"""
Output of workers through `Outputs` into a rotating file and into stderr, beside `cat` from pipes into a file.

    python benchmarks/logs.py [--mib 256] [--rounds 3] [--writers 1,50]

The three take turns inside each round, with the same writers, so that ratios hold on a machine whose speed drifts.
Memory is that of a process of its own, before the first byte and at its highest.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from supervisor.core.spec import Logs, WorkerId
from supervisor.host.logs import Outputs
from supervisor.host.sink import Sink

LINE = b"2026-11-20 10:00:00,123 INFO  engine.py:312 request 4711 finished, 128 tokens, 1.234 s, cache hit 0.93\n"
KINDS = ("cat", "file", "inherit")


def main() -> None:
    options = parse_options()
    for writers in options.writers:
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        grown: dict[str, int] = {}
        for _ in range(options.rounds):
            for kind in KINDS:
                seconds, kib = in_process(kind, writers, options.mib)
                rates[kind].append(options.mib / seconds)
                grown[kind] = max(grown.get(kind, 0), kib)
        cat = statistics.median(rates["cat"])
        for kind in KINDS:
            rate = statistics.median(rates[kind])
            more = "" if kind == "cat" else f", {cat / rate:.2f} x the time of cat, memory grew by {grown[kind]} KiB"
            sys.stdout.write(f"{writers:3} writers, {kind:7}: {rate:6.0f} MiB/s{more}\n")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput of workers' output against cat.")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=lambda text: [int(one) for one in text.split(",")], default=[1, 50])
    return parser.parse_args()


def in_process(kind: str, writers: int, mib: int) -> tuple[float, int]:
    """Measure in a process that is new; seconds, and KiB by which it grew."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (kind, writers, mib))


def measure(kind: str, writers: int, mib: int) -> tuple[float, int]:
    size = mib * 1024 * 1024 // writers
    with tempfile.TemporaryDirectory(prefix="gpu-supervisor-bench-") as folder:
        block = Path(folder, "block")
        block.write_bytes(LINE * (1024 * 1024 // len(LINE)))
        if kind == "cat":
            return by_cat(Path(folder), block, writers, size), 0
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(by_us(kind, Path(folder), block, writers, size))


def write_into(fd: int, block: Path, size: int) -> subprocess.Popen[bytes]:
    """A process that writes that many bytes as fast as they are taken."""
    command = ["cat", *[str(block)] * max(1, size // block.stat().st_size)]
    process = subprocess.Popen(command, stdout=fd, stdin=subprocess.DEVNULL)
    os.close(fd)
    return process


def by_cat(folder: Path, block: Path, writers: int, size: int) -> float:
    began = time.monotonic()
    readers = []
    for number in range(writers):
        read_end, write_end = os.pipe()
        with (folder / f"{number}.log").open("wb") as out:
            readers.append(subprocess.Popen(["cat"], stdin=read_end, stdout=out))
        os.close(read_end)
        readers.append(write_into(write_end, block, size))
    for reader in readers:
        reader.wait()
    return time.monotonic() - began


async def by_us(kind: str, folder: Path, block: Path, writers: int, size: int) -> tuple[float, int]:
    with (folder / "stderr").open("wb") as stderr:
        sink = Sink(stderr.fileno())
    outputs = Outputs(asyncio.get_running_loop(), sink)
    logs = Logs(kind="file", file=str(folder / "$(N).log")) if kind == "file" else Logs()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    processes = []
    for number in range(writers):
        fd = outputs.open(WorkerId("bench", number), 1, logs, {"N": str(number)})
        processes.append(write_into(fd, block, size))
    while any(pipe.fd is not None for pipe in outputs._pipes.values()):  # noqa: SLF001, ASYNC110 - Every end of file.
        await asyncio.sleep(0.005)
    outputs.close_all()
    sink.close()
    seconds = time.monotonic() - began
    for process in processes:
        process.wait()
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


if __name__ == "__main__":
    main()
