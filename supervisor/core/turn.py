"""
The fleet as a value, and one turn of it: a working copy that collects changes and actions while an event is handled.

Nothing outside a turn sees half of it: if it breaks, the fleet before it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from supervisor.core.checkups import Watch
from supervisor.core.environment import Host
from supervisor.core.evolve import evolve
from supervisor.core.health import Ailment
from supervisor.core.inventory import Device, GpuState, Inventory, Opener
from supervisor.core.ledger import foreign_bytes
from supervisor.core.message import Action, Dismiss, ReadInventory, Report, State, Transition
from supervisor.core.release import Sight
from supervisor.core.slices import FREE_PERCENT, WHOLE, Slice, declared_bytes, headroom_bytes
from supervisor.core.sockets import Refusal, sockets_of
from supervisor.core.spec import ServiceSpec, Spec, WorkerId, WorkerSpec
from supervisor.core.table import step
from supervisor.core.worker import FREED, HOLDING, LIVING, Worker, WorkerEvent, date_reason, is_on_its_way, reach

if TYPE_CHECKING:
    from supervisor.core.file.listen import Address

START_S = 120.0
"""After which a start that is not ready holds up nobody else; most of what a model takes of memory is taken by then."""


class DaemonState(StrEnum):
    """What the daemon as a whole is doing; CONTRACT section 4."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The host's memory as it was read last: what may be used without swapping, and all there is."""

    available_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """State of the driver as the last reading gave it, in words, and since when (monotonic seconds)."""

    state: GpuState | None = None
    detail: str = ""
    since: float = 0.0


@dataclass(frozen=True)
class Reload:
    """
    A reload under way: it takes effect when both the file and the devices have been read.

    Args:
        at: Monotonic second at which it was asked for; a reading of the devices from before that does not count.
        spec: The file, None until it was read.
        cpu_count: Read with the file.
        devices_read: Whether the driver has answered, or failed to.
        again: Asked for once more since the file was asked for, so what comes may be old.
        scaled: Counts that an operator has asked for since: it does not take these back.
    """

    at: float
    spec: Spec | None = None
    cpu_count: int = 1
    devices_read: bool = False
    again: bool = False
    scaled: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restarting:
    """A restart under way: since when (monotonic seconds), and all the workers of a service that it is about."""

    at: float
    workers: frozenset[WorkerId]


@dataclass(frozen=True, slots=True)
class Dirt:
    """
    Memory of a device that did not come back in time.

    Args:
        worker: Whose process had it.
        incarnation: Which process.
        at: Monotonic second at which it was given up.
        sight: What was seen of that process while it lived.
        reason: What is known of it, with the numbers and with who holds the device.
    """

    worker: WorkerId
    incarnation: int
    at: float
    sight: Sight
    reason: str


@dataclass(frozen=True, slots=True)
class XidSeen:
    """
    An error that the driver told of a device.

    Args:
        number: The XID.
        kind: Its class.
        at: Monotonic second at which it came.
        workers: Of ours that were on the device then.
    """

    number: int
    kind: str
    at: float
    workers: tuple[WorkerId, ...] = ()


