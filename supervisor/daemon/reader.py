"""Reading the service file for the daemon: the same words for the first time and for every reload."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from supervisor.core.message import Event, SpecLoaded, SpecRejected
from supervisor.core.spec import SpecError, unknown_names
from supervisor.host.files import SpecRefused, load_spec
from supervisor.host.machine import cpu_count
from supervisor.host.tokens import Token


class SpecReader:
    """
    Reads one file again and again.

    Args:
        file: As the user gave it, which is how problems name it.
        environ: The daemon's environment, in which `$(NAME)` may be found.
    """

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.file = file
        self.token: Token | None = None
        """Of the last good file that was read."""
        self._environ = environ

    def read(self) -> SpecLoaded | SpecRejected:
        """The file as it is now, with every problem of it."""
        try:
            loaded = load_spec(self.file)
        except SpecRefused as refused:
            return SpecRejected(refused.lines)
        count = cpu_count()
        problems = unknown_names(loaded.spec, self._environ)
        try:
            loaded.spec.expand(count)
        except SpecError as error:
            problems += error.problems
        if problems:
            return SpecRejected(tuple(loaded.locate(problem) for problem in problems))
        self.token = loaded.token
        return SpecLoaded(loaded.spec, count)

    def read_in_thread(self, done: Callable[[Event], None]) -> None:
        """Read without holding up the loop: a file may lie on a disk that does not answer."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            answer = self.read()
            loop.call_soon_threadsafe(done, answer)

        # A daemon thread, so that one that never comes back does not hold up the end of the process either.
        threading.Thread(target=work, name="read-spec", daemon=True).start()
