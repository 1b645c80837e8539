"""How a reload, a roll-out or a restart goes: who is still on its way, and what has gone wrong. Questions alone."""

from __future__ import annotations

from supervisor.core import order, sockets
from supervisor.core.message import State
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import FREED, Worker

SETTLED = frozenset({State.READY, State.UNREADY, *FREED})


def unsettled(fleet: Fleet) -> tuple[WorkerId, ...]:
    """Workers that are still on their way to what the file in force wants of them, as far as it goes."""
    rolling = fleet.rolling
    return tuple(
        worker.id
        for worker in fleet.workers.values()
        if not order.is_hopeless(fleet, fleet.workers, worker)
        and not _lacks_sockets(fleet, worker)
        and _is_unsettled(fleet, worker, is_rolling=worker.id.service in rolling)
    )


def _is_unsettled(fleet: Fleet, worker: Worker, *, is_rolling: bool) -> bool:
    if worker.id in fleet.kept and not worker.down:
        return is_rolling  # Who goes back to an old launch is no part of a reload that has failed.
    return not is_settled(worker) or (is_rolling and (worker.is_outdated or worker.id in fleet.tried))


def failures_since_reload(fleet: Fleet) -> tuple[str, ...]:
    """What has gone wrong with the last reload, its refusal included, as lines for a person."""
    last = fleet.last_reload
    problems = last.problems if last else ()
    failed = [one for one in fleet.workers.values() if failed_since(one, last.at if last else None)]
    failed.sort(key=lambda one: one.id)
    mute = sorted((one for one in fleet.workers.values() if _lacks_sockets(fleet, one)), key=lambda one: one.id)
    return (
        *problems,
        *(f"{one.id} failed: {one.reason}" for one in failed),
        *(f"{one.id} waits: {sockets.refusal_of(fleet, one)}" for one in mute),
    )


def _lacks_sockets(fleet: Fleet, worker: Worker) -> bool:
    """Whether a worker waits for an address that somebody else has: nothing will come of it by itself."""
    return worker.state is State.PENDING and sockets.refusal_of(fleet, worker) is not None


def is_settled(worker: Worker) -> bool:
    """Whether nothing more is going to become of a worker by itself."""
    return worker.state in SETTLED or is_without_place(worker)


def never_came(worker: Worker) -> bool:
    """
    Whether a worker that was never started waits for memory.

    It may wait for what those have that are to be replaced: that must not wait for it in turn.
    """
    return worker.state is State.PENDING and worker.starved and worker.starts == 0


def failed_since(worker: Worker, at: float | None) -> bool:
    """Whether a worker has failed since then, and not for want of a GPU."""
    refused = worker.target is not None and worker.target.refused
    return at is not None and worker.state is State.FAILED and worker.since >= at and not refused


def is_without_place(worker: Worker) -> bool:
    """Whether a worker waits for a GPU, or for a place on one."""
    has_place = worker.target is not None and worker.target.launch is not None
    return worker.state is State.PENDING and not has_place
