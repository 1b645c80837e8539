"""
When a worker that has a place may start.

Who comes before it has been ready, its slice has room, its turn has come, and its memory is there.

Called at every event, with a thousand waiting workers too: looks only at those for whom something may have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supervisor.core import claims, fabric, order, sockets, witnesses
from supervisor.core.environment import Moment, render, sites
from supervisor.core.evolve import evolve
from supervisor.core.gpus import MISMATCH
from supervisor.core.inventory import GpuState, name_of
from supervisor.core.memory import HostBooks, host_shortage, is_overdeclared, shortage
from supervisor.core.message import HostRead, ReadHost, ReadInventory, Say, Spawn
from supervisor.core.moves import LOOK_S
from supervisor.core.readings import LEASED, READING, SLOW_S, Readers, is_asking, is_of_now, is_slow, needs_reading
from supervisor.core.slices import WHOLE, Launch, Placement, Share, declared_bytes
from supervisor.core.spec import WorkerId
from supervisor.core.turn import HostMemory, Turn
from supervisor.core.worker import RUNNING, Admitted, Relaunched, Worker

LOOKS: tuple[tuple[float, float], ...] = ((5.0, LOOK_S), (60.0, 1.0))
LOOK_MAX_S = 5.0
"""Seconds between two looks at memory that is somebody's: often at first, since the dead give theirs back soon."""

CLAIMING = "claiming its GPUs"
READING_HOST = "reading the free memory of the host"

Wait = tuple[str, float | None]
"""Why a worker cannot start, and when to look again; None where an event will tell."""


def take_host(turn: Turn, event: HostRead) -> None:
    """What the host has left."""
    turn.set(host_memory=HostMemory(event.available_bytes, event.total_bytes), host_asked=False)
    turn.has_read_host = True


def admit(turn: Turn) -> None:
    """Start every worker that waits and may: first starts before those that fail, then by name and index."""
    waiting = _whom_to_look_at(turn)
    has_line_changed = turn.fleet.waiting is not turn.before.waiting or turn.fleet.starting is not turn.before.starting
    if not waiting and not (turn.fleet.in_line and has_line_changed):
        return
    changed_at = turn.fleet.changed_at  # Of before: who is started now has taken nothing yet, and the books know.
    in_line: list[WorkerId] = []
    books = HostBooks()
    readers, reading = Readers(turn, changed_at), 0
    for worker_id in _in_order(turn, waiting):
        worker = turn.workers[worker_id]
        assert worker.target is not None
        launch = worker.target.launch
        assert launch is not None, "only workers with a place wait for admission"
        if (missing := order.wait_of(turn.fleet, worker)) is not None:
            _wait(turn, worker_id, missing, None)
        elif (wait := sockets.wait_of(turn, worker)) is not None:
            _wait(turn, worker_id, *wait)
        elif launch.slice and (_free_at(turn) is not None or _is_next_but(turn, worker, reading)):
            in_line.append(worker_id)
        elif (wait := _find_wait(turn, worker, launch) or _yield(turn, worker, launch, readers)) is not None:
            _wait(turn, worker_id, *wait)
        elif (wait := _find_want(turn, worker, launch, changed_at, books)) is not None:
            if launch.slice and wait[1] is None and turn.fleet.gpu.state is GpuState.OK:
                reading += 1
                readers.add(worker, launch)
            _wait(turn, worker_id, *wait, starved=worker.starved or wait[1] is not None)
        else:
            hosted = turn.fleet.hosted
            _start(turn, worker, launch)
            books.add(hosted, turn.fleet.hosted, turn.workers[worker_id])
    _stand_in_line(turn, in_line, waiting)


# ---- who is looked at, in which order -------------------------------------------------------------------------------


