"""Whether and when a worker whose process ended is started again. Pure: policy, history and exit in, verdict out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.core.spec import Restart, WorkerId

HEALTHY_S = 60.0
"""A run shorter than this proves nothing, however fast the worker gets ready."""

PAROLE_FACTOR = 3
"""Who has failed on parole too waits so many times as long for each further try."""

JITTER = 0.2
"""Workers of one box fail together; a fifth up or down keeps them from coming back together."""


AGE_SPREAD = 0.1
"""Of `recycle.after`."""


@dataclass(frozen=True, slots=True)
class RestartAt:
    """Start again at *at* (monotonic seconds)."""

    at: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The worker has failed, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The worker did what it was for."""


Verdict = RestartAt | GiveUp | Done


@dataclass(frozen=True)
class History:
    """
    Failures of one worker since it was last healthy.

    Args:
        failures: In a row, whatever their kind; sets the delay.
        start_failures: In a row in which the worker was never ready.
        time_to_ready_s: Of the last start that got ready, None if there was none.
        on_parole: It had failed, and was let try once more; see `parole_at`.
    """

    failures: int = 0
    start_failures: int = 0
    time_to_ready_s: float | None = None
    on_parole: bool = False


NO_FAILURES = History()


@dataclass(frozen=True, slots=True)
class Run:
    """
    One run that ended.

    Args:
        code: Exit status, None when a signal ended it or nothing ever ran.
        was_ready: It was ready at least once.
        was_healthy: It was ready for long enough; see `is_healthy`.
        failed_to_start: It went past its start timeout or could not be spawned: a failure whatever the code.
        hung: It did not answer any more and was ended for that: a failure whatever the code.
        was_overdrawn: It had more of a GPU than it had declared and was ended for that: a failure whatever the code.
    """

    code: int | None
    was_ready: bool = False
    was_healthy: bool = False
    failed_to_start: bool = False
    hung: bool = False
    was_overdrawn: bool = False


def is_healthy(ready_s: float, time_to_ready_s: float) -> bool:
    """Whether a worker that was ready for *ready_s* seconds after taking *time_to_ready_s* counts as healthy."""
    return ready_s >= max(HEALTHY_S, 2 * time_to_ready_s)


def backoff_s(policy: Restart, failures: int, worker: WorkerId, incarnation: int) -> float:
    """
    Seconds to wait after failure number *failures* (1 for the first) of an unbroken run of failures.

    The jitter of +-20 % comes from worker and incarnation: no generator, so the same life gives the same delays.
    """
    # 2 ** failures of a worker that fails for weeks would overflow a float.
    delay = min(policy.max_delay_s, policy.delay_s * 2 ** min(failures - 1, 32))
    return float(delay * (1 - JITTER + 2 * JITTER * _spread(worker, incarnation)))


def spread_s(after_s: float, worker: WorkerId, incarnation: int) -> float:
    """
    Seconds after which a process is too old: up to a tenth less than the file says, never more.

    Workers that were started together do not grow old together.
    """
    return after_s * (1 - AGE_SPREAD * _spread(worker, incarnation))


def _spread(worker: WorkerId, incarnation: int) -> float:
    """A number from 0 to 1 that belongs to a process."""
    # Not a checksum: names that differ in a digit or two would get numbers that are all but the same.
    digest = hashlib.sha256(f"{worker}#{incarnation}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 0xFFFFFFFF


def decide_restart(
    policy: Restart, history: History, run: Run, *, worker: WorkerId, incarnation: int, now: float
) -> tuple[Verdict, History]:
    """
    What follows the end of a run, and the history with that run in it.

    Args:
        policy: Of the service; a limit of 0 is no limit.
        history: Before this run.
        run: How it went.
        worker: Whose run it was.
        incarnation: Of the process.
        now: Monotonic second at which the main process ended; the back-off counts from here.
    """
    was_ended = run.failed_to_start or run.hung or run.was_overdrawn
    clean = run.code == 0 and not was_ended
    if clean and policy.policy != "always":
        return Done(), History(time_to_ready_s=history.time_to_ready_s)
    if policy.policy == "never":
        return GiveUp(f"{_ended(run)}, and its policy is never to restart"), _failed(history, run)
    if run.code in policy.permanent_exit and not was_ended:
        return GiveUp(f"{_ended(run)}, which means that trying again is of no use (permanent_exit)"), _failed(
            history, run
        )
    if run.was_healthy:
        return RestartAt(now), History(time_to_ready_s=history.time_to_ready_s)
    after = _failed(history, run)
    if history.on_parole:
        return GiveUp(f"{_ended(run)}, on its one try after it had failed (parole)"), after
    if 0 < policy.start_limit <= after.start_failures:
        return GiveUp(
            f"{_count(after.start_failures, 'failure')} in a row without ever being ready (start_limit)"
        ), after
    if 0 < policy.limit <= after.failures:
        return GiveUp(f"{_count(after.failures, 'failed run')} without a healthy one between them (limit)"), after
    return RestartAt(now + backoff_s(policy, after.failures, worker, incarnation)), after


def parole_at(policy: Restart, history: History, since: float) -> float | None:
    """
    When a worker that has failed is let try once more.

    Args:
        policy: Of the service. One that never restarts does not do so later either.
        history: Whether its last try was one of these.
        since: Monotonic second at which it failed.

    Returns:
        Monotonic second, None for never.
    """
    if policy.parole_s == 0 or policy.policy == "never":
        return None
    return since + policy.parole_s * (PAROLE_FACTOR if history.on_parole else 1)


def _failed(history: History, run: Run) -> History:
    return replace(
        history,
        failures=history.failures + 1,
        start_failures=0 if run.was_ready else history.start_failures + 1,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _ended(run: Run) -> str:
    if run.failed_to_start:
        return "failed to start"
    if run.hung:
        return "did not answer any more"
    if run.was_overdrawn:
        return "had more of a GPU than it had declared"
    return "ended by a signal" if run.code is None else f"exited with {run.code}"
