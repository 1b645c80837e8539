"""How a worker's process ends by itself, and what is waited for then."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Cause,
    Exited,
    KillTree,
    ReadInventory,
    Say,
    ShimLost,
    Signal,
    State,
    TreeGone,
)
from supervisor.core.release import Proof
from supervisor.core.restart import History, RestartAt, backoff_s
from supervisor.core.spec import Policy, Ready, Restart
from supervisor.core.worker import (
    DeadlinePassed,
    MemoryBack,
    Release,
    StopAsked,
)
from tests.core.builders import (
    FREE,
    GIB,
    LLM,
    TCP,
    after_all,
    exit_of,
    meet,
    of_type,
    placed,
    wanted,
    with_policy,
    worker_in,
)

TERM = signal.SIGTERM


# ---- ending by itself -----------------------------------------------------------------------------------------------


def test_what_outlives_a_crash_has_five_seconds() -> None:
    """Then SIGKILL."""
    killing, asked = meet(worker_in(State.READY), exit_of(None, number=11, alone=False), 300.0)
    killed, actions = meet(killing, DeadlinePassed(), 305.0)

    assert (killing.state, killing.deadline, asked) == ("killing", 305.0, (Signal(LLM, 7, TERM, "rest"),))
    assert (killed.state, actions) == ("killing", (KillTree(LLM, 7),))


def test_the_delay_counts_from_the_end_of_the_main_process() -> None:
    """However long the rest of its tree takes."""
    policy = replace(TCP, restart=Restart(delay_s=60.0, start_limit=0, limit=0))
    worker = with_policy(worker_in(State.STARTING), policy)

    crashed = after_all(worker, (150.0, exit_of(1, alone=False)))
    soon = after_all(crashed, (170.0, TreeGone(LLM, 7)))
    late = after_all(crashed, (300.0, TreeGone(LLM, 7)))

    assert (soon.state, soon.deadline) == ("backoff", 150.0 + backoff_s(policy.restart, 1, LLM, 7))
    assert late.state is State.PENDING


def test_a_start_that_was_too_slow_has_failed_however_it_ended() -> None:
    """Exit 0 on SIGTERM is good manners, and no success."""
    policy = replace(TCP, restart=Restart(policy="on-failure"))
    worker = with_policy(worker_in(State.STARTING), policy)

    ended = after_all(worker, (700.0, DeadlinePassed()), (701.0, exit_of(0)))

    assert isinstance(ended.verdict, RestartAt)
    assert ended.history.failures == 1


def test_another_launch_does_not_pay_for_the_end_of_the_old_one() -> None:
    """It is tried, where the old one had its last chance."""
    policy = replace(TCP, restart=Restart(limit=1))
    old = replace(FREE, wanted=replace(FREE.wanted, policy=policy))
    assert old.launch is not None
    new = replace(old, launch=replace(old.launch, recipe=replace(old.launch.recipe, port=9000)))
    worker = worker_in(State.READY, held=old, target=old)

    same = after_all(worker, (150.0, exit_of(1)))
    other = after_all(replace(worker, target=new), (150.0, exit_of(1)))

    assert (same.state, other.state) == (State.FAILED, State.PENDING)
    assert other.history.failures == 0


@pytest.mark.parametrize(
    ("event", "record"),
    [
        (exit_of(3), (3, None, "exit", "")),
        (exit_of(None, number=9), (None, "SIGKILL", "signal", "")),
        (exit_of(None, number=42), (None, "signal 42", "signal", "")),
        (replace(exit_of(None, number=11), core_dumped=True), (None, "SIGSEGV", "signal", "dumped core")),
    ],
)
def test_an_end_is_kept_with_its_last_words(event: Exited, record: tuple[object, ...]) -> None:
    """Code or signal, why, when, and what it wrote."""
    ended, _ = meet(with_policy(worker_in(State.READY), TCP), event, 300.0)

    last = ended.last_exit
    assert last is not None
    assert record == (last.code, last.signal, last.cause, last.detail)
    assert (last.at, last.tail) == (300.0, ("bye",))


@pytest.mark.parametrize(
    ("spawned_at", "ready_at", "exited_at", "healthy"),
    [
        (100.0, 110.0, 169.9, False),
        (100.0, 110.0, 170.0, True),
        (100.0, 150.0, 249.0, False),
        (100.0, 150.0, 250.0, True),
    ],
)
def test_health_is_readiness_for_a_minute_or_twice_its_start(
    spawned_at: float, ready_at: float, exited_at: float, healthy: bool
) -> None:
    """A healthy worker's first restart is at once and clears its counts."""
    worker = with_policy(worker_in(State.STARTING, spawned_at=spawned_at, history=History(failures=3)), TCP)

    ended = after_all(worker, (ready_at, BecameReady(LLM, 7)), (exited_at, exit_of(1)))

    assert ended.state == ("pending" if healthy else "backoff")
    assert ended.history.failures == (0 if healthy else 4)


def test_health_once_shown_outlasts_a_loss_of_readiness() -> None:
    """But minutes of readiness before and after a break do not add up."""
    worker = with_policy(worker_in(State.STARTING, spawned_at=100.0), TCP)

    proven = after_all(
        worker, (101.0, BecameReady(LLM, 7)), (170.0, BecameUnready(LLM, 7, "refused")), (171.0, exit_of(1))
    )
    broken = after_all(
        worker,
        (101.0, BecameReady(LLM, 7)),
        (150.0, BecameUnready(LLM, 7, "refused")),
        (151.0, BecameReady(LLM, 7)),
        (200.0, exit_of(1)),
    )

    assert (proven.state, broken.state) == ("pending", "backoff")


