"""Faults in what follows from probes."""

from __future__ import annotations

from tests.mutants.graft import Mutant

PROBES = (
    Mutant(
        "a start asks for more time for ever",
        "facts.py",
        "latest = max(worker.deadline, worker.since + EXTENDED_MAX_S)",
        "latest = max(worker.deadline, now + EXTENDED_MAX_S)",
    ),
    Mutant(
        "a start that asks for less time gets less",
        "facts.py",
        "deadline = min(max(worker.deadline, now + event.seconds), latest)",
        "deadline = min(now + event.seconds, latest)",
    ),
    Mutant(
        "asked whether it lives on at every ready",
        "facts.py",
        "    if worker.was_ready:\n        return after, ()\n",
        "",
        by="tests/core/test_liveness.py",
    ),
    Mutant(
        "nobody asks whether it lives on",
        "facts.py",
        '    if alive.kind == "off":\n        return after, look\n',
        '    if alive.kind != "off":\n        return after, look\n',
    ),
    Mutant(
        "a worker that hangs costs nothing",
        "facts.py",
        "    if worker.cause in HUNG:\n        run = ",
        "    if False:\n        run = ",
    ),
    Mutant(
        "a worker that hangs and ends well is done",
        "restart.py",
        "was_ended = run.failed_to_start or run.hung",
        "was_ended = run.failed_to_start",
        by="tests/core/test_liveness.py",
    ),
    Mutant(
        "a healthy worker that hangs was never healthy",
        "facts.py",
        "run = Run(event.code, was_ready=True, was_healthy=worker.was_healthy, hung=True)",
        "run = Run(event.code, was_ready=True, hung=True)",
        by="tests/core/test_liveness.py",
    ),
    Mutant(
        "an unready worker that hangs is left alone",
        "facts.py",
        "    healthy = worker.was_healthy or is_healthy_now(worker, now)\n    cause",
        "    healthy = worker.was_healthy or is_healthy_now(worker, now)\n"
        "    if worker.state is State.UNREADY:\n        return worker, ()\n    cause",
        by="tests/core/test_liveness.py",
    ),
)
