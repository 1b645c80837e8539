"""What people, devices and bad luck do to a daemon while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.core.file.listen import parse_address
from supervisor.core.inventory import GpuState
from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Event,
    ReleaseRequested,
    ReloadRequested,
    RestartRequested,
    ScaleRequested,
    ShutdownRequested,
    StartRequested,
    State,
    StopRequested,
    UsageRead,
)
from supervisor.core.spec import WorkerId
from tests.sim.addresses import CHOICES
from tests.sim.cuts import is_in_use, recut
from tests.sim.devices import GIB, Gpu
from tests.sim.specs import NAMES

if TYPE_CHECKING:
    from tests.sim.world import World

TROUBLES = tuple(state for state in GpuState if state is not GpuState.OK)


class Chaos:
    """
    Things that happen at random moments until it is stopped. Each seed has some kinds of them, and not others.

    Args:
        world: What they happen to.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = rng = world.rng
        kinds: list[Callable[[], None]] = [
            self.edit,
            self.reload,
            self.storm,
            self.operator,
            self.scale,
            self.lose_shim,
            self.repeat,
            self.foreign,
            self.breathe,
            self.crowd,
            self.measure,
            self.vanish,
            self.sicken,
            self.renumber,
            self.rival,
            self.trouble,
            self.slow_driver,
            self.leap,
        ]
        self.kinds = rng.sample(kinds, rng.randint(2, len(kinds)))
        if self.edit not in self.kinds and rng.random() < 0.7:
            self.kinds.append(self.edit)
        if any(gpu.parts for gpu in world.gpus):
            self.kinds.append(self.recut)
        if world.addresses.rng.random() < 0.5:
            self.kinds.append(self.squat)
        self.mean_s = rng.choice((2.0, 5.0, 20.0))
        self.kinds = world.greed.spare(self.kinds)
        self.is_over = False

    def start(self) -> None:
        """Let the first thing happen."""
        self.world.agenda.after(self.rng.expovariate(1 / self.mean_s), self._happen)

    def _happen(self) -> None:
        if self.is_over:
            return
        self.rng.choice(self.kinds)()
        self.start()

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Later, unless all is well by then."""
        self.world.agenda.after(delay_s, lambda: None if self.is_over else do())

    # ---- people -----------------------------------------------------------------------------------------------------

    def edit(self) -> None:
        """Somebody works on the file and reloads."""
        self.world.edit()
        self.world.post(ReloadRequested())

    def reload(self) -> None:
        """Somebody reloads what is there."""
        self.world.post(ReloadRequested())

    def storm(self) -> None:
        """Somebody saves and reloads all the time."""
        for _ in range(self.rng.randint(2, 6)):
            self._later(self.rng.uniform(0.0, 0.2), self.rng.choice((self.edit, self.reload)))

    def operator(self) -> None:
        """Somebody stops, starts and restarts workers and whole services, in any order."""
        rng = self.rng
        known = sorted(self.world.fleet.workers)
        some = [*rng.sample(known, rng.randint(0, min(3, len(known)))), WorkerId(rng.choice(NAMES), rng.randint(0, 4))]
        services = (rng.choice(NAMES),) if rng.random() < 0.5 else ()
        for _ in range(rng.randint(1, 4)):
            kind = rng.choice((StopRequested, StartRequested, StartRequested, RestartRequested, RestartRequested))
            delay_s = rng.choice((0.0, 0.0, rng.random(), rng.uniform(0.0, 10.0)))
            self._later(delay_s, self._asker(kind(tuple(some), services)))

    def scale(self) -> None:
        """Somebody wants other counts for a while, also beside a reload."""
        rng = self.rng
        counts = {name: rng.randint(0, 5) for name in rng.sample(NAMES, rng.randint(1, 2))}
        for _ in range(rng.randint(1, 2)):
            self._later(rng.choice((0.0, 0.01, rng.uniform(0.0, 5.0))), self._asker(ScaleRequested(counts)))
        if rng.random() < 0.4:
            self.reload()

    def measure(self) -> None:
        """Somebody has grown, or not; what is said of it may be late."""
        serving = [one for one in self.world.fleet.workers.values() if one.state in {State.READY, State.UNREADY}]
        found = {one.id: (one.incarnation, self.rng.choice((1, 9)) * GIB) for one in serving}
        self._later(self.rng.choice((0.0, 0.5)), self._asker(UsageRead(found, reads_devices=self.rng.random() < 0.5)))

    def _asker(self, event: Event) -> Callable[[], None]:
        return lambda: self.world.post(event)

    # ---- processes --------------------------------------------------------------------------------------------------

    def lose_shim(self) -> None:
        """Somebody kills a shim."""
        living = [tree.order.worker for tree in self.world.processes.living()]
        if living:
            self.world.processes.lose_shim(self.rng.choice(living))

    def repeat(self) -> None:
        """Words of dead processes arrive late or twice, and probes say what they said before."""
        world, rng = self.world, self.rng
        workers = world.fleet.workers
        old = [event for event in world.told if getattr(event, "incarnation", 0) != _incarnation(world, event)]
        for event in rng.sample(old, min(3, len(old))):
            world.post(event)
        for worker in sorted(workers):
            tree = world.processes.tree_of(worker)
            if tree is not None and tree.is_probed and tree.nature.ready_s is not None and rng.random() < 0.3:
                names = (worker, tree.order.incarnation)
                world.post(BecameReady(*names) if rng.random() < 0.7 else BecameUnready(*names, "said late"))

    # ---- devices ----------------------------------------------------------------------------------------------------

    def _for_a_while(self, longest_s: float, do: Callable[[Gpu], None], undo: Callable[[Gpu], None]) -> None:
        if not self.world.gpus:
            return
        gpu = self.rng.choice(self.world.devices.every)
        do(gpu)
        self._later(self.rng.uniform(0.1, longest_s), lambda: undo(gpu))

    def foreign(self) -> None:
        """Somebody else's process takes memory."""
        amount = self.rng.choice((1, 8, 15, 70)) * GIB
        self._for_a_while(60.0, lambda gpu: _set(gpu, foreign=amount), lambda gpu: _set(gpu, foreign=0))

    def breathe(self) -> None:
        """Somebody else's process takes memory and gives it back, again and again."""
        for _ in range(self.rng.randint(3, 12)):
            self._later(self.rng.uniform(0.0, 30.0), self._breathe_once)

    def _breathe_once(self) -> None:
        amount = self.rng.choice((0, 1, 2, 8, 15, 70)) * GIB
        self._for_a_while(3.0, lambda gpu: _set(gpu, foreign=amount), lambda gpu: _set(gpu, foreign=0))

    def crowd(self) -> None:
        """Others take the host's memory for a while."""
        ram = self.world.ram
        ram.foreign = int(ram.total * self.rng.choice((0.1, 0.5, 0.9, 1.0)))
        self._later(self.rng.uniform(0.1, 60.0), ram.heal)

    def vanish(self) -> None:
        """A device falls off the bus, and what comes after it gets another index; of some an operator lets go."""
        self._for_a_while(120.0, self._pull_out, lambda gpu: _set(gpu, is_there=True))

    def _pull_out(self, gpu: Gpu) -> None:
        _set(gpu, is_there=False)
        if gpu.slot % 2 and gpu.parent is None:
            for delay_s in (10.0, 40.0, 70.0):
                self._later(delay_s, lambda: self._let_go(gpu))

    def _let_go(self, gpu: Gpu) -> None:
        if not gpu.is_there:
            self.world.post(ReleaseRequested((gpu.uuid,)))

    def sicken(self) -> None:
        """A device is there and of no use."""
        self._for_a_while(120.0, lambda gpu: _set(gpu, is_sick=True), lambda gpu: _set(gpu, is_sick=False))

    def renumber(self) -> None:
        """A reset gives the devices another order."""
        slots = [gpu.slot for gpu in self.world.gpus]
        self.rng.shuffle(slots)
        for gpu, slot in zip(self.world.gpus, slots, strict=True):
            gpu.slot = slot

    def recut(self) -> None:
        """Somebody switches MIG on or off, or makes other instances; mostly where nobody is."""
        gpu = self.rng.choice([gpu for gpu in self.world.gpus if gpu.parts])
        if not is_in_use(gpu) or self.rng.random() < 0.2:
            recut(gpu, self.rng)

    def rival(self) -> None:
        """Another daemon wants a device, and lets it go after a while."""
        locks = self.world.locks
        self._for_a_while(120.0, lambda gpu: locks.come(gpu.uuid), lambda gpu: locks.leave(gpu.uuid))

    def squat(self) -> None:
        """Somebody else listens where a service might, for a while."""
        addresses = self.world.addresses
        for choice in addresses.rng.sample(CHOICES, 3):
            address = parse_address(choice)
            if address.kind == "unix":
                address = replace(address, host=f"/srv/{address.host}")
            addresses.come(address)
        self._later(addresses.rng.uniform(0.1, 60.0), addresses.heal)

    def trouble(self) -> None:
        """The driver fails, in any of its ways."""
        devices = self.world.devices
        devices.state = self.rng.choice(TROUBLES)
        self._later(self.rng.uniform(0.1, 60.0), self._mend)

    def _mend(self) -> None:
        self.world.devices.state, self.world.devices.slow_s = GpuState.OK, 0.0

    def slow_driver(self) -> None:
        """The driver takes its time, or hangs for the whole deadline."""
        self.world.devices.slow_s = self.rng.choice((0.5, 3.0, 20.0))
        self._later(self.rng.uniform(1.0, 40.0), self._mend)

    # ---- time -------------------------------------------------------------------------------------------------------

    def leap(self) -> None:
        """The daemon is frozen; what happens meanwhile comes all at once."""
        self.world.freeze(self.rng.choice((0.5, 5.0, 60.0, 3600.0)) * self.rng.random())

    def shut_down(self) -> None:
        """Somebody ends the daemon, and may be in a hurry."""
        self.world.post(ShutdownRequested())
        if self.rng.random() < 0.5:
            self._later(self.rng.uniform(0.0, 8.0), lambda: self.world.post(ShutdownRequested()))


def _set(gpu: Gpu, *, foreign: int | None = None, is_there: bool | None = None, is_sick: bool | None = None) -> None:
    gpu.foreign = gpu.foreign if foreign is None else foreign
    gpu.is_there = gpu.is_there if is_there is None else is_there
    gpu.is_sick = gpu.is_sick if is_sick is None else is_sick


def _incarnation(world: World, event: object) -> int:
    worker = world.fleet.workers.get(getattr(event, "worker"))  # noqa: B009 - Only events of workers are kept.
    return worker.incarnation if worker is not None else 0
