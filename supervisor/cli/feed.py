"""What a person watches, fetched by a thread of its own, so that a daemon that takes its time holds up no key."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from supervisor.cli.screen import drain

T = TypeVar("T")


class Feed(Generic[T]):
    """
    The newest of what a thread finds.

    Args:
        work: Finds things for as long as it likes; hands each on by calling its argument. Ends with the process.
    """

    def __init__(self, work: Callable[[Callable[[T], None]], None]) -> None:
        self.descriptor, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._newest: list[T] = []
        self._work = work
        threading.Thread(target=self._run, daemon=True).start()

    def take(self) -> T | None:
        """What was found since the last time, the newest of it."""
        drain(self.descriptor)
        found: T | None = None
        while self._newest:
            found = self._newest.pop()
            self._newest.clear()
        return found

    def put(self, found: T) -> None:
        """Hand something on, from any thread."""
        self._newest.append(found)
        with suppress(BlockingIOError):
            os.write(self._write, b"!")

    def _run(self) -> None:
        self._work(self.put)
