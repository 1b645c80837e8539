"""
Who has how much of which device while one plan is made: shares, declared memory, and where the next share goes.

Only ever fills up: what does not fit once does not fit later, so each group of like workers forgets such devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from supervisor.core.bitsets import bits
from supervisor.core.inventory import Device
from supervisor.core.slices import WHOLE, Share, Slice, Supply, headroom_bytes
from supervisor.core.spec import Amount, Request, WorkerId, amount_bytes
from supervisor.core.topology import Topology


class Ledger:
    """
    The books of one plan.

    Args:
        supply: What there is.
        devices: Those of it to hand out, in the pool's order; sets are integers with a bit for each.
        reserved: Device UUID -> bytes that are somebody's already.
    """

    def __init__(self, supply: Supply, devices: Sequence[Device], reserved: Mapping[str, int] | None = None) -> None:
        self.devices = devices
        self.position = {device.uuid: number for number, device in enumerate(devices)}
        self.taken = [0] * len(devices)
        self.declared = [0] * len(devices)
        self.rooms = [_room(device, supply.headroom, (reserved or {}).get(device.uuid, 0)) for device in devices]
        self.holders: list[list[WorkerId]] = [[] for _ in devices]
        self.instances = _mask(device.parent is not None for device in devices)
        self.usable = _mask(
            device.is_usable and not device.is_cut and device.uuid not in supply.elsewhere for device in devices
        )
        self.empty = self.usable
        """Usable devices on which nobody is."""
        self.changes: list[int] = []
        """Positions of devices in the order in which somebody was put there."""
        self._beyond: dict[str, int] = {}
        self._links = supply.links
        self._topology: Topology | None = None

    @property
    def topology(self) -> Topology:
        """Made when it is first asked for."""
        if self._topology is None:
            self._topology = Topology(self.devices, self._links)
        return self._topology

    def need(self, memory: Amount | None, position: int) -> int:
        """Bytes that a worker declares on a device."""
        if memory is None or isinstance(memory, int):
            return memory or 0
        return amount_bytes(memory, self.devices[position].memory_total_bytes or 0)

    def has_room(self, memory: Amount | None, position: int) -> bool:
        """Whether declared memory fits beside what is declared there; one that does not tell its memory has room."""
        room = self.rooms[position]
        return memory is None or room is None or self.declared[position] + self.need(memory, position) <= room

    def sized(self, memory: Amount | None) -> int:
        """Devices that would have the memory if nobody were there."""
        if memory is None:
            return (1 << len(self.devices)) - 1
        return _mask(room is None or self.need(memory, at) <= room for at, room in enumerate(self.rooms))

    def fits(self, share: Share, memory: Amount | None) -> bool:
        """Whether a share and its memory fit beside what is there."""
        position = self.position.get(share.uuid)
        if position is None:
            return self._beyond.get(share.uuid, 0) + share.millis <= WHOLE
        return self.taken[position] + share.millis <= WHOLE and self.has_room(memory, position)

    def book(self, worker: WorkerId, devices: Slice, memory: Amount | None) -> None:
        """Put a worker on devices, whether they are to be handed out or it only still lives there."""
        for share in devices:
            position = self.position.get(share.uuid)
            if position is None:
                self._beyond[share.uuid] = self._beyond.get(share.uuid, 0) + share.millis
                continue
            self.taken[position] += share.millis
            if memory is not None:
                self.declared[position] += self.need(memory, position)
            self.holders[position].append(worker)
            self.empty &= ~(1 << position)
            self.changes.append(position)


def foreign_bytes(devices: Sequence[Device]) -> dict[int, int]:
    """Position of each device of which foreign processes have memory, as far as the driver tells -> bytes."""
    found: dict[int, int] = {}
    for position, device in enumerate(devices):
        used = sum(holder.used_bytes or 0 for holder in device.holders or () if not holder.worker)
        if used and not device.is_unified:
            found[position] = used
    return found


def _mask(flags: Iterable[bool]) -> int:
    return sum(1 << number for number, flag in enumerate(flags) if flag)


def _room(device: Device, headroom: Amount | None, reserved: int) -> int | None:
    total = device.memory_total_bytes
    return None if total is None else total - headroom_bytes(headroom, total) - reserved


class Group:
    """
    Workers with one request: the devices that will do for them, and the best one at any moment.

    Args:
        ledger: The books.
        request: What each of them asks for.
        named: Devices that its filter and its kinds let through.
        problem: What is wrong with its filter, else empty.
    """

    def __init__(self, ledger: Ledger, request: Request, named: int, problem: str = "") -> None:
        self.request = request
        self.named = named
        self.problem = problem
        self.eligible = named & ledger.usable & ledger.sized(request.gpu_memory)
        self.refusal = ""
        """Why the last one got nothing: neither will the next, since nothing becomes free within a plan."""
        self._ledger = ledger
        self._heap: list[tuple[int, ...]] | None = None
        self._seen = 0

    def choose(self, before: Sequence[Share]) -> int | None:
        """
        Devices for the next worker.

        Args:
            before: Where it was: it is put there again as far as that is possible.

        Returns:
            Their bits, None if there is no place.
        """
        ledger, gpu = self._ledger, self.request.gpu
        if gpu == "all":
            return self._choose_all()
        stays = sum(1 << at for share in before if (at := ledger.position.get(share.uuid)) is not None) & self.eligible
        if gpu < WHOLE:
            return self._stay(stays, gpu) or self._choose_part(gpu)
        count = gpu // WHOLE
        free = ledger.empty & self.eligible
        if count == 1:
            kept = free & stays
            return (kept & -kept) or self._choose_one(free)
        free &= ~ledger.instances  # A process sees one instance of MIG, and no GPU beside it.
        if free.bit_count() < count:
            return None
        kept = 0
        for position in bits(free & stays):
            if kept.bit_count() < count:
                kept |= 1 << position
        return ledger.topology.choose(count, free, kept, ledger.empty & ~ledger.instances)

    def all_of(self) -> int:
        """What ``all`` means: whole GPUs; where there is none, an instance of MIG."""
        gpus = self.named & ~self._ledger.instances
        return gpus or self.named

    def _choose_all(self) -> int | None:
        every = self.all_of()
        is_one_world = not every & self._ledger.instances or every.bit_count() == 1
        return every if every and is_one_world and not every & ~(self._ledger.empty & self.eligible) else None

    def _stay(self, stays: int, millis: int) -> int:
        for position in bits(stays):
            if self._ledger.taken[position] + millis <= WHOLE and self._fits(position):
                return 1 << position
        return 0

    def _fits(self, position: int) -> bool:
        return self._ledger.has_room(self.request.gpu_memory, position)

    def _choose_one(self, free: int) -> int | None:
        """A whole GPU before an instance of one; of instances the smallest that will do."""
        ledger = self._ledger
        if gpus := free & ~ledger.instances:
            return ledger.topology.choose_one(gpus, ledger.empty & ~ledger.instances)
        if not free:
            return None
        if self.request.gpu_memory is None:
            return free & -free
        return 1 << min(bits(free), key=lambda at: (ledger.devices[at].memory_total_bytes or 0, at))

    # ---- parts of a device ------------------------------------------------------------------------------------------

    def _choose_part(self, millis: int) -> int | None:
        """The fullest device that still has room, so that whole ones stay whole; or the one with fewest on it."""
        heap = self._catch_up(millis)
        while heap:
            *key, position = heap[0]
            if key != self._key(position) or not self._fits(position):
                heappop(heap)
                continue
            return 1 << position
        return self._choose_one(self._ledger.empty & self.eligible)

    def _catch_up(self, millis: int) -> list[tuple[int, ...]]:
        """The heap with all that has happened since. An entry whose key is old has a newer one beside it."""
        ledger = self._ledger
        if self._heap is None:
            among = self.eligible if self.request.spread else self.eligible & ~ledger.empty
            self._heap = [(*self._key(at), at) for at in bits(among) if ledger.taken[at] + millis <= WHOLE]
            heapify(self._heap)
        else:
            for at in ledger.changes[self._seen :]:
                if self.eligible >> at & 1 and ledger.taken[at] + millis <= WHOLE:
                    heappush(self._heap, (*self._key(at), at))
        self._seen = len(ledger.changes)
        return self._heap

    def _key(self, position: int) -> list[int]:
        """What comes first is filled first."""
        ledger = self._ledger
        if self.request.spread:
            is_part = ledger.instances >> position & 1
            return [len(ledger.holders[position]), is_part, ledger.taken[position]]
        return [WHOLE - ledger.taken[position]]
