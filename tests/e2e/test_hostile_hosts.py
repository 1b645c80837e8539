"""On a machine that lacks something the daemon stays, says what it lacks, and recovers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import is_alive, wait_for

SLEEPERS = """
services:
  job: {command: sleep 1000, workers: WORKERS, ready: {after: 50ms}, restart: {delay: 50ms, max_delay: 200ms}}
"""
SOMEBODY = 64321
"""A user that nobody is, so that nothing else counts against its limits."""


def sleepers(workers: int) -> str:
    return SLEEPERS.replace("WORKERS", str(workers))


def shell(script: str, *words: str) -> tuple[str, ...]:
    """A prefix that does something first and then becomes the daemon."""
    return ("sh", "-c", f'{script}; exec "$@"', "sh", *words)


def as_somebody() -> tuple[str, ...]:
    """Run the daemon as a user without rights, but for reading an interpreter in somebody's home."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    read_all = ("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search")
    user = ("--reuid", str(SOMEBODY), "--regid", str(SOMEBODY), "--clear-groups")
    become = ("setpriv", *user, *read_all, "--bounding-set", "-all,+dac_read_search")
    tried = subprocess.run([*become, "true"], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"cannot become somebody else here: {tried.stderr}")
    return shell(f"chown {SOMEBODY} . *", *become)


def in_namespace(*options: str, first: str = "true") -> tuple[str, ...]:
    """Run the daemon in namespaces of its own, made up by a script."""
    prefix = ("unshare", *options, "sh", "-ec", f'{first}; exec "$@"', "sh")
    tried = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"needs a namespace: {tried.stderr.strip()}")
    return prefix


@pytest.mark.parametrize(
    "script", ["exec 2>&-", "exec 1>&- 2>&-", "exec 2>/dev/full", "exec 0<&- 1>&- 2>&-"], ids=lambda one: one[5:]
)
def test_a_stderr_that_takes_nothing_stops_nothing(start: StartDaemon, script: str) -> None:
    """Closed or full: workers that talk run, the API answers, SIGTERM ends with 0."""
    talk = "services: {job: {command: sh -c 'while echo talk; do sleep 0.01; done', ready: {after: 50ms}}}"
    daemon = start(talk, prefix=shell(script))

    daemon.wait_states(job="ready")

    assert daemon.stop() == 0


def test_a_stderr_that_nobody_reads_stops_nothing(start: StartDaemon, tmp_path: Path) -> None:
    """A pipe that is full: lines are lost, the daemon is not."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    nobody = os.open(pipe, os.O_RDWR)
    flood = "services: {job: {command: sh -c 'while echo flood; do :; done', ready: {after: 50ms}}}"
    daemon = start(flood, prefix=shell(f"exec 1>{pipe} 2>&1"))

    before = daemon.wait_states(job="ready")["job/0"]
    os.kill(before["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["job/0"]["restarts"] == 1 and now["job/0"]["state"] == "ready", "a restart")

    assert daemon.stop() == 0
    os.close(nobody)


def test_few_descriptors_hold_workers_back_and_not_the_daemon(start: StartDaemon) -> None:
    """Some are kept for who asks for status; workers that find none wait uncharged, and start when there are more."""
    daemon = start(sleepers(1))
    daemon.wait_states(job="ready")
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (96, hard))
    assert daemon.reload(sleepers(40)).returncode == 0

    daemon.wait(lambda now: any("Too many open files" in one["reason"] for one in now.values()), "the reason")
    for _ in range(3):
        assert daemon.cli("status", "--json").returncode == 3
    assert daemon.cli("reload").returncode == 0

    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
    daemon.wait_states(job="ready")
    assert daemon.stop() == 0


def test_fork_refused_by_the_system_is_waited_for(start: StartDaemon) -> None:
    """RLIMIT_NPROC: nobody is charged, and everybody is up once there is room."""
    daemon = start(sleepers(12), prefix=as_somebody())
    # The limit is of the user: what the daemon has is never in its way, but that of keeper and shims is.
    before = daemon.wait_states(job="ready")
    everybody = [int(one.name) for one in Path("/proc").glob("[0-9]*") if user_of(int(one.name)) == SOMEBODY]
    limit_processes(everybody, "1:")

    for worker in before.values():
        os.kill(worker["pid"], signal.SIGKILL)
    refusal = "resource temporarily unavailable"
    daemon.wait(lambda now: all(refusal in one["reason"] for one in now.values()), "nobody can fork")
    assert daemon.cli("status").returncode == 3

    limit_processes(everybody, "4096:")
    daemon.wait_states(job="ready")
    assert daemon.stop() == 0


def limit_processes(pids: list[int], limit: str) -> None:
    """As their own user, which may change soft limits where root without CAP_SYS_RESOURCE may not."""
    for pid in filter(is_alive, pids):
        subprocess.run(
            ["prlimit", "--pid", str(pid), f"--nproc={limit}"],
            check=True,
            user=SOMEBODY,
            group=SOMEBODY,
            extra_groups=[],
            cwd="/",
        )


def user_of(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def test_a_proc_that_hides_others_is_enough(start: StartDaemon) -> None:
    """hidepid=2, as some clusters have it: trees are still found, ended and reaped."""
    hidden = in_namespace("--mount", first="mount -t proc -o hidepid=2 proc /proc")
    file = """
