"""Hands what comes into the core, and what it did, to the flight recorder's files; see core.recording."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import structlog

from supervisor import __version__
from supervisor.core.message import Action, Event
from supervisor.core.recording import Scribe, Stamp, error_words
from supervisor.core.turn import Fleet
from supervisor.host.clock import Clock
from supervisor.host.flight import Ring

log = structlog.get_logger()

AGAIN_S = 60.0
"""After which a disk that took nothing is tried again, and at most how often a broken invariant makes a copy."""


class Recorder:
    """
    Records one fleet. What a turn of the loop brought is written at its end, so that nothing waits for it.

    Args:
        ring: Where to.
        clock: Time.
        key: Random bytes, for digests of what is not written down; see Veil.
    """

    def __init__(self, ring: Ring, clock: Clock, key: bytes) -> None:
        self._ring = ring
        self._clock = clock
        self._scribe = Scribe(key)
        self._scribe_of_fleets = Scribe(key)  # Of the ring's thread.
        self._life = blake2b(key, digest_size=8, person=b"life").hexdigest()
        self._number = 0
        self._heard: list[tuple[float, Event, tuple[Action, ...] | str]] = []
        self._is_on = False
        self._is_told = False
        self._tried_at: float | None = None
        self._dumped_at: float | None = None

    def begin(self, fleet: Fleet) -> None:
        """Begin a segment with the fleet as it is; what was heard before is in it already."""
        self._heard.clear()
        stamp = Stamp(__version__, self._life, self._number, self._clock.monotonic(), self._clock.wall())
        self._tried_at = stamp.now
        self._is_on = True
        scribe = self._scribe_of_fleets
        self._ring.begin(lambda: scribe.begin(stamp, fleet))

    def hear(self, now: float, event: Event, actions: tuple[Action, ...]) -> None:
        """One turn of the core."""
        if self._is_on:
            self._heard.append((now, event, actions))

    def hear_broken(self, now: float, event: Event, error: Exception, fleet: Fleet) -> Path | None:
        """An event of which only an error came: where a copy of the recording will be, if there is to be one."""
        if not self._is_on:
            return None
        self._heard.append((now, event, error_words(error)))
        if self._dumped_at is not None and now < self._dumped_at + AGAIN_S:
            return None
        self._dumped_at = now
        self.flush(fleet)
        return self._ring.dump(f"broken-{self._clock.rfc3339(now).replace(':', '')}.jsonl") if self._is_on else None

    def flush(self, fleet: Fleet) -> None:
        """Send what was heard on its way; to be called when *fleet* is what came of it."""
        if not self._is_on:
            self._try_again(fleet)
        elif self._heard:
            try:
                self._write(fleet)
            except Exception as error:  # noqa: BLE001 - No bug in here is worth a daemon.
                self._give_up(error_words(error))

    def close(self, fleet: Fleet) -> None:
        """The daemon ends."""
        self.flush(fleet)
        self._ring.close()

    def _write(self, fleet: Fleet) -> None:
        if (trouble := self._ring.trouble) is not None:
            self._give_up(trouble)
            return
        self._ring.write(b"".join(self._lines()))
        if self._ring.is_full:
            self._is_told = False
            self.begin(fleet)

    def _give_up(self, trouble: str) -> None:
        """For now; a disk in trouble is told of once."""
        if not self._is_told:
            log.warning("flight.failed", folder=str(self._ring.folder), error=trouble)
        self._is_told = True
        self._is_on = False
        self._heard.clear()

    def _lines(self) -> list[bytes]:
        heard, self._heard = self._heard, []
        lines = []
        for now, event, came in heard:
            self._number += 1
            if isinstance(came, str):
                lines.append(self._scribe.broken(self._number, now, event, came))
            else:
                lines.append(self._scribe.turn(self._number, now, event, came))
        return lines

    def _try_again(self, fleet: Fleet) -> None:
        if self._tried_at is None or self._clock.monotonic() < self._tried_at + AGAIN_S or not self._ring.is_idle:
            return
        self._number += 1  # What came meanwhile is not known: no segment follows the one before.
        self.begin(fleet)
