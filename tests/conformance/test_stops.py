"""Group B: stops, and what a worker leaves behind."""

from __future__ import annotations

import os
import signal

import pytest

from tests.conformance.adapter import Program, Supervisor, Workers
from tests.conformance.conftest import Supervise
from tests.e2e.harness import is_alive, wait_for

pytestmark = pytest.mark.slow

SHORT_S = 0.3
"""Grace for what is not going to use it; a second where there are only whole ones."""

ROUNDS = 5

DEAF_CHILD = "def away():\n    os.setsid(); deaf()\n"
"""A grandchild in a session of its own, deaf to SIGTERM."""


def up(one: Supervisor, word: str = "start") -> int:
    """The pid of the only worker, up and past its own beginning."""
    one.wait_diary(word)
    pid = one.wait_state("up")["job/0"].pid
    assert pid is not None
    return pid


def test_a_worker_that_ignores_sigterm_is_killed(supervise: Supervise) -> None:
    """B01."""
    one = supervise(job=Program("deaf(); say('ready'); forever()", stop_s=SHORT_S))
    pid = up(one, "ready")

    one.stop("job/0")
    one.wait_state("stopped")

    assert not is_alive(pid)


def test_what_a_stopped_worker_leaves_is_killed(supervise: Supervise) -> None:
    """B04: a grandchild that changed its session and ignores SIGTERM, at an operator's stop."""
    one = supervise(job=Program(f"{DEAF_CHILD}child(away); say('ready'); forever()", stop_s=SHORT_S))
    up(one, "ready")
    (grandchild,) = one.children()

    one.stop("job/0")
    one.wait_state("stopped")

    assert not is_alive(grandchild), "says stopped while a grandchild lives"


def test_what_a_crashed_worker_leaves_is_killed_before_the_next(supervise: Supervise) -> None:
    """B04: the same when the worker is killed; the next says at its start whom it finds."""
    one = supervise(job=Program(f"{DEAF_CHILD}child(away); say('ready'); forever()"))
    pid = up(one, "ready")
    (grandchild,) = one.children()

    os.kill(pid, signal.SIGKILL)
    second = one.wait_diary("start", times=2)[1]

    assert str(grandchild) not in second.rest, "starts the next worker beside a living grandchild of the last"


def test_an_end_is_seen_although_somebody_holds_the_output(supervise: Supervise) -> None:
    """B06: the end of the process is the end, not the end of its output."""
    one = supervise(job=Program(f"{DEAF_CHILD}child(away); say('ready'); wait('die'); sys.exit(1)", policy="never"))
    up(one, "ready")
    (grandchild,) = one.children()

    one.touch("die")
    wait_for(lambda: one.ends("job/0") == 1, lambda: f"its end\n{one.shown()}")

    assert is_alive(grandchild)
    os.kill(grandchild, signal.SIGKILL)


def test_a_stop_while_the_rest_is_being_ended_holds(supervise: Supervise) -> None:
    """B10: the worker is dead, its grandchild is not yet; a stop now means that no other is started."""
    one = supervise(job=Program(f"{DEAF_CHILD}child(away); say('ready'); forever()", delay_s=1.0))
    pid = up(one, "ready")

    os.kill(pid, signal.SIGKILL)
    one.wait_for(lambda now: now["job/0"].pid != pid, "it is seen to be dead")
    one.stop("job/0")
    one.wait_state("stopped")

    is_kept = len(one.diary("start")) == 1 and not any(map(is_alive, one.children()))
    assert is_kept, "starts another, or says stopped, before the rest of the last is gone"


def test_a_start_during_a_stop_comes_after_it(supervise: Supervise) -> None:
    """B11: the old one ends wholly, then one new one starts."""
    one = supervise(
        job=Program("on(signal.SIGTERM, 'term', lambda: (wait('end'), os._exit(0))); say('ready'); forever()")
    )
    up(one, "ready")

    one.stop("job/0")
    one.wait_diary("term")
    one.start("job/0")
    one.touch("end")
    wait_for(lambda: one.ends("job/0") == 1, "the end of the first")
    settled = one.wait_for(lambda now: now["job/0"].state in {"up", "stopped"}, "what was asked for last")

    assert settled["job/0"].state == "up", "forgets the start"
    assert len(one.wait_diary("start", times=2)) == 2