services:
  job:
    command: [sh, -c, "setsid sleep 1000 & echo orphan $!; sleep 1000"]
    ready: {after: 50ms}
"""
    daemon = start(file, prefix=(*hidden, *as_somebody()))
    before = daemon.wait_states(job="ready")["job/0"]
    orphan = int(wait_for(lambda: _word_after("orphan", daemon.output), "the orphan"))

    os.kill(before["pid"], signal.SIGKILL)
    daemon.wait(lambda now: now["job/0"]["restarts"] == 1 and now["job/0"]["state"] == "ready", "a restart")

    assert not is_alive(orphan)
    assert daemon.stop() == 0


def _word_after(word: str, text: str) -> str | None:
    lines = [line for line in text.splitlines() if f"| {word} " in line]
    return lines[0].rsplit(" ", 1)[1] if lines else None


def test_no_sys_and_no_cgroup_are_no_reason_to_fail(start: StartDaemon) -> None:
    """An empty and read-only /sys."""
    daemon = start(sleepers(2), prefix=in_namespace("--mount", first="mount -t tmpfs -o ro none /sys"))

    daemon.wait_states(job="ready")

    assert daemon.stop() == 0


def test_a_daemon_that_was_stopped_for_a_while_kills_nobody(start: StartDaemon) -> None:
    """SIGSTOP and SIGCONT: what was due meanwhile is asked again, not acted upon."""
    daemon = start(sleepers(5))
    before = daemon.wait_states(job="ready")

    daemon.send(signal.SIGSTOP)
    victim = before["job/4"]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not is_alive(victim), "its shim reaps it without the daemon")
    daemon.send(signal.SIGCONT)

    after = daemon.wait(lambda now: now["job/4"]["restarts"] == 1 and now["job/4"]["state"] == "ready", "job/4 is back")
    assert {name: one["pid"] for name, one in after.items() if name != "job/4"} == {
        name: one["pid"] for name, one in before.items() if name != "job/4"
    }


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def daemon_below(unshare: int) -> tuple[int, int]:
    """PID 1 of the namespace and its child, the daemon, as they are called out here."""
    (init,) = wait_for(lambda: children_of(unshare), "PID 1")
    (daemon,) = wait_for(lambda: [pid for pid in children_of(init) if b"run" in _command(pid)], "its child")
    return init, daemon


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


CONTAINER = ("--pid", "--fork", "--mount-proc", "--kill-child")


def test_as_pid_1_it_hands_on_signals_and_reaps(start: StartDaemon) -> None:
    """SIGHUP reloads, SIGTERM ends with 0, and no zombie stays."""
    daemon = start(sleepers(1), prefix=in_namespace(*CONTAINER))
    daemon.wait_states(job="ready")
    init, _ = daemon_below(daemon.pid)

    daemon.write(sleepers(2))
    os.kill(init, signal.SIGHUP)
    daemon.wait(lambda now: [one["state"] for one in now.values()] == ["ready", "ready"], "the reload")
    os.kill(init, signal.SIGTERM)

    assert daemon.process.wait(20) == 0
    assert "daemon.stopped" in daemon.output


def test_as_pid_1_it_ends_as_the_daemon_ends(start: StartDaemon) -> None:
    """A bad file is 78; a daemon that is killed is 128 + 9, and nothing of it is left."""
    bad = start("services: {job: {}}", prefix=in_namespace(*CONTAINER))
    assert bad.process.wait(20) == 78

    daemon = start(sleepers(2), prefix=in_namespace(*CONTAINER))
    daemon.wait_states(job="ready")
    init, child = daemon_below(daemon.pid)
    below = [pid for pid in children_of(child) if is_alive(pid)]
    os.kill(child, signal.SIGKILL)

    assert daemon.process.wait(20) == 137
    assert below
    assert not any(map(is_alive, [init, child, *below]))


def test_exit_when_failed_ends_the_daemon_with_1(start: StartDaemon) -> None:
    """Once nothing in it works any more."""
    daemon = start("""
daemon: {exit_when_failed: true}
services:
  job: {command: "false", workers: 2, restart: {delay: 0s, start_limit: 2}, ready: {after: 10s}}
""")

    assert daemon.process.wait(20) == 1
    assert "daemon.failed" in daemon.output
