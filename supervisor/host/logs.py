"""
Owns the pipes that workers write into: their lines go to the daemon's stderr, their last words are kept.

Must not enlarge a pipe, read more than 64 KiB of one in a turn, or hold more of one worker than a partial line and a
tail; what a worker writes is never looked at beyond its line feeds.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from supervisor.host.sink import Sink

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from supervisor.core.message import Incarnation
    from supervisor.core.spec import WorkerId

__all__ = ["Lines", "Outputs", "Sink"]

READ_SIZE = 64 * 1024
"""Of one pipe in one turn; more makes a flood delay restarts (measured: 450 ms with 1 MiB, 30 ms with this)."""

DRAIN_LIMIT = 1 << 20
"""A pipe holds 64 KiB, but an orphan may go on filling it while the rest is read."""

LINE_MAX = 8 * 1024
TAIL_LINES = 20
TAIL_LINE_MAX = 2 * 1024

STALL_S = 5.0
"""A reader of stderr that takes nothing for so long is stuck (Ctrl-S), and must not hold up the workers."""


class Lines:
    """
    Cuts what one worker writes into lines with its name in front.

    Args:
        name: Put before each line: ``llm/0``.
    """

    def __init__(self, name: str) -> None:
        self._prefix = f"{name} | ".encode()
        self._partial = b""
        self._is_continued = False  # The partial line follows a piece that was written already.
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)

    def feed(self, text: bytes) -> bytes:
        """
        Take more of the output.

        Returns:
            The lines that are complete now, ready to write; empty if there is none. A line longer than `LINE_MAX`
            comes in pieces, cut between UTF-8 characters.
        """
        *lines, partial = (self._partial + text).split(b"\n")
        if b"\r" in text or self._partial.endswith(b"\r"):
            lines = [line.rstrip(b"\r") for line in lines]
        if lines:
            if self._is_continued and not lines[0]:
                del lines[0]  # Only the end of a piece that has its line feed already.
            self._is_continued = False
        if max(map(len, lines), default=0) > LINE_MAX:
            lines = [piece for line in lines for piece in _pieces(line)]
        if len(partial) > LINE_MAX:
            *pieces, partial = _pieces(partial)
            lines += pieces
            self._is_continued = True
        self._partial = partial
        return self._join(lines)

    def finish(self) -> bytes:
        """Complete the partial line, if there is one; what comes later continues it on a line of its own."""
        line, self._partial = self._partial.rstrip(b"\r"), b""
        if not line:
            return b""
        self._is_continued = True
        return self._join([line])

    def tail(self) -> tuple[str, ...]:
        """Last lines, oldest first, each cut to `TAIL_LINE_MAX` bytes; invalid UTF-8 is replaced."""
        return tuple(line.decode(errors="replace") for line in self._tail)

    def _join(self, lines: list[bytes]) -> bytes:
        if not lines:
            return b""
        self._tail.extend(line[:TAIL_LINE_MAX] for line in lines[-TAIL_LINES:])
        return self._prefix + (b"\n" + self._prefix).join(lines) + b"\n"


def _pieces(line: bytes) -> Iterator[bytes]:
    """Parts of at most `LINE_MAX` bytes; the last one may be short, none is empty unless the line is."""
    start = 0
    while len(line) - start > LINE_MAX:
        end = start + LINE_MAX
        # Step back over at most three continuation bytes (10xxxxxx), the most that a UTF-8 character has.
        for back in range(4):
            if line[end - back] & 0xC0 != 0x80:
                end -= back
                break
        yield line[start:end]
        start = end
    yield line[start:]


class _Pipe:
    """The read end of one incarnation's output; *fd* is None after its end of file."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd: int | None = fd
        self.lines = Lines(name)


class Outputs:
    """
    All workers' output.

    While stderr is congested but moves, pipes are left unread: a worker that says more than the reader takes waits for
    it. When nothing has moved for *stall_s* they are read again and the sink drops lines, until it moves.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink, *, stall_s: float = STALL_S) -> None:
        self._loop = loop
        self._sink = sink
        self._stall_s = stall_s
        self._pipes: dict[tuple[WorkerId, Incarnation], _Pipe] = {}
        self._paused: set[_Pipe] = set()
        self._stall_check: asyncio.TimerHandle | None = None
        self._stalled_at: int | None = None  # What sink.moved was when the sink was found stuck.
        sink.on_relief = self._unpause

    def open(self, worker: WorkerId, incarnation: Incarnation) -> int:
        """
        Make a pipe for the output of a process to come.

        Returns:
            Its write end, blocking and not inheritable; whoever receives it closes it.

        Raises:
            OSError: Out of descriptors.
        """
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        pipe = _Pipe(read_end, str(worker))
        self._pipes[worker, incarnation] = pipe
        self._loop.add_reader(read_end, self._turn, pipe)
        return write_end

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
        self._sink.write(pipe.lines.finish())
        return pipe.lines.tail()

    def close(self, worker: WorkerId, incarnation: Incarnation) -> None:
        """Take what is left and let go; end-of-file is not awaited, as an orphan may hold the pipe for ever."""
        self.drain(worker, incarnation)
        pipe = self._pipes.pop((worker, incarnation), None)
        if pipe is not None:
            self._let_go(pipe)

    def close_all(self) -> None:
        """Close every pipe: the daemon ends."""
        for worker, incarnation in tuple(self._pipes):
            self.close(worker, incarnation)
        self._stop_checking()

    def _turn(self, pipe: _Pipe) -> None:
        """One pipe is readable."""
        if self._sink.is_congested and self._sink.moved != self._stalled_at:
            self._pause(pipe)
        else:
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
            self._sink.write(pipe.lines.feed(text))
        else:
            self._sink.write(pipe.lines.finish())
            self._let_go(pipe)  # At once: at its end a pipe stays readable, and the loop would spin.
        return len(text)

    def _pause(self, pipe: _Pipe) -> None:
        assert pipe.fd is not None
        self._loop.remove_reader(pipe.fd)
        self._paused.add(pipe)
        self._stalled_at = None
        if self._stall_check is None:
            self._stall_check = self._loop.call_later(self._stall_s, self._check_stall, self._sink.moved)

    def _unpause(self) -> None:
        self._stop_checking()
        for pipe in self._paused:
            assert pipe.fd is not None
            self._loop.add_reader(pipe.fd, self._turn, pipe)
        self._paused.clear()

    def _check_stall(self, moved_before: int) -> None:
        """Look whether the sink moved since the last look, and drop lines rather than wait if it did not."""
        self._stall_check = None
        if self._sink.moved == moved_before:
            self._stalled_at = moved_before
            self._unpause()
        elif self._paused:
            self._stall_check = self._loop.call_later(self._stall_s, self._check_stall, self._sink.moved)

    def _stop_checking(self) -> None:
        if self._stall_check is not None:
            self._stall_check.cancel()
            self._stall_check = None

    def _let_go(self, pipe: _Pipe) -> None:
        self._paused.discard(pipe)
        if pipe.fd is not None:
            self._loop.remove_reader(pipe.fd)
            os.close(pipe.fd)
            pipe.fd = None
