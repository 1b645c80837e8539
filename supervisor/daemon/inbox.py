"""What the main loop waits for: events, in the order in which they came, and deadlines, earliest first."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable

from supervisor.core.message import Event
from supervisor.core.spec import WorkerId

Owner = WorkerId | None
"""Whose deadline: a worker's, or the fleet's own."""


class Inbox:
    """
    Events on their way to the core. One reader, which sleeps until there is something or its time has come.

    Args:
        monotonic: Seconds; those of the loop stand still while it turns.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._came_at = 0.0
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Add an event and wake the reader."""
        if not self._events:
            self._came_at = self._monotonic()
        self._events.append(event)
        self.wake()

    @property
    def delay_s(self) -> float | None:
        """For how long the oldest event has waited, None when there is none."""
        return self._monotonic() - self._came_at if self._events else None

    def take(self) -> tuple[Event, ...]:
        """Everything that has come. What comes meanwhile is for the next turn."""
        events = tuple(self._events)
        self._events.clear()
        return events

    async def wait(self, until: float | None) -> None:
        """
        Sleep until there is an event or the time has come.

        Args:
            until: Second of the loop's clock, None for no limit.
        """
        if self._events:
            # One round for the descriptors, so that a flood of events starves nobody.
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if until is None else loop.call_at(until, self.wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """Let the reader look again: its next deadline may be another one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Deadlines:
    """At most one deadline for each owner; a heap in which those that were moved are passed over."""

    def __init__(self) -> None:
        self._at: dict[Owner, float] = {}
        self._heap: list[tuple[float, int, Owner]] = []
        self._count = 0

    def set(self, owner: Owner, at: float | None) -> None:
        """Set or move a deadline; None takes it away."""
        if self._at.get(owner) == at:
            return
        if at is None:
            del self._at[owner]
            return
        self._at[owner] = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, owner))
        if len(self._heap) > 64 + 4 * len(self._at):
            self._rebuild()

    def earliest(self) -> float | None:
        """The next deadline, None when there is none."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> tuple[WorkerId, ...] | None:
        """
        Owners whose deadline has come; their deadlines are gone with this.

        Returns:
            Workers, possibly none when only the fleet's own is due; None when nothing is.
        """
        due: list[WorkerId] = []
        any_due = False
        while (at := self.earliest()) is not None and at <= now:
            _, _, owner = heapq.heappop(self._heap)
            del self._at[owner]
            any_due = True
            if owner is not None:
                due.append(owner)
        return tuple(due) if any_due else None

    def _rebuild(self) -> None:
        """Deadlines that were moved stay in the heap until they come up: not for ever, if they move often."""
        self._heap = [(at, number, owner) for number, (owner, at) in enumerate(self._at.items())]
        self._count = len(self._heap)
        heapq.heapify(self._heap)
