"""
Says where processes that do not die hang, from what the kernel shows of them in /proc.

Reads only what a process that hangs cannot hold up: never its memory, and so neither its command line.
"""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.host import tree

SHOWN_MAX = 3
_WORDS = {"D": "uninterruptible", "t": "held by a debugger", "T": "stopped"}


def where_it_hangs(root: int) -> str:
    """
    Who lives below a process, and where.

    Args:
        root: Pid; it is not meant itself.

    Returns:
        Words, those in an uninterruptible call first; empty where nobody lives there.
    """
    found = [words for pid in _descendants(root) if (words := _describe(pid))]
    found.sort(key=lambda one: "state D" not in one)
    more = len(found) - SHOWN_MAX
    return ", ".join(found[:SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _descendants(root: int) -> list[int]:
    found: list[int] = []
    queue = [root]
    while queue:
        children = [pid for pid in tree.read_children(queue.pop()) if pid not in found]
        found += children
        queue += children
    return found


def _describe(pid: int) -> str:
    """One process by the thread of it that hangs the most; empty for one that is dead."""
    home = Path(f"/proc/{pid}")
    try:
        owner = home.stat().st_uid
        threads = sorted((home / "task").iterdir(), key=lambda one: int(one.name))
    except OSError:
        return ""
    seen = [one for one in map(_look, threads) if one is not None and one[1] not in "ZX"]
    if not seen:
        return ""
    name, state, place = next((one for one in seen if one[1] == "D"), seen[0])
    if os.geteuid() not in {0, owner}:
        return f"process {pid} ({name}) belongs to uid {owner}, whose processes we may not kill"
    state = f"state {state}" + (f", {_WORDS[state]}" if state in _WORDS else "")
    return f"process {pid} ({name}) hangs in {place or 'an unknown place'} ({state})"


def _look(thread: Path) -> tuple[str, str, str] | None:
    """Name, state, and function of the kernel that a thread waits in, empty if that is not told."""
    try:
        head, _, fields = (thread / "stat").read_text(errors="replace").rpartition(")")
        place = (thread / "wchan").read_text()
    except OSError:
        return None
    name = "".join(filter(str.isprintable, head.partition("(")[2]))
    return name, fields.split()[0], "" if place == "0" else place
