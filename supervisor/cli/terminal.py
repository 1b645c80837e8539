"""
The terminal that a command writes to, if it is one: how wide it is, and what it can show.

Imports nothing at once that a fast command does not need anyway.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from supervisor.front.cells import Bars
    from supervisor.front.page import Page

USUAL = (80, 24)
"""Of a terminal that does not tell."""


class Terminal:
    """
    What is known of standard output.

    Args:
        width: Columns; None where it is no terminal.
        colour: Whether it may be coloured.
        bars: Of what bars are made, None for none.
    """

    __slots__ = ("bars", "colour", "width")

    def __init__(self, width: int | None, *, colour: bool, bars: Bars) -> None:
        self.width = width
        self.colour = colour
        self.bars = bars


def find(out: TextIO | None = None) -> Terminal:
    """What standard output is, or another stream."""
    out = sys.stdout if out is None else out
    if out is None or not out.isatty():
        return Terminal(None, colour=False, bars=None)
    # https://no-color.org: a NO_COLOR that is set and not empty forbids it.
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    is_wide = (getattr(out, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    return Terminal(size(out)[0], colour=colour, bars="unicode" if is_wide else "ascii")


def size(out: TextIO) -> tuple[int, int]:
    """Columns and lines of a terminal; COLUMNS and LINES of the environment come first, as everywhere."""
    try:
        columns, lines = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        columns, lines = 0, 0
    told = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    asked = [int(text) if text.isdecimal() and len(text) < 6 else 0 for text in told]
    return asked[0] or columns or USUAL[0], asked[1] or lines or USUAL[1]


def text_of(page: Callable[[Bars], Page], terminal: Terminal) -> str:
    """A page as it is to be written there."""
    from supervisor.front.page import ansi, lay_out

    lines = lay_out(page(terminal.bars), terminal.width)
    return "".join(f"{ansi(line, colour=terminal.colour)}\n" for line in lines)
