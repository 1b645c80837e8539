"""
A guard on shared GPUs: workers that have more of one than they have declared are warned about, and ended by policy.

Nothing but MIG keeps a process to a part of a GPU, so one that takes more makes its neighbour die of it. Says who takes
too much, since when, and whose turn it is to go. What they have is what the driver shows in any reading.
"""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.evolve import evolve
from supervisor.core.inventory import Device, name_of
from supervisor.core.message import Say, State
from supervisor.core.plan import Placement
from supervisor.core.recycle import MIB, is_over, shown_bytes
from supervisor.core.slices import WHOLE, declared_bytes
from supervisor.core.turn import Fleet, Recycled, Turn
from supervisor.core.worker import RUNNING, Overdrawn, Worker


def take_reading(turn: Turn) -> None:
    """What the driver shows of each worker, held against what it has declared."""
    inventory = turn.fleet.inventory
    if not turn.has_read or inventory is None or not wants_devices(turn.fleet):
        return
    for worker_id in sorted({one for workers in turn.fleet.occupied.values() for one in workers}):
        worker = turn.workers[worker_id]
        if worker.policy.guard == "off" or worker.state not in RUNNING or worker.held is None:
            continue
        found = [_over(worker, worker.held, inventory.by_uuid.get(share.uuid)) for share in worker.occupied]
        words = next((text for text in found if text), None)
        if words is not None:
            _note(turn, worker, words)
        elif worker.over_at is not None and None not in found:
            _forgive(turn, worker)


def _over(worker: Worker, held: Placement, device: Device | None) -> str | None:
    """In words what a worker has too much of a device; empty if it has not, None where that is not told."""
    if device is None:
        return None
    used, total = shown_bytes(device, worker.id), device.memory_total_bytes
    if used is None or total is None:
        return None
    declared = declared_bytes(held, total)
    if not declared or used <= declared:
        return ""
    return f"has {used // MIB} MiB of {name_of(device)}, its gpu_memory is {declared // MIB} MiB"


def _note(turn: Turn, worker: Worker, words: str) -> None:
    """It has too much at this moment. Said aloud, and of consequence, once it has been so for long enough."""
    since = turn.now if worker.over_at is None or _is_blind(turn, worker) else worker.over_at
    is_long = turn.now - since >= worker.policy.guard_after_s
    if is_long and not worker.excess:
        fields = {"worker": str(worker.id), "reason": words, "over_s": round(turn.now - since, 1)}
        turn.do(Say("worker.gpu_memory_exceeded", {**fields, "gpu_memory_guard": worker.policy.guard}))
    turn.change(evolve(worker, over_at=since, excess=words if is_long else ""))
    if is_long:
        turn.set(greedy=turn.fleet.greedy | {worker.id})


def _is_blind(turn: Turn, worker: Worker) -> bool:
    """Whether nobody looked for so long that it may have had less meanwhile: a driver or a daemon that hung."""
    assert turn.fleet.spec is not None
    return turn.now - turn.before.read_at > worker.policy.guard_after_s + turn.fleet.spec.daemon.poll


def _forgive(turn: Turn, worker: Worker) -> None:
    if worker.excess:
        turn.do(Say("worker.gpu_memory_kept", {"worker": str(worker.id)}, is_warning=False))
    turn.change(evolve(worker, over_at=None, excess=""))


# ---- whose turn it is to go -----------------------------------------------------------------------------------------


def settle(turn: Turn) -> None:
    """End those that the file wants ended, by turns. Costs nothing where nobody has too much."""
    if not turn.fleet.greedy:
        return
    greedy = {one for one in turn.fleet.greedy if (worker := turn.workers.get(one)) is not None and is_greedy(worker)}
    if greedy != turn.fleet.greedy:
        turn.set(greedy=frozenset(greedy))
    for worker_id in sorted(greedy):
        worker = turn.workers[worker_id]
        if worker.policy.guard != "restart" or worker.target is None or worker.down or _has_to_wait(turn, worker):
            continue
        if worker.over_at is None or turn.now - worker.over_at < worker.policy.guard_after_s:
            continue  # A new file is more patient.
        devices = frozenset(share.uuid for share in worker.occupied)
        recycled = Recycled(worker.incarnation, devices)
        turn.set(recycling={**turn.fleet.recycling, worker_id: recycled})
        turn.tell(worker_id, Overdrawn())


def is_greedy(worker: Worker) -> bool:
    """Whether a worker has had too much for long enough."""
    return bool(worker.excess) and worker.state in RUNNING


def _has_to_wait(turn: Turn, worker: Worker) -> bool:
    """
    Whether another of its service, or another on one of its devices, was taken down just now and is on its way back.

    One that cannot come back is not waited for: what it waits for may be the very memory that this one has.
    """
    mine = {share.uuid for share in worker.occupied}
    return any(
        (one.service == worker.id.service or mine & it.devices) and _is_coming(turn.workers.get(one), it)
        for one, it in turn.fleet.recycling.items()
    )


def _is_coming(worker: Worker | None, recycled: Recycled) -> bool:
    if worker is None or is_over(worker, recycled) or worker.state is State.BACKOFF:
        return False
    has_no_place = worker.target is None or worker.target.launch is None
    return worker.state is not State.PENDING or not (worker.starved or has_no_place)


# ---- what is said ---------------------------------------------------------------------------------------------------


def wants_devices(fleet: Fleet) -> bool:
    """Whether the file has workers that are held to what they declare."""
    return fleet.spec is not None and any(one.is_guarded for one in fleet.spec.services.values())


def enforcement(placement: Placement) -> str:
    """What keeps a worker to its part of a GPU, in words; empty for one that shares none and is not guarded."""
    launch, wanted = placement.launch, placement.wanted
    if launch is None or not launch.slice:
        return ""
    return "; ".join(_remarks(placement)) if _is_shared(placement) or wanted.policy.guard != "off" else ""


def _is_shared(placement: Placement) -> bool:
    return placement.launch is not None and any(share.millis < WHOLE for share in placement.launch.slice)


def _remarks(placement: Placement) -> Iterator[str]:
    request, guard = placement.wanted.request, placement.wanted.policy.guard
    parts = [*(["its share"] if _is_shared(placement) else []), *(["gpu_memory"] if request.gpu_memory else [])]
    yield f"not enforced on the GPU: {' and '.join(parts)}"
    if request.gpu_memory is None:
        yield "without gpu_memory nobody watches what it takes"
    else:
        long = _span(placement.wanted.policy.guard_after_s)
        yield {
            "off": "gpu_memory_guard is off",
            "warn": f"who has more than its gpu_memory for {long} is warned about",
            "restart": f"who has more than its gpu_memory for {long} is restarted",
        }[guard]


def _span(seconds: float) -> str:
    return "a minute" if seconds == 60.0 else f"{seconds:g} s"
