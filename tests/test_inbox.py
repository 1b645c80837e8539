"""What the main loop waits for: events in their order, deadlines by their time, and nothing else that wakes it."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.message import ReloadRequested, ShutdownRequested, TimePassed
from supervisor.core.spec import WorkerId
from supervisor.daemon.inbox import Deadlines, Inbox

A, B, C = (WorkerId("llm", index) for index in range(3))
FLEET = None


# ---- deadlines ------------------------------------------------------------------------------------------------------


def test_deadlines_come_in_the_order_of_their_time() -> None:
    """Whatever the order in which they were set."""
    deadlines = Deadlines()
    for owner, at in ((A, 30.0), (B, 10.0), (C, 20.0)):
        deadlines.set(owner, at)

    assert deadlines.earliest() == 10.0
    assert deadlines.take_due(9.9) is None
    assert deadlines.take_due(20.0) == (B, C)
    assert (deadlines.earliest(), deadlines.take_due(30.0), deadlines.earliest()) == (30.0, (A,), None)


def test_deadlines_at_the_same_second_come_in_the_order_in_which_they_were_set() -> None:
    """Owners are not compared: the fleet is none."""
    deadlines = Deadlines()
    for owner in (C, FLEET, A):
        deadlines.set(owner, 5.0)

    assert deadlines.take_due(5.0) == (C, A)


def test_the_fleets_own_deadline_comes_with_no_workers() -> None:
    """Something is due, though nobody is named."""
    deadlines = Deadlines()
    deadlines.set(FLEET, 5.0)

    assert deadlines.take_due(5.0) == ()
    assert deadlines.take_due(5.0) is None


@pytest.mark.parametrize("moved_to", [5.0, 20.0])
def test_a_deadline_that_was_moved_comes_at_its_new_time_only(moved_to: float) -> None:
    """Earlier or later."""
    deadlines = Deadlines()
    deadlines.set(A, 10.0)
    deadlines.set(A, moved_to)

    assert deadlines.earliest() == moved_to
    assert deadlines.take_due(moved_to) == (A,)
    assert deadlines.take_due(1000.0) is None


def test_a_deadline_that_was_moved_away_and_back_comes_once() -> None:
    """What is left of it in the heap is passed over."""
    deadlines = Deadlines()
    for at in (10.0, 20.0, 10.0):
        deadlines.set(A, at)

    assert deadlines.take_due(10.0) == (A,)
    deadlines.set(A, 10.0)
    assert deadlines.take_due(30.0) == (A,)
    assert deadlines.take_due(30.0) is None


def test_a_deadline_that_was_taken_away_does_not_come() -> None:
    """Taking away what is not there is nothing."""
    deadlines = Deadlines()
    deadlines.set(A, 10.0)
    deadlines.set(A, None)
    deadlines.set(B, None)

    assert (deadlines.earliest(), deadlines.take_due(1000.0)) == (None, None)


@given(st.lists(st.tuples(st.sampled_from([A, B, C, FLEET]), st.none() | st.integers(0, 50))), st.integers(0, 50))
def test_what_is_due_is_what_was_last_said(moves: list[tuple[WorkerId | None, int | None]], now: int) -> None:
    """For any history of moves."""
    deadlines = Deadlines()
    last: dict[WorkerId | None, int | None] = {}
    for owner, at in moves:
        deadlines.set(owner, at)
        last[owner] = at
    due = {owner for owner, at in last.items() if at is not None and at <= now}

    found = deadlines.take_due(now)

    assert (found is not None) == bool(due)
    assert set(found or ()) == due - {FLEET}
    assert deadlines.earliest() == min((at for at in last.values() if at is not None and at > now), default=None)


def test_the_heap_does_not_grow_with_the_moves() -> None:
    """A deadline that is moved at every event would fill the memory in a week."""
    deadlines = Deadlines()
    deadlines.set(B, 0.5)

    for number in range(10_000):
        deadlines.set(A, 1.0 + number)

    assert len(deadlines._heap) <= 64 + 4 * 2 + 1
    assert deadlines.take_due(1e9) == (B, A)


def test_the_heap_does_not_grow_with_deadlines_that_come_and_go() -> None:
    """Set and taken away, again and again."""
    deadlines = Deadlines()

    for number in range(10_000):
        deadlines.set(A, 1.0 + number)
        deadlines.set(A, None)

    assert len(deadlines._heap) <= 65
    assert deadlines.earliest() is None


# ---- the inbox ------------------------------------------------------------------------------------------------------


class Rounds:
    """Counts the rounds of a loop in which a sleeper was awake."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.woken = 0

    async def sleep(self, until: float | None) -> None:
        """Wait once, and count it."""
        await self._inbox.wait(until)
        self.woken += 1


