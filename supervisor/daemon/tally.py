"""
Counts what happens, for `/v1/metrics`: from the transitions of workers, and from how long things took.

Adds numbers and keeps nothing else; a scrape is what pays for making a page of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from supervisor.core.message import Action, FinishReload, Report, State, Transition
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker
from supervisor.front.counts import Counts, Series

START_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
RELEASE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BACKOFF_S = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
ASK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
XID_MAX = 999
"""What the driver tells beyond it, which may be anything, is counted as one number: labels must not pile up."""
DELAY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


@dataclass(slots=True)
class Histogram:
    """
    How often something took how long.

    Args:
        bounds: Upper ends of the buckets, seconds, ascending.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds

    def series(self) -> Series:
        """What it holds at this moment."""
        return Series(self.bounds, tuple(self.counts), self.total_s)


class Tally:
    """Counters of one daemon's life. Those of a service go with its last worker."""

    def __init__(self) -> None:
        self._starts: Counter[str] = Counter()
        self._restarts: Counter[tuple[str, str]] = Counter()
        self._exits: Counter[tuple[str, str]] = Counter()
        self._reloads: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._hooked: Counter[str] = Counter()
        self._xids: Counter[tuple[str, str, str]] = Counter()
        self._missing_since: dict[WorkerId, float] = {}
        self._missing_s: Counter[str] = Counter()
        self._to_ready: dict[str, Histogram] = {}
        self._to_release: dict[str, Histogram] = {}
        self._backoffs: dict[str, Histogram] = {}
        self._probes: dict[str, Histogram] = {}
        self._readings = Histogram(ASK_S)
        self._delays = Histogram(DELAY_S)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def hear(self, before: Fleet, after: Fleet, actions: Iterable[Action], now: float) -> None:
        """One turn of the core."""
        for action in actions:
            if isinstance(action, Report):
                self._step(before, after, action.transition)
            elif isinstance(action, FinishReload):
                self._reloads["ok" if action.ok else "refused"] += 1
        for worker_id in after.touched:
            self._look(worker_id, before.workers.get(worker_id), after.workers.get(worker_id), now)
        if after.xids is not before.xids:
            self._hear_xids(before, after)
        if len(after.workers) < len(before.workers):
            self._forget({one.id.service for one in after.workers.values()})

    def probed(self, kind: str, seconds: float) -> None:
        """A worker was asked whether it is ready, or alive."""
        self._probes.setdefault(kind, Histogram(ASK_S)).observe(seconds)

    def read(self, seconds: float) -> None:
        """The driver was asked for its devices."""
        self._readings.observe(seconds)

    def delayed(self, seconds: float) -> None:
        """So long after it came the first event of a turn was looked at."""
        self._delays.observe(seconds)

    def dropped(self, outlet: str, lines: int) -> None:
        """Lines of workers' output were lost on the way to ``file``, ``journal`` or ``inherit``."""
        self._dropped[outlet] += lines

    def hooked(self, result: str, events: int) -> None:
        """Events for hooks were ``delivered``, ``failed`` or ``dropped``."""
        self._hooked[result] += events

    def _step(self, before: Fleet, after: Fleet, transition: Transition) -> None:
        service = transition.worker.service
        old, new = before.workers.get(transition.worker), after.workers.get(transition.worker)
        if transition.after is State.STARTING and new is not None:
            self._starts[service] += 1
            if new.starts > 1 and new.last_exit is not None:
                self._restarts[service, str(new.last_exit.cause)] += 1
        took_s = new.history.time_to_ready_s if new is not None else None
        if transition.after is State.READY and old is not None and not old.was_ready and took_s is not None:
            self._to_ready.setdefault(service, Histogram(START_S)).observe(took_s)
        if transition.after is State.BACKOFF and new is not None and new.deadline is not None:
            self._backoffs.setdefault(service, Histogram(BACKOFF_S)).observe(max(0.0, new.deadline - transition.at))
        if transition.before is State.RELEASING and old is not None and old.state is State.RELEASING:
            self._to_release.setdefault(service, Histogram(RELEASE_S)).observe(transition.at - old.since)

    def _look(self, worker_id: WorkerId, old: Worker | None, new: Worker | None, now: float) -> None:
        if new is not None and new.last_exit is not None and (old is None or new.last_exit is not old.last_exit):
            self._exits[worker_id.service, str(new.last_exit.cause)] += 1
        if _is_missing(new):
            self._missing_since.setdefault(worker_id, now)
        elif (since := self._missing_since.pop(worker_id, None)) is not None:
            self._missing_s[worker_id.service] += now - since  # type: ignore[assignment]

    def _hear_xids(self, before: Fleet, after: Fleet) -> None:
        """One has come, or a device is no more and its numbers go."""
        for uuid, seen in after.xids.items():
            if seen is not before.xids.get(uuid):
                number = seen[-1].number
                self._xids[uuid, str(number) if number <= XID_MAX else "other", seen[-1].kind] += 1
        if gone := before.xids.keys() - after.xids.keys():
            self._xids = Counter({key: count for key, count in self._xids.items() if key[0] not in gone})

    def _forget(self, services: set[str]) -> None:
        """A service that is no more has no series: names that come and go must not pile up."""
        for counts in (self._starts, self._missing_s, self._to_ready, self._to_release, self._backoffs):
            for name in counts.keys() - services:
                del counts[name]
        for pairs in (self._restarts, self._exits):
            for pair in [pair for pair in pairs if pair[0] not in services]:
                del pairs[pair]

    # ---- what is told -----------------------------------------------------------------------------------------------

    def counts(self, now: float) -> Counts:
        """All numbers at this moment."""
        missing: Counter[str] = Counter(self._missing_s)
        for worker, since in self._missing_since.items():
            missing[worker.service] += now - since  # type: ignore[assignment]
        return Counts(
            starts=dict(self._starts),
            restarts=dict(self._restarts),
            exits=dict(self._exits),
            reloads=dict(self._reloads),
            dropped=dict(self._dropped),
            hooked=dict(self._hooked),
            xids=dict(self._xids),
            missing_s=dict(missing),
            to_ready=_all(self._to_ready),
            to_release=_all(self._to_release),
            backoffs=_all(self._backoffs),
            probes=_all(self._probes),
            readings=self._readings.series(),
            delays=self._delays.series(),
        )


def _is_missing(worker: Worker | None) -> bool:
    """Whether somebody wants it to serve and it does not: not one held down, nor one that is done."""
    if worker is None or worker.target is None or worker.down:
        return False
    return worker.state not in {State.READY, State.EXITED, State.STOPPED}


def _all(histograms: Mapping[str, Histogram]) -> dict[str, Series]:
    return {name: histogram.series() for name, histogram in histograms.items()}