def _whom_to_look_at(turn: Turn) -> frozenset[WorkerId]:
    """
    Waiting workers for whom something may have changed since the last time.

    While as many start as may, nobody in line is looked at, nor, of those that need a reading, while the next to start
    are; else everybody is, for the sake of the order.
    """
    fleet = turn.fleet
    if not fleet.waiting:
        return fleet.waiting
    touched = fleet.waiting & turn.touched
    is_full = _free_at(turn) is not None
    is_reading = (fleet.asked is not None or fleet.host_asked) and not (turn.has_read or turn.has_read_host)
    # A reading may be on its way for others, such as the dead: then nobody of the line is being looked at yet.
    is_reading = is_reading and (is_full or not fleet.in_line or _is_spoken_for(turn))
    if fleet.in_line and not is_full and (touched or not is_reading):
        return fleet.waiting
    if not _is_stirred(turn):
        return touched
    if fleet.spec is not turn.before.spec or not (is_full or is_reading):
        return fleet.waiting
    in_line = fleet.in_line & fleet.waiting  # Some may have been forgotten in this turn.
    if not is_full:
        in_line = frozenset(one for one in in_line if needs_reading(turn.workers[one]))
    return (fleet.waiting - in_line) | touched


_STIRS = (
    "spec",
    "counts",
    "occupied",
    "hosted",
    "claimed",
    "elsewhere",
    "starting",
    "inventory",
    "gpu",
    "awaited",
    "bound",
    "refused",
    "unready",
)


def _is_stirred(turn: Turn) -> bool:
    """Whether something has changed that those who wait wait for. Fields are replaced, never changed."""
    if turn.has_read or turn.has_read_host:
        return True
    return any(getattr(turn.before, name) is not getattr(turn.fleet, name) for name in _STIRS)


def _in_order(turn: Turn, waiting: Iterable[WorkerId]) -> list[WorkerId]:
    return sorted(waiting, key=lambda one: (turn.workers[one].history.failures > 0, one))


def _free_at(turn: Turn) -> float | None:
    """When another worker with a GPU may start at the latest, None if one may now."""
    limit = turn.fleet.spec.daemon.start_parallel if turn.fleet.spec else 0
    starting = turn.fleet.starting
    if not limit or len(starting) < limit:
        return None
    until = sorted(at for at in starting.values() if at > turn.now)
    return until[-limit] if len(until) >= limit else None


def _is_spoken_for(turn: Turn) -> bool:
    """Whether those who are being looked at fill every free place if what is read is good for them."""
    fleet = turn.fleet
    limit = fleet.spec.daemon.start_parallel if fleet.spec else 0
    if not limit or fleet.gpu.state is not GpuState.OK:
        return False
    out_of_line = [turn.workers[one] for one in fleet.waiting - fleet.in_line]
    asking = [one for one in out_of_line if is_asking(one) or (one.deadline is None and one.reason == READING_HOST)]
    reading = sum(bool(one.target and one.target.launch and one.target.launch.slice) for one in asking)
    return sum(at > turn.now for at in fleet.starting.values()) + reading >= limit


def _is_next_but(turn: Turn, worker: Worker, reading: int) -> bool:
    """
    Whether others fill every free place if what is being read is good for them.

    Then a thousand need not ask too, and one that has failed does not overtake them because it need not ask, unless
    the driver takes its time.
    """
    limit = turn.fleet.spec.daemon.start_parallel if turn.fleet.spec else 0
    if not limit or not reading:
        return False
    if not needs_reading(worker) and (not worker.history.failures or is_slow(turn)):
        return False
    return sum(at > turn.now for at in turn.fleet.starting.values()) + reading >= limit


def _stand_in_line(turn: Turn, late: list[WorkerId], looked_at: frozenset[WorkerId]) -> None:
    """Those whose turn has not come: the first of them looks again when a start counts no more, or a driver is slow."""
    fleet = turn.fleet
    free_at = _free_at(turn)
    in_line = ((fleet.in_line & fleet.waiting) - looked_at) | set(late)
    if in_line != fleet.in_line:
        turn.set(in_line=in_line)
    if not in_line:
        return
    limit = turn.fleet.spec.daemon.start_parallel if turn.fleet.spec else 0
    reason = f"waiting for its turn: {limit} with a GPU start at once (daemon.start_parallel)"
    first = _in_order(turn, in_line)[0]
    if free_at is None and fleet.asked is not None and not is_slow(turn):
        needs_none = any(not needs_reading(turn.workers[one]) for one in in_line)
        free_at = fleet.asked + SLOW_S if needs_none else None
    for worker_id in dict.fromkeys((first, *late)):
        _wait(turn, worker_id, reason, free_at if worker_id == first else None)


# ---- what one of them waits for -------------------------------------------------------------------------------------


