"""
`after`: who has to have been ready before a worker may start, and who has to be gone before it is stopped.

Pure, and of no cost to a file in which nobody comes after anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supervisor.core.message import State
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.turn import Fleet, Turn
from supervisor.core.worker import LIVING, RUNNING, Unwanted, Worker

MET = frozenset({State.READY, State.EXITED})
"""Nobody waits for a worker that is ready, nor for one that has done what it was for."""


# ---- starting -------------------------------------------------------------------------------------------------------


def settle(turn: Turn) -> bool:
    """
    Note which services have been ready, and of which somebody waits for more.

    A service has been ready once all its workers were at one moment. What happens to them later stops nobody; only
    when it has no worker any more, or all are held down, it counts as new. A worker that an operator holds down is
    waited for as little as one that is not there: otherwise one stop would keep others from their restarts.

    Returns:
        Whether that is other than before.
    """
    fleet = turn.fleet
    firsts = _firsts(fleet.spec)
    if not firsts and not fleet.awaited and not fleet.been_ready:
        return False
    if turn.before.spec is fleet.spec and turn.before.counts is fleet.counts:
        look_at = firsts & {worker.service for worker in turn.touched}
    else:
        look_at = firsts
    been, awaited = set(fleet.been_ready & firsts), {k: v for k, v in fleet.awaited.items() if k in firsts}
    for name in look_at:
        workers = _counting(turn, name)
        ready = sum(worker.state in MET for worker in workers)
        been -= set() if workers else {name}
        been |= {name} if workers and ready == len(workers) else set()
        awaited.pop(name, None)
        if workers and name not in been:
            awaited[name] = f"{name}: {ready} of {len(workers)} ready"
    if been != fleet.been_ready:
        turn.set(been_ready=frozenset(been))
    if awaited == fleet.awaited:
        return False
    turn.set(awaited=awaited)
    return True


def wait_of(fleet: Fleet, worker: Worker) -> str | None:
    """For whom a worker that has no process has to wait, with numbers; None if for nobody."""
    missing = [fleet.awaited[name] for name in _after(worker) if name in fleet.awaited]
    return f"waits for {', '.join(missing)}" if missing else None


def is_hopeless(fleet: Fleet, workers: Mapping[WorkerId, Worker], worker: Worker) -> bool:
    """
    Whether a worker waits for one that has failed, be it by way of others: nothing will come of it by itself.

    One that runs may wait so with its new launch.
    """
    if not fleet.awaited or not (worker.state is State.PENDING or worker.is_outdated or worker.id in fleet.kept):
        return False
    names = {name for name in _after(worker) if name in fleet.awaited}
    firsts = [one for one in workers.values() if one.id.service in names and not one.down and one.target]
    return any(one.state is State.FAILED or is_hopeless(fleet, workers, one) for one in firsts)


def _after(worker: Worker) -> tuple[str, ...]:
    return worker.target.wanted.policy.after if worker.target else ()


def _firsts(spec: Spec | None) -> frozenset[str]:
    """Services that somebody comes after."""
    return frozenset(name for service in spec.services.values() for name in service.after) if spec else frozenset()


def _counting(turn: Turn, service: str) -> list[Worker]:
    """Workers of a service that are waited for."""
    ids = (WorkerId(service, index) for index in range(turn.fleet.counts.get(service, 0)))
    workers = (turn.workers[one] for one in ids if one in turn.workers)
    return [one for one in workers if not one.down and one.target is not None]


# ---- stopping -------------------------------------------------------------------------------------------------------


def stop_next(turn: Turn) -> float | None:
    """
    While the daemon stops: ask everybody to end after whom nobody comes who still lives.

    Returns:
        The longest grace of those who were asked now, None if nobody was.
    """
    # Nobody is to come back: who has no process is forgotten, who goes down does so for good.
    for worker in [one for one in turn.workers.values() if one.target is not None and one.state not in RUNNING]:
        turn.tell(worker.id, Unwanted())
    running = [one for one in turn.workers.values() if one.target is not None and one.state in RUNNING]
    if not running:
        return None
    needed = _needed(turn)
    due = [one for one in running if one.id.service not in needed]
    for worker in due:
        turn.tell(worker.id, Unwanted())
    return max((worker.policy.stop.timeout_s for worker in due), default=None)


def _needed(turn: Turn) -> set[str]:
    """Services that have to stay for those who come after them, be it by way of a service without workers."""
    fleet = turn.fleet
    graph: Mapping[str, Iterable[str]] = {k: one.after for k, one in fleet.spec.services.items()} if fleet.spec else {}
    living = (one for one in turn.workers.values() if one.state in LIVING and one.id not in fleet.given_up)
    # The newest file says who comes after whom; of a service that it has no more, what its process was started with.
    todo = {name for one in living for name in graph.get(one.id.service, one.policy.after)}
    needed: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo |= set(graph.get(name, ()))
    return needed
