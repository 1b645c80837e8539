"""
What the core wants done to workers, done: their processes, output, sockets, probes and notices, each by its owner.

Decides nothing. What comes of it goes to the main loop as events.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import assert_never

import structlog

from supervisor.core.environment import NOTIFY_SOCKET, Rendered, device_env, fill, lacks
from supervisor.core.message import (
    Bind,
    Dismiss,
    EndStopCommand,
    Event,
    ExamineTree,
    Exited,
    KillTree,
    Probe,
    ProbeAlive,
    Redirect,
    RunStopCommand,
    ShimLost,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    TreeExamined,
    TreeGone,
    Unbind,
)
from supervisor.core.secrets import hushed, secrets_of
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import ProcessEvent
from supervisor.daemon.surroundings import Surroundings
from supervisor.daemon.tally import Tally
from supervisor.host import limits
from supervisor.host.activation import Inherited
from supervisor.host.cgroups import NO_LEAVES, find_leaves
from supervisor.host.logs import Outputs
from supervisor.host.notices import Notices
from supervisor.host.probes import Probes, needs_start
from supervisor.host.process import Processes
from supervisor.host.service_sockets import ServiceSockets
from supervisor.host.sink import Sink
from supervisor.host.stop_commands import StopCommands
from supervisor.host.stuck import where_it_hangs
from supervisor.host.wire import close_all

log = structlog.get_logger()

Handwork = (
    Spawn
    | Redirect
    | Signal
    | RunStopCommand
    | EndStopCommand
    | KillTree
    | ExamineTree
    | Dismiss
    | Probe
    | ProbeAlive
    | Bind
    | Unbind
)
"""Actions that are about workers' processes and what belongs to them."""


