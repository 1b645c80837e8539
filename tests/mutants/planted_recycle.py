"""Faults in who is recycled, and when."""

from __future__ import annotations

from tests.mutants.graft import Mutant

_TESTS = "tests/core/test_recycle.py"

RECYCLE: tuple[Mutant, ...] = (
    Mutant(
        "several of a service are recycled at once",
        "recycle.py",
        "    if any(one.service == service for one in fleet.recycling) or not all(_is_fine(one)"
        " for one in _mates(turn, worker)):\n",
        "    if False:\n",
    ),
    Mutant(
        "nobody waits for a mate that is not ready",
        "recycle.py",
        " or not all(_is_fine(one) for one in _mates(turn, worker)):\n",
        ":\n",
    ),
    Mutant(
        "two services' workers are recycled on one device",
        "recycle.py",
        "    return not any(mine & it.devices for it in fleet.recycling.values())\n",
        "    return True\n",
        by=_TESTS,
    ),
    Mutant(
        "recycling is told as the operator's doing",
        "intents.py",
        "        cause, reason = Cause.RECYCLE, worker.worn\n",
        "        cause, reason = Cause.OPERATOR, worker.worn\n",
    ),
    Mutant(
        "one is recycled before it has proven healthy",
        "recycle.py",
        "not worker.worn and is_healthy_now(worker, turn.now)",
        "not worker.worn",
        by=_TESTS,
    ),
    Mutant(
        "a measurement of another process counts",
        "recycle.py",
        "worker.incarnation != incarnation or used <= limit",
        "used <= limit",
        by=_TESTS,
    ),
    Mutant(
        "what the driver shows is not looked at",
        "recycle.py",
        "    if not turn.has_read or fleet.inventory is None or not wants_devices(fleet):\n",
        "    if True:\n",
        by=_TESTS,
    ),
    Mutant(
        "all are recycled at the same age",
        "moves.py",
        "worker.spawned_at + spread_s(after_s, worker.id, worker.incarnation)",
        "worker.spawned_at + after_s",
        by=_TESTS,
    ),
    Mutant(
        "a file without recycle does not take it back",
        "intents.py",
        '    after = evolve(after, worn="")\n',
        "",
        by=_TESTS,
    ),
    Mutant(
        "who is left behind by a halted roll-out is recycled into it",
        "recycle.py",
        "    if worker.is_outdated and service in fleet.rolls:\n",
        "    if worker is None:\n",
        by=_TESTS,
    ),
)
