"""The fake process table and the real one, held to the same scenarios: what is simulated is what happens."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pytest

from supervisor.core.file.service import Recipe
from supervisor.core.message import (
    Event,
    Exited,
    Incarnation,
    KillTree,
    ShimLost,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    TreeGone,
)
from supervisor.core.plan import Launch
from supervisor.core.spec import WorkerId
from tests.host.processes_helpers import Pipe, Rig, parent_of
from tests.sim.agenda import Agenda
from tests.sim.nature import Child, Nature
from tests.sim.processes import FakeProcesses

A = WorkerId("a", 0)
T = TypeVar("T", Spawned, SpawnFailed, Exited, TreeGone, ShimLost)
QUIET_S = 0.3
"""In which nothing is to come."""


@dataclass(frozen=True)
class Program:
    """The same program for a shell, and for the fake."""

    shell: str
    nature: Nature


EXITS = Program("exit 3", Nature(life_s=0.01, code=3))
HANGS = Program("echo ready; exec sleep 1000", Nature())
DEAF = Program("trap '' TERM; echo ready; exec sleep 1000", Nature(term_s=None))
PARENT = Program("sleep 1000 & echo ready; wait", Nature(children=(Child(term_s=0.01),)))
ORPHANER = Program("sleep 1000 & exit 0", Nature(life_s=0.01, code=0, children=(Child(term_s=0.01),)))
LEAVES_A_CHILD_FOR_A_MOMENT = Program(
    "sleep 0.3 & exit 1", Nature(life_s=0.01, code=1, children=(Child(outlives_s=0.3),))
)
MISSING = Program("", Nature(errno=2))


class Table(Protocol):
    """What the scenarios need of a process table."""

    async def start(self, program: Program) -> Incarnation:
        """Start a program, and wait until it has said that it is ready if it does."""
        ...

    def signal(self, incarnation: Incarnation, scope: str) -> None:
        """Send SIGTERM."""
        ...

    def kill(self, incarnation: Incarnation) -> None:
        """SIGKILL the whole tree."""
        ...

    async def lose_shim(self, incarnation: Incarnation) -> None:
        """Kill the parent of the worker's process."""
        ...

    async def told(self, kind: type[T], incarnation: Incarnation) -> T:
        """The event of that kind about an incarnation, once it has come."""
        ...

    async def all_about(self, incarnation: Incarnation) -> list[str]:
        """Names of the events about an incarnation, when no more are to come."""
        ...


