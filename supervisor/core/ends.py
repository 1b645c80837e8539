"""
Cells of the state table for a worker that is being ended: its stop command, its grace, SIGKILL, and what that leaves.

A worker and an event in; the worker after it, and what is to be done, out.
"""

from __future__ import annotations

from supervisor.core.evolve import evolve
from supervisor.core.facts import KILL_REPORT_S, end_command
from supervisor.core.message import EndStopCommand, ExamineTree, KillTree, Say, State, StopCommandEnded, TreeExamined
from supervisor.core.moves import Step, command_words, signalled, to_killing
from supervisor.core.worker import DeadlinePassed, KillAsked, Worker

STUCK = "still not gone after"
"""How the reason of one begins that SIGKILL does not end."""

LAST_S = 0.1
"""At least so long lies between the signal and SIGKILL, however late the daemon is."""


def stop_command_ended(worker: Worker, event: StopCommandEnded, now: float) -> Step:
    """The signal follows the command, whatever came of it."""
    if worker.grace_until is None:
        return worker, ()  # The signal was sent while this was on its way.
    return _after_command(worker, event.fault, now)


def stop_deadline(worker: Worker, _event: DeadlinePassed, now: float) -> Step:
    """Its stop command has had its time, or it was asked and did not end."""
    if worker.grace_until is None:
        return kill(worker, KillAsked(), now)
    after, actions = _after_command(worker, f"did not end within {_limit_s(worker, now):.3g} s", now)
    return after, (EndStopCommand(worker.id, worker.incarnation), *actions)


def _limit_s(worker: Worker, now: float) -> float:
    """How long it might take; a daemon that is late would name an odd number."""
    return (now if worker.deadline is None else worker.deadline) - worker.since


def _after_command(worker: Worker, fault: str, now: float) -> Step:
    assert worker.grace_until is not None
    words = command_words(worker)
    fault = words.removeprefix("; ").removesuffix(" runs") + f" {fault}" if fault else ""
    reason = worker.reason.removesuffix(words) + (f"; {fault}" if fault else "")
    deadline = max(worker.grace_until, now + LAST_S)
    return signalled(evolve(worker, deadline=deadline, grace_until=None, reason=reason, stop_fault=fault))


def kill(worker: Worker, _event: KillAsked, now: float) -> Step:
    """SIGKILL for the whole tree."""
    ends = end_command(worker)
    is_new = worker.state is not State.KILLING
    reason = _kill_words(worker, now) if not worker.killed else worker.reason
    after = to_killing(worker, now, deadline=now + KILL_REPORT_S, reason=reason)
    killed = evolve(after, since=now if is_new else worker.since, killed=True)
    return killed, (*ends, KillTree(worker.id, worker.incarnation))


def _kill_words(worker: Worker, now: float) -> str:
    is_due = worker.deadline is not None and worker.deadline <= now
    if worker.state is not State.KILLING:
        return f"did not end within {_limit_s(worker, now):.3g} s: SIGKILL sent" if is_due else "SIGKILL sent at once"
    return "what its main process left did not end in time: SIGKILL sent" if is_due else "SIGKILL sent at once"


def kill_deadline(worker: Worker, _event: DeadlinePassed, now: float) -> Step:
    """Time for SIGKILL, or for seeing why SIGKILL did not help."""
    if not worker.killed:
        return kill(worker, KillAsked(), now)
    after, actions = kill(evolve(worker, reason=_stuck_words(worker, now)), KillAsked(), now)
    return after, (*actions, ExamineTree(worker.id, worker.incarnation))


def _stuck_words(worker: Worker, now: float) -> str:
    held = "; its GPUs stay taken" if worker.occupied else ""
    return f"{STUCK} {now - worker.since:.0f} s in spite of SIGKILL{held}"


def tree_examined(worker: Worker, event: TreeExamined, now: float) -> Step:
    """Where it hangs, for whoever has to mend the machine."""
    if not worker.killed:
        return worker, ()
    reason = _stuck_words(worker, now) + (f": {event.detail}" if event.detail else "")
    said = {"worker": str(worker.id), "incarnation": worker.incarnation, "reason": reason}
    return evolve(worker, reason=reason), (Say("worker.unkillable", said, is_warning=True),)
