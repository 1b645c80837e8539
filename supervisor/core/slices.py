"""What the plan is made of: shares of devices, what is there to hand out, what each worker gets. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.core.file.quantities import MIB
from supervisor.core.inventory import Device, Link
from supervisor.core.spec import Amount, Recipe, WorkerSpec, amount_bytes

WHOLE = 1000
"""Shares are integers, in thousandths of a device: sums of floats would refuse the twentieth of twenty 0.05."""

FREE_PERCENT = 90
"""Of a whole device, for a worker that declares nothing: contexts of a desktop or a monitor fit into the rest."""


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """A part of one device: *millis* of 1000."""

    uuid: str
    millis: int = WHOLE


Slice = tuple[Share, ...]
"""The GPUs of one worker, in the order in which it sees them. Empty for a worker without a GPU."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a process is a process of. Only another launch means a new process; CONTRACT, Reload."""

    recipe: Recipe
    slice: Slice = ()


@dataclass(frozen=True)
class Placement:
    """
    What the plan has for one worker.

    Args:
        wanted: What the file asks for; its policies may change under a living process.
        launch: What to run, None when there is no place for it.
        fallback: Runs without the GPU it asked for (``on_no_gpu: cpu``).
        refused: Fails for want of a GPU (``on_no_gpu: fail``).
        reason: Why there is no place, with the arithmetic; or why it falls back. Else empty.
    """

    wanted: WorkerSpec
    launch: Launch | None
    fallback: bool = False
    refused: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Current:
    """
    What a worker has now.

    Args:
        wanted: What the file asked for when it was placed.
        slice: Held by its process, reserved for it, or had by it when it last ran.
        living: It has a process, which stays where it is.
        reserved: The plan keeps these devices for it; False for an index that only remembers where it was.
        fallback: It runs, or is about to run, without the GPU it asked for.
    """

    wanted: WorkerSpec
    slice: Slice
    living: bool
    reserved: bool = True
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Supply:
    """
    What there is to hand out.

    Args:
        devices: Of the pool, in the pool's order.
        trusted: Whether a good reading (or a known absence) says so. Without one, nothing new is placed
            and `on_no_gpu` is not asked.
        detail: Why it is not trusted, or why there is nothing.
        outside: Devices of the machine that are not in the pool.
        elsewhere: UUID -> which other daemon has it, in words.
        links: Between devices, each pair once.
        dirty: UUIDs of devices on which memory of the dead is left: the last choice for who has yet to start.
        unready: UUIDs of devices on which nobody can start yet: still later a choice.
        headroom: Memory of each device that is never given away; None = the larger of 512MiB and 2 %.
    """

    devices: tuple[Device, ...] = ()
    trusted: bool = False
    detail: str = "the GPUs have not been read yet"
    outside: tuple[Device, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    headroom: Amount | None = None
    dirty: frozenset[str] = frozenset()
    unready: frozenset[str] = frozenset()


def headroom_bytes(headroom: Amount | None, total: int) -> int:
    """What is left free on a device of so many bytes."""
    return max(512 * MIB, total // 50) if headroom is None else amount_bytes(headroom, total)


def declared_bytes(placement: Placement, total: int) -> int:
    """What a worker declares on a device of so many bytes."""
    amount = placement.wanted.request.gpu_memory
    return 0 if amount is None else amount_bytes(amount, total)
