"""
Output of workers through `Outputs` into a rotating file and into stderr, beside `cat` from pipes into a file.

    python benchmarks/logs.py [--mib 512] [--rounds 7] [--writers 1,50] [--folder DIR]

The three take turns inside each round: the same bytes, from the same writers, through pipes of the same size, into
files of the same file system. Writers stand ready before the clock starts. Each ratio is that of a round; the median
of the rounds is shown, so that it holds on a machine whose speed drifts. CPU time is that of the readers alone, user
and system: what it says hardly depends on who else is on the machine.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import uvloop

from supervisor.core.spec import Logs, WorkerId
from supervisor.host.logs import Outputs
from supervisor.host.sink import Sink

LINE = b"2026-11-20 10:00:00,123 INFO  engine.py:312 request 4711 finished, 128 tokens, 1.234 s, cache hit 0.93\n"
KINDS = ("cat", "file", "inherit", "pipe")
BLOCK_MIB = 1


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: wall and CPU seconds of the readers, and KiB by which their process grew."""

    wall_s: float
    cpu_s: float
    grown_kib: int = 0


def main() -> None:
    options = parse_options()
    for writers in options.writers:
        rounds = [
            {kind: in_process(kind, writers, options.mib, options.folder) for kind in KINDS}
            for _ in range(options.rounds)
        ]
        for kind in KINDS:
            sys.stdout.write(f"{writers:3} writers, {kind:7}: {summary(kind, rounds, options.mib)}\n")
            sys.stdout.flush()


def summary(kind: str, rounds: list[dict[str, Run]], mib: int) -> str:
    rate = statistics.median(mib / each[kind].wall_s for each in rounds)
    cpu_s = statistics.median(each[kind].cpu_s * 1024 / mib for each in rounds)
    text = f"{rate:5.0f} MiB/s, {cpu_s:.2f} CPU s/GiB"
    if kind == "cat":
        return text
    wall = statistics.median(each[kind].wall_s / each["cat"].wall_s for each in rounds)
    cpu = statistics.median(each[kind].cpu_s / each["cat"].cpu_s for each in rounds)
    grown = max(each[kind].grown_kib for each in rounds)
    return f"{text}; beside cat {wall:.2f} x the time, {cpu:.2f} x the CPU; memory grew by {grown} KiB"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput of workers' output against cat.")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--writers", type=lambda text: [int(one) for one in text.split(",")], default=[1, 50])
    parser.add_argument("--folder", help="where files are written (the usual one for temporary files)")
    return parser.parse_args()


def in_process(kind: str, writers: int, mib: int, folder: str | None) -> Run:
    """Measure in a process that is new."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (kind, writers, mib, folder))


def measure(kind: str, writers: int, mib: int, folder: str | None) -> Run:
    temporary = tempfile.TemporaryDirectory(prefix="gpu-supervisor-bench-", dir=folder)
    with temporary as name, Writers(Path(name), writers, mib) as ready:
        if kind == "cat":
            return by_cat(Path(name), ready)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(by_us(kind, Path(name), ready))


class Writers:
    """Processes that write as fast as they are taken from, all from one moment on."""

    def __init__(self, folder: Path, count: int, mib: int) -> None:
        block = folder / "block"
        block.write_bytes(LINE * (BLOCK_MIB * 1024 * 1024 // len(LINE)))
        self.count = count
        self._command = f"read line; exec cat {f'{block} ' * max(1, mib // count // BLOCK_MIB)}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._gate, self._opener = os.pipe()

    def __enter__(self) -> Self:
        return self

    def add(self, fd: int) -> None:
        """One more, which writes into that end of a pipe and has it alone."""
        command = ["sh", "-c", self._command]
        self._processes.append(subprocess.Popen(command, stdin=self._gate, stdout=fd))
        os.close(fd)

    def start(self) -> None:
        """Let them write: `read` in each of them ends at the end of file."""
        os.close(self._opener)

    def __exit__(self, *_: object) -> None:
        os.close(self._gate)
        for process in self._processes:
            process.wait()


def by_cat(folder: Path, writers: Writers) -> Run:
    readers = []
    for number in range(writers.count):
        read_end, write_end = os.pipe()
        with (folder / f"{number}.log").open("wb") as out:
            readers.append(subprocess.Popen(["cat"], stdin=read_end, stdout=out))
        os.close(read_end)
        writers.add(write_end)
    began = time.monotonic()
    writers.start()
    used = [os.wait4(reader.pid, 0)[2] for reader in readers]
    wall_s = time.monotonic() - began
    for reader in readers:
        reader.returncode = 0  # Waited for already.
    return Run(wall_s, sum(one.ru_utime + one.ru_stime for one in used))


async def by_us(kind: str, folder: Path, writers: Writers) -> Run:
    with (folder / "stderr").open("wb") as stderr:
        reader, fd = take_from_pipe(stderr.fileno()) if kind == "pipe" else (None, os.dup(stderr.fileno()))
    sink = Sink(fd)
    os.close(fd)
    outputs = Outputs(asyncio.get_running_loop(), sink)
    logs = Logs(kind="file", file=str(folder / "$(N).log")) if kind == "file" else Logs()
    for number in range(writers.count):
        writers.add(outputs.open(WorkerId("bench", number), 1, logs, {"N": str(number)}))
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    writers.start()
    while any(pipe.fd is not None for pipe in outputs._pipes.values()):  # noqa: SLF001, ASYNC110 - Every end of file.
        await asyncio.sleep(0.005)
    outputs.close_all()
    sink.close()
    if reader is not None:
        reader.wait()
    wall_s = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_s, cpu_s, after.ru_maxrss - before.ru_maxrss)


def take_from_pipe(out: int) -> tuple[subprocess.Popen[bytes], int]:
    """What reads the daemon's stderr in a container or under systemd; and the end to write into."""
    read_end, write_end = os.pipe()
    reader = subprocess.Popen(["cat"], stdin=read_end, stdout=out)
    os.close(read_end)
    return reader, write_end


if __name__ == "__main__":
    main()
