"""
What is seen of devices only over minutes, and a fabric that they have yet to join; what was told of it.

Beside the rest of the sickness, with a generator of its own: lives without it stay what they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from supervisor.core.inventory import Checkup, Device, GpuState, Health
from supervisor.core.message import InventoryRead, ReleaseRequested
from supervisor.core.turn import Fleet
from tests.sim.devices import Gpu
from tests.sim.trouble import Step

if TYPE_CHECKING:
    from tests.sim.world import World

PROBATION_S = 300.0
MINUTES, APART_S = 5, 45.0
FAINT_BYTES = 128 * 1024**2
JOINING = frozenset({1, 2})
FIT = frozenset({Health.OK, Health.SUSPECT, Health.PROBING})


@dataclass
class Seen:
    """
    What follows of what the driver told, apart from what the core makes of it.

    Args:
        until: UUID -> second before which nobody may start there.
        ever: Everybody against whom anything was ever seen.
        joining: Devices that have not joined their fabric, but for those of which an operator has said not to wait.
    """

    until: dict[str, float] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)
    joining: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    haunts: dict[str, list[float]] = field(default_factory=dict)
    links: dict[str, dict[str, int]] = field(default_factory=dict)
    checked: dict[str, float] = field(default_factory=dict)

    def hear(self, step: Step) -> None:
        """One event of the core."""
        if step.after.spec is not step.before.spec and step.after.spec is not None:
            # What counts is the file in force when it is empty.
            latest = step.now + step.after.spec.health.probation
            self.until = {one: min(at, latest) for one, at in self.until.items()}
        match step.event:
            case InventoryRead(reading=reading, asked_at=asked_at) if reading.state is GpuState.OK:
                gpus = [one for one in reading.devices if one.parent is None]
                for one in gpus:
                    if one.uuid not in step.before.spared:
                        self._look(step, one, asked_at, gpus)
                self._join(gpus)
            case ReleaseRequested(uuids=uuids):
                for uuid in uuids:
                    for books in (self.until, self.haunts, self.links, self.checked):
                        books.pop(uuid, None)
                    self.excused |= {uuid} & self.joining
                    self.joining.discard(uuid)
            case _:
                pass

    def _join(self, gpus: list[Device]) -> None:
        joining = {one.uuid for one in gpus if one.vitals.fabric in JOINING and not one.is_cut}
        self.excused &= joining
        self.joining = joining - self.excused

    def _look(self, step: Step, device: Device, asked_at: float, gpus: list[Device]) -> None:
        if device.health is Health.LOST:
            self.haunts.pop(device.uuid, None)
        if device.checkup is None or device.health is Health.LOST:
            return
        times = self.haunts.setdefault(device.uuid, [])
        if not _is_haunted(step.before, device, device.checkup):
            times.clear()
        # Of those that are too near to each other only the first counts.
        elif asked_at - self.checked.get(device.uuid, float("-inf")) >= APART_S:
            times.append(asked_at)
        if asked_at - self.checked.get(device.uuid, float("-inf")) >= APART_S:
            self.checked[device.uuid] = asked_at
        if len(times) >= MINUTES or self._is_bent(step.before, device, gpus):
            spec = step.before.spec
            self.until[device.uuid] = step.now + (spec.health.probation if spec else PROBATION_S)
            self.ever.add(device.uuid)

    def _is_bent(self, fleet: Fleet, device: Device, gpus: list[Device]) -> bool:
        """Links to switches, and to devices that are there and not sick themselves, that were active and are not."""
        if device.checkup is None or device.checkup.nvlinks is None:
            return False
        now = dict(device.checkup.nvlinks)
        known = self.links.setdefault(device.uuid, {})
        well = {one.uuid for one in gpus if _is_well(fleet, one)}
        missed = [end for end, count in known.items() if count > now.get(end, 0) and (not end or end in well)]
        self.links[device.uuid] = {end: max(known.get(end, 0), now.get(end, 0)) for end in known.keys() | now.keys()}
        return bool(missed) and device.vitals.fabric not in JOINING


def _is_well(fleet: Fleet, device: Device) -> bool:
    ailment = fleet.ailments.get(device.uuid)
    if ailment is not None and ailment.scope != "link" and ailment.health not in FIT:
        return False
    return device.health is not Health.LOST and not device.vitals.recovery and device.uuid not in fleet.spared


def _is_haunted(fleet: Fleet, device: Device, checkup: Checkup) -> bool:
    is_ours = any(fleet.occupied.get(one) for one in _parts(fleet, device.uuid))
    is_empty = device.holders == () and checkup.used_bytes is not None and checkup.used_bytes <= FAINT_BYTES
    return is_empty and not is_ours and (checkup.busy_percent or 0) >= 95


def _parts(fleet: Fleet, uuid: str) -> list[str]:
    devices = fleet.inventory.devices if fleet.inventory else ()
    return [uuid, *(one.uuid for one in devices if one.parent == uuid)]


class Symptoms:
    """
    What devices show.

    Args:
        world: In which it happens.
        rng: A generator of its own.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.is_on = bool(world.gpus) and rng.random() < 0.15
        self.mean_s = rng.choice((10.0, 60.0))
        kinds: list[Callable[[], None]] = [self.haunt, self.heat, self.bend, self.part]
        self.kinds = rng.sample(kinds, rng.randint(1, len(kinds)))
        self.seen = Seen()
        self.is_over = False

    def furnish(self) -> None:
        """Give the devices links and a fabric, before anything happens."""
        if not self.is_on:
            return
        self.world.devices.has_checkups = True
        if self.haunt in self.kinds and self.rng.random() < 0.8:
            # A list that is not told, or leaves somebody out, haunts nobody.
            self.world.devices.has_lists, self.world.devices.omits = True, 0
        gpus = self.world.gpus
        has_fabric = self.part in self.kinds
        for gpu in gpus:
            gpu.switches = self.rng.choice((0, 6))
            gpu.fabric = self.rng.choice((1, 2, 3)) if has_fabric else None
            if has_fabric:
                self._later(120.0, gpu, lambda it: setattr(it, "fabric", 3))
        for one, other in pairwise(gpus):
            one.peers[other.uuid] = other.peers[one.uuid] = self.rng.choice((0, 2))

    @property
    def lasts_s(self) -> float:
        """What counts over minutes takes its time."""
        return 500.0 if self.is_on and {self.haunt, self.heat} & {*self.kinds} else 0.0

    def start(self) -> None:
        """Let the first thing happen."""
        if self.is_on:
            self.world.agenda.after(self.rng.expovariate(1 / self.mean_s), self._happen)

    def _happen(self) -> None:
        if not self.is_over:
            self.rng.choice(self.kinds)()
            self.start()

    def _later(self, longest_s: float, gpu: Gpu, undo: Callable[[Gpu], None]) -> None:
        self.world.agenda.after(self.rng.uniform(1.0, longest_s), lambda: undo(gpu))

    def haunt(self) -> None:
        """What a dead process began goes on."""
        gpu = self.rng.choice(self.world.gpus)
        gpu.is_haunted = True
        self._later(900.0, gpu, lambda it: setattr(it, "is_haunted", False))

    def heat(self) -> None:
        """Something slows it down."""
        gpu = self.rng.choice(self.world.gpus)
        gpu.throttle = self.rng.choice((0x4, 0x40, 0x80, 0x48))
        self._later(900.0, gpu, lambda it: setattr(it, "throttle", 0))

    def bend(self) -> None:
        """Some of its links are down for a while."""
        gpu = self.rng.choice(self.world.gpus)
        gpu.is_bent = True
        self._later(300.0, gpu, lambda it: setattr(it, "is_bent", False))

    def part(self) -> None:
        """The manager of the fabric is started anew."""
        gpu = self.rng.choice(self.world.gpus)
        gpu.fabric = self.rng.choice((1, 2))
        self._later(120.0, gpu, lambda it: setattr(it, "fabric", 3))

    def heal(self) -> None:
        """All is well, and an operator believes it."""
        self.is_over = True
        for gpu in self.world.gpus:
            gpu.is_haunted, gpu.is_bent, gpu.throttle = False, False, 0
            gpu.fabric = None if gpu.fabric is None else 3
        for delay_s in (0.0, 15.0, 30.0) if self.is_on else ():
            self.world.agenda.after(delay_s, self._release_all)

    def _release_all(self) -> None:
        self.world.post(ReleaseRequested(tuple(one.uuid for one in self.world.devices.every)))
