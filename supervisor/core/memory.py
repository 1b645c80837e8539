"""
Memory: what a device or the host has left for one more worker, and who has the rest, in words.

Two ledgers for each: what is declared, and what a reading shows. Whichever leaves less counts. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from supervisor.core.file.quantities import MIB
from supervisor.core.inventory import Device, Holder, name_of
from supervisor.core.message import State
from supervisor.core.slices import FREE_PERCENT, WHOLE, Placement, declared_bytes, headroom_bytes
from supervisor.core.spec import WorkerId, amount_bytes
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker

NAMED_MAX = 4
"""Holders that a reason names; the rest is a number."""

Workers = Mapping[WorkerId, Worker]


def shortage(fleet: Fleet, workers: Workers, worker: Worker, uuid: str, books: HostBooks | None = None) -> str | None:
    """
    Why a worker does not fit into the memory of a device, with the numbers and with who has it.

    Args:
        fleet: Whose newest reading counts.
        workers: As they are now.
        worker: That has been placed there.
        uuid: Of the device.
        books: Those of the host's memory, where several are asked about in one turn.

    Returns:
        None when it fits, when there is no rule for it, and when the device does not tell its memory.
    """
    placement = worker.held or worker.target
    device = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    if placement is None or device is None:
        return None
    if placement.wanted.request.gpu_memory is not None:
        return _declared_shortage(fleet, workers, worker.id, placement, device, books=books or HostBooks())
    return _crowded(worker, device) if has_whole_devices(placement) else None


def has_whole_devices(placement: Placement) -> bool:
    """Whether a worker has its devices for itself."""
    devices = placement.launch.slice if placement.launch else ()
    return bool(devices) and all(share.millis == WHOLE for share in devices)


def is_overdeclared(fleet: Fleet, workers: Workers, worker: Worker, uuid: str) -> bool:
    """Whether what others have declared on a device leaves too little for a worker, whatever the driver says."""
    placement = worker.held or worker.target
    device = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    total = device.memory_total_bytes if device else None
    if placement is None or total is None or placement.wanted.request.gpu_memory is None:
        return False
    need = amount_bytes(placement.wanted.request.gpu_memory, total)
    declared = sum(_declared(one, total) for one in _others(fleet, workers, worker.id, uuid))
    return total - declared - _headroom_bytes(fleet, total) < need


def _headroom_bytes(fleet: Fleet, total: int) -> int:
    """What is left free on a device under the file in force."""
    return headroom_bytes(fleet.spec.daemon.headroom if fleet.spec else None, total)


# ---- a device -------------------------------------------------------------------------------------------------------


def _declared_shortage(
    fleet: Fleet,
    workers: Workers,
    worker: WorkerId,
    placement: Placement,
    device: Device,
    *,
    books: HostBooks,
    by_books: bool = True,
) -> str | None:
    total, free = device.memory_total_bytes, device.memory_free_bytes
    amount = placement.wanted.request.gpu_memory
    if total is None or free is None or amount is None:
        return None
    need, headroom = amount_bytes(amount, total), _headroom_bytes(fleet, total)
    others = _others(fleet, workers, worker, device.uuid)
    declared = sum(_declared(one, total) for one in others) if by_books else 0
    untaken = _untaken_bytes(fleet, device, total, free, others)
    if device.is_unified:  # One memory, one budget.
        of_host = books.of_others(fleet, workers, worker)
        declared += of_host.declared if by_books else 0
        untaken += of_host.untaken
    if min(total - declared, free - untaken) - headroom >= need:
        return None
    text = f"needs {need // MIB} MiB on {name_of(device)} beside a headroom of {headroom // MIB} MiB"
    whose = " of the host's memory, which it shares," if device.is_unified else ""
    if total - declared < free - untaken:
        names = f" by {_names(one.id for one in others)}" if others else ""
        return f"{text}, {declared // MIB} of {total // MIB} MiB{whose} are declared{names}"
    text += f", {free // MIB} of {total // MIB} MiB{whose} are free"
    if untaken > 0:
        text += f", {untaken // MIB} MiB of that are declared and not yet taken"
    foreign = [holder for holder in device.holders or () if not holder.worker]
    return f"{text}; held by {holders_in_words(foreign, worker)}" if foreign else text


def _crowded(worker: Worker, device: Device) -> str | None:
    """Why a worker that declares nothing cannot have a device for itself: too much of it is somebody's."""
    total, free = device.memory_total_bytes, device.memory_free_bytes
    if total is None or free is None:
        return None
    if device.is_unified:
        # What the host's own processes have says nothing about the GPU: those count that hold memory of it.
        free = total - sum(holder.used_bytes or 0 for holder in device.holders or ())
    if 100 * free >= FREE_PERCENT * total:
        return None
    text = f"{name_of(device)} is not free, {free // MIB} of {total // MIB} MiB are; needs {FREE_PERCENT} %"
    if device.holders:
        return f"{text}; held by {holders_in_words(device.holders, worker.id)}"
    return f"{text}; " + ("who holds it is not told" if device.holders is None else "nobody is listed as holding it")


