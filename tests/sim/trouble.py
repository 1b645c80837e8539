"""What a rule is asked about, and what is raised when it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from supervisor.core.message import Action, Event, RestartRequested, Spawn, StartRequested, StopRequested
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker

if TYPE_CHECKING:
    from tests.sim.world import World

EPSILON_S = 1e-6
"""Sums of seconds are floats."""


class TroubleError(Exception):
    """A rule is broken."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


@dataclass(frozen=True)
class Change:
    """One worker before and after a step; None where it was not there."""

    id: WorkerId
    before: Worker | None
    after: Worker | None


@dataclass(frozen=True)
class Step:
    """One call of `handle`."""

    before: Fleet
    event: Event
    actions: tuple[Action, ...]
    after: Fleet
    now: float

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Workers that are not what they were."""
        old, new = self.before.workers, self.after.workers
        if old is new:
            return ()
        ids = list(new) + [worker for worker in old if worker not in new]
        pairs = ((one, old.get(one), new.get(one)) for one in ids)
        return tuple(Change(one, before, after) for one, before, after in pairs if before is not after)

    @cached_property
    def spawns(self) -> tuple[Spawn, ...]:
        """What it starts."""
        return tuple(action for action in self.actions if isinstance(action, Spawn))


def is_named(event: Event, worker: WorkerId) -> bool:
    """Whether an order of an operator is about a worker, by its own name or its service's."""
    if not isinstance(event, StartRequested | StopRequested | RestartRequested):
        return False
    return worker in event.workers or worker.service in event.services


Rule = Callable[["World", Step], Iterator[str]]
"""Says what is wrong, if anything; its name is the rule."""
