"""Group E: reloads and counts."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import pytest

from tests.conformance.adapter import Program, Supervisor
from tests.conformance.conftest import Supervise
from tests.e2e.harness import is_alive, wait_for

pytestmark = pytest.mark.slow

JOB = Program("forever()", workers=4)


def pids(one: Supervisor, names: Iterable[str]) -> dict[str, int | None]:
    now = one.look()
    return {name: now[name].pid for name in names if name in now}


@pytest.mark.parametrize("how", ["command", "signal"])
@pytest.mark.parametrize("file", ["{[", None])
def test_a_bad_file_changes_nothing(supervise: Supervise, file: str | None, how: str) -> None:
    """E01, E03: no file's syntax, and no file; asked by command and by SIGHUP."""
    one = supervise(job=JOB)
    before = pids(one, one.wait_state("up"))
    one.wait_diary("start", times=4)

    one.rewrite(file)
    if how == "command":
        assert one.reload() != 0, "says that all is well"
    else:
        one.send(signal.SIGHUP)
        wait_for(lambda: one.wait(0.0) is not None or "spec.rejected" in one.output, one.shown)

    assert one.wait(0.0) is None, "ends, and all its workers with it"
    assert pids(one, before) == before, "restarts its workers"


def test_growing_and_shrinking_touches_nobody_else(supervise: Supervise) -> None:
    """E09, E10: four, six, two; who stays is the same process."""
    one = supervise(job=JOB)
    before = pids(one, one.wait_state("up"))

    one.rewrite({"job": Program("forever()", workers=6)})
    one.reload()
    one.wait_for(lambda now: len(now) == 6 and all(each.state == "up" for each in now.values()), "six")
    assert pids(one, before) == before, "restarts those that it has when there are to be more"

    one.rewrite({"job": Program("forever()", workers=2)})
    one.reload()
    one.wait_for(lambda now: set(now) == {"job/0", "job/1"}, "two")
    assert pids(one, ("job/0", "job/1")) == {name: before[name] for name in ("job/0", "job/1")}


def test_to_nothing_and_back(supervise: Supervise) -> None:
    """E11."""
    one = supervise(job=JOB)
    one.wait_state("up")

    one.rewrite({"job": Program("forever()", workers=0)})
    one.reload()
    one.wait_for(lambda now: now == {}, "nobody")
    one.rewrite({"job": JOB})
    one.reload()

    assert len(one.wait_state("up")) == 4


def test_only_what_changed_is_restarted(supervise: Supervise) -> None:
    """E12, E13: one service's command is another's name's; the third is not touched."""
    one = supervise(same=Program("forever()"), changed=Program("say('old'); forever()"), gone=Program("forever()"))
    before = pids(one, one.wait_state("up"))
    one.wait_diary("start", times=3)

    one.rewrite(
        {"same": Program("forever()"), "changed": Program("say('new'); forever()"), "born": Program("forever()")}
    )
    one.reload()
    one.wait_diary("new")
    one.wait_for(lambda now: set(now) == {"same/0", "changed/0", "born/0"}, "the new set")
    one.wait_state("up")

    assert pids(one, ("same/0",)) == {"same/0": before["same/0"]}
    assert not any(is_alive(pid) for name, pid in before.items() if name != "same/0" and pid is not None)


def test_a_file_that_is_swapped_behind_a_link_is_read_anew(supervise: Supervise) -> None:
    """E20: as a ConfigMap of Kubernetes is renewed."""
    one = supervise(job=Program("forever()"))
    before = pids(one, one.wait_state("up"))
    first, second, new = (one.home / name for name in ("first", "second", "new"))
    one.file.rename(first)
    one.rewrite({"job": Program("forever()"), "born": Program("forever()")})
    one.file.rename(second)
    one.file.symlink_to(first)

    assert one.reload() == 0
    new.symlink_to(second)
    new.replace(one.file)
    assert one.reload() == 0

    one.wait_for(lambda now: set(now) == {"job/0", "born/0"}, "both")
    assert pids(one, before) == before, "restarts its worker"


def test_hangups_in_a_row_restart_nobody(supervise: Supervise) -> None:
    """E05, E06: of a file that has not changed, from the first moment on."""
    one = supervise(job=JOB)
    one.wait_for(lambda now: len(now) == 4, "it reads its file")

    for _ in range(6):
        one.send(signal.SIGHUP)
    before = pids(one, one.wait_state("up"))
    one.wait_diary("start", times=4)
    for _ in range(6):
        one.send(signal.SIGHUP)
    one.reload()
    one.wait_state("up")

    assert pids(one, before) == before, "restarts its workers"
