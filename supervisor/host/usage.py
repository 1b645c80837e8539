"""
Owns what processes use of the host's memory: figures of whole trees, read from /proc.

Must not signal anybody or keep anything: each figure is read when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from supervisor.host.tree import read_children

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")


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
