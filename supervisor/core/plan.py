"""Which worker gets which slice, and why. One pure function over the whole file; touches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from supervisor.core.inventory import Device, Health
from supervisor.core.spec import Recipe, Request, WorkerId, WorkerSpec, amount_bytes

WHOLE = 1000
"""Shares are integers, in thousandths of a device: sums of floats would refuse the twentieth of twenty 0.05."""


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """A part of one device: *millis* of 1000."""

    uuid: str
    millis: int = WHOLE


Slice = tuple[Share, ...]
"""The GPUs of one worker, in the order in which it sees them. Empty for a worker without a GPU."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a process is a process of. Only another launch means a new process; CONTRACT, Reload."""

    recipe: Recipe
    slice: Slice = ()


@dataclass(frozen=True)
class Placement:
    """
    What the plan has for one worker.

    Args:
        wanted: What the file asks for; its policies may change under a living process.
        launch: What to run, None when there is no place for it.
        fallback: Runs without the GPU it asked for (``on_no_gpu: cpu``).
        refused: Fails for want of a GPU (``on_no_gpu: fail``).
        reason: Why there is no place, with the arithmetic; or why it falls back. Else empty.
    """

    wanted: WorkerSpec
    launch: Launch | None
    fallback: bool = False
    refused: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Current:
    """
    What a worker has now.

    Args:
        wanted: What the file asked for when it was placed.
        slice: Held by its process, reserved for it, or had by it when it last ran.
        living: It has a process, which stays where it is.
        reserved: The plan keeps these devices for it; False for an index that only remembers where it was.
        fallback: It runs, or is about to run, without the GPU it asked for.
    """

    wanted: WorkerSpec
    slice: Slice
    living: bool
    reserved: bool = True
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Supply:
    """
    What there is to hand out.

    Args:
        devices: Of the pool, in the pool's order.
        trusted: Whether a good reading (or a known absence) says so. Without one, nothing new is placed
            and `on_no_gpu` is not asked.
        detail: Why it is not trusted, or why there is nothing.
        outside: Devices of the machine that are not in the pool.
        elsewhere: UUID -> which other daemon has it, in words.
    """

    devices: tuple[Device, ...] = ()
    trusted: bool = False
    detail: str = "the GPUs have not been read yet"
    outside: tuple[Device, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)


def make_plan(
    wanted: Sequence[WorkerSpec],
    supply: Supply,
    current: Mapping[WorkerId, Current],
    *,
    allowed: tuple[str, ...] | None = None,
) -> dict[WorkerId, Placement]:
    """
    Give every worker of the file a place, or the reason why it has none.

    Those that have a place keep it; then the rest in file order, explicit lists first, since they cannot go
    elsewhere. What cannot be placed leaves the others untouched.

    Args:
        wanted: Every worker that is to have a place, in file order.
        supply: Devices to hand out.
        current: What workers have now.
        allowed: The file-wide `gpus` restriction.

    Returns:
        A placement for each of *wanted*, in their order.
    """
    ledger = _Ledger(supply, _allowed(supply, allowed))
    placed: dict[WorkerId, Placement] = {}
    for worker in wanted:
        if (kept := ledger.keep(worker, current.get(worker.id))) is not None:
            placed[worker.id] = kept
    rest = [worker for worker in wanted if worker.id not in placed]
    for worker in sorted(rest, key=lambda one: not one.request.exact):
        placed[worker.id] = ledger.place(worker, current.get(worker.id))
    return {worker.id: placed[worker.id] for worker in wanted}


def find_devices(token: str, devices: Iterable[Device]) -> tuple[Device, ...]:
    """
    Devices that a filter entry names: an index as nvidia-smi shows it, a PCI id, or (the start of) a UUID.

    Returns:
        None, one, or for an ambiguous start of a UUID several.
    """
    if token.isdecimal():
        return tuple(device for device in devices if device.index == int(token))
    if ":" in token:
        return tuple(device for device in devices if device.pci == _sysfs_pci(token))
    return tuple(device for device in devices if device.uuid.startswith(token))


def _sysfs_pci(token: str) -> str:
    """A PCI id as sysfs writes it: the driver writes an 8-digit domain and capitals, people leave the domain out."""
    *domain, bus, device = token.lower().split(":")
    return f"{''.join(domain).lstrip('0').zfill(4)}:{bus}:{device}"


def _allowed(supply: Supply, tokens: tuple[str, ...] | None) -> tuple[Device, ...]:
    """Devices of the pool that the file as a whole may use."""
    if tokens is None:
        return supply.devices
    named = {device.uuid for token in tokens for device in find_devices(token, supply.devices)}
    return tuple(device for device in supply.devices if device.uuid in named)


