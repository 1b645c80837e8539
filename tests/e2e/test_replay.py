"""`replay` of what a real daemon has recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import RunningDaemon
from tests.nvml.fake import FakeBox

FILE = """
services:
  llm:
    command: sh -c 'echo hello; exec sleep 1000' sh $(TOKEN)
    workers: 2
    resources: {gpu: 1}
    env: {TOKEN: hunter2secret}
    ready: {after: 100ms}
    restart: {delay: 50ms}
"""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that had a start, a crash, a reload, an operator and an end. What it has left is not to be changed."""
    box = FakeBox(tmp_path_factory.mktemp("box"), gpus=4)
    daemon = RunningDaemon(tmp_path_factory.mktemp("d"), FILE, box=box, env={"API_KEY": "hunter3secret"})
    try:
        live(daemon)
    finally:
        daemon.end()
    yield daemon


def live(daemon: RunningDaemon) -> None:
    before = daemon.wait_states(llm="ready")
    os.kill(before["llm/1"]["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["llm/1"]["restarts"] == 1 and now["llm/1"]["state"] == "ready", "llm/1 is back")
    assert daemon.reload(FILE.replace("workers: 2", "workers: 3")).returncode == 0
    daemon.wait(lambda now: len(now) == 3 and now["llm/2"]["state"] == "ready", "llm/2 is there")
    assert daemon.cli("stop", "llm/0").returncode == 0
    daemon.wait(lambda now: now["llm/0"]["state"] == "stopped", "llm/0 is stopped")
    assert daemon.stop() == 0
    daemon.file.unlink()


def recording_of(daemon: RunningDaemon) -> Path:
    return daemon.home / "flight" / "ring.0"


def test_a_life_comes_out_the_same(lived: RunningDaemon) -> None:
    """Each event with what it did, in a process of another order of sets, without the file, the GPUs or the secret."""
    recording = recording_of(lived)

    shown = lived.cli("replay", str(recording))
    listed = lived.cli("replay", str(recording), "--json")

    assert (shown.returncode, shown.stderr) == (0, "")
    *lines, last = shown.stdout.splitlines()
    assert last == f"{len(lines)} events, all with the same actions"
    assert any("Exited(llm/1#2 signal=9" in line and "[llm/1 ready>releasing Exited]" in line for line in lines)
    assert any("StopRequested(llm/0) -> [llm/0 ready>stopping" in line for line in lines)
    assert lines[-1].endswith("Exit(0)")
    objects = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [one["number"] for one in objects] == list(range(1, len(lines) + 1))
    assert {one["same"] for one in objects} == {True}
    assert {"ReloadRequested", "SpecLoaded", "InventoryRead"} <= {next(iter(one["event"])) for one in objects}


def test_nobody_else_reads_it_and_no_secret_is_in_it(lived: RunningDaemon) -> None:
    recording = recording_of(lived)

    assert recording.stat().st_mode & 0o777 == 0o600
    assert recording.parent.stat().st_mode & 0o777 == 0o700
    assert b"secret" not in recording.read_bytes()
    assert b"TOKEN" in recording.read_bytes()


def test_what_was_changed_in_it_is_found(lived: RunningDaemon, tmp_path: Path) -> None:
    """Both are shown, and the lines up to there."""
    recording = tmp_path / "changed"
    recording.write_bytes(
        recording_of(lived).read_bytes().replace(b'"signal":15,"scope":"main"', b'"signal":2,"scope":"main"', 1)
    )

    shown = lived.cli("replay", str(recording))
    listed = lived.cli("replay", str(recording), "--json")

    assert (shown.returncode, listed.returncode) == (1, 1)
    *_, event, recorded, replayed = shown.stdout.splitlines()
    assert "StopRequested(llm/0)" in event
    assert recorded.startswith("  recorded: ")
    assert '"signal": 2' in recorded
    assert '"signal": 15' in replayed
    assert "another one now" in shown.stderr
    last = json.loads(listed.stdout.splitlines()[-1])
    assert last["same"] is False
    assert last["recorded"] != last["replayed"]


def test_a_torn_end_is_no_difference(lived: RunningDaemon, tmp_path: Path) -> None:
    """What a killed daemon leaves."""
    recording = tmp_path / "torn"
    recording.write_bytes(recording_of(lived).read_bytes()[:-20])

    shown = lived.cli("replay", str(recording))

    assert shown.returncode == 0
    assert shown.stdout.endswith("all with the same actions, and one that is torn\n")


def test_what_cannot_be_replayed_is_said(lived: RunningDaemon, tmp_path: Path) -> None:
    whole = recording_of(lived).read_bytes()
    other = tmp_path / "other"

    def refusal(content: bytes) -> str:
        other.write_bytes(content)
        done = lived.cli("replay", str(other))
        assert (done.returncode, done.stdout) == (78, "")
        assert "Traceback" not in done.stderr
        return done.stderr

    said = f"cannot replay {other}: "
    assert refusal(b"hello\n") == f"{said}it is no recording of gpu-supervisor\n"
    assert refusal(b"") == f"{said}it is empty, or no recording of gpu-supervisor\n"
    assert refusal(os.urandom(4096)).startswith(f"{said}it is ")
    assert refusal(whole.replace(b'"version":"', b'"version":"9.', 1)).startswith(
        f"{said}it was made by gpu-supervisor 9."
    )
    missing = lived.cli("replay", "nothing-here")
    assert (missing.returncode, missing.stderr) == (1, "cannot replay nothing-here: no such file or directory\n")
    folder = lived.cli("replay", str(lived.home))
    assert (folder.returncode, folder.stderr) == (1, f"cannot replay {lived.home}: is a directory\n")


def test_who_has_had_enough_is_not_told_of_an_error(lived: RunningDaemon) -> None:
    """`replay FILE | head`."""
    command = [sys.executable, "-m", "supervisor", "replay", str(recording_of(lived))]
    with subprocess.Popen(command, env=lived.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as replaying:
        assert replaying.stdout is not None
        assert replaying.stderr is not None
        replaying.stdout.close()
        said = replaying.stderr.read()

    assert (said, replaying.returncode) == (b"", 141)


def test_a_killed_daemon_leaves_what_it_did(start: StartDaemon) -> None:
    """No flush of its own is needed."""
    daemon = start(FILE.replace("resources: {gpu: 1}", "working_dir: /"))
    daemon.wait_states(llm="ready")
    daemon.cli("status")
    daemon.process.kill()
    daemon.process.wait(20)

    shown = daemon.cli("replay", str(recording_of(daemon)))

    assert shown.returncode == 0
    assert "[llm/0 pending>starting Admitted]" in shown.stdout
