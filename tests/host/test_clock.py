from datetime import UTC, datetime, timedelta

from supervisor.host.clock import Clock


class SetClock(Clock):
    """A clock that somebody sets."""

    mono_s = 100.0
    wall_s = 1_790_000_000.25

    def monotonic(self) -> float:
        return self.mono_s

    def wall(self) -> float:
        return self.wall_s


def test_rfc3339_is_utc_in_whole_seconds() -> None:
    """A monotonic second becomes the wall time at which it was."""
    clock = SetClock()

    assert clock.rfc3339(100.0) == "2026-09-21T14:13:20Z"
    assert clock.rfc3339(90.0) == "2026-09-21T14:13:10Z"
    assert clock.rfc3339(160.0) == "2026-09-21T14:14:20Z"


def test_rfc3339_follows_a_clock_that_was_set() -> None:
    """After the wall clock was set, past moments are told by the new one."""
    clock = SetClock()
    clock.wall_s += 3600

    assert clock.rfc3339(100.0) == "2026-09-21T15:13:20Z"


def test_rfc3339_of_one_moment_does_not_flicker() -> None:
    """Jitter of the two readings does not move a moment over the edge of a second."""
    clock = SetClock()
    clock.mono_s, clock.wall_s = 200.0, 1_790_000_100.25 - 0.01

    assert clock.rfc3339(99.755) == "2026-09-21T14:13:20Z"


def test_clock_reads_the_machine() -> None:
    """The real clock agrees with the standard library's."""
    clock = Clock()

    told = datetime.fromisoformat(clock.rfc3339(clock.monotonic()))

    assert abs(datetime.now(tz=UTC) - told) < timedelta(seconds=2)
