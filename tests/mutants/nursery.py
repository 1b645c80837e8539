"""
Hunts planted faults, one a line: ``python -m tests.mutants.nursery``, spoken to by `hunt`.

Everything is imported once; each fault is planted in a child of this process, which imports anew only the faulty module
and whatever imports it. What takes longest, the models of the spec file, is there already for most of them.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.mutants.graft import Mutant, graft

ROOT = Path(__file__).parents[2]
OURS = ("supervisor", "tests")
LIMIT_S = 120
"""Of processor time: a fault may make the core go round in a circle."""

Answer = dict[str, Any]


def main() -> None:
    """Answer each question until there are no more."""
    for name in ("tests.sim.life", "pytest"):
        importlib.import_module(name)
    graph = importers()
    for line in sys.stdin:
        asked = json.loads(line)
        mutant = Mutant(**asked.pop("mutant"))
        sys.stdout.write(json.dumps(answer(mutant, graph, **asked)) + "\n")
        sys.stdout.flush()


def answer(mutant: Mutant, graph: dict[str, set[str]], *, seeds: Sequence[int], **question: Any) -> Answer:
    """How a mutant fares, at seeds whose lives break no rule without it."""
    while True:
        found = in_child(mutant, graph, seeds=seeds, **question)
        seed = found.get("seed")
        if seed is None or is_sound(seed):
            return found
        seeds = seeds[seeds.index(seed) + 1 :]


@cache
def is_sound(seed: int) -> bool:
    """Whether the life of a seed breaks no rule as it is."""
    return not _life().live(seed).rule


# ---- a child for each -----------------------------------------------------------------------------------------------


def in_child(mutant: Mutant, graph: dict[str, set[str]], **question: Any) -> Answer:
    """How a mutant fares in a process of its own."""
    ours, its_own = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _end_with(its_own, mutant, graph, **question)
    os.close(its_own)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if not said:
        return {"problem": f"its process ended with {os.waitstatus_to_exitcode(status)}"}
    answered: Answer = json.loads(said)
    return answered


def _end_with(
    pipe: int,
    mutant: Mutant,
    graph: dict[str, set[str]],
    *,
    seeds: Sequence[int],
    test: str,
    is_traced: bool = False,
) -> None:
    """Plant it here, say what comes of it, and end without any of the parent's clean-up."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Answers go there, and programs that tests start may say something.
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            plant(mutant, graph)
            if mutant.by:
                found = run_test(test or mutant.by)
            elif is_traced:
                found = {"rule": _life().live(seeds[0]).digest}
            else:
                found = live_until_seen(mutant, seeds)
    except Exception as error:  # noqa: BLE001 - Said by the parent, with the mutant's name.
        found = {"problem": repr(error)}
    os.write(pipe, json.dumps(found).encode())
    os._exit(0)


def live_until_seen(mutant: Mutant, seeds: Sequence[int]) -> Answer:
    """The first seed at which a rule that may sees it."""
    for seed in seeds:
        rule = _life().live(seed).rule
        if rule and (not mutant.rules or rule in mutant.rules):
            return {"rule": rule, "seed": seed}
    return {}


def _life() -> Any:
    """The simulator as it is by now."""
    return importlib.import_module("tests.sim.life")


def run_test(name: str) -> Answer:
    """The first test that fails; nothing if all pass."""
    import pytest

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main([str(ROOT / name), "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no"])
    if status == pytest.ExitCode.OK:
        return {}
    failed = [line.split(" ")[1].split("::")[-1] for line in said.getvalue().splitlines() if line.startswith("FAILED ")]
    if status != pytest.ExitCode.TESTS_FAILED or not failed:
        return {"problem": said.getvalue()[-1000:]}
    return {"rule": failed[0].split("[")[0], "seed": None}


# ---- what is imported anew ------------------------------------------------------------------------------------------


def plant(mutant: Mutant, graph: dict[str, set[str]]) -> None:
    """Forget the faulty module and all that has anything of it, so that they are imported with the fault."""
    for name in (mutant.module, *above(mutant.module, graph)):
        if sys.modules.pop(name, None) is None:
            continue
        package, _, short = name.rpartition(".")
        vars(sys.modules.get(package, ModuleType(package))).pop(short, None)
    graft(mutant)


def above(name: str, graph: dict[str, set[str]]) -> set[str]:
    """Modules that import a module, be it by way of others."""
    found: set[str] = set()
    todo = [name]
    while todo:
        new = graph.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def importers() -> dict[str, set[str]]:
    """Who imports each of our modules that are here; anywhere in its text, so rather too many."""
    here = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in OURS}
    found: dict[str, set[str]] = {name: set() for name in here}
    for name, module in here.items():
        if module.__file__ is not None:
            for imported in _imports(Path(module.__file__).read_text()):
                found.setdefault(imported, set()).add(name)
    return found


def _imports(text: str) -> Iterator[str]:
    """Names of modules, and some that are none, as `from` names both in the same way."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


if __name__ == "__main__":
    main()
