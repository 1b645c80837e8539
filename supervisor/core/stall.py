"""
What a daemon that was stopped for a while owes its workers: time in which it did not look is not counted against them.

The kernel's own suspend needs none of this, since the monotonic clock stands still in it. SIGSTOP, a debugger, the
freezer of a container and a starved machine do: the clock goes on, and words of workers wait unread.
"""

from __future__ import annotations

from supervisor.core.evolve import evolve
from supervisor.core.message import ReadInventory, State
from supervisor.core.turn import DaemonState, Turn
from supervisor.core.worker import Worker

SIGHT_S = 5.0
"""What waits unread, and a probe's next try, come before anybody is ended: so long, or as long as a shorter stall."""

COUNTED = frozenset({State.STARTING, State.STOPPING, State.KILLING})
"""States whose deadline is a limit for the worker. The other deadlines are the daemon's own, and may come late."""


def is_counted(worker: Worker | None) -> bool:
    """Whether a stall is to be measured for this worker's sake."""
    return worker is not None and (worker.state in COUNTED or _gives_signs(worker))


def _gives_signs(worker: Worker) -> bool:
    """Whether its process has to give signs of life, by a clock that runs outside the core."""
    is_due = worker.state in {State.READY, State.UNREADY} and worker.held is not None
    return is_due and worker.held is not None and worker.held.wanted.policy.alive.kind == "notify"


def put_off(turn: Turn, lost_s: float) -> None:
    """Every limit is met that much later."""
    sight_s = min(SIGHT_S, lost_s)
    for worker in tuple(turn.workers.values()):
        if worker.deadline is None:
            continue
        if is_counted(worker):
            later_s = max(worker.deadline + lost_s, turn.now + sight_s) - worker.deadline
            grace_until = None if worker.grace_until is None else worker.grace_until + later_s
            turn.change(evolve(worker, deadline=worker.deadline + later_s, grace_until=grace_until))
        elif worker.state is State.RELEASING:
            # The memory may be back for long: the driver is asked before the slice is called dirty.
            turn.change(evolve(worker, deadline=max(worker.deadline, turn.now + sight_s)))
            turn.do(ReadInventory())
    fleet = turn.fleet
    if fleet.state is DaemonState.STOPPING and fleet.deadline is not None:
        turn.set(deadline=max(fleet.deadline + lost_s, turn.now) + sight_s)