def fits_again(fleet: Fleet, workers: Workers, worker: Worker, device: Device) -> bool | None:
    """
    Whether what a dead worker had declared is free, or all that it needs of a device for itself.

    What the books say is the next start's business. None where the device tells no memory, and for a part of a device
    that declares nothing.
    """
    assert worker.held is not None
    if device.memory_total_bytes is None or device.memory_free_bytes is None:
        return None
    if worker.held.wanted.request.gpu_memory is not None:
        books = HostBooks()
        return _declared_shortage(fleet, workers, worker.id, worker.held, device, books=books, by_books=False) is None
    return _crowded(worker, device) is None if has_whole_devices(worker.held) else None


def untaken_bytes(fleet: Fleet, workers: Workers, worker: WorkerId | None, device: Device) -> int:
    """What others than a worker have declared on a device and will still take."""
    total, free = device.memory_total_bytes, device.memory_free_bytes
    if total is None or free is None:
        return 0
    return _untaken_bytes(fleet, device, total, free, _others(fleet, workers, worker, device.uuid))


def _others(fleet: Fleet, workers: Workers, worker: WorkerId | None, uuid: str) -> list[Worker]:
    """Who else occupies a device."""
    return [workers[other] for other in fleet.occupied.get(uuid, {}) if other != worker]


def _declared(worker: Worker, total: int) -> int:
    return declared_bytes(worker.held, total) if worker.held else 0


def _untaken_bytes(fleet: Fleet, device: Device, total: int, free: int, others: Iterable[Worker]) -> int:
    """
    What others have declared on a device and will still take.

    Where nobody tells who has how much, a worker that starts has taken nothing, and one that has been ready all.
    """
    shown = _shown(device)
    untaken = unlisted = 0
    for other in others:
        declared = _declared(other, total)
        if not declared or other.state is State.RELEASING:
            continue  # The dead take nothing more.
        taken = shown.get(str(other.id)) if shown is not None else None
        if taken is not None:
            untaken += max(0, declared - taken)
        elif not other.was_ready:
            untaken += declared
        elif shown is not None and str(other.id) not in shown:
            unlisted += declared
    # In a container the list has pids of another world: memory that nobody known has is then that of the unlisted.
    holders = device.holders or ()
    strays = [one for one in holders if not one.worker and not one.name]
    if device.is_unified and all(one.used_bytes is not None for one in strays):
        # The host's own processes have the rest, and are on no list.
        return untaken + max(0, unlisted - sum(one.used_bytes or 0 for one in strays))
    known = sum(one.used_bytes or 0 for one in holders if one.worker or one.name) + _dirt_bytes(fleet, device)
    return untaken + max(0, unlisted - max(0, total - free - known - _headroom_bytes(fleet, total)))


def _dirt_bytes(fleet: Fleet, device: Device) -> int:
    """What a dead process had by the list, which shows it no more, and has not given back."""
    dirt = fleet.dirty.get(device.uuid)
    if dirt is None or any(one.worker == str(dirt.worker) for one in device.holders or ()):
        return 0
    return dirt.sight.had or 0


def _shown(device: Device) -> dict[str, int | None] | None:
    """Worker -> bytes that the driver shows for it, None where it does not tell; None without a list."""
    if device.holders is None:
        return None
    shown: dict[str, int | None] = {}
    for holder in device.holders:
        if holder.worker:
            before = shown.get(holder.worker, 0)
            known = holder.used_bytes is not None and before is not None
            shown[holder.worker] = (before or 0) + (holder.used_bytes or 0) if known else None
    return shown


# ---- the host -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostSums:
    """Bytes that are declared of the host's memory, and those of them that nobody has taken yet, for all we know."""

    declared: int = 0
    untaken: int = 0


