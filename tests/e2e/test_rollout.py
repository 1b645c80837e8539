"""Roll-outs with real processes: a launch that does not work, several at a time, and another file in the middle."""

from __future__ import annotations

import subprocess

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import RunningDaemon
from tests.nvml.fake import FakeBox


def service(workers: int, *, command: str = "sleep 1000", gpu: int = 1, more: str = "") -> str:
    return f"""
services:
  llm:
    command: {command}
    workers: {workers}
    resources: {{gpu: {gpu}}}
    restart: {{start_limit: 1}}
    {more or "ready: {after: 50ms}"}
"""


def pids(workers: dict[str, dict[str, object]]) -> dict[str, object]:
    return {name: worker["pid"] for name, worker in workers.items()}


def roll(daemon: RunningDaemon, file: str) -> subprocess.CompletedProcess[str]:
    """A reload that is waited for."""
    daemon.write(file)
    return daemon.cli("reload", "--wait")


def stays(daemon: RunningDaemon, first: dict[str, object]) -> None:
    """All but the canary are the processes that they were, and the canary serves again."""
    workers = daemon.wait_states(llm="ready")
    assert {one: pid for one, pid in pids(workers).items() if one != "llm/0"} == {
        one: pid for one, pid in first.items() if one != "llm/0"
    }


def test_a_canary_that_fails_leaves_the_others_and_goes_back(start: StartDaemon, box: FakeBox) -> None:
    """3, with what did not work; and the same file is tried again when it is asked for."""
    daemon = start(service(3), box=box)
    first = pids(daemon.wait_states(llm="ready"))

    for _ in range(2):
        done = roll(daemon, service(3, command="sh -c 'exit 7'", more="ready: {after: 20s}"))
        assert done.returncode == 3
        assert done.stdout.splitlines() == [f"llm/{index} replace" for index in range(3)]
        assert "llm/0 did not get ready with its new launch" in done.stderr
        assert "3 of llm keep the old one until the next reload" in done.stderr
        stays(daemon, first)

    done = roll(daemon, service(3, command="sleep 1001"))
    assert done.returncode == 0, done.stderr
    assert not set(pids(daemon.workers()).values()) & set(first.values())


def test_two_may_be_missing_at_once(start: StartDaemon, box: FakeBox) -> None:
    """After the first one alone; what is ready never falls below the target less two."""
    more = "ready: {after: 300ms}\n    update: {max_unavailable: 2}"
    daemon = start(service(4, more=more), box=box)
    daemon.wait_states(llm="ready")

    daemon.write(service(4, command="sleep 1001", more=more))
    told = daemon.cli("plan", str(daemon.file))
    assert [line.split() for line in told.stdout.splitlines() if line.startswith("llm ")] == [
        ["llm", "1", "llm/0", "3", "of", "4"],
        ["llm", "2", "llm/1,", "llm/2", "2", "of", "4"],
        ["llm", "3", "llm/3", "3", "of", "4"],
    ]
    assert daemon.cli("reload").returncode == 0
    seen = set()

    def is_over(now: dict[str, dict[str, object]]) -> bool:
        seen.add(sum(one["state"] == "ready" for one in now.values()))
        return all(one["state"] == "ready" and one["restarts"] == 1 for one in now.values())

    daemon.wait(is_over, "four new workers")
    assert min(seen) >= 2


def test_with_surge_another_one_serves_before_anybody_goes(start: StartDaemon, box: FakeBox) -> None:
    """Nobody is missing at any moment, and the extra one is gone when the reload is over; without room it is told."""
    more = "ready: {after: 300ms}\n    update: {max_unavailable: 0, surge: 1}"
    daemon = start(service(2, more=more), box=box)
    daemon.wait_states(llm="ready")

    daemon.write(service(2, command="sleep 1001", more=more))
    told = daemon.cli("plan", str(daemon.file))
    assert [line.split() for line in told.stdout.splitlines() if line.startswith("llm ")] == [
        ["llm", "1", "llm/2", "(extra)", "2", "of", "2"],
        ["llm", "2", "llm/0", "2", "of", "2"],
        ["llm", "3", "llm/1", "2", "of", "2"],
    ]
    assert daemon.cli("reload").returncode == 0
    seen = set()

    def is_over(now: dict[str, dict[str, object]]) -> bool:
        seen.add(sum(one["state"] == "ready" for one in now.values()))
        return list(now) == ["llm/0", "llm/1"] and all(one["restarts"] == 1 for one in now.values())

    daemon.wait(is_over, "two new workers and no other")
    assert min(seen) >= 2
    daemon.wait_states(llm="ready")

    daemon.write(service(2, gpu=len(box.devices) - 1, more=more))
    told = daemon.cli("plan", str(daemon.file))
    assert "llm rolls without surge: no room for one more worker: needs 3 GPUs" in told.stdout


def test_another_file_in_the_middle_ends_what_was_under_way(start: StartDaemon, box: FakeBox) -> None:
    """The old file again: only the canary was ever replaced."""
    daemon = start(service(3), box=box)
    first = pids(daemon.wait_states(llm="ready"))

    assert daemon.reload(service(3, command="sleep 1001", more="ready: {after: 300s}")).returncode == 0
    daemon.wait(lambda now: now["llm/0"]["state"] == "starting", "a canary")
    done = roll(daemon, service(3))

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["llm/0 replace"]
    stays(daemon, first)


def test_a_launch_without_a_place_takes_nobody_down(start: StartDaemon, box: FakeBox) -> None:
    """It is told at once, with the arithmetic."""
    daemon = start(service(2), box=box)
    first = pids(daemon.wait_states(llm="ready"))

    done = roll(daemon, service(2, gpu=64))

    assert done.returncode == 3
    assert "no place: needs 64 GPUs" in done.stderr
    assert pids(daemon.workers()) == first
