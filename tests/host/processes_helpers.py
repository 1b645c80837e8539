"""A rig for tests of real processes: orders in, recorded events out, with deadlines."""

from __future__ import annotations

import asyncio
import functools
import os
import select
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

import uvloop

from supervisor.core.file.setup import NO_SETUP, Setup
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
from supervisor.core.spec import WorkerId
from supervisor.host.orders import NOTHING, Given
from supervisor.host.process import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from types import TracebackType
    from typing import Literal

    from supervisor.core.plan import Launch

PYTHON = (sys.executable, "-I", "-S", "-c")
A = WorkerId("a", 0)
B = WorkerId("b", 0)
DEADLINE_S = 20.0
ENV = {"PATH": os.environ.get("PATH", os.defpath)}

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
_loop_name = ["uvloop"]

Told = Spawned | SpawnFailed | Exited | TreeGone | ShimLost
T = TypeVar("T", Spawned, SpawnFailed, Exited, TreeGone, ShimLost)
P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in uvloop, which is what the daemon runs, or in the loop that use_loop() names."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=LOOPS[_loop_name[-1]]) as runner:
            runner.run(test(*args, **kwargs))

    return run


@contextmanager
def use_loop(name: str) -> Iterator[None]:
    _loop_name.append(name)
    yield
    _loop_name.pop()


def launch(name: str) -> Launch:
    """Processes only compare launches, so any value will do."""
    return cast("Launch", name)


class Rig:
    """Processes, and all that they told."""

    def __init__(self, *, patience_s: float = 5.0) -> None:
        self.processes = Processes(self._take, patience_s=patience_s)
        self.events: list[Told] = []
        self.react: Callable[[Event], None] = lambda _: None
        self._incarnation = 0
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.processes.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.processes.close()

    def spawn(
        self,
        worker: WorkerId,
        *argv: str,
        launched: str = "first",
        env: Mapping[str, str] | None = None,
        working_dir: str = "/",
        fds: Mapping[int, int] | None = None,
        setup: Setup = NO_SETUP,
        given: Given = NOTHING,
    ) -> Incarnation:
        self._incarnation += 1
        order = Spawn(worker, self._incarnation, launch(launched), argv, ENV if env is None else env, working_dir)
        order = replace(order, setup=setup)
        self.processes.spawn(order, fds or {}, given)
        return self._incarnation

    def signal(
        self,
        worker: WorkerId,
        incarnation: Incarnation,
        number: int,
        scope: Literal["main", "group", "rest", "outside"] = "main",
    ) -> None:
        self.processes.signal(Signal(worker, incarnation, number, scope))

    def kill(self, worker: WorkerId, incarnation: Incarnation) -> None:
        self.processes.kill_tree(KillTree(worker, incarnation))

    async def told(self, kind: type[T], incarnation: Incarnation, timeout_s: float = DEADLINE_S) -> T:
        """The event of that kind about that incarnation, once it has come."""
        found: list[T] = []

        def look() -> bool:
            found[:] = [event for event in self.events if isinstance(event, kind) and event.incarnation == incarnation]
            return bool(found)

        await self.until(look, timeout_s)
        return found[0]

    async def until(self, condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
        """Wait for a condition that events bring about."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def about(self, incarnation: Incarnation) -> list[str]:
        """Names of the events about an incarnation."""
        return [type(event).__name__ for event in self.events if event.incarnation == incarnation]

    async def run(self, worker: WorkerId, *argv: str, env: Mapping[str, str] | None = None) -> tuple[Exited, bytes]:
        """Run a program to its end; how it ended, and what it wrote."""
        with Pipe() as pipe:
            incarnation = self.spawn(worker, *argv, env=env, fds={1: pipe.take_end()})
            exited = await self.told(Exited, incarnation)
            return exited, await pipe.read_all()

    def is_finished(self, incarnation: Incarnation) -> bool:
        """Whether all is gone, by one event or the other, and by one only."""
        alone = [e.alone for e in self.events if isinstance(e, Exited) and e.incarnation == incarnation]
        gone = [e for e in self.events if isinstance(e, TreeGone) and e.incarnation == incarnation]
        assert len(gone) <= (alone == [False])
        return alone == [True] or len(gone) == 1

    def _take(self, event: Event) -> None:
        assert isinstance(event, Told)
        self.events.append(event)
        self._changed.set()
        self.react(event)


class Pipe:
    """What a worker writes."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self._seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.read_end)
        if self._write_end >= 0:
            os.close(self._write_end)

    def take_end(self) -> int:
        """The write end, for spawn() to close."""
        end, self._write_end = self._write_end, -1
        return end

    async def read_line(self) -> str:
        await self._read_until(lambda: b"\n" in self._seen)
        line, _, self._seen = self._seen.partition(b"\n")
        return line.decode()

    async def read_all(self) -> bytes:
        """Everything up to the end of file."""
        await self._read_until(lambda: False)
        return self._seen

    async def _read_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            try:
                data = os.read(self.read_end, 1 << 20)
            except BlockingIOError:
                assert time.monotonic() < deadline, f"only {self._seen!r} was written"
                await asyncio.sleep(0.002)
                continue
            self._seen += data
            if not data:
                return


class Watch:
    """The end of a process that may not be ours."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._pidfd)

    @property
    def is_over(self) -> bool:
        return bool(select.select([self._pidfd], [], [], 0)[0])

    async def over(self, timeout_s: float = DEADLINE_S) -> bool:
        """Whether it ends within the time."""
        return await eventually(lambda: self.is_over, timeout_s)


async def eventually(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> bool:
    """Whether a condition of the outside world comes true within the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


def stat_of(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state letter on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent_of(pid: int) -> int:
    return int(stat_of(pid)[1])


def state_of(pid: int) -> str:
    return stat_of(pid)[0]


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


def environ_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0").split(b"\0")


def link_of(pid: int, name: str) -> str:
    return str(Path(f"/proc/{pid}/{name}").readlink())


def open_fds(pid: int | str = "self") -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def mask_of(pid: int, name: str) -> int:
    """A signal mask of /proc/PID/status: SigIgn, SigBlk, SigCgt."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1], 16)
