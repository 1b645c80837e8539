"""
Where the output of a worker can go, one class for each way, and the gate that holds a worker up for a slow one.

Owns no descriptor of its own; what it writes with does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from supervisor.host.journal import ENTRY_MAX, Journal, make_entry, make_fields
from supervisor.host.lines import Lines, Whole, pieces_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from supervisor.core.message import Incarnation
    from supervisor.core.spec import WorkerId
    from supervisor.host.logfiles import LogFile
    from supervisor.host.sink import Sink


class Outlet(Protocol):
    """What bytes leave by."""

    on_relief: Callable[[], None]

    @property
    def moved(self) -> int:
        """Bytes that have left so far."""

    @property
    def is_congested(self) -> bool:
        """Who can wait should not add to it; `on_relief` is called when that is over."""


class Pausable(Protocol):
    """What a gate holds up."""

    def pause(self) -> None:
        """Do not read it."""

    def resume(self) -> None:
        """Read it again."""


class Gate:
    """
    Holds up those who write into a slow outlet.

    While it moves, pipes are left unread: a worker that says more than the reader takes waits for it. When nothing has
    moved for *stall_s* they are read again, and the outlet drops what it cannot take, until it moves.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, outlet: Outlet, stall_s: float) -> None:
        self.paused: set[Pausable] = set()
        self._loop = loop
        self._outlet = outlet
        self._stall_s = stall_s
        self._check: asyncio.TimerHandle | None = None
        self._stalled_at: int | None = None  # What `moved` was when the outlet was found stuck.
        outlet.on_relief = self.open

    def is_open(self, pipe: Pausable) -> bool:
        """Whether a pipe may be read now; if not it is paused until it may."""
        if not self._outlet.is_congested or self._outlet.moved == self._stalled_at:
            return True
        pipe.pause()
        self.paused.add(pipe)
        self._stalled_at = None
        if self._check is None:
            self._check = self._loop.call_later(self._stall_s, self._look, self._outlet.moved)
        return False

    def open(self) -> None:
        """Let everybody go on."""
        self._stop()
        paused, self.paused = self.paused, set()
        for pipe in paused:
            pipe.resume()

    def let_go(self, pipe: Pausable) -> None:
        """This one is to be read again, or by nobody any more."""
        self.paused.discard(pipe)

    def close(self) -> None:
        """Nobody comes by here any more."""
        self.open()

    def _look(self, moved_before: int) -> None:
        """Look whether it moved since the last look, and let it drop rather than wait if it did not."""
        self._check = None
        if self._outlet.moved == moved_before:
            self._stalled_at = moved_before
            self.open()
        elif self.paused:
            self._check = self._loop.call_later(self._stall_s, self._look, self._outlet.moved)

    def _stop(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None


class Route(Protocol):
    """The way of one process' output."""

    gate: Gate

    def feed(self, text: bytes) -> None:
        """Take whole lines, or a piece of a long one."""

    def finish(self) -> None:
        """Nothing comes for now: complete the line."""


class ToSink:
    """The daemon's own output: lines with the worker's name in front."""

    def __init__(self, gate: Gate, sink: Sink, worker: WorkerId) -> None:
        self.gate = gate
        self._sink = sink
        self._lines = Lines(str(worker))

    def feed(self, text: bytes) -> None:
        """See `Route`."""
        self._sink.write(*self._lines.feed(text))

    def finish(self) -> None:
        """See `Route`."""
        self._sink.write(*self._lines.finish())


class ToFile:
    """A file: bytes as they come."""

    def __init__(self, gate: Gate, file: LogFile) -> None:
        self.gate = gate
        self.file = file
        self._is_torn = False

    def feed(self, text: bytes) -> None:
        """See `Route`."""
        if text:
            self.file.write(text)
            self._is_torn = text[-1] != 0x0A

    def finish(self) -> None:
        """See `Route`."""
        # The next process begins on a line of its own.
        if self._is_torn:
            self.file.write(b"\n")
            self._is_torn = False


class ToJournal:
    """systemd's journal: one entry for each line. Where there is none, the daemon's own output."""

    def __init__(self, gate: Gate, journal: Journal, worker: WorkerId, incarnation: Incarnation, other: ToSink) -> None:
        self.gate = gate
        self._journal = journal
        self._fields = make_fields(worker.service, worker.index, incarnation)
        self._other = other
        self._whole = Whole(ENTRY_MAX)

    def feed(self, text: bytes) -> None:
        """See `Route`."""
        self._send(self._whole.feed(text))

    def finish(self) -> None:
        """See `Route`."""
        self._send(self._whole.finish())
        self._other.finish()

    def _send(self, text: bytes) -> None:
        if not text:
            return
        if not self._journal.is_there():
            self._other.feed(text)
            return
        for line in text.removesuffix(b"\n").split(b"\n"):
            for piece in pieces_of(line.removesuffix(b"\r"), ENTRY_MAX):
                if not self._journal.write(make_entry(self._fields, piece)):
                    self._other.feed(piece + b"\n")
