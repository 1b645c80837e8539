"""The README tells the truth: every command in it is run, and what is generated is up to date."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, wait_for

README = (ROOT / "README.md").read_text()
COMMANDS = [line[2:] for line in README.splitlines() if line.startswith("$ ")]
TOUR = COMMANDS[: COMMANDS.index("make help")]
MAKE = COMMANDS[COMMANDS.index("make help") :]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What a newcomer has, with this environment as the one that `make` would install."""
    for name in ("Makefile", "pyproject.toml", "configs"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {**inherited, "GPU_SUPERVISOR_SOCKET": str(tmp_path / "control.sock"), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def demo(home: Path, environment: dict[str, str]) -> Iterator[Path]:
    """The first command of the tour, left running in its own terminal."""
    if not Path(sys.prefix, "installed").exists():
        pytest.skip("not in the environment that make installs (run it with `make test`)")
    (home / ".venv").symlink_to(sys.prefix)
    (home / "pyproject.toml").touch()
    os.utime(home / "pyproject.toml", (0, 0))
    with (home / "log").open("wb") as log:
        daemon = subprocess.Popen(["make", "run"], cwd=home, env=environment, stdout=log, stderr=log, process_group=0)
    try:
        wait_for(lambda: (home / "log").read_text().count("worker.ready") >= 4 or None, (home / "log").read_text)
        yield home
    finally:
        if daemon.poll() is None:
            os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(20)


def test_the_tour_works_as_it_is_written(demo: Path, environment: dict[str, str]) -> None:
    """Every command of the five minutes, in order."""
    assert TOUR[0] == "make run"

    for command in TOUR[1:]:
        done = subprocess.run(
            ["sh", "-c", command], cwd=demo, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout or command.startswith(("sed", ".venv/bin/gpu-supervisor shutdown"))


@pytest.mark.parametrize("command", MAKE)
def test_there_is_a_rule_for_each_make_command(home: Path, command: str) -> None:
    """`make -n` knows what each would do."""
    done = subprocess.run([*command.split(), "-n"], cwd=home, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_a_file_in_the_readme_is_a_good_one(block: str, tmp_path: Path) -> None:
    """`check` accepts it."""
    (tmp_path / "service.yaml").write_text(block)

    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "check", "service.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_generated_parts_are_up_to_date() -> None:
    """`make docs` would change nothing."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )

    assert done.returncode == 0


def test_every_command_of_the_program_is_in_the_readme() -> None:
    """And no other."""
    shown = subprocess.run(
        [sys.executable, "-m", "supervisor", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    listed = set(re.findall(r"^  ([a-z]+)  ", shown.split("Commands:")[1], re.MULTILINE))

    assert listed == set(re.findall(r"^\| `([a-z]+)", README.split("## Commands")[1], re.MULTILINE))
