"""When the loop turns, and how a stop of the daemon is told from a quiet hour."""

from __future__ import annotations

from supervisor.core.spec import WorkerId
from supervisor.daemon.pulse import BEAT_S, Pulse

LLM = WorkerId("llm", 0)


def test_at_rest_there_is_no_pulse() -> None:
    """Nobody has a limit: the loop sleeps as long as nothing happens, and is late for nothing."""
    pulse = Pulse()

    assert pulse.plan(100.0, (None, None)) is None
    assert pulse.plan(100.0, (None, 3700.0)) == 3700.0
    assert pulse.lost_s(3600.0) == 0.0


def test_while_a_limit_runs_there_is_one() -> None:
    """So that a stop is seen whether or not it lasts over a deadline."""
    pulse = Pulse()
    pulse.note(LLM, is_counted=True)

    assert pulse.plan(100.0, (3700.0,)) == 100.0 + BEAT_S
    assert pulse.lost_s(100.0 + BEAT_S + 0.1) == 0.0
    assert pulse.lost_s(100.0 + BEAT_S + 60.0) == 60.0
    assert pulse.plan(100.0, (101.0,)) == 101.0

    pulse.note(LLM, is_counted=False)
    assert pulse.plan(100.0, (3700.0,)) == 3700.0


def test_the_first_turn_is_in_time() -> None:
    """Nothing was planned yet."""
    assert Pulse().lost_s(100.0) == 0.0
