"""What the driver's answers mean for the fleet: the inventory in force, whether it is trusted, when to ask again."""

from __future__ import annotations

import re
from collections.abc import Mapping

from supervisor.core import fabric, farewell, wards, witnesses
from supervisor.core.inventory import Device, GpuState, Inventory, Reading
from supervisor.core.ledger import foreign_bytes
from supervisor.core.message import InventoryRead, ReadInventory, Say
from supervisor.core.slices import Supply
from supervisor.core.turn import DaemonState, Fleet, Gpu, Turn
from supervisor.errors import CannotError

RETRY_S = 5.0
RETRY_MAX_S = 60.0
"""A driver in trouble is asked again after 5 s, doubling to a minute: every asking may leave a stuck process behind."""

LOOK_S = 60.0
"""Where all is well the driver is asked so often how the devices are, as gpud and DCGM ask it."""

MISMATCH = "held: the driver's library does not fit the loaded kernel module, so nothing new can use a GPU"
"""Of everybody who waits then, whatever else there is to say of the driver."""

MOMENT_S = 60.0
"""A device that did not answer, and has not said that it is broken, is asked again soon for so long."""

BOOT_RETRY_S = 1.0
"""While the module is still being loaded, within `daemon.gpu_wait`."""


def take_reading(turn: Turn, event: InventoryRead) -> None:
    """Take what the driver answered; nobody's living process is touched by it."""
    before = turn.fleet
    witnesses.take_openers(turn, event)
    if before.asked is None or event.asked_at >= before.asked:
        turn.set(asked=None)
    turn.has_read = event.reading.state is GpuState.OK
    if turn.has_read:
        turn.set(read_at=turn.now)
    _note_state(turn, event.reading)
    inventory, trusted = _judge(turn.fleet, event, turn.now)
    turn.set(inventory=inventory, trusted=trusted, failures=_failures(before, event.reading, trusted=trusted))
    wards.take_reading(turn, event, before.inventory)
    farewell.take_reading(turn, event)
    if turn.has_read:
        fabric.take_reading(turn)
    inventory = turn.fleet.inventory
    if inventory is not None and before.pool is None and before.pool_tokens is not None and inventory.devices:
        turn.set(pool=resolve_pool(before.pool_tokens, inventory.devices))
    if _identities(before.inventory) != _identities(inventory) or trusted != before.trusted:
        turn.stale = True
    is_reason_old = before.unplaced and turn.fleet.gpu != before.gpu
    turn.stale |= bool(is_reason_old) or _is_crowded_anew(before, inventory)
    if before.state is DaemonState.STARTING:
        turn.set(state=DaemonState.RUNNING)
    if before.ask_again:
        turn.set(ask_again=False)
        turn.do(ReadInventory())
    schedule_retry(turn)
    witnesses.take_reading(turn)


def _is_crowded_anew(before: Fleet, inventory: Inventory | None) -> bool:
    """Whether strangers have taken more or less where somebody waits, who may have a better place now."""
    return bool(before.waiting) and _crowds(before.inventory) != _crowds(inventory)


def _crowds(inventory: Inventory | None) -> dict[str, int]:
    """What strangers have of each device."""
    if inventory is None:
        return {}
    return {inventory.devices[at].uuid: used for at, used in foreign_bytes(inventory.devices).items()}


def make_supply(fleet: Fleet) -> Supply:
    """What there is to hand out: the pool, in the pool's order."""
    if fleet.inventory is None:
        return Supply(detail=_words(fleet.gpu) or Supply().detail)
    devices, links = fleet.inventory.devices, fleet.inventory.links
    if fleet.pool is None:
        return Supply(devices, fleet.trusted, _words(fleet.gpu), elsewhere=fleet.elsewhere, links=links)
    inside = _in_pool(fleet.pool, devices)
    outside = tuple(device for device in devices if device.uuid not in inside)
    detail = _words(fleet.gpu) or ("" if inside else "CUDA_VISIBLE_DEVICES of the daemon leaves no GPU")
    return Supply(tuple(inside.values()), fleet.trusted, detail, outside, fleet.elsewhere, links)


def _words(gpu: Gpu) -> str:
    return MISMATCH if gpu.state is GpuState.MISMATCH else gpu.detail


# ---- the pool -------------------------------------------------------------------------------------------------------

_SLURM_NONE = "NoDevFiles"  # What Slurm gives to a job without a GPU.
_OLD_MIG_NAME = re.compile(r"MIG-(GPU-[^/]+)/(\d+)/(\d+)")  # By its GPU and its numbers, before driver 470.


