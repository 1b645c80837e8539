"""Group H: what the machine refuses, and what is sent to the supervisor."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conformance.adapter import Program
from tests.conformance.conftest import Supervise
from tests.e2e.mischief import Mischief

pytestmark = pytest.mark.slow


def test_no_memory_for_a_process_is_waited_for(supervise: Supervise, tmp_path: Path) -> None:
    """H01, H03: fork is refused; nobody is charged for it, and all are up once there is memory."""
    mischief = Mischief(tmp_path / "mischief")
    one = supervise(job=Program("forever()", workers=3, tries=2), env=mischief.env)
    before = one.wait_state("up")
    one.wait_diary("start", times=3)

    mischief.refuse("fork", is_on=True)
    mischief.refuse("spawn", is_on=True)
    for seen in before.values():
        assert seen.pid is not None
        os.kill(seen.pid, signal.SIGKILL)
    # More often than there are tries, by its own telling.
    refused = one.wait_for(
        lambda now: (
            all(each.state == "failed" for each in now.values())
            or sum(one.output.lower().count(word) for word in ("cannot allocate memory", "enomem", "errno 12")) >= 9
        ),
        "it is refused again and again",
    )
    given_up = [name for name, each in refused.items() if each.state == "failed"]
    mischief.refuse("fork", is_on=False)
    mischief.refuse("spawn", is_on=False)

    assert given_up == [], "gives its workers up for the machine's want of memory"
    one.wait_state("up")


def test_a_burst_of_signals_loses_nothing(supervise: Supervise) -> None:
    """H07: ten thousand, of every kind that it may be sent; a worker that dies meanwhile comes back."""
    one = supervise(job=Program("forever()", workers=3))
    before = one.wait_state("up")
    victim = before["job/1"].pid
    assert victim is not None

    for turn in range(10_000):
        one.send(one.harmless[turn % len(one.harmless)])
        if turn == 5_000:
            os.kill(victim, signal.SIGKILL)

    after = one.wait_for(
        lambda now: all(each.state == "up" for each in now.values()) and now["job/1"].pid != victim, "it is back"
    )
    assert {name: each.pid for name, each in after.items() if name != "job/1"} == {
        name: each.pid for name, each in before.items() if name != "job/1"
    }
    assert one.end() == 0


def test_a_process_is_set_up_as_the_file_says(supervise: Supervise) -> None:
    """H12: umask, nice, limits and OOM score, as /proc shows them."""
    setup = {"nice": 5, "oom_score_adj": 300, "limits": {"core": "0", "nofile": "512:1024"}}
    one = supervise(job=Program("forever()", umask="027", setup=setup))

    pid = one.wait_state("up")["job/0"].pid

    place = Path(f"/proc/{pid}")
    assert place.joinpath("oom_score_adj").read_text().strip() == "300"
    assert place.joinpath("stat").read_text().rpartition(")")[2].split()[16] == "5"
    assert "Umask:\t0027" in place.joinpath("status").read_text()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in place.joinpath("limits").read_text().splitlines()}
    assert limits["Max open files"] == ["512", "1024"]
    assert limits["Max core file size"] == ["0", "0"]