def _find_wait(turn: Turn, worker: Worker, launch: Launch) -> Wait | None:
    """Why a worker cannot be on its devices at this moment, None if it can."""
    if holders := _in_the_way(turn, worker, launch):
        return _make_way(turn, holders)
    if launch.slice and turn.fleet.gpu.state is GpuState.MISMATCH:
        # Who runs goes on with the library that it has; whoever started now would fail, again and again.
        return MISMATCH, None
    if (unready := fabric.wait_of(turn.fleet, launch)) is not None:
        return unready, None
    if not claims.are_claimed(turn, launch):
        return CLAIMING, None
    return _lease(turn, worker.id, launch)


def _find_want(
    turn: Turn, worker: Worker, launch: Launch, changed_at: Mapping[str, float], books: HostBooks
) -> Wait | None:
    """Why there is no memory for a worker at this moment, as far as that is known; None if there is."""
    short = _wait_for_memory(turn, worker, launch, changed_at, books)
    return short or _wait_for_host(turn, worker, launch, books)


def _in_the_way(turn: Turn, worker: Worker, launch: Launch) -> list[tuple[str, WorkerId]]:
    """
    Devices of a launch that have no room for it, and who is there.

    Where the room is one of declared memory, those count that are to give some up: no reading will make it.
    """
    found: list[tuple[str, WorkerId]] = []
    for share in launch.slice:
        others = {one: millis for one, millis in _occupants(turn, share).items() if one != worker.id}
        if sum(others.values()) + share.millis > WHOLE:
            found += [(share.uuid, other) for other in others]
        elif others and is_overdeclared(turn.fleet, turn.workers, worker, share.uuid):
            found += [(share.uuid, other) for other in others if _gives_way(turn, other, share.uuid)]
    return found


def _occupants(turn: Turn, share: Share) -> Mapping[WorkerId, int]:
    return turn.fleet.occupied.get(share.uuid, {})


def _gives_way(turn: Turn, worker: WorkerId, uuid: str) -> bool:
    """Whether the plan has somebody elsewhere, or with less, than its process has of a device."""
    other = turn.workers[worker]
    device = turn.fleet.inventory.by_uuid.get(uuid) if turn.fleet.inventory else None
    total = (device.memory_total_bytes if device else None) or 0
    had, will_have = (_part(placement, uuid, total) for placement in (other.held, other.target))
    return will_have[0] < had[0] or will_have[1] < had[1]


def _part(placement: Placement | None, uuid: str, total: int) -> tuple[int, int]:
    """Thousandths of a device, and bytes declared there."""
    if placement is None or placement.launch is None:
        return 0, 0
    millis = sum(share.millis for share in placement.launch.slice if share.uuid == uuid)
    return millis, declared_bytes(placement, total) if millis else 0


def _make_way(turn: Turn, holders: list[tuple[str, WorkerId]]) -> Wait:
    """
    Wait for those who hold the slice.

    One that the plan has elsewhere, or with less, is replaced now, whoever's turn it is: otherwise each could wait for
    the other's device for ever.
    """
    for uuid, other_id in holders:
        other = turn.workers[other_id]
        if other.is_outdated and other.state in RUNNING and _gives_way(turn, other_id, uuid):
            turn.tell(other_id, Relaunched())
    names = ", ".join(sorted({str(other) for _, other in holders}))
    return f"waiting for its GPUs, held by {names}", None


def _lease(turn: Turn, worker: WorkerId, launch: Launch) -> Wait | None:
    """A start that declares nothing takes nobody knows how much: nobody else starts beside it."""
    for share in launch.slice:
        for other in _occupants(turn, share):
            until = turn.fleet.starting.get(other, 0.0)
            held = turn.workers[other].held
            if other != worker and until > turn.now and held and held.wanted.request.gpu_memory is None:
                return LEASED.format(other), until
    return None


def _yield(turn: Turn, worker: Worker, launch: Launch, readers: Readers) -> Wait | None:
    """A start makes what is being read of a device old, so one that comes and goes lets others be seen to first."""
    other = readers.before(worker, launch)
    return (
        None
        if other is None
        else (f"waiting until the memory of the same GPU has been read for {other}", turn.now + SLOW_S)
    )


