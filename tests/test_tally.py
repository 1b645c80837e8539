"""Counters follow what the core reports, and are gone with the service that they are of."""

from __future__ import annotations

from supervisor.core.fleet import handle
from supervisor.core.message import (
    DeviceEventTold,
    Event,
    Exited,
    InventoryRead,
    ReloadRequested,
    Spawned,
    SpecLoaded,
    SpecRejected,
    TimePassed,
)
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.turn import Fleet
from supervisor.daemon.tally import Histogram, Tally
from supervisor.front.counts import Counts
from tests.core.builders import devices, good, spec_of, uuid_of

A = WorkerId("a", 0)
QUICK = {"ready": {"after": 1}, "restart": {"delay": 0, "start_limit": 0, "limit": 0}}
FILE = spec_of(a=QUICK, b=QUICK)


class Life:
    """A fleet with a clock, and what is counted of it."""

    def __init__(self, spec: Spec = FILE) -> None:
        self.tally = Tally()
        self.fleet = Fleet()
        self.now = 10.0
        self.meet(SpecLoaded(spec))

    @property
    def counts(self) -> Counts:
        return self.tally.counts(self.now)

    def meet(self, event: Event, *, after_s: float = 0.0) -> None:
        self.now += after_s
        before = self.fleet
        self.fleet, actions = handle(before, event, self.now)
        self.tally.hear(before, self.fleet, actions, self.now)

    def get_ready(self) -> None:
        self.meet(Spawned(A, self.fleet.workers[A].incarnation, 4711))
        self.meet(TimePassed((A,)), after_s=1.5)

    def crash(self) -> None:
        self.meet(Exited(A, self.fleet.workers[A].incarnation, 1, None, alone=True))
        self.meet(TimePassed((A,)))


def test_starts_and_ends_are_counted_by_service_and_cause() -> None:
    """A first start is no restart."""
    life = Life()
    assert life.counts.starts == {"a": 1, "b": 1}
    assert life.counts.restarts == {}

    life.get_ready()
    life.crash()

    assert life.counts.exits == {("a", "exit"): 1}
    assert life.counts.restarts == {("a", "exit"): 1}
    assert life.counts.starts == {"a": 2, "b": 1}


def test_the_time_to_ready_is_counted_once_for_a_process() -> None:
    """In its bucket, and in the sum."""
    life = Life()
    life.get_ready()

    series = life.counts.to_ready["a"]

    assert sum(series.counts) == 1
    assert series.total_s == 1.5
    assert series.counts[series.bounds.index(2.5)] == 1
    assert "b" not in life.counts.to_ready


def test_seconds_without_a_wanted_worker_add_up_while_it_is_away() -> None:
    """Also those of an absence that is not over."""
    life = Life()
    life.now += 5
    assert life.counts.missing_s == {"a": 5.0, "b": 5.0}

    life.get_ready()
    assert life.counts.missing_s["a"] == 6.5
    life.now += 100
    assert life.counts.missing_s["a"] == 6.5
    assert life.counts.missing_s["b"] == 106.5

    life.crash()
    life.now += 2
    assert life.counts.missing_s["a"] == 8.5


def test_reloads_are_counted_by_what_became_of_them() -> None:
    """Those that were asked for."""
    life = Life()
    life.meet(ReloadRequested())
    life.meet(SpecRejected(("bad",)))
    life.meet(ReloadRequested())
    life.meet(SpecLoaded(FILE))
    life.meet(InventoryRead(good(), life.now))

    assert life.counts.reloads == {"refused": 1, "ok": 1}


def test_a_service_that_is_gone_leaves_no_numbers() -> None:
    """Names that come and go would pile up."""
    life = Life()
    life.get_ready()
    life.crash()
    number = life.fleet.workers[A].incarnation
    life.meet(ReloadRequested())
    life.meet(SpecLoaded(spec_of(b=QUICK)))
    life.meet(InventoryRead(good(), life.now))
    life.meet(Spawned(A, number, 4712))
    life.meet(Exited(A, number, 0, None, alone=True))

    assert A not in life.fleet.workers
    counts = life.counts
    assert {*counts.starts, *counts.missing_s} == {"b"}
    assert (counts.exits, counts.restarts, counts.to_ready) == ({}, {}, {})


def test_a_value_at_the_end_of_a_bucket_is_in_it() -> None:
    """`le`: less or equal, as Prometheus counts."""
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(seconds)

    assert histogram.series().counts == (2, 2, 1)
    assert histogram.series().total_s == 8.0


def test_a_wait_before_a_restart_is_counted() -> None:
    """So long as it was meant to be, and none for a start at once."""
    life = Life(spec_of(a={**QUICK, "restart": {"delay": "10s"}}))
    assert life.counts.backoffs == {}
    life.get_ready()
    life.meet(Exited(A, life.fleet.workers[A].incarnation, 1, None, alone=True))

    assert sum(life.counts.backoffs["a"].counts) == 1
    assert 8.0 <= life.counts.backoffs["a"].total_s <= 12.0


def test_errors_of_the_driver_are_counted_by_device_number_and_class() -> None:
    """Those that are told; a number that is none has no label of its own."""
    life = Life(spec_of(a={**QUICK, "resources": {"gpu": 1}}))
    life.meet(InventoryRead(good(*devices(2)), life.now))

    for index, number in ((0, 31), (0, 31), (1, 92), (1, 999), (1, 2**40), (1, 2**63)):
        life.meet(DeviceEventTold(uuid_of(index), 0x8, number))
    life.meet(DeviceEventTold(uuid_of(0), 0x8000, 0))

    assert life.counts.xids == {
        (uuid_of(0), "31", "application"): 2,
        (uuid_of(1), "92", "information"): 1,
        (uuid_of(1), "999", "unknown"): 1,
        (uuid_of(1), "other", "unknown"): 2,
    }
