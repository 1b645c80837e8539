"""
GPUs that are gone for good: nothing is remembered of one that nobody shows any more and an operator has released.

Without that word one that is away is waited for, and told of: nobody is to overlook that a GPU has gone. Of one that
went while no daemon looked, or with a start of the machine, the look at the end of its quarantine is as good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from supervisor.core.evolve import evolve
from supervisor.core.inventory import Device, GpuState, Health, Reading, name_of
from supervisor.core.message import InventoryRead, Say
from supervisor.core.turn import Turn
from supervisor.core.wards import device_of, workers_on

Value = TypeVar("Value")

STILL_THERE = "; released, it is forgotten when the kernel's driver does not list it any more"


def take_reading(turn: Turn, event: InventoryRead) -> None:
    """Whoever is not in a good reading that was asked for since may be forgotten."""
    if event.reading.state is not GpuState.OK or turn.fleet.inventory is None:
        return
    there = turn.fleet.inventory.by_uuid
    if back := turn.fleet.parting.keys() & there.keys():
        turn.set(parting=_without(turn.fleet.parting, *back))
    for uuid, at in sorted(turn.fleet.parting.items()):
        if event.asked_at >= at and not workers_on(turn.fleet, uuid):
            _part(turn, uuid, event.reading)
    for uuid, ailment in sorted(turn.fleet.ailments.items()):
        is_unknown = device_of(turn.fleet, uuid) is None
        if is_unknown and ailment.health is Health.PROBING and event.asked_at >= ailment.since:
            _forget(turn, uuid)


def _part(turn: Turn, uuid: str, reading: Reading) -> None:
    device = turn.fleet.missing.get(uuid)
    ailment = turn.fleet.ailments.get(uuid)
    if device is None or ailment is None or is_gone(device, reading):
        _forget(turn, uuid)
    elif not ailment.reason.endswith(STILL_THERE):
        turn.set(ailments={**turn.fleet.ailments, uuid: evolve(ailment, reason=ailment.reason + STILL_THERE)})


def is_gone(device: Device, reading: Reading) -> bool:
    """Whether nothing shows a device that is not in a reading; where the kernel tells nothing NVML's word is all."""
    if reading.kernel is not None and device.pci:
        return device.pci not in reading.kernel
    return not any(part.startswith(f"device {device.index}: ") for part in reading.detail.split("; "))


def _forget(turn: Turn, uuid: str) -> None:
    device = device_of(turn.fleet, uuid)
    name = name_of(device) if device else uuid
    turn.do(Say("device.forgotten", {"device": uuid, "name": name}, is_warning=False))
    fleet = turn.fleet
    turn.set(
        parting=_without(fleet.parting, uuid),
        missing=_without(fleet.missing, uuid),
        ailments=_without(fleet.ailments, uuid),
        watches=_without(fleet.watches, uuid),
        uncorrected=_without(fleet.uncorrected, uuid),
        xids=_without(fleet.xids, uuid),
        ended_at=_without(fleet.ended_at, uuid),
        dirty=_without(fleet.dirty, uuid),
    )


def _without(known: Mapping[str, Value], *uuids: str) -> Mapping[str, Value]:
    return {one: value for one, value in known.items() if one not in uuids}
