"""What was seen of the daemon so far: kept apart from its own books, so that these can be held against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.core.inventory import Device, GpuState
from supervisor.core.message import (
    Cause,
    EndStopCommand,
    Exited,
    InventoryRead,
    KillTree,
    Redirect,
    ReloadRequested,
    Report,
    RunStopCommand,
    ScaleRequested,
    ShimLost,
    ShutdownRequested,
    Signal,
    Spawned,
    SpawnFailed,
    Stalled,
    StartRequested,
    State,
    StopRequested,
    TreeGone,
)
from supervisor.core.plan import Slice
from supervisor.core.spec import SpecError, WorkerId
from supervisor.core.turn import DaemonState, Roll
from supervisor.core.worker import Worker
from tests.sim.trouble import Change, Step

if TYPE_CHECKING:
    from supervisor.core.file.service import Logs
    from supervisor.core.spec import Recipe, Request, Spec, WorkerSpec
    from tests.sim.rules_restart import Sentence


SIGHT_S = 5.0
MET = frozenset({State.READY, State.EXITED})


@dataclass
class Run:
    """One life of a worker's process, as it could be seen from outside."""

    incarnation: int
    spawned_at: float | None = None
    ready_at: float | None = None
    took_s: float | None = None
    was_healthy: bool = False
    is_over: bool = False

    def is_healthy(self, worker: Worker, now: float) -> bool:
        """CONTRACT, Restarts: ready for max(60 s, twice its time to ready); with `after`, alive for the timeout."""
        if self.was_healthy or self.is_over:
            return self.was_healthy
        assert worker.held is not None
        ready = worker.held.wanted.policy.ready
        if ready.kind == "after":
            return self.spawned_at is not None and now - self.spawned_at >= ready.timeout_s
        return self.ready_at is not None and now - self.ready_at >= max(60.0, 2 * (self.took_s or 0.0))


