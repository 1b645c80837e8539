"""Faults of admission: turns, leases, memory of devices and of the host. Seen by the simulator or by tests."""

from __future__ import annotations

from tests.mutants.graft import Mutant

ADMISSION: tuple[Mutant, ...] = (
    Mutant(
        "start_parallel is not kept",
        "admission.py",
        "    if not limit or len(starting) < limit:\n",
        "    if True:\n",
    ),
    Mutant(
        "one more than start_parallel at once",
        "admission.py",
        "    return until[-limit] if len(until) >= limit else None\n",
        "    return until[-limit] if len(until) > limit else None\n",
    ),
    Mutant(
        "who is to have less of a device makes no way",
        "admission.py",
        "    return will_have[0] < had[0] or will_have[1] < had[1]\n",
        "    return will_have[0] == 0\n",
        by="tests/core/test_admission.py",
    ),
    Mutant(
        "a place without room is kept",
        "turn.py",
        " or self._is_full(worker, one) for one",
        " for one",
        by="tests/core/test_admission.py",
    ),
    Mutant(
        "a start counts for ever",
        "admission.py",
        "until = sorted(at for at in starting.values() if at > turn.now)",
        "until = sorted(starting.values())",
        by="tests/core/test_admission.py",
    ),
    Mutant(
        "a start that was ready counts on",
        "worker.py",
        "if worker is None or worker.state not in LIVING or worker.was_ready or not worker.occupied:",
        "if worker is None or worker.state not in LIVING or not worker.occupied:",
    ),
    Mutant(
        "nobody in line looks when a start counts no more",
        "admission.py",
        "_wait(turn, worker_id, reason, free_at if worker_id == first else None)",
        "_wait(turn, worker_id, reason, None)",
    ),
    Mutant(
        "the line waits on when one may start",
        "admission.py",
        "    if fleet.in_line and not is_full and (touched or not is_reading):\n",
        "    if False:\n",
    ),
    Mutant(
        "who needs no reading waits for one",
        "admission.py",
        "    in_line = fleet.in_line if is_full else frozenset(",
        "    in_line = fleet.in_line if True else frozenset(",
    ),
    Mutant(
        "who has failed and needs no reading waits for one that hangs",
        "admission.py",
        "(not worker.history.failures or _is_slow(turn)):",
        "not worker.history.failures:",
        by="tests/core/test_admission.py",
    ),
    Mutant(
        "those that fail go first",
        "admission.py",
        "(turn.workers[one].history.failures > 0, one)",
        "(turn.workers[one].history.failures == 0, one)",
        by="tests/core/test_admission.py",
    ),
    Mutant(
        "no lease on a device",
        "admission.py",
        "if other != worker and until > turn.now and held",
        "if False and held",
    ),
    Mutant(
        "a lease does not end",
        "admission.py",
        "if other != worker and until > turn.now and held",
        "if other != worker and other in turn.fleet.starting and held",
        by="tests/core/test_admission.py",
    ),
    Mutant(
        "a whole device need not be free",
        "memory.py",
        "    if 100 * free >= FREE_PERCENT * total:\n",
        "    if True:\n",
    ),
    Mutant(
        "half a device is free enough",
        "slices.py",
        "FREE_PERCENT = 90\n",
        "FREE_PERCENT = 50\n",
    ),
    Mutant(
        "the books do not count",
        "memory.py",
        "    if min(total - declared, free - untaken) - headroom >= need:\n",
        "    if free - untaken - headroom >= need:\n",
        by="tests/core/test_memory.py",
    ),
    Mutant(
        "what is not taken yet counts as free",
        "memory.py",
        "    if min(total - declared, free - untaken) - headroom >= need:\n",
        "    if min(total - declared, free) - headroom >= need:\n",
        by="tests/core/test_memory.py",
    ),
    Mutant(
        "headroom is given away",
        "memory.py",
        "    if min(total - declared, free - untaken) - headroom >= need:\n",
        "    if min(total - declared, free - untaken) >= need:\n",
    ),
    Mutant(
        "an old reading counts as one of now",
        "admission.py",
        "    return turn.has_read or turn.now - inventory.asked_at <= FRESH_S\n",
        "    return True\n",
    ),
    Mutant(
        "who waits for memory never looks again",
        "admission.py",
        'return ("; ".join(short), _look_at(turn, worker)) if short else None',
        'return ("; ".join(short), None) if short else None',
    ),
    Mutant(
        "the host's memory is not asked for",
        "admission.py",
        "    if launch.recipe.memory is None:\n",
        "    if True:\n",
    ),
    Mutant(
        "the host's memory of an earlier moment counts",
        "admission.py",
        "    if not turn.has_read_host:\n",
        "    if turn.fleet.host_memory is None:\n",
    ),
    Mutant(
        "what starting workers take of the host is forgotten",
        "memory.py",
        "    if min(host.total_bytes - declared, host.available_bytes - untaken) >= memory:\n",
        "    if min(host.total_bytes - declared, host.available_bytes) >= memory:\n",
    ),
    Mutant(
        "the host's books do not count",
        "memory.py",
        "    if min(host.total_bytes - declared, host.available_bytes - untaken) >= memory:\n",
        "    if host.available_bytes - untaken >= memory:\n",
    ),
    Mutant(
        "who waits for the host's memory never looks again",
        "admission.py",
        "return None if short is None else (short, turn.now + _every_s(turn, worker))",
        "return None if short is None else (short, None)",
    ),
    Mutant(
        "a roll-out waits for those that wait for its memory",
        "rescale.py",
        "    return worker.state is State.PENDING and worker.starved and worker.starts == 0\n",
        "    return False\n",
    ),
)
