"""
The daemon: facts come in as events, the core decides, what it decides is done. `Daemon.supervise` is the main loop.

Owns the wiring and nothing else: every effect is done by the part of `host` that owns it, every decision by `core`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import assert_never

import structlog
from aiohttp import web

from supervisor import __version__, rendezvous
from supervisor.core.environment import Host
from supervisor.core.inventory import Device
from supervisor.core.message import (
    Action,
    Bind,
    Claim,
    Dismiss,
    EndStopCommand,
    Event,
    ExamineTree,
    Exit,
    FinishReload,
    HostRead,
    InventoryRead,
    KillTree,
    LetGo,
    Probe,
    ProbeAlive,
    ReadHost,
    ReadInventory,
    ReadSpec,
    Redirect,
    ReloadRequested,
    Report,
    RunCanary,
    RunStopCommand,
    Say,
    ShutdownRequested,
    Signal,
    Spawn,
    SpecLoaded,
    Stalled,
    TimePassed,
    Unbind,
)
from supervisor.core.mishap import take
from supervisor.core.snapshot import Json, View
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.stall import is_counted
from supervisor.core.turn import Fleet
from supervisor.core.witnesses import wants_openers
from supervisor.daemon import survey
from supervisor.daemon.chronicle import Chronicle
from supervisor.daemon.door import Door
from supervisor.daemon.endpoints import EndpointFiles
from supervisor.daemon.face import DaemonFace
from supervisor.daemon.gauges import Gauges
from supervisor.daemon.hands import Hands
from supervisor.daemon.herald import Herald
from supervisor.daemon.hooks import Hooks, Means
from supervisor.daemon.inbox import Deadlines, Inbox
from supervisor.daemon.meter import Meter
from supervisor.daemon.pulse import Pulse
from supervisor.daemon.reader import SpecReader
from supervisor.daemon.recorder import Recorder
from supervisor.daemon.report import log_transition
from supervisor.daemon.sentry import Sentry
from supervisor.daemon.sickroom import Sickroom
from supervisor.daemon.tally import Tally
from supervisor.daemon.telling import Telling
from supervisor.daemon.web import WebDoor
from supervisor.errors import InvariantBrokenError
from supervisor.front import api
from supervisor.host import limits
from supervisor.host.activation import Inherited, find_control, take_sockets
from supervisor.host.clock import Clock
from supervisor.host.console import configure_logging, wants_colour
from supervisor.host.crashes import Crashes, crashes_path, state_folder
from supervisor.host.devices import Devices
from supervisor.host.files import SpecRefused
from supervisor.host.flight import Ring
from supervisor.host.leftovers import MARK, Ledger, make_mark, state_path, sweep
from supervisor.host.locks import Locks
from supervisor.host.machine import installed_vendors, read_memory
from supervisor.host.sickbay import sickbay_path
from supervisor.host.sink import Sink
from supervisor.host.sockets import adopt_control, bind_control
from supervisor.host.systemd import Manager, Notifier, find_manager, find_unit, is_journal

log = structlog.get_logger()

STORY_LENGTH = 64
"""Events kept for the log line of a broken invariant."""


def run(file: Path, *, instance: str | None, socket: str | None, pool_all: bool) -> int:
    """
    Run the daemon in the foreground until it is asked to end.

    Args:
        file: The service file.
        instance: Name of this daemon among several of one user.
        socket: Path of the control socket, None for the usual one.
        pool_all: Ignore an inherited `CUDA_VISIBLE_DEVICES`.

    Returns:
        0 when everything ended as asked, 1 when something is stuck.

    Raises:
        SpecRefused: The file is bad (exit 78).
        CannotError: It cannot start; 75 when another daemon has the socket.
    """
    inherited = take_sockets(os.environ, os.getpid())
    manager = find_manager(os.environ, os.getpid())
    reader = SpecReader(file, os.environ)
    first = reader.read()
    if not isinstance(first, SpecLoaded):
        raise SpecRefused(first.problems)
    pool = survey.find_pool(os.environ, pool_all=pool_all)
    path = rendezvous.control_path(socket, instance, os.environ, os.geteuid())
    given = find_control(inherited, str(path))
    inherited = tuple(one for one in inherited if one is not given)
    door = Door(bind_control(path) if given is None else adopt_control(given.socket, given.path))
    try:
        limits.raise_descriptor_limit()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(
                _run(reader, first, door, pool=pool, instance=instance or "", manager=manager, inherited=inherited)
            )
    finally:
        door.close()


async def _run(
    reader: SpecReader,
    first: SpecLoaded,
    door: Door,
    *,
    pool: tuple[str, ...] | None,
    instance: str,
    manager: Manager | None,
    inherited: tuple[Inherited, ...],
) -> int:
    if manager is not None and manager.watchdog_s is not None:
        faulthandler.enable()  # The watchdog's SIGABRT then leaves in the journal where the loop was stuck.
    sink = Sink(2)
    is_terminal = sys.stderr.isatty()
    configure_logging(
        sink,
        log_format=first.spec.daemon.log_format,
        is_terminal=is_terminal,
        colour=wants_colour(os.environ, is_terminal=is_terminal),
        is_journal=is_journal(os.environ, 2),
    )
    daemon = Daemon(reader, Clock(), sink, pool=pool, instance=instance, manager=manager, inherited=inherited)
    try:
        return await daemon.run(first, door)
    finally:
        sink.close()


class Daemon:
    """
    One fleet and the machine under it.

    Args:
        reader: Reads the service file.
        clock: Time.
        sink: Where log lines and workers' output go.
        pool: What an inherited restriction leaves to us, None for every GPU.
        instance: Name of this daemon, or empty.
        manager: The service manager that started us, None without one.
        inherited: Sockets that it has bound for our services.
    """

    def __init__(
        self,
        reader: SpecReader,
        clock: Clock,
        sink: Sink,
        *,
        pool: tuple[str, ...] | None,
        instance: str,
        manager: Manager | None = None,
        inherited: tuple[Inherited, ...] = (),
    ) -> None:
        self.clock = clock
        self.fleet = Fleet(
            host=Host(dict(os.environ), installed_vendors()), started_at=clock.monotonic(), pool_tokens=pool
        )
        self.reader = reader
        self.inbox = Inbox(clock.monotonic)
        self.tally = Tally()
        self.face = DaemonFace(self)
        self._web = WebDoor(self.face, self.face.notice)
        self._deadlines = Deadlines()
        self._pulse = Pulse()
        self._instance = instance
        self._unit = find_unit(os.environ, os.getpid())
        self._story: deque[Event] = deque(maxlen=STORY_LENGTH)
        self._status: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hands = Hands(
            lambda: self.fleet, self.post, self._start, sink=sink, tally=self.tally, inherited=inherited
        )
        self.telling = Telling(self._hands.outputs, clock.rfc3339)
        processes = self._hands.processes
        self._devices = Devices(
            processes,
            clock.monotonic,
            os.environ,
            owners=processes.read_owners,
            spared=lambda: self.fleet.spared,
        )
        self.gauges = Gauges(
            lambda: self.fleet,
            processes.find_root,
            lambda: self.read_inventory(sensors=True),
            lambda: (self._devices.sensors, self._devices.silent_sensor),
            clock.monotonic,
        )
        self._locks = Locks(self.post, processes)
        folder = str(reader.file.absolute().parent)
        self._sickroom = Sickroom(processes, os.environ, folder, self.post)
        self._sentry = Sentry(processes, os.environ, self.post)
        self._inherited = inherited
        self._ledger: Ledger | None = None
        self._crashes: Crashes | None = None
        self._recorder: Recorder | None = None
        self.chronicle = Chronicle(clock.rfc3339, self._bury)
        means = (clock.rfc3339, clock.monotonic, self.tally.hooked)
        self._hooks = Hooks(Means(processes, os.environ, folder, self._describe, *means))
        self._endpoints = EndpointFiles(processes, os.environ, folder, self._hooks.warn)
        self._herald = None
        if manager is not None:
            self._herald = Herald(
                Notifier(manager.address),
                watchdog_s=manager.watchdog_s,
                monotonic=clock.monotonic,
                call_later=asyncio.get_running_loop().call_later,
            )

    async def run(self, first: SpecLoaded, door: Door) -> int:
        """Serve and supervise until the core says Exit; then leave nothing behind."""
        self._watch_signals(door)
        mark, ledger = make_mark(door.path), state_path(door.path, os.environ)
        await sweep(ledger, mark)
        self._hands.processes.mark = {MARK: mark}
        self._ledger = Ledger(ledger, self._read_pids)
        self._crashes = Crashes(crashes_path(door.path, os.environ))
        self._recorder = Recorder(Ring(state_folder("flight", door.path, os.environ)), self.clock, os.urandom(16))
        self.fleet = self._sickroom.recall(sickbay_path(door.path, os.environ), self.fleet, self.clock.monotonic())
        self._recorder.begin(self.fleet)
        self._hands.use_cgroups(first.spec)
        await self._hands.processes.start()
        server = web.AppRunner(api.make_app(self.face))
        await server.setup()
        assert server.server is not None
        await door.open(server.server)
        log.info("daemon.started", pid=os.getpid(), file=str(self.reader.file), socket=str(door.path))
        self.post(HostRead(*read_memory()))  # For what can be told before anybody asks for memory.
        self._tell_of_inherited(first.spec)
        await self._web.take(first.spec.daemon, self.reader.token)
        self.post(first)
        self._start(Meter(lambda: self.fleet, self._hands.processes.find_root, self.post).run())
        try:
            return await self.supervise()
        finally:
            door.shut()
            await self._close(server)
            log.info("daemon.stopped", status=self._status)
            if self._herald is not None:
                self._herald.close("stopped" if self._status == 0 else "ended with workers that could not be killed")

    def _tell_of_inherited(self, spec: Spec) -> None:
        """Sockets that were bound for us and that no service of the file has: the two do not say the same."""
        wanted = {
            one.address: f"{name}.{one.name}" for name, service in spec.services.items() for one in service.listen
        }
        for one in self._inherited:
            if one.address in wanted:
                log.info("socket.inherited", name=one.name, address=str(one.address), socket=wanted[one.address])
                continue
            meant = next((str(at) for at, name in wanted.items() if name == one.name), None)
            reason = "no service of the file listens there" if meant is None else f"the file says {meant}"
            if one.address is None:
                reason = "it is no stream socket that listens at an IP address or a path"
                one.socket.close()
            log.warning("socket.unclaimed", name=one.name, address=one.address and str(one.address), reason=reason)

    async def supervise(self) -> int:
        """The main loop: wait for events or the earliest deadline, decide, act."""
        while self._status is None:
            await self.inbox.wait(self._wake_at())
            if lost_s := self._pulse.lost_s(self.clock.monotonic()):
                log.warning("daemon.stalled", lost_s=round(lost_s, 3))
                self._hands.forgive(lost_s)
                self._decide(Stalled(lost_s))
            if (delay_s := self.inbox.delay_s) is not None:
                self.tally.delayed(delay_s)
            for event in self.inbox.take():
                self._decide(event)
            if (due := self._deadlines.take_due(self.clock.monotonic())) is not None:
                self._decide(TimePassed(due))
            if self._recorder is not None:
                self._recorder.flush(self.fleet)
            if self._herald is not None:
                self._herald.turned()
        return self._status

    def _wake_at(self) -> float | None:
        """When the loop has to turn though nothing happens: for a deadline, or as a sign of life that is asked for."""
        earliest = self._deadlines.earliest()
        ping_at = self._herald.ping_at if self._herald is not None else None
        return self._pulse.plan(self.clock.monotonic(), (earliest, ping_at))

    def post(self, event: Event) -> None:
        """Let the main loop see an event. Called by every part that learns something."""
        self.inbox.put(event)

    def decide(self, event: Event) -> None:
        """Let the core see an event now, outside the main loop; what waits in the inbox comes after it."""
        self._decide(event)
        self.inbox.wake()

    @property
    def view(self) -> View:
        """What snapshots need beside the fleet."""
        return View(
            rfc3339=self.clock.rfc3339,
            pid=os.getpid(),
            version=__version__,
            file=str(self.reader.file),
            instance=self._instance,
            unit=self._unit,
            envs=self._hands.envs,
            lacks=self._hands.surroundings.lacks,
            http=self._web.state,
        )

    def _decide(self, event: Event) -> None:
        event = self._hands.complete(event, self._decide)
        self._story.append(event)
        now = self.clock.monotonic()
        taken = take(self.fleet, event, now)
        before, fleet, actions = self.fleet, taken.fleet, taken.actions
        self.fleet = fleet
        if taken.error is not None:
            self._tell_broken(now, event, taken.error)
            self._deadlines.set(None, fleet.deadline)
            if isinstance(event, TimePassed) and event.workers:
                # Their deadlines are off the heap: the others must not miss theirs for the one at fault.
                for due in ((), *((worker,) for worker in event.workers if len(event.workers) > 1)):
                    self._decide(TimePassed(due))
            return
        if self._recorder is not None:
            self._recorder.hear(now, event, actions)
        for worker_id in fleet.touched:
            worker = fleet.workers.get(worker_id)
            self._deadlines.set(worker_id, worker.deadline if worker else None)
            self._pulse.note(worker_id, is_counted=is_counted(worker))
        self._deadlines.set(None, fleet.deadline)
        self._perform_all(actions, self._endpoints.look(before, fleet))
        self._sickroom.hear(before, fleet)
        self._sentry.hear(fleet)
        self._tell(before, fleet, actions)
        if self._herald is not None:
            self._herald.look(fleet)
        is_news = fleet.touched or fleet.ailments is not before.ailments
        if is_news or not isinstance(event, InventoryRead | TimePassed):
            self.face.notice()
            if self._ledger is not None:
                self._ledger.note()

    def _perform_all(self, actions: tuple[Action, ...], leaving: frozenset[WorkerId]) -> None:
        """A worker should not wait for the log line about its start."""
        for action in sorted(actions, key=_is_word):
            if leaving and isinstance(action, Signal | RunStopCommand) and action.worker in leaving:
                self._start(self._perform_once_unlisted(action))
            else:
                self._perform(action)

    async def _perform_once_unlisted(self, action: Action) -> None:
        """Stop somebody when nobody is sent to him any more, as far as files say that."""
        await self._endpoints.settled()
        self._perform(action)

    def _tell(self, before: Fleet, fleet: Fleet, actions: tuple[Action, ...]) -> None:
        """Let everybody know who counts, remembers or passes on what happens."""
        self.chronicle.hear(before, fleet, actions, self.clock.monotonic())
        self.tally.hear(before, fleet, actions, self.clock.monotonic())
        if fleet.spec is not before.spec and fleet.spec is not None:
            self._hooks.use(fleet.spec.daemon.on_event)
        self._hooks.hear(actions)

    def _tell_broken(self, now: float, event: Event, error: Exception) -> None:
        """A bug of ours. The story says more than the stack, but where it broke is said too."""
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        words = str(error) if isinstance(error, InvariantBrokenError) else repr(error)
        story = [repr(one) for one in self._story]
        recorder = self._recorder
        recording = recorder.hear_broken(now, event, error, self.fleet) if recorder is not None else None
        told = {"where": where[-1:], "recording": recording and str(recording), "story": story}
        log.error("daemon.invariant_broken", error=words, **told)

    def _describe(self) -> dict[str, object]:
        """This daemon, among several."""
        return {"pid": os.getpid(), "instance": self._instance, "file": str(self.reader.file), "version": __version__}

    def _bury(self, worker: WorkerId, death: dict[str, object]) -> None:
        if self._crashes is not None:
            self._crashes.bury(worker, death)

    def _read_pids(self) -> set[int]:
        """Everybody who is ours, for a later life of this daemon."""
        workers = (worker.pid for worker in self.fleet.workers.values())
        return self._hands.processes.read_pids() | {pid for pid in workers if pid is not None}

    def _perform(self, action: Action) -> None:  # noqa: C901, PLR0912 - One case for each action.
        match action:
            case Spawn() | Redirect() | Signal() | KillTree() | ExamineTree() | Dismiss() | Probe() | ProbeAlive():
                self._hands.perform(action)
            case RunStopCommand() | EndStopCommand() | Bind() | Unbind():
                self._hands.perform(action)
            case ReadSpec():
                self.reader.read_in_thread(self.post)
            case ReadInventory(fresh=fresh):
                self._start(self.read_inventory(fresh=fresh))
            case ReadHost():
                self.post(HostRead(*read_memory()))
            case RunCanary():
                self._start(self._sickroom.run_canary(action))
            case Claim(uuids=uuids):
                self._locks.claim(uuids)
            case LetGo(uuids=uuids):
                self._locks.let_go(uuids)
            case Report(transition=transition):
                log_transition(transition)
            case Say(event=name, fields=fields, is_warning=is_warning):
                (log.warning if is_warning else log.info)(name, **fields)
            case FinishReload():
                self._finish_reload(action)
            case Exit(status=status, stuck=stuck):
                if stuck:
                    places = {str(worker): self._hands.where_it_hangs(worker) for worker in stuck}
                    log.error("daemon.stuck", workers=list(places), reason=places)
                self._status = status
            case _:
                assert_never(action)

    @property
    def unkept(self) -> str:
        """Why what is known against devices will not outlive this daemon; empty where it will."""
        return self._sickroom.unkept

    async def find_openers(self, device: Device) -> list[Json] | None:
        """Who has a GPU open at this moment."""
        return await self._sickroom.find_openers(device.minor, self._hands.processes.read_owners())

    async def read_inventory(self, *, fresh: bool = False, sensors: bool = False) -> None:
        """Ask the driver, through a new prober if *fresh*, and let the core see what it says of its devices."""
        closely = wants_openers(self.fleet, self.clock.monotonic())
        reading, asked_at = await self._devices.read(fresh=fresh, closely=closely, sensors=sensors)
        self.tally.read(self.clock.monotonic() - asked_at)
        if self._status is None:  # A reading that the end cut short is no news.
            self.decide(InventoryRead(reading, asked_at))

    def _finish_reload(self, action: FinishReload) -> None:
        difference = {str(worker): what for worker, what in (action.difference or {}).items()}
        if action.ok:
            log.info(
                "spec.loaded", difference=difference, **({"changed": list(action.changed)} if action.changed else {})
            )
            if self.fleet.spec is not None:
                self._start(self._web.take(self.fleet.spec.daemon, self.reader.token))
        elif action.is_late:
            log.info("reload.refused", problems=list(action.problems))
        else:
            log.error("spec.rejected", problems=list(action.problems))
        told = {"problems": list(action.problems), "difference": difference, "changed": list(action.changed)}
        self.face.finish_reload({"ok": action.ok, **told})

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch_signals(self, door: Door) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, door)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.post, ShutdownRequested())
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs, door)
        # Its default would end the daemon; what it is for is not built yet.
        loop.add_signal_handler(signal.SIGUSR2, _refuse_signal, signal.SIGUSR2)

    def _hang_up(self, door: Door) -> None:
        self._start(door.look())
        self.post(ReloadRequested())

    def _reopen_logs(self, door: Door) -> None:
        log.info("logs.reopened")
        self._hands.reopen()
        self._start(door.look())

    async def _close(self, server: web.AppRunner) -> None:
        self.face.close()
        await server.cleanup()
        await self._endpoints.close()
        await self._hooks.close()
        await self._web.close()
        await self._hands.let_go()
        await self._sentry.close()
        await self._devices.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hands.close()
        if self._recorder is not None:
            self._recorder.close(self.fleet)
        if self._crashes is not None:
            await self._crashes.close()
        if self._ledger is not None and self._status == 0:
            self._ledger.close()
        self._locks.close()  # Now that nothing of ours lives on any device.
        self._hands.outputs.close_all()


def _is_word(action: Action) -> bool:
    return isinstance(action, Report | Say)


def _refuse_signal(number: signal.Signals) -> None:
    log.warning("signal.ignored", signal=number.name, reason="not supported yet")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - Not on every platform.
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
