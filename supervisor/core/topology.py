"""
Which devices belong together: sets for workers with several, and single ones from where they break the least.

Sets are integers with a bit for each device, in the order of the devices given: a thousand are as quick as eight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supervisor.core.bitsets import bits, common_of, first_of, is_before, islands_of
from supervisor.core.inventory import Device, Link
from supervisor.core.rests import Rests
from supervisor.core.sets import best_set

EXHAUSTIVE_MAX = 16
"""Every set of so many is looked at; of more, those that grow from each device in turn."""

_LEVEL_SCORES = {0: 60, 10: 50, 20: 40, 30: 30, 40: 20}
_SAME_NODE, _ANY = 20, 10
_FINE_MAX = 64  # Islands beyond this are weighed by their own size alone.


@dataclass(frozen=True, slots=True)
class Level:
    """
    The devices as they hang together by links of a quality or a better one.

    Args:
        near: For each device those it is linked to so well.
        islands: Connected sets, by their first device.
        island_of: For each device its island.
        is_flat: Within each island everybody is linked to everybody: any part of it will do.
    """

    near: Sequence[int]
    islands: Sequence[int]
    island_of: Sequence[int]
    is_flat: bool


class Topology:
    """
    How devices are connected.

    Args:
        devices: In the order in which they are handed out where links do not matter.
        links: Between them; a pair that is not here counts by its NUMA nodes.
    """

    def __init__(self, devices: Sequence[Device], links: Sequence[Link]) -> None:
        self.levels = _make_levels(devices, links)
        self._last = (0, 0, 0)

    def choose_one(self, candidates: int, empty: int) -> int:
        """
        The device whose loss breaks up the least: outside intact islands first, then from the smallest.

        Args:
            candidates: To choose from; at least one.
            empty: All on which nobody is.

        Returns:
            Its bit.
        """
        if not self.levels:
            return candidates & -candidates
        finest = self.levels[0]
        expected, among, island = self._last
        if part := island & candidates if empty == expected and not candidates & ~among else 0:
            # Nobody else has been placed since, so what was the best of these to break up is even more so now.
            first = part & -part
            self._last = (empty & ~first, candidates, island)
            return first
        levels = self.levels if len(finest.islands) <= _FINE_MAX else self.levels[:1]
        best: tuple[tuple[tuple[bool, int], ...], int] | None = None
        for island in finest.islands:
            if part := island & candidates:
                first = part & -part
                found = (tuple(_wholeness(level, first.bit_length() - 1, empty) for level in levels), first)
                best = found if best is None or found < best else best
        assert best is not None, "somebody to choose from"
        first = best[1]
        self._last = (empty & ~first, candidates, finest.island_of[first.bit_length() - 1])
        return first

    def choose(self, count: int, candidates: int, required: int, empty: int) -> int:
        """
        The best linked set: the worst link in it counts, then what hangs together in the rest, then who comes first.

        Args:
            count: How many; at most as many as there are candidates.
            candidates: To choose from.
            required: Candidates that are to be in it; at most *count*.
            empty: All on which nobody is.

        Returns:
            Their bits.
        """
        for level in self.levels:
            if level.is_flat:
                found = _choose_flat(level, count, candidates, required, empty)
            else:
                found = _choose_linked(level, count, candidates, required, empty)
            if found:
                return found
        return _fill(required, candidates, count)


# ---- choosing -------------------------------------------------------------------------------------------------------


def _wholeness(level: Level, position: int, empty: int) -> tuple[bool, int]:
    """Whether the island of a device is intact, and how many of it are left."""
    island = level.island_of[position]
    left = (island & empty).bit_count()
    return left > 1 and island & empty == island, left


def _fill(required: int, candidates: int, count: int) -> int:
    """The required ones and the first of the others."""
    chosen, rest = required, candidates & ~required
    for _ in range(count - required.bit_count()):
        low = rest & -rest
        chosen, rest = chosen | low, rest ^ low
    return chosen


def _choose_flat(level: Level, count: int, candidates: int, required: int, empty: int) -> int:
    """Any part of an island will do; the one that leaves the biggest rest."""
    sizes = [(island & empty).bit_count() for island in level.islands]
    biggest = max(sizes, default=0)
    is_alone = sizes.count(biggest) == 1
    second = max((size for size in sizes if size != biggest), default=0) if is_alone else biggest
    best: tuple[int, int] | None = None
    chosen = 0
    for island, size in zip(level.islands, sizes, strict=True):
        part = island & candidates
        if required & ~part or part.bit_count() < count:
            continue
        rest = max(size - count, second if size == biggest else biggest)
        found = (-rest, part & -part)  # Islands have no device in common, so the first one decides.
        if best is None or found < best:
            best, chosen = found, part
    return _fill(required, chosen, count) if chosen else 0


def _choose_linked(level: Level, count: int, candidates: int, required: int, empty: int) -> int:
    """A set in which everybody is linked to everybody, where not everybody of an island is."""
    rests = Rests(level.near, level.islands, candidates, empty)
    if candidates.bit_count() <= EXHAUSTIVE_MAX:
        return best_set(rests, count, required)
    biggest, chosen = -1, 0
    for mine in _grown_sets(level.near, count, candidates, required):
        rest = rests.biggest_without(mine, level.island_of[first_of(mine)])
        if rest > biggest or (rest == biggest and is_before(mine, chosen)):
            biggest, chosen = rest, mine
    return chosen


def _grown_sets(near: Sequence[int], count: int, candidates: int, required: int) -> Iterator[int]:
    """From each device in turn, always the next one that is linked to all there are."""
    common = common_of(near, candidates, required)
    if common is None:
        return
    if required.bit_count() == count:
        yield required
        return
    seen: set[int] = set()
    for seed in bits(common):
        mine, open_to = required | 1 << seed, common & near[seed]
        while open_to and mine.bit_count() < count:
            low = open_to & -open_to
            mine, open_to = mine | low, open_to & near[low.bit_length() - 1]
        if mine.bit_count() == count and mine not in seen:
            seen.add(mine)
            yield mine


# ---- levels ---------------------------------------------------------------------------------------------------------


def _make_levels(devices: Sequence[Device], links: Sequence[Link]) -> list[Level]:
    """The best links first. Levels at which everybody hangs together with everybody say nothing and are left out."""
    position = {device.uuid: number for number, device in enumerate(devices)}
    at_score: dict[int, list[int]] = {}
    known = [0] * len(devices)
    for link in links:
        if (one := position.get(link.one)) is None or (other := position.get(link.other)) is None or one == other:
            continue
        score = 100 * link.nvlinks if link.nvlinks else _LEVEL_SCORES.get(link.level, _ANY)
        pairs = at_score.setdefault(score, [0] * len(devices))
        pairs[one] |= 1 << other
        pairs[other] |= 1 << one
        known[one] |= 1 << other
        known[other] |= 1 << one
    nodes: dict[int, int] = {}
    for number, device in enumerate(devices):
        if device.numa is not None:
            nodes[device.numa] = nodes.get(device.numa, 0) | 1 << number
    for number, device in enumerate(devices):
        if device.numa is not None and (beside := nodes[device.numa] & ~known[number] & ~(1 << number)):
            at_score.setdefault(_SAME_NODE, [0] * len(devices))[number] |= beside
    at_score.pop(_ANY, None)
    return list(_levels(at_score, len(devices)))


def _levels(at_score: dict[int, list[int]], count: int) -> Iterator[Level]:
    near = [0] * count
    for score in sorted(at_score, reverse=True):
        near = [one | more for one, more in zip(near, at_score[score], strict=True)]
        islands = list(islands_of(near, (1 << count) - 1))
        island_of = [0] * count
        for island in islands:
            for number in bits(island):
                island_of[number] = island
        is_flat = all(near[number] | 1 << number == island_of[number] for number in range(count))
        if is_flat and len(islands) == 1:
            return
        yield Level(near, islands, island_of, is_flat)
