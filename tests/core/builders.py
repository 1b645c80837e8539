"""What tests of the core are built from: devices, workers in any state, a fleet that meets one event after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from supervisor.core.environment import Host
from supervisor.core.fleet import handle
from supervisor.core.inventory import Device, GpuState, Health, Reading
from supervisor.core.message import (
    Action,
    BecameReady,
    BecameUnready,
    Cause,
    Event,
    Exited,
    FinishReload,
    InventoryRead,
    ReadInventory,
    ReadSpec,
    ReloadRequested,
    ShimLost,
    Spawn,
    Spawned,
    SpawnFailed,
    SpecLoaded,
    State,
    TimePassed,
    TreeGone,
)
from supervisor.core.plan import Launch, Placement, Share, Slice
from supervisor.core.spec import (
    Amount,
    Policy,
    Ready,
    Recipe,
    Request,
    Spec,
    WorkerId,
    WorkerSpec,
    parse_spec,
)
from supervisor.core.turn import Fleet
from supervisor.core.worker import HOLDING, LIVING, Worker

T = TypeVar("T")

GIB = 2**30
FOREVER = 10_000

LLM = WorkerId("llm", 0)


# ---- devices --------------------------------------------------------------------------------------------------------


def uuid_of(index: int) -> str:
    """UUID of the device that has this index in `devices`."""
    return f"GPU-{index:x}000"


def device(index: int, *, free: int | None = 79 * GIB, total: int | None = 80 * GIB, sick: bool = False) -> Device:
    """One GPU of 80 GiB."""
    return Device(
        uuid=uuid_of(index),
        index=index,
        name="NVIDIA H100 80GB HBM3",
        pci=f"0000:{index + 16:02x}:00.0",
        numa=0,
        memory_total_bytes=total,
        memory_free_bytes=free,
        health=Health.LOST if sick else Health.OK,
        reason="fallen off the bus" if sick else "",
    )


def devices(count: int) -> tuple[Device, ...]:
    """So many healthy GPUs."""
    return tuple(device(index) for index in range(count))


def whole(*indices: int) -> Slice:
    """Whole devices by their index."""
    return tuple(Share(uuid_of(index)) for index in indices)


def good(*found: Device) -> Reading:
    """The driver answers, with these."""
    return Reading(GpuState.OK, "", found)


def bad(state: GpuState = GpuState.UNRESPONSIVE, detail: str = "no answer within 10 s") -> Reading:
    """The driver does not answer, or badly."""
    return Reading(state, detail)


# ---- the file -------------------------------------------------------------------------------------------------------


def spec_of(*, gpus: list[object] | None = None, daemon: object = None, **services: Mapping[str, object]) -> Spec:
    """A file with these services; each has a command unless it says so itself."""
    document: dict[str, object] = {"services": {name: {"command": "serve", **keys} for name, keys in services.items()}}
    document |= {} if gpus is None else {"gpus": gpus}
    document |= {} if daemon is None else {"daemon": daemon}
    return parse_spec(document, base_dir="/srv")


POLICY = Policy()
TCP = Policy(ready=Ready(kind="tcp", timeout_s=600.0))


def wanted(
    name: str = "llm",
    index: int = 0,
    *,
    gpu: int | str = 1000,
    gpus: tuple[str, ...] | None = None,
    exact: bool = False,
    memory: Amount | None = None,
    policy: Policy = POLICY,
    port: int | None = None,
) -> WorkerSpec:
    """One worker as the file wants it; *gpu* in thousandths."""
    count = "all" if gpu == "all" else int(gpu)
    return WorkerSpec(
        WorkerId(name, index),
        Recipe(("serve",), port=port, gpu_memory=memory),
        Request(count, gpus, exact, memory),  # type: ignore[arg-type]  # mypy does not narrow "all".
        policy,
    )


# ---- a worker -------------------------------------------------------------------------------------------------------


def placed(one: WorkerSpec, *indices: int) -> Placement:
    """A placement on whole devices."""
    return Placement(one, Launch(one.recipe, whole(*indices)))


def worker_in(state: State, *, since: float = 100.0, **changes: object) -> Worker:
    """
    A worker on GPU 0 with 20 GiB declared, 30 s of grace, ready by TCP, in a state as one finds it in a fleet.

    Args:
        state: Which.
        since: Monotonic second at which it came into it.
        changes: Other fields of the worker.
    """
    placement = placed(wanted(memory=20 * GIB, policy=TCP, port=8000), 0)
    worker = Worker(LLM, state, since, target=placement)
    if state not in {State.PENDING, State.STOPPED}:
        worker = replace(worker, incarnation=7, starts=1)
    if state in HOLDING:
        worker = replace(worker, held=placement, spawned_at=since - 10.0)
    if state in LIVING:
        worker = replace(worker, pid=4711)
    match state:
        case State.STARTING:
            worker = replace(worker, deadline=since + 600.0)
        case State.READY:
            worker = replace(worker, ready_at=since, was_ready=True)
        case State.STOPPING:
            worker = replace(worker, deadline=since + 30.0, cause=Cause.OPERATOR)
        case State.KILLING:
            worker = replace(worker, deadline=since + 10.0, cause=Cause.OPERATOR, killed=True)
        case State.RELEASING:
            worker = replace(worker, deadline=since + 0.5)
        case State.BACKOFF:
            worker = replace(worker, deadline=since + 4.0)
        case State.EXITED | State.FAILED | State.STOPPED:
            worker = replace(worker, target=replace(placement, launch=None), down=state is State.STOPPED)
        case _:
            pass
    return replace(worker, **changes)  # type: ignore[arg-type]  # Checked by the dataclass' names.


# ---- a fleet --------------------------------------------------------------------------------------------------------


class Stage:
    """
    A fleet and its time. Each call lets it meet one event and keeps what it wants done.

    Attributes:
        fleet: As the last event left it.
        now: Monotonic seconds; moves only by `at` and `pass_time`.
        actions: What the last event made it ask for.
        history: What it has ever asked for.
    """

    def __init__(self, *, environ: Mapping[str, str] | None = None, pool: tuple[str, ...] | None = None) -> None:
        self.fleet = Fleet(host=Host(environ or {}), pool_tokens=pool)
        self.now = 0.0
        self.actions: tuple[Action, ...] = ()
        self.history: list[Action] = []

    def at(self, now: float) -> Stage:
        """Move the clock, and nothing else."""
        assert now >= self.now
        self.now = now
        return self

    def meet(self, event: Event) -> tuple[Action, ...]:
        """One event."""
        self.fleet, self.actions = handle(self.fleet, event, self.now)
        self.history += self.actions
        return self.actions

    def load(self, spec: Spec, *, cpu_count: int = 1) -> Stage:
        """A good file was read."""
        self.meet(SpecLoaded(spec, cpu_count))
        return self

    def read(self, reading: Reading, *, asked_at: float | None = None) -> Stage:
        """The driver was asked now, or earlier, and has answered."""
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


def of_type(kind: type[T], actions: object) -> list[T]:
    """Those of the actions that are of a kind."""
    assert isinstance(actions, tuple | list)
    return [action for action in actions if isinstance(action, kind)]


def running(spec: Spec, *found: Device) -> Stage:
    """A fleet at second 0 whose workers with a place are all ready."""
    stage = Stage().load(spec).read(good(*found))
    return stage.ready(*[name for name, state in stage.states().items() if state == "starting"])