class Notes:
    """Facts that went by, by worker, by incarnation and by device."""

    def __init__(self) -> None:
        self.incarnations: set[int] = set()
        self.spawns: Counter[WorkerId] = Counter()
        self.orders: dict[WorkerId | str, tuple[int, bool]] = {}
        self.order = 0
        self.scaled: dict[str, int] = {}
        self.scaled_since: dict[str, int] = {}
        self.changed: dict[str, float] = {}
        self.ran_on: dict[WorkerId, set[Slice]] = {}
        self.slices: dict[int, Slice] = {}
        self.outputs: dict[int, Logs] = {}
        self.signalled: set[int] = set()
        self.group_signalled: set[int] = set()
        self.commands: dict[int, float] = {}  # Stop commands that run, and since when.
        self.killed: set[int] = set()
        self.lost: set[int] = set()
        self.spawned: set[int] = set()
        self.states: dict[WorkerId, State] = {}
        self.former: dict[str, set[tuple[Recipe, Request]]] = {}
        self.wanted_before: tuple[WorkerSpec, ...] = ()
        self.recycled: dict[WorkerId, tuple[int, frozenset[str]]] = {}
        self.over: dict[WorkerId, tuple[int, float]] = {}  # Incarnation, and since when it has too much of a GPU.
        self.seen_over: set[WorkerId] = set()  # By the newest look.
        self.warned: dict[str, float | None] = {}
        self.evicted: dict[WorkerId, tuple[int, frozenset[str]]] = {}
        self.looked_at = 0.0
        self.proven: dict[str, tuple[float | None, bool]] = {}
        self.devices: dict[str, Device] = {}
        self.runs: dict[WorkerId, Run] = {}
        self.sentences: dict[WorkerId, Sentence] = {}
        self.recipes: dict[WorkerId, Recipe] = {}
        self.wanted_of: tuple[Spec | None, dict[str, int]] = (None, {})
        self.wanted: dict[WorkerId, WorkerSpec] = {}
        self.read_asked_at = 0.0
        self.read_at = 0.0
        self.reload_at = 0.0
        self.shutdowns: list[float] = []
        self.put_off: dict[WorkerId, tuple[float, float]] = {}
        self.asked_in_trouble: float | None = None
        self.been_ready: set[str] = set()
        self.asked_to_end: dict[WorkerId, float] = {}

    @property
    def is_ending(self) -> bool:
        """Whether somebody has asked the daemon to end: then nobody is wanted. It may also end of its own."""
        return bool(self.shutdowns)

    # ---- before the rules are asked ---------------------------------------------------------------------------------

    def hear(self, step: Step) -> None:
        """Take in the event, and what it made the plan."""
        for action in step.actions:
            if isinstance(action, Report) and action.transition.after is None:
                self._forget(action.transition.worker)
        event = step.event
        if step.after.generation != step.before.generation:
            self._hear_of_file(step)
        if step.before.reload is None and step.after.reload is not None:
            self.reload_at = step.now
        if isinstance(event, InventoryRead):
            self.read_asked_at, self.read_at = event.asked_at, step.now
        match event:
            case InventoryRead(reading=reading) if reading.state is GpuState.OK:
                self.devices = {device.uuid: device for device in reading.devices}
            case Spawned() | SpawnFailed() | Exited() | TreeGone() | ShimLost():
                self._hear_of_process(step, event)
                worker = step.before.workers.get(event.worker)
                is_current = worker is not None and worker.incarnation == event.incarnation
                if isinstance(event, SpawnFailed) and is_current and event.worker in self.spawns:
                    self.spawns[event.worker] -= 1  # No process came of it.
            case StopRequested() | StartRequested():
                self.order += 1
                is_stop = isinstance(event, StopRequested)
                self.orders |= dict.fromkeys(event.services, (self.order, is_stop))
                self.orders |= dict.fromkeys(event.workers, (self.order, is_stop))
            case ScaleRequested(counts=counts):
                self._hear_of_counts(step, counts)
            case ReloadRequested():
                self.scaled_since = {}
            case ShutdownRequested():
                self.shutdowns.append(step.now)
            case Stalled(lost_s=lost_s):
                for one in step.before.workers:
                    least, most = self.put_off.get(one, (0.0, 0.0))
                    self.put_off[one] = (least + lost_s, most + lost_s + min(lost_s, SIGHT_S))
            case _:
                pass

    def hear_of_order(self, step: Step, wanted: Iterable[WorkerId]) -> None:
        """Services all of whose workers that count were ready or done, at some moment of this step at the latest."""
        ids: dict[str, list[WorkerId]] = {}
        for one in wanted:
            if not self.is_down(one):
                ids.setdefault(one.service, []).append(one)
        spec = step.after.spec
        firsts = {first for service in spec.services.values() for first in service.after} if spec else set()
        self.been_ready &= ids.keys() & firsts  # What was before anybody came after it counts for nobody.
        old = step.before.spec
        before = {first for service in old.services.values() for first in service.after} if old else set()
        for service in ids.keys() & firsts:
            moments = _moments(step, ids[service], is_new=service not in before or spec is not old)
            if any(all(state in MET for state in states) for states in moments):
                self.been_ready.add(service)

    def is_proven(self, service: str, roll: Roll | None) -> bool:
        """Whether somebody has been seen to get ready with what the file of this roll-out says."""
        return roll is None or self.proven.get(service) == (roll.at, True)

    def is_down(self, worker: WorkerId) -> bool:
        """Whether the last order about a worker or its service was to stop."""
        orders = [self.orders[one] for one in (worker, worker.service) if one in self.orders]
        return bool(orders) and max(orders)[1]

    def _hear_of_counts(self, step: Step, counts: Mapping[str, int]) -> None:
        spec = step.before.spec
        if spec is None or step.before.state is DaemonState.STOPPING:
            return
        scaled = {**self.scaled, **counts}
        if could_be(spec, {**step.before.sizes, **scaled}, step.before.cpu_count):
            self.scaled = scaled
            if step.before.reload is not None:
                self.scaled_since |= counts

    def _hear_of_file(self, step: Step) -> None:
        """Another file ends what was asked for before the reload was."""
        spec, since, self.scaled = step.after.spec, self.scaled_since, {}
        for name, count in since.items():
            if spec is not None and could_be(spec, {**self.scaled, name: count}, step.after.cpu_count):
                self.scaled[name] = count
        self.scaled_since = {}

    def _hear_of_process(self, step: Step, event: Spawned | SpawnFailed | Exited | TreeGone | ShimLost) -> None:
        worker = step.before.workers.get(event.worker)
        if worker is None or worker.incarnation != event.incarnation:
            return  # A late word, which changes nothing.
        if isinstance(event, Spawned):
            self.spawned.add(event.incarnation)
        if isinstance(event, ShimLost):
            self.lost.add(event.incarnation)
        for share in self.slices.get(event.incarnation, ()):
            self.changed[share.uuid] = step.now

    # ---- after ------------------------------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """Take in what was done."""
        for action in step.actions:
            match action:
                case Signal(incarnation=incarnation, scope="main" | "group"):
                    self.signalled.add(incarnation)
                    if action.scope == "group":
                        self.group_signalled.add(incarnation)
                    self.commands.pop(incarnation, None)
                case RunStopCommand(incarnation=incarnation):
                    self.commands[incarnation] = step.now
                case EndStopCommand(incarnation=incarnation):
                    self.commands.pop(incarnation, None)
                case Redirect(incarnation=incarnation, logs=logs):
                    self.outputs[incarnation] = logs
                case KillTree(incarnation=incarnation):
                    self.killed.add(incarnation)
                case Report(transition=one):
                    if one.after is None:
                        self.states.pop(one.worker, None)
                    else:
                        self.states[one.worker] = one.after
                case _:
                    pass
        for spawn in step.spawns:
            self.incarnations.add(spawn.incarnation)
            self.spawns[spawn.worker] += 1
            self.slices[spawn.incarnation] = spawn.launch.slice
            self.outputs[spawn.incarnation] = spawn.logs
            self.recipes[spawn.worker] = spawn.launch.recipe
            self.ran_on.setdefault(spawn.worker, set()).add(spawn.launch.slice)
            for share in spawn.launch.slice:
                self.changed[share.uuid] = step.now
        for change in step.changes:
            self._follow(change, step.now)
            old, new = change.before, change.after
            if old is None or new is None or (old.state, old.incarnation) != (new.state, new.incarnation):
                self.put_off.pop(change.id, None)

    def _forget(self, worker: WorkerId) -> None:
        """An index that comes again, be it in the same step, is a new one."""
        self.runs.pop(worker, None)
        self.spawns.pop(worker, None)
        self.sentences.pop(worker, None)
        self.recipes.pop(worker, None)

    def _follow(self, change: Change, now: float) -> None:
        before, after = change.before, change.after
        if after is None:
            return
        run = self.runs.get(change.id)
        if run is None or run.incarnation != after.incarnation:
            run = self.runs[change.id] = Run(after.incarnation)
        if run.spawned_at is None and after.incarnation in self.spawned:
            run.spawned_at = now
        was = before.state if before else None
        if after.state is State.READY and was is not State.READY:
            run.ready_at = now
            if run.took_s is None and run.spawned_at is not None:
                run.took_s = now - run.spawned_at
            for share in after.occupied:
                self.changed[share.uuid] = now
        elif was is State.READY and after.state is State.UNREADY:
            run.was_healthy = run.is_healthy(after, now)
            run.ready_at = None
        elif was in {State.READY, State.UNREADY} and after.state is State.STOPPING:
            is_evicted = after.cause is Cause.CUDA_OOM and change.id in self.over
            run.was_healthy = run.is_healthy(after, self.over[change.id][1] if is_evicted else now)
            run.is_over = True  # The time that it takes to end does it no good.


