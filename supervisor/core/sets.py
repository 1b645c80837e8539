"""The best of all linked sets of a few devices. Looks at each of them, so it is made to be quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from supervisor.core.bitsets import bits, common_of, is_before
from supervisor.core.rests import Rests

_BOUND_MAX = 3
"""With so many missing or fewer it pays to see whether what there is leaves too little already."""


def best_set(rests: Rests, count: int, required: int) -> int:
    """
    The set in which everybody is linked to everybody that leaves the biggest rest; of those the first.

    Args:
        rests: Of the candidates, 16 at most.
        count: How many of them.
        required: Candidates that are to be in it.

    Returns:
        Their bits; 0 where no set is linked so.
    """
    biggest, chosen = -1, 0
    for island in rests.islands:
        among = island & rests.candidates
        if required & ~among or among.bit_count() < count or rests.most(island, count) < biggest:
            continue
        rest, found = _best_in(rests, island, count, required)
        if found and (rest > biggest or (rest == biggest and is_before(found, chosen))):
            biggest, chosen = rest, found
    return chosen


def _best_in(rests: Rests, island: int, count: int, required: int) -> tuple[int, int]:
    """The best set of one island and its rest; found by the number of a device among the few, not among all."""
    among = island & rests.candidates
    places = list(bits(among))
    number_of = {at: number for number, at in enumerate(places)}

    def narrow(mask: int) -> int:
        return sum(1 << number_of[at] for at in bits(mask & among))

    linked, must = [narrow(rests.linked[at]) for at in places], narrow(required)
    open_to = common_of(linked, narrow(among), must)
    if open_to is None:
        return -1, 0
    near, parts = [narrow(rests.near.get(at, 0)) for at in places], [rests.parts.get(at, 0) for at in places]
    rest_of = _make_rest_of(near, parts, narrow(rests.open), rests.least(island))
    if must.bit_count() == count:
        return rest_of(must), required
    search = _Search(linked, rest_of, rests.most(island, count))
    search.extend(must, open_to, count - must.bit_count())
    return search.biggest, sum(1 << places[number] for number in bits(search.chosen))


class _Search:
    """
    Goes through the sets in their order, so of those that leave as much the first one counts.

    Args:
        linked: For each device those it is linked to.
        rest_of: The biggest rest without a set.
        most: More than this no set leaves.
    """

    def __init__(self, linked: Sequence[int], rest_of: Callable[[int], int], most: int) -> None:
        self.biggest, self.chosen = -1, 0
        self._linked, self._rest_of, self._most = linked, rest_of, most

    def extend(self, mine: int, open_to: int, missing: int) -> None:
        """Look at every set that *mine* and some of those that it is open to make."""
        if missing <= _BOUND_MAX and self._rest_of(mine) <= self.biggest:
            return  # The more is taken, the less is left.
        while open_to.bit_count() >= missing and self.biggest < self._most:
            low = open_to & -open_to
            open_to ^= low
            if missing > 1:
                self.extend(mine | low, open_to & self._linked[low.bit_length() - 1], missing - 1)
            elif (rest := self._rest_of(mine | low)) > self.biggest:
                self.biggest, self.chosen = rest, mine | low


def _make_rest_of(near: Sequence[int], parts: Sequence[int], empty: int, least: int) -> Callable[[int], int]:
    """A function for the biggest rest without a set. What eight devices are linked to is looked up in one step."""
    near_low, near_high = _unions(near[:8]), _unions(near[8:])
    parts_low, parts_high = _unions(parts[:8]), _unions(parts[8:])

    def rest_of(mine: int) -> int:
        biggest = least
        left = empty & ~mine
        while left:
            found, before = left & -left, 0
            while found not in (before, left):
                before = found
                found |= (near_low[found & 255] | near_high[found >> 8]) & left
            more = parts_low[found & 255] | parts_high[found >> 8]
            if (size := found.bit_count() + more.bit_count()) > biggest:
                biggest = size
            left ^= found
        return biggest

    return rest_of


def _unions(masks: Sequence[int]) -> list[int]:
    """For each set of a few the union of their masks."""
    unions = [0]
    for mask in masks:
        unions += [mask | union for union in unions]
    return unions
