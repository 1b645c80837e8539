"""What hangs together of the devices that nobody has, once some of them are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supervisor.core.bitsets import bits, first_of, islands_of


class Rests:
    """
    The biggest rest, for many sets of one search.

    What is not to choose from stays whatever is taken: its parts are looked at once, and are links between candidates
    from then on. Nor does a set change anything in an island that it is not in.

    Args:
        linked: For each device those it is linked to.
        islands: Connected sets of all devices.
        candidates: What the sets are taken from.
        empty: All on which nobody is.
    """

    def __init__(self, linked: Sequence[int], islands: Sequence[int], candidates: int, empty: int) -> None:
        self.linked = linked
        self.islands = islands
        self.candidates = candidates
        self.open = candidates & empty
        self.near = {at: linked[at] & self.open for at in bits(self.open)}
        """For each candidate on which nobody is those it is linked to, by way of devices that stay too."""
        self.parts = dict.fromkeys(self.near, 0)
        """For each such candidate the devices that stay and are linked to it, by way of others that stay too."""
        self._private = dict.fromkeys(self.near, 1)
        self._staying = dict.fromkeys(islands, 0)
        for island in islands:
            for part in islands_of(linked, empty & ~candidates & island):
                self._add_part(island, part)
        self._sizes = {
            island: max(self._staying[island], self._biggest_in(island, 0)) for island in islands if island & empty
        }
        self._largest = sorted(self._sizes, key=self._sizes.__getitem__, reverse=True)[:2]

    def _add_part(self, island: int, part: int) -> None:
        beside = 0
        for at in bits(part):
            beside |= self.linked[at] & self.open
        for at in bits(beside):
            self.near[at] |= beside
            self.parts[at] |= part
        if beside.bit_count() == 1:
            self._private[first_of(beside)] += part.bit_count()
        self._staying[island] = max(self._staying[island], part.bit_count())

    def least(self, island: int) -> int:
        """What is left whichever set is taken from an island."""
        elsewhere = max((self._sizes[one] for one in self._largest if one != island), default=0)
        return max(elsewhere, self._staying[island])

    def most(self, island: int, count: int) -> int:
        """
        What no linked set of so many from an island can leave more of: with each goes what hangs on it alone.

        What of a linked set is left to others hangs together before it is taken.
        """
        groups = list(self._groups(island, 0))
        taken = island & self.candidates & ~self.open
        best = self.least(island)
        for members, size in groups:
            costs = sorted(self._private.get(at, 0) for at in bits(members | taken))
            if len(costs) >= count:
                beside = max((other for group, other in groups if group != members), default=0)
                best = max(best, beside, size - sum(costs[:count]))
        return best

    def biggest_without(self, mine: int, island: int) -> int:
        """How many devices the biggest rest has once a set of candidates is taken from an island."""
        return max(self.least(island), self._biggest_in(island, mine))

    def _biggest_in(self, island: int, mine: int) -> int:
        return max((size for _, size in self._groups(island, mine)), default=0)

    def _groups(self, island: int, mine: int) -> Iterator[tuple[int, int]]:
        """Candidates that hang together once a set is taken, and how many devices do with what stays."""
        left = self.open & island & ~mine
        while left:
            found = edge = left & -left
            parts = 0
            while edge and found != left:
                at = first_of(edge)
                more = self.near[at] & left & ~found
                found, edge, parts = found | more, (edge & (edge - 1)) | more, parts | self.parts[at]
            for at in bits(edge):
                parts |= self.parts[at]
            yield found, found.bit_count() + parts.bit_count()
            left &= ~found
