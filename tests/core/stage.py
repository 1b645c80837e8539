"""A fleet on a stage: it meets one event after another, and a test looks at what it is and wants."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.environment import Host
from supervisor.core.fleet import handle
from supervisor.core.inventory import Device, Reading
from supervisor.core.message import (
    Action,
    BecameReady,
    BecameUnready,
    DevicesClaimed,
    Event,
    Exited,
    FinishReload,
    HostRead,
    InventoryRead,
    ReadHost,
    ReadInventory,
    ReadSpec,
    ReloadRequested,
    ShimLost,
    Spawn,
    Spawned,
    SpawnFailed,
    SpecLoaded,
    TimePassed,
    TreeGone,
)
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker
from tests.core.builders import good, of_type

FOREVER = 10_000


class Stage:
    """
    A fleet and its time. Each call lets it meet one event and keeps what it wants done.

    Attributes:
        fleet: As the last event left it.
        now: Monotonic seconds; moves only by `at` and `pass_time`.
        actions: What the last event made it ask for.
        history: What it has ever asked for.
        rivals: UUID -> which other daemon has it. A claim is answered at once, as a part of the event that led to it.
        left_open: UUIDs of which a claim is not answered.
        driver: What the driver answers, at once, whenever somebody who waits asks; None where only `read` answers.
        host: The same of the host's memory: available, and in all.
    """

    def __init__(self, *, environ: Mapping[str, str] | None = None, pool: tuple[str, ...] | None = None) -> None:
        self.fleet = Fleet(host=Host(environ or {}), pool_tokens=pool)
        self.now = 0.0
        self.actions: tuple[Action, ...] = ()
        self.history: list[Action] = []
        self.rivals: dict[str, str] = {}
        self.left_open: set[str] = set()
        self.driver: Reading | None = None
        self.host: tuple[int, int] | None = None

    def at(self, now: float) -> Stage:
        """Move the clock, and nothing else."""
        assert now >= self.now
        self.now = now
        return self

    def meet(self, event: Event) -> tuple[Action, ...]:
        """One event."""
        self.fleet, self.actions = handle(self.fleet, event, self.now)
        self._claim()
        while (answer := self._answer()) is not None:
            self.fleet, more = handle(self.fleet, answer, self.now)
            self.actions = (*(one for one in self.actions if one not in (ReadInventory(), ReadHost())), *more)
            self._claim()
        self.history += self.actions
        return self.actions

    def _claim(self) -> None:
        """Claims that were asked for are answered."""
        while asked := set(self.fleet.claiming) - self.left_open:
            ours, taken = asked - self.rivals.keys(), {uuid: self.rivals[uuid] for uuid in asked & self.rivals.keys()}
            self.fleet, more = handle(self.fleet, DevicesClaimed(tuple(sorted(ours)), taken), self.now)
            self.actions += more

    def _answer(self) -> Event | None:
        """What is answered at once to the newest actions."""
        if self.driver is not None and ReadInventory() in self.actions:
            return InventoryRead(self.driver, self.now)
        if self.host is not None and ReadHost() in self.actions:
            return HostRead(*self.host)
        return None

    def load(self, spec: Spec, *, cpu_count: int = 1) -> Stage:
        """A good file was read."""
        self.meet(SpecLoaded(spec, cpu_count))
        return self

    def read(self, reading: Reading, *, asked_at: float | None = None) -> Stage:
        """The driver was asked now, or earlier, and has answered."""
        self.driver = None if self.driver is None else reading
        self.meet(InventoryRead(reading, self.now if asked_at is None else asked_at))
        return self

    def reload(self, spec: Spec, reading: Reading) -> FinishReload:
        """A whole reload at this moment; its answer."""
        actions = self.meet(ReloadRequested())
        assert ReadSpec() in actions
        assert ReadInventory(fresh=True) in actions
        self.load(spec).read(reading)
        return of_type(FinishReload, self.actions)[0]

    def spawned(self, *workers: str) -> Stage:
        """Their processes run."""
        for worker in workers:
            one = self[worker]
            self.meet(Spawned(one.id, one.incarnation, 1000 + one.incarnation))
        return self

    def ready(self, *workers: str) -> Stage:
        """Their probes succeeded; those that were not spawned yet are."""
        for worker in workers:
            if self[worker].spawned_at is None:
                self.spawned(worker)
            self.meet(BecameReady(self[worker].id, self[worker].incarnation))
        return self

    def unready(self, worker: str) -> Stage:
        """Its probe failed."""
        self.meet(BecameUnready(self[worker].id, self[worker].incarnation, "connection refused"))
        return self

    def exited(self, worker: str, code: int | None = 1, *, signal: int | None = None, alone: bool = True) -> Stage:
        """Its main process ended."""
        one = self[worker]
        number = None if signal is not None else code
        self.meet(Exited(one.id, one.incarnation, number, signal, alone=alone, tail=("last words",)))
        return self

    def tree_gone(self, worker: str) -> Stage:
        """What it left behind is dead."""
        self.meet(TreeGone(self[worker].id, self[worker].incarnation))
        return self

    def shim_lost(self, worker: str) -> Stage:
        """Its parent was killed."""
        self.meet(ShimLost(self[worker].id, self[worker].incarnation))
        return self

    def spawn_failed(self, worker: str, errno: int, detail: str = "command not found: serve") -> Stage:
        """No process came of it."""
        self.meet(SpawnFailed(self[worker].id, self[worker].incarnation, errno, detail))
        return self

    def pass_time(self, until: float) -> Stage:
        """Let every deadline come up, the earliest first, until then."""
        for _ in range(FOREVER):
            due = self.due()
            if due is None or due > until:
                self.now = until
                return self
            self.now = max(self.now, due)
            late = [one.id for one in self.fleet.workers.values() if one.deadline is not None and one.deadline <= due]
            self.meet(TimePassed(tuple(late)))
        raise AssertionError("deadlines that never end")

    def due(self) -> float | None:
        """The earliest deadline of all."""
        all_of_them = [one.deadline for one in self.fleet.workers.values()] + [self.fleet.deadline]
        return min((at for at in all_of_them if at is not None), default=None)

    def __getitem__(self, worker: str) -> Worker:
        """A worker by its name."""
        return self.fleet.workers[WorkerId.parse(worker)]

    def state(self, worker: str) -> str:
        """State of a worker, ``gone`` for one that is not there."""
        found = self.fleet.workers.get(WorkerId.parse(worker))
        return str(found.state) if found else "gone"

    def states(self) -> dict[str, str]:
        """State of each worker, by name."""
        return {str(one): str(worker.state) for one, worker in sorted(self.fleet.workers.items())}

    def slices(self) -> dict[str, tuple[int, ...]]:
        """Indices (see `uuid_of`) of the GPUs that each worker occupies."""
        return {
            str(one): tuple(int(share.uuid[4:-3], 16) for share in worker.occupied)
            for one, worker in sorted(self.fleet.workers.items())
        }

    def spawns(self) -> tuple[str, ...]:
        """Who was started by the last event, in order."""
        return tuple(str(spawn.worker) for spawn in of_type(Spawn, self.actions))


def running(spec: Spec, *found: Device) -> Stage:
    """
    A fleet at second 0 whose workers with a place are all ready.

    Where nobody declares GPU memory the driver answers at once from then on: nobody starts on a GPU without asking.
    """
    stage = Stage().load(spec).read(good(*found))
    if all(one.request.gpu_memory is None for one in spec.expand(1)):
        stage.driver = good(*found)
    for _ in range(FOREVER):
        starting = [name for name, state in stage.states().items() if state == "starting"]
        if not starting:
            break
        stage.ready(*starting)
    return stage