def _wait_for_memory(
    turn: Turn, worker: Worker, launch: Launch, changed_at: Mapping[str, float], books: HostBooks
) -> Wait | None:
    """Why a worker has to wait for the memory of its devices, None if it has not."""
    fleet = turn.fleet
    if not launch.slice or not needs_reading(worker):
        return None
    if fleet.gpu.state is not GpuState.OK:
        # Its memory cannot be asked for. Where it ran before it may run again; nobody new is put at risk.
        if fleet.remembered.get(worker.id) == launch.slice:
            return None
        return f"the GPUs cannot be read: {fleet.gpu.detail or fleet.gpu.state}", None
    if not is_of_now(turn, worker, launch, changed_at):
        turn.do(ReadInventory())
        return worker.reason if worker.reason.startswith(("needs ", "GPU ", "MIG-")) else READING, None
    texts = (shortage(fleet, turn.workers, worker, share.uuid, books) for share in launch.slice)
    short = [text for text in texts if text is not None]
    return ("; ".join(short), _look_at(turn, worker)) if short else None


def _look_at(turn: Turn, worker: Worker) -> float:
    """When to look at the devices again. All who wait look at once: one reading serves them all."""
    every_s = _every_s(turn, worker)
    inventory = turn.fleet.inventory
    assert inventory is not None
    due = inventory.asked_at + every_s
    if due > turn.now:
        return due
    if turn.fleet.asked is None:
        turn.do(ReadInventory())
    return turn.now + every_s


def _every_s(turn: Turn, worker: Worker) -> float:
    waited = turn.now - worker.since
    return next((every_s for until, every_s in LOOKS if waited < until), LOOK_MAX_S)


def _wait_for_host(turn: Turn, worker: Worker, launch: Launch, books: HostBooks) -> Wait | None:
    """Why a worker has to wait for the host's memory, None if it has not. It is seen to at this very moment."""
    if launch.recipe.memory is None:
        return None
    if not turn.has_read_host:
        if not turn.fleet.host_asked:
            turn.set(host_asked=True)
            turn.do(ReadHost())
        return worker.reason if "host's memory" in worker.reason else READING_HOST, None
    short = host_shortage(turn.fleet, turn.workers, worker, books)
    return None if short is None else (short, turn.now + _every_s(turn, worker))


def _wait(turn: Turn, worker_id: WorkerId, reason: str, deadline: float | None, *, starved: bool = False) -> None:
    worker = turn.workers[worker_id]
    if (worker.reason, worker.deadline, worker.starved) != (reason, deadline, starved):
        turn.change(evolve(worker, reason=reason, deadline=deadline, starved=starved))


# ---- the start ------------------------------------------------------------------------------------------------------


def _tell_unmeasured(turn: Turn, launch: Launch) -> None:
    """Once for each device: no rule about memory can be kept there."""
    known = turn.fleet.inventory.by_uuid if turn.fleet.inventory else {}
    for share in launch.slice:
        device = known.get(share.uuid)
        if device is None or share.uuid in turn.fleet.unmeasured:
            continue
        if device.memory_total_bytes is None or device.memory_free_bytes is None:
            turn.set(unmeasured=turn.fleet.unmeasured | {share.uuid})
            reason = f"{name_of(device)} does not tell its memory, so nobody waits for it there"
            turn.do(Say("device.unmeasured", {"device": share.uuid, "reason": reason}, is_warning=True))


def _start(turn: Turn, worker: Worker, launch: Launch) -> None:
    fleet = turn.fleet
    incarnation = fleet.incarnations + 1
    turn.set(incarnations=incarnation)
    witnesses.note_start(turn, worker.id, launch)
    turn.tell(worker.id, Admitted(incarnation))
    _tell_unmeasured(turn, launch)
    policy = worker.policy
    moment = Moment(
        worker=worker.id,
        count=fleet.counts[worker.id.service],
        restarts=worker.starts,
        incarnation=incarnation,
        devices=fleet.inventory.by_uuid if fleet.inventory else {},
        notify="notify" in {policy.ready.kind, policy.alive.kind},
        watchdog_s=policy.alive.interval_s * policy.alive.failures if policy.alive.kind == "notify" else None,
    )
    rendered = render(launch, moment, fleet.host)
    turn.do(
        Spawn(
            worker=worker.id,
            incarnation=incarnation,
            launch=launch,
            argv=rendered.argv,
            env=rendered.env,
            working_dir=rendered.working_dir,
            logs=worker.policy.logs,
            setup=launch.recipe.setup,
            near=sites(launch, moment),
        )
    )
