"""
Questions through a crash storm: status requests and scrapes at a steady rate, and how late the daemon's loop is.

    python benchmarks/load.py [--workers 100] [--rate 200] [--scrapes 1] [--seconds 20] [--uptime 1]

Every worker ends with 1 after about a second and is restarted at once. Requests are sent when they are due, whether or
not those before were answered, so a slow answer hides nothing. The loop's delay is the daemon's own: from the coming of
an event to the turn that looks at it, as its metrics have it; once without a question, once with them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60.0

SERVICE = """\
services:
  bench:
    command: [sh, -c, 'exec sleep {uptime}.$(WORKER_INDEX)']
    workers: {count}
    ready: {{after: 100ms}}
    restart: {{delay: 0s, limit: 0, start_limit: 0}}
    stop: {{timeout: 1s}}
"""

BUCKET = re.compile(r'gpu_supervisor_loop_delay_seconds_bucket\{le="([^"]+)"\} ([0-9.]+)')
RESTARTS = re.compile(r"gpu_supervisor_restarts_total\{[^}]*\} ([0-9.]+)")


@dataclass
class Figures:
    """What was measured in one phase."""

    status_s: list[float] = field(default_factory=list)
    scrape_s: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    delays: dict[float, float] = field(default_factory=dict)
    restarts: float = 0.0
    cpu_s: float = 0.0
    took_s: float = 0.0


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        home = Path(folder)
        file = home / "bench.yaml"
        file.write_text(SERVICE.format(uptime=options.uptime, count=options.workers))
        socket = home / "s"
        command = [sys.executable, "-m", "supervisor", "run", str(file), "--socket", str(socket)]
        with (home / "log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        try:
            asyncio.run(measure(socket, daemon.pid, options))
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(PATIENCE_S)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--rate", type=float, default=200.0, help="status requests per second")
    parser.add_argument("--scrapes", type=float, default=1.0, help="per second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--uptime", type=int, default=1, help="seconds that a worker lives")
    return parser.parse_args()


async def measure(socket: Path, pid: int, options: argparse.Namespace) -> None:
    connector = aiohttp.UnixConnector(str(socket), limit=0)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await wait_up(session, options.workers)
        quiet = await phase(session, pid, options, rate=0.0, scrapes=0.0)
        loaded = await phase(session, pid, options, rate=options.rate, scrapes=options.scrapes)
    report(quiet, loaded, options)


async def wait_up(session: aiohttp.ClientSession, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with session.get("http://localhost/v1/status") as answer:
                    (service,) = (await answer.json())["services"]
                if sum(worker["restarts"] > 0 for worker in service["workers"]) == count:
                    return
            except (OSError, aiohttp.ClientError, ValueError):
                pass
            await asyncio.sleep(0.2)


async def phase(
    session: aiohttp.ClientSession, pid: int, options: argparse.Namespace, *, rate: float, scrapes: float
) -> Figures:
    """The storm for some time, and so many questions a second."""
    figures = Figures()
    before, begun, cpu_s = await read_metrics(session), time.monotonic(), cpu_of(pid)
    async with asyncio.TaskGroup() as tasks:
        for path, times, each in (
            ("/v1/status", figures.status_s, rate),
            ("/v1/metrics", figures.scrape_s, scrapes),
        ):
            plan = [number / each for number in range(int(each * options.seconds))]
            tasks.create_task(ask_steadily(tasks, plan, lambda due, p=path, t=times: ask(session, p, due, t, figures)))
        await asyncio.sleep(options.seconds)
    figures.took_s, figures.cpu_s = time.monotonic() - begun, cpu_of(pid) - cpu_s
    after = await read_metrics(session)
    figures.delays = {bound: count - before[0][bound] for bound, count in after[0].items()}
    figures.restarts = after[1] - before[1]
    return figures


async def ask_steadily(
    tasks: asyncio.TaskGroup, plan: list[float], make: Callable[[float], Coroutine[None, None, None]]
) -> None:
    """Questions when they are due, seconds from now."""
    begun = time.monotonic()
    for at in plan:
        await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
        tasks.create_task(make(begun + at))


async def ask(session: aiohttp.ClientSession, path: str, due: float, times: list[float], figures: Figures) -> None:
    try:
        async with session.get(f"http://localhost{path}") as answer:
            figures.bytes += len(await answer.read())
            if answer.status != 200:
                figures.failed[str(answer.status)] += 1
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        figures.failed[f"{type(error).__name__} {getattr(error, 'errno', None) or ''}".strip()] += 1
    times.append(time.monotonic() - due)


async def read_metrics(session: aiohttp.ClientSession) -> tuple[dict[float, float], float]:
    """The buckets of the loop's delay, and the restarts until now."""
    async with session.get("http://localhost/v1/metrics") as answer:
        text = await answer.text()
    buckets = {float(bound): float(count) for bound, count in BUCKET.findall(text)}
    return buckets, sum(map(float, RESTARTS.findall(text)))


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantile(delays: dict[float, float], share: float) -> str:
    """The bound of the bucket in which it lies, in milliseconds."""
    total = delays[float("inf")]
    bounds = sorted(delays)
    found = next(bound for bound in bounds if delays[bound] >= share * total)
    return f"> {bounds[-2] * 1e3:g}" if found == float("inf") else f"<= {found * 1e3:g}"


def report(quiet: Figures, loaded: Figures, options: argparse.Namespace) -> None:
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, {options.workers} workers")
    print(f"{'':44}{'storm alone':>14}{'and questions':>16}")
    for name, value in (
        ("restarts a second", lambda one: f"{one.restarts / one.took_s:.0f}"),
        ("CPU of the daemon, cores", lambda one: f"{one.cpu_s / one.took_s:.2f}"),
        ("delay of the loop, p50, ms", lambda one: quantile(one.delays, 0.5)),
        ("delay of the loop, p99, ms", lambda one: quantile(one.delays, 0.99)),
        ("delay of the loop, p99.9, ms", lambda one: quantile(one.delays, 0.999)),
    ):
        print(f"{name:44}{value(quiet):>14}{value(loaded):>16}")
    for name, times in (("status", loaded.status_s), ("scrape", loaded.scrape_s)):
        if len(times) > 1:
            cuts = statistics.quantiles(times, n=100, method="inclusive")
            words = f"median {cuts[49] * 1e3:.1f}, p99 {cuts[98] * 1e3:.1f}, max {max(times) * 1e3:.1f} ms"
            print(f"{name}: {len(times)} answered, {words}")
    storm_s = quiet.cpu_s / max(1.0, quiet.restarts) * loaded.restarts
    answered = len(loaded.status_s) - sum(loaded.failed.values())
    print(f"CPU of an answer, beside that of the storm: {(loaded.cpu_s - storm_s) / max(1, answered) * 1e3:.1f} ms")
    print(f"failed: {dict(loaded.failed) or 'none'}; {loaded.bytes / len(loaded.status_s) / 1024:.0f} KiB an answer")


if __name__ == "__main__":
    main()