@dataclass(frozen=True, slots=True)
class Unready:
    """A device that has not joined the NVSwitch fabric: since when (monotonic seconds), and how far it is."""

    since: float
    state: str


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended badly by itself: of which service, on which devices, and when (monotonic seconds)."""

    service: str
    devices: frozenset[str]
    at: float


@dataclass(frozen=True, slots=True)
class Roll:
    """
    A service that goes, worker by worker, from one launch to another; or did until that came to a halt.

    Args:
        at: Monotonic second at which the file came that it goes to.
        before: The service as it was in the last file to which all of it went, None for one that is new.
        is_proven: A worker has got ready with the new launch, so the others follow.
        is_halted: One did not: until the next reload everybody keeps or gets back what was before.
        room: For so many extra workers there is room; None as long as nobody has found that there is too little.
        lack: Why there is none for any, so that it goes on without; empty while nobody knows of a reason.
    """

    at: float
    before: ServiceSpec | None = None
    is_proven: bool = False
    is_halted: bool = False
    room: int | None = None
    lack: str = ""


@dataclass(frozen=True, slots=True)
class Try:
    """
    A worker that has had its turn to get a new launch, and was not ready with it so far.

    Args:
        was: What it was before and goes back to if this does not work, None if it cannot.
        at: Monotonic second at which it had its turn.
        started_at: At which its first process with the new launch was let start, None before.
    """

    was: WorkerSpec | None
    at: float
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Recycled:
    """A worker that is being recycled or was evicted: the process that had to go, and the devices that it was on."""

    incarnation: int
    devices: frozenset[str]


Holds = Mapping[WorkerId | str, bool]
"""Whether an operator holds a worker down, or a whole service; a worker's own entry counts before its service's."""


@dataclass(frozen=True, slots=True)
class LastReload:
    """How the last reload ended, and when (monotonic seconds)."""

    at: float
    ok: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fleet:
    """
    All workers and what is known of the machine. A value: `handle` makes the next one.

    Args:
        host: Facts that do not change while the daemon runs.
        started_at: Monotonic seconds.
        pool: The daemon's own restriction: UUIDs once a good inventory has resolved it, None for every GPU.
        pool_tokens: The restriction as the daemon found it, None for every GPU.
        spec: The file in force, None before the first.
        generation: How many files have been in force.
        occupied: Device UUID -> worker -> thousandths: what living or unreleased processes hold.
        claimed: Devices that are ours machine-wide: nobody is started on any other.
        claiming: Devices that were asked for, without an answer yet.
        elsewhere: Device UUID -> which other daemon has it, in words.
        bound: Where we listen for services.
        binding: Where we have asked to, without an answer yet.
        refused: Where we cannot, and when that is tried again.
        hosted: Worker -> bytes of the host's memory that it has declared, as long as it occupies anything.
        starting: Workers with a GPU that have been let start and were never ready, and until when that counts.
        in_line: Those of the waiting that wait for nothing but their turn to start.
        changed_at: Device UUID -> when a process last started, got ready or ended on it. Memory read before that is
            old.
        remembered: Where workers without a reservation last were.
        inventory: The last good reading, None before the first.
        read_at: When it came (monotonic seconds).
        host_memory: As it was read last, None before the first.
        host_asked: A reading of it is on its way.
        unmeasured: Devices of which was said that they do not tell their memory.
        sights: Workers that occupy GPUs -> device UUID -> what was seen of their newest process there.
        has_listed: A list of the driver has shown a process of ours: its pids are those of this machine.
        openers: Who has the driver's files open, by the newest reading that looked.
        openers_at: When that was asked for.
        hidden: Processes that could not be looked at.
        dirty: Device UUID -> memory there that has not come back.
        ailments: Device UUID -> what is known against it; the inventory's health follows it.
        spared: Devices of which nothing of ours is to have a file open, for somebody wants to reset them.
        canaries: Device UUID -> since when that was looked at once more for which its canary runs.
        missing: Devices that are lost and not in the inventory any more, as they were.
        parting: Lost devices that an operator has released -> when: once nothing shows them they are forgotten.
        uncorrected: Device UUID -> ECC errors that could not be corrected, as last told.
        watches: Device UUID -> what its checkups have found.
        unready: Devices that have not joined the NVSwitch fabric: nobody starts there.
        excused: Those for which an operator has said that nobody is to wait for that.
        xids: Device UUID -> the last errors that the driver told of it, oldest first.
        ended_at: Device UUID -> when we last ended a process there; the driver tells of such as of an error.
        deaths: The last ones, oldest first.
        look_at: When the driver is to be asked again by itself; None for never.
        trusted: Whether it is still the driver's word: a failed reading leaves it in force for those who
            have a slice, and places nobody new.
        asked: When the driver was asked for a reading that is not in yet.
        ask_again: Somebody needs one that is asked for after that.
        failures: Failed readings in a row.
        counts: Workers of each service.
        wants_gpu: Whether anybody in the file does.
        waiting: Workers in pending that have a place.
        unplaced: Workers in pending that have none.
        holds: What an operator holds down; it outlives workers and files.
        scaled: Service -> how many workers an operator wants instead of what the file says.
        sizes: Service -> how many workers the GPUs had place for when that was last asked; CONTRACT, Counts.
        sizes_due: It is to be asked as soon as the devices are known.
        rolls: Services whose workers go from one launch to another, and those in which that was halted.
        kept: Workers of these that for now, or until the next reload, are what they were before the file.
        tried: Those that are on their way to what the file says.
        extras: Workers beyond the count of their service, for as long as a roll-out takes (`update.surge`).
        worn: Workers that are to be recycled.
        recycling: Those that are being, until another process is ready in their place; and those that were evicted.
        greedy: Workers that have had more of a GPU than they have declared for long enough.
        restarting: Services in which workers wait for their turn to be restarted.
        deadline: The fleet's own: look at the driver or at a sick device, or, while stopping, give up. None for never.
        exiting: It has said Exit.
        been_ready: Services, of those that others come after, whose workers were all ready at one moment.
        awaited: The rest of those that have workers -> how many of them are ready, in words.
        given_up: Workers that are not gone in time while the daemon stops: nobody waits for them any more.
        touched: Workers that the last event changed, for whoever keeps their deadlines.
    """

    host: Host = field(default_factory=Host)
    started_at: float = 0.0
    pool_tokens: tuple[str, ...] | None = None
    pool: tuple[str, ...] | None = None
    state: DaemonState = DaemonState.STARTING
    spec: Spec | None = None
    cpu_count: int = 1
    generation: int = 0
    workers: Mapping[WorkerId, Worker] = field(default_factory=dict)
    occupied: Mapping[str, Mapping[WorkerId, int]] = field(default_factory=dict)
    claimed: frozenset[str] = frozenset()
    claiming: frozenset[str] = frozenset()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    bound: frozenset[Address] = frozenset()
    binding: frozenset[Address] = frozenset()
    refused: Mapping[Address, Refusal] = field(default_factory=dict)
    hosted: Mapping[WorkerId, int] = field(default_factory=dict)
    starting: Mapping[WorkerId, float] = field(default_factory=dict)
    in_line: frozenset[WorkerId] = frozenset()
    changed_at: Mapping[str, float] = field(default_factory=dict)
    remembered: Mapping[WorkerId, Slice] = field(default_factory=dict)
    incarnations: int = 0
    inventory: Inventory | None = None
    host_memory: HostMemory | None = None
    host_asked: bool = False
    unmeasured: frozenset[str] = frozenset()
    sights: Mapping[WorkerId, Mapping[str, Sight]] = field(default_factory=dict)
    has_listed: bool = False
    openers: tuple[Opener, ...] = ()
    openers_at: float | None = None
    hidden: int = 0
    dirty: Mapping[str, Dirt] = field(default_factory=dict)
    ailments: Mapping[str, Ailment] = field(default_factory=dict)
    spared: frozenset[str] = frozenset()
    canaries: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, Device] = field(default_factory=dict)
    parting: Mapping[str, float] = field(default_factory=dict)
    uncorrected: Mapping[str, int] = field(default_factory=dict)
    watches: Mapping[str, Watch] = field(default_factory=dict)
    unready: Mapping[str, Unready] = field(default_factory=dict)
    excused: frozenset[str] = frozenset()
    xids: Mapping[str, tuple[XidSeen, ...]] = field(default_factory=dict)
    ended_at: Mapping[str, float] = field(default_factory=dict)
    deaths: tuple[Death, ...] = ()
    look_at: float | None = None
    read_at: float = 0.0
    trusted: bool = False
    gpu: Gpu = field(default_factory=Gpu)
    asked: float | None = None
    ask_again: bool = False
    failures: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    wants_gpu: bool = False
    waiting: frozenset[WorkerId] = frozenset()
    unplaced: frozenset[WorkerId] = frozenset()
    holds: Holds = field(default_factory=dict)
    scaled: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    sizes_due: bool = False
    rolls: Mapping[str, Roll] = field(default_factory=dict)
    kept: Mapping[WorkerId, WorkerSpec] = field(default_factory=dict)
    tried: Mapping[WorkerId, Try] = field(default_factory=dict)
    extras: frozenset[WorkerId] = frozenset()
    worn: frozenset[WorkerId] = frozenset()
    recycling: Mapping[WorkerId, Recycled] = field(default_factory=dict)
    greedy: frozenset[WorkerId] = frozenset()
    restarting: Mapping[str, Restarting] = field(default_factory=dict)
    reload: Reload | None = None
    last_reload: LastReload | None = None
    deadline: float | None = None
    exiting: bool = False
    been_ready: frozenset[str] = frozenset()
    awaited: Mapping[str, str] = field(default_factory=dict)
    given_up: frozenset[WorkerId] = frozenset()
    touched: frozenset[WorkerId] = frozenset()

    @property
    def rolling(self) -> frozenset[str]:
        """Services in which workers wait for their turn to get a new launch."""
        return frozenset(name for name, roll in self.rolls.items() if not roll.is_halted)

    def is_held(self, worker: WorkerId) -> bool:
        """Whether an operator holds a worker down, be it there or not."""
        return self.holds.get(worker, self.holds.get(worker.service, False))


class Turn:
    """
    A working copy of the fleet for one event. Copies what it writes, so the fleet it came from stays as it was.

    Attributes:
        stale: The plan does not hold any more: a worker has no place that may now have one, or lost the one it had.
        has_moved: Somebody is placed on other devices than before, so what is claimed may have to change.
        has_other_sockets: Somebody has or wants others than before, so what is bound may have to change.
        before: The fleet that the event came to.
        has_read: The event is what the driver says of its devices.
        has_read_host: The event is what the host says of its memory.
    """

    def __init__(self, fleet: Fleet, now: float) -> None:
        self.now = now
        self.fleet = fleet
        self.actions: list[Action] = []
        self.stale = False
        self.has_moved = False
        self.has_other_sockets = False
        self.before = fleet
        self.has_read = False
        self.has_read_host = False
        self._is_own = False
        self._workers: dict[WorkerId, Worker] | None = None
        self._touched: set[WorkerId] = set()

    @property
    def workers(self) -> Mapping[WorkerId, Worker]:
        """Workers as they are in this turn."""
        return self.fleet.workers if self._workers is None else self._workers

    @property
    def touched(self) -> frozenset[WorkerId]:
        """Workers that have changed in this turn so far."""
        return frozenset(self._touched)

    def set(self, **changes: object) -> None:
        """Change fields of the fleet."""
        if not self._is_own:
            self.fleet, self._is_own = evolve(self.fleet), True
        for name, value in changes.items():
            # Frozen for everybody else; this copy is nobody else's yet.
            object.__setattr__(self.fleet, name, value)

    def do(self, *actions: Action) -> None:
        """Add actions, in order. The driver is asked for one reading at a time."""
        for action in actions:
            if isinstance(action, ReadInventory):
                self._ask(action)
            else:
                self.actions.append(action)

    def tell(self, worker: WorkerId, event: WorkerEvent, *, cause: str = "") -> None:
        """Let one worker take one step."""
        before = self.workers[worker]
        after, actions = step(before, event, self.now)
        self.put(before, after, cause=cause or type(event).__name__)
        self.do(*actions)

    def put(self, before: Worker | None, after: Worker | None, *, cause: str) -> None:
        """Take a worker's step into the books: devices, waiting list, report."""
        one = after or before
        assert one is not None
        self._write(one.id, after)
        self._book(before, after)
        self._book_start(before, after)
        self._book_host(before, after)
        self._queue(before, after)
        self.has_moved |= reach(before) != reach(after)
        self.has_other_sockets |= sockets_of(before) != sockets_of(after)
        if after is None:
            self.actions.append(Dismiss(one.id))
        if (before.state if before else None) is not (after.state if after else None):
            self.actions.append(Report(_transition(before, after, cause, self.now)))

    def change(self, after: Worker) -> None:
        """Change what is known of a worker without a step: a reason, a deadline."""
        self._write(after.id, after)

    def done(self) -> tuple[Fleet, tuple[Action, ...]]:
        """The next fleet and what is to be done."""
        self.set(workers=self.workers, touched=frozenset(self._touched))
        return self.fleet, tuple(self.actions)

    def _write(self, worker: WorkerId, after: Worker | None) -> None:
        if self._workers is None:
            self._workers = dict(self.fleet.workers)
        if after is None:
            self._workers.pop(worker, None)
        else:
            before = self._workers.get(worker)
            self._workers[worker] = after if before is None else date_reason(before, after, self.now)
        self._touched.add(worker)

    def _queue(self, before: Worker | None, after: Worker | None) -> None:
        """Who waits for admission, who for a place, and whether that makes the plan stale."""
        was, now = _queue_of(before), _queue_of(after)
        one = after or before
        assert one is not None
        if was != now:
            for name, queue in (("waiting", self.fleet.waiting), ("unplaced", self.fleet.unplaced)):
                if name == now:
                    self.set(**{name: queue | {one.id}})
                elif name == was:
                    self.set(**{name: queue - {one.id}})
            self.stale |= now == "unplaced"
        backs_off = one.state is State.BACKOFF and (before is None or before.state is not State.BACKOFF)
        if (now == "waiting" and was != now) or (after is not None and backs_off):
            self.stale |= self._lost_its_place(one)
        waits = self.fleet.unplaced or ((self.fleet.dirty or self.fleet.unready) and self.fleet.waiting)
        if waits and (after is None or after.state in FREED) and before and before.state not in FREED:
            self.stale = True

    def _lost_its_place(self, worker: Worker) -> bool:
        """
        Whether what is reserved for a worker is of no use any more.

        The last good reading does not show a device of it, or shows it as sick or cut up, or those who live there leave
        it too little memory, or memory of the dead is still there, or it cannot be used yet; or it is none at all, and
        the file does not allow that any more.
        """
        fleet = self.fleet
        if worker.target is None or worker.target.launch is None:
            return False
        if worker.target.fallback and worker.policy.on_no_gpu != "cpu":
            return True
        if fleet.inventory is None:
            return False
        if any(share.uuid in fleet.dirty or share.uuid in fleet.unready for share in worker.target.launch.slice):
            return True
        devices = [fleet.inventory.by_uuid.get(share.uuid) for share in worker.target.launch.slice]
        return any(one is None or not one.is_usable or one.is_cut or self._is_full(worker, one) for one in devices)

    def _is_full(self, worker: Worker, device: Device) -> bool:
        """
        Whether a worker would wait for memory on a device: others have declared it, or strangers have it.

        Who lives keeps what it has declared, whatever the file says now.
        """
        total = device.memory_total_bytes
        if total is None or worker.target is None or worker.target.launch is None:
            return False
        foreign = foreign_bytes((device,)).get(0, 0)
        own = declared_bytes(worker.target, total)
        if not own:
            is_whole = all(share.millis == WHOLE for share in worker.target.launch.slice)
            return is_whole and 100 * (total - foreign) < FREE_PERCENT * total
        others = (self.workers[one].held for one in self.fleet.occupied.get(device.uuid, ()) if one != worker.id)
        declared = sum(declared_bytes(placement, total) for placement in others if placement)
        headroom = headroom_bytes(self.fleet.spec.daemon.headroom if self.fleet.spec else None, total)
        return own + max(declared, foreign) + headroom > total

    def _book(self, before: Worker | None, after: Worker | None) -> None:
        """Occupied devices: what the process of a worker holds until its memory is back."""
        old = before.occupied if before and before.state in HOLDING else ()
        new = after.occupied if after and after.state in HOLDING else ()
        one = after or before
        assert one is not None
        ended = before is not None and after is not None and before.pid != after.pid
        got_ready = before is not None and after is not None and after.was_ready and not before.was_ready
        is_gone = before is not None and before.state in LIVING and (after is None or after.state not in LIVING)
        if old == new and not ((ended or got_ready or is_gone) and old):
            return
        occupied = dict(self.fleet.occupied)
        for share in old:
            left = {worker: millis for worker, millis in occupied[share.uuid].items() if worker != one.id}
            occupied[share.uuid] = left
        for share in new:
            occupied[share.uuid] = {**occupied.get(share.uuid, {}), one.id: share.millis}
        changed = {**self.fleet.changed_at, **{share.uuid: self.now for share in (*old, *new)}}
        remembered = {**self.fleet.remembered, one.id: new} if new else self.fleet.remembered
        self.set(
            occupied={uuid: who for uuid, who in occupied.items() if who}, changed_at=changed, remembered=remembered
        )

    def _book_start(self, before: Worker | None, after: Worker | None) -> None:
        """Starts that are under way; nobody else starts on their devices, and only so many at once."""
        was, now = is_on_its_way(before), is_on_its_way(after)
        one = after or before
        assert one is not None
        if was and not now:
            self.set(starting={worker: until for worker, until in self.fleet.starting.items() if worker != one.id})
        elif now and not was:
            self.set(starting={**self.fleet.starting, one.id: self.now + START_S})

    def _book_host(self, before: Worker | None, after: Worker | None) -> None:
        """What those who occupy anything have declared of the host's memory."""
        old, new = _hosted_bytes(before), _hosted_bytes(after)
        one = after or before
        assert one is not None
        if old != new:
            hosted = {worker: amount for worker, amount in self.fleet.hosted.items() if worker != one.id}
            self.set(hosted=hosted if new is None else {**hosted, one.id: new})

    def _ask(self, action: ReadInventory) -> None:
        if self.fleet.failures and not action.fresh:
            return  # Asked again on its own schedule, however many wait for it.
        if self.fleet.asked is not None and not action.fresh:
            self.set(ask_again=True)
            return
        self.set(asked=self.now)
        self.actions.append(action)


