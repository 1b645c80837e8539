"""Faults planted in the core, and which rule of the simulator sees each: ``python -m tests.mutants``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutants.hunt import CATCHES, hunt_all, read_catches, write_catches
from tests.mutants.planted import MUTANTS

SEEDS = 300
JOBS = 2


def main() -> int:
    """Print a line for each mutant, and keep what saw it; 1 if one survived."""
    options = _options()
    mutants = [mutant for mutant in MUTANTS if options.one is None or mutant.name == options.one]
    if not mutants:
        sys.stderr.write(f"cannot hunt {options.one}: there is no mutant of that name\n")
        return 2
    began = time.monotonic()
    known = read_catches(CATCHES.read_text()) if CATCHES.exists() else {}
    survivors = 0
    first = {} if options.anew else known.copy()
    try:
        for catch in hunt_all(mutants, first, options.seeds, min(options.jobs, len(mutants))):
            survivors += not catch.rule
            known[catch.mutant.name] = catch
            sys.stdout.write(f"{catch.mutant.file:<13} {catch.mutant.name:<52} {catch}\n")
            sys.stdout.flush()
    finally:
        CATCHES.write_text(write_catches(known[mutant.name] for mutant in MUTANTS if mutant.name in known))
    sys.stdout.write(f"{survivors} survived; {time.monotonic() - began:.0f} s\n")
    return bool(survivors)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Does the simulator see faults?")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"lives that each may need ({SEEDS})")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"processes to share the work ({JOBS})")
    parser.add_argument("--anew", action="store_true", help="do not try first what saw them before")
    parser.add_argument("--one", metavar="NAME", help="only this one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
