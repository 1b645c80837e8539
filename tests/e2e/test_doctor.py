"""`doctor`: a look at the machine and at a file, with a daemon and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import ROOT
from tests.nvml.fake import FakeBox

FILE = """
services:
  llm:
    command: sleep 1000
    resources: {gpu: 0.5}
    restart: {limit: 2, start_limit: 5}
    ready: {after: 50ms}
"""


def doctor(folder: Path, *words: str, box: FakeBox | None = None) -> subprocess.CompletedProcess[str]:
    """Run it in a folder, without a daemon."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(box.env if box else {})}
    env["GPU_SUPERVISOR_SOCKET"] = str(folder / "none.sock")
    command = [sys.executable, "-m", "supervisor", "doctor", *words]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, Any]]]:
    """By what was checked."""
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads(done.stdout)["findings"]:
        found.setdefault(one["check"], []).append(one)
    return found


def test_settings_of_the_gpus_and_faults_of_the_file_are_found(tmp_path: Path, box: FakeBox) -> None:
    """Through the driver, as an administrator set them."""
    (tmp_path / "serve").touch(0o777)
    (tmp_path / "serve").chmod(0o777)
    (tmp_path / "service.yaml").write_text(FILE.replace("sleep 1000", "./serve"))
    box.change(box.uuids[1], persistence=False)
    box.change(box.uuids[2], compute=3)

    found = findings(doctor(tmp_path, "service.yaml", "--json", box=box))

    assert found["driver"][0]["found"].startswith("4 GPUs, driver ")
    assert "persistence mode is off" in found["GPU 1"][0]["found"]
    assert "llm would share it" in found["GPU 2"][0]["found"]
    assert "GPU 0" not in found
    assert "never reached" in found["service llm"][0]["found"]
    assert "may be written by everybody" in found["files"][0]["found"]
    assert {one["check"] for one in found["kernel"]} == {"kernel"}


def test_a_person_reads_what_is_wrong_first_and_what_to_do(tmp_path: Path) -> None:
    """A table, and a hint for each of its rows that needs one."""
    done = doctor(tmp_path)

    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0].split() == ["LEVEL", "CHECK", "FOUND"]
    assert any(line.startswith("note") and "driver" in line for line in lines)
    assert any(line.startswith("hint: driver: install the NVIDIA driver") for line in lines)


def test_a_running_daemons_own_file_is_examined(start: StartDaemon) -> None:
    """Found by its socket, from wherever one stands."""
    daemon = start(FILE)
    daemon.wait(lambda now: "llm/0" in now, "a daemon that answers")

    found = findings(daemon.cli("doctor", "--json"))

    assert "never reached" in found["service llm"][0]["found"]


def test_a_bad_file_is_a_finding_beside_the_others(tmp_path: Path) -> None:
    """With line and column, and what was meant; the machine is looked at nonetheless."""
    (tmp_path / "bad.yaml").write_text("services: {a: {comand: x}}\n")

    found = findings(doctor(tmp_path, "bad.yaml", "--json"))

    assert found["file"][0]["found"].startswith("bad.yaml:1:")
    assert any("command" in one["hint"] for one in found["file"])
    assert "driver" in found


def test_a_driver_that_tells_nothing_of_settings_is_no_error(tmp_path: Path, box: FakeBox) -> None:
    """What is not told is not known, and nothing is said of it."""
    box.fail("nvmlDeviceGetComputeMode", "*", 3)
    box.fail("nvmlDeviceGetPersistenceMode", "*", 999)

    found = findings(doctor(tmp_path, "--json", box=box))

    assert found["driver"][0]["level"] == "ok"
    assert "GPU 0" not in found


def test_a_driver_in_trouble_is_a_finding(tmp_path: Path, box: FakeBox) -> None:
    """Not an error of `doctor`: that is what it is for."""
    box.init_code(18)

    found = findings(doctor(tmp_path, "--json", box=box))

    assert found["driver"][0]["level"] == "problem"
    assert "load the module of the new driver" in found["driver"][0]["hint"]
