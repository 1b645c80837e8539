from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mutants.graft import Mutant
from tests.mutants.hunt import CATCHES, HEAD, Catch, Nursery, read_catches, write_catches
from tests.mutants.planted import MUTANTS
from tests.sim.life import live

SEEDS_MAX = 300
"""Where the seed that is known sees a fault no more: the simulator grows, and the life of a seed with it."""

NOTHING = ("facts.py", "plan.py", "message.py", "spec.py", "file/keys.py")
"""Files that few, or nearly all, others import."""

SAMPLE = 6
"""One of so many is hunted here, since each takes seconds; `make mutants` hunts them all."""

SOON = 20
"""Who was seen by so early a seed is seen soon again, when the simulator grows; who was not may cost minutes."""


def sample() -> list[Mutant]:
    """Those of which it is known that they are seen soon, less most of them."""
    known = read_catches(CATCHES.read_text())
    soon = [one for one in MUTANTS if one.by or (one.name in known and (known[one.name].seed or 0) < SOON)]
    return soon[::SAMPLE]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """One for all."""
    with Nursery() as one:
        yield one


@pytest.fixture(scope="session")
def known() -> dict[str, Catch]:
    return read_catches(CATCHES.read_text())


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
@pytest.mark.parametrize("mutant", sample(), ids=lambda mutant: mutant.name)
def test_mutant_is_seen(mutant: Mutant, nursery: Nursery, known: dict[str, Catch]) -> None:
    """A simulator that does not see planted faults would not see others either; `make mutants` says where each is."""
    catch = nursery.hunt_again(known.get(mutant.name), mutant, SEEDS_MAX)

    assert catch.rule, f"{mutant.name}: {catch}"


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTHING)
def test_what_is_planted_is_all_that_is_other(file: str, nursery: Nursery) -> None:
    """Modules that are imported anew live as those that were there; without a fault there is nothing to see."""
    line = "from __future__ import annotations"
    nothing = Mutant("nothing", file, line, line)

    assert nursery.digest(nothing, 7) == live(7).digest
    assert nursery.hunt(nothing, range(3)) == Catch(nothing)


@pytest.mark.slow
def test_who_is_not_seen_where_he_was_is_looked_for_everywhere(nursery: Nursery) -> None:
    """And a rule that has nothing to do with a fault does not see it."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "slice freed when the main process ends")
    found = nursery.hunt(mutant, range(SEEDS_MAX))

    assert nursery.hunt_again(Catch(mutant, found.rule, 10**9), mutant, SEEDS_MAX).rule
    blind = Mutant(mutant.name, mutant.file, mutant.old, mutant.new, rules=("no_such_rule",))
    assert not nursery.hunt(blind, range(5)).rule


def test_a_fault_that_ends_its_process_is_told(nursery: Nursery) -> None:
    """It is neither seen nor takes the others with it."""
    line = "from __future__ import annotations"
    deadly = Mutant("deadly", "facts.py", line, f"{line}\nimport os\nos._exit(3)")

    assert nursery.hunt(deadly, [0]).problem == "its process ended with 3"
    assert nursery.hunt(Mutant("odd", "facts.py", line, "1/0"), [0]).problem == "ZeroDivisionError('division by zero')"


def test_catches_are_read_as_they_were_written() -> None:
    """In the order they are given; what survived is not there, nor are mutants of old."""
    first, second, third = MUTANTS[:3]
    text = write_catches([Catch(first, "some_rule", 12), Catch(second), Catch(third, "test_it")])

    assert text.startswith(HEAD)
    assert read_catches(f"{text}  1 a_rule a mutant of old\n") == {
        first.name: Catch(first, "some_rule", 12),
        third.name: Catch(third, "test_it"),
    }
