"""
Owns the pipes that workers write into: what they say goes where the file wants it, and the last of it is kept.

Must not enlarge a pipe, read more than 64 KiB of one in a turn, or hold more of one worker than a partial line and its
last lines; what a worker writes is never looked at beyond its line feeds.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.core.spec import INHERIT
from supervisor.host.journal import JOURNAL, Journal
from supervisor.host.lines import KEPT_BYTES, LINE_MAX, Block, Ring, Whole
from supervisor.host.logfiles import LogFile, LogFiles
from supervisor.host.outlets import Gate, Route, ToFile, ToJournal, ToSink
from supervisor.host.sink import Sink

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping

    from supervisor.core.message import Incarnation, Redirect
    from supervisor.core.spec import Logs, WorkerId

__all__ = ["Follower", "Outputs", "Said", "Sink"]

READ_SIZE = 64 * 1024
"""Of one pipe in one turn; more makes a flood delay restarts (measured: 450 ms with 1 MiB, 30 ms with this)."""

DRAIN_LIMIT = 1 << 20
"""A pipe holds 64 KiB, but an orphan may go on filling it while the rest is read."""

TAIL_LINES = 100
TAIL_LINE_MAX = 2 * 1024

KEPT_TOTAL = 32 << 20
"""Bytes kept of all workers together; with more than 128 of them each has less than `KEPT_BYTES`."""

KEPT_LEAST = 16 * 1024

FOLLOWER_LIMIT = 1 << 20
"""Bytes that wait for somebody who follows; who is slower than that is let go."""

STALL_S = 5.0
"""A reader of output that takes nothing for so long is stuck (Ctrl-S), and must not hold up the workers."""


@dataclass(frozen=True, slots=True, order=True)
class Said:
    """
    One line of a worker.

    Args:
        number: Grows in the order in which lines of all workers arrive.
        at: Second of the loop's clock.
    """

    number: int
    worker: WorkerId
    incarnation: Incarnation
    at: float
    line: str


class Follower:
    """
    Somebody who follows what workers say.

    Args:
        wants: Whether a worker is one of those.
        wake: Called when there is something to take, or no more comes.
    """

    def __init__(self, wants: Callable[[WorkerId], bool], wake: Callable[[], None]) -> None:
        self.wants = wants
        self.is_dropped = False
        """It was too slow, and gets nothing any more."""
        self._wake = wake
        self._blocks: deque[tuple[WorkerId, Block]] = deque()
        self._size = 0

    def put(self, worker: WorkerId, block: Block) -> None:
        """Take a block in; beyond the limit everything is dropped."""
        self._size += len(block.text)
        if self._size > FOLLOWER_LIMIT:
            self.is_dropped = True
            self._blocks.clear()
        else:
            self._blocks.append((worker, block))
        self._wake()

    def take(self) -> Iterator[Said]:
        """What has come, oldest first."""
        while self._blocks:
            worker, block = self._blocks.popleft()
            self._size -= len(block.text)
            yield from _said(worker, block)


class _Pipe:
    """The read end of one incarnation's output; *fd* is None after its end of file."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, turn: Callable[[_Pipe], None]) -> None:
        self.fd: int | None = fd
        self.worker: WorkerId
        self.incarnation: Incarnation
        self.route: Route
        self.logs: Logs
        self.env: Mapping[str, str]
        self.whole = Whole(LINE_MAX)
        self.is_continued = False  # What was kept last is a piece of a long line.
        self._loop = loop
        self._turn = turn
        self.resume()

    def pause(self) -> None:
        """Do not read it."""
        if self.fd is not None:
            self._loop.remove_reader(self.fd)

    def resume(self) -> None:
        """Read it."""
        if self.fd is not None:
            self._loop.add_reader(self.fd, self._turn, self)

    def close(self) -> None:
        """No more comes."""
        if self.fd is not None:
            self._loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = None


