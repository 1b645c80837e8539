"""Group A: starts and exits."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conformance.adapter import Program
from tests.conformance.conftest import Supervise

pytestmark = pytest.mark.slow


def test_failed_starts_are_counted_and_their_delays_grow(supervise: Supervise) -> None:
    """A02: exactly as many starts as the budget; each gap is at least what the law says."""
    one = supervise(job=Program("sys.exit(1)", tries=4, delay_s=0.2, ready_s=10))

    one.wait_state("failed")

    starts = [said.at for said in one.diary("start")]
    assert len(starts) == 4, f"started {len(starts)} times with a budget of 4"
    gaps = [after - before for before, after in pairwise(starts)]
    assert all(gap >= 0.16 * 2**turn for turn, gap in enumerate(gaps)), "restarts before its delay is over"


def test_a_healthy_worker_that_dies_comes_back_at_once(supervise: Supervise) -> None:
    """A04: whatever its delay is; one that is not healthy yet waits."""
    one = supervise(job=Program("wait('die'); sys.exit(1)", ready_s=0.1, start_s=1.0, delay_s=30))
    before = one.wait_state("up")["job/0"]

    # Up and lived a second: who looks at health by age counts from its start.
    born = one.wait_diary("start")[0].at
    one.wait_for(lambda _: time.monotonic() - born > 1.5, "its second")
    one.touch("die")

    one.wait_for(lambda now: now["job/0"].pid not in {None, before.pid}, "a new process")


def test_what_cannot_be_executed_is_named_and_fails_at_once(supervise: Supervise, tmp_path: Path) -> None:
    """A05, A06: a missing program, an empty one, a folder, and one without the right to be executed."""
    programs = {name: tmp_path / name for name in ("missing", "folder", "plain", "empty")}
    programs["folder"].mkdir()
    programs["plain"].write_text("#!/bin/sh\nsleep 1000\n")
    programs["empty"].touch()
    programs["empty"].chmod(0o755)
    one = supervise({name: Program(command=(str(program),)) for name, program in programs.items()})

    seen = one.wait_for(
        lambda now: bool(now) and all(each.state == "failed" or each.is_waiting_again for each in now.values()),
        "it was tried",
    )

    unnamed = [name for name, program in programs.items() if str(program) not in seen[f"{name}/0"].words]
    assert unnamed == [], f"does not name what could not be executed: {', '.join(unnamed)}"
    assert {each.state for each in seen.values()} == {"failed"}, "tries again what cannot be executed"


def test_a_missing_interpreter_is_named(supervise: Supervise, tmp_path: Path) -> None:
    """A07: not the script, which is there."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    one = supervise(job=Program(command=(str(script),)))

    seen = one.wait_state("failed")["job/0"]

    assert "/no/such/interpreter" in seen.words, "does not name the interpreter"


def test_an_unknown_user_harms_nobody_else(supervise: Supervise) -> None:
    """A09: named, permanent, and the neighbour runs."""
    one = supervise(job=Program("forever()", user="nobody-of-that-name"), good=Program("forever()"))

    ended = one.wait(3.0) if one.name == "supervisord" else None

    assert ended is None, "does not start at all for one service's unknown user"
    seen = one.wait_for(lambda now: {"failed", "up"} == {now["job/0"].state, now["good/0"].state}, "one fails")
    assert "nobody-of-that-name" in seen["job/0"].words


def test_a_death_by_a_signal_is_recorded_by_its_name(supervise: Supervise) -> None:
    """A10."""
    names = ("SEGV", "ABRT", "KILL", "TERM", "BUS")
    one = supervise(
        {name.lower(): Program(f"os.kill(os.getpid(), signal.SIG{name})", policy="never") for name in names}
    )

    seen = one.wait_for(lambda now: bool(now) and {each.state for each in now.values()} <= {"failed", "done"}, "dead")

    unnamed = [name for name in names if f"SIG{name}" not in seen[f"{name.lower()}/0"].words]
    assert unnamed == [], f"does not record {', '.join(unnamed)}"


def test_exit_codes_do_what_the_policy_says(supervise: Supervise) -> None:
    """A11: 0 is done, two are permanent, the others are tried again."""
    first = "first = len(earlier_starts()) == 1; wait('die') if first else forever()"
    codes = {0: False, 1: True, 77: False, 125: True, 255: False}
    one = supervise(
        {
            f"exit{code}": Program(f"{first}\nsys.exit({code})", policy="on-failure", permanent=(77, 255))
            for code in codes
        }
    )
    one.wait_state("up")

    one.touch("die")

    for code, again in codes.items():
        name = f"exit{code}/0"
        one.wait_for(lambda now, name=name: one.ends(name) == 1, "its end")  # type: ignore[misc]
        seen = one.wait_for(
            lambda now, name=name: now[name].state in {"done", "failed", "up"} and one.ends(name) == 1,  # type: ignore[misc]
            "what follows",
        )
        assert (seen[name].state == "up") == again, f"exit code {code}: {'not ' * again}started again"


def test_no_end_is_lost_however_soon_it_comes(supervise: Supervise) -> None:
    """A13: many that exit at once; as many ends as starts."""
    one = supervise(job=Program(command=("true",), workers=10, tries=3, ready_s=10))

    seen = one.wait_state("failed")

    assert [one.ends(name) for name in seen] == [3] * 10


def test_ready_counts_also_when_the_end_follows_at_once(supervise: Supervise) -> None:
    """A14: READY=1 and exit 0 within a millisecond, heard in that order."""
    script = """
voice = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
voice.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
os._exit(0)
"""
    one = supervise(job=Program(script, policy="on-failure", ready={"notify": True}))

    one.wait_state("done")

    story = one.story("job/0")
    assert story[-2:] == ["ready", "exited"]


def test_a_worker_that_is_stopped_while_it_starts_runs_into_its_timeout(supervise: Supervise) -> None:
    """A17: SIGSTOP to itself; it ends all the same, and says why."""
    script = "os.kill(os.getpid(), signal.SIGSTOP)"
    one = supervise(job=Program(script, tries=1, stop_s=0.3, ready={"exec": ["false"], "timeout": "500ms"}))

    seen = one.wait_state("failed")["job/0"]

    assert "start_timeout" in seen.words
