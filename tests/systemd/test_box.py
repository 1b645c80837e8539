"""The unit under a real systemd: start, reload, watchdog, crash, stop, and what `systemctl` and the journal say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.e2e.pages import RootReader, read_steps
from tests.systemd.box import ROOT, Box, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow]

TWO = """
services:
  llm:
    command: sleep 1000
    workers: 2
    ready: {after: 100ms}
"""

LIMITED = """
services:
  calm:
    command: sleep 1000
    resources: {cpu: 200m, memory: 64MiB}
    ready: {after: 100ms}
  free:
    command: sleep 1000
    ready: {after: 100ms}
"""


class Service:
    """One instance of the unit, with a file of its own."""

    def __init__(self, box: Box, name: str) -> None:
        self.box = box
        self.name = name
        self.unit = f"gpu-supervisor@{name}.service"

    def write(self, file: str) -> None:
        self.box.write(f"/etc/gpu-supervisor/{self.name}.yaml", file)

    def drop_in(self, text: str) -> None:
        self.box.write(f"/etc/systemd/system/{self.unit}.d/test.conf", text)
        self.box.run("systemctl", "daemon-reload")

    def start(self, file: str) -> None:
        self.write(file)
        started = self.box.run("systemctl", "start", self.unit, check=False)
        assert started.returncode == 0, started.stderr + self.log()

    def show(self, name: str) -> str:
        return self.box.show(self.unit, name)

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def workers(self) -> dict[str, Any]:
        """The workers, as the daemon says."""
        words = ("gpu-supervisor", "status", "--instance", self.name, "--json")
        answer = json.loads(self.box.run(*words, check=False).stdout)
        return {one["worker"]: one for service in answer["services"] for one in service["workers"]}

    def worker(self, name: str) -> Any:
        return self.workers()[name]

    def pids(self) -> dict[str, int]:
        """Their main processes."""
        return {name: one["pid"] for name, one in self.workers().items()}

    def is_alive(self, pid: int) -> bool:
        return self.box.run("sh", "-c", f"grep -q '^State:.[^ZX]' /proc/{pid}/status", check=False).returncode == 0

    def wait_for(self, name: str, value: str) -> None:
        until(lambda: self.show(name) == value, lambda: f"{name}={value}, is {self.show(name)}\n{self.log()}")

    def log(self) -> str:
        return self.box.run("journalctl", "--no-pager", "-n", "60", "-u", self.unit).stdout

    def entries(self) -> list[dict[str, str]]:
        """What the journal has of it, each with its fields."""
        words = ("journalctl", "--no-pager", "-o", "json", "-u", self.unit)
        return [json.loads(line) for line in self.box.run(*words).stdout.splitlines()]


@pytest.fixture
def service(box: Box, request: pytest.FixtureRequest) -> Iterator[Service]:
    one = Service(box, request.node.name.removeprefix("test_").replace("_", "-")[:40])
    yield one
    box.run("systemctl", "stop", one.unit)
    box.run("systemctl", "reset-failed", one.unit, check=False)


def test_it_starts_and_says_how_its_workers_are(service: Service) -> None:
    """`systemctl start` returns, and `systemctl status` has the words."""
    service.start(TWO)

    assert service.show("ActiveState") == "active"
    service.wait_for("StatusText", "2 of 2 workers ready")
    assert 'Status: "2 of 2 workers ready"' in service.box.run("systemctl", "status", "--no-pager", service.unit).stdout
    assert service.show("NRestarts") == "0"


def test_systemd_has_nothing_to_say_of_the_installed_unit(service: Service) -> None:
    """`systemd-analyze verify` where it is installed, its command and its drop-ins included."""
    found = service.box.run("systemd-analyze", "verify", "--man=no", service.unit)

    assert (found.stdout, found.stderr) == ("", "")


def test_start_waits_for_no_model(service: Service) -> None:
    """A worker that takes its time, one that waits for a GPU and one that fails hold up nothing."""
    service.start("""
services:
  slow: {command: sleep 1000, port: 9999, ready: {tcp: true, timeout: 15m}}
  gpu: {command: sleep 1000, resources: {gpu: 1}}
  bad: {command: /no/such/program}
