"""When the main loop has to turn, and whether it was kept from it. Knows no clock."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.core.spec import WorkerId

BEAT_S = 2.0
"""Between two turns while a limit runs for some worker: what is lost of a stall's length is at most this. Else none."""

STALLED_S = 0.5
"""So late the loop is not for want of speed."""


class Pulse:
    """Measures for how long the daemon did not run, where that matters to somebody."""

    def __init__(self) -> None:
        self._counted: set[WorkerId] = set()
        self._wake_at: float | None = None

    def note(self, worker: WorkerId, *, is_counted: bool) -> None:
        """Whether a limit runs for a worker from now on."""
        (self._counted.add if is_counted else self._counted.discard)(worker)

    def plan(self, now: float, deadlines: Iterable[float | None]) -> float | None:
        """Second of the next turn though nothing happens, None for never."""
        coming = [at for at in deadlines if at is not None]
        if self._counted:
            coming.append(now + BEAT_S)
        self._wake_at = min(coming, default=None)
        return self._wake_at

    def lost_s(self, now: float) -> float:
        """How many seconds late this turn is, 0 for one in time."""
        late_s = 0.0 if self._wake_at is None else now - self._wake_at
        return late_s if late_s > STALLED_S else 0.0
