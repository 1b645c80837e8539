"""
A daemon's life in virtual time: the real core, driven as the real daemon drives it, on a machine that is made up.

One seed, one life: everything that is drawn comes from one generator. No asyncio, no clock, no processes.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from typing import assert_never

from supervisor.core.environment import Host
from supervisor.core.fleet import handle
from supervisor.core.message import (
    Action,
    Bind,
    Claim,
    Dismiss,
    EndStopCommand,
    Event,
    ExamineTree,
    Exit,
    Exited,
    FinishReload,
    KillTree,
    LetGo,
    Probe,
    ProbeAlive,
    ReadHost,
    ReadInventory,
    ReadSpec,
    Redirect,
    Report,
    RunCanary,
    RunStopCommand,
    Say,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    SpecLoaded,
    Stalled,
    TimePassed,
    TreeGone,
    Unbind,
)
from supervisor.core.stall import is_counted
from supervisor.core.trace import describe, describe_action
from supervisor.core.turn import Fleet
from supervisor.daemon.inbox import Deadlines
from supervisor.daemon.pulse import Pulse
from tests.sim.addresses import FakeAddresses, put_sockets
from tests.sim.agenda import Agenda
from tests.sim.cuts import furnish, lend, old_name
from tests.sim.devices import GIB, FakeDevices, Gpu
from tests.sim.greed import Greed
from tests.sim.invariants import Checks
from tests.sim.locks import FakeLocks
from tests.sim.nature import GOOD, Nature, draw_nature, draw_odds
from tests.sim.processes import FakeProcesses, Tree
from tests.sim.ram import Ram
from tests.sim.sickness import Sickness, put_health
from tests.sim.specs import Document, Writer, read
from tests.sim.symptoms import Symptoms
from tests.sim.trouble import Step, TroubleError

ENVIRON = {"PATH": "/usr/bin", "CUDA_VISIBLE_DEVICES": "7", "NVIDIA_VISIBLE_DEVICES": "all", "RANK": "3"}
ENVIRON |= {"MKL_NUM_THREADS": "9", "MASTER_PORT": "1"}
STEPS_MAX = 30_000
TAIL = 60


class World:
    """
    One machine, one daemon.

    Args:
        seed: Decides everything.
        keep_trace: Keep every line instead of the last ones.
    """

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.rng = random.Random(seed)
        self.agenda = Agenda()
        self.lines: deque[str] = deque(maxlen=None if keep_trace else TAIL)
        self.steps = 0
        self.is_healed = False
        self.frozen_until = 0.0
        self.exit: Exit | None = None
        self.cpu_count = self.rng.randint(1, 3)
        self.told: list[Event] = []
        self.odds = draw_odds(self.rng)
        self.gpus = self._draw_gpus()
        furnish(self.gpus, random.Random(f"hardware {seed}"))
        self.writer = Writer(self.rng, self.gpus)
        self.addresses = FakeAddresses(self.agenda, self.post, random.Random(f"sockets {seed}"))
        self.sickness = Sickness(self, seed)
        self.greed = Greed(self, random.Random(f"greed {seed}"))
        self.document = self.write()
        self.devices = FakeDevices(self.agenda, self.post, self.rng, self.gpus)
        manners = random.Random(f"lists {seed}")
        self.devices.drops_the_dead = manners.random() < 0.5
        self.devices.shows_files = manners.random() < 0.5
        self.devices.omits = manners.choice((0, 0, 0, 2, 3))
        self.symptoms = Symptoms(self, random.Random(f"symptoms {seed}"))
        self.symptoms.furnish()
        self.ram = Ram(self.agenda, self.rng)
        lend(self.ram, self.gpus)
        self.locks = FakeLocks(self.agenda, self.post, self.rng)
        self.processes = FakeProcesses(self.agenda, self.post, self._draw, self._release)
        self.fleet = Fleet(host=Host(ENVIRON), started_at=self.agenda.now, pool_tokens=self._draw_pool())
        self.checks = Checks(self)
        self.hears: list[Callable[[Step], None]] = []
        self._hash = hashlib.blake2b(digest_size=16)
        self._inbox: deque[Event] = deque()
        self.deadlines = Deadlines()
        self.pulse = Pulse()
        self.wake_at: float | None = None
        self._frozen: list[tuple[float, float]] = []

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.agenda.now

    @property
    def digest(self) -> str:
        """Of everything that was said so far."""
        return self._hash.hexdigest()

    def post(self, event: Event) -> None:
        """Let the daemon see an event."""
        self._inbox.append(event)

    def load_first(self) -> None:
        """The daemon starts with a good file."""
        while not isinstance(event := read(self.document, self.cpu_count), SpecLoaded):
            self.document = self.write()
        self.post(event)

    def write(self) -> Document:
        """A whole file."""
        written = put_sockets(self.writer.write(), self.addresses.rng, 0.3)
        return self.greed.put(self._with_health(written))

    def _with_health(self, document: Document) -> Document:
        if not self.sickness.is_on or self.is_healed:
            return document
        return put_health(document, self.sickness.rng, self.sickness.patience)

    def edit(self) -> None:
        """Somebody works on the file."""
        edited = self._with_health(put_sockets(self.writer.edit(self.document), self.addresses.rng, 0.15))
        self.document = self.greed.put(edited) if self.greed.rng.random() < 0.3 else edited

    def freeze(self, seconds: float) -> None:
        """The daemon does not run for so long."""
        self.frozen_until = max(self.frozen_until, self.now + seconds)
        self._frozen.append((self.now, seconds))

    def thaw(self) -> None:
        """It runs from now on."""
        self.frozen_until = 0.0
        self._frozen = [(at, min(lasted, self.now - at)) for at, lasted in self._frozen]

    def frozen_since(self, second: float) -> float:
        """For how many seconds since then it did not run."""
        spans = [(max(at, second), min(at + lasted, self.now)) for at, lasted in self._frozen]
        latest, total = second, 0.0
        for start, end in spans:
            total += max(0.0, end - max(start, latest))
            latest = max(latest, end)
        return total

    def freezes_since(self, second: float) -> int:
        """How often since then it did not run."""
        return sum(at + lasted >= second for at, lasted in self._frozen)

    # ---- time -------------------------------------------------------------------------------------------------------

    def run(self, until: float) -> None:
        """Let the world and the daemon live until a second, or until the daemon has said Exit."""
        while self.exit is None:
            at = self._next_at()
            if at is None or at > until:
                break
            self.agenda.now = max(at, self.now)
            self.agenda.run_due()
            if self.now >= self.frozen_until:
                self._turn()
        self.agenda.now = max(self.now, until) if self.exit is None else self.now

    def _next_at(self) -> float | None:
        coming = [self.agenda.next_at()]
        wake = self.now if self._inbox else self.wake_at
        if wake is not None:
            coming.append(max(wake, self.frozen_until))
        return min((at for at in coming if at is not None), default=None)

    def _turn(self) -> None:
        """One turn of the daemon's loop."""
        if lost_s := self.pulse.lost_s(self.now):
            self._decide(Stalled(lost_s))
        events = tuple(self._inbox)
        self._inbox.clear()
        for event in events:
            self._decide(event)
        if (due := self.deadlines.take_due(self.now)) is not None:
            self._decide(TimePassed(due))
        self.wake_at = self.pulse.plan(self.now, (self.deadlines.earliest(),))

    def _decide(self, event: Event) -> None:
        if self.exit is not None:
            return
        before = self.fleet
        mark = self.checks.fingerprint(before)
        fleet, actions = handle(before, event, self.now)
        if mark != self.checks.fingerprint(before):
            raise TroubleError("fleets_are_values", f"{type(event).__name__} changed the fleet it came to")
        self.fleet = fleet
        for worker_id in sorted(fleet.touched):  # Two deadlines of one moment come in the order in which they were set.
            worker = fleet.workers.get(worker_id)
            self.deadlines.set(worker_id, worker.deadline if worker else None)
            self.pulse.note(worker_id, is_counted=is_counted(worker))
        self.deadlines.set(None, fleet.deadline)
        self._note(event, actions)
        step = Step(before, event, actions, fleet, self.now)
        for hear in self.hears:
            hear(step)
        self.checks.before_acting(step)
        for action in actions:
            self._perform(action)
        self.checks.after_acting(step)

    def _perform(self, action: Action) -> None:
        match action:
            case Spawn():
                self.processes.spawn(action)
                tree = self.processes.tree_of(action.worker)
                assert tree is not None
                self.devices.watch(tree)
                self.greed.watch(tree)
                self.ram.watch(tree)
            case Signal():
                self.processes.signal(action)
            case RunStopCommand():
                self.processes.run_stop_command(action)
            case EndStopCommand():
                self.processes.end_stop_command(action)
            case ExamineTree():
                self.processes.examine(action)
            case KillTree():
                self.processes.kill_tree(action)
            case Probe():
                self.processes.probe(action)
            case ProbeAlive():
                self.processes.probe_alive(action)
            case ReadSpec():
                self.agenda.after(self.rng.uniform(0.001, 0.02), lambda: self.post(read(self.document, self.cpu_count)))
            case ReadInventory(fresh=fresh):
                self.devices.read(fresh=fresh)
            case ReadHost():
                self.post(self.ram.look())
            case RunCanary(uuid=uuid):
                self.devices.run_canary(uuid)
            case Claim(uuids=uuids):
                self.locks.claim(uuids)
            case LetGo(uuids=uuids):
                self.locks.let_go(uuids)
            case Bind(addresses=addresses):
                self.addresses.bind(addresses)
            case Unbind(addresses=addresses):
                self.addresses.unbind(addresses)
            case Exit():
                self.exit = action
            case Dismiss() | Redirect() | Report() | Say() | FinishReload():
                pass
            case _:
                assert_never(action)

    def _release(self, tree: Tree) -> None:
        self.devices.release(tree)
        self.ram.release(tree)

    # ---- what is drawn ----------------------------------------------------------------------------------------------

    def _draw(self, order: Spawn) -> Nature:
        if self.is_healed or self.greed.is_good():
            return GOOD
        return draw_nature(self.rng, self.odds)

    def _draw_gpus(self) -> list[Gpu]:
        rng = self.rng
        totals = [16 * GIB] * 4 + [80 * GIB, None]
        return [
            Gpu(f"GPU-{rng.getrandbits(16):04x}-{slot}", slot, rng.choice(totals))
            for slot in range(rng.choice((0, 1, 2, 2, 3, 4)))
        ]

    def _draw_pool(self) -> tuple[str, ...] | None:
        rng = self.rng
        if rng.random() < 0.85:
            return None
        chosen = rng.sample(self.gpus, rng.randint(0, len(self.gpus)))
        if (parts := [part for gpu in self.gpus for part in gpu.parts]) and rng.random() < 0.6:
            some = rng.sample(parts, rng.randint(1, len(parts)))
            return tuple(old_name(part) if rng.random() < 0.2 else part.uuid for part in some)
        if rng.random() < 0.5:
            return tuple(gpu.uuid for gpu in chosen)
        return tuple(str(gpu.slot) for gpu in chosen)

    # ---- the trace --------------------------------------------------------------------------------------------------

    def _note(self, event: Event, actions: tuple[Action, ...]) -> None:
        self.steps += 1
        line = f"{self.now:12.4f} {describe(event)}"
        if actions:
            line += " -> " + " ".join(describe_action(action) for action in actions)
        self.lines.append(line)
        self._hash.update(line.encode())
        if isinstance(event, Spawned | SpawnFailed | Exited | TreeGone):
            self.told.append(event)
        if self.steps > STEPS_MAX:
            raise TroubleError("comes_to_rest", f"more than {STEPS_MAX} steps")