""")

    assert service.show("ActiveState") == "active"
    until(lambda: "bad/0 failed: " in service.show("StatusText"), lambda: service.show("StatusText"))
    assert service.show("StatusText").startswith("0 of 3 ready, 1 pending, 1 starting; bad/0 failed: ")


def test_workers_cannot_speak_for_the_daemon(service: Service) -> None:
    """Neither keeper, shims, prober nor workers know the manager's socket or watchdog."""
    service.start(TWO)
    service.wait_for("StatusText", "2 of 2 workers ready")

    group = f"/sys/fs/cgroup{service.show('ControlGroup')}"
    found = service.box.run("find", group, "-name", "cgroup.procs", "-exec", "cat", "{}", "+").stdout
    others = set(found.split()) - {str(service.pid)}

    assert len(others) >= 5
    for pid in others:
        environ = service.box.run("cat", f"/proc/{pid}/environ", check=False).stdout
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & {entry.split("=")[0] for entry in environ.split("\0")}


def test_limits_hold_or_status_says_why(service: Service) -> None:
    """Either way the unit reloads, restarts and comes back, and its cgroup is as systemd made it."""
    service.start(LIMITED)
    service.wait_for("StatusText", "2 of 2 workers ready")

    limits = service.worker("calm/0")["limits"]
    group = f"/sys/fs/cgroup{service.show('ControlGroup')}"
    if limits["enforced"]:
        leaf = f"{group}/gpu-supervisor.{service.pid}.calm.0"
        found = service.box.run("cat", f"{leaf}/cpu.max", f"{leaf}/memory.max", f"{group}/daemon/cgroup.procs").stdout
        assert found.split()[:3] == ["20000", "100000", str(64 << 20)]
        assert str(service.pid) in found.split()[3:]
    else:
        assert "are not enforced: " in limits["reason"]
        assert limits["reason"] in service.box.run("gpu-supervisor", "status", "--instance", service.name).stdout

    service.box.run("systemctl", "reload", service.unit)
    service.box.run("systemctl", "restart", service.unit)
    service.wait_for("StatusText", "2 of 2 workers ready")
    service.box.run("kill", "-KILL", str(service.pid))
    service.wait_for("NRestarts", "1")
    service.wait_for("StatusText", "2 of 2 workers ready")
    service.box.run("systemctl", "stop", service.unit)
    assert service.box.run("test", "-e", group, check=False).returncode == 1


def test_a_reload_touches_the_difference(service: Service) -> None:
    """A good file: the reload succeeds, and whoever is the same goes on."""
    service.start(TWO)
    service.wait_for("StatusText", "2 of 2 workers ready")
    before, pid = service.pids(), service.pid

    service.write(TWO.replace("workers: 2", "workers: 3"))
    service.box.run("systemctl", "reload", service.unit)

    service.wait_for("StatusText", "3 of 3 workers ready")
    assert (service.pid, service.show("ActiveState")) == (pid, "active")
    assert before.items() < service.pids().items()


def test_a_reload_of_a_bad_file_fails_and_changes_nothing(service: Service) -> None:
    """`systemctl reload` fails, the journal has every problem with its line, the workers go on."""
    service.start(TWO)
    service.wait_for("StatusText", "2 of 2 workers ready")
    before = service.pids()

    service.write(TWO.replace("workers: 2", "workrs: 2"))
    refused = service.box.run("systemctl", "reload", service.unit, check=False)

    assert refused.returncode != 0
    assert "workrs" in service.log()
    until(lambda: "; the last reload failed: " in service.show("StatusText"), lambda: service.show("StatusText"))
    assert (service.show("ActiveState"), service.pids()) == ("active", before)


def test_a_hangup_is_a_reload_that_systemd_sees(service: Service) -> None:
    """Without ExecReload: reloading, then active again."""
    service.start(TWO)
    service.wait_for("StatusText", "2 of 2 workers ready")

    service.write(TWO.replace("workers: 2", "workers: 1"))
    service.box.run("systemctl", "kill", "--kill-whom=main", "--signal=HUP", service.unit)

    service.wait_for("StatusText", "1 of 1 workers ready")
    service.wait_for("ActiveState", "active")


def test_a_loop_that_turns_feeds_the_watchdog_and_one_that_is_stuck_does_not(service: Service) -> None:
    """At rest it goes on for longer than the interval; stopped, it is aborted and started again."""
    service.drop_in("[Service]\nWatchdogSec=4\nRestartSec=100ms\n")
    service.start(TWO)
    started = int(service.show("WatchdogTimestampMonotonic"))
    until(lambda: int(service.show("WatchdogTimestampMonotonic")) > started + 6_000_000, "signs of life at rest")
    assert service.show("NRestarts") == "0"
    old, pid = service.pids(), service.pid

    service.box.run("kill", "-STOP", str(pid))

    service.wait_for("NRestarts", "1")
    service.wait_for("StatusText", "2 of 2 workers ready")
    assert "Watchdog timeout" in service.log()
    assert not any(map(service.is_alive, old.values()))


