"""
Pages, which are lines and tables, as text: in a pipe plain and as wide as it is, on a terminal fitted to its width.

Knows nothing of what the pages say. In a pipe a row is one line, so that grep and awk find it whole; on a terminal a
long last cell goes below its row, and nothing is lost. Draws by itself: rich takes longer to import than all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self, TextIO

STYLES = {
    **dict.fromkeys(("ready", "running", "ok", "yes", "keep", "bound"), "green"),
    **dict.fromkeys(("failed", "lost", "no", "problem", "refused"), "red"),
    **dict.fromkeys(
        ("starting", "unready", "backoff", "pending", "reloading", "wait", "replace", "stop", "warning", "dirty"),
        "yellow",
    ),
    **dict.fromkeys(("stopping", "killing", "releasing", "held"), "magenta"),
    **dict.fromkeys(("stopped", "exited", "-"), "dim"),
}
"""Styles of words that stand alone in a cell."""

CODES = {
    "bold": 1,
    "dim": 2,
    "reverse": 7,
    "red": 31,
    "green": 32,
    "yellow": 33,
    "blue": 34,
    "magenta": 35,
    "cyan": 36,
}
"""Of ECMA-48, which every terminal knows."""

NOTHING = "-"
GAP = "  "

LEAST = 24
"""Columns that a long last cell needs beside its row; with fewer it goes below."""

INDENT = 10
"""Columns at the most before what goes below a row."""


class Styled(str):
    """
    A cell with a style of its own.

    Args:
        text: What it says.
        style: One of `CODES`.
    """

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str) -> Self:
        """A string that remembers its style."""
        made = super().__new__(cls, text)
        made.style = style
        return made


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table.

    Args:
        columns: Headings; the last column is the one with long texts.
        rows: Cells as text; an empty one is shown as a dash, so that columns can be counted.
        spare: Columns that a terminal too narrow for all of them does without, the first one first.
        is_cut: On a terminal each row is one line, and long last cells are cut.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    spare: tuple[str, ...] = ()
    is_cut: bool = False


Page = tuple[str | Table, ...]
"""Lines and tables, from the top down."""

Line = tuple[tuple[str, str], ...]
"""Pieces of text, each with its style or none."""


def draw(page: Page, out: TextIO, *, width: int | None, colour: bool) -> None:
    """
    Write a page.

    Args:
        page: What.
        out: Where.
        width: Columns of the terminal; None where there is none, and then nothing is cut or wrapped.
        colour: Whether it may be coloured.
    """
    out.write("".join(f"{ansi(line, colour=colour)}\n" for line in lay_out(page, width)))


def lay_out(page: Page, width: int | None) -> list[Line]:
    """The lines of a page; see `draw`."""
    lines: list[Line] = []
    for number, part in enumerate(page):
        # Tables stand apart from what is above and below them.
        if number and (isinstance(part, Table) or isinstance(page[number - 1], Table)):
            lines.append(())
        if isinstance(part, Table):
            lines += _plain(part) if width is None else _fitted(part, width)
            continue
        style = part.style if isinstance(part, Styled) else ""
        for line in clean_lines(part):
            # What is set in is somebody's own words, as they wrote them.
            is_whole = width is None or line.startswith(" ")
            lines += [((piece, style),) for piece in ([line] if is_whole else _wrap(line, width or 0, hang=2))]
    return lines


def ansi(line: Line, *, colour: bool) -> str:
    """A line with the escapes of its styles."""
    if not colour:
        return "".join(text for text, _ in line).rstrip()
    return "".join(f"\x1b[{CODES[style]}m{text}\x1b[0m" if style else text for text, style in line).rstrip(" ")


def cut(line: Line, width: int) -> Line:
    """As much of a line as there is place for."""
    left, kept = width, []
    for text, style in line:
        piece = text if columns_of(text) <= left else _head(text, left)
        kept.append((piece, style))
        left -= columns_of(piece)
        if piece != text:
            break
    return tuple(kept)


def clean_lines(text: str) -> list[str]:
    """A text from elsewhere as lines that do nothing to a terminal."""
    return [clean(line) for line in text.splitlines()] or [""]


def clean(text: str) -> str:
    """A text on one line, what cannot be printed shown as its escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - Seldom needed.

    return sum(0 if combining(char) else 2 if east_asian_width(char) in {"W", "F"} else 1 for char in text)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _plain(table: Table) -> Iterator[Line]:
    rows = [[clean(cell) or NOTHING for cell in row] for row in table.rows]
    widths = _widths(table.columns, rows)
    for line in (table.columns, *rows):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield ((GAP.join(padded).rstrip(), ""),)


