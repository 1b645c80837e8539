"""
Dead processes' memory on GPUs: what is seen of each process while it lives, when it is back, when it is given up.

Gathers what the witnesses say and keeps the books of it; how they are weighed stands in `release`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from supervisor.core.evolve import evolve
from supervisor.core.file.quantities import MIB
from supervisor.core.inventory import Device, GpuState, Opener, name_of
from supervisor.core.memory import NAMED_MAX, fits_again, holders_in_words, untaken_bytes
from supervisor.core.message import InventoryRead, Say, State
from supervisor.core.moves import LOOK_S, RELEASING
from supervisor.core.release import Evidence, Proof, Sight, Verdict, judge, lacking_bytes
from supervisor.core.slices import Launch, declared_bytes
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Dirt, Fleet, Turn
from supervisor.core.worker import HOLDING, LIVING, MemoryBack, Worker

DIRTY_S = 60.0
"""Drivers have been seen to take more than 30 s to give a dead process' memory back."""

DIRTY_LOOK_S = 30.0
"""As long as memory of a device is not back, the driver is asked so often whether it is."""

FRESH_S = 5.0
"""A reading says how much is free at a start for so long."""

UNSEEN: Mapping[str, Sight] = {}


def note_start(turn: Turn, worker: WorkerId, launch: Launch) -> None:
    """A worker is let start: what is free now is to be free again at its end."""
    fleet, inventory = turn.fleet, turn.fleet.inventory
    if not launch.slice:
        return
    is_fresh = inventory is not None and fleet.gpu.state is GpuState.OK and turn.now - inventory.asked_at <= FRESH_S
    known = inventory.by_uuid if inventory is not None and is_fresh else {}
    seen: dict[str, Sight] = {}
    for share in launch.slice:
        device = known.get(share.uuid)
        free = None
        if device is not None and device.memory_free_bytes is not None and not device.is_unified:
            free = device.memory_free_bytes - untaken_bytes(fleet, turn.workers, worker, device)
        stray = stray_bytes(device) if device else None
        seen[share.uuid] = Sight(stray=stray, free=free, beside=_beside(turn, worker, device) if device else ())
    turn.set(sights={**fleet.sights, worker: seen})


def _beside(turn: Turn, worker: WorkerId | None, device: Device) -> tuple[tuple[int, int | None], ...]:
    """Others than a worker that occupy a device: their incarnations and what they have declared there, if anything."""
    ids = sorted(one for one in turn.fleet.occupied.get(device.uuid, ()) if one != worker)
    return tuple((one.incarnation, _declared(one, device)) for one in (turn.workers[it] for it in ids))


def _declared(worker: Worker, device: Device) -> int | None:
    total = device.memory_total_bytes
    if total is None or worker.held is None or worker.held.wanted.request.gpu_memory is None:
        return None
    return declared_bytes(worker.held, total)


def take_reading(turn: Turn) -> None:
    """A reading has come: who lives is looked at, and who waits for memory may have it back."""
    fleet = turn.fleet
    if fleet.gpu.state is not GpuState.OK or fleet.inventory is None:
        for worker in [one for one in turn.workers.values() if one.state is State.RELEASING]:
            turn.change(evolve(worker, reason=f"{RELEASING}: {_silence(turn, worker)}"))
        return
    _look_at_the_living(turn)
    for worker in [one for one in turn.workers.values() if one.state is State.RELEASING]:
        if fleet.inventory.asked_at >= worker.since:
            _settle(turn, worker)
    if fleet.dirty:
        _look_at_dirt(turn)


def take_openers(turn: Turn, event: InventoryRead) -> None:
    """Who has the driver's files open is seen also where the driver itself does not answer."""
    if event.reading.openers is not None:
        turn.set(openers=event.reading.openers, openers_at=event.asked_at, hidden=event.reading.hidden)


