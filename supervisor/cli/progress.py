"""
One line on standard error that says what a long wait is for, where a person looks; gone when the wait is over.

Follows the events of the daemon: the line changes when something happened, and not before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from supervisor.cli import terminal
from supervisor.errors import CannotError
from supervisor.front.client import Client
from supervisor.front.page import clean, cut
from supervisor.front.verdict import DOWN, workers_of

NAMED = 4
"""Workers that are named; the others are counted."""


@contextmanager
def progress(client: Client, target: str | None, *, until: str) -> Iterator[None]:
    """
    Show what is waited for, while the body of `with` waits for it.

    Args:
        client: Of the daemon.
        target: ``llm``, ``llm/0``; None for everybody.
        until: ``ready`` or ``stopped``.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    over, writing = threading.Event(), threading.Lock()

    def write(text: str) -> None:
        with writing:
            if not over.is_set():
                # Before the last column, or the terminal goes on in the next line.
                ((shown, _),) = cut(((clean(text), ""),), terminal.size(sys.stderr)[0] - 1)
                sys.stderr.write(f"\r{shown}\x1b[K")
                sys.stderr.flush()

    threading.Thread(target=_follow, args=(client, target, until, write), daemon=True).start()
    try:
        yield
    finally:
        with writing:
            over.set()
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def words_of(status: Mapping[str, Any], until: str) -> str:
    """``waiting: 5 of 7 ready; llm/0 starting, big/0 pending``."""
    workers = workers_of(dict(status))
    done = {"ready"} if until == "ready" else DOWN
    others = [worker for worker in workers if worker["state"] not in done]
    named = ", ".join(f"{worker['worker']} {worker['state']}" for worker in others[:NAMED])
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"waiting: {len(workers) - len(others)} of {len(workers)} {until}" + (f"; {named}{more}" if named else "")


def _follow(client: Client, target: str | None, until: str, write: Any) -> None:
    params = {} if target is None else {"target": target}
    try:
        write(words_of(client.get("/v1/status", params), until))
        for _ in client.stream("/v1/events", {**params, "follow": "1", "lines": "0"}):
            write(words_of(client.get("/v1/status", params), until))
    except CannotError:
        return  # Whatever it is, the wait itself says it.