class Outputs:
    """
    All workers' output.

    Args:
        loop: The loop.
        sink: Where the output of `inherit` goes.
        stall_s: For how long an outlet may take nothing before it is let drop what workers say.
        tell: Takes log events about output that is lost.
        journal: Path of the journal's socket.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        *,
        stall_s: float = STALL_S,
        tell: Callable[[str, Mapping[str, object]], None] | None = None,
        journal: str = JOURNAL,
    ) -> None:
        self._loop = loop
        self._sink = sink
        self._stall_s = stall_s
        self._tell = tell or _ignore
        self._journal = Journal(loop, self._tell, journal)
        self._files = LogFiles(loop, self._tell)
        self._gate = Gate(loop, sink, stall_s)
        self._journal_gate = Gate(loop, self._journal, stall_s)
        self._file_gates: dict[LogFile, Gate] = {}
        self._pipes: dict[tuple[WorkerId, Incarnation], _Pipe] = {}
        self._rings: dict[WorkerId, Ring] = {}
        self._followers: set[Follower] = set()
        self._said = 0

    def open(
        self, worker: WorkerId, incarnation: Incarnation, logs: Logs = INHERIT, env: Mapping[str, str] | None = None
    ) -> int:
        """
        Make a pipe for the output of a process to come.

        Args:
            worker: Whose.
            incarnation: Of the process.
            logs: Where the output goes.
            env: The process' environment, for the ``$(NAME)`` of a file's path.

        Returns:
            Its write end, blocking and not inheritable; whoever receives it closes it.

        Raises:
            OSError: Out of descriptors.
        """
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        pipe = _Pipe(self._loop, read_end, self._turn)
        pipe.worker, pipe.incarnation, pipe.logs, pipe.env = worker, incarnation, logs, env or {}
        pipe.route = self._make_route(pipe)
        self._pipes[worker, incarnation] = pipe
        self._rings.setdefault(worker, Ring())
        return write_end

    def redirect(self, order: Redirect) -> None:
        """Lead the output of a living process elsewhere; what came before has gone the old way."""
        pipe = self._pipes.get((order.worker, order.incarnation))
        if pipe is None or pipe.logs == order.logs:
            return
        old = pipe.route
        if pipe in old.gate.paused:
            old.gate.let_go(pipe)
            pipe.resume()
        self._pass_on(pipe, pipe.whole.finish())
        old.finish()
        pipe.logs = order.logs
        pipe.route = self._make_route(pipe)
        self._close_route(old)

    def reopen(self) -> None:
        """Open every log file anew: somebody has moved them away."""
        self._files.reopen()

    def drain(self, worker: WorkerId, incarnation: Incarnation) -> tuple[str, ...]:
        """
        Take what the pipe holds now, without waiting: the process has exited.

        Returns:
            The last lines of its output, oldest first; empty for a process whose output is not open.
        """
        pipe = self._pipes.get((worker, incarnation))
        if pipe is None:
            return ()
        taken = 0
        while taken < DRAIN_LIMIT and (count := self._read(pipe)):
            taken += count
        self._finish(pipe)
        ring = self._rings.get(worker)
        return ring.tail(incarnation, TAIL_LINES, TAIL_LINE_MAX) if ring else ()

    def close(self, worker: WorkerId, incarnation: Incarnation) -> None:
        """Take what is left and let go; end-of-file is not awaited, as an orphan may hold the pipe for ever."""
        self.drain(worker, incarnation)
        pipe = self._pipes.pop((worker, incarnation), None)
        if pipe is not None:
            self._let_go(pipe)
            self._close_route(pipe.route)

    def forget(self, worker: WorkerId) -> None:
        """The index is gone, and its last lines with it."""
        self._rings.pop(worker, None)

    def close_all(self) -> None:
        """Close every pipe, and wait a little for the disks: the daemon ends."""
        for worker, incarnation in tuple(self._pipes):
            self.close(worker, incarnation)
        self._gate.close()
        self._journal_gate.close()
        self._journal.close()
        self._files.close()

    # ---- what was said ----------------------------------------------------------------------------------------------

    def last(self, wants: Callable[[WorkerId], bool], lines: int, after: int = -1) -> Iterator[Said]:
        """
        The last lines of some workers, merged in the order of their arrival.

        Args:
            wants: Which workers.
            lines: Of each at the most.
            after: Only lines with a higher number.
        """
        kept = [(worker, ring.blocks()) for worker, ring in self._rings.items() if wants(worker)]
        return heapq.merge(*(_last(worker, blocks, lines, after) for worker, blocks in kept))

    def follow(self, follower: Follower) -> None:
        """From now on somebody gets what workers say."""
        self._followers.add(follower)

    def unfollow(self, follower: Follower) -> None:
        """They have had enough."""
        self._followers.discard(follower)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _turn(self, pipe: _Pipe) -> None:
        """One pipe is readable."""
        if pipe.route.gate.is_open(pipe):
            self._read(pipe)

    def _read(self, pipe: _Pipe) -> int:
        """Move at most `READ_SIZE` bytes on; returns how many, 0 if there were none or no more will come."""
        if pipe.fd is None:
            return 0
        try:
            text = os.read(pipe.fd, READ_SIZE)
        except BlockingIOError:
            return 0
        if text:
            self._pass_on(pipe, pipe.whole.feed(text))
        else:
            self._finish(pipe)
            self._let_go(pipe)  # At once: at its end a pipe stays readable, and the loop would spin.
        return len(text)

    def _finish(self, pipe: _Pipe) -> None:
        self._pass_on(pipe, pipe.whole.finish())
        pipe.route.finish()

    def _pass_on(self, pipe: _Pipe, text: bytes) -> None:
        if text:
            pipe.route.feed(text)
            self._keep(pipe, text)

    def _keep(self, pipe: _Pipe, text: bytes) -> None:
        """Keep what was said, and let those who follow have it."""
        if pipe.is_continued and text[:1] == b"\n":
            text = text[1:]  # Only the end of a piece that got its line feed here.
        pipe.is_continued = bool(text) and text[-1] != 0x0A
        if pipe.is_continued:
            text += b"\n"
        ring = self._rings.get(pipe.worker)
        if not text or ring is None:
            return
        block = Block(self._said, pipe.incarnation, self._loop.time(), text)
        self._said += len(text)
        ring.limit = max(KEPT_LEAST, min(KEPT_BYTES, KEPT_TOTAL // len(self._rings)))
        ring.add(block)
        for follower in tuple(self._followers):
            if follower.wants(pipe.worker):
                follower.put(pipe.worker, block)
                if follower.is_dropped:
                    self._followers.discard(follower)

    def _let_go(self, pipe: _Pipe) -> None:
        pipe.route.gate.let_go(pipe)
        pipe.close()

    # ---- routes -----------------------------------------------------------------------------------------------------

    def _make_route(self, pipe: _Pipe) -> Route:
        inherited = ToSink(self._gate, self._sink, pipe.worker)
        match pipe.logs.kind:
            case "file":
                path = pipe.logs.path(pipe.env)
                file = self._files.open(path, max_size=pipe.logs.max_size, keep=pipe.logs.keep)
                if file not in self._file_gates:
                    self._file_gates[file] = Gate(self._loop, file, self._stall_s)
                return ToFile(self._file_gates[file], file)
            case "journal" if self._journal.is_there():
                return ToJournal(self._journal_gate, self._journal, pipe.worker, pipe.incarnation, inherited)
            case _:
                return inherited

    def _close_route(self, route: Route) -> None:
        if isinstance(route, ToFile):
            self._files.release(route.file)
            if not route.file.users:
                self._file_gates.pop(route.file).close()


def _last(worker: WorkerId, blocks: tuple[Block, ...], lines: int, after: int) -> list[Said]:
    """The last lines of one worker; what need not be cut into lines is not."""
    found: list[Said] = []
    for block in reversed(blocks):
        if len(found) >= lines or block.first + len(block.text) <= after:
            break
        said = [one for one in _said(worker, block) if one.number > after]
        found[:0] = said[-(lines - len(found)) :]
    return found


def _said(worker: WorkerId, block: Block) -> Iterator[Said]:
    for number, line in block.lines():
        yield Said(number, worker, block.incarnation, block.at, line)


def _ignore(_event: str, _fields: Mapping[str, object]) -> None:
    pass
