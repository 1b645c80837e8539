"""What the driver's answers mean for the fleet: the inventory in force, whether it is trusted, when to ask again."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.inventory import Device, GpuState, Inventory, Reading
from supervisor.core.message import InventoryRead, ReadInventory, Say, State
from supervisor.core.plan import Supply
from supervisor.core.spec import amount_bytes
from supervisor.core.turn import DaemonState, Fleet, Gpu, Turn
from supervisor.core.worker import MemoryBack, Worker
from supervisor.errors import CannotError

RETRY_S = 5.0
RETRY_MAX_S = 60.0
"""A driver in trouble is asked again after 5 s, doubling to a minute: every asking may leave a stuck process behind."""

BOOT_RETRY_S = 1.0
"""While the module is still being loaded, within `daemon.gpu_wait`."""

MIB = 1024 * 1024


def take_reading(turn: Turn, event: InventoryRead) -> None:
    """Take what the driver answered; nobody's living process is touched by it."""
    before = turn.fleet
    if before.asked is None or event.asked_at >= before.asked:
        turn.set(asked=None)
    _note_state(turn, event.reading)
    inventory, trusted = _judge(turn.fleet, event, turn.now)
    turn.set(inventory=inventory, trusted=trusted, failures=_failures(before, event.reading, trusted=trusted))
    if inventory is not None and before.pool is None and before.pool_tokens is not None and inventory.devices:
        turn.set(pool=resolve_pool(before.pool_tokens, inventory.devices))
    if _identities(before.inventory) != _identities(inventory) or trusted != before.trusted:
        turn.stale = True
    if before.unplaced and turn.fleet.gpu != before.gpu:
        turn.stale = True  # For the reason that they show.
    if before.state is DaemonState.STARTING:
        turn.set(state=DaemonState.RUNNING)
    if before.ask_again:
        turn.set(ask_again=False)
        turn.do(ReadInventory())
    schedule_retry(turn)
    for worker in [one for one in turn.workers.values() if one.state is State.RELEASING]:
        if is_memory_back(turn.fleet, worker):
            turn.tell(worker.id, MemoryBack())


def make_supply(fleet: Fleet) -> Supply:
    """What there is to hand out: the pool, in the pool's order."""
    if fleet.inventory is None:
        return Supply(detail=fleet.gpu.detail or Supply().detail)
    devices = fleet.inventory.devices
    if fleet.pool is None:
        return Supply(devices, fleet.trusted, fleet.gpu.detail, elsewhere=fleet.elsewhere)
    inside = [fleet.inventory.by_uuid[uuid] for uuid in fleet.pool if uuid in fleet.inventory.by_uuid]
    outside = tuple(device for device in devices if device not in inside)
    detail = fleet.gpu.detail or ("" if inside else "CUDA_VISIBLE_DEVICES of the daemon leaves no GPU")
    return Supply(tuple(inside), fleet.trusted, detail, outside, fleet.elsewhere)


def is_memory_back(fleet: Fleet, worker: Worker) -> bool:
    """
    Whether what a worker declared is free again on each of its GPUs, by a reading asked for after its end.

    A device that is gone or tells no memory counts as back: what cannot be known is not waited for.
    """
    inventory = fleet.inventory
    if fleet.gpu.state is not GpuState.OK or inventory is None or inventory.asked_at < worker.since:
        return False
    return all(shortage(fleet, worker, share.uuid) is None for share in worker.occupied)


def shortage(fleet: Fleet, worker: Worker, uuid: str) -> str | None:
    """
    Why a worker's declared memory does not fit into what is free on a device, with the numbers.

    Returns:
        None when it fits, when none is declared, and when the device does not tell its memory.
    """
    placement = worker.held or worker.target
    device = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    if placement is None or placement.wanted.request.gpu_memory is None or device is None:
        return None
    total, free = device.memory_total_bytes, device.memory_free_bytes
    if total is None or free is None:
        return None
    need = amount_bytes(placement.wanted.request.gpu_memory, total)
    headroom = headroom_bytes(fleet, total)
    if free - headroom >= need:
        return None
    return (
        f"needs {need // MIB} MiB on GPU {device.index} beside a headroom of {headroom // MIB} MiB,"
        f" {free // MIB} of {total // MIB} MiB are free"
    )


def headroom_bytes(fleet: Fleet, total: int) -> int:
    """What is left free on every device: `daemon.headroom`, else the larger of 512 MiB and 2 %."""
    given = fleet.spec.daemon.headroom if fleet.spec else None
    return max(512 * MIB, total // 50) if given is None else amount_bytes(given, total)


# ---- the pool -------------------------------------------------------------------------------------------------------


def parse_pool(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """
    The daemon's own `CUDA_VISIBLE_DEVICES`, as CUDA reads it: the first entry that means nothing ends the list.

    Returns:
        None when it is not set, else its entries. Entries that are integers are positions in CUDA's order.

    Raises:
        CannotError: An entry is of a kind that is not supported yet.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    entries: list[str] = []
    for raw in value.split(","):
        entry = raw.strip()
        if entry.startswith("MIG-"):
            raise _refused_pool(value, f"{entry} is a MIG instance, which is not supported yet")
        if entry.startswith("GPU-") or entry.isdecimal():
            entries.append(entry)
            continue
        if entry and not entry.lstrip("-").isdecimal():
            raise _refused_pool(value, f'"{entry}" is neither an index nor a UUID')
        break
    if len({entry.isdecimal() for entry in entries}) > 1:
        raise _refused_pool(value, "it mixes indices and UUIDs")
    return tuple(entries)


def resolve_pool(entries: tuple[str, ...], devices: tuple[Device, ...]) -> tuple[str, ...]:
    """
    UUIDs of a pool, in its order.

    Args:
        entries: UUIDs, starts of UUIDs, or indices in PCI order.
        devices: Of a good reading.
    """
    uuids: list[str] = []
    for entry in entries:
        if entry.isdecimal():
            found = [device.uuid for device in devices if device.index == int(entry)]
        else:
            found = [device.uuid for device in devices if device.uuid.startswith(entry)]
        if len(found) != 1:
            break
        uuids += found
    # CUDA shows no device at all when one is named twice.
    return () if len(set(uuids)) < len(uuids) else tuple(uuids)


def needs_cuda_order(environ: Mapping[str, str], entries: tuple[str, ...] | None) -> bool:
    """Whether the entries are positions in an order that only CUDA itself knows."""
    by_position = entries is not None and any(entry.isdecimal() for entry in entries)
    return by_position and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"


def _refused_pool(value: str, cause: str) -> CannotError:
    return CannotError(
        f"use CUDA_VISIBLE_DEVICES={value} as the pool",
        cause,
        hint="give UUIDs as nvidia-smi -L shows them, or ignore the variable with --pool all",
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
        return Inventory(reading.devices, event.asked_at), True
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
        turn.set(deadline=None)
        return
    delay = min(RETRY_MAX_S, RETRY_S * 2 ** min(fleet.failures - 1, 8))
    boot_over = fleet.started_at + _gpu_wait_s(fleet)
    if fleet.gpu.state is GpuState.NOT_LOADED and turn.now < boot_over:
        delay = min(BOOT_RETRY_S, boot_over - turn.now)
    turn.set(deadline=turn.now + delay)


def _identities(inventory: Inventory | None) -> object:
    if inventory is None:
        return None
    return tuple((device.uuid, device.index, device.health) for device in inventory.devices)