class Hands:
    """
    The parts of the machine that a worker's process needs, from its start to its end.

    Args:
        fleet: As it is now.
        post: Takes what happens.
        start: Runs what takes its time, until the daemon ends.
        sink: Where workers' output goes that goes nowhere else.
        tally: Counts.
        inherited: Sockets that the service manager has bound for services.
    """

    def __init__(
        self,
        fleet: Callable[[], Fleet],
        post: Callable[[Event], None],
        start: Callable[[Coroutine[None, None, None]], None],
        *,
        sink: Sink,
        tally: Tally,
        inherited: Iterable[Inherited] = (),
    ) -> None:
        loop = asyncio.get_running_loop()
        self._fleet = fleet
        self._post = post
        self._start = start
        self._tally = tally
        self._coming: set[WorkerId] = set()
        self.envs: dict[WorkerId, dict[str, str]] = {}
        self._secrets: dict[WorkerId, tuple[str, ...]] = {}
        self.surroundings = Surroundings(NO_LEAVES, log.warning)
        self.outputs = Outputs(loop, sink, tell=self._tell_of_logs)
        sink.report_loss = self._count_loss(sink.report_loss)
        self.processes = Processes(post, tell=_tell_of_keeper)
        self._probes = Probes(loop, post, self.processes, find_root=self.processes.find_root, told=tally.probed)
        self._stop_commands = StopCommands(loop, post, self.processes)
        self._notices = Notices(loop, post)
        self.processes.tell_user = self._notices.own
        self._sockets = ServiceSockets(post, {one.address: one.socket for one in inherited if one.address})

    def use_cgroups(self, spec: Spec) -> None:
        """Cgroups of their own for workers, where that was stated; what earlier daemons left is removed."""
        leaves = find_leaves()
        leaves.sweep()
        self.processes.use(leaves)
        self.surroundings = Surroundings(leaves, log.warning)
        self.surroundings.expect(spec)
        self.processes.tell_lack = self.surroundings.note
        if leaves.folder is None:
            log.info("cgroup.absent", reason=leaves.why)
        else:
            log.info("cgroup.found", path=str(leaves.folder), reason=leaves.why)

    def forgive(self, lost_s: float) -> None:
        """The daemon did not run for so many seconds: what nobody saw counts for nothing."""
        self._probes.forgive()
        self._notices.forgive(lost_s)

    def reopen(self) -> None:
        """Open log files anew: somebody has moved them."""
        self.outputs.reopen()

    async def let_go(self) -> None:
        """The end, as long as processes can still be run: watch nobody any more."""
        await self._probes.close()
        await self._stop_commands.close()
        self._notices.close()

    async def close(self) -> None:
        """The end of keeper and shims."""
        await self.processes.close()
        self._sockets.close()
        self.surroundings.close()

    def complete(self, event: Event, decide: Callable[[Event], None]) -> Event:
        """
        Add what only this side knows: a process' last words, its pipe emptied before it counts as dead.

        And take out what nobody is to know: secrets of its environment that are part of what is said.

        Args:
            event: That has come.
            decide: Takes what comes before it.
        """
        if isinstance(event, Spawned | SpawnFailed | Exited | TreeGone | ShimLost):
            self._coming.discard(event.worker)
        match event:
            case Spawned():
                self._notices.listen(event.worker, event.incarnation)
            case Exited():
                self._probes.forget(event.worker)
                self._stop_commands.forget(event.worker)
                # What it said before its end counts, and comes before it.
                for word in self._notices.drain(event.worker, event.incarnation):
                    decide(word)
                self._notices.forget(event.worker, event.incarnation)
                event = replace(event, tail=self.outputs.drain(event.worker, event.incarnation))
                if event.alone:
                    self.outputs.close(event.worker, event.incarnation)
            case TreeGone() | SpawnFailed():
                self._probes.forget(event.worker)
                self._notices.forget(event.worker, event.incarnation)
                self.outputs.close(event.worker, event.incarnation)
            case _:
                pass
        secrets = self._secrets.get(event.worker, ()) if isinstance(event, ProcessEvent) else ()
        return hushed(event, secrets) if secrets else event

    def perform(self, action: Handwork) -> None:  # noqa: C901, PLR0912 - One case for each action.
        """Do one thing; returns at once."""
        match action:
            case Spawn():
                self._spawn(action)
            case Redirect():
                self.outputs.redirect(action)
            case Signal():
                self.processes.signal(action)
            case RunStopCommand():
                self._stop_commands.run(action)
            case EndStopCommand(worker=worker):
                self._stop_commands.end(worker)
            case KillTree():
                self.processes.kill_tree(action)
            case ExamineTree():
                self._start(self._examine(action))
            case Dismiss(worker=worker):
                self._probes.forget(worker)
                self._stop_commands.forget(worker)
                self._notices.close_one(worker)
                self.envs.pop(worker, None)
                self._secrets.pop(worker, None)
                self.surroundings.forget(worker)
                self.outputs.forget(worker)
                self.processes.dismiss(worker)
            case Probe():
                (self._notices if action.kind == "notify" else self._probes).watch(action)
            case ProbeAlive():
                (self._notices if action.alive.kind == "notify" else self._probes).watch_alive(action)
            case Bind(addresses=addresses):
                self._sockets.bind(addresses)
            case Unbind(addresses=addresses):
                self._sockets.unbind(addresses)
            case _:
                assert_never(action)

    def _spawn(self, action: Spawn) -> None:
        lack = "pipe for its output"
        handed: dict[int, int] = {}
        try:
            limits.check_room(len(self._coming))
            lack = "port to meet at"
            action, given = self.surroundings.prepare(action, self._ports_of_workers)
            lack = "socket for its notices"
            action = self._give_voice(action)
            lack = "socket to listen on"
            handed = self._sockets.copies(action.launch.recipe.listen)
            lack = "pipe for its output"
            output = self.outputs.open(action.worker, action.incarnation, action.logs, action.env)
        except OSError as error:
            close_all(tuple(handed.values()))
            words = f"no {lack}: {os.strerror(error.errno or 0)}"
            self._post(SpawnFailed(action.worker, action.incarnation, error.errno or 0, words))
            return
        self._coming.add(action.worker)
        self._secrets[action.worker] = secrets_of(action.env)
        self.envs[action.worker] = device_env(action.env)
        if needs_start(self._fleet().workers[action.worker].policy):
            self._probes.equip(action)
        if self._fleet().workers[action.worker].policy.stop.exec:
            self._stop_commands.equip(action)
        self.processes.spawn(action, {1: output, 2: output, **handed}, given)

    async def _examine(self, order: ExamineTree) -> None:
        """In a thread: a tree may be large."""
        detail = await asyncio.to_thread(self.where_it_hangs, order.worker)
        self._post(TreeExamined(order.worker, order.incarnation, detail))

    def where_it_hangs(self, worker: WorkerId) -> str:
        """Which process of a worker's tree does not end, and where in the kernel; empty if that cannot be told."""
        root = self.processes.find_root(worker)
        return "" if root is None else where_it_hangs(root)

    def _give_voice(self, action: Spawn) -> Spawn:
        """A socket for one who speaks for himself."""
        if not lacks(NOTIFY_SOCKET, action.env):
            return action
        path = {NOTIFY_SOCKET: self._notices.open(action.worker, action.incarnation)}
        done = fill(Rendered(action.argv, action.env, action.working_dir), path, (NOTIFY_SOCKET,))
        return replace(action, argv=done.argv, env=done.env, working_dir=done.working_dir)

    def _ports_of_workers(self) -> set[int]:
        """Those that the file gives to somebody."""
        placements = [one for worker in self._fleet().workers.values() for one in (worker.held, worker.target) if one]
        return {port for one in placements if (port := one.wanted.recipe.port) is not None}

    def _tell_of_logs(self, event: str, fields: Mapping[str, object]) -> None:
        (log.info if event == "logs.resumed" else log.warning)(event, **fields)
        if isinstance(lines := fields.get("lines"), int):
            self._tally.dropped("journal" if fields.get("file") == "journal" else "file", lines)

    def _count_loss(self, tell: Callable[[int], None]) -> Callable[[int], None]:
        def count(lines: int) -> None:
            self._tally.dropped("inherit", lines)
            tell(lines)

        return count


def _tell_of_keeper(event: str, fields: Mapping[str, object]) -> None:
    {"keeper.started": log.info, "keeper.refused": log.warning}.get(event, log.error)(event, **fields)
