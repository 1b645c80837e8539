"""Devices that fall ill, and operators who take them; what was told of it, apart from what the core makes of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from supervisor.core.inventory import GpuState, Health
from supervisor.core.message import (
    CanaryFinished,
    DeviceEventTold,
    InventoryRead,
    QuarantineRequested,
    ReleaseRequested,
)
from supervisor.core.xids import TABLE
from tests.sim.trouble import Step

if TYPE_CHECKING:
    from tests.sim.world import World

XID = 0x8
INFINITE = float("inf")
PROBATION_S = 300.0
ON_FAULT = ("drain", "kill", "ignore")
HARDWARE = frozenset(number for number, row in TABLE.items() if row.kind in {"hardware", "link"})


def put_health(document: dict[str, Any], rng: random.Random, patience: random.Random) -> dict[str, Any]:
    """Say in a file what becomes of sick devices; *patience* is for how often it may."""
    document.pop("health", None)
    if rng.random() < 0.7:
        document["health"] = {"on_fault": rng.choice(ON_FAULT)}
        if rng.random() < 0.4:
            document["health"] |= {"canary": ["./burn"], "probation": rng.choice((1.0, 60.0)), "max_probation": 60.0}
        if patience.random() < 0.5:
            document["health"]["max_strikes"] = patience.choice((1, 1, 2))
    return document


@dataclass
class Told:
    """
    What is known against devices by what was told of them.

    Args:
        until: UUID -> second before which it is not to be used; infinite for one that an operator has taken.
        ever: Everybody against whom anything was ever said.
        strikes: UUID -> how often it was in quarantine in a row, at the least.
        released: Everybody whom an operator has ever released.
    """

    until: dict[str, float] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)
    strikes: Counter[str] = field(default_factory=Counter)
    released: set[str] = field(default_factory=set)

    def hear(self, step: Step) -> None:
        """One event of the core."""
        event, spec = step.event, step.before.spec
        probation = spec.health.probation if spec else PROBATION_S
        if step.after.spec is not step.before.spec and step.after.spec is not None:
            # What counts is the file in force when it is empty.
            latest = step.now + step.after.spec.health.probation
            self.until = {one: at if at == INFINITE else min(at, latest) for one, at in self.until.items()}
        known = {*(step.before.inventory.by_uuid if step.before.inventory else ()), *step.before.missing}
        match event:
            case DeviceEventTold(uuid=uuid) if uuid in known and event.number in HARDWARE:
                self._begin_anew((uuid,), step.now + probation)
            case DeviceEventTold(uuid=uuid):
                self.ever.add(uuid)
            case QuarantineRequested(uuids=uuids):
                self.until |= dict.fromkeys(uuids, INFINITE)
                self.ever |= set(uuids)
            case ReleaseRequested(uuids=uuids):
                self.released |= set(uuids)
                for uuid in uuids:
                    self.until.pop(uuid, None)
                    self.strikes.pop(uuid, None)
            case InventoryRead(reading=reading) if reading.state is GpuState.OK:
                sick = {one.uuid for one in reading.devices if one.vitals.recovery} - step.before.spared
                self._begin_anew(sick, step.now + probation)
            case CanaryFinished(uuid=uuid, fault=fault) if fault:
                self.ever.add(uuid)
            case _:
                pass
        self._count(step)

    def _count(self, step: Step) -> None:
        """One that comes into quarantine too often is not to be used again before somebody releases it."""
        spec = step.after.spec
        if spec is None or spec is not step.before.spec:
            return
        for uuid, after in step.after.ailments.items():
            before = step.before.ailments.get(uuid)
            was = before.health if before is not None else Health.OK
            # One that is back from nowhere may have been counted before it went.
            is_new = after.health is Health.QUARANTINED and was not in {Health.QUARANTINED, Health.LOST}
            if not is_new or self.until.get(uuid) == INFINITE:
                continue
            self.strikes[uuid] += 1
            if 0 < spec.health.max_strikes <= self.strikes[uuid]:
                self.until[uuid] = INFINITE

    def _begin_anew(self, uuids: Iterable[str], until: float) -> None:
        """What the file in force says now counts, also where an earlier one has promised a longer time."""
        for uuid in uuids:
            self.until[uuid] = INFINITE if self.until.get(uuid) == INFINITE else until
            self.ever.add(uuid)


class Sickness:
    """
    Beside the rest of the chaos, with a generator of its own: lives without it stay what they were.

    Args:
        world: In which it happens.
        seed: Of the life.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(f"health {seed}")
        self.patience = random.Random(f"strikes {seed}")
        self.is_on = bool(world.gpus) and self.rng.random() < 0.45
        self.mean_s = self.rng.choice((3.0, 15.0, 60.0))
        self.kinds: list[Callable[[], None]] = self.rng.sample(
            [self.strike, self.mutter, self.ail, self.take], self.rng.randint(1, 4)
        )
        self.told = Told()
        self.is_over = False

    def start(self) -> None:
        """Let the first thing happen."""
        if self.is_on:
            self.world.agenda.after(self.rng.expovariate(1 / self.mean_s), self._happen)

    def _happen(self) -> None:
        if not self.is_over:
            self.rng.choice(self.kinds)()
            self.start()

    def _gpu(self) -> str:
        return self.rng.choice(self.world.gpus).uuid

    def strike(self) -> None:
        """The driver tells of a fault."""
        self.world.post(DeviceEventTold(self._gpu(), XID, self.rng.choice((79, 74, 119, 48, 95))))

    def mutter(self) -> None:
        """The driver tells of what is no fault."""
        for _ in range(self.rng.randint(1, 4)):
            self.world.post(DeviceEventTold(self._gpu(), XID, self.rng.choice((13, 31, 43, 45, 92, 94, 999))))
        self.world.post(DeviceEventTold(self._gpu(), 0x8000))

    def ail(self) -> None:
        """The driver wants something done about a device, for a while."""
        gpu = self.rng.choice(self.world.gpus)
        gpu.recovery = self.rng.randint(1, 7)
        self.world.agenda.after(self.rng.uniform(1.0, 200.0), lambda: setattr(gpu, "recovery", 0))

    def take(self) -> None:
        """An operator takes a device, and may give it back."""
        uuid = self._gpu()
        self.world.post(QuarantineRequested((uuid,), for_reset=self.rng.random() < 0.3))
        if self.rng.random() < 0.7:
            self.world.agenda.after(self.rng.expovariate(1 / 20.0), lambda: self._give_back(uuid))

    def _give_back(self, uuid: str) -> None:
        self.world.post(ReleaseRequested((uuid,)))

    def heal(self) -> None:
        """Nothing more happens, and an operator believes every device, also after what is still on its way."""
        self.is_over = True
        for gpu in self.world.gpus:
            gpu.recovery = 0
        if self.is_on:
            self.world.document.pop("health", None)
            for delay_s in (0.0, 15.0, 30.0):
                self.world.agenda.after(delay_s, self._release_all)

    def _release_all(self) -> None:
        self.world.post(ReleaseRequested(tuple(one.uuid for one in self.world.devices.every)))
