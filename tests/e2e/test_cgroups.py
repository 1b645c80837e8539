"""Workers in cgroups of their own, where the daemon was delegated one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import PATIENCE_S, is_alive, wait_for

MARK = "trusted.delegate"
FILE = """\
services:
  a:
    command: [sh, -c, "trap '' TERM; setsid sleep 1000 & exec sleep 1000"]
    working_dir: /
    ready: {after: 0s}
    stop: {timeout: 0s}
    user: nobody
    env: {SECRET: "two words"}
  b: {command: ./text, working_dir: "{home}", ready: {after: 0s}}
"""


def _mounted() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return Path(line.split()[4])
    return None


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A cgroup with the mark of systemd, this process in it; where that may be made."""
    mount = _mounted()
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root and cgroup v2")
    before = Path("/proc/self/cgroup").read_text().split("0::")[1].splitlines()[0]
    folder = mount / f"gpu-supervisor-test-{os.getpid()}"
    try:
        folder.mkdir()
        os.setxattr(folder, MARK, b"1")
        (folder / "cgroup.procs").write_text("0")
    except OSError as error:
        folder.rmdir()
        pytest.skip(f"cannot make a cgroup: {error}")
    yield folder
    (mount / before.strip("/") / "cgroup.procs").write_text("0")
    deadline = time.monotonic() + PATIENCE_S
    while folder.exists():
        for leaf in [*folder.glob("*/"), folder]:
            try:
                leaf.rmdir()
            except OSError:
                assert time.monotonic() < deadline, "something lives in the cgroup"
        time.sleep(0.02)


def test_a_worker_is_in_a_leaf_and_nothing_is_left_of_it(delegated: Path, start: StartDaemon, tmp_path: Path) -> None:
    """Entered by itself, whoever it is; daemon, keeper and shims stay outside; a text is no program here either."""
    (tmp_path / "text").write_text("echo hello\n")
    (tmp_path / "text").chmod(0o755)
    daemon = start(FILE.replace("{home}", str(tmp_path)))
    workers = daemon.wait_states(a="ready", b="failed")

    pid = workers["a/0"]["pid"]
    (leaf,) = [one for one in delegated.iterdir() if one.is_dir()]
    # Its pid is known while it is still the shell that enters.
    wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00", "its own program")
    inside = {int(one) for one in (leaf / "cgroup.procs").read_text().split()}
    assert leaf.name == f"gpu-supervisor.{daemon.pid}.a.0"
    assert pid in inside
    assert len(inside) == 2
    assert "cgroup.found" in daemon.output
    assert workers["b/0"]["reason"].startswith(f"not a program: {tmp_path}/text")
    assert b"SECRET=two words" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert str(Path(f"/proc/{pid}/fd/0").readlink()) == os.devnull

    assert daemon.stop() == 0
    wait_for(lambda: not [one for one in delegated.iterdir() if one.is_dir()], "leaves that are removed")


def test_what_a_lost_shim_leaves_is_killed_by_its_cgroup(delegated: Path, start: StartDaemon) -> None:
    """Also what forks faster than one looks: and the worker comes back."""
    forker = "while :; do setsid sh -c 'sleep 0.05 & sleep 0.05' & sleep 0.01; done"
    daemon = start(f"services: {{a: {{command: {json.dumps(['sh', '-c', forker])}, ready: {{after: 50ms}}}}}}")
    before = daemon.wait_states(a="ready")["a/0"]["pid"]
    shim = int(Path(f"/proc/{before}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(shim, signal.SIGKILL)

    after = daemon.wait(lambda now: now["a/0"]["restarts"] == 1 and now["a/0"]["state"] == "ready", "it is back")
    assert after["a/0"]["last_exit"]["cause"] == "lost"
    assert not is_alive(before)
    assert daemon.stop() == 0


def test_without_delegation_nothing_is_made(start: StartDaemon) -> None:
    """And the log says why."""
    daemon = start("services:\n  a: {command: sleep 1000, working_dir: /, ready: {after: 0s}}\n")
    pid = daemon.wait_states(a="ready")["a/0"]["pid"]

    if "cgroup.found" in daemon.output:
        pytest.skip("the tests run in a delegated cgroup")
    assert "cgroup.absent" in daemon.output
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
