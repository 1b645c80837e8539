"""
What the flight recorder costs: events of a fleet that crashes and comes back, with and without writing them down.

    python -m benchmarks.recording [--workers 200] [--turns 20] [--rounds 5]

Seconds of CPU, of the main loop's own work only: the disk is another thread's business. The last line is the fleet at
the beginning of a segment, which that thread writes too.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from supervisor.core.environment import Host
from supervisor.core.fleet import handle
from supervisor.core.message import Action, BecameReady, Event, Exited, Spawned, SpecLoaded, TimePassed
from supervisor.core.recording import Scribe, Stamp
from supervisor.core.spec import parse_spec
from supervisor.core.turn import Fleet

ENVIRON = {f"VARIABLE_{number}": "value" * 5 for number in range(40)}
LINES = tuple(f"line {number} of what it said before its end" for number in range(20))

Hear = Callable[[float, Event, tuple[Action, ...]], None]


def main() -> int:
    options = parse_options()
    scribe, lines = Scribe(b"key"), [b""]
    plain, recorded = [], []
    for _ in range(options.rounds):  # In turns, so that ratios hold on a machine whose speed drifts.
        plain.append(timed(partial(live, options.workers, options.turns, nothing)))
        lines = []
        recorded.append(timed(partial(live, options.workers, options.turns, partial(write, scribe, lines))))
    count = len(lines)
    without, with_it = (statistics.median(times) / count for times in (plain, recorded))
    sys.stdout.write(
        f"{count} events of {options.workers} workers\n"
        f"without   {1 / without:9.0f} events/s  {1e6 * without:7.1f} us each\n"
        f"recorded  {1 / with_it:9.0f} events/s  {1e6 * with_it:7.1f} us each\n"
        f"ratio     {with_it / without:9.2f}           {sum(map(len, lines)) / count:7.0f} bytes each\n"
    )
    fleet = live(options.workers, 1, nothing)
    size = sum(map(len, scribe.begin(Stamp("", "", 0, 0.0, 0.0), fleet)))
    took = timed(lambda: list(scribe.begin(Stamp("", "", 0, 0.0, 0.0), fleet)))
    sys.stdout.write(f"a segment's fleet: {1e3 * took:.1f} ms, {size / options.workers:.0f} bytes a worker\n")
    return 0


def timed(work: Callable[[], object]) -> float:
    gc.collect()
    begin = time.process_time()
    work()
    return time.process_time() - begin


def live(workers: int, turns: int, hear: Hear) -> Fleet:
    """Every worker starts, gets ready, crashes and waits, so many times."""
    service = {"command": "serve --port $(PORT)", "workers": workers, "port": 10000, "env": {"TOKEN": "x" * 40}}
    service |= {"restart": {"limit": 0, "start_limit": 0}}
    fleet, now = Fleet(host=Host(ENVIRON)), 0.0

    def meet(event: Event) -> None:
        nonlocal fleet
        fleet, actions = handle(fleet, event, now)
        hear(now, event, actions)

    meet(SpecLoaded(parse_spec({"services": {"llm": service}}, base_dir="/")))
    for _ in range(turns):
        for worker in tuple(fleet.workers.values()):
            meet(Spawned(worker.id, worker.incarnation, 4711))
            meet(BecameReady(worker.id, worker.incarnation))
            meet(Exited(worker.id, worker.incarnation, 1, None, alone=True, tail=LINES))
        now += 100.0
        for worker_id in tuple(fleet.workers):
            meet(TimePassed((worker_id,)))
    return fleet


def nothing(_now: float, _event: Event, _actions: tuple[Action, ...]) -> None:
    pass


def write(scribe: Scribe, lines: list[bytes], now: float, event: Event, actions: tuple[Action, ...]) -> None:
    lines.append(scribe.turn(len(lines), now, event, actions))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cost of the flight recorder.")
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
