"""SIGHUP and `reload`: only the difference is touched, and a bad file changes nothing."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import is_alive, wait_for
from tests.nvml.fake import FakeBox


def service(workers: int, *, command: str = "sleep 1000", gpu: int = 1, more: str = "") -> str:
    return f"""
services:
  llm:
    command: {command}
    workers: {workers}
    resources: {{gpu: {gpu}}}
    ready: {{after: 50ms}}
    {more}
"""


def facts(workers: dict[str, dict[str, object]]) -> dict[str, tuple[object, object]]:
    return {name: (worker["pid"], worker["gpus"]) for name, worker in workers.items()}


def test_four_to_two_to_four_keeps_pids_and_slices(start: StartDaemon, box: FakeBox) -> None:
    """Shrinking removes the highest indices; growing fills in, each on its old GPU."""
    daemon = start(service(4), box=box)
    first = facts(daemon.wait_states(llm="ready"))

    assert daemon.reload(service(2)).returncode == 0
    two = facts(daemon.wait(lambda now: set(now) == {"llm/0", "llm/1"}, "two workers"))
    assert daemon.reload(service(4)).returncode == 0
    four = facts(daemon.wait(lambda now: [one["state"] for one in now.values()] == ["ready"] * 4, "four workers"))

    assert two == {name: first[name] for name in ("llm/0", "llm/1")}
    assert {name: four[name] for name in two} == two
    assert {name: gpus for name, (_, gpus) in four.items()} == {name: gpus for name, (_, gpus) in first.items()}


def test_sighup_reads_the_file_again_and_the_newest_wins(start: StartDaemon, box: FakeBox) -> None:
    """Signals at once, during the start, start nothing twice."""
    daemon = start(service(1), box=box)
    wait_for(daemon.status, "the socket answers")

    for count in (2, 3, 4):
        daemon.write(service(count))
        daemon.send(signal.SIGHUP)
    workers = daemon.wait(lambda now: [one["state"] for one in now.values()] == ["ready"] * 4, "four workers")

    assert [worker["restarts"] for worker in workers.values()] == [0, 0, 0, 0]
    assert daemon.status()["daemon"]["state"] == "running"


def test_a_reload_of_an_unchanged_file_touches_nobody(start: StartDaemon, box: FakeBox) -> None:
    """It says so, too."""
    daemon = start(service(4), box=box)
    before = facts(daemon.wait_states(llm="ready"))

    done = daemon.cli("reload")

    assert (done.returncode, facts(daemon.workers())) == (0, before)
    assert "nothing to do" in done.stdout


def test_a_changed_command_replaces_one_index_at_a_time(start: StartDaemon, box: FakeBox) -> None:
    """Each replaced worker is ready again before the next is stopped, and keeps its slice."""
    daemon = start(service(3), box=box)
    before = daemon.wait_states(llm="ready")

    done = daemon.reload(service(3, command="sleep 2000"))
    daemon.wait(
        lambda now: all(
            now[name]["pid"] not in {None, before[name]["pid"]} and now[name]["state"] == "ready" for name in now
        ),
        "all replaced",
    )

    after = daemon.workers()
    assert done.returncode == 0
    assert [f"llm/{index} replace" in " ".join(done.stdout.split()) for index in range(3)] == [True] * 3
    assert {name: one["gpus"] for name, one in after.items()} == {name: one["gpus"] for name, one in before.items()}
    lines = [line for line in daemon.output.splitlines() if '"worker.stopping"' in line or '"worker.ready"' in line]
    order = lines[3:]
    assert ["stopping" in line for line in order] == [True, False, True, False, True, False]


def test_a_bad_file_changes_nothing_and_is_told_with_its_lines(start: StartDaemon, box: FakeBox) -> None:
    """Exit 78, the problem with line and column, and the same in status."""
    daemon = start(service(2), box=box)
    before = facts(daemon.wait_states(llm="ready"))

    done = daemon.reload("services:\n  llm:\n    comand: sleep 1\n")

    assert done.returncode == 78
    assert f"{daemon.file}:3:5: services.llm.comand" in done.stderr
    assert "command" in done.stderr.split("hint:")[1]
    assert facts(daemon.workers()) == before
    last = daemon.status()["daemon"]["reload"]
    assert (last["ok"], len(last["problems"])) == (False, 2)


def test_a_missing_or_unreadable_file_changes_nothing(start: StartDaemon, box: FakeBox) -> None:
    """The file may be gone for a moment; nobody's model is."""
    daemon = start(service(2), box=box)
    before = facts(daemon.wait_states(llm="ready"))

    daemon.file.unlink()
    gone = daemon.cli("reload")
    daemon.file.mkdir()
    folder = daemon.cli("reload")
    daemon.file.rmdir()

    assert (gone.returncode, folder.returncode) == (78, 78)
    assert str(daemon.file) in gone.stderr
    assert facts(daemon.workers()) == before


def test_a_reload_finds_a_gpu_that_was_added(start: StartDaemon, tmp_path: Path) -> None:
    """A fresh prober: the driver's library shows a process only what was there when it began."""
    box = FakeBox(tmp_path / "small", gpus=1)
    daemon = start(service(2), box=box)
    workers = daemon.wait(lambda now: now["llm/0"]["state"] == "ready", "llm/0 is ready")
    assert workers["llm/1"]["state"] == "pending"
    assert "needs 1 GPU" in workers["llm/1"]["reason"]

    box.add()
    assert daemon.cli("reload").returncode == 0

    after = daemon.wait_states(llm="ready")
    assert after["llm/0"]["pid"] == workers["llm/0"]["pid"]
    assert after["llm/1"]["gpus"][0]["uuid"] == box.uuids[1]


def test_more_gpus_for_each_worker_need_not_wait_for_each_other_for_ever(start: StartDaemon, box: FakeBox) -> None:
    """Two of four workers find no place any more and make way for the other two."""
    daemon = start(service(4), box=box)
    daemon.wait_states(llm="ready")

    assert daemon.reload(service(4, gpu=2)).returncode == 0

    workers = daemon.wait(
        lambda now: [one["state"] for one in now.values()] == ["ready", "ready", "pending", "pending"], "two and two"
    )
    assert [len(one["gpus"]) for one in workers.values()] == [2, 2, 0, 0]
    assert "needs 2 GPUs, 0 of 4 are free" in workers["llm/2"]["reason"]


def test_sighup_while_stopping_is_too_late(start: StartDaemon, box: FakeBox) -> None:
    """What is on its way down stays there."""
    command = """[sh, -c, "trap '' TERM; echo up; while :; do sleep 0.05; done"]"""
    daemon = start(service(1, command=command, more="stop: {timeout: 1s}"), box=box)
    pid = daemon.wait_states(llm="ready")["llm/0"]["pid"]
    wait_for(lambda: "llm/0 | up" in daemon.output or None, "its trap is set")

    daemon.send(signal.SIGTERM)
    daemon.wait(lambda now: now["llm/0"]["state"] == "stopping", "stopping")
    daemon.send(signal.SIGHUP)

    assert daemon.process.wait(20) == 0
    assert not is_alive(pid)
