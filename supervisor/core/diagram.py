"""The state table as a picture for a page: what `table` says, in Mermaid's words. Changes and decides nothing."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.message import State
from supervisor.core.table import TABLE, column_names

OUTSIDE = "[*]"
"""Mermaid's sign for where a worker comes from and where it goes when it is forgotten."""


def mermaid() -> str:
    """
    The state diagram of a worker.

    Returns:
        Lines of a ``stateDiagram-v2`` without a fence: an arrow for each pair of states that an event may lead from
        and to, with the names of all the columns of the table that do. The same table gives the same text.
    """
    lines = ["stateDiagram-v2", f"    {OUTSIDE} --> {State.PENDING}"]
    for before in State:
        arrows: dict[str, list[str]] = {}
        for column, after in _ways_out(before):
            arrows.setdefault(after, []).append(column)
        lines += [f"    {before} --> {after}: {', '.join(columns)}" for after, columns in arrows.items()]
    return "\n".join(lines) + "\n"


def _ways_out(before: State) -> Iterator[tuple[str, str]]:
    """Column and next state of each step that leaves a state, in the order of the states."""
    order = [*State, None]
    for column in column_names():
        for after in sorted(getattr(TABLE[before], column).to, key=order.index):
            yield column, str(after) if after else OUTSIDE
