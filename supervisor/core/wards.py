"""
Sick devices: the witnesses' words become signs of `health`, and its verdicts become what the plan and the workers see.

Books of what is known against each device; the inventory's health is always what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from supervisor.core import fabric
from supervisor.core.checkups import UNWATCHED, watch
from supervisor.core.evolve import evolve
from supervisor.core.health import (
    LINK,
    WELL,
    Ailment,
    Emptied,
    Faulted,
    Released,
    SeenWell,
    Sign,
    Taken,
    Terms,
    TimeUp,
    Vanished,
    step,
)
from supervisor.core.inventory import Device, GpuState, Health, Inventory, name_of
from supervisor.core.matching import Names
from supervisor.core.message import (
    InventoryRead,
    QuarantineRequested,
    ReadInventory,
    ReleaseRequested,
    Say,
)
from supervisor.core.signs import sign_of
from supervisor.core.spec import HealthSpec, WorkerId
from supervisor.core.turn import Fleet, Turn
from supervisor.core.worker import RUNNING, Evicted, Worker
from supervisor.errors import CannotError

# ---- what a reading tells -------------------------------------------------------------------------------------------


def take_reading(turn: Turn, event: InventoryRead, before: Inventory | None) -> None:
    """Every device of a good reading is looked at, and those that are not in it any more."""
    inventory = turn.fleet.inventory
    if event.reading.state is not GpuState.OK or inventory is None:
        fold(turn)
        return
    _keep_spared(turn, before)
    inventory = turn.fleet.inventory
    assert inventory is not None
    looked_at = [one for one in inventory.devices if not turn.fleet.spared & {one.uuid, one.parent}]
    _note_checkups(turn, looked_at, event.asked_at)
    for device in looked_at:
        _look(turn, device, event.asked_at)
    _look_for_missing(turn, before, event)
    fold(turn)


def _keep_spared(turn: Turn, before: Inventory | None) -> None:
    """Devices that were not to be touched are what they were."""
    fleet = turn.fleet
    if not fleet.spared or before is None or fleet.inventory is None:
        return
    kept = [
        one
        for one in before.devices
        if (one.uuid in fleet.spared or one.parent in fleet.spared) and one.uuid not in fleet.inventory.by_uuid
    ]
    devices = sorted((*fleet.inventory.devices, *kept), key=lambda one: one.index)
    turn.set(inventory=replace(fleet.inventory, devices=tuple(devices)))


def _look(turn: Turn, device: Device, asked_at: float) -> None:
    fleet = turn.fleet
    known = fleet.uncorrected.get(device.uuid)
    sign = sign_of(device, fleet.watches.get(device.uuid, UNWATCHED), known)
    if device.vitals.uncorrected is not None and device.vitals.uncorrected != known:
        turn.set(uncorrected={**fleet.uncorrected, device.uuid: device.vitals.uncorrected})
    if not isinstance(sign, Vanished):
        _note_answer(turn, device, sign, asked_at)
    if not isinstance(sign, SeenWell):
        tell(turn, device.uuid, sign, device)


def _note_answer(turn: Turn, device: Device, sign: Sign, asked_at: float) -> None:
    """It answers: one that was lost is back, be it sick; one that is looked at once more is well but for doubts."""
    ailment = turn.fleet.ailments.get(device.uuid, WELL)
    if ailment.health not in {Health.PROBING, Health.LOST} or asked_at < ailment.since:
        return
    if ailment.health is Health.LOST or not (isinstance(sign, Faulted) or terms_of(turn.fleet).canary):
        tell(turn, device.uuid, SeenWell(), device)


def _note_checkups(turn: Turn, devices: Sequence[Device], asked_at: float) -> None:
    """What this reading adds to what checkups have found."""
    fleet = turn.fleet
    gpus = [one for one in devices if one.parent is None]
    ends = {end for one in gpus for end, _ in fleet.watches.get(one.uuid, UNWATCHED).nvlinks if end}
    absent = {end for end in ends if not _is_there(fleet, end)}
    found = {
        one.uuid: watch(
            fleet.watches.get(one.uuid, UNWATCHED),
            one,
            asked_at,
            is_used=bool(workers_on(fleet, one.uuid)) or any(it in fleet.elsewhere for it in parts_of(fleet, one.uuid)),
            absent=absent,
        )
        for one in gpus
    }
    watches = {**fleet.watches, **{uuid: one for uuid, one in found.items() if one != UNWATCHED}}
    if watches != fleet.watches:
        turn.set(watches=watches)


def _is_there(fleet: Fleet, uuid: str) -> bool:
    """Whether a GPU should be reached by its links: it is not away, nor sick but for links."""
    device = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    if device is None or device.health is Health.LOST or device.vitals.recovery or uuid in fleet.spared:
        return False
    ailment = fleet.ailments.get(uuid, WELL)
    return ailment.scope == LINK or ailment.health in {Health.OK, Health.SUSPECT, Health.PROBING}


def _look_for_missing(turn: Turn, before: Inventory | None, event: InventoryRead) -> None:
    """GPUs that were there are lost. Instances of MIG come and go with whoever cuts them."""
    inventory = turn.fleet.inventory
    assert inventory is not None
    there = inventory.by_uuid
    gone = [one for one in (before.devices if before else ()) if one.parent is None and one.uuid not in there]
    missing = {uuid: one for uuid, one in turn.fleet.missing.items() if uuid not in there}
    missing |= {one.uuid: one for one in gone}
    if missing != turn.fleet.missing:
        turn.set(missing=missing)
    for one in gone:
        detail = next(
            (part for part in event.reading.detail.split("; ") if part.startswith(f"device {one.index}: ")), ""
        )
        reason = detail.partition(": ")[2] or "the driver does not show it any more"
        tell(turn, one.uuid, Vanished(reason), one)


def fold(turn: Turn) -> None:
    """The inventory's health is what the books say; an instance is as well as its GPU."""
    fleet = turn.fleet
    if fleet.inventory is None:
        return
    found = []
    for device in fleet.inventory.devices:
        ailment = fleet.ailments.get(device.uuid)
        if (ailment is None or ailment.health is Health.OK) and device.parent is not None:
            ailment = fleet.ailments.get(device.parent)
        health, reason = (ailment.health, ailment.reason) if ailment else (Health.OK, "")
        is_same = (device.health, device.reason) == (health, reason)
        found.append(device if is_same else replace(device, health=health, reason=reason))
    if any(one is not device for one, device in zip(found, fleet.inventory.devices, strict=True)):
        turn.set(inventory=replace(fleet.inventory, devices=tuple(found)))


