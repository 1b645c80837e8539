"""
Owns time: the only place that asks the machine what time it is.

Decides nothing and waits for nothing; the core gets its `now` as an argument, the loop owns the timers.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from math import floor

OFFSET_TOLERANCE_S = 0.1
"""Far above the jitter of two readings and the wander of a disciplined clock, far below what a person would notice."""


class Clock:
    """Monotonic seconds for decisions, wall time for people, and the way from the first to the second."""

    def __init__(self) -> None:
        self._offset_s = self.wall() - self.monotonic()

    def monotonic(self) -> float:
        """Seconds that never jump, on the scale of the event loop's own time."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970, as the machine believes; somebody may set them back or forth."""
        return time.time()

    def rfc3339(self, monotonic_s: float) -> str:
        """
        Say when a monotonic second was, by the wall clock as it stands now.

        Args:
            monotonic_s: A second that `monotonic` gave, or one to come.

        Returns:
            UTC, whole seconds: ``2026-11-20T10:00:00Z``.
        """
        offset_s = self.wall() - self.monotonic()
        # A new offset each time would make one moment flicker between two seconds, and who compares two answers
        # would take that for a change.
        if abs(offset_s - self._offset_s) > OFFSET_TOLERANCE_S:
            self._offset_s = offset_s
        return _write_second(floor(monotonic_s + self._offset_s))


@lru_cache(maxsize=4096)
def _write_second(second: int) -> str:
    """Half of what a status costs is its times, and most of them it had before."""
    return datetime.fromtimestamp(second, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
