"""
Which devices this daemon claims machine-wide, so that no other one starts anything there.

Asked for before the first start on a device, let go when nobody of ours is placed there any more. A device that is out
of use is claimed too: others on this machine should not start where we do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.core.gpus import make_supply
from supervisor.core.inventory import Health
from supervisor.core.matching import allowed_devices
from supervisor.core.message import Claim, DevicesClaimed, DevicesFreed, LetGo, Say
from supervisor.core.wards import is_sick, parts_of, terms_of
from supervisor.core.worker import reach

if TYPE_CHECKING:
    from supervisor.core.plan import Launch
    from supervisor.core.turn import Fleet, Turn


def take_answer(turn: Turn, event: DevicesClaimed) -> None:
    """What was asked for is ours, or another daemon's: then those that were meant for it are placed anew."""
    fleet = turn.fleet
    answered = {*event.claimed, *event.held}
    turn.set(
        claimed=fleet.claimed | set(event.claimed),
        claiming=fleet.claiming - answered,
        elsewhere={**{uuid: who for uuid, who in fleet.elsewhere.items() if uuid not in answered}, **event.held},
    )
    turn.has_moved = True  # Nobody may want it any more.
    if event.held:
        turn.stale = True
        turn.do(Say("device.held", {"devices": dict(event.held)}, is_warning=True))


def take_freed(turn: Turn, event: DevicesFreed) -> None:
    """Another daemon has let devices go: those that wait for a place may have one."""
    left = {uuid: who for uuid, who in turn.fleet.elsewhere.items() if uuid not in event.uuids}
    if len(left) < len(turn.fleet.elsewhere):
        turn.set(elsewhere=left)
        turn.stale = True


def are_claimed(turn: Turn, launch: Launch) -> bool:
    """Whether every device of a launch is ours."""
    return all(share.uuid in turn.fleet.claimed for share in launch.slice)


def settle(turn: Turn) -> None:
    """
    Ask for what workers are placed on by now and for what is out of use, and let go the rest.

    Costs nothing where nobody moved and no device is sick.
    """
    if not (turn.has_moved or _is_changed(turn)) or turn.fleet.exiting:
        return
    turn.has_moved = False
    fleet = turn.fleet
    wanted = frozenset(uuid for worker in turn.workers.values() for uuid in reach(worker)) | kept(fleet)
    missing = wanted - fleet.claimed - fleet.claiming - fleet.elsewhere.keys()
    left = fleet.claimed - wanted
    if missing:
        turn.set(claiming=fleet.claiming | missing)
        turn.do(Claim(tuple(sorted(missing))))
    if left:
        turn.set(claimed=fleet.claimed - left)
        turn.do(LetGo(tuple(sorted(left))))


def kept(fleet: Fleet) -> frozenset[str]:
    """Devices that no daemon should start on, and MIG instances of them: those out of use, or being looked at."""
    found: set[str] = set()
    allowed: frozenset[str] | None = None
    for uuid, ailment in fleet.ailments.items():
        parts = parts_of(fleet, uuid)
        is_probed = ailment.health is Health.PROBING
        if ailment.is_held or uuid in fleet.canaries or (is_probed and terms_of(fleet).canary):
            found.update(parts)
        elif is_sick(ailment) or is_probed:
            # What is not in our pool is others' to judge.
            allowed = _allowed(fleet) if allowed is None else allowed
            found.update(part for part in parts if part in allowed or part in fleet.claimed)
    return frozenset(found)


def _allowed(fleet: Fleet) -> frozenset[str]:
    if fleet.spec is None or not fleet.wants_gpu:
        return frozenset()
    return frozenset(one.uuid for one in allowed_devices(make_supply(fleet), fleet.spec.gpus))


def _is_changed(turn: Turn) -> bool:
    """Whether other devices may be out of use than before, or others of these may be had."""
    before, after = turn.before, turn.fleet
    if before.ailments is not after.ailments or before.canaries is not after.canaries:
        return True
    names = ("inventory", "elsewhere", "spec", "pool", "wants_gpu")
    return bool(after.ailments) and any(getattr(before, name) is not getattr(after, name) for name in names)