class RealTable:
    """Real processes, as the tests of their owner start them."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def start(self, program: Program) -> Incarnation:
        """Start a shell."""
        if not program.shell:
            return self._rig.spawn(A, "/no/such/program")
        with Pipe() as pipe:
            incarnation = self._rig.spawn(A, "sh", "-c", program.shell, fds={1: pipe.take_end()})
            if "ready" in program.shell:
                await pipe.read_line()
        return incarnation

    def signal(self, incarnation: Incarnation, scope: str) -> None:
        """SIGTERM."""
        self._rig.signal(A, incarnation, signal.SIGTERM, "main" if scope == "main" else "rest")

    def kill(self, incarnation: Incarnation) -> None:
        """SIGKILL."""
        self._rig.kill(A, incarnation)

    async def lose_shim(self, incarnation: Incarnation) -> None:
        """The shim is the parent."""
        os.kill(parent_of((await self.told(Spawned, incarnation)).pid), signal.SIGKILL)

    async def told(self, kind: type[T], incarnation: Incarnation) -> T:
        """Wait for it."""
        return await self._rig.told(kind, incarnation)

    async def all_about(self, incarnation: Incarnation) -> list[str]:
        """Wait, since there is no other way to see that nothing comes."""
        with pytest.raises(TimeoutError):
            await self._rig.until(lambda: False, QUIET_S)
        return self._rig.about(incarnation)


class FakeTable:
    """Fake processes in virtual time."""

    def __init__(self) -> None:
        self._agenda = Agenda()
        self._events: list[Event] = []
        self._processes = FakeProcesses(self._agenda, self._events.append, lambda order: self._nature)
        self._nature = Nature()
        self._incarnation = 0

    async def start(self, program: Program) -> Incarnation:
        """Start something of that nature."""
        self._nature = program.nature
        self._incarnation += 1
        launch = Launch(Recipe(("program",)))
        self._processes.spawn(Spawn(A, self._incarnation, launch, ("program",), {}, "/"))
        self._run(self._agenda.now + 0.005)
        return self._incarnation

    def signal(self, incarnation: Incarnation, scope: str) -> None:
        """SIGTERM."""
        self._processes.signal(Signal(A, incarnation, signal.SIGTERM, "main" if scope == "main" else "rest"))

    def kill(self, incarnation: Incarnation) -> None:
        """SIGKILL."""
        self._processes.kill_tree(KillTree(A, incarnation))

    async def lose_shim(self, incarnation: Incarnation) -> None:
        """Its shim is gone."""
        assert self._processes.lose_shim(A)

    async def told(self, kind: type[T], incarnation: Incarnation) -> T:
        """Let time pass until it is there."""
        while True:
            for event in self._events:
                if isinstance(event, kind) and event.incarnation == incarnation:
                    return event
            at = self._agenda.next_at()
            assert at is not None, f"no {kind.__name__} of {incarnation} will ever come"
            self._run(at)

    async def all_about(self, incarnation: Incarnation) -> list[str]:
        """Let time pass."""
        self._run(self._agenda.now + QUIET_S)
        return [type(event).__name__ for event in self._events if getattr(event, "incarnation", 0) == incarnation]

    def _run(self, until: float) -> None:
        while (at := self._agenda.next_at()) is not None and at <= until:
            self._agenda.now = max(at, self._agenda.now)
            self._agenda.run_due()
        self._agenda.now = until


@asynccontextmanager
async def open_table(kind: str) -> AsyncIterator[Table]:
    if kind == "fake":
        yield FakeTable()
        return
    async with Rig() as rig:
        yield RealTable(rig)


both = pytest.mark.parametrize("kind", ["fake", pytest.param("real", marks=pytest.mark.slow)])


@both
async def test_exit_code_is_told_once(kind: str) -> None:
    """A process that ends by itself, with nothing left."""
    async with open_table(kind) as table:
        incarnation = await table.start(EXITS)
        exited = await table.told(Exited, incarnation)

        assert (exited.code, exited.signal, exited.alone) == (3, None, True)
        assert await table.all_about(incarnation) == ["Spawned", "Exited"]


@both
async def test_missing_program_is_told_with_its_errno(kind: str) -> None:
    """No process comes, and nothing else is said of it."""
    async with open_table(kind) as table:
        incarnation = await table.start(MISSING)
        failed = await table.told(SpawnFailed, incarnation)

        assert failed.errno == 2
        assert await table.all_about(incarnation) == ["SpawnFailed"]


@both
async def test_signal_ends_the_main_process(kind: str) -> None:
    """Which signal did it is told."""
    async with open_table(kind) as table:
        incarnation = await table.start(HANGS)
        table.signal(incarnation, "main")
        exited = await table.told(Exited, incarnation)

        assert (exited.code, exited.signal, exited.alone) == (None, signal.SIGTERM, True)
        assert await table.all_about(incarnation) == ["Spawned", "Exited"]


@both
async def test_deaf_process_is_killed(kind: str) -> None:
    """SIGTERM changes nothing, SIGKILL does."""
    async with open_table(kind) as table:
        incarnation = await table.start(DEAF)
        table.signal(incarnation, "main")
        assert await table.all_about(incarnation) == ["Spawned"]

        table.kill(incarnation)
        exited = await table.told(Exited, incarnation)
        assert (exited.code, exited.signal, exited.alone) == (None, signal.SIGKILL, True)


@both
async def test_child_that_outlives_is_told_when_it_is_killed(kind: str) -> None:
    """An end that is not alone is followed by the end of the tree, and not before."""
    async with open_table(kind) as table:
        incarnation = await table.start(ORPHANER)
        exited = await table.told(Exited, incarnation)
        assert not exited.alone
        assert await table.all_about(incarnation) == ["Spawned", "Exited"]

        table.kill(incarnation)
        await table.told(TreeGone, incarnation)
        assert await table.all_about(incarnation) == ["Spawned", "Exited", "TreeGone"]


@both
async def test_rest_of_the_tree_is_signalled(kind: str) -> None:
    """What outlives the main process ends when asked."""
    async with open_table(kind) as table:
        incarnation = await table.start(ORPHANER)
        await table.told(Exited, incarnation)
        table.signal(incarnation, "rest")

        await table.told(TreeGone, incarnation)


@both
async def test_child_that_ends_by_itself_ends_the_tree(kind: str) -> None:
    """Nobody has to do anything."""
    async with open_table(kind) as table:
        incarnation = await table.start(LEAVES_A_CHILD_FOR_A_MOMENT)

        await table.told(TreeGone, incarnation)
        assert await table.all_about(incarnation) == ["Spawned", "Exited", "TreeGone"]


@both
async def test_kill_takes_children_too(kind: str) -> None:
    """However the two ends fall, the last word is that nothing is left."""
    async with open_table(kind) as table:
        incarnation = await table.start(PARENT)
        table.kill(incarnation)
        exited = await table.told(Exited, incarnation)

        assert exited.signal == signal.SIGKILL
        after = [] if exited.alone else ["TreeGone"]
        assert ["Spawned", "Exited", *after] == await table.all_about(incarnation)


@both
async def test_lost_shim_takes_its_tree_along(kind: str) -> None:
    """How the main process ended cannot be learnt; that nothing is left can."""
    async with open_table(kind) as table:
        incarnation = await table.start(PARENT)
        await table.lose_shim(incarnation)

        await table.told(TreeGone, incarnation)
        assert await table.all_about(incarnation) == ["Spawned", "ShimLost", "TreeGone"]


@both
async def test_orders_for_the_dead_are_ignored(kind: str) -> None:
    """Another incarnation of the same worker is left alone by them."""
    async with open_table(kind) as table:
        old = await table.start(EXITS)
        await table.told(Exited, old)
        new = await table.start(HANGS)
        table.signal(old, "main")
        table.kill(old)

        assert await table.all_about(old) == ["Spawned", "Exited"]
        assert await table.all_about(new) == ["Spawned"]
