"""Our own bugs: what breaks while an event is handled costs that event, and nobody waits for it ever after."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.message import (
    BecameReady,
    Event,
    HostRead,
    InventoryRead,
    ReadHost,
    ReadInventory,
    Spawn,
    TimePassed,
)
from supervisor.core.mishap import Taken, take
from supervisor.core.spec import WorkerId
from supervisor.core.turn import DaemonState, Fleet
from tests.core.builders import GIB, bad, device, good, of_type, spec_of
from tests.core.stage import Stage

HOST = HostRead(8 * GIB, 16 * GIB)
READING = InventoryRead(good(device(0)), 100.0)


def waiting(**resources: object) -> Fleet:
    """A worker that waits for a reading at second 100."""
    stage = Stage().load(spec_of(llm={"resources": {"gpu": 1, **resources}})).read(bad())
    return stage.at(100.0).read(good(device(0)), asked_at=90.0).fleet


def spoilt(fleet: Fleet) -> Fleet:
    """The same with something impossible in it, which breaks every start."""
    return replace(fleet, counts={})


def mended(taken: Taken, fleet: Fleet) -> Fleet:
    return replace(taken.fleet, counts=fleet.counts)


def test_what_can_be_handled_is() -> None:
    """Nothing else than `handle` then."""
    taken = take(waiting(), READING, 100.1)

    assert taken.error is None
    assert [spawn.worker for spawn in of_type(Spawn, taken.actions)] == [WorkerId("llm", 0)]


def test_a_reading_that_breaks_us_is_asked_for_again() -> None:
    """Though nothing of it was kept; five seconds later, since what broke us once will do so again at once."""
    fleet = waiting()
    assert fleet.asked == 100.0

    taken = take(spoilt(fleet), READING, 100.1)
    assert isinstance(taken.error, KeyError)
    assert (taken.fleet.asked, taken.fleet.deadline, taken.actions) == (None, 105.1, ())
    again = take(mended(taken, fleet), TimePassed(), 105.1)

    assert ReadInventory() in again.actions
    assert of_type(Spawn, take(again.fleet, InventoryRead(good(device(0)), 105.1), 105.2).actions)


def test_what_the_host_says_is_asked_for_again_too() -> None:
    """The reading of the devices that follows makes everybody look at it anew."""
    fleet = take(waiting(memory="1GiB"), READING, 100.1).fleet
    assert fleet.host_asked

    taken = take(spoilt(fleet), HOST, 100.2)
    assert taken.error is not None
    assert not taken.fleet.host_asked
    again = take(mended(taken, fleet), TimePassed(), 105.2).fleet
    again_read = take(again, InventoryRead(good(device(0)), 105.2), 105.3)

    assert ReadHost() in again_read.actions
    assert of_type(Spawn, take(again_read.fleet, HOST, 105.3).actions)


@pytest.mark.parametrize("event", [READING, HOST])
def test_while_stopping_the_time_of_the_end_stays(event: Event) -> None:
    """Nobody starts any more, so nothing is asked for."""
    fleet = replace(waiting(), state=DaemonState.STOPPING, deadline=130.0, host_asked=True)
    fleet = replace(fleet, workers={**fleet.workers, WorkerId("no", 1): None})  # type: ignore[dict-item]

    taken = take(fleet, event, 100.1)

    assert taken.error is not None
    assert taken.fleet.deadline == 130.0


def test_another_event_that_breaks_us_leaves_the_fleet_as_it_was() -> None:
    """It is dropped."""
    fleet = replace(waiting(), workers=None)  # type: ignore[arg-type]

    assert take(fleet, BecameReady(WorkerId("llm", 0), 1), 100.1).fleet is fleet