# ---- the books ------------------------------------------------------------------------------------------------------


def terms_of(fleet: Fleet) -> HealthSpec:
    """What the file says of sick devices."""
    return fleet.spec.health if fleet.spec else HealthSpec()


def tell(turn: Turn, uuid: str, sign: Sign, device: Device | None = None) -> None:
    """Let one device take one step."""
    spec = terms_of(turn.fleet)
    before = turn.fleet.ailments.get(uuid, WELL)
    after = step(before, sign, Terms(spec.probation, spec.max_probation, spec.max_strikes), turn.now)
    if after is before:
        return
    ailments = {one: ailment for one, ailment in turn.fleet.ailments.items() if one != uuid}
    if after.health is not Health.OK or after.strikes:
        ailments[uuid] = after
    turn.set(ailments=ailments)
    if after.health is before.health:
        return
    turn.stale = True
    fold(turn)
    _say(turn, uuid, before, after, device)
    if after.health is Health.PROBING:
        turn.do(ReadInventory(fresh=not turn.fleet.failures))
    if after.health is not Health.QUARANTINED and after.health is not Health.DRAINING and uuid in turn.fleet.spared:
        turn.set(spared=turn.fleet.spared - {uuid})


def _say(turn: Turn, uuid: str, before: Ailment, after: Ailment, device: Device | None) -> None:
    """One line for each change, with what a person can do."""
    device = device or device_of(turn.fleet, uuid)
    fields: dict[str, object] = {"device": uuid, "name": name_of(device) if device else uuid, "before": before.health}
    if after.reason:
        fields["reason"] = after.reason
    elif before.reason:
        fields["was"] = before.reason
    if after.strikes > 1:
        fields["strikes"] = after.strikes
    if after.until is not None:
        fields["until_in_s"] = round(after.until - turn.now, 1)
    if workers := sorted(map(str, workers_on(turn.fleet, uuid))):
        fields["workers"] = workers
    turn.do(Say(f"device.{after.health}", fields, is_warning=after.health is not Health.OK))


def device_of(fleet: Fleet, uuid: str) -> Device | None:
    """A device as it was read last, or as it was before it was missed."""
    found = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    return found or fleet.missing.get(uuid)


def parts_of(fleet: Fleet, uuid: str) -> tuple[str, ...]:
    """A device and its MIG instances."""
    devices = fleet.inventory.devices if fleet.inventory else ()
    return (uuid, *(one.uuid for one in devices if one.parent == uuid))


def workers_on(fleet: Fleet, uuid: str) -> tuple[WorkerId, ...]:
    """Who occupies any of a device."""
    return tuple(sorted({worker for part in parts_of(fleet, uuid) for worker in fleet.occupied.get(part, ())}))


def is_sick(ailment: Ailment) -> bool:
    """Whether nobody should stay there."""
    if ailment.health is Health.LOST:
        return ailment.is_faulty
    return ailment.health in {Health.DRAINING, Health.QUARANTINED}


def is_unsettled(fleet: Fleet, since: float) -> bool:
    """Whether a device has come not to answer since then, which may be of one moment: in use, not ready, not told."""
    return any(one.health is Health.LOST and not one.is_faulty and one.since > since for one in fleet.ailments.values())


def is_left_alone(fleet: Fleet, uuid: str, ailment: Ailment, worker: Worker) -> bool:
    """Whether one stays on a sick device: by the file's word, or as only links are down and it uses none."""
    if terms_of(fleet).on_fault == "ignore" and uuid not in fleet.spared:
        return True
    return ailment.scope == LINK and len(worker.occupied) < 2