def parse_pool(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """
    The daemon's own `CUDA_VISIBLE_DEVICES`, as CUDA reads it: the first entry that means nothing ends the list.

    Returns:
        None when it is not set, else its entries. Entries that are integers are positions in CUDA's order.

    Raises:
        CannotError: An entry is of no kind that CUDA knows.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    entries: list[str] = []
    for raw in value.split(","):
        entry = raw.strip()
        if entry.startswith(("GPU-", "MIG-")) or entry.isdecimal():
            entries.append(entry)
            continue
        if entry and entry != _SLURM_NONE and not entry.lstrip("-").isdecimal():
            raise _refused_pool(value, f'"{entry}" is neither an index nor a UUID')
        break
    if len({entry.isdecimal() for entry in entries}) > 1:
        raise _refused_pool(value, "it mixes indices and UUIDs")
    return tuple(entries)


def resolve_pool(entries: tuple[str, ...], devices: tuple[Device, ...]) -> tuple[str, ...]:
    """
    UUIDs of a pool, in its order.

    Args:
        entries: UUIDs, starts of UUIDs, or indices in PCI order; or UUIDs as CUDA tells them, without their kind.
        devices: Of a good reading.
    """
    uuids: list[str] = []
    for entry in entries:
        found = [_uuid_by(entry, device) for device in devices if _is_named(device, entry)]
        if len(found) != 1:
            break
        uuids += found
    # CUDA shows no device at all when one is named twice.
    return () if len(set(uuids)) < len(uuids) else tuple(uuids)


def _is_named(device: Device, entry: str) -> bool:
    if entry.isdecimal():
        return device.parent is None and device.index == int(entry)
    if (old := _OLD_MIG_NAME.fullmatch(entry)) and device.instance is not None:
        gi, ci = device.instance
        return entry == device.uuid or (device.parent, str(gi), str(ci)) == old.groups()
    if entry.startswith(("GPU-", "MIG-")):
        return device.uuid.startswith(entry)
    return device.uuid.partition("-")[2] == entry


def _uuid_by(entry: str, device: Device) -> str:
    """A position names a GPU, though CUDA shows only the first instance of one that is cut up."""
    return device.uuid if entry.startswith(("GPU-", "MIG-")) or device.parent is None else device.parent


def _in_pool(pool: tuple[str, ...], devices: tuple[Device, ...]) -> dict[str, Device]:
    """The devices of a pool by UUID, in its order: whoever has a GPU has its MIG instances, those of later too."""
    within: dict[str, list[Device]] = {}
    for device in devices:
        within.setdefault(device.uuid, []).append(device)
        if device.parent is not None:
            within.setdefault(device.parent, []).append(device)
    return {device.uuid: device for uuid in pool for device in within.get(uuid, ())}


def needs_cuda_order(environ: Mapping[str, str], entries: tuple[str, ...] | None) -> bool:
    """Whether the entries are positions in an order that only CUDA itself knows."""
    by_position = entries is not None and any(entry.isdecimal() for entry in entries)
    return by_position and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"


def _refused_pool(value: str, cause: str) -> CannotError:
    return CannotError(
        f"use CUDA_VISIBLE_DEVICES={value} as the pool",
        cause,
        hint="give UUIDs as nvidia-smi -L shows them; `gpu-supervisor run --pool all` ignores it",
        exit_code=78,
    )


# ---- the driver -----------------------------------------------------------------------------------------------------


def _note_state(turn: Turn, reading: Reading) -> None:
    old = turn.fleet.gpu
    if (old.state, old.detail) == (reading.state, reading.detail):
        return
    since = old.since if old.state is reading.state else turn.now
    turn.set(gpu=Gpu(reading.state, reading.detail, since))
    fields: dict[str, object] = {"state": str(reading.state), "devices": len(reading.devices)}
    if reading.detail:
        fields["detail"] = reading.detail
    is_expected = reading.state in {GpuState.OK, GpuState.ABSENT}
    turn.do(Say("inventory.read" if is_expected else "inventory.failed", fields, is_warning=not is_expected))


def _judge(fleet: Fleet, event: InventoryRead, now: float) -> tuple[Inventory | None, bool]:
    """The inventory in force after a reading, and whether it is the driver's word."""
    reading = event.reading
    if reading.state is GpuState.OK:
        return Inventory(reading.devices, event.asked_at, reading.links), True
    had_devices = fleet.inventory is not None and bool(fleet.inventory.devices)
    if had_devices or not _is_known_absence(fleet, reading, now):
        return fleet.inventory, False
    return Inventory((), event.asked_at), True


def _is_known_absence(fleet: Fleet, reading: Reading, now: float) -> bool:
    """No library, or a module that is still not loaded after `daemon.gpu_wait`, is a machine without GPUs."""
    if reading.state is GpuState.ABSENT:
        return True
    return reading.state is GpuState.NOT_LOADED and now >= fleet.started_at + _gpu_wait_s(fleet)


def _gpu_wait_s(fleet: Fleet) -> float:
    return fleet.spec.daemon.gpu_wait if fleet.spec else 30.0


def _failures(fleet: Fleet, reading: Reading, *, trusted: bool) -> int:
    """A library that was there and is not any more is trouble too."""
    is_known = reading.state is GpuState.OK or (reading.state is GpuState.ABSENT and trusted)
    return 0 if is_known else fleet.failures + 1


def schedule_retry(turn: Turn) -> None:
    """Ask a driver in trouble again, while somebody in the file wants a GPU."""
    fleet = turn.fleet
    if fleet.state is DaemonState.STOPPING:
        return
    if not fleet.failures or not fleet.wants_gpu:
        has_any = fleet.wants_gpu and fleet.inventory is not None and (fleet.inventory.devices or fleet.missing)
        every_s = witnesses.DIRTY_LOOK_S if fleet.dirty else LOOK_S if has_any else None
        if every_s is not None and wards.is_unsettled(fleet, turn.now - MOMENT_S):
            every_s = min(every_s, RETRY_S)
        turn.set(look_at=None if every_s is None else turn.now + fabric.look_s(fleet, turn.now, every_s))
        return
    delay = min(RETRY_MAX_S, RETRY_S * 2 ** min(fleet.failures - 1, 8))
    boot_over = fleet.started_at + _gpu_wait_s(fleet)
    if fleet.gpu.state is GpuState.NOT_LOADED and turn.now < boot_over:
        delay = min(BOOT_RETRY_S, boot_over - turn.now)
    turn.set(look_at=turn.now + delay)


def _identities(inventory: Inventory | None) -> object:
    if inventory is None:
        return None
    return tuple((device.uuid, device.index, device.health, device.is_cut) for device in inventory.devices)
