"""What workers say: where it goes, and who can read it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import wait_for

TALK = """
services:
  talk:
    command: [sh, -c, "echo $WORKER begins; while read line; do echo $WORKER $line; done < {fifo}; sleep 1000"]
    workers: 2
    ready: {{after: 50ms}}
    {logs}
"""


def test_logs_shows_the_last_lines_of_every_worker_with_their_names(start: StartDaemon) -> None:
    """And of one alone without; an unknown name is a usage error."""
    daemon = start(TALK.format(fifo="/dev/null", logs=""))
    daemon.wait_states(talk="ready")

    both, one = daemon.cli("logs", "talk"), daemon.cli("logs", "talk/1")
    unknown = daemon.cli("logs", "tlak")
    as_json = [json.loads(line) for line in daemon.cli("logs", "talk/0", "--json", "-n", "1").stdout.splitlines()]

    assert sorted(both.stdout.splitlines()) == ["talk/0 | talk/0 begins", "talk/1 | talk/1 begins"]
    assert (one.returncode, one.stdout) == (0, "talk/1 begins\n")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "did you mean talk?" in unknown.stderr
    assert [(line["worker"], line["incarnation"], line["line"]) for line in as_json] == [("talk/0", 1, "talk/0 begins")]


def test_following_goes_on_over_restarts_until_it_is_interrupted(start: StartDaemon) -> None:
    """Ctrl-C is 130, as everywhere; a daemon that ends is the end of it, too."""
    daemon = start(
        "services: {web: {command: [sh, -c, 'echo run $WORKER_RESTARTS; exec sleep 1000'], ready: {after: 50ms}}}"
    )
    pid = daemon.wait_states(web="ready")["web/0"]["pid"]
    command = [sys.executable, "-m", "supervisor", "logs", "web", "-f"]
    followers = [
        subprocess.Popen(command, env=daemon.env, cwd=daemon.home, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for follower in followers:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "web/0 | run 0\n"

    os.kill(pid, signal.SIGKILL)
    for follower in followers:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "web/0 | run 1\n"
    followers[0].send_signal(signal.SIGINT)
    assert followers[0].wait(20) == 130
    assert daemon.stop() == 0
    assert followers[1].wait(20) == 0
    for follower in followers:
        assert follower.stdout is not None
        follower.stdout.close()


def test_log_files_are_written_and_reopened(start: StartDaemon) -> None:
    """One for each worker, below the file's directory; SIGUSR1 after they were moved away, as logrotate does."""
    command = "while :; do echo $WORKER; sleep 0.05; done"
    daemon = start(
        f"services: {{talk: {{command: [sh, -c, '{command}'], workers: 2, ready: {{after: 50ms}}, "
        "logs: {file: logs/$(WORKER_INDEX).log}}}"
    )
    logs = daemon.home / "logs"
    wait_for(lambda: (logs / "1.log").read_text().count("talk/1\n") > 2 or None, "lines in the file")

    for number in (0, 1):
        (logs / f"{number}.log").rename(logs / f"{number}.old")
    daemon.send(signal.SIGUSR1)

    wait_for(lambda: (logs / "1.log").read_text().startswith("talk/1\n") or None, "a new file")
    wait_for(lambda: (logs / "0.log").read_text().startswith("talk/0\n") or None, "a new file")
    assert daemon.worker("talk/0")["restarts"] == 0
    assert "talk/0 | " not in daemon.output


def test_changed_logs_take_effect_without_a_restart(start: StartDaemon) -> None:
    """From stderr into a file, under a living process."""
    file = """
services:
  talk:
    command: [sh, -c, "while :; do echo hello; sleep 0.05; done"]
    ready: {after: 50ms}
"""
    daemon = start(file)
    pid = daemon.wait_states(talk="ready")["talk/0"]["pid"]
    wait_for(lambda: "talk/0 | hello" in daemon.output or None, "lines on stderr")

    done = daemon.reload(file + "    logs: {file: $(SERVICE_NAME).log}\n")

    assert (done.returncode, done.stdout) == (0, "services.talk changed\n")
    wait_for(lambda: (daemon.home / "talk.log").read_text().startswith("hello\n") or None, "lines in the file")
    assert daemon.worker("talk/0")["pid"] == pid


def test_following_several_loses_nothing_over_rotations_and_restarts(start: StartDaemon) -> None:
    """Their files are rotated and their processes die meanwhile; who is not named is not heard."""
    daemon = start(
        """
services:
  web:
    command:
      [sh, -c, "for i in $(seq 40); do printf '%s %s %0200d\\n' $WORKER_RESTARTS $i 0; done; exec sleep 1000"]
    workers: 2
    ready: {after: 50ms}
    logs: {file: web-$(WORKER_INDEX).log, max_size: 4KiB, keep: 2}
  other:
    command: [sh, -c, "echo mine; exec sleep 1000"]
    ready: {after: 50ms}
"""
    )
    workers = daemon.wait_states(web="ready", other="ready")
    command = [sys.executable, "-m", "supervisor", "logs", "web/0", "web/1", "-f", "--since", "1h"]
    with subprocess.Popen(command, env=daemon.env, cwd=daemon.home, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        first = [follower.stdout.readline() for _ in range(80)]
        os.kill(workers["web/0"]["pid"], signal.SIGKILL)
        again = [follower.stdout.readline() for _ in range(40)]
        follower.terminate()

    for name in ("web/0", "web/1"):
        assert [line for line in first if line.startswith(name)] == [f"{name} | 0 {n} {0:0200}\n" for n in range(1, 41)]
    assert again == [f"web/0 | 1 {n} {0:0200}\n" for n in range(1, 41)]
    assert (daemon.home / "web-0.log.2").exists()


def test_nothing_of_a_crash_is_lost(start: StartDaemon) -> None:
    """The last words are in status, in `logs` and in the file, with no line feed at their end either."""
    daemon = start(
        "services: {web: {command: [sh, -c, 'seq 30; printf last; exit 3'], restart: {policy: never}, "
        "logs: {file: web.log}}}"
    )
    worker = daemon.wait_states(web="failed")["web/0"]

    said = [*map(str, range(1, 31)), "last"]
    assert worker["last_exit"]["tail"] == said[-20:]
    assert daemon.cli("logs", "web/0").stdout.splitlines() == said
    wait_for(lambda: (daemon.home / "web.log").read_text() == "\n".join(said) + "\n" or None, "the whole file")