def wants_openers(fleet: Fleet, now: float) -> bool:
    """
    Whether the next reading is to look at all processes for open files, which takes a while where there are thousands.

    So it is when memory is not back at the first look or no list tells of it, and when somebody who has just got ready
    is not on the list: then the list may be of no use.
    """
    known = fleet.inventory.by_uuid if fleet.inventory else {}
    for worker in fleet.workers.values():
        if worker.state is State.RELEASING:
            if now - worker.since >= LOOK_S / 2:
                return True
            if any(share.uuid in known and known[share.uuid].holders is None for share in worker.occupied):
                return True
        elif worker.state is State.READY and worker.since == fleet.asked:
            return True
    return False


# ---- while they live ------------------------------------------------------------------------------------------------


def _look_at_the_living(turn: Turn) -> None:
    """Whom the list shows it can be asked about when they are dead."""
    fleet = turn.fleet
    assert fleet.inventory is not None
    sights = {one: seen for one, seen in fleet.sights.items() if _is_held(turn, one)}
    has_listed = fleet.has_listed
    for device in fleet.inventory.devices:
        shown = _shown(device)
        has_listed |= bool(shown)
        stray = stray_bytes(device) if shown else None
        for worker_id in fleet.occupied.get(device.uuid, ()):
            name = str(worker_id)
            before = sights.get(worker_id, UNSEEN).get(device.uuid, Sight())
            if turn.workers[worker_id].state not in LIVING:
                continue
            if name not in shown:
                if not before.listed and device.holders is not None and _computes(turn, name, device):
                    unlisted = replace(before, unlisted=True)
                    sights[worker_id] = {**sights.get(worker_id, {}), device.uuid: unlisted}
                continue
            fewest = stray if before.stray is None or stray is None else min(stray, before.stray)
            most = max(shown[name], before.had or 0)
            after = replace(before, listed=True, unlisted=False, had=most, stray=fewest)
            sights[worker_id] = {**sights.get(worker_id, {}), device.uuid: after}
    turn.set(sights=sights, has_listed=has_listed)


def _computes(turn: Turn, worker: str, device: Device) -> bool:
    """Whether a worker surely had a context on a device when the newest reading was asked for."""
    fleet = turn.fleet
    if fleet.inventory is None or fleet.openers_at != fleet.inventory.asked_at:
        return False
    return any(one.computes and one.holder.worker == worker and _has_open(one, device) for one in fleet.openers)


def _has_open(opener: Opener, device: Device) -> bool:
    return device.minor in opener.minors if device.minor is not None else bool(opener.minors)


def _is_held(turn: Turn, worker: WorkerId) -> bool:
    return worker in turn.workers and turn.workers[worker].state in HOLDING


def _shown(device: Device) -> dict[str, int]:
    """Workers of which the list shows a process -> the bytes that it tells."""
    shown: dict[str, int] = {}
    for holder in device.holders or ():
        if holder.worker:
            shown[holder.worker] = shown.get(holder.worker, 0) + (holder.used_bytes or 0)
    return shown


def stray_bytes(device: Device) -> int | None:
    """
    Bytes of a device that are used and that nobody on its list has; None where figures for that are missing.

    Memory that two share is on the list twice: more than there is on it does not mean that less than nothing is stray.
    """
    total, free, holders = device.memory_total_bytes, device.memory_free_bytes, device.holders
    if total is None or free is None or holders is None or device.is_unified:
        return None
    listed = 0
    for holder in holders:
        if holder.used_bytes is None:
            return None
        listed += holder.used_bytes
    return max(0, total - free - listed)


# ---- once they are dead ---------------------------------------------------------------------------------------------


def _settle(turn: Turn, worker: Worker) -> None:
    """Its memory is back on every device, or the reason says what is missing where."""
    assert turn.fleet.inventory is not None
    known = turn.fleet.inventory.by_uuid
    found = [known[share.uuid] for share in worker.occupied if share.uuid in known]
    verdicts = [judge(gather(turn, worker, one)) for one in found]
    missing = [one.reason for one in verdicts if not one.is_back]
    if not missing:
        turn.tell(worker.id, MemoryBack(min((one.proof for one in verdicts), default=Proof.NONE_HELD)))
    elif (reason := f"{RELEASING}: {'; '.join(missing)}") != worker.reason:
        turn.change(evolve(worker, reason=reason))


