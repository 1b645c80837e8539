"""Sets of devices as integers with a bit for each, in the order of the devices. A thousand are as quick as eight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def bits(mask: int) -> Iterator[int]:
    """Positions of the devices in a set, in their order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def first_of(mask: int) -> int:
    """Position of the first device in a set that is not empty."""
    return (mask & -mask).bit_length() - 1


def is_before(one: int, other: int) -> bool:
    """Whether of two sets of a size the one has the first device that not both have."""
    differing = one ^ other
    return bool(one & differing & -differing)


def common_of(near: Sequence[int], candidates: int, required: int) -> int | None:
    """Candidates linked to all the required ones; None where those are not linked to each other."""
    common = candidates & ~required
    for position in bits(required):
        if required & ~near[position] & ~(1 << position):
            return None
        common &= near[position]
    return common


def islands_of(near: Sequence[int], among: int) -> Iterator[int]:
    """Connected parts of a set, by their first device."""
    while among:
        island = edge = among & -among
        while edge:
            low = edge & -edge
            found = near[low.bit_length() - 1] & among & ~island
            island, edge = island | found, (edge ^ low) | found
        yield island
        among &= ~island