def _fitted(table: Table, width: int) -> Iterator[Line]:
    table = _spared(table, width)
    widths = _widths(table.columns, table.rows)
    place = width - sum(widths[:-1]) - len(GAP) * (len(widths) - 1)
    is_wrapped = any(columns_of(clean(row[-1])) > place for row in table.rows)
    heads = table.columns if place >= len(table.columns[-1]) else table.columns[:-1]
    yield _row([Styled(head, "bold") for head in heads], widths)
    indent = min(widths[0] + len(GAP), INDENT, width // 4)
    for row in table.rows:
        last = clean(row[-1])
        if not last:
            yield _row(row[:-1], widths)
        elif table.is_cut:
            yield _row((*row[:-1], *((_like(row[-1], _head(last, place)),) if place > 0 else ())), widths)
        elif not is_wrapped or columns_of(last) <= place:
            yield _row(row, widths)
        elif place >= LEAST and columns_of(last) <= 2 * place and len(wrapped := _wrap(last, place)) == 2:
            yield _row((*row[:-1], _like(row[-1], wrapped[0])), widths)
            yield ((" " * (width - place), ""), (wrapped[1], _style(row[-1])))
        else:
            yield _row(row[:-1], widths)
            yield from (((" " * indent, ""), (line, _style(row[-1]))) for line in _wrap(last, width - indent))


def _spared(table: Table, width: int) -> Table:
    """The table without columns that it can do without, as far as there is no place for them."""
    for name in table.spare:
        widths = _widths(table.columns, table.rows)
        if sum(widths[:-1]) + len(GAP) * (len(widths) - 2) <= width:
            break
        at = table.columns.index(name)
        rows = tuple((*row[:at], *row[at + 1 :]) for row in table.rows)
        table = replace(table, columns=(*table.columns[:at], *table.columns[at + 1 :]), rows=rows)
    return table


def _row(cells: Iterable[str], widths: list[int]) -> Line:
    pieces: list[tuple[str, str]] = []
    for cell, width in zip(cells, widths, strict=False):
        text = clean(cell) or NOTHING
        pieces += [(text, _style(cell)), (" " * (width - columns_of(text)) + GAP, "")]
    return tuple(pieces[:-1])


def _widths(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[int]:
    return [max(columns_of(clean(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]


def _style(cell: str) -> str:
    return cell.style if isinstance(cell, Styled) else STYLES.get(cell or NOTHING, "")


def _like(cell: str, text: str) -> str:
    return Styled(text, cell.style) if isinstance(cell, Styled) else text


def _wrap(text: str, width: int, hang: int = 0) -> list[str]:
    """Lines of at most so many columns, broken between words where there are any."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if columns_of(joined) <= width or not line.strip():
            line = joined
        else:
            lines.append(line)
            line = " " * hang + word
        while columns_of(line) > width > hang:
            head = _head(line, width)
            lines.append(head)
            line = " " * hang + line[len(head) :]
    return [*lines, line]


def _head(text: str, width: int) -> str:
    """Its beginning, in at most so many columns."""
    if text.isascii():
        return text[: max(0, width)]
    end = len(text)
    while end and columns_of(text[:end]) > width:
        end -= 1
    return text[:end]
