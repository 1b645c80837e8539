"""Faults of releasing: witnesses believed too much or too little, memory that is forgotten or never given up."""

from __future__ import annotations

from tests.mutants.graft import Mutant

RELEASE: tuple[Mutant, ...] = (
    Mutant(
        "the dead on the list are overlooked",
        "release.py",
        "    if evidence.listed:\n",
        "    if False:\n",
    ),
    Mutant(
        "memory that is nobody's is not missed",
        "release.py",
        "        if evidence.lacking:\n",
        "        if False:\n",
    ),
    Mutant(
        "memory counts as back by any list",
        "witnesses.py",
        "    if sight.listed or (turn.fleet.has_listed and not sight.unlisted):\n",
        "    if True:\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "a reading from before the end proves it",
        "witnesses.py",
        "        if fleet.inventory.asked_at >= worker.since:\n",
        "        if True:\n",
    ),
    Mutant(
        "nobody waits for the memory of the dead",
        "moves.py",
        "    if not worker.occupied:\n        return follow(worker, now)\n",
        "    if True:\n        return follow(worker, now)\n",
    ),
    Mutant(
        "who takes the place of a neighbour counts as having the memory of the dead",
        "witnesses.py",
        "    return least if least or not most else None\n",
        "    return least\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "what a neighbour has left counts as what it declared",
        "witnesses.py",
        "    return least if least or not most else None\n",
        "    return most\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "less than nothing is stray where the list has more than there is",
        "witnesses.py",
        "    return max(0, total - free - listed)\n",
        "    return total - free - listed\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "memory is never given up",
        "witnesses.py",
        "turn.now - worker.since < DIRTY_S:\n",
        "True:\n",
    ),
    Mutant(
        "memory is given up at once",
        "witnesses.py",
        "turn.now - worker.since < DIRTY_S:\n",
        "turn.now - worker.since < 10.0:\n",
    ),
    Mutant(
        "nobody is warned of memory that is late",
        "facts.py",
        "    if is_late and not worker.is_told:\n",
        "    if False:\n",
    ),
    Mutant(
        "who may go elsewhere stays on a dirty device",
        "plan.py",
        "        mask = self._dirty\n",
        "        mask = 0\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "a dirty device is never clean again",
        "witnesses.py",
        "    if not clean:\n        return\n",
        "    if True:\n        return\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "what a neighbour freed counts for the dead",
        "witnesses.py",
        "lacking=_unowned(device, sight) if listed is False else",
        "lacking=0 if listed is False else",
    ),
    Mutant(
        "open files are not asked about",
        "witnesses.py",
        "    return None if fleet.hidden else False\n",
        "    return None\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "who cannot look at everybody has seen everybody",
        "witnesses.py",
        "    return None if fleet.hidden else False\n",
        "    return False\n",
        by="tests/core/test_release.py",
    ),
    Mutant(
        "a list that leaves out who computes is believed",
        "witnesses.py",
        "turn.fleet.has_listed and not sight.unlisted",
        "turn.fleet.has_listed",
        by="tests/core/test_release.py",
    ),
)
