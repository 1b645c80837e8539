"""What the operator and the plan say to a worker, in every state; while it goes down the last word wins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.message import (
    Cause,
    State,
)
from supervisor.core.restart import NO_FAILURES, GiveUp, History, RestartAt
from supervisor.core.spec import Policy
from supervisor.core.table import step
from supervisor.core.worker import (
    MemoryBack,
    Relaunched,
    StartAsked,
    StopAsked,
    Unwanted,
    Wanted,
    WorkerEvent,
)
from tests.core.builders import (
    FREE,
    TCP,
    after_all,
    exit_of,
    meet,
    placed,
    wanted,
    with_policy,
    worker_in,
)


@pytest.mark.parametrize(
    ("state", "to"),
    [
        (State.PENDING, "stopped"),
        (State.STARTING, "stopping"),
        (State.READY, "stopping"),
        (State.UNREADY, "stopping"),
        (State.STOPPING, "stopping"),
        (State.KILLING, "killing"),
        (State.RELEASING, "releasing"),
        (State.BACKOFF, "stopped"),
        (State.EXITED, "stopped"),
        (State.FAILED, "stopped"),
        (State.STOPPED, "stopped"),
    ],
)
def test_stop_holds_a_worker_down_in_every_state(state: State, to: str) -> None:
    """At once where there is no process, else by what follows its end."""
    after, _ = meet(worker_in(state), StopAsked(), 200.0)

    assert (after.state, after.down) == (to, True)


@pytest.mark.parametrize(
    ("state", "to"),
    [
        (State.PENDING, "pending"),
        (State.STARTING, "starting"),
        (State.READY, "ready"),
        (State.UNREADY, "unready"),
        (State.STOPPING, "stopping"),
        (State.KILLING, "killing"),
        (State.RELEASING, "releasing"),
        (State.BACKOFF, "pending"),
        (State.EXITED, "pending"),
        (State.FAILED, "pending"),
        (State.STOPPED, "pending"),
    ],
)
def test_start_brings_a_worker_up_in_every_state(state: State, to: str) -> None:
    """With clean counts wherever it is not up already."""
    worker = worker_in(state, history=History(failures=4, start_failures=4, time_to_ready_s=9.0))

    after, actions = meet(worker, StartAsked(), 200.0)

    assert (after.state, after.down, actions) == (to, False, ())
    if to == "pending":
        assert after.history == History(time_to_ready_s=9.0)


@pytest.mark.parametrize(
    ("intents", "state"),
    [
        ([StopAsked(), StartAsked()], "pending"),
        ([StartAsked(), StopAsked()], "stopped"),
        ([Unwanted(), Wanted(FREE)], "pending"),
        ([Wanted(FREE), Unwanted()], "gone"),
        ([Relaunched(), StopAsked()], "stopped"),
        ([Relaunched(), Unwanted()], "gone"),
        ([StopAsked(), Unwanted()], "gone"),
        ([StopAsked(), Wanted(FREE)], "stopped"),
    ],
)
@pytest.mark.parametrize("state_before", [State.STOPPING, State.KILLING, State.RELEASING])
def test_while_a_worker_goes_down_the_last_word_wins(
    state_before: State, intents: list[WorkerEvent], state: str
) -> None:
    """Intents change only what follows its end."""
    worker = worker_in(state_before, verdict=GiveUp("enough") if state_before is State.RELEASING else None)

    going = after_all(worker, *[(105.0, intent) for intent in intents])
    releasing = going if state_before is State.RELEASING else after_all(going, (106.0, exit_of(0)))
    after, _ = step(releasing, MemoryBack(), 107.0)

    assert going.state is state_before
    assert state == (after.state if after else "gone")


def test_a_relaunched_worker_comes_back_at_once_with_clean_counts() -> None:
    """Giving way to a new launch is no failure."""
    new = placed(wanted(policy=TCP, port=9000), 0)
    worker = with_policy(worker_in(State.READY, history=History(failures=3)), TCP)

    stopping = after_all(worker, (200.0, Wanted(new)), (201.0, Relaunched()))
    back, _ = meet(stopping, exit_of(143), 202.0)

    assert (stopping.state, stopping.cause, stopping.relaunch) == ("stopping", Cause.ROLLOUT, True)
    assert (back.state, back.history, back.target, back.relaunch) == ("pending", NO_FAILURES, new, False)


def test_in_backoff_a_changed_launch_starts_at_once_and_a_changed_policy_does_not() -> None:
    """Only the first is another program to try."""
    worker = worker_in(State.BACKOFF, history=History(failures=3))
    assert worker.target is not None
    other_policy = replace(worker.target, wanted=replace(worker.target.wanted, policy=Policy()))

    same, _ = meet(worker, Wanted(other_policy), 101.0)
    changed, _ = meet(worker, Wanted(FREE), 101.0)

    assert (same.state, same.deadline, same.history.failures) == ("backoff", 104.0, 3)
    assert (changed.state, changed.history) == ("pending", NO_FAILURES)


def test_an_operators_stop_during_backoff_forgets_the_restart() -> None:
    """And `start` does not wait for it either."""
    stopped = after_all(worker_in(State.BACKOFF, verdict=RestartAt(104.0)), (101.0, StopAsked()))

    assert (stopped.state, stopped.deadline, stopped.verdict) == ("stopped", None, None)
    assert after_all(stopped, (102.0, StartAsked())).state is State.PENDING
