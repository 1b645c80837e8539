"""Group D: how often somebody is tried."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conformance.adapter import Program
from tests.conformance.conftest import Supervise
from tests.e2e.harness import wait_for

pytestmark = pytest.mark.slow

CRASH = "say('up'); (HOME / 'go').exists() or sys.exit(1); forever()"
DIES_LATE = """
say("up")
time.sleep(1.2)
sys.exit(1)
"""


def test_who_dies_again_and_again_is_given_up(supervise: Supervise) -> None:
    """D01: up each time and then dead; two are tolerated, the third is the last."""
    one = supervise(job=Program(DIES_LATE, limit=3, ready_s=0.05))

    wait_for(
        lambda: one.look()["job/0"].state == "failed" or len(one.diary("start")) > 5,
        lambda: f"it is given up\n{one.shown()}",
    )

    starts = len(one.diary("start"))
    assert starts <= 5, "starts it for ever"
    assert starts == 3


def test_who_failed_gets_one_try_after_parole(supervise: Supervise) -> None:
    """D03: one that fails is failed again at once, one that is well is up."""
    one = supervise(job=Program(CRASH, tries=2, parole_s=1.0, ready_s=0.5))
    one.wait_state("failed")
    assert len(one.diary("start")) == 2

    one.wait_diary("start", times=3)
    one.wait_state("failed")
    assert len(one.diary("start")) == 3
    one.touch("go")

    one.wait_state("up")


def test_an_operators_start_clears_the_counts(supervise: Supervise) -> None:
    """D04: a whole budget again."""
    one = supervise(job=Program(CRASH, tries=2, ready_s=5.0))
    one.wait_state("failed")
    assert len(one.diary("start")) == 2

    one.start("job/0")
    one.wait_diary("start", times=4)
    one.wait_state("failed")

    assert len(one.diary("start")) == 4


def test_a_permanent_exit_code_is_the_end(supervise: Supervise) -> None:
    """D09: at once, and what it said is kept."""
    one = supervise(job=Program("print('no such option', flush=True); sys.exit(78)", permanent=(78,), ready_s=5.0))

    seen = one.wait_for(lambda now: bool(now) and now["job/0"].state in {"failed", "done"}, "it is given up")["job/0"]

    assert len(one.diary("start")) == 1, "tries it again"
    assert "no such option" in seen.words


def test_who_fails_together_comes_back_at_different_times(supervise: Supervise) -> None:
    """D10: forty with the same cause at the same moment; no tenth of a second has a fifth of them."""
    one = supervise(job=Program(command=("false",), workers=40, tries=2, delay_s=5.0, ready_s=30))

    one.wait_for(lambda now: bool(now) and all(one.ends(name) for name in now), "all have failed once")
    wait_for(lambda: len(one.delays()) == 40, lambda: f"their delays\n{one.shown()}")

    most = max(Counter(int(delay * 10) for delay in one.delays().values()).values())
    assert most <= 8, "all come back at the same time"


def test_one_that_failed_harms_nobody_and_is_told(supervise: Supervise) -> None:
    """D11: the neighbours are untouched; `status` says that not all is well."""
    one = supervise(bad=Program("sys.exit(1)", ready_s=5.0), good=Program("forever()", workers=2))
    good = one.wait_state("up", "good/0", "good/1")

    one.wait_state("failed", "bad/0")

    now = one.look()
    assert {name: now[name].pid for name in ("good/0", "good/1")} == {
        name: good[name].pid for name in ("good/0", "good/1")
    }
    assert one.tell_status() == 3, "says that all is well"
