"""Virtual time: what is still to come, in order. Nothing here sleeps."""

from __future__ import annotations

import heapq
from collections.abc import Callable

START_S = 1000.0
"""Monotonic clocks do not start at zero; code that takes 0 for "never" is found that way."""


class Agenda:
    """A clock and what is to happen; two things of one moment happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = START_S
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, at: float, do: Callable[[], None]) -> None:
        """Let something happen at a second, or now if that has passed."""
        self._count += 1
        heapq.heappush(self._heap, (max(at, self.now), self._count, do))

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        """Let something happen after so many seconds."""
        self.at(self.now + delay_s, do)

    def next_at(self) -> float | None:
        """When the next thing happens, None if nothing is to come."""
        return self._heap[0][0] if self._heap else None

    def run_due(self) -> None:
        """Everything whose time has come; the clock stands still meanwhile."""
        while self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()
