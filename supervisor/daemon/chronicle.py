"""What happened to the fleet: its newest events for whoever follows them, and the last deaths of each worker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from supervisor.core.message import Action, Report, Say, Transition
from supervisor.core.snapshot import Json
from supervisor.core.spec import WorkerId
from supervisor.core.story import device_json, make_death, transition_json
from supervisor.core.turn import Fleet
from supervisor.daemon.telling import chooser

KEPT = 4096
"""Events of all workers and devices together; who follows more slowly than that is let go."""

KEPT_EACH = 32
DEATHS = 10
BATCH = 256


@dataclass(frozen=True, slots=True)
class DeviceNews:
    """
    What became of a device.

    Args:
        said: The line about it.
        at: Monotonic second.
        workers: Who was there.
    """

    said: Say
    at: float
    workers: tuple[WorkerId, ...]


class Chronicle:
    """
    Listens to what each turn of the core reports.

    Args:
        rfc3339: A monotonic second as a wall time.
        bury: Takes the record of a death for good, without waiting.
    """

    def __init__(self, rfc3339: Callable[[float], str], bury: Callable[[WorkerId, Json], None]) -> None:
        self._rfc3339 = rfc3339
        self._bury = bury
        self._ring: deque[tuple[int, Transition | DeviceNews]] = deque(maxlen=KEPT)
        self._number = 0
        self._stories: dict[WorkerId, deque[Transition]] = {}
        self._deaths: dict[WorkerId, deque[Json]] = {}
        self._wakes: set[asyncio.Event] = set()
        self._is_closed = False

    def hear(self, before: Fleet, after: Fleet, actions: Iterable[Action], now: float) -> None:
        """One turn of the core."""
        has_news = False
        for action in actions:
            if isinstance(action, Report):
                self._take(action.transition)
                has_news = True
            elif isinstance(action, Say) and action.event.startswith("device.") and "device" in action.fields:
                workers = action.fields.get("workers")
                named = workers if isinstance(workers, list) else ()
                self._keep(DeviceNews(action, now, tuple(WorkerId.parse(str(one)) for one in named)))
                has_news = True
        for worker in after.touched:
            self._look(before, after, worker)
            has_news |= self._hear_of_excess(before, after, worker, now)
        if has_news:
            self._wake()

    def _take(self, transition: Transition) -> None:
        self._keep(transition)
        self._stories.setdefault(transition.worker, deque(maxlen=KEPT_EACH)).append(transition)

    def _keep(self, news: Transition | DeviceNews) -> None:
        self._number += 1
        self._ring.append((self._number, news))

    def _hear_of_excess(self, before: Fleet, after: Fleet, worker: WorkerId, now: float) -> bool:
        """One that has come to have too much of a GPU: no step of it, and news all the same."""
        old, new = before.workers.get(worker), after.workers.get(worker)
        if old is None or new is None or old.excess or not new.excess:
            return False
        cause = "GpuMemoryExceeded"
        self._take(Transition(worker, new.incarnation, old.state, old.state, cause, now, new.excess, {}))
        return True

    def _look(self, before: Fleet, after: Fleet, worker: WorkerId) -> None:
        old, new = before.workers.get(worker), after.workers.get(worker)
        if new is None:
            self._stories.pop(worker, None)
            self._deaths.pop(worker, None)
        elif old is not None and new.last_exit is not old.last_exit:
            death = make_death(before, old, new, self._stories.get(worker, ()), self._rfc3339)
            if death is not None:
                # The lines are in the log and in the file; ten times a hundred of each worker are too much to hold.
                kept = {key: value for key, value in death.items() if key not in {"tail", "timeline"}}
                self._deaths.setdefault(worker, deque(maxlen=DEATHS)).append(kept)
                self._bury(worker, death)

    def story(self, worker: WorkerId) -> Json:
        """What `explain` adds: its last transitions and deaths, oldest first."""
        return {
            "transitions": [transition_json(one, self._rfc3339) for one in self._stories.get(worker, ())],
            "deaths": list(self._deaths.get(worker, ())),
        }

    async def follow(
        self, target: str | None, *, lines: int | None, after: int | None, follow: bool
    ) -> AsyncGenerator[Json, None]:
        """
        The last transitions of some workers and news of their devices, and then what happens to them.

        Args:
            target: ``llm``, ``llm/0``, None for everybody. It need not be there, or not yet.
            lines: At the most; None for all that are kept.
            after: Only those with a higher number.
            follow: Go on until the daemon ends or the reader is too slow.

        Yields:
            ``{"lines": [...]}``, each with its number; at the end ``{"end": "done" | "stopping" | "slow"}``.
        """
        chosen = chooser(target)

        def wants(one: Transition | DeviceNews) -> bool:
            if isinstance(one, Transition):
                return chosen(one.worker)
            return target is None or any(map(chosen, one.workers))

        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            kept = [one for one in self._ring if wants(one[1]) and (after is None or one[0] > after)]
            kept = kept if lines is None else kept[len(kept) - min(lines, len(kept)) :]
            newest, is_slow = self._number, False
            for batch in _batches(kept):
                yield self._json(batch)
            while follow and not is_slow and not (self._is_closed and newest == self._number):
                is_slow = bool(self._ring) and self._ring[0][0] > newest + 1
                news = [one for one in self._ring if one[0] > newest and wants(one[1])]
                newest = self._number
                for batch in _batches(news):
                    yield self._json(batch)
                if newest == self._number and not (self._is_closed or is_slow):
                    wake.clear()
                    await wake.wait()
            yield {"end": "slow" if is_slow else "stopping" if self._is_closed else "done"}
        finally:
            self._wakes.discard(wake)

    def close(self) -> None:
        """The daemon ends: nobody follows any more."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()

    def _json(self, batch: list[tuple[int, Transition | DeviceNews]]) -> Json:
        return {"lines": [{"number": number, **self._line(one)} for number, one in batch]}

    def _line(self, one: Transition | DeviceNews) -> Json:
        if isinstance(one, Transition):
            return transition_json(one, self._rfc3339)
        return device_json(one.said, self._rfc3339(one.at))


def _batches(found: list[tuple[int, Transition | DeviceNews]]) -> Iterable[list[tuple[int, Transition | DeviceNews]]]:
    rest = iter(found)
    while batch := list(islice(rest, BATCH)):
        yield batch
