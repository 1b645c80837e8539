"""Faults in the guard on shared GPUs."""

from __future__ import annotations

from tests.mutants.graft import Mutant

EXCESS = (
    Mutant(
        "too much for a moment is of consequence",
        "excess.py",
        "    is_long = turn.now - since >= worker.policy.guard_after_s\n",
        "    is_long = True\n",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "who has too much of a GPU goes on",
        "excess.py",
        '        if worker.policy.guard != "restart" or worker.target is None',
        "        if True or worker.target is None",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "who is to be warned about is ended",
        "excess.py",
        '        if worker.policy.guard != "restart" or worker.target is None',
        "        if worker.target is None",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "those with too much of a GPU go all at once",
        "excess.py",
        "        (one.service == worker.id.service or mine & it.devices) and _is_coming",
        "        False and (one.service == worker.id.service or mine & it.devices) and _is_coming",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "who cannot come back holds up who has what it waits for",
        "excess.py",
        "    return worker.state is not State.PENDING or not (worker.starved or has_no_place)\n",
        "    return True\n",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "warned about at every look",
        "excess.py",
        "    if is_long and not worker.excess:\n",
        "    if is_long:\n",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "what nobody saw is held against it",
        "excess.py",
        "    since = turn.now if worker.over_at is None or _is_blind(turn, worker) else worker.over_at\n",
        "    since = turn.now if worker.over_at is None else worker.over_at\n",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "who gave it back is not forgiven",
        "excess.py",
        "        elif worker.over_at is not None and None not in found:\n",
        "        elif False:\n",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "having too much of a GPU is not charged",
        "facts.py",
        "    if worker.cause is Cause.CUDA_OOM:\n",
        "    if False:\n",
        by="tests/core/test_excess.py",
    ),
    Mutant(
        "the time in which it had too much counts as a good life",
        "facts.py",
        "    healthy = worker.was_healthy or is_healthy_now(worker, since)\n",
        "    healthy = worker.was_healthy or is_healthy_now(worker, now)\n",
        by="tests/core/test_excess.py",
    ),
)
