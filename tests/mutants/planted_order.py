"""Faults in who starts and stops after whom."""

from __future__ import annotations

from tests.mutants.graft import Mutant

ORDER = (
    Mutant(
        "nobody waits for those it comes after",
        "admission.py",
        "if (missing := order.wait_of(turn.fleet, worker)) is not None:",
        "if (missing := order.wait_of(turn.fleet, worker)) is not None and False:",
    ),
    Mutant(
        "one worker of a service is enough for those after it",
        "order.py",
        "been |= {name} if workers and ready == len(workers) else set()",
        "been |= {name} if workers and ready else set()",
    ),
    Mutant(
        "later unreadiness stops those that come after",
        "order.py",
        "        been -= set() if workers else {name}\n",
        "        been -= {name}\n",
    ),
    Mutant(
        "a service that was held down need not be ready again",
        "order.py",
        "        been -= set() if workers else {name}\n",
        "",
        by="tests/core/test_order.py",
    ),
    Mutant(
        "who is held down is waited for",
        "order.py",
        "return [one for one in workers if not one.down and one.target is not None]",
        "return [one for one in workers if one.target is not None]",
    ),
    Mutant(
        "who is done is waited for",
        "order.py",
        "MET = frozenset({State.READY, State.EXITED})",
        "MET = frozenset({State.READY})",
    ),
    Mutant(
        "only the first service of the list is waited for",
        "order.py",
        "missing = [fleet.awaited[name] for name in _after(worker) if name in fleet.awaited]",
        "missing = [fleet.awaited[name] for name in _after(worker)[:1] if name in fleet.awaited]",
    ),
    Mutant(
        "who waits for others is not told of their readiness",
        "admission.py",
        '    "awaited",\n',
        "",
    ),
    Mutant(
        "a worker is taken down to wait for a new service",
        "rollout.py",
        "    if any(order.wait_of(turn.fleet, turn.workers[worker]) for worker, _ in standing.candidates):\n",
        "    if False:\n",
        by="tests/core/test_order.py",
    ),
    Mutant(
        "the daemon stops all at once",
        "order.py",
        "due = [one for one in running if one.id.service not in needed]",
        "due = running",
    ),
    Mutant(
        "the daemon stops only the neighbours in order",
        "order.py",
        "            todo |= set(graph.get(name, ()))\n",
        "",
        by="tests/core/test_order.py",
    ),
    Mutant(
        "the next layer waits for ever for one that hangs",
        "order.py",
        "if one.state in LIVING and one.id not in fleet.given_up)",
        "if one.state in LIVING)",
        by="tests/core/test_order.py",
    ),
    Mutant(
        "all layers share the time of the first",
        "fleet.py",
        "        turn.set(deadline=max(turn.fleet.deadline, turn.now + grace_s + STOP_MARGIN_S))\n",
        "        pass\n",
    ),
    Mutant(
        "who waits for its end is started again when it dies",
        "order.py",
        "if one.target is not None and one.state not in RUNNING]:\n        turn.tell",
        "if one.target is not None and one.state not in RUNNING and False]:\n        turn.tell",
    ),
    Mutant(
        "the daemon lives on for who waits for one that has failed",
        "order.py",
        "    return any(one.state is State.FAILED or is_hopeless(fleet, workers, one) for one in firsts)",
        "    return False",
        by="tests/core/test_order.py",
    ),
    Mutant(
        "a cycle of services is taken",
        "file/after.py",
        "        if cycle and frozenset(cycle) not in said:",
        "        if False:",
        by="tests/core/test_order.py",
    ),
    Mutant(
        "a cycle within a cycle is not seen",
        "file/after.py",
        "            if first == start:\n                return way\n",
        "            if first == start and len(way) < 3:\n                return way\n",
        by="tests/core/test_order.py",
    ),
)
