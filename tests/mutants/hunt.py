"""Lets the simulator, or a file of tests, look for planted faults, each in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.graft import Mutant, graft
from tests.mutants.planted import MUTANTS

SEEDS = 300
JOBS = 2
TIMEOUT_S = 300.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Catch:
    """
    How a fault was found.

    Args:
        rule: That saw it; empty when it survived.
        seed: At which.
        problem: Why it could not be hunted, or empty.
    """

    mutant: Mutant
    rule: str
    seed: int
    problem: str = ""


def hunt_all(seeds: int = SEEDS, mutants: Sequence[Mutant] = MUTANTS) -> Iterator[Catch]:
    """Hunt mutants; in their order."""
    with ThreadPoolExecutor(JOBS) as pool:
        yield from pool.map(lambda mutant: hunt(mutant, seeds), mutants)


def hunt(mutant: Mutant, seeds: int = SEEDS) -> Catch:
    """Hunt one mutant in a process of its own."""
    try:
        mutant.text()
    except (LookupError, OSError) as error:
        return Catch(mutant, "", 0, str(error))
    command = (sys.executable, "-m", "tests.mutants", "--one", mutant.name, "--seeds", str(seeds))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{mutant.name}: {done.stderr}")
    found = json.loads(done.stdout)
    return Catch(mutant, found["rule"], found["seed"])


def hunt_here(name: str, seeds: int) -> str:
    """Plant a fault in this process, and say as JSON which rule saw it at which seed."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    graft(mutant)
    if mutant.by:
        return json.dumps({"rule": _failing_test(mutant.by), "seed": 0})
    from tests.sim.life import live

    for seed in range(seeds):
        if rule := live(seed).rule:
            return json.dumps({"rule": rule, "seed": seed})
    return json.dumps({"rule": "", "seed": seeds})


def _failing_test(file: str) -> str:
    """The first test of a file that fails with the fault, run here; empty if all pass."""
    import pytest

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main([str(ROOT / file), "-q", "-x", "-p", "no:cacheprovider", "--tb=no"])
    failed = [line.split(" ")[1].split("::")[-1] for line in said.getvalue().splitlines() if line.startswith("FAILED ")]
    if status == pytest.ExitCode.OK:
        return ""
    if status != pytest.ExitCode.TESTS_FAILED or not failed:
        raise RuntimeError(said.getvalue())
    return failed[0]
