from __future__ import annotations

import pytest

from tests.mutants.graft import Mutant
from tests.mutants.hunt import hunt_all
from tests.mutants.planted import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_place_of_a_mutant_is_there_once(mutant: Mutant) -> None:
    """A mutant that does not change the core any more proves nothing."""
    assert mutant.text()


def test_names_of_mutants_differ() -> None:
    """They are looked up by name."""
    assert len(MUTANTS) == len({mutant.name for mutant in MUTANTS})


def test_missing_place_is_refused() -> None:
    """A text that is not there, or there more than once."""
    for old in ("no such text", "import"):
        with pytest.raises(LookupError, match="stands"):
            Mutant("odd", "facts.py", old, "").text()


@pytest.mark.slow
def test_every_third_mutant_is_seen() -> None:
    """A simulator that does not see planted faults would not see others either; `make mutants` hunts all of them."""
    assert [catch.mutant.name for catch in hunt_all(mutants=MUTANTS[::3]) if not catch.rule] == []
