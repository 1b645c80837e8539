"""
GPUs that MIG cuts up, and such as have the host's memory: which a machine has, and who changes that while it runs.

Drawn from a generator of its own, so that the lives of machines without such GPUs are what they were.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.sim.devices import GIB, Gpu

if TYPE_CHECKING:
    from tests.sim.ram import Ram

PARTS_MAX = 4


def furnish(gpus: list[Gpu], rng: random.Random) -> None:
    """Some or all GPUs of some machines can be cut up, and may be so from the beginning; of others one is unified."""
    kind = rng.choice(("plain", "plain", "some", "every", "unified")) if gpus else "plain"
    if kind == "unified":
        rng.choice(gpus).is_unified = True
    for gpu in gpus if kind in {"some", "every"} else ():
        if gpu.total is not None and (kind == "every" or rng.random() < 0.5):
            gpu.parts = [_part(gpu, number, rng) for number in range(rng.randint(1, PARTS_MAX))]
            recut(gpu, rng)


def lend(ram: Ram, gpus: list[Gpu]) -> None:
    """Give the host's memory to GPUs that have none of their own."""
    for gpu in gpus:
        if gpu.is_unified:
            gpu.host, gpu.total = ram, ram.total
            ram.gpus.append(gpu)


def _part(gpu: Gpu, number: int, rng: random.Random) -> Gpu:
    """An instance that there may be: of another size than its neighbour, with a number that is not its place."""
    assert gpu.total is not None
    size = rng.choice((2 * GIB, gpu.total // 8, gpu.total // 4))
    uuid = f"MIG-{rng.getrandbits(16):04x}-{gpu.slot}.{number}"
    return Gpu(uuid, gpu.slot, size, parent=gpu, instance=(3 + 2 * number, 0))


def recut(gpu: Gpu, rng: random.Random) -> None:
    """MIG is switched on or off, or stays on with other instances: none, some or all, gaps between them too."""
    gpu.is_cut = rng.random() < 0.7
    has_none = rng.random() < 0.25
    for part in gpu.parts:
        part.is_there = not has_none and rng.random() < 0.75


def old_name(part: Gpu) -> str:
    """What drivers before 470 call an instance: its GPU and its numbers."""
    assert part.parent is not None
    assert part.instance is not None
    return f"MIG-{part.parent.uuid}/{part.instance[0]}/{part.instance[1]}"


def is_in_use(gpu: Gpu) -> bool:
    """Whether any process has opened it, or a part of it: then no driver lets it be cut anew."""
    return bool(gpu.used) or any(part.used for part in gpu.parts)
