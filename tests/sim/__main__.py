"""Many lives at once: ``python -m tests.sim --seeds 2000 [--start N] [--jobs 2] [--trace SEED]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.sim.life import Life, live

CHUNK = 25
SHOWN = 2
SEEDS_SHOWN = 10
LINE_MAX = 300


def main() -> int:
    """Live the lives of many seeds; 1 if one of them broke a rule."""
    options = _options()
    if options.trace is not None:
        life = live(options.trace, keep_trace=True)
        _say(life.story)
        _say(f"seed {life.seed}: {life.rule or 'all is well'}, {life.steps} steps, trace {life.digest}")
        return bool(life.rule)
    began = time.monotonic()
    lives, broken = [], []
    for life in _live_all(range(options.start, options.start + options.seeds), options.jobs):
        lives.append(life)
        if not life.rule:
            continue
        broken.append(life)
        if len(broken) <= SHOWN:
            _show(life)
        else:
            _say(f"seed {life.seed} broke {life.rule}")
    for rule in sorted({life.rule for life in broken}):
        seeds = [life.seed for life in broken if life.rule == rule]
        _say(f"{rule}: {len(seeds)} seeds, {', '.join(map(str, seeds[:SEEDS_SHOWN]))}")
    steps, hours = sum(life.steps for life in lives), sum(life.virtual_s for life in lives) / 3600
    _say(
        f"{len(lives)} seeds, {len(broken)} broken; {steps} steps in {hours:.0f} virtual hours"
        f" took {time.monotonic() - began:.0f} s"
    )
    return bool(broken)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Lives of a daemon in the simulator.")
    parser.add_argument("--seeds", type=int, default=2000, help="how many lives (2000)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes to share the work (2)")
    parser.add_argument("--trace", type=int, metavar="SEED", help="one life, every step of it")
    return parser.parse_args()


def _live_all(seeds: range, jobs: int) -> Iterator[Life]:
    if jobs <= 1:
        yield from map(live, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(live, seeds, chunksize=CHUNK)


def _show(life: Life) -> None:
    _say(f"---- seed {life.seed} broke {life.rule} after {life.steps} steps; its last ones:")
    for line in life.story.splitlines()[-25:]:
        _say(line if len(line) <= LINE_MAX else line[: LINE_MAX - 3] + "...")
    _say(f"replay: python -m tests.sim --trace {life.seed}")
    _say(f"keep:   echo '{life.seed} what it showed' >> tests/sim/seeds.txt\n")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
