"""
`recycle`: workers that are replaced because they are old, or have grown: one of a service at a time, by turns.

Says who is due and whose turn it is. What they use is measured elsewhere, and comes as events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from supervisor.core import order
from supervisor.core.evolve import evolve
from supervisor.core.facts import is_healthy_now
from supervisor.core.inventory import Device
from supervisor.core.message import ReadInventory, State, UsageRead
from supervisor.core.spec import WorkerId, amount_bytes
from supervisor.core.turn import Fleet, Recycled, Turn
from supervisor.core.worker import FREED, Relaunched, Worker

MIB = 1024 * 1024

_SERVING = frozenset({State.READY, State.UNREADY})


# ---- who is due -----------------------------------------------------------------------------------------------------


def take_usage(turn: Turn, event: UsageRead) -> None:
    """What workers use of the host's memory; and the time to look at what they use of their GPUs'."""
    for worker_id, (incarnation, used) in event.host_bytes.items():
        worker = turn.workers.get(worker_id)
        limit = worker.policy.recycle.memory if worker and worker.target else None
        if worker is None or limit is None or worker.incarnation != incarnation or used <= limit:
            continue
        _mark(turn, worker, f"uses {used // MIB} MiB of the host's memory, recycle.memory is {limit // MIB} MiB")
    if event.reads_devices and turn.fleet.asked is None:
        turn.do(ReadInventory())


def take_reading(turn: Turn) -> None:
    """What the driver shows of each worker's memory."""
    fleet = turn.fleet
    if not turn.has_read or fleet.inventory is None or not wants_devices(fleet):
        return
    for device in fleet.inventory.devices:
        for worker_id in sorted(fleet.occupied.get(device.uuid, ())):
            worker = turn.workers[worker_id]
            amount = worker.policy.recycle.gpu_memory if worker.target else None
            used, total = shown_bytes(device, worker_id), device.memory_total_bytes
            if amount is None or used is None or total is None or used <= (limit := amount_bytes(amount, total)):
                continue
            text = f"uses {used // MIB} MiB of GPU {device.index}, recycle.gpu_memory is {limit // MIB} MiB"
            _mark(turn, worker, text)


def wants_devices(fleet: Fleet) -> bool:
    """Whether the file has workers recycled by what they use of a GPU."""
    return fleet.spec is not None and any(one.recycle.gpu_memory is not None for one in fleet.spec.services.values())


def shown_bytes(device: Device, worker: WorkerId) -> int | None:
    """What the driver shows of a worker on a device, None where it does not tell."""
    if device.holders is None:
        return None
    mine = [one.used_bytes for one in device.holders if one.worker == str(worker)]
    known = [used for used in mine if used is not None]
    return sum(known) if len(known) == len(mine) else None


def _mark(turn: Turn, worker: Worker, why: str) -> None:
    """
    It is to be replaced, once it has proven healthy.

    One that needs more than the file allows as soon as it serves would be replaced for ever otherwise.
    """
    if worker.state is State.READY and not worker.worn and is_healthy_now(worker, turn.now):
        turn.change(evolve(worker, worn=why))


# ---- whose turn it is -----------------------------------------------------------------------------------------------


def settle(turn: Turn) -> None:
    """Let the next be replaced whose turn has come. Costs nothing where nobody is due."""
    fleet = turn.fleet
    worn = {one for one in fleet.worn | turn.touched if one in turn.workers and turn.workers[one].worn}
    if worn != fleet.worn:
        turn.set(worn=frozenset(worn))
    left = {one: it for one, it in fleet.recycling.items() if not is_over(turn.workers.get(one), it)}
    if left != fleet.recycling:
        turn.set(recycling=left)
    for worker_id in sorted(worn):
        worker = turn.workers[worker_id]
        if _is_its_turn(turn, worker):
            devices = frozenset(share.uuid for share in worker.occupied)
            recycled = Recycled(worker.incarnation, devices)
            turn.set(recycling={**turn.fleet.recycling, worker_id: recycled})
            turn.tell(worker_id, Relaunched())


def is_over(worker: Worker | None, recycled: Recycled) -> bool:
    """Whether another process has got ready in its place, or none is going to."""
    if worker is None or worker.target is None or worker.down or worker.state in FREED:
        return True
    return worker.incarnation != recycled.incarnation and worker.state is State.READY


def _is_its_turn(turn: Turn, worker: Worker) -> bool:
    fleet, service = turn.fleet, worker.id.service
    if worker.state not in _SERVING or worker.target is None or worker.down or service in fleet.rolling:
        return False
    if service in fleet.restarting or order.wait_of(fleet, worker) is not None:
        return False
    if worker.is_outdated and service in fleet.rolls:
        return False  # It would come back with the launch at which the roll-out was halted.
    if any(one.service == service for one in fleet.recycling) or not all(_is_fine(one) for one in _mates(turn, worker)):
        return False
    mine = {share.uuid for share in worker.occupied}
    return not any(mine & it.devices for it in fleet.recycling.values())


def _mates(turn: Turn, worker: Worker) -> Iterator[Worker]:
    service = worker.id.service
    ids: Iterable[WorkerId] = (WorkerId(service, index) for index in range(turn.fleet.counts.get(service, 0)))
    return (turn.workers[one] for one in ids if one in turn.workers and one != worker.id)


def _is_fine(worker: Worker) -> bool:
    """Whether nobody has to wait for a worker: it is ready, or is not going to be."""
    has_no_place = worker.state is State.PENDING and (worker.target is None or worker.target.launch is None)
    return worker.state is State.READY or worker.state in FREED or worker.down or has_no_place