@pytest.mark.parametrize(("exited_at", "state"), [(699.0, "backoff"), (700.0, "pending")])
def test_without_a_probe_health_is_a_life_as_long_as_the_start_timeout(exited_at: float, state: str) -> None:
    """Readiness by `after` says nothing."""
    policy = Policy(ready=Ready(kind="after", after_s=1.0, timeout_s=600.0))
    worker = with_policy(worker_in(State.STARTING, spawned_at=100.0), policy)

    ended = after_all(worker, (101.0, DeadlinePassed()), (exited_at, exit_of(1)))

    assert state == ended.state


def test_losing_readiness_is_no_reason_to_restart() -> None:
    """Nothing is sent; the reason is the probe's."""
    unready, actions = meet(worker_in(State.READY), BecameUnready(LLM, 7, "connection refused"), 300.0)

    assert (unready.state, unready.reason, unready.deadline, actions) == ("unready", "connection refused", None, ())


# ---- the shim -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.UNREADY])
def test_a_worker_whose_shim_was_killed_comes_back_uncharged(state: State) -> None:
    """The keeper kills what was left of it; then it starts again at once."""
    worker = with_policy(worker_in(state, history=History(failures=2)), TCP)

    killing, actions = meet(worker, ShimLost(LLM, 7), 300.0)
    back, _ = meet(killing, TreeGone(LLM, 7), 301.0)

    assert (killing.state, killing.pid, killing.deadline, actions) == ("killing", None, 310.0, ())
    assert killing.last_exit is not None
    assert killing.last_exit.cause is Cause.LOST
    assert (back.state, back.history) == ("pending", History(failures=2))


def test_an_exit_that_comes_behind_its_lost_shim_changes_nothing() -> None:
    """Both were on their way; the first one counts."""
    killing = after_all(with_policy(worker_in(State.READY), TCP), (300.0, ShimLost(LLM, 7)))

    after, actions = meet(killing, exit_of(None, number=9), 300.0)

    assert (after, actions) == (killing, ())


def test_a_stopped_worker_whose_shim_was_killed_stays_stopped() -> None:
    """The operator's word outlives the shim."""
    worker = with_policy(worker_in(State.READY), TCP)

    ended = after_all(worker, (300.0, StopAsked()), (301.0, ShimLost(LLM, 7)), (302.0, TreeGone(LLM, 7)))

    assert ended.state is State.STOPPED


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_memory_that_does_not_come_back_is_looked_for_and_told_once() -> None:
    """Every half second; a warning at 5 s, with what is known by then. When it is given up is the fleet's word."""
    worker, said, looks, now = worker_in(State.RELEASING, since=100.0, reason="GPU 0: 1 MiB"), [], 0, 100.0

    while now < 160.0:
        assert worker.deadline is not None
        now = worker.deadline + 0.055  # So late that the tenth look is past 5.5 s.
        worker, actions = meet(worker, DeadlinePassed(), now)
        looks += len(of_type(ReadInventory, actions))
        said += [(say.event, round(now - 100.0), say.fields["reason"]) for say in of_type(Say, actions)]

    assert said == [("worker.memory_late", 6, "GPU 0: 1 MiB")]
    assert looks == 109
    assert worker.state is State.RELEASING


def test_how_its_memory_came_back_is_kept() -> None:
    """The time that it took, on whose word, and whether it did at all."""
    releasing = worker_in(State.RELEASING, since=100.0, verdict=RestartAt(0.0))

    back, _ = meet(releasing, MemoryBack(Proof.LIST), 101.5)
    late, _ = meet(releasing, MemoryBack(is_dirty=True), 160.0)

    assert (back.state, back.release) == (State.PENDING, Release(1.5, Proof.LIST))
    assert (late.state, late.release) == (State.PENDING, Release(60.0, Proof.NOTHING, is_dirty=True))


def test_a_worker_without_a_gpu_waits_for_none() -> None:
    """A fallback has declared memory on nothing."""
    placement = replace(placed(wanted(memory=GIB, policy=TCP, port=8000)), fallback=True)

    after, _ = meet(worker_in(State.STOPPING, target=placement, held=placement, down=True), exit_of(0), 101.0)

    assert after.state is State.STOPPED


@pytest.mark.parametrize(
    ("code", "number", "cause"),
    [(None, 9, Cause.HOST_OOM), (1, None, Cause.HOST_OOM), (0, None, Cause.EXIT)],
)
def test_an_end_for_want_of_host_memory_is_called_that(code: int | None, number: int | None, cause: Cause) -> None:
    """Unless it ended well all the same, or we ended it."""
    event = replace(exit_of(code, number=number), out_of_memory=True)

    after, _ = meet(worker_in(State.READY), event, 300.0)
    asked, _ = meet(worker_in(State.STOPPING), event, 300.0)

    assert after.last_exit is not None
    assert asked.last_exit is not None
    assert (after.last_exit.cause, asked.last_exit.cause) == (cause, Cause.OPERATOR)
    assert after.last_exit.detail == ("out of memory" if cause is Cause.HOST_OOM else "")
    assert asked.last_exit.detail == ""