def settle(turn: Turn) -> None:
    """Sick devices that are empty by now are in quarantine; who is on one that is not, is to leave it."""
    for uuid, ailment in tuple(turn.fleet.ailments.items()):
        if ailment.health is Health.DRAINING and not workers_on(turn.fleet, uuid):
            tell(turn, uuid, Emptied())
        elif is_sick(ailment):
            _evict(turn, uuid, ailment)


def _evict(turn: Turn, uuid: str, ailment: Ailment) -> None:
    on_fault = terms_of(turn.fleet).on_fault
    for worker_id in workers_on(turn.fleet, uuid):
        worker = turn.workers[worker_id]
        if worker.state not in RUNNING or is_left_alone(turn.fleet, uuid, ailment, worker):
            continue
        device = device_of(turn.fleet, uuid)
        reason = f"{name_of(device) if device else uuid} is {ailment.health}: {ailment.reason}"
        turn.tell(worker_id, Evicted(reason, kill=on_fault == "kill" and not ailment.is_held), cause="device")


# ---- time -----------------------------------------------------------------------------------------------------------


def pass_time(turn: Turn) -> None:
    """Quarantines, and doubts, that are over."""
    for uuid, ailment in tuple(turn.fleet.ailments.items()):
        if ailment.until is not None and ailment.until <= turn.now:
            tell(turn, uuid, TimeUp())


def set_deadline(turn: Turn) -> None:
    """When the fleet has to look up by itself."""
    fleet = turn.fleet
    times = [ailment.until for ailment in fleet.ailments.values() if ailment.until is not None]
    if fleet.look_at is not None:
        times.append(fleet.look_at)
    deadline = min(times, default=None)
    if deadline != fleet.deadline:
        turn.set(deadline=deadline)


# ---- events ---------------------------------------------------------------------------------------------------------


def take(turn: Turn, event: QuarantineRequested | ReleaseRequested) -> None:
    """What operators say of devices."""
    match event:
        case QuarantineRequested():
            take_quarantine(turn, event)
        case ReleaseRequested():
            take_release(turn, event)


# ---- what an operator says ------------------------------------------------------------------------------------------


def find_gpu(fleet: Fleet, token: str) -> Device:
    """
    The GPU that an operator names.

    Args:
        fleet: As it is.
        token: Index, UUID or its start, PCI id; of an instance its GPU is meant.

    Raises:
        CannotError: It names none, or several.
    """
    devices = fleet.inventory.devices if fleet.inventory else ()
    known = {one.uuid: one for one in devices} | dict(fleet.missing)
    # The index of one that is gone may be somebody else's by now.
    among = devices if token.isdecimal() else tuple(known.values())
    found = {one.parent or one.uuid for one in Names(among).find(token)} if token else set()
    if len(found) != 1:
        cause = f'"{token[:60]}" names {len(found)} of them' if found else f'there is no GPU "{token[:60]}"'
        raise CannotError("find the GPU", cause, hint="`gpu-supervisor devices` shows them", exit_code=2)
    return known[found.pop()]


def take_quarantine(turn: Turn, event: QuarantineRequested) -> None:
    """Out of use until they are released, whatever their state."""
    said = f": {event.reason}" if event.reason else ""
    for uuid in event.uuids:
        if event.for_reset:
            turn.set(spared=turn.fleet.spared | {uuid})
        tell(turn, uuid, Taken("for a reset" if event.for_reset else f"by the operator{said}"))
    if event.for_reset:
        turn.do(ReadInventory(fresh=not turn.fleet.failures))


def take_release(turn: Turn, event: ReleaseRequested) -> None:
    """In use again as soon as they have been looked at."""
    if turn.fleet.spared & set(event.uuids):
        turn.set(spared=turn.fleet.spared - set(event.uuids))
    for uuid in event.uuids:
        # Whatever its checkups have found, as links that are down, is what it is believed with from now on.
        turn.set(watches={one: it for one, it in turn.fleet.watches.items() if one != uuid})
        fabric.excuse(turn, uuid)
        if (ailment := turn.fleet.ailments.get(uuid)) is not None and ailment.health is Health.LOST:
            turn.set(parting={**turn.fleet.parting, uuid: turn.now})
            turn.do(ReadInventory(fresh=not turn.fleet.failures))
        tell(turn, uuid, Released())


def recalled(ailments: Mapping[str, Ailment], *, now: float, is_same_boot: bool) -> dict[str, Ailment]:
    """
    What an earlier life of this daemon knew.

    Args:
        ailments: As it was kept.
        now: Monotonic seconds; within one boot those of before go on.
        is_same_boot: The machine has not been started since: a start mends a lot, so each is looked at once more.
    """
    found = {}
    for uuid, one in ailments.items():
        if is_same_boot and one.health is not Health.PROBING:
            found[uuid] = one
        elif one.health in {Health.DRAINING, Health.QUARANTINED, Health.PROBING} or one.is_faulty:
            until = None if one.is_held else now
            found[uuid] = evolve(one, health=Health.QUARANTINED, since=now, until=until, is_faulty=False)
    return found
