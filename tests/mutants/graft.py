"""Loads one module with one place of its text exchanged. To be used in a process of its own."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[2] / "supervisor"


@dataclass(frozen=True)
class Mutant:
    """
    A fault planted on purpose.

    Args:
        name: What it does wrong.
        file: Below the core, or below the package where *part* says so.
        old: Text that stands in it exactly once.
        new: What stands there instead.
        part: Of the package.
        by: The file of tests that is to see it; empty for the simulator.
        rules: Of the simulator, that may see it; empty for any. For a fault that breaks others too, with which it has
            nothing to do.
    """

    name: str
    file: str
    old: str
    new: str
    part: str = "core"
    by: str = ""
    rules: Sequence[str] = ()

    @property
    def module(self) -> str:
        """Name of the module it is in."""
        return f"supervisor.{self.part}.{self.file.removesuffix('.py').replace('/', '.')}"

    def text(self) -> str:
        """
        The module's text with the fault in it.

        Raises:
            LookupError: The place is not there, or not the only one.
        """
        source = (PACKAGE / self.part / self.file).read_text()
        if (count := source.count(self.old)) != 1:
            raise LookupError(f"{self.name}: the old text stands {count} times in {self.file}")
        return source.replace(self.old, self.new)


def graft(mutant: Mutant) -> None:
    """From now on the module is imported with the fault."""
    assert mutant.module not in sys.modules, "it may not be imported before"
    sys.meta_path.insert(0, _Finder(mutant))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module that is to be faulty, and no other."""
        if fullname != self._mutant.module:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(self._mutant))


class _Loader(importlib.abc.Loader):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def exec_module(self, module: ModuleType) -> None:
        """Run the faulty text as the module."""
        exec(compile(self._mutant.text(), f"{self._mutant.file} ({self._mutant.name})", "exec"), module.__dict__)
