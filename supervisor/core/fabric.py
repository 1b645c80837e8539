"""
Machines with NVSwitches: until a GPU has joined their fabric CUDA does not start there (error 802, system not ready).

Fabric Manager does that at boot, and anew after it was restarted. Who starts before it fails, again and again; so
starts on such a device wait. Who lives there goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.inventory import Device, Health, name_of
from supervisor.core.message import Say
from supervisor.core.slices import Launch
from supervisor.core.turn import Fleet, Turn, Unready

STATES: Mapping[int, str] = {1: "not begun", 2: "under way"}
"""As NVML numbers them; 3 is done."""

LOOK_MIN_S = 5.0
"""So soon it is looked at again, then after as long as has been waited for, up to the usual minute."""


def take_reading(turn: Turn) -> None:
    """Which devices have not joined, and which have by now."""
    fleet = turn.fleet
    devices = fleet.inventory.devices if fleet.inventory else ()
    joining = {one.uuid: one for one in devices if _is_joining(one)}
    excused = fleet.excused & joining.keys()
    unready = {
        uuid: Unready(fleet.unready[uuid].since if uuid in fleet.unready else turn.now, STATES[one.vitals.fabric or 1])
        for uuid, one in joining.items()
        if uuid not in excused
    }
    if excused != fleet.excused:
        turn.set(excused=excused)
    if unready != fleet.unready:
        _set(turn, unready)


def excuse(turn: Turn, uuid: str) -> None:
    """An operator knows better: nobody waits for it, until it has been ready once more."""
    if uuid in turn.fleet.unready:
        turn.set(excused=turn.fleet.excused | {uuid})
        _set(turn, {one: it for one, it in turn.fleet.unready.items() if one != uuid})


def _is_joining(device: Device) -> bool:
    # MIG has no use for the links: instances are not kept waiting for them.
    is_whole = device.parent is None and not device.is_cut
    return device.vitals.is_joining and is_whole and device.health is not Health.LOST


def _set(turn: Turn, unready: Mapping[str, Unready]) -> None:
    before = turn.fleet.unready
    turn.set(unready=unready)
    if before.keys() == unready.keys():
        return
    turn.stale = True
    known = turn.fleet.inventory.by_uuid if turn.fleet.inventory else {}
    for uuid in sorted(before.keys() ^ unready.keys()):
        if (device := known.get(uuid)) is None:
            continue
        fields: dict[str, object] = {"device": uuid, "name": name_of(device)}
        if uuid in unready:
            turn.do(Say("device.held", {**fields, "reason": reason_of(unready[uuid])}, is_warning=True))
        elif device.is_usable:
            held_s = round(turn.now - before[uuid].since, 1)
            turn.do(Say("device.ok", {**fields, "before": Health.HELD, "held_for_s": held_s}))


def reason_of(one: Unready) -> str:
    """Why nobody starts there."""
    return f"it has not joined the NVSwitch fabric ({one.state}), without which CUDA does not start"


def wait_of(fleet: Fleet, launch: Launch) -> str | None:
    """What a start on these devices waits for; None for nothing."""
    found = [share.uuid for share in launch.slice if share.uuid in fleet.unready]
    if not found:
        return None
    known = fleet.inventory.by_uuid if fleet.inventory else {}
    name = name_of(known[found[0]]) if found[0] in known else found[0]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"held: {name}{more}: {reason_of(fleet.unready[found[0]])}"


def look_s(fleet: Fleet, now: float, usual_s: float) -> float:
    """When to look again."""
    if not fleet.unready:
        return usual_s
    waited_s = now - max(one.since for one in fleet.unready.values())
    return min(usual_s, max(LOOK_MIN_S, waited_s))
