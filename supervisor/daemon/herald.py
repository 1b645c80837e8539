"""What the service manager is told about the daemon, and when. Without one there is no herald."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from supervisor.core.standing import in_words, is_under_way, is_up
from supervisor.core.turn import DaemonState, Fleet

GATHER_S = 0.1
"""A thousand workers that end at once are one change of the line, not a thousand."""

EXTEND_S = 45.0
"""Asked for while something of the start is under way, again and again; the manager's own limit is often 90 s."""

RENEW_S = 15.0

CLOSE_S = 15.0
"""After the last worker: prober, probes, keeper and shims, each with limits far below that."""


class Voice(Protocol):
    """The way to the service manager."""

    def tell(self, **fields: str | int) -> None:
        """Send one message, without waiting."""

    def close(self) -> None:
        """Be silent from now on."""


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """Not any more."""


class Herald:
    """
    Tells the service manager how the fleet stands, at changes only, and that the main loop turns.

    Args:
        voice: The way to it.
        watchdog_s: Within how many seconds it wants to hear of the loop, None for never.
        monotonic: The clock.
        call_later: The event loop's.
    """

    def __init__(
        self,
        voice: Voice,
        *,
        watchdog_s: float | None,
        monotonic: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._voice = voice
        self._monotonic = monotonic
        self._call_later = call_later
        self._timer: Timer | None = None
        self._renewal: Timer | None = None
        self._fleet: Fleet | None = None
        self._is_up = False
        self._state = DaemonState.STARTING
        self._words = ""
        self._stop_by = 0.0
        # Half, as sd_watchdog_enabled(3) recommends: one turn may come late.
        self._ping_s = None if watchdog_s is None else watchdog_s / 2
        self.ping_at = None if self._ping_s is None else monotonic() + self._ping_s

    def look(self, fleet: Fleet) -> None:
        """Something may have changed. Cheap: how the workers stand is looked up a moment later."""
        self._fleet = fleet
        if fleet.state is DaemonState.STOPPING or (self._is_up and fleet.state is not self._state):
            self._change_state(fleet)
        if self._timer is None:
            self._timer = self._call_later(GATHER_S, self._tell)

    def turned(self) -> None:
        """The main loop has taken a full turn. Only this is a sign of life: a loop that is stuck gives none."""
        now = self._monotonic()
        if self.ping_at is not None and self._ping_s is not None and now >= self.ping_at:
            self.ping_at = now + self._ping_s
            self._voice.tell(watchdog=1)

    def close(self, words: str) -> None:
        """The daemon ends: its last words."""
        for timer in (self._timer, self._renewal):
            if timer is not None:
                timer.cancel()
        self._voice.tell(status=words)
        self._voice.close()

    def _change_state(self, fleet: Fleet) -> None:
        """Reloading, running again, stopping: at once, since somebody waits for it."""
        was, self._state = self._state, fleet.state
        now = self._monotonic()
        if fleet.state is DaemonState.STOPPING:
            if was is not DaemonState.STOPPING:
                self._voice.tell(stopping=1, **self._changed_words(fleet))
            # Another layer may get its own time: as long as the deadline moves away, so does the manager's.
            if fleet.deadline is not None and fleet.deadline > self._stop_by:
                self._stop_by = fleet.deadline
                self._voice.tell(extend_timeout_usec=_usec(fleet.deadline - now + CLOSE_S))
        elif fleet.state is DaemonState.RELOADING:
            self._voice.tell(reloading=1, monotonic_usec=_usec(now), **self._changed_words(fleet))
        elif was is DaemonState.RELOADING:
            self._voice.tell(ready=1, **self._changed_words(fleet))

    def _tell(self) -> None:
        self._timer = None
        fleet = self._fleet
        assert fleet is not None
        fields: dict[str, str | int] = {}
        if not self._is_up and fleet.state is not DaemonState.STOPPING:
            if is_up(fleet):
                self._is_up, self._state = True, fleet.state
                fields["ready"] = 1
            elif self._renewal is None:
                self._renew()
        fields.update(self._changed_words(fleet))
        if fields:
            self._voice.tell(**fields)

    def _renew(self) -> None:
        """Ask for more time, as long as what the start waits for has a deadline of its own."""
        self._renewal = None
        if not self._is_up and self._fleet is not None and is_under_way(self._fleet):
            self._voice.tell(extend_timeout_usec=_usec(EXTEND_S))
            self._renewal = self._call_later(RENEW_S, self._renew)

    def _changed_words(self, fleet: Fleet) -> dict[str, str]:
        words = in_words(fleet)
        if words == self._words:
            return {}
        self._words = words
        return {"status": words}


def _usec(seconds: float) -> int:
    return max(1, round(seconds * 1e6))
