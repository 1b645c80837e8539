"""Lets the simulator, or a file of tests, look for planted faults; what is known of each is in `catches.txt`."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.mutants.graft import Mutant
from tests.mutants.planted import MUTANTS

ROOT = Path(__file__).parents[2]
CATCHES = Path(__file__).with_name("catches.txt")
HEAD = (
    "# Which seed's life, or which test, sees each fault, and by what: written by `make mutants`, read by the tests.\n"
)


@dataclass(frozen=True)
class Catch:
    """
    How a fault was found.

    Args:
        rule: That saw it, or test; empty when it survived.
        seed: At which; None where a test saw it.
        problem: Why it could not be hunted, or empty.
    """

    mutant: Mutant
    rule: str = ""
    seed: int | None = None
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        if not self.rule:
            return "SURVIVED"
        return self.rule if self.seed is None else f"{self.rule} at seed {self.seed}"


class Nursery:
    """A process that has all imported, and a child of it for each fault."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.mutants.nursery"),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()

    def hunt(self, mutant: Mutant, seeds: Iterable[int] = (), test: str = "") -> Catch:
        """Look for a fault at these seeds; or, where tests are to see it, with this one or all of its file."""
        try:
            mutant.text()
        except (LookupError, OSError) as error:
            return Catch(mutant, problem=str(error))
        found = self._ask({"mutant": asdict(mutant), "seeds": list(seeds), "test": test})
        return Catch(mutant, found.get("rule", ""), found.get("seed"), found.get("problem", ""))

    def hunt_again(self, known: Catch | None, mutant: Mutant, seeds: int) -> Catch:
        """Look where a fault was seen before, and if it is seen there no more, everywhere."""
        if known is not None and (known.seed is None) == bool(mutant.by):
            first = [known.seed] if known.seed is not None else []
            catch = self.hunt(mutant, first, f"{mutant.by}::{known.rule}" if mutant.by else "")
            if catch.rule:
                return catch
        return self.hunt(mutant, range(seeds))

    def digest(self, mutant: Mutant, seed: int) -> str:
        """Of the trace of a life with a fault, or with a change that is none."""
        return str(self._ask({"mutant": asdict(mutant), "seeds": [seed], "test": "", "is_traced": True})["rule"])

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def hunt_all(mutants: Sequence[Mutant], known: Mapping[str, Catch], seeds: int, jobs: int) -> Iterator[Catch]:
    """Hunt mutants; in their order."""
    free: queue.SimpleQueue[Nursery] = queue.SimpleQueue()
    every = [Nursery() for _ in range(jobs)]
    for nursery in every:
        free.put(nursery)

    def hunt(mutant: Mutant) -> Catch:
        nursery = free.get()
        try:
            return nursery.hunt_again(known.get(mutant.name), mutant, seeds)
        finally:
            free.put(nursery)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(hunt, mutants)
    finally:
        for nursery in every:
            nursery.close()


# ---- what is known --------------------------------------------------------------------------------------------------


def read_catches(text: str) -> dict[str, Catch]:
    """By the mutant's name; of those that there still are."""
    mutants = {mutant.name: mutant for mutant in MUTANTS}
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            seed, rule, name = line.split(maxsplit=2)
            if name in mutants:
                found[name] = Catch(mutants[name], rule, None if seed == "-" else int(seed))
    return found


def write_catches(catches: Iterable[Catch]) -> str:
    """A line for each that was seen."""
    seen = [catch for catch in catches if catch.rule]
    return HEAD + "".join(f"{'-' if one.seed is None else one.seed:>3} {one.rule} {one.mutant.name}\n" for one in seen)
