"""
What the driver tells by itself: XIDs and other events of NVML, what follows from their class, and who has died of them.

Told of a device; what that makes of it, and of who works there, is the business of `wards`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from supervisor.core import deaths, xids
from supervisor.core.health import LINK, WELL, Doubted, Faulted
from supervisor.core.inventory import name_of
from supervisor.core.message import DeviceEventTold, Exited, KillTree, ReadInventory, Say, Signal, State
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet, Turn, XidSeen
from supervisor.core.wards import device_of, is_sick, parts_of, tell, terms_of, workers_on
from supervisor.core.worker import Worker

ECHO_S = 5.0
"""For so long after we have ended a process the driver may tell of it as of an error."""

BLAME_S = 30.0
"""A process that ends badly so soon after a fault of its device has died of that."""

XIDS_KEPT = 16
XIDS_MAX, XIDS_WINDOW_S = 3, 600.0
"""So many errors of several services within so long are no longer their own doing; nor is so much news none."""

XID_EVENT, RECOVERY_EVENT = 0x8, 0x8000

_EVENTS: Mapping[int, str] = {
    0x2: "double bit ECC error",
    0x200: "many single bit ECC errors",
    0x400: "memory was retired",
    0x800: "memory could not be retired",
    0x1000: "poisoned memory was used",
    0x2000: "poisoned memory was used, with no way back",
    0x4000: "the GPU is unavailable",
    0x8000: "the driver wants something else done about it",
}


# ---- what the driver tells by itself --------------------------------------------------------------------------------


def take(turn: Turn, event: DeviceEventTold) -> None:
    """An XID, or another of NVML's events."""
    device = device_of(turn.fleet, event.uuid)
    if device is None:
        turn.do(ReadInventory())
        return
    if event.kind != XID_EVENT:
        said = {"device": event.uuid, "name": name_of(device), "event": _EVENTS.get(event.kind, hex(event.kind))}
        turn.do(Say("device.event", said, is_warning=event.kind != RECOVERY_EVENT), ReadInventory())
        return
    row = xids.find_xid(event.number, dict(terms_of(turn.fleet).xids))
    workers = _hit(turn.fleet, event)
    if row.kind == "ignore" or (event.number in xids.ECHOES and _is_echo(turn, event.uuid)):
        return
    seen = XidSeen(event.number, row.kind, turn.now, workers)
    turn.set(xids={**turn.fleet.xids, event.uuid: (*turn.fleet.xids.get(event.uuid, ()), seen)[-XIDS_KEPT:]})
    fields: dict[str, object] = {"device": event.uuid, "name": name_of(device), "xid": event.number, "class": row.kind}
    fields |= {key: value for key, value in (("meaning", row.meaning), ("advice", row.advice)) if value}
    if workers:
        fields["workers"] = [str(one) for one in workers]
    turn.do(Say("device.xid", fields, is_warning=row.kind != "information"))
    _follow(turn, event.uuid, row, seen)


def _follow(turn: Turn, uuid: str, row: xids.Xid, seen: XidSeen) -> None:
    reason = xids.words(seen.number) + (f": {row.advice}" if row.advice else "")
    match row.kind:
        case "hardware":
            tell(turn, uuid, Faulted(reason))
        case "link":
            tell(turn, uuid, Faulted(reason, LINK))
        case "application" if services := _services_hit(turn, uuid):
            tell(turn, uuid, Doubted(f"errors of several services: {', '.join(sorted(services))}"))
        case "contained" | "information" | "unknown":
            if row.kind == "information" and seen.number in xids.COUNTED and _is_often(turn, uuid, seen.number):
                tell(turn, uuid, Doubted(f"{xids.words(seen.number)} again and again"))
            turn.do(ReadInventory())
        case _:
            pass


def _is_often(turn: Turn, uuid: str, number: int) -> bool:
    """Whether an error that says nothing once has come too often."""
    recent = [one for one in turn.fleet.xids[uuid] if one.number == number and turn.now - one.at <= XIDS_WINDOW_S]
    return len(recent) >= XIDS_MAX


