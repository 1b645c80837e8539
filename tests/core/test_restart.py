"""Whether and when a worker comes back; each row of the contract's "Restarts"."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.restart import (
    NO_FAILURES,
    Done,
    GiveUp,
    History,
    RestartAt,
    Run,
    Verdict,
    backoff_s,
    decide_restart,
    is_healthy,
)
from supervisor.core.spec import Restart, WorkerId
from tests.core.builders import LLM

CRASH = Run(1)
LATE_CRASH = Run(1, was_ready=True)
CLEAN = Run(0, was_ready=True)
NO_LIMITS = Restart(start_limit=0, limit=0)


def decide(policy: Restart, run: Run, history: History = NO_FAILURES, *, now: float = 50.0) -> tuple[Verdict, History]:
    return decide_restart(policy, history, run, worker=LLM, incarnation=3, now=now)


def verdict(policy: Restart, run: Run, history: History = NO_FAILURES) -> Verdict:
    return decide(policy, run, history)[0]


def runs_until_given_up(policy: Restart, run: Run, most: int = 100) -> int | None:
    """How many runs of one kind it takes until the worker has failed, None if it never has."""
    history = NO_FAILURES
    for number in range(1, most + 1):
        answer, history = decide(policy, run, history)
        if isinstance(answer, GiveUp):
            return number
    return None


# ---- delays ---------------------------------------------------------------------------------------------------------


def test_delays_double_up_to_the_longest() -> None:
    """1 2 4 ... 60 60 seconds, each give or take a fifth."""
    policy = Restart(delay_s=1.0, max_delay_s=60.0)

    delays = [backoff_s(policy, failures, LLM, incarnation=1) for failures in range(1, 10)]

    spread = delays[0]
    assert 0.8 <= spread <= 1.2
    assert delays == pytest.approx([spread * base for base in [1, 2, 4, 8, 16, 32, 60, 60, 60]])


def test_delays_are_the_same_at_every_run_of_the_program() -> None:
    """Derived from worker and incarnation: no generator, no hash that differs from one Python to the next."""
    policy = Restart(delay_s=10.0)

    delays = [round(backoff_s(policy, 1, WorkerId("llm", index), incarnation=4), 3) for index in range(4)]

    assert delays == [8.252, 9.863, 11.151, 8.865]


@given(st.text(min_size=1, max_size=8), st.integers(0, 999), st.integers(1, 10**9), st.integers(1, 10**6))
def test_delays_stay_within_a_fifth(service: str, index: int, incarnation: int, failures: int) -> None:
    """Whoever it is and however often it has failed: nothing overflows, nothing is late by more than a fifth."""
    policy = Restart(delay_s=0.5, max_delay_s=60.0)
    base = min(60.0, 0.5 * 2 ** min(failures - 1, 20))

    delay = backoff_s(policy, failures, WorkerId(service, index), incarnation)

    assert 0.8 * base <= delay <= 1.2 * base


def test_workers_that_fail_together_do_not_come_back_together() -> None:
    """Eight that were started one after the other: no two of them within a thousandth of the delay."""
    policy = Restart(delay_s=10.0)

    delays = sorted(backoff_s(policy, 1, WorkerId("llm", index), incarnation=index + 1) for index in range(8))

    assert min(after - before for before, after in pairwise(delays)) > 0.01
    assert delays[-1] - delays[0] > 2.0


def test_no_delay_is_no_delay() -> None:
    """`delay: 0s` restarts at once, the hundredth time too."""
    policy = Restart(delay_s=0.0, max_delay_s=0.0, start_limit=0, limit=0)

    assert verdict(policy, CRASH, History(failures=99)) == RestartAt(50.0)


def test_the_delay_counts_from_the_given_second_and_is_never_longer_than_the_longest() -> None:
    """A delay above the maximum is cut at the first failure already."""
    policy = Restart(delay_s=5.0, max_delay_s=5.0)

    answer, history = decide(policy, CRASH, now=1000.0)

    assert answer == RestartAt(1000.0 + backoff_s(policy, 1, LLM, 3))
    assert history == History(failures=1, start_failures=1)


def test_thousands_of_failures_do_not_overflow() -> None:
    """2 ** 5000 is no float."""
    history = History(failures=5000, start_failures=5000)

    answer, after = decide(NO_LIMITS, CRASH, history)

    assert isinstance(answer, RestartAt)
    assert 48.0 <= answer.at - 50.0 <= 72.0
    assert after == History(failures=5001, start_failures=5001)


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "run", "runs"),
    [
        (Restart(), CRASH, 5),
        (Restart(), LATE_CRASH, 10),
        (Restart(), CLEAN, 10),
        (Restart(start_limit=1), CRASH, 1),
        (Restart(start_limit=0), CRASH, 10),
        (Restart(limit=0), CRASH, 5),
        (Restart(limit=0), LATE_CRASH, None),
        (Restart(limit=3), CRASH, 3),
        (Restart(limit=3), LATE_CRASH, 3),
        (NO_LIMITS, CRASH, None),
        (Restart(), Run(None, was_ready=True), 10),
        (Restart(start_limit=2), Run(None, failed_to_start=True), 2),
    ],
)
def test_limits_count_failures_without_ready_and_without_health(policy: Restart, run: Run, runs: int | None) -> None:
    """`start_limit` those that were never ready, `limit` all of them; 0 is no limit."""
    assert runs == runs_until_given_up(policy, run)


def test_a_run_that_was_ready_ends_the_row_of_failed_starts() -> None:
    """Four failed starts, a run that got ready, four failed starts: not five in a row."""
    history = NO_FAILURES
    for run in [CRASH] * 4 + [LATE_CRASH] + [CRASH] * 4:
        answer, history = decide(Restart(), run, history)

    assert isinstance(answer, RestartAt)
    assert history == History(failures=9, start_failures=4)


def test_giving_up_says_which_limit_it_was() -> None:
    """The person who reads it can find the key in the file."""
    start = verdict(Restart(start_limit=5), CRASH, History(failures=4, start_failures=4))
    runs = verdict(Restart(limit=10), LATE_CRASH, History(failures=9))
    one = verdict(Restart(start_limit=1), CRASH, History())

    assert start == GiveUp("5 failures in a row without ever being ready (start_limit)")
    assert runs == GiveUp("10 failed runs without a healthy one between them (limit)")
    assert one == GiveUp("1 failure in a row without ever being ready (start_limit)")


# ---- health ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ready_s", "took_s", "healthy"),
    [(59.9, 1.0, False), (60.0, 1.0, True), (60.0, 30.0, True), (60.0, 31.0, False), (62.0, 31.0, True)],
)
def test_health_is_a_minute_of_readiness_or_twice_what_it_took(ready_s: float, took_s: float, healthy: bool) -> None:
    """A model that loads for ten minutes and crashes after two is not healthy."""
    assert healthy == is_healthy(ready_s, took_s)


def test_a_healthy_worker_comes_back_at_once_with_clean_counts() -> None:
    """What it took to get ready is all that is kept."""
    history = History(failures=7, start_failures=2, time_to_ready_s=12.0)

    answer, after = decide(Restart(), replace(LATE_CRASH, was_healthy=True), history)

    assert (answer, after) == (RestartAt(50.0), History(time_to_ready_s=12.0))


# ---- policies and codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "run", "kind"),
    [
        ("always", CLEAN, RestartAt),
        ("always", CRASH, RestartAt),
        ("always", Run(None), RestartAt),
        ("on-failure", CLEAN, Done),
        ("on-failure", Run(0), Done),
        ("on-failure", CRASH, RestartAt),
        ("on-failure", Run(None, was_ready=True), RestartAt),
        ("never", CLEAN, Done),
        ("never", CRASH, GiveUp),
        ("never", Run(None), GiveUp),
        ("never", Run(1, was_ready=True, was_healthy=True), GiveUp),
        ("never", Run(0, was_ready=True, was_healthy=True), Done),
    ],
)
def test_the_policy_says_whether_an_end_is_a_reason_to_start(policy: str, run: Run, kind: type[Verdict]) -> None:
    """`never` with code 0 is done, else failed; `on-failure` is done with code 0; a signal is no code."""
    assert isinstance(verdict(Restart.model_validate({"policy": policy}), run), kind)


@pytest.mark.parametrize("policy", ["always", "on-failure", "never"])
def test_a_failed_start_is_a_failure_whatever_the_code(policy: str) -> None:
    """A server that exits with 0 because it was stopped at its start timeout has not done its work."""
    for code in (0, 78, None):
        run = Run(code, failed_to_start=True)

        answer, history = decide(Restart.model_validate({"policy": policy}), run)

        assert isinstance(answer, GiveUp if policy == "never" else RestartAt)
        assert history.start_failures == 1


def test_an_exit_code_that_is_permanent_ends_it_at_once() -> None:
    """Also after a healthy run: the program itself says that another try is no use."""
    run = Run(78, was_ready=True, was_healthy=True)

    assert verdict(Restart(), run) == GiveUp(
        "exited with 78, which means that trying again is of no use (permanent_exit)"
    )
    assert isinstance(verdict(Restart(permanent_exit=()), run), RestartAt)
    assert isinstance(verdict(Restart(permanent_exit=(2, 3)), Run(3)), GiveUp)


def test_never_says_how_the_worker_ended() -> None:
    """The reason is for a person."""
    never = Restart(policy="never")

    assert verdict(never, Run(3)) == GiveUp("exited with 3, and its policy is never to restart")
    assert verdict(never, Run(None)) == GiveUp("ended by a signal, and its policy is never to restart")
    assert verdict(never, Run(None, failed_to_start=True)) == GiveUp(
        "failed to start, and its policy is never to restart"
    )
