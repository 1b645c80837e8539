"""Faults in how somebody is asked to end."""

from __future__ import annotations

from tests.mutants.graft import Mutant

STOPS = (
    Mutant(
        "a stop command that hangs has the whole grace",
        "moves.py",
        "deadline=now + grace_s - min(SIGNAL_S, grace_s / 2)",
        "deadline=now + grace_s",
    ),
    Mutant(
        "a stop command that hangs is not followed by a signal",
        "ends.py",
        "    if worker.grace_until is None:\n        return kill(worker, KillAsked(), now)\n",
        "    if True:\n        return kill(worker, KillAsked(), now)\n",
    ),
    Mutant(
        "a stop command goes on beside the signal",
        "ends.py",
        "return after, (EndStopCommand(worker.id, worker.incarnation), *actions)",
        "return after, actions",
    ),
    Mutant(
        "a stop command outlives its worker",
        "facts.py",
        "return after, (*ends, *actions)",
        "return after, actions",
    ),
    Mutant(
        "a stop command outlives the shim of its worker",
        "facts.py",
        "verdict=verdict, killed=True), end_command(worker)",
        "verdict=verdict, killed=True), ()",
        by="tests/core/test_stop_command.py",
    ),
    Mutant(
        "a stop command that fails is not told of",
        "ends.py",
        "return _after_command(worker, event.fault, now)",
        'return _after_command(worker, "", now)',
    ),
    Mutant(
        "the signal after a stop command begins a new grace",
        "ends.py",
        "deadline = max(worker.grace_until, now + LAST_S)",
        "deadline = now + worker.policy.stop.timeout_s",
    ),
    Mutant(
        "a late stop command is followed by two signals",
        "ends.py",
        "    if worker.grace_until is None:\n        return worker, ()  # The signal",
        "    if worker.grace_until is None:\n        return signalled(worker)  # The signal",
        by="tests/core/test_stop_command.py",
    ),
    Mutant(
        "a grace with a stop command is forgotten when the main process ends",
        "facts.py",
        "grace_until, ends = worker.grace_until or worker.deadline, end_command(worker)",
        "grace_until, ends = worker.deadline, end_command(worker)",
    ),
    Mutant(
        "a stall is not given back to the signal after a stop command",
        "stall.py",
        "grace_until = None if worker.grace_until is None else worker.grace_until + later_s",
        "grace_until = worker.grace_until",
        by="tests/core/test_stop_command.py",
    ),
    Mutant(
        "the group is never asked",
        "moves.py",
        '"group" if stop.group else "main"',
        '"main"',
    ),
    Mutant(
        "who missed its watchdog is stopped as any other",
        "moves.py",
        "int(SIGABRT) if worker.cause is Cause.WATCHDOG else worker.policy.stop.signal",
        "worker.policy.stop.signal",
    ),
    Mutant(
        "what one that missed its watchdog leaves is stopped as any other",
        "facts.py",
        "    number = signal_of(worker)\n",
        "    number = worker.policy.stop.signal\n",
        by="tests/core/test_liveness.py",
    ),
    Mutant(
        "those of the group get the signal twice",
        "facts.py",
        '"outside" if worker.is_group_asked else "rest"',
        '"rest"',
    ),
    Mutant(
        "those of a group that was never asked are not asked",
        "facts.py",
        "        is_group_asked=False,\n",
        "",
        by="tests/core/test_stop_command.py",
    ),
    Mutant(
        "nobody looks where it hangs",
        "ends.py",
        "return after, (*actions, ExamineTree(worker.id, worker.incarnation))",
        "return after, actions",
    ),
    Mutant(
        "where it hangs is kept secret",
        "ends.py",
        'reason = _stuck_words(worker, now) + (f": {event.detail}" if event.detail else "")',
        "reason = _stuck_words(worker, now)",
    ),
)
