"""
Crash to restart, and start of many workers, beside a bare C spawner that is compiled on the spot; wake-ups at rest.

    python benchmarks/restart.py [--workers 100] [--kills 50] [--rounds 3] [--rest 10]

The two take turns inside each round, so that ratios hold on a machine whose speed drifts. Times are the worker's own
clock readings, first thing in its `main`. Nothing polls on the measured path.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE_S = 30.0

SERVICE = """\
services:
  bench:
    command: [{worker}, {fifo}, $(WORKER_INDEX)]
    workers: {count}
    stop: {{timeout: 1s}}
    restart: {{delay: 0s, limit: 0, start_limit: 0}}
"""


@dataclass
class Figures:
    """What was measured of one of the two, in seconds."""

    restart: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    start_from_exec: list[float] = field(default_factory=list)
    storm: list[float] = field(default_factory=list)


class Stamps:
    """The FIFO into which every worker says when it began."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)  # Read-write, so that it never ends.
        self._rest = b""

    def read(self, count: int) -> list[tuple[int, int, float]]:
        """The next *count* starts: slot, pid, second."""
        found: list[tuple[int, int, float]] = []
        while len(found) < count:
            *lines, self._rest = self._rest.split(b"\n")
            found += [(int(slot), int(pid), int(ns) / 1e9) for slot, pid, ns in (line.split() for line in lines)]
            if len(found) < count:
                if not select.select([self._fd], [], [], PATIENCE_S)[0]:
                    raise SystemExit(f"cannot measure: {len(found)} of {count} workers started within {PATIENCE_S:g} s")
                self._rest += os.read(self._fd, 65536)
        return found


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="gpu-supervisor-bench-") as folder:
        home = Path(folder)
        for name in ("worker", "spawner"):
            static = ["-static"] if name == "worker" else []
            subprocess.run(["cc", "-O2", *static, "-o", home / name, HERE / f"{name}.c"], check=True)
        bare, ours = Figures(), Figures()
        for number in range(options.rounds):
            measure(bare, home / f"bare{number}", bare_command, options)
            measure(ours, home / f"ours{number}", our_command, options)
        report(bare, ours, options)
        rest = count_wakeups(home / "rest", options)
        print(f"wake-ups per second at rest, {options.workers} workers, all processes of the daemon: {rest:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50, help="single crashes a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rest", type=float, default=10.0, help="seconds at rest")
    return parser.parse_args()


def bare_command(home: Path, count: int) -> list[str]:
    return [str(home.parent / "spawner"), str(count), str(home.parent / "worker"), str(home / "fifo")]


def our_command(home: Path, count: int) -> list[str]:
    file = home / "bench.yaml"
    file.write_text(SERVICE.format(worker=home.parent / "worker", fifo=home / "fifo", count=count))
    return [sys.executable, "-m", "supervisor", "run", str(file), "--socket", str(home / "control.sock")]


@contextmanager
def running(
    home: Path, command: object, options: argparse.Namespace
) -> Iterator[tuple[subprocess.Popen[bytes], Stamps, float]]:
    """One of the two with its workers, ended and gone afterwards."""
    home.mkdir()
    stamps = Stamps(home / "fifo")
    arguments = command(home, options.workers)  # type: ignore[operator]
    begun = time.monotonic()
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=HERE.parent, start_new_session=True
    )
    try:
        yield process, stamps, begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def measure(figures: Figures, home: Path, command: object, options: argparse.Namespace) -> None:
    """One round of one of the two."""
    pids: dict[int, int] = {}
    with running(home, command, options) as (_, stamps, begun):
        first = stamps.read(options.workers)
        pids |= {slot: pid for slot, pid, _ in first}
        times = [at for _, _, at in first]
        figures.start.append(max(times) - min(times))
        figures.start_from_exec.append(max(times) - begun)
        time.sleep(0.5)  # So that the first crash does not meet the tail of the start.
        for _ in range(options.kills):
            slot = random.randrange(options.workers)
            killed_at = time.monotonic()
            os.kill(pids[slot], signal.SIGKILL)
            _, pids[slot], at = stamps.read(1)[0]
            figures.restart.append(at - killed_at)
            time.sleep(random.uniform(0.005, 0.02))
        killed_at = time.monotonic()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        again = stamps.read(options.workers)
        pids |= {slot: pid for slot, pid, _ in again}
        figures.storm.append(max(at for _, _, at in again) - killed_at)
    if "bare" in home.name:
        for pid in pids.values():  # The bare spawner leaves its workers behind.
            os.kill(pid, signal.SIGKILL)


def report(bare: Figures, ours: Figures, options: argparse.Namespace) -> None:
    """Medians and their ratios."""
    count = options.workers
    rows = [
        ("crash to restart, median", bare.restart, ours.restart, statistics.median),
        ("crash to restart, p95", bare.restart, ours.restart, lambda times: statistics.quantiles(times, n=20)[-1]),
        (f"start of {count}, first to last", bare.start, ours.start, statistics.median),
        (f"start of {count}, from exec", bare.start_from_exec, ours.start_from_exec, statistics.median),
        (f"{count} killed at once, all back", bare.storm, ours.storm, statistics.median),
    ]
    print(f"{'':34}{'bare C, ms':>12}{'ours, ms':>12}{'ratio':>8}")
    for name, theirs, our, middle in rows:
        a, b = middle(theirs) * 1e3, middle(our) * 1e3
        print(f"{name:34}{a:12.2f}{b:12.2f}{b / a:8.2f}")


def count_wakeups(home: Path, options: argparse.Namespace) -> float:
    """Context switches per second of the daemon, its keeper and its shims while nothing happens."""
    with running(home, our_command, options) as (process, stamps, _):
        workers = {pid for _, pid, _ in stamps.read(options.workers)}
        time.sleep(3.0)  # Every worker is ready after its first second.
        watched = [pid for pid in descendants(process.pid) if pid not in workers]
        before = sum(map(switches, watched))
        time.sleep(options.rest)
        return (sum(map(switches, watched)) - before) / float(options.rest)


def descendants(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


def switches(pid: int) -> int:
    lines = [
        line for task in Path(f"/proc/{pid}/task").iterdir() for line in (task / "status").read_text().splitlines()
    ]
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


if __name__ == "__main__":
    main()