def gather(turn: Turn, worker: Worker, device: Device) -> Evidence:
    """What the witnesses say of one device of a worker whose processes are gone."""
    sight = turn.fleet.sights.get(worker.id, UNSEEN).get(device.uuid, Sight())
    total, free = device.memory_total_bytes, device.memory_free_bytes
    figures = "" if total is None or free is None else f"{free // MIB} of {total // MIB} MiB are free"
    listed = _listed(turn, worker, device, sight)
    return Evidence(
        device=name_of(device),
        listed=listed,
        opened=_opened(turn, worker, device),
        may_be_asked=turn.now - worker.since < 2 * LOOK_S,
        fits=fits_again(turn.fleet, turn.workers, worker, device),
        lacking=_unowned(device, sight) if listed is False else _unexplained(turn, worker.id, device, sight),
        figures=figures if not sight.had else f"{figures}, its last process had {sight.had // MIB} MiB",
    )


def _listed(turn: Turn, worker: Worker, device: Device, sight: Sight) -> bool | None:
    """
    Whether the list shows the dead; None where it cannot be believed when it does not.

    In a container it may show pids of another world. So it has to have shown this very process when it lived, or
    others of ours, unless this one had the device open all the same.
    """
    if device.holders is None:
        return None
    if str(worker.id) in _shown(device):
        return True
    if sight.listed or (turn.fleet.has_listed and not sight.unlisted):
        return False
    return None


def _opened(turn: Turn, worker: Worker, device: Device) -> bool | None:
    """Whether a process of the dead has the device open; None where nobody has looked since, or not at everybody."""
    fleet = turn.fleet
    if fleet.openers_at is None or fleet.openers_at < worker.since:
        return None
    if any(one.holder.worker == str(worker.id) and _has_open(one, device) for one in fleet.openers):
        return True
    return None if fleet.hidden else False


def _unowned(device: Device, sight: Sight) -> int | None:
    """Bytes that are nobody's on the list, and were not when it lived."""
    stray = stray_bytes(device)
    if stray is None or sight.stray is None or device.memory_total_bytes is None:
        return None
    return lacking_bytes(stray, sight.stray, device.memory_total_bytes)


def _unexplained(turn: Turn, worker: WorkerId | None, device: Device, sight: Sight) -> int | None:
    """
    Bytes that were free before it, less what has been declared by those that came later; None if that cannot be told.

    Others are those that are not *worker*. Who was beside it and has gone has left up to what it had declared: only
    where that makes no difference it is told.
    """
    total, free = device.memory_total_bytes, device.memory_free_bytes
    if sight.free is None or total is None or free is None:
        return None
    now, then = dict(_beside(turn, worker, device)), dict(sight.beside)
    came = [size for one, size in now.items() if one not in then]
    if None in came:
        return None
    before = sight.free - sum(size or 0 for size in came)
    least = lacking_bytes(before, free, total)
    gone = [size for one, size in then.items() if one not in now]
    returned = sum(total if size is None else size for size in gone)
    coming = untaken_bytes(turn.fleet, turn.workers, worker, device)  # It was theirs before they have it.
    most = lacking_bytes(min(total, before + returned), free - coming, total)
    return least if least or not most else None


# ---- given up -------------------------------------------------------------------------------------------------------


def give_up_if_late(turn: Turn, worker_id: WorkerId) -> None:
    """A minute is over: its devices are dirty, and it goes on without them, or on what they have left."""
    worker = turn.workers.get(worker_id)
    if worker is None or worker.state is not State.RELEASING or turn.now - worker.since < DIRTY_S:
        return
    soiled = {share.uuid: _dirt(turn, worker, share.uuid) for share in worker.occupied}
    dirty = {uuid: dirt for uuid, dirt in soiled.items() if dirt is not None}
    turn.set(dirty={**turn.fleet.dirty, **dirty})
    reason = "; ".join(dirt.reason for dirt in dirty.values())
    fields = {
        "worker": str(worker_id),
        "waited_s": round(turn.now - worker.since, 1),
        "devices": list(dirty),
        "reason": reason,
    }
    turn.do(Say("worker.dirty", fields, is_warning=True))
    turn.tell(worker_id, MemoryBack(Proof.NOTHING, is_dirty=True))
    turn.stale = True
    if turn.fleet.look_at is None or turn.fleet.look_at > turn.now + DIRTY_LOOK_S:
        turn.set(look_at=turn.now + DIRTY_LOOK_S)


