"""Whose workers are, their limits and their files of variables, through the real command line."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import environment_of

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

WORKER = "    command: sleep 1000\n    ready: {after: 0s}\n    working_dir: /\n"


@root
def test_a_worker_is_its_users(start: StartDaemon) -> None:
    """Ids, home, limits, umask, nice and score, all visible in /proc."""
    entry = pwd.getpwnam("nobody")
    daemon = start(f"""\
services:
  a:
{WORKER}    user: nobody
    umask: 027
    limits: {{nofile: "200:300"}}
    nice: 4
    oom_score_adj: 300
""")

    pid = daemon.wait_states(a="ready")["a/0"]["pid"]

    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    env = environment_of(pid)
    assert status["Uid"].split() == [str(entry.pw_uid)] * 4
    assert status["Umask"] == "0027"
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == (entry.pw_dir, "nobody", "nobody")
    assert os.getpriority(os.PRIO_PROCESS, pid) == 4
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "300\n"
    assert "Max open files            200                  300" in Path(f"/proc/{pid}/limits").read_text()
    assert {int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()} == {0, 1, 2}


def test_an_unknown_user_fails_its_worker_alone(start: StartDaemon) -> None:
    """`check` warns of it, `status` names it, the neighbour runs."""
    daemon = start(f"services:\n  a:\n{WORKER}    user: no-such-user\n  b:\n{WORKER}")

    workers = daemon.wait_states(a="failed", b="ready")
    checked = daemon.cli("check", str(daemon.file))

    assert workers["a/0"]["reason"] == "no such user: no-such-user"
    assert "services.a.user: warning: no such user: no-such-user" in checked.stdout + checked.stderr
    assert checked.returncode == 0


def test_a_changed_env_file_is_a_changed_launch(start: StartDaemon, tmp_path: Path) -> None:
    """At the next reload, and only for the service that names it."""
    variables = tmp_path / "vars.env"
    variables.write_text("MODE=old\n")
    daemon = start(f"services:\n  a:\n{WORKER}    env_file: {variables}\n  b:\n{WORKER}")
    before = daemon.wait_states(a="ready", b="ready")
    assert environment_of(before["a/0"]["pid"])["MODE"] == "old"

    variables.write_text("MODE=new\n")
    assert daemon.cli("reload", "--wait").returncode == 0

    after = daemon.wait_states(a="ready", b="ready")
    assert environment_of(after["a/0"]["pid"])["MODE"] == "new"
    assert after["b/0"]["pid"] == before["b/0"]["pid"]


@root
def test_root_does_not_start_from_a_file_that_others_may_write(start: StartDaemon) -> None:
    """A reload does not either, and changes nothing."""
    daemon = start(f"services:\n  a:\n{WORKER}")
    before = daemon.wait_states(a="ready")
    daemon.file.chmod(0o666)

    reload = daemon.cli("reload")

    assert reload.returncode == 78
    assert "may be written by everybody (mode 0666)" in reload.stderr
    assert daemon.worker("a/0")["pid"] == before["a/0"]["pid"]
    assert daemon.cli("check", str(daemon.file)).returncode == 78