def test_a_killed_daemon_comes_back_without_its_old_workers(service: Service) -> None:
    """Never two of one index."""
    service.drop_in("[Service]\nRestartSec=100ms\n")
    service.start(TWO)
    service.wait_for("StatusText", "2 of 2 workers ready")
    old, pid = service.pids(), service.pid

    service.box.run("kill", "-KILL", str(pid))

    service.wait_for("NRestarts", "1")
    service.wait_for("StatusText", "2 of 2 workers ready")
    assert not any(map(service.is_alive, old.values()))
    assert all(map(service.is_alive, service.pids().values()))


def test_workers_get_their_grace_whatever_limit_the_manager_has(service: Service) -> None:
    """The daemon asks for the time that its workers' stop takes; then nothing is left, and it is no failure."""
    service.drop_in("[Service]\nTimeoutStopSec=1\n")
    service.start("""
services:
  slow:
    command: ["sh", "-c", "trap 'sleep 4; echo saved the state; exit 0' TERM; echo up; while :; do sleep 0.1; done"]
    ready: {after: 100ms}
    stop: {timeout: 60s}
""")
    service.wait_for("StatusText", "1 of 1 workers ready")
    until(lambda: "slow/0 | up" in service.log(), "the trap is set")
    group, run = f"/sys/fs/cgroup{service.show('ControlGroup')}", f"/run/gpu-supervisor/{service.name}"
    service.box.run("test", "-e", group)
    service.box.run("test", "-e", run)

    service.box.run("systemctl", "stop", service.unit)

    assert "saved the state" in service.log()
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert service.box.run("test", "-e", group, check=False).returncode == 1
    assert service.box.run("test", "-e", run, check=False).returncode == 1


def test_a_bad_file_is_not_tried_again(service: Service) -> None:
    """78 is final; the journal says why."""
    service.write("services: {llm: {comand: sleep 1}}\n")

    assert service.box.run("systemctl", "start", service.unit, check=False).returncode != 0

    service.wait_for("ActiveState", "failed")
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("78", "0")
    assert "comand" in service.log()


def test_the_journal_knows_levels_and_the_unit(service: Service) -> None:
    """`journalctl -p err` finds the failure; its line is an object; what a worker says stays as it is."""
    service.start("""
services:
  bad: {command: /no/such/program}
  talk: {command: ["sh", "-c", "echo '<0>hello'; exec sleep 1000"], ready: {after: 100ms}}
""")
    until(lambda: any("hello" in one["MESSAGE"] for one in service.entries()), "the worker's line")

    entries = service.entries()

    own = {json.loads(one["MESSAGE"])["event"]: one for one in entries if one["MESSAGE"].startswith("{")}
    assert own["worker.failed"]["PRIORITY"] == "3"
    assert own["daemon.started"]["PRIORITY"] == "6"
    assert own["daemon.started"]["SYSLOG_IDENTIFIER"] == "gpu-supervisor"
    assert own["daemon.started"]["_PID"] == str(service.pid)
    said = next(one for one in entries if "hello" in one["MESSAGE"])
    assert (said["MESSAGE"], said["PRIORITY"]) == ("talk/0 | <0>hello", "6")


