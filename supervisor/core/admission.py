"""When a worker that has a place may start: its slice is free of others, and its declared memory is there."""

from __future__ import annotations

from supervisor.core import claims
from supervisor.core.environment import Moment, render
from supervisor.core.evolve import evolve
from supervisor.core.gpus import shortage
from supervisor.core.inventory import GpuState
from supervisor.core.message import ReadInventory, Spawn
from supervisor.core.moves import LOOK_S
from supervisor.core.plan import Launch
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Turn
from supervisor.core.worker import RUNNING, Admitted, Relaunched, Worker


def admit(turn: Turn) -> None:
    """Start every worker that waits and may."""
    for worker_id in turn.waiting:
        worker = turn.workers[worker_id]
        assert worker.target is not None
        launch = worker.target.launch
        assert launch is not None, "only workers with a place wait for admission"
        if holders := _holders(turn, worker_id, launch):
            _make_way(turn, worker, holders)
        elif not claims.are_claimed(turn, launch):
            _wait(turn, worker, "claiming its GPUs", look=False)
        elif (wait := _wait_for_memory(turn, worker, launch)) is not None:
            _wait(turn, worker, wait, look=turn.fleet.gpu.state is GpuState.OK)
        else:
            _start(turn, worker, launch)


def _holders(turn: Turn, worker: WorkerId, launch: Launch) -> list[tuple[str, WorkerId]]:
    """Devices of a launch on which somebody else's process lives or has not given its memory back."""
    occupied = turn.fleet.occupied
    return [(share.uuid, other) for share in launch.slice for other in occupied.get(share.uuid, {}) if other != worker]


def _make_way(turn: Turn, worker: Worker, holders: list[tuple[str, WorkerId]]) -> None:
    """
    Wait for those who hold the slice. One that the plan has elsewhere is replaced now, whoever's turn it is.

    Otherwise each could wait for the other's device for ever.
    """
    for uuid, other_id in holders:
        other = turn.workers[other_id]
        going = other.target.launch if other.target else None
        stays = going is not None and uuid in {share.uuid for share in going.slice}
        if other.is_outdated and other.state in RUNNING and not stays:
            turn.tell(other_id, Relaunched())
    names = ", ".join(sorted({str(other) for _, other in holders}))
    _wait(turn, turn.workers[worker.id], f"waiting for its GPUs, held by {names}", look=False)


def _wait_for_memory(turn: Turn, worker: Worker, launch: Launch) -> str | None:
    """Why a worker has to wait for memory, None if it has not."""
    fleet = turn.fleet
    if launch.recipe.gpu_memory is None or not launch.slice:
        return None
    if fleet.gpu.state is not GpuState.OK:
        # Its memory cannot be asked for. Where it ran before it may run again; nobody new is put at risk.
        return (
            None
            if fleet.remembered.get(worker.id) == launch.slice
            else f"the GPUs cannot be read: {fleet.gpu.detail or fleet.gpu.state}"
        )
    after = max([worker.since, *(fleet.changed_at.get(share.uuid, 0.0) for share in launch.slice)])
    if fleet.inventory is None or fleet.inventory.asked_at < after:
        turn.do(ReadInventory())
        return worker.reason or "reading the free memory of its GPUs"
    short = [text for share in launch.slice if (text := shortage(fleet, worker, share.uuid)) is not None]
    return "; ".join(short) or None


def _wait(turn: Turn, worker: Worker, reason: str, *, look: bool) -> None:
    deadline = worker.deadline if look else None
    if look and (deadline is None or deadline <= turn.now):
        deadline = turn.now + LOOK_S
    if (worker.reason, worker.deadline) != (reason, deadline):
        turn.change(evolve(worker, reason=reason, deadline=deadline))


def _start(turn: Turn, worker: Worker, launch: Launch) -> None:
    fleet = turn.fleet
    incarnation = fleet.incarnations + 1
    turn.set(incarnations=incarnation)
    turn.tell(worker.id, Admitted(incarnation))
    moment = Moment(
        worker=worker.id,
        count=fleet.counts[worker.id.service],
        restarts=worker.starts,
        incarnation=incarnation,
        devices=fleet.inventory.by_uuid if fleet.inventory else {},
    )
    rendered = render(launch, moment, fleet.host)
    logs, setup = worker.policy.logs, launch.recipe.setup
    turn.do(Spawn(worker.id, incarnation, launch, rendered.argv, rendered.env, rendered.working_dir, logs, setup))
