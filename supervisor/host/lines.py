"""
What a worker writes, cut into lines: with its name in front for a stream that many share, or kept as its last words.

Bytes in, bytes out; owns no descriptor and no file.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_MAX = 8 * 1024
"""Of a line on a shared stream; a longer one comes in pieces, so that nobody holds the stream."""

PARTIAL_MAX = 64 * 1024
"""Of a line that is not complete yet; beyond it what is there is passed on, so that memory stays bounded."""

KEPT_BYTES = 256 * 1024
KEPT_BLOCKS = 1000
"""Of a worker that says a line at a time each line is one; it bounds what they weigh beside their bytes."""


Parts = tuple[bytes | memoryview, ...]
"""Whole lines, cut anywhere, to be written one part after the other: nothing is copied only to be joined."""


class Lines:
    """
    Cuts what one worker writes into lines with its name in front.

    Args:
        name: Put before each line: ``llm/0``.
    """

    def __init__(self, name: str) -> None:
        self._prefix = f"{name} | ".encode()
        self._between = b"\n" + self._prefix
        self._partial = b""
        self._is_continued = False  # The partial line follows a piece that was written already.

    def feed(self, text: bytes) -> Parts:
        """
        Take more of the output.

        Returns:
            The lines that are complete now. A line longer than `LINE_MAX` comes in pieces, cut between UTF-8
            characters.
        """
        if not self._partial and not self._is_continued and _is_plain(text):
            # Several times as fast, and nearly everything that anybody ever says.
            return self._prefix, memoryview(text.replace(b"\n", self._between))[: -len(self._prefix)]
        *lines, partial = (self._partial + text).split(b"\n")
        if b"\r" in text or self._partial.endswith(b"\r"):
            lines = [line.rstrip(b"\r") for line in lines]
        if lines:
            if self._is_continued and not lines[0]:
                del lines[0]  # Only the end of a piece that has its line feed already.
            self._is_continued = False
        if max(map(len, lines), default=0) > LINE_MAX:
            lines = [piece for line in lines for piece in pieces_of(line, LINE_MAX)]
        if len(partial) > LINE_MAX:
            *pieces, partial = pieces_of(partial, LINE_MAX)
            lines += pieces
            self._is_continued = True
        self._partial = partial
        return self._join(lines)

    def finish(self) -> Parts:
        """Complete the partial line, if there is one; what comes later continues it on a line of its own."""
        line, self._partial = self._partial.rstrip(b"\r"), b""
        if not line:
            return ()
        self._is_continued = True
        return self._join([line])

    def _join(self, lines: list[bytes]) -> Parts:
        return (self._prefix, self._between.join(lines), b"\n") if lines else ()


def _is_plain(text: bytes) -> bool:
    """Whether these are whole lines, none of them too long, without a carriage return."""
    if text[-1:] != b"\n" or b"\r" in text:
        return False
    start = 0
    while len(text) - start > LINE_MAX:
        end = text.rfind(b"\n", start, start + LINE_MAX + 1)
        if end < 0:
            return False
        start = end + 1
    return True


def pieces_of(line: bytes, size: int) -> Iterator[bytes]:
    """Parts of at most *size* bytes; the last one may be short, none is empty unless the line is."""
    start = 0
    while len(line) - start > size:
        end = start + size
        # Step back over at most three continuation bytes (10xxxxxx), the most that a UTF-8 character has.
        for back in range(4):
            if line[end - back] & 0xC0 != 0x80:
                end -= back
                break
        yield line[start:end]
        start = end
    yield line[start:]


class Whole:
    """Holds back the line that is not complete yet, so that what is passed on ends with a line feed."""

    def __init__(self, limit: int = PARTIAL_MAX) -> None:
        self._partial = b""
        self._limit = limit

    def feed(self, text: bytes) -> bytes:
        """Whole lines, or a partial one that is longer than the limit; empty if there is none yet."""
        end = text.rfind(b"\n") + 1
        if end == len(text):
            whole, self._partial = (self._partial + text if self._partial else text), b""
        elif end:
            # In one copy: of all that is done with what workers say, copying takes the most.
            whole, self._partial = b"".join((self._partial, memoryview(text)[:end])), text[end:]
        elif len(self._partial) + len(text) > self._limit:
            whole, self._partial = self._partial + text, b""
        else:
            whole, self._partial = b"", self._partial + text
        return whole

    def finish(self) -> bytes:
        """The partial line, as it is."""
        whole, self._partial = self._partial, b""
        return whole


@dataclass(frozen=True, slots=True)
class Block:
    """
    Successive lines of one process.

    Args:
        first: Number of its first line. A line's number is the count of bytes that all workers had said before it:
            the order of arrival, and nothing has to be counted while it is only kept.
        incarnation: Of the process.
        at: Second of the loop's clock at which they came.
        text: Bytes that end with a line feed.
    """

    first: int
    incarnation: int
    at: float
    text: bytes

    def lines(self) -> Iterator[tuple[int, str]]:
        """Numbers and texts; invalid UTF-8 is replaced."""
        number = self.first
        for line in self.text[:-1].split(b"\n"):
            yield number, folded(line).decode(errors="replace")
            number += len(line) + 1


def folded(line: bytes) -> bytes:
    """What a terminal would show of a line in the end: a carriage return begins it anew, as progress bars do."""
    if b"\r" not in line:
        return line
    return line.rstrip(b"\r").rpartition(b"\r")[2]


class Ring:
    """
    The last lines of one worker, over all its processes.

    What is kept is as it came and is cut into lines only when somebody asks: most of it nobody ever reads.

    Args:
        limit: Bytes kept at the most.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit = limit
        self._blocks: deque[Block] = deque()
        self._size = 0

    def add(self, block: Block) -> None:
        """Keep a block, and let the oldest go."""
        if len(block.text) > self.limit:
            block = _last_of(block, self.limit)
        self._blocks.append(block)
        self._size += len(block.text)
        while self._size > self.limit or len(self._blocks) > KEPT_BLOCKS:
            self._size -= len(self._blocks.popleft().text)

    def blocks(self) -> tuple[Block, ...]:
        """What is kept, oldest first."""
        return tuple(self._blocks)

    def tail(self, incarnation: int, lines: int, width: int) -> tuple[str, ...]:
        """Last lines of one process, oldest first, each cut to *width* bytes."""
        found: list[bytes] = []
        for block in reversed(self._blocks):
            if block.incarnation == incarnation:
                # A line that is not wanted in front takes up the rest.
                found = block.text[:-1].rsplit(b"\n", lines - len(found))[-(lines - len(found)) :] + found
            if len(found) >= lines:
                break
        return tuple(folded(line)[:width].decode(errors="replace") for line in found)


def _last_of(block: Block, limit: int) -> Block:
    """Its last whole lines that fit; of a single long line the end."""
    text = block.text[-limit:]
    text = text[text.find(b"\n", 0, -1) + 1 :]
    return Block(block.first + len(block.text) - len(text), block.incarnation, block.at, text)