def _moments(step: Step, ids: Iterable[WorkerId], *, is_new: bool) -> Iterator[list[State | None]]:
    """
    States of workers at every moment of a step: one may get ready and be asked to go within the same one.

    Where nobody came after them before, and with another file, only what that has made of them counts.
    """
    known = step.before.workers
    states = {one: known[one].state if one in known else None for one in ids}
    told = [one.transition for one in step.actions if isinstance(one, Report) and one.transition.worker in states]
    states |= {one.worker: one.after for one in told if is_new and one.cause == "Wanted"}
    yield list(states.values())
    for one in told:
        states[one.worker] = one.after
        yield list(states.values())


def could_be(spec: Spec, counts: Mapping[str, int], cpu_count: int) -> bool:
    """Whether a file allows other counts: a list has no more workers than it lists, and no port has two."""
    try:
        scaled_file(spec, counts).expand(cpu_count)
    except (SpecError, LookupError):
        return False
    return True


def scaled_file(spec: Spec, counts: Mapping[str, int]) -> Spec:
    """A file as if it had been written with these counts."""
    services = dict(spec.services)
    for name, count in counts.items():
        workers = services[name].workers
        if isinstance(workers, tuple) and count > len(workers):
            raise LookupError(name)
        again = workers[:count] if isinstance(workers, tuple) else count
        services[name] = services[name].model_copy(update={"workers": again})
    return spec.model_copy(update={"services": services})