async def a_few_rounds() -> None:
    """Let everything that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def sleeping(until: float | None = None) -> tuple[Inbox, Rounds, asyncio.Task[None]]:
    """An inbox on which somebody sleeps."""
    inbox = Inbox(time.monotonic)
    rounds = Rounds(inbox)
    task = asyncio.create_task(rounds.sleep(until))
    await a_few_rounds()
    assert not task.done()
    return inbox, rounds, task


def test_the_oldest_event_says_for_how_long_it_has_waited() -> None:
    """What comes after it does not make it younger; nothing waits in an empty one."""
    times = iter((10.0, 13.0))  # When the first comes, and when it is asked for; the second asks no clock.
    inbox = Inbox(lambda: next(times))
    before = inbox.delay_s

    inbox.put(ReloadRequested())
    inbox.put(ReloadRequested())
    waited = inbox.delay_s
    inbox.take()

    assert (before, waited, inbox.delay_s) == (None, 3.0, None)


def test_events_keep_their_order() -> None:
    """And are taken once."""
    inbox = Inbox(time.monotonic)
    events = (TimePassed((A,)), ReloadRequested(), TimePassed((B,)))
    for event in events:
        inbox.put(event)

    assert (inbox.take(), inbox.take()) == (events, ())


async def test_an_event_wakes_the_reader() -> None:
    """Several before it comes to it wake it once."""
    inbox, rounds, task = await sleeping()

    inbox.put(ReloadRequested())
    inbox.put(ShutdownRequested())
    await task

    assert (rounds.woken, inbox.take()) == (1, (ReloadRequested(), ShutdownRequested()))


async def test_the_reader_does_not_sleep_while_there_are_events() -> None:
    """But lets the loop go round once, so that a flood of them starves nobody."""
    inbox = Inbox(time.monotonic)
    inbox.put(ReloadRequested())
    seen: list[str] = []
    asyncio.get_running_loop().call_soon(seen.append, "somebody else")

    await inbox.wait(None)

    assert seen == ["somebody else"]


async def test_a_second_that_has_passed_wakes_the_reader() -> None:
    """Without any event."""
    inbox = Inbox(time.monotonic)

    await asyncio.wait_for(inbox.wait(asyncio.get_running_loop().time() - 1.0), 5.0)

    assert inbox.take() == ()


async def test_without_events_and_deadlines_nothing_wakes_the_reader() -> None:
    """No timer is left in the loop that could."""
    loop = asyncio.get_running_loop()
    timers_before = _timers(loop)

    _, rounds, task = await sleeping()

    assert (rounds.woken, _timers(loop)) == (0, timers_before)
    task.cancel()


async def test_a_reader_that_was_woken_leaves_no_timer_behind() -> None:
    """Else each event would be followed by a wake-up for nothing."""
    loop = asyncio.get_running_loop()
    inbox, _, task = await sleeping(loop.time() + 3600.0)

    inbox.put(ReloadRequested())
    await task

    assert _timers(loop) == 0
    inbox.take()
    task = asyncio.create_task(inbox.wait(None))
    await a_few_rounds()
    assert not task.done()
    task.cancel()


async def test_a_reader_that_is_cancelled_leaves_a_usable_inbox() -> None:
    """What comes later is there for the next one."""
    inbox, _, task = await sleeping()

    task.cancel()
    await a_few_rounds()
    inbox.put(ReloadRequested())
    await inbox.wait(None)

    assert inbox.take() == (ReloadRequested(),)


def _timers(loop: asyncio.AbstractEventLoop) -> int:
    """Timers of asyncio's own loop that are still to come."""
    scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled")  # noqa: B009 - Private, and that is the point.
    return sum(not timer.cancelled() for timer in scheduled)
