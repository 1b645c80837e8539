"""Faults planted in the core, and which rule of the simulator sees each: ``python -m tests.mutants``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutants.hunt import SEEDS, hunt_all, hunt_here


def main() -> int:
    """Print a line for each mutant; 1 if one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Does the simulator see faults?")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"lives that each may need ({SEEDS})")
    parser.add_argument("--one", metavar="NAME", help="hunt this one here, answer in JSON")
    options = parser.parse_args()
    if options.one is not None:
        sys.stdout.write(hunt_here(options.one, options.seeds) + "\n")
        return 0
    began = time.monotonic()
    survivors = 0
    for catch in hunt_all(options.seeds):
        survivors += not catch.rule
        how = f"{catch.rule} at seed {catch.seed}" if catch.rule else catch.problem or f"SURVIVED {catch.seed} seeds"
        sys.stdout.write(f"{catch.mutant.file:<13} {catch.mutant.name:<52} {how}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{survivors} survived; {time.monotonic() - began:.0f} s\n")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
