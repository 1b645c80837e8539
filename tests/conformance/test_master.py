"""Group F: the life of the supervisor itself."""

from __future__ import annotations

import signal

import pytest

from tests.conformance.adapter import Program
from tests.conformance.conftest import Supervise
from tests.e2e.harness import wait_for

pytestmark = pytest.mark.slow


def test_asked_to_end_several_times_it_ends_well(supervise: Supervise) -> None:
    """F01, F03: SIGTERM, SIGINT and SIGTERM, with a worker that needs a while."""
    one = supervise(
        job=Program("on(signal.SIGTERM, 'term', lambda: (wait('end'), os._exit(0))); forever()", stop_s=2.0)
    )
    one.wait_diary("start")
    one.wait_state("up")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        one.send(number)
    one.touch("end")

    assert one.wait(20.0) == 0, "does not end with 0"
    assert "Traceback" not in one.output


def test_an_interrupt_during_the_start_ends_those_that_have_been_started(supervise: Supervise) -> None:
    """F04: SIGINT while nobody is up yet; each is asked to end, as later."""
    script = "on(signal.SIGTERM, 'term', lambda: os._exit(0)); say('set'); forever()"
    one = supervise(job=Program(script, workers=3, ready_s=60.0))
    one.wait_diary("set", times=3)

    one.send(signal.SIGINT)

    assert one.wait(20.0) == 0, "does not end with 0"
    assert len(one.diary("term")) == 3
    assert "Traceback" not in one.output


def test_after_its_death_nothing_runs_twice(supervise: Supervise) -> None:
    """F06, without adoption: SIGKILL of the supervisor, and another one; workers say at their start whom they find."""
    one = supervise(job=Program("forever()", workers=2))
    one.wait_state("up")
    one.wait_diary("start", times=2)

    one.send(signal.SIGKILL)
    one.wait(20.0)
    one.again()
    one.wait_diary("start", times=4)

    assert [said.rest[1:] for said in one.diary("start")] == [()] * 4, "starts workers beside those of its last life"


def test_it_may_not_run_for_a_while(supervise: Supervise) -> None:
    """F20: SIGSTOP and SIGCONT; who died meanwhile comes back, nobody else is touched."""
    one = supervise(job=Program("forever()"), dies=Program("wait('die'); (HOME / 'die').unlink(); os._exit(1)"))
    before = one.wait_state("up")

    one.send(signal.SIGSTOP)
    one.touch("die")
    wait_for(lambda: not (one.home / "die").exists(), "it dies meanwhile")
    one.send(signal.SIGCONT)

    one.wait_diary("start", "dies/0", times=2)
    assert one.look()["job/0"].pid == before["job/0"].pid
