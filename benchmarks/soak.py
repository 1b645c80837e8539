"""
A real daemon under random trouble for minutes: crashes, orphans, log floods, reloads, operators, a driver that errs.

Prints memory, descriptors, threads and processes of the daemon, its keeper and its shims over time. Ends with 1 when
they are not flat or the log has `daemon.invariant_broken`. Run as `python -m benchmarks.soak --minutes 5`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.e2e.harness import RunningDaemon, wait_for
from tests.nvml.fake import FakeBox

FLOOD = "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123; done"
ORPHAN = "setsid sleep 1000 & exec sleep 1000"
BRIEF = "sleep 0.3; exit 1"
WARM_UP = 0.2
"""Part of the time after which everything has its size: pools, caches, the arena of the allocator."""

ROOM_KIB = 8 * 1024
ROOM = 8


@dataclass(frozen=True)
class Sample:
    """What the daemon has at one moment."""

    at: float
    rss_kib: int
    descriptors: int
    threads: int
    processes: int
    restarts: int


def file(rng: random.Random) -> str:
    """The same services with other numbers."""
    return f"""
services:
  gpu: {{command: sleep 1000, workers: {rng.randint(1, 4)}, resources: {{gpu: 1}}, ready: {{after: 50ms}},
        stop: {{timeout: 1s}}, restart: {{delay: 50ms, max_delay: 500ms, start_limit: 0, limit: 0}}}}
  tree: {{command: [sh, -c, "{ORPHAN}"], workers: {rng.randint(1, 6)}, ready: {{after: 50ms}}, stop: {{timeout: 1s}},
         env: {{ROUND: "{rng.randint(0, 2)}"}}, restart: {{delay: 50ms, max_delay: 500ms, start_limit: 0, limit: 0}}}}
  flood: {{command: [sh, -c, "{FLOOD}"], workers: {rng.randint(0, 1)}, ready: {{after: 50ms}}, stop: {{timeout: 1s}}}}
  brief: {{command: [sh, -c, "{BRIEF}"], workers: {rng.randint(1, 3)}, ready: {{after: 50ms}},
          restart: {{delay: 50ms, max_delay: 500ms, start_limit: 0, limit: 0}}}}
"""


class Soak:
    """One daemon and what is done to it."""

    def __init__(self, home: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.box = FakeBox(home, gpus=4)
        self.daemon = RunningDaemon(home, file(self.rng), box=self.box)
        self.done: dict[str, int] = {}

    def live(self, minutes: float) -> list[Sample]:
        wait_for(self.daemon.workers, "the daemon")
        start = time.monotonic()
        samples, next_at = [], start
        while (now := time.monotonic()) < start + minutes * 60:
            if now >= next_at:
                samples.append(self.sample(now - start))
                print(
                    "{:7.1f} s {:7d} KiB {:5d} fds {:3d} threads {:4d} processes {:6d} restarts".format(
                        *vars(samples[-1]).values()
                    ),
                    flush=True,
                )
                next_at = now + max(2.0, minutes * 60 / 40)
            do = self.rng.choice(
                [
                    self.crash,
                    self.crash,
                    self.crash,
                    self.reload,
                    self.bad_reload,
                    self.operate,
                    self.lose_shim,
                    self.lose_keeper,
                    self.driver,
                    self.ask,
                ]
            )
            do()
            self.done[do.__name__] = self.done.get(do.__name__, 0) + 1
            time.sleep(self.rng.uniform(0.0, 0.2))
        return samples

    # ---- trouble -----------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        pids = [one["pid"] for one in self.daemon.workers().values() if one["pid"]]
        for pid in self.rng.sample(pids, min(len(pids), self.rng.choice((1, 1, 2, 8)))):
            _kill(pid)

    def reload(self) -> None:
        self.daemon.write(file(self.rng))
        self.daemon.send(signal.SIGHUP)

    def bad_reload(self) -> None:
        self.daemon.write("services: {broken")
        self.daemon.ask("/v1/reload", method="POST")
        self.reload()

    def operate(self) -> None:
        """Answers 404 where it is not built, which is a request too."""
        verb = self.rng.choice(("stop", "start", "start", "restart"))
        self.daemon.ask(f"/v1/{verb}?target={self.rng.choice(('tree', 'gpu/0', 'brief'))}", method="POST")

    def lose_shim(self) -> None:
        keeper = _children(self.daemon.pid)
        shims = [shim for pid in keeper for shim in _children(pid)]
        if shims:
            _kill(self.rng.choice(shims))

    def lose_keeper(self) -> None:
        if self.rng.random() < 0.2:
            for pid in _children(self.daemon.pid)[:1]:
                _kill(pid)

    def driver(self) -> None:
        if self.rng.random() < 0.5:
            self.box.init_code(self.rng.choice((9, 999)))
        else:
            self.box.heal()

    def ask(self) -> None:
        for path in ("status", "devices", "plan"):
            self.daemon.ask(f"/v1/{path}")

    # ---- what it has -------------------------------------------------------------------------------------------------

    def sample(self, at: float) -> Sample:
        proc = Path(f"/proc/{self.daemon.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        restarts = sum(one["restarts"] for one in self.daemon.workers().values())
        return Sample(
            at,
            int(status["VmRSS"].split()[0]),
            len(list((proc / "fd").iterdir())),
            int(status["Threads"]),
            len(list(_below(self.daemon.pid))),
            restarts,
        )


def not_flat(samples: list[Sample]) -> Iterator[str]:
    """What has grown between the first half after the warm-up and the last quarter, by their medians."""
    warm = samples[int(len(samples) * WARM_UP) :]
    reads: dict[str, tuple[Callable[[Sample], int], int]] = {
        "RSS in KiB": (lambda one: one.rss_kib, ROOM_KIB),
        "descriptors": (lambda one: one.descriptors, 4 * ROOM),
        "threads": (lambda one: one.threads, ROOM),
        "processes": (lambda one: one.processes, 4 * ROOM),
    }
    for name, (read, room) in reads.items():
        values = [read(one) for one in warm]
        early = sorted(values[: len(values) // 2])[len(values) // 4]
        late = sorted(values[-max(1, len(values) // 4) :])[max(1, len(values) // 4) // 2]
        print(f"{name}: {early} -> {late}")
        if late > early + max(room, early // 10):
            yield f"{name} went from {early} to {late}"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _below(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _below(child)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        soak = Soak(Path(home), asked.seed)
        try:
            samples = soak.live(asked.minutes)
            complaints = list(not_flat(samples))
            status = soak.daemon.stop()
        finally:
            soak.daemon.end()
        text = soak.daemon.output
        print("done:", ", ".join(f"{name} {count}" for name, count in sorted(soak.done.items())))
        complaints += [line[:2000] for line in text.splitlines() if "daemon.invariant_broken" in line][:3]
        complaints += [f"it ended with {status}"] if status else []
    for complaint in complaints:
        print("FAILED:", complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