def _hosted_bytes(worker: Worker | None) -> int | None:
    if worker is None or worker.state not in HOLDING or worker.held is None:
        return None
    return worker.held.wanted.recipe.memory


def _queue_of(worker: Worker | None) -> str:
    if worker is None or worker.state is not State.PENDING or worker.target is None:
        return ""
    return "waiting" if worker.target.launch else "unplaced"


def _transition(before: Worker | None, after: Worker | None, cause: str, now: float) -> Transition:
    one = after or before
    assert one is not None
    fields: dict[str, object] = {}
    if one.pid is not None:
        fields["pid"] = one.pid
    last = one.last_exit
    if last is not None and before is not None and last is not before.last_exit:
        fields |= {"exit_code": last.code, "signal": last.signal, "exit_cause": str(last.cause)}
        if before.spawned_at is not None:
            fields["uptime_s"] = round(now - before.spawned_at, 3)
    if after is not None and after.state is State.BACKOFF and after.deadline is not None:
        fields["retry_in_s"] = round(after.deadline - now, 3)
    if before is not None and after is not None and after.release is not before.release and after.release is not None:
        fields |= {"released_in_s": round(after.release.took_s, 3), "proof": after.release.proof.name.lower()}
    if one.occupied:
        fields["devices"] = [share.uuid for share in one.occupied]
    return Transition(
        worker=one.id,
        incarnation=one.incarnation,
        before=before.state if before else None,
        after=after.state if after else None,
        cause=cause,
        at=now,
        reason=after.reason if after else "",
        fields=fields,
    )
