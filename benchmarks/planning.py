"""
Planning: every worker of a file onto the devices of a machine, the first time and once more with all in place.

    python -m benchmarks.planning [--rounds 7]

Machines grow by powers of two, four workers for each device; the last columns are what one worker costs, and stay
about level where the plan grows with what there is to place. The machines are made up: 8 GPUs a NUMA node, with
NVLink inside a node up to 64 of them.

Then sets of linked devices, to choose from 16 of 64, where the links are hard to search: the size of a set that takes
longest, and how long. In each shape the sixteen are all linked to each other, and the others hang on them.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import TypeVar

from supervisor.core.inventory import Device, Link
from supervisor.core.plan import Current, Placement, Supply, make_plan
from supervisor.core.spec import WorkerId, WorkerSpec, parse_spec
from supervisor.core.topology import Topology

Made = TypeVar("Made")

GIB = 2**30
LINKED_MAX = 64
TARGET = (1024, 4096)


def main() -> int:
    rounds = parse_options().rounds
    sys.stdout.write("devices  workers  mix          first ms  again ms  first us/worker  again us/worker\n")
    for mix, make in MIXES.items():
        for count in (8, 16, 64, 256, 512, 1024):
            supply, workers = machine(count), list(make(count))
            first, plan = timed(partial(make_plan, workers, supply, {}), rounds)
            there = in_place(plan)
            again, _ = timed(partial(make_plan, workers, supply, there), rounds)
            placed = sum(one.launch is not None for one in plan.values())
            each = [1e6 * seconds / len(workers) for seconds in (first, again)]
            sys.stdout.write(
                f"{count:7}  {len(workers):7}  {mix:11}  {1e3 * first:8.1f}  {1e3 * again:8.1f}"
                f"  {each[0]:15.1f}  {each[1]:15.1f}  ({placed} placed)\n"
            )
            sys.stdout.flush()
    sys.stdout.write("\nthe others hang on     size  ms\n")
    for shape, links in SHAPES.items():
        topology = Topology(machine(64).devices, tuple(links()))
        times = {size: timed(partial(topology.choose, size, 0xFFFF, 0, (1 << 64) - 1), rounds)[0] for size in SIZES}
        size = max(times, key=times.__getitem__)
        sys.stdout.write(f"{shape:21}  {size:4}  {1e3 * times[size]:.1f}\n")
    return 0


def timed(make: Callable[[], Made], rounds: int) -> tuple[float, Made]:
    """Median of the rounds, in seconds of CPU: what it says hardly depends on who else is on the machine."""
    times = []
    for _ in range(rounds):
        gc.collect()
        begin = time.process_time()
        made = make()
        times.append(time.process_time() - begin)
    return statistics.median(times), made


def in_place(plan: dict[WorkerId, Placement]) -> dict[WorkerId, Current]:
    """What workers have once a plan was carried out."""
    return {
        worker: Current(one.wanted, one.launch.slice, living=True)
        for worker, one in plan.items()
        if one.launch is not None
    }


# ---- what is planned ------------------------------------------------------------------------------------------------


def machine(count: int) -> Supply:
    """So many GPUs of 80 GiB."""
    devices = tuple(
        Device(f"GPU-{at:08x}", at, "NVIDIA H100 80GB HBM3", f"{at:04x}:10:00.0", at // 8, 80 * GIB, 79 * GIB)
        for at in range(count)
    )
    pairs = combinations(devices, 2) if count <= LINKED_MAX else ()
    links = tuple(Link(a.uuid, b.uuid, 18 if a.numa == b.numa else 0, 40 if a.numa == b.numa else 50) for a, b in pairs)
    return Supply(devices, trusted=True, detail="", links=links)


def quarters(count: int) -> Iterator[WorkerSpec]:
    """Four on each."""
    yield from workers("a", 4 * count, {"gpu": 0.25, "gpu_memory": "15GiB"})


def mixed(count: int) -> Iterator[WorkerSpec]:
    """Fractions of many sizes in turn, single GPUs, pairs and fours; in the end some find no place."""
    half = count // 2
    yield from workers("pairs", count // 16, {"gpu": 2})
    yield from workers("fours", count // 32, {"gpu": 4})
    yield from workers("ones", count // 8, {"gpu": 1, "gpu_type": "nvidia-h100-80gb"})
    for number in range(8):
        yield from workers(f"f{number}", half // 2, {"gpu": (10 + number) / 100, "gpu_memory": f"{5 + number}GiB"})
    rest = 4 * count - count // 16 - count // 32 - count // 8 - 8 * (half // 2)
    yield from workers("listed", rest, [{"gpu": (1 + number % 7) / 100} for number in range(rest)])


def ones(count: int) -> Iterator[WorkerSpec]:
    """A GPU each: three of four find none."""
    yield from workers("a", 4 * count, {"gpu": 1})


def tails() -> Iterator[Link]:
    """Three in a row on each of the sixteen."""
    yield from linked(combinations(range(16), 2))
    yield from linked((at, at + 16) for at in range(48))


def shared(owners: int) -> Iterator[Link]:
    """Each of the others on several, which are not the same for any two where that can be."""
    dice = random.Random(owners)
    yield from linked(combinations(range(16), 2))
    yield from linked((one, at) for at in range(16, 64) for one in dice.sample(range(16), owners))


def linked(pairs: Iterable[tuple[int, int]]) -> Iterator[Link]:
    devices = machine(64).devices
    yield from (Link(devices[a].uuid, devices[b].uuid, 2, 40) for a, b in pairs)


def workers(name: str, count: int, resources: object) -> tuple[WorkerSpec, ...]:
    service: dict[str, object] = {"command": "serve", "workers": resources if isinstance(resources, list) else count}
    service |= {} if isinstance(resources, list) else {"resources": resources}
    made = parse_spec({"services": {name: service}}, base_dir="/").expand(1)
    return tuple(replace(one, recipe=made[0].recipe) for one in made)


MIXES: dict[str, Callable[[int], Iterator[WorkerSpec]]] = {"quarters": quarters, "mixed": mixed, "ones": ones}
SHAPES: dict[str, Callable[[], Iterator[Link]]] = {
    "one, three in a row": tails,
    "two": partial(shared, 2),
    "three": partial(shared, 3),
}
SIZES = range(2, 16)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time that planning takes.")
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
