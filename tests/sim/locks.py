"""Machine-wide claims on devices, ours and those of other daemons."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from supervisor.core.message import DevicesClaimed, DevicesFreed, Event
from tests.sim.agenda import Agenda


class FakeLocks:
    """
    One lock for each device; the first to take it has it.

    Args:
        agenda: Time.
        post: Where answers go.
        rng: For how long they take.
    """

    def __init__(self, agenda: Agenda, post: Callable[[Event], None], rng: random.Random) -> None:
        self.ours: set[str] = set()
        self.rivals: set[str] = set()
        self._watched: set[str] = set()
        self._agenda = agenda
        self._post = post
        self._rng = rng

    def claim(self, uuids: Iterable[str]) -> None:
        """Whoever asks gets what nobody has, at once; the answer takes a moment."""
        asked = set(uuids)
        held = asked & self.rivals
        self.ours |= asked - held
        self._watched |= held
        answer = DevicesClaimed(tuple(sorted(asked - held)), dict.fromkeys(sorted(held), "held by another daemon"))
        self._agenda.after(self._rng.choice((0.0, 0.0, 0.05)), lambda: self._post(answer))

    def let_go(self, uuids: Iterable[str]) -> None:
        """Others may have them."""
        self.ours -= set(uuids)

    def come(self, uuid: str) -> None:
        """Another daemon takes a device, unless it is ours."""
        if uuid not in self.ours:
            self.rivals.add(uuid)

    def leave(self, uuid: str) -> None:
        """Another daemon lets go; who was refused hears of it, later than the answer that refused him."""
        self.rivals.discard(uuid)
        if uuid in self._watched:
            self._watched.discard(uuid)
            self._agenda.after(0.06, lambda: self._post(DevicesFreed((uuid,))))
