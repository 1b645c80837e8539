"""What the service manager is told, in which order, and that only a turn of the loop is a sign of life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.core.message import ReloadRequested, ShutdownRequested, SpecRejected
from supervisor.daemon.herald import CLOSE_S, EXTEND_S, GATHER_S, RENEW_S, Herald
from tests.core.builders import devices, good, spec_of
from tests.core.stage import Stage, running

TWO = spec_of(llm={"workers": 2, "stop": {"timeout": "90s"}})
GPU = spec_of(llm={"resources": {"gpu": 1}})

Told = dict[str, str | int]


@dataclass(eq=False)
class Timer:
    at: float
    call: Callable[[], None]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Court:
    """A herald, its clock, and who listens."""

    def __init__(self, *, watchdog_s: float | None = None) -> None:
        self.now = 100.0
        self.told: list[Told] = []
        self.timers: list[Timer] = []
        self.is_closed = False
        self.herald = Herald(self, watchdog_s=watchdog_s, monotonic=lambda: self.now, call_later=self.call_later)

    def tell(self, **fields: str | int) -> None:
        self.told.append(fields)

    def close(self) -> None:
        self.is_closed = True

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + delay_s, call))
        return self.timers[-1]

    def look(self, stage: Stage) -> Court:
        self.herald.look(stage.fleet)
        return self

    def wait(self, seconds: float) -> list[Told]:
        """Let time pass; what was told since the last time."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end and not timer.is_cancelled]:
            first = min(due, key=lambda timer: timer.at)
            self.timers.remove(first)
            self.now = first.at
            first.call()
        self.now = end
        told, self.told = self.told, []
        return told


def up(stage: Stage) -> Court:
    """A court that knows that the daemon is up."""
    court = Court().look(stage)
    court.wait(GATHER_S)
    return court


def test_ready_is_told_once_with_the_words() -> None:
    """As soon as the start is over, and never again for it."""
    court = Court().look(running(TWO))

    assert court.wait(GATHER_S) == [{"ready": 1, "status": "2 of 2 workers ready"}]
    assert court.look(running(TWO)).wait(60.0) == []


def test_at_rest_there_is_no_timer() -> None:
    """Nothing wakes the machine for a line that does not change."""
    assert up(running(TWO)).timers == []


def test_a_storm_is_one_change_of_the_line() -> None:
    """A thousand changes within a moment are told together."""
    stage = running(TWO)
    court = up(stage)

    for worker in ("llm/0", "llm/1"):
        court.look(stage.at(10.0).exited(worker, 78))

    (told,) = court.wait(GATHER_S)
    assert str(told["status"]).startswith("0 of 2 ready, 2 failed; ")


def test_more_time_is_asked_for_while_the_driver_is_awaited_and_not_any_more_after() -> None:
    """Its answer has a deadline of its own."""
    stage = Stage().load(GPU)
    court = Court().look(stage)
    extend = {"extend_timeout_usec": round(EXTEND_S * 1e6)}

    assert court.wait(GATHER_S)[0] == extend
    assert court.wait(2 * RENEW_S) == [extend, extend]
    court.look(stage.at(40.0).read(good(*devices(1))).spawned("llm/0"))
    assert court.wait(10 * RENEW_S) == [{"ready": 1, "status": "0 of 1 ready, 1 starting"}]


def test_a_reload_is_told_at_once_with_its_second_and_its_end() -> None:
    """Whoever asked for it waits; the second tells systemd which reload it is."""
    stage = running(TWO)
    court = up(stage)
    court.now = 123.5

    stage.meet(ReloadRequested())
    court.look(stage)
    assert court.told == [{"reloading": 1, "monotonic_usec": 123_500_000, "status": "reloading, 2 of 2 workers ready"}]
    court.told.clear()

    stage.meet(SpecRejected(("a.yaml: bad",)))
    court.look(stage)
    assert court.told == [{"ready": 1, "status": "2 of 2 workers ready; the last reload failed: a.yaml: bad"}]


def test_a_reload_before_the_start_is_over_is_not_told() -> None:
    """READY of a reload would be taken for that of the start."""
    stage = Stage().load(TWO)
    court = Court().look(stage)
    stage.meet(ReloadRequested())
    court.look(stage)
    stage.meet(SpecRejected(("a.yaml: bad",)))
    court.look(stage)

    assert not [told for told in court.wait(GATHER_S) if {"reloading", "ready"} & told.keys()]


def test_stopping_asks_for_the_time_that_it_takes() -> None:
    """The longest grace, what comes after it, and the end of our own processes."""
    stage = running(TWO).at(100.0)
    court = up(stage)
    court.now = 100.0

    stage.meet(ShutdownRequested())
    court.look(stage).look(stage)

    assert stage.fleet.deadline is not None
    usec = round((stage.fleet.deadline - 100.0 + CLOSE_S) * 1e6)
    assert usec >= 90_000_000
    assert court.told == [
        {"stopping": 1, "status": "stopping, 2 of its workers left"},
        {"extend_timeout_usec": usec},
    ]


def test_stopping_is_told_also_before_the_start_is_over() -> None:
    """And READY never after it."""
    stage = Stage().load(TWO).spawned("llm/0")
    stage.meet(ShutdownRequested())
    court = Court().look(stage)

    told = court.wait(60.0)

    assert told[0]["stopping"] == 1
    assert not [one for one in told if "ready" in one]


def test_only_a_turn_of_the_loop_is_a_sign_of_life() -> None:
    """At half the interval; a loop that does not turn is silent, however much time passes."""
    court = Court(watchdog_s=30.0)
    assert court.herald.ping_at == 115.0

    assert court.wait(60.0) == []
    court.herald.turned()
    assert court.wait(0.0) == [{"watchdog": 1}]
    assert court.herald.ping_at == 175.0
    court.herald.turned()
    assert court.wait(0.0) == []


def test_without_a_watchdog_nothing_has_to_turn() -> None:
    """No wake-ups, no signs."""
    court = Court()
    court.herald.turned()

    assert (court.herald.ping_at, court.wait(1000.0)) == (None, [])


def test_last_words_end_everything() -> None:
    """No timer is left that would speak after them."""
    stage = Stage().load(GPU)
    court = Court().look(stage)
    court.wait(GATHER_S)
    court.look(stage)

    court.herald.close("stopped")

    assert court.told[-1] == {"status": "stopped"}
    assert court.is_closed
    assert all(timer.is_cancelled for timer in court.timers)