class HostBooks:
    """
    What is declared of the host's memory, summed up once for all who wait for it in one turn.

    Each start puts itself into the books by `add`. Whoever else comes or goes makes them be summed up anew.
    """

    def __init__(self) -> None:
        self._hosted: Mapping[WorkerId, int] | None = None
        self._sums = HostSums()

    def of_others(self, fleet: Fleet, workers: Workers, worker: WorkerId) -> HostSums:
        """The sums without one worker."""
        if self._hosted is not fleet.hosted:  # Replaced where anything in it changes.
            self._hosted = fleet.hosted
            self._sums = HostSums(
                sum(fleet.hosted.values()), sum(_untaken_of_host(fleet.hosted, workers[one]) for one in fleet.hosted)
            )
        untaken = _untaken_of_host(fleet.hosted, workers[worker]) if worker in workers else 0
        return HostSums(self._sums.declared - fleet.hosted.get(worker, 0), self._sums.untaken - untaken)

    def add(self, before: Mapping[WorkerId, int], after: Mapping[WorkerId, int], worker: Worker) -> None:
        """A worker has been let start, and nothing else has changed between the two."""
        if self._hosted is before and worker.id not in before:
            self._hosted = after
            self._sums = HostSums(
                self._sums.declared + after.get(worker.id, 0), self._sums.untaken + _untaken_of_host(after, worker)
            )


def host_shortage(fleet: Fleet, workers: Workers, worker: Worker, books: HostBooks) -> str | None:
    """
    Why a worker does not fit into the host's memory, with the numbers; swap does not count.

    Args:
        fleet: Whose newest reading counts.
        workers: As they are now.
        worker: That has been placed.
        books: Of the turn in which it is asked.

    Returns:
        None when it fits, and when it declares none.
    """
    placement = worker.held or worker.target
    memory = placement.wanted.recipe.memory if placement else None
    host = fleet.host_memory
    if placement is None or memory is None or host is None:
        return None
    if (never := hopeless(fleet, placement)) is not None:
        return never
    of_others, of_gpus = books.of_others(fleet, workers, worker.id), _promised(fleet, workers, worker.id)
    declared, untaken = of_others.declared + of_gpus.declared, of_others.untaken + of_gpus.untaken
    if min(host.total_bytes - declared, host.available_bytes - untaken) >= memory:
        return None
    text = f"needs {memory // MIB} MiB of the host's memory"
    if host.total_bytes - declared < host.available_bytes - untaken:
        return f"{text}, {declared // MIB} of {host.total_bytes // MIB} MiB are declared by other workers"
    text += f", {host.available_bytes // MIB} of {host.total_bytes // MIB} MiB are available"
    return text + (f", {untaken // MIB} MiB of that are declared and not yet taken" if untaken else "")


def _promised(fleet: Fleet, workers: Workers, worker: WorkerId) -> HostSums:
    """What others have declared of devices whose memory is the host's."""
    declared = untaken = 0
    for device in fleet.inventory.devices if fleet.inventory else ():
        total, free = device.memory_total_bytes, device.memory_free_bytes
        if not device.is_unified or total is None or free is None:
            continue
        others = _others(fleet, workers, worker, device.uuid)
        declared += sum(_declared(one, total) for one in others)
        untaken += _untaken_bytes(fleet, device, total, free, others)
    return HostSums(declared, untaken)


def hopeless(fleet: Fleet, placement: Placement) -> str | None:
    """Why a worker will never have the host's memory that it declares, None if it may."""
    memory, host = placement.wanted.recipe.memory, fleet.host_memory
    if memory is None or host is None or memory <= host.total_bytes:
        return None
    return f"needs {memory // MIB} MiB of the host's memory, there are {host.total_bytes // MIB} MiB in all"


def _untaken_of_host(hosted: Mapping[WorkerId, int], worker: Worker) -> int:
    """What a starting worker has declared of the host's memory: nothing of it is taken yet, for all that is known."""
    is_starting = not worker.was_ready and worker.state is not State.RELEASING
    return hosted.get(worker.id, 0) if is_starting else 0


# ---- words ----------------------------------------------------------------------------------------------------------


def holders_in_words(holders: Iterable[Holder], worker: WorkerId) -> str:
    """Foreign ones first, the largest first; ours by their names."""
    ranked = sorted(holders, key=lambda one: (bool(one.worker), -(one.used_bytes or 0), one.pid))
    shown = ", ".join(_holder_in_words(one, worker) for one in ranked[:NAMED_MAX])
    return shown + (f" and {len(ranked) - NAMED_MAX} more" if len(ranked) > NAMED_MAX else "")


def _holder_in_words(holder: Holder, worker: WorkerId) -> str:
    size = "unknown" if holder.used_bytes is None else f"{holder.used_bytes // MIB} MiB"
    if holder.worker:
        whose = "its own last process" if holder.worker == str(worker) else holder.worker
        return f"{whose} (pid {holder.pid}): {size}"
    known = ", ".join(part for part in (holder.name, holder.user) if part)
    return f"pid {holder.pid}" + (f" ({known})" if known else "") + f": {size}"


def _names(workers: Iterable[WorkerId]) -> str:
    names = [str(one) for one in sorted(workers)]
    return ", ".join(names[:NAMED_MAX]) + (f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else "")