def test_what_workers_say_is_found_in_the_journal_by_worker(service: Service) -> None:
    """`logs: journal`, against the real one: each line an entry, with its level and the fields of its worker."""
    said = "echo '<3>it burns'; echo plain; printf 'odd \\001 line\\n'; printf unfinished; exec sleep 1000"
    service.start(f"""
services:
  talk: {{command: {json.dumps(["sh", "-c", said])}, workers: 2, logs: journal, ready: {{after: 100ms}}}}
""")

    def found(*words: str) -> list[dict[str, str]]:
        lines = service.box.run("journalctl", "--no-pager", "-o", "json", *words, check=False).stdout.splitlines()
        return [json.loads(line) for line in lines]

    until(lambda: len(found("WORKER=talk/1", "_PID=" + str(service.pid))) >= 3, service.log)
    pid = service.pids()["talk/1"]
    service.box.run("kill", "-KILL", str(pid))
    until(lambda: any(one["MESSAGE"] == "unfinished" for one in found("WORKER=talk/1")), service.log)
    until(lambda: found("WORKER=talk/1", "WORKER_INCARNATION=3"), service.log)

    first = found("WORKER=talk/1", "WORKER_INCARNATION=2")
    assert [one["MESSAGE"] for one in first][:2] == ["it burns", "plain"]
    assert [one["PRIORITY"] for one in first][:2] == ["3", "6"]
    for one in first:
        assert (one["SERVICE_NAME"], one["WORKER_INDEX"], one["WORKER_INCARNATION"]) == ("talk", "1", "2")
    assert first == [one for one in found("SYSLOG_IDENTIFIER=talk/1") if one["WORKER_INCARNATION"] == "2"]
    assert {"it burns"} == {one["MESSAGE"] for one in found("SERVICE_NAME=talk", "PRIORITY=3")}
    assert "talk/1 | plain" not in service.log()


def test_shutdown_says_that_systemd_starts_it_again(service: Service) -> None:
    """And it does: what ends for good is `systemctl stop`."""
    service.drop_in("[Service]\nRestartSec=100ms\n")
    service.start(TWO)
    before = service.pid

    said = service.box.run("gpu-supervisor", "shutdown", "--instance", service.name)

    assert f"`systemctl stop {service.unit}` ends it for good" in said.stderr
    service.wait_for("NRestarts", "1")
    service.wait_for("ActiveState", "active")
    assert service.pid != before


def test_a_removed_control_socket_comes_back_at_a_hangup(service: Service) -> None:
    """The folder too, which systemd made."""
    service.start(TWO)
    service.box.run("rm", "-r", f"/run/gpu-supervisor/{service.name}")
    status = ("gpu-supervisor", "status", "--instance", service.name)
    assert service.box.run(*status, check=False).returncode == 4

    service.box.run("systemctl", "kill", "--kill-whom=main", "--signal=HUP", service.unit)

    until(lambda: service.box.run(*status, check=False).returncode == 0, service.log)


def test_instances_do_not_know_each_other(service: Service) -> None:
    """A socket and a state folder for each."""
    other = Service(service.box, "other")
    service.start(TWO)
    other.start(TWO)
    try:
        service.wait_for("StatusText", "2 of 2 workers ready")
        other.wait_for("StatusText", "2 of 2 workers ready")
        assert not set(service.pids().values()) & set(other.pids().values())
        for one in (service, other):
            service.box.run("test", "-S", f"/run/gpu-supervisor/{one.name}/control.sock")
            service.box.run("test", "-d", f"/var/lib/gpu-supervisor/{one.name}")
    finally:
        service.box.run("systemctl", "stop", other.unit)
    assert service.show("ActiveState") == "active"


def test_the_readme_tells_the_truth(box: Box) -> None:
    """Its commands for systemd, in order, as they are written; those of make are what installed the box."""
    section = (ROOT / "README.md").read_text().split("## As a systemd service")[1].split("\n## ")[0]
    commands = re.findall(r"^# (.*)", section, re.MULTILINE)
    assert (commands[0], commands[-1]) == ("make install-systemd", "make uninstall-systemd")
    box.run("mkdir", "-p", "/etc/gpu-supervisor")  # As the installation did where it was made.
    for name in ("demo.yaml", "demo_worker.py"):
        box.write(f"/home/user/configs/{name}", (ROOT / "configs" / name).read_text())

    for command in commands[1:-1]:
        said = box.run("sh", "-c", f"cd /home/user && {command}").stdout
        if command.startswith("systemctl status"):
            assert "Active: active (running)" in said
            # The line gathers changes: it follows the socket's answer by a tenth of a second.
            until(partial(_says, box, command, 'Status: "4 of 4 workers ready"'), "the line")


def test_the_page_on_operation_tells_the_truth(box: Box) -> None:
    """Its commands for root, in order, and their answers."""
    reader = RootReader(box)

    for step in read_steps((ROOT / "docs/operations.md").read_text()):
        is_right, answer = reader.take(step)
        shown = "\n".join(answer)
        assert is_right, f"docs/operations.md:{step.line}: {getattr(step, 'text', '')}\nit says:\n{shown}"


def _says(box: Box, command: str, line: str) -> bool:
    return line in box.run("sh", "-c", command).stdout
