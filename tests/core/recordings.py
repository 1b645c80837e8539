"""Recordings as a daemon makes them, of what a test lets a fleet meet."""

from __future__ import annotations

import json
from typing import Any

from supervisor import __version__
from supervisor.core.environment import Host
from supervisor.core.fleet import handle
from supervisor.core.message import Event
from supervisor.core.recording import Outcome, Scribe, Stamp, replay
from supervisor.core.turn import Fleet
from tests.sim.trouble import Step


class Record:
    """A recording in the making, with a new segment every so many turns."""

    def __init__(self, every: int = 1000) -> None:
        self.lines: list[bytes] = []
        self.number = 0
        self.fleet = Fleet(host=Host({"HOME": "/root/secret"}))
        self._every = every
        self._scribe = Scribe(b"key")

    def begin(self, fleet: Fleet, now: float) -> None:
        self.lines += self._scribe.begin(Stamp(__version__, "life", self.number, now, now + 1.7e9), fleet)

    def hear(self, step: Step) -> None:
        if self.number % self._every == 0:
            self.begin(step.before, step.now)
        self.number += 1
        self.lines.append(self._scribe.turn(self.number, step.now, step.event, step.actions))

    def meet(self, event: Event, now: float = 10.0) -> None:
        before = self.fleet
        self.fleet, actions = handle(before, event, now)
        self.hear(Step(before, event, actions, self.fleet, now))

    def change(self, line: int, **changes: Any) -> None:
        """Write something else into a line."""
        self.lines[line] = json.dumps(json.loads(self.lines[line]) | changes).encode() + b"\n"

    def play(self) -> list[Outcome]:
        return list(replay(self.lines, __version__))
