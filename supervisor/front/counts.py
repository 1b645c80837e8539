"""What was counted since the daemon started, as values that the daemon fills and metrics show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Series:
    """
    A histogram as it was.

    Args:
        bounds: Upper ends of the buckets, seconds, ascending.
        counts: Of each bucket alone, and at the end of what is beyond the last.
        total_s: Sum of all.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total_s: float


EMPTY = Series((), (0,), 0.0)


@dataclass(frozen=True, slots=True)
class Counts:
    """
    What was counted since the daemon started.

    Args:
        starts: By service.
        restarts, exits: By service and cause.
        reloads: By result.
        dropped: Lines of output, by where they were to go.
        hooked: Events for hooks, by what became of them.
        xids: By device, number and class.
        missing_s: Seconds in which workers were wanted and not ready, summed over those of a service.
        to_ready, to_release, backoffs: By service.
        probes: By kind.
        readings: Of the driver.
        delays: Between the coming of an event and the turn that looks at it.
    """

    starts: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    exits: Mapping[tuple[str, str], int] = field(default_factory=dict)
    reloads: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    hooked: Mapping[str, int] = field(default_factory=dict)
    xids: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    missing_s: Mapping[str, float] = field(default_factory=dict)
    to_ready: Mapping[str, Series] = field(default_factory=dict)
    to_release: Mapping[str, Series] = field(default_factory=dict)
    backoffs: Mapping[str, Series] = field(default_factory=dict)
    probes: Mapping[str, Series] = field(default_factory=dict)
    readings: Series = EMPTY
    delays: Series = EMPTY