def _services_hit(turn: Turn, uuid: str) -> frozenset[str]:
    """Services whose own errors have become so many that they may not be their own; else none."""
    recent = [
        one
        for one in turn.fleet.xids[uuid]
        if one.kind == "application" and turn.now - one.at <= XIDS_WINDOW_S and len(one.workers) == 1
    ]
    services = frozenset(worker.service for one in recent for worker in one.workers)
    return services if len(recent) >= XIDS_MAX and len(services) > 1 else frozenset()


def _hit(fleet: Fleet, event: DeviceEventTold) -> tuple[WorkerId, ...]:
    """Of ours who may be meant: all on the device, or on the instance."""
    if event.instance is None or fleet.inventory is None:
        return workers_on(fleet, event.uuid)
    named = [one for one in fleet.inventory.devices if (one.parent, one.instance) == (event.uuid, event.instance)]
    return tuple(sorted({worker for one in named for worker in fleet.occupied.get(one.uuid, ())}))


def _is_echo(turn: Turn, uuid: str) -> bool:
    """Whether we have just ended a process there, or are about to."""
    going = {State.STOPPING, State.KILLING, State.RELEASING}
    if any(turn.workers[one].state in going for one in workers_on(turn.fleet, uuid)):
        return True
    ended = [turn.fleet.ended_at.get(part) for part in parts_of(turn.fleet, uuid)]
    return any(at is not None and turn.now - at <= ECHO_S for at in ended)


def note_ends(turn: Turn) -> None:
    """What we end in this turn, and what has ended that we were ending."""
    ended = {action.worker for action in turn.actions if isinstance(action, Signal | KillTree)}
    ended |= {one for one in turn.touched if _was_ended(turn, one)}
    uuids = {share.uuid for one in ended if one in turn.workers for share in turn.workers[one].occupied}
    uuids |= {share.uuid for one in ended if one in turn.before.workers for share in turn.before.workers[one].occupied}
    if uuids:
        turn.set(ended_at={**turn.fleet.ended_at, **dict.fromkeys(sorted(uuids), turn.now)})


def _was_ended(turn: Turn, worker: WorkerId) -> bool:
    before, after = turn.before.workers.get(worker), turn.workers.get(worker)
    going = {State.STOPPING, State.KILLING}
    return before is not None and before.state in going and (after is None or after.pid != before.pid)


# ---- who has died of it ---------------------------------------------------------------------------------------------


def explain_exit(turn: Turn, worker: Worker, event: Exited) -> Exited:
    """What the driver has just told of the devices of one whose process has ended."""
    if not worker.occupied or worker.cause is not None:
        return event
    faults, own = [], []
    for uuid in dict.fromkeys(_gpus(turn.fleet, worker)):
        ailment = turn.fleet.ailments.get(uuid, WELL)
        device = device_of(turn.fleet, uuid)
        if is_sick(ailment) and not ailment.is_held:
            faults.append(f"{name_of(device) if device else uuid} is {ailment.health}: {ailment.reason}")
        for seen in turn.fleet.xids.get(uuid, ()):
            if turn.now - seen.at > BLAME_S or seen.workers != (worker.id,):
                continue
            words = f"{xids.words(seen.number)} on {name_of(device) if device else uuid}"
            if seen.kind == "contained":
                faults.append(words)
            elif seen.kind == "application" and seen.number not in xids.ECHOES:
                own.append(words)
    if event.out_of_memory:
        faults = []  # The kernel says what it ended this very process for; its device may be sick beside that.
    return replace(event, device_fault="; ".join(faults), xids="; ".join(dict.fromkeys(own)))


def _gpus(fleet: Fleet, worker: Worker) -> Iterator[str]:
    """Its devices, of instances their GPUs too."""
    known = fleet.inventory.by_uuid if fleet.inventory else {}
    for share in worker.occupied:
        yield share.uuid
        if share.uuid in known and (parent := known[share.uuid].parent) is not None:
            yield parent


def note_death(turn: Turn, before: Worker) -> None:
    """A process has ended: several services that die on one device speak against that."""
    found = deaths.note(turn.fleet, before, turn.workers.get(before.id), turn.now)
    if found is None:
        return
    turn.set(deaths=found)
    for share in before.occupied:
        if services := deaths.suspicious(found, share.uuid):
            tell(turn, share.uuid, Doubted(f"several services die there and nowhere else: {', '.join(services)}"))
