"""
Owns what processes use of the host's CPU and memory: figures of whole trees, read from /proc.

Must not signal anybody or keep anything: each figure is read when it is asked for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.host.tree import read_children

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")
_PIECE = 64
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class TreeUse:
    """
    What a tree uses.

    Args:
        cpu_s: Seconds of CPU of its processes and of those that have ended, which the root has waited for.
        memory_bytes: In RAM, the sum over its processes; None where it has none.
    """

    cpu_s: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Row:
    """One process: its parent, its own CPU, that of children it has waited for, its pages in RAM."""

    parent: int
    ticks: int
    waited_ticks: int
    pages: int


async def read_trees(roots: Iterable[int], proc: Path = PROC) -> dict[int, TreeUse]:
    """
    What everything below some processes uses, those themselves left out.

    The loop goes round meanwhile. One look at each process of the machine, whatever the number of roots: looking for
    children takes a read for every thread, of which model servers have hundreds.

    Args:
        roots: Shims.
        proc: In place of ``/proc``.

    Returns:
        By root; without those that are gone.
    """
    names = [name for name in os.listdir(proc) if name.isdecimal()]  # noqa: PTH208 - There may be thousands.
    rows: dict[int, _Row] = {}
    # A millisecond of the loop at a time. In a thread each of these reads would wait for the interpreter's lock, which
    # a busy loop gives away every 5 ms only: a look took seconds, and the loop was late all the while.
    for begin in range(0, len(names), _PIECE):
        piece = names[begin : begin + _PIECE]
        rows |= {int(name): row for name in piece if (row := _row(proc, name)) is not None}
        await asyncio.sleep(0)
    children: dict[int, list[int]] = {}
    for pid, row in rows.items():
        children.setdefault(row.parent, []).append(pid)
    return {root: _sum(root, rows, children) for root in roots if root in rows}


def _row(proc: Path, name: str) -> _Row | None:
    try:
        with open(f"{proc}/{name}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - There may be thousands.
            # Behind the name, which may be anything: state, parent, ...
            fields = file.read().rpartition(b")")[2].split()
        return _Row(
            int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14]), int(fields[21])
        )
    except (OSError, IndexError, ValueError):  # Gone meanwhile.
        return None


def _sum(root: int, rows: Mapping[int, _Row], children: Mapping[int, list[int]]) -> TreeUse:
    ticks, pages = rows[root].waited_ticks, 0
    queue, seen = list(children.get(root, ())), {root}
    while queue:
        pid = queue.pop()
        if pid in seen:  # Numbers are used again while one looks.
            continue
        seen.add(pid)
        row = rows[pid]
        ticks += row.ticks + row.waited_ticks
        pages += row.pages
        queue += children.get(pid, ())
    return TreeUse(ticks * TICK_S, pages * PAGE if len(seen) > 1 else None)


def tree_bytes(root: int, proc: Path = PROC) -> int | None:
    """
    What everything below a process has of the host's memory, that process itself left out.

    Of a tree of several each page counts once, as far as the kernel tells (PSS). A single process is read the cheap way
    (RSS): the other one holds up a large process while it is counted.

    Args:
        root: A shim.
        proc: In place of ``/proc``.

    Returns:
        Bytes, None where there is nobody or nothing is told.
    """
    below = list(_below(root))
    figures = [_rss(pid, proc) if len(below) == 1 else _pss(pid, proc) or _rss(pid, proc) for pid in below]
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


def _below(root: int) -> Iterable[int]:
    queue, seen = read_children(root), set[int]()
    while queue:
        pid = queue.pop()
        if pid not in seen:
            seen.add(pid)
            queue += read_children(pid)
    return seen


def _pss(pid: int, proc: Path) -> int | None:
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text()
    except OSError:  # Gone; or another user's, and this daemon is not root.
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def _rss(pid: int, proc: Path) -> int | None:
    try:
        return int((proc / str(pid) / "statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return None