def test_an_exit_that_meets_the_stop_is_no_crash(supervise: Supervise) -> None:
    """B15: they end by themselves while they are asked to: stopped, each end once, and none comes back."""
    one = supervise(job=Program("wait('die'); sys.exit(1)", workers=4, delay_s=0.5))

    # Where a supervisor looks first is a matter of luck.
    for _ in range(ROUNDS):
        seen = one.wait_state("up")
        _end_and_stop(one, seen)
        after = one.wait_for(lambda now: {each.state for each in now.values()} <= {"stopped", "done", "failed"}, "down")

        again = [name for name, each in after.items() if each.state == "failed"]
        assert again == [], "starts one again that it was asked to stop"
        # One may have ended before it could say that it began.
        assert all(one.ends(name) >= len(one.diary("start", name)) for name in seen), "loses an end"
        (one.home / "die").unlink()
        for name in seen:
            one.start(name)


def _end_and_stop(one: Supervisor, seen: Workers) -> None:
    """It looks away meanwhile, so that it hears of both in one moment."""
    one.send(signal.SIGSTOP)
    try:
        one.touch("die")
        wait_for(lambda: not any(is_alive(each.pid) for each in seen.values() if each.pid), "all have ended")
        answers = [one.ask_stop(name) for name in seen]
    finally:
        one.send(signal.SIGCONT)
    for answer in answers:
        answer()


def test_the_signal_of_a_stop_may_be_chosen(supervise: Supervise) -> None:
    """B17: SIGINT instead of SIGTERM, and SIGKILL when that does not help."""
    one = supervise(
        job=Program(
            "on(signal.SIGINT, 'int'); on(signal.SIGTERM, 'term'); say('ready')\nwhile True: time.sleep(1)",
            stop_signal="INT",
            stop_s=SHORT_S,
        )
    )
    pid = up(one, "ready")

    one.stop("job/0")
    one.wait_state("stopped")

    assert [said.word for said in one.diary() if said.word in {"int", "term"}] == ["int"]
    assert not is_alive(pid)


GROUP = """
def member():
    on(signal.SIGTERM, "member-term")
    on(signal.SIGUSR1, "member-usr1", leave())
def parting():
    os.kill(it, signal.SIGUSR1)
    os.waitpid(it, 0)
    os._exit(0)
it = child(member)
on(signal.SIGTERM, "term", parting)
say("ready")
forever()
"""

WHOLE_GROUP = """
it = child(lambda: on(signal.SIGTERM, "member-term", leave()))
on(signal.SIGTERM, "term", lambda: (os.waitpid(it, 0), os._exit(0)))
say("ready")
forever()
"""


def test_only_the_main_process_is_signalled(supervise: Supervise) -> None:
    """B19: the others of its group hear of it from the main process, which waits for them."""
    one = supervise(job=Program(GROUP))
    up(one, "ready")

    one.stop("job/0")
    one.wait_state("stopped")

    assert one.diary("member-term") == [], "signals the whole group"
    assert len(one.diary("member-usr1")) == 1


def test_a_stopped_process_is_continued_to_end_itself(supervise: Supervise) -> None:
    """B14: SIGSTOP, then a stop: its own handler of SIGTERM runs."""
    one = supervise(job=Program("on(signal.SIGTERM, 'term', leave()); say('ready'); forever()", stop_s=2.0))
    pid = up(one, "ready")

    os.kill(pid, signal.SIGSTOP)
    one.stop("job/0")
    one.wait_state("stopped")

    assert len(one.diary("term")) == 1, "is killed without a chance to end itself"


def test_a_hook_that_hangs_is_bounded(supervise: Supervise) -> None:
    """B16: the stop goes on without it, and nothing of it is left."""
    one = supervise(
        job=Program("on(signal.SIGTERM, 'term'); say('ready'); forever()", stop_exec=("sleep", "1000"), stop_s=SHORT_S)
    )
    pid = up(one, "ready")

    one.stop("job/0")
    one.wait_state("stopped")

    assert not is_alive(pid)


def test_the_whole_group_is_signalled(supervise: Supervise) -> None:
    """B19: where the file says so."""
    one = supervise(job=Program(WHOLE_GROUP, stop_group=True))
    up(one, "ready")

    one.stop("job/0")
    one.wait_state("stopped")

    assert len(one.diary("member-term")) == 1, "signals the main process only"


def test_stops_go_backwards_through_dependencies(supervise: Supervise) -> None:
    """B20: web needs db, so web is gone before db is asked."""
    life = "on(signal.SIGTERM, 'term', lambda: (time.sleep(0.2), say('gone'), os._exit(0))); say('ready'); forever()"
    one = supervise(db=Program(life), web=Program(life, after=("db",)))
    one.wait_diary("ready", times=2)
    one.wait_state("up")

    one.send(signal.SIGTERM)

    assert one.wait(20.0) is not None
    ends = [(said.worker, said.word) for said in one.diary() if said.word in {"term", "gone"}]
    assert ends == [("web/0", "term"), ("web/0", "gone"), ("db/0", "term"), ("db/0", "gone")], "in another order"
