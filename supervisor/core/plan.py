"""Which worker gets which slice, and why. One pure function over the whole file; touches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from supervisor.core.bitsets import bits
from supervisor.core.ledger import Group, Ledger, foreign_bytes
from supervisor.core.matching import Matching, allowed_devices, file_problem, find_devices
from supervisor.core.refusal import explain
from supervisor.core.slices import FREE_PERCENT, WHOLE, Current, Launch, Placement, Share, Slice, Supply, headroom_bytes
from supervisor.core.spec import Request, WorkerId, WorkerSpec

__all__ = [
    "WHOLE",
    "Current",
    "Launch",
    "Placement",
    "Planner",
    "Share",
    "Slice",
    "Supply",
    "find_devices",
    "headroom_bytes",
    "make_plan",
]


def make_plan(
    wanted: Sequence[WorkerSpec],
    supply: Supply,
    current: Mapping[WorkerId, Current],
    *,
    allowed: tuple[str, ...] | None = None,
) -> dict[WorkerId, Placement]:
    """
    Give every worker of the file a place, or the reason why it has none.

    Those that have a place keep it; then the rest in file order. Who may choose leaves alone, as long as there are
    others, what strangers or the dead have filled and what somebody further down the file names one by one. What cannot
    be placed leaves the others untouched.

    Args:
        wanted: Every worker that is to have a place, in file order.
        supply: Devices to hand out.
        current: What workers have now.
        allowed: The file-wide `gpus` restriction.

    Returns:
        A placement for each of *wanted*, in their order.
    """
    planner = Planner(supply, allowed)
    placed = planner.keep_all(wanted, current)
    rest = [worker for worker in wanted if worker.id not in placed]
    planner.spare(worker.request for worker in rest if worker.request.exact)
    for worker in rest:
        placed[worker.id] = planner.place(worker, current.get(worker.id))
    return {worker.id: placed[worker.id] for worker in wanted}


class Planner:
    """
    One plan in the making.

    Args:
        supply: Devices to hand out.
        allowed: The file-wide `gpus` restriction.
        reserved: Device UUID -> bytes that are somebody's already.
    """

    def __init__(
        self,
        supply: Supply,
        allowed: tuple[str, ...] | None = None,
        reserved: Mapping[str, int] | None = None,
    ) -> None:
        devices = allowed_devices(supply, allowed)
        self.ledger = Ledger(supply, devices, reserved)
        self.supply = supply
        self._matching = Matching(supply, devices)
        self._problem = file_problem(supply, allowed)
        self._groups: dict[Request, Group] = {}
        self._last: Group | None = None
        self._preferred: dict[Request, tuple[Group, ...]] = {}
        self._spared = 0
        self._crowds: dict[Request, int] = {}
        self._foreign = foreign_bytes(devices)
        self._dirty = sum(1 << at for at, device in enumerate(devices) if device.uuid in supply.dirty)
        self._unready = sum(1 << at for at, device in enumerate(devices) if device.uuid in supply.unready)
        self._shares: dict[tuple[int, int], Share] = {}
        # A living worker stays where the last reading showed nothing, or something sick.
        is_seen = {one.uuid for one in supply.devices + supply.outside}
        self._sick = {one.uuid for one in devices if not one.is_usable}
        self._known = is_seen - self._sick

    # ---- who has a place keeps it -----------------------------------------------------------------------------------

    def keep_all(self, wanted: Sequence[WorkerSpec], current: Mapping[WorkerId, Current]) -> dict[WorkerId, Placement]:
        """
        Placements of those that stay where they are.

        First those that live and whose wish is as before: nobody else's new wish is a reason to end them.
        """
        placed: dict[WorkerId, Placement] = {}
        later = []
        for worker in wanted:
            now = current.get(worker.id)
            if worker.request.gpu == 0:
                placed[worker.id] = Placement(worker, Launch(worker.recipe))
            elif now is not None and now.living and now.wanted.request == worker.request:
                self._note(placed, worker, self.keep(worker, now))
            elif now is not None:
                later.append((worker, now))
        for worker, now in later:
            self._note(placed, worker, self.keep(worker, now))
        return placed

    def _note(self, placed: dict[WorkerId, Placement], worker: WorkerSpec, kept: Placement | None) -> None:
        if kept is not None:
            placed[worker.id] = kept

    def keep(self, worker: WorkerSpec, current: Current) -> Placement | None:
        """The placement of a worker that stays where it is, None if it has to be placed."""
        if not current.reserved:
            return None
        if current.fallback:
            # Moving back to a GPU is the operator's word (`restart`), so a plan alone never does it.
            same = (worker.recipe, worker.request) == (current.wanted.recipe, current.wanted.request)
            allowed = current.living or worker.policy.on_no_gpu == "cpu"
            return self._fall_back(worker) if same and allowed else None
        if not self._suits(worker.request, current, is_same=worker.request == current.wanted.request):
            return None
        return self._book(worker, current.slice)

    def _suits(self, request: Request, current: Current, *, is_same: bool) -> bool:
        """Whether what a worker has is still what it asks for, and nobody else's."""
        if not current.slice:
            return False
        lives_on = current.living and is_same
        group, ledger = self.group(request), self.ledger
        for share in current.slice:
            # A living worker with the same wish stays with its memory: another headroom does not end it.
            if not ledger.fits(share, None if lives_on else request.gpu_memory):
                return False
            position = ledger.position.get(share.uuid)
            avoided = self._crowded(request) | self._unready
            if position is not None and not current.living and avoided >> position & 1:
                return False  # It may go elsewhere; where it cannot, it comes back here.
            if position is not None and group.named & ledger.usable & 1 << position:
                continue
            is_mine = is_same and position is not None  # It has another index since a device is gone.
            if not current.living or not (is_mine or share.uuid not in self._known):
                return False
        if request.gpu == "all":
            every = group.named & ledger.usable & ~ledger.instances or group.named & ledger.usable
            uuids = {share.uuid for share in current.slice if share.millis == WHOLE}
            return all(ledger.devices[position].uuid in uuids for position in bits(every))
        return _is_cut_as(current.slice, request.gpu)

    # ---- who has none -----------------------------------------------------------------------------------------------

    def place(self, worker: WorkerSpec, current: Current | None) -> Placement:
        """A place for a worker that has none, preferably where it was."""
        if not self.supply.trusted:
            return Placement(worker, None, reason=self.supply.detail)
        group = self.group(worker.request)
        if not group.refusal:
            chosen = None if group.problem else self._choose(worker.request, current.slice if current else ())
            if chosen:
                millis = WHOLE if worker.request.gpu == "all" else min(worker.request.gpu, WHOLE)
                return self._book(worker, tuple(self._share(position, millis) for position in bits(chosen)))
            group.refusal = group.problem or explain(worker.request, group, self.ledger, self.supply)
            if self._problem and self._problem not in group.refusal:
                group.refusal += self._problem
        return self._refuse(worker, group.refusal)

    def spare(self, requests: Iterable[Request]) -> None:
        """Name the devices of those that cannot go elsewhere: others go there last."""
        for request in requests:
            self._spared |= self._matching.named(request.gpus)[0]

    def _choose(self, request: Request, before: Slice) -> int | None:
        if request.gpu != "all" and not request.exact:
            if request not in self._preferred:
                self._preferred[request] = tuple(self._prefer(request))
            for group in self._preferred[request]:
                if chosen := group.choose(before):
                    return chosen
        return self.group(request).choose(before)

    def _prefer(self, request: Request) -> Iterator[Group]:
        """The same wish on fewer devices, the best of them first."""
        crowded, named = self._crowded(request), self.group(request).named
        late = self._unready
        for avoided in dict.fromkeys((crowded | self._spared | late, crowded | late, late)):
            if avoided & named:
                yield Group(self.ledger, request, named & ~avoided)

    def _crowded(self, request: Request) -> int:
        """Devices where the dead, or foreign processes, leave too little for such a worker to start at this moment."""
        if request in self._crowds or not (self._foreign or self._dirty):
            return self._crowds.get(request, 0)
        mask = self._dirty
        for position, used in self._foreign.items():
            device = self.ledger.devices[position]
            total = device.memory_total_bytes or 0
            if request.gpu_memory is not None:
                need = self.ledger.need(request.gpu_memory, position) + headroom_bytes(self.supply.headroom, total)
                mask |= (need > total - used) << position
            elif request.gpu == "all" or request.gpu >= WHOLE:
                mask |= (100 * (total - used) < FREE_PERCENT * total) << position
        self._crowds[request] = mask
        return mask

    def eligible(self, request: Request) -> int:
        """Devices on which a worker with this request may be placed, whoever is there now."""
        group = self.group(request)
        return 0 if group.problem else group.eligible

    def group(self, request: Request) -> Group:
        """The devices that will do for such a request, and the best of them at this moment."""
        if self._last is not None and self._last.request is request:
            return self._last
        group = self._groups.get(request)
        if group is None:
            named, problem = self._matching.named(request.gpus)
            named &= self._matching.of_kind(request.gpu_type)
            group = self._groups[request] = Group(self.ledger, request, named, problem)
        self._last = group
        return group

    def _share(self, position: int, millis: int) -> Share:
        """Thousands of workers share few of them."""
        share = self._shares.get((position, millis))
        if share is None:
            share = self._shares[position, millis] = Share(self.ledger.devices[position].uuid, millis)
        return share

    def _book(self, worker: WorkerSpec, devices: Slice) -> Placement:
        self.ledger.book(worker.id, devices, worker.request.gpu_memory)
        return Placement(worker, Launch(worker.recipe, devices))

    def _refuse(self, worker: WorkerSpec, reason: str) -> Placement:
        match worker.policy.on_no_gpu:
            case "cpu":
                return self._fall_back(worker, reason)
            case "fail":
                return Placement(worker, None, refused=True, reason=reason)
            case "wait":
                return Placement(worker, None, reason=reason)

    def _fall_back(self, worker: WorkerSpec, reason: str = "") -> Placement:
        return Placement(worker, Launch(worker.recipe), fallback=True, reason=reason)


def _is_cut_as(devices: Slice, gpu: int) -> bool:
    """Whether a slice is a part of one device, or so many whole ones."""
    if gpu < WHOLE:
        return len(devices) == 1 and devices[0].millis == gpu
    return len(devices) * WHOLE == gpu and all(share.millis == WHOLE for share in devices)