@dataclass(slots=True)
class _Ledger:
    """Who has how much of which device, while one plan is made."""

    supply: Supply
    devices: tuple[Device, ...]
    taken: dict[str, dict[WorkerId, int]] = field(default_factory=dict)

    def keep(self, worker: WorkerSpec, current: Current | None) -> Placement | None:
        """The placement of a worker that stays where it is, None if it has to be placed."""
        if worker.request.gpu == 0:
            return Placement(worker, Launch(worker.recipe))
        if current is None or not current.reserved:
            return None
        if current.fallback:
            # Moving back to a GPU is the operator's word (`restart`), so a plan alone never does it.
            same = (worker.recipe, worker.request) == (current.wanted.recipe, current.wanted.request)
            allowed = current.living or worker.policy.on_no_gpu == "cpu"
            return self._fall_back(worker) if same and allowed else None
        if not self._fits(worker.request, current, is_same=worker.request == current.wanted.request):
            return None
        return self._book(worker, current.slice)

    def place(self, worker: WorkerSpec, current: Current | None) -> Placement:
        """A place for a worker that has none, preferably where it was."""
        if not self.supply.trusted:
            return Placement(worker, None, reason=self.supply.detail)
        matching, problem = self._matching(worker.request)
        if problem:
            return self._refuse(worker, problem)
        roomy = [device for device in matching if _has_room(device, worker.request)]
        free = [device for device in roomy if not self.taken.get(device.uuid) and self._is_usable(device)]
        count = len(matching) if worker.request.gpu == "all" else worker.request.gpu // WHOLE
        if count == 0 or len(free) < count:
            return self._refuse(worker, self._arithmetic(worker.request, matching, free, count))
        before = {share.uuid for share in current.slice} if current else set()
        chosen = {device.uuid for device in sorted(free, key=lambda one: one.uuid not in before)[:count]}
        return self._book(worker, tuple(Share(device.uuid) for device in free if device.uuid in chosen))

    def _fits(self, request: Request, current: Current, *, is_same: bool) -> bool:
        """Whether what a worker has is still what it asks for, and nobody else's."""
        uuids = [share.uuid for share in current.slice]
        if not uuids or any(self.taken.get(uuid) for uuid in uuids):
            return False
        matching = {device.uuid for device in self._matching(request)[0] if self._is_usable(device)}
        known = {device.uuid for device in self.supply.devices + self.supply.outside}
        # A living worker stays on a device that the last reading did not show, or showed as sick; and on one that has
        # another index since such a device is gone.
        mine = {device.uuid for device in self.devices} if is_same else set()
        stays = {uuid for uuid in uuids if current.living and (uuid in mine or self._is_absent(uuid, known))}
        if not set(uuids) <= matching | stays:
            return False
        if request.gpu == "all":
            return matching <= set(uuids)
        return len(uuids) * WHOLE == request.gpu

    def _is_usable(self, device: Device) -> bool:
        """Whether somebody may be placed there who does not live there."""
        return device.health is Health.OK and device.uuid not in self.supply.elsewhere

    def _is_absent(self, uuid: str, known: set[str]) -> bool:
        sick = {device.uuid for device in self.devices if device.health is not Health.OK}
        return uuid not in known or uuid in sick

    def _matching(self, request: Request) -> tuple[tuple[Device, ...], str]:
        """Devices that a request's filter lets through, and what is wrong with the filter."""
        if request.gpus is None:
            return self.devices, ""
        named: list[Device] = []
        problems: list[str] = []
        for token in request.gpus:
            found = find_devices(token, self.devices)
            if len(found) != 1:
                problems.append(self._explain_token(token, found))
            elif found[0] in named:
                problems.append(f'"{token}" names GPU {found[0].index} a second time')
            named += found
        return tuple(device for device in self.devices if device in named), "; ".join(problems)

    def _explain_token(self, token: str, found: tuple[Device, ...]) -> str:
        if found:
            return f'"{token}" names {len(found)} GPUs: {", ".join(device.uuid for device in found)}'
        if find_devices(token, self.supply.outside + self.supply.devices):
            return f'GPU "{token}" is outside the pool'
        return f'there is no GPU "{token}" on this machine'

    def _arithmetic(self, request: Request, matching: Sequence[Device], free: Sequence[Device], count: int) -> str:
        """Why a request cannot be met, in numbers."""
        if not self.supply.devices:
            why = f": {self.supply.detail}" if self.supply.detail else ""
            return f"needs {_gpus(count or 1)}, there is none{why}"
        asked = "all GPUs" if request.gpu == "all" else _gpus(count)
        text = f"needs {asked}, {len(free)} of {len(matching)} {'is' if len(free) == 1 else 'are'} free"
        holders = sorted({str(holder) for device in matching for holder in self.taken.get(device.uuid, {})})
        if holders:
            shown = ", ".join(holders[:8]) + (f" and {len(holders) - 8} more" if len(holders) > 8 else "")
            text += f"; reserved for {shown}"
        small = [str(device.index) for device in matching if not _has_room(device, request)]
        text += f"; GPU {', '.join(small)} will never have that much memory" if small else ""
        sick = [f"GPU {device.index} {device.health}" for device in matching if device.health is not Health.OK]
        text += f"; {', '.join(sick)}" if sick else ""
        held = [
            f"GPU {device.index} {self.supply.elsewhere[device.uuid]}"
            for device in matching
            if device.uuid in self.supply.elsewhere
        ]
        return text + (f"; {', '.join(held)}" if held else "")

    def _book(self, worker: WorkerSpec, devices: Slice) -> Placement:
        for share in devices:
            self.taken.setdefault(share.uuid, {})[worker.id] = share.millis
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


def _has_room(device: Device, request: Request) -> bool:
    """Whether a device, if it were empty, had the memory that is declared. One that does not tell may have it."""
    total = device.memory_total_bytes
    return request.gpu_memory is None or total is None or amount_bytes(request.gpu_memory, total) <= total


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