def _dirt(turn: Turn, worker: Worker, uuid: str) -> Dirt | None:
    """What is left on a device, None for one whose memory is back or that is not there."""
    fleet = turn.fleet
    device = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    if device is None or fleet.inventory is None:
        return None
    verdict = Verdict(is_back=False, reason=f"{name_of(device)}: {_silence(turn, worker)}")
    if fleet.gpu.state is GpuState.OK and fleet.inventory.asked_at >= worker.since:
        verdict = judge(gather(turn, worker, device))
    if verdict.is_back:
        return None
    reason = f"memory of a dead process of {worker.id} is not back. {verdict.reason}"
    if device.holders and fleet.gpu.state is GpuState.OK:
        reason += f"; held by {holders_in_words(device.holders, worker.id)}"
    if others := _open_by(turn, device):
        reason += f"; opened by {others}"
    sight = fleet.sights.get(worker.id, UNSEEN).get(uuid, Sight())
    return Dirt(worker.id, worker.incarnation, turn.now, sight, reason)


def _open_by(turn: Turn, device: Device) -> str:
    """Who computes on a device and is on no list of it."""
    fleet = turn.fleet
    listed = {holder.pid for holder in device.holders or () if fleet.gpu.state is GpuState.OK}
    found = [one.holder for one in fleet.openers if one.computes and _has_open(one, device)]
    unlisted = [holder for holder in found if holder.pid not in listed]
    return ", ".join(
        f"pid {one.pid} ({', '.join(part for part in (one.worker or one.name, one.user) if part)})"
        for one in unlisted[:NAMED_MAX]
    )


def _silence(turn: Turn, worker: Worker) -> str:
    gpu = turn.fleet.gpu
    if gpu.state is not GpuState.OK:
        return f"the driver cannot be asked: {gpu.detail or gpu.state}"
    return f"the driver has not answered for {turn.now - worker.since:.0f} s"


def _look_at_dirt(turn: Turn) -> None:
    """Devices on which nothing of the dead is left any more are clean again."""
    assert turn.fleet.inventory is not None
    known = turn.fleet.inventory.by_uuid
    clean = {uuid for uuid, dirt in turn.fleet.dirty.items() if uuid in known and _is_clean(turn, dirt, known[uuid])}
    if not clean:
        return
    turn.set(dirty={uuid: dirt for uuid, dirt in turn.fleet.dirty.items() if uuid not in clean})
    for uuid in sorted(clean):
        dirt_s = round(turn.now - turn.before.dirty[uuid].at, 1) if uuid in turn.before.dirty else 0.0
        turn.do(Say("device.clean", {"device": uuid, "dirty_for_s": dirt_s}))


def _is_clean(turn: Turn, dirt: Dirt, device: Device) -> bool:
    """By what can be told of it now. Where nothing can, it is well as soon as the driver says so."""
    if not device.is_usable:
        return False
    worker = turn.workers.get(dirt.worker)
    is_there_again = worker is not None and worker.state in HOLDING and worker.incarnation != dirt.incarnation
    if not is_there_again and str(dirt.worker) in _shown(device):
        return False
    if (unowned := _unowned(device, dirt.sight)) is not None:
        return unowned == 0
    if dirt.sight.free is None or device.memory_total_bytes is None or device.memory_free_bytes is None:
        return True
    sizes = [size for _, size in (*_beside(turn, None, device), *dirt.sight.beside)]
    if None in sizes:
        # Who declares nothing found room there, or has left nobody knows how much: what is in use is their business.
        return not _unexplained(turn, None, device, dirt.sight)
    return _unexplained(turn, None, device, dirt.sight) == 0
