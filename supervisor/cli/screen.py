"""
Owns the terminal of a person who watches: the second screen, keys without Enter, and giving all that back.

Whatever ends a command, the terminal is left as it was found. Knows nothing of what is shown.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import NoReturn, Self

from supervisor.cli import terminal
from supervisor.cli.outcome import EXIT_USAGE
from supervisor.errors import CannotError

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The second screen, no cursor, and no going on in the next line."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

KEYS = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
}

ENDS = (signal.SIGTERM, signal.SIGHUP)


class EndedError(Exception):
    """Somebody wants the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """
    The terminal, from `with` on to its end.

    Args:
        thing: What it is for, as an infinitive, should there be no terminal.
        hint: What else there is.

    Raises:
        CannotError: Standard input or output is no terminal.
    """

    def __init__(self, thing: str, hint: str) -> None:
        if not (sys.stdout.isatty() and sys.stdin.isatty()):
            raise CannotError(thing, "this is no terminal", hint=hint, exit_code=EXIT_USAGE)
        if os.environ.get("TERM", "dumb") == "dumb":
            raise CannotError(thing, "this terminal is a dumb one (TERM)", hint=hint, exit_code=EXIT_USAGE)
        self._input = sys.stdin.fileno()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        """Take it."""
        self._before = termios.tcgetattr(self._input)
        self._handlers = {number: signal.signal(number, _end) for number in ENDS}
        # Only to be woken: what it does is to write its number into the pipe.
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: None)
        self._wake_before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        tty.setcbreak(self._input)
        mode = termios.tcgetattr(self._input)
        mode[6][termios.VSUSP] = b"\0"  # Stopped by Ctrl-Z, it would leave the shell without a cursor.
        termios.tcsetattr(self._input, termios.TCSANOW, mode)
        self._write(ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        with suppress(OSError):
            self._write(LEAVE)
        with suppress(termios.error):  # It is gone.
            termios.tcsetattr(self._input, termios.TCSAFLUSH, self._before)
        signal.set_wakeup_fd(self._wake_before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, at this moment."""
        return terminal.size(sys.stdout)

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines, of which there are no more than the screen has, and none is wider."""
        self._write("\x1b[H" + "\x1b[K\r\n".join(lines) + "\x1b[K\x1b[J")

    def wait(self, descriptors: Sequence[int], until: float | None) -> list[str]:
        """
        Return when a key was pressed, the size has changed, one of the descriptors is readable or it is time.

        Args:
            descriptors: Of others; what is in them is theirs to read.
            until: A second of `now`; None for never.

        Returns:
            The keys.
        """
        waiting = select.poll()
        for descriptor in (self._input, self._wake_read, *descriptors):
            waiting.register(descriptor, select.POLLIN)
        left_s = None if until is None else max(0.0, until - now())
        ready = {descriptor for descriptor, _ in waiting.poll(None if left_s is None else left_s * 1000)}
        if self._wake_read in ready:
            drain(self._wake_read)
        return self._read_keys() if self._input in ready else []

    def _read_keys(self) -> list[str]:
        text = os.read(self._input, 1024)
        if not text:
            raise EndedError(signal.SIGHUP)  # The terminal is gone.
        keys = []
        while text:
            known = next((sequence for sequence in KEYS if text.startswith(sequence)), None)
            if known is not None:
                keys.append(KEYS[known])
                text = text[len(known) :]
            elif text[:1] == b"\x1b" and len(text) > 1:
                break  # Of a key that is none of ours nothing is to be taken for letters.
            else:
                head = text.decode(errors="ignore")[:1]
                keys.append(head)
                text = text[max(1, len(head.encode())) :]
        return [key for key in keys if key]

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def now() -> float:
    """Seconds, for `Screen.wait`."""
    return time.monotonic()


def drain(descriptor: int) -> None:
    """Take all that is in a pipe, which does not block."""
    with suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise EndedError(number)
