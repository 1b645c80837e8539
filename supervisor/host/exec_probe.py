"""
Asks workers by a command of theirs: as their user, with their environment, below a shim of its own.

The shim takes the fork, the user and the end of what the command leaves behind off this process; a command that hangs
in the kernel holds up its own worker's probe and nobody else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.core.file.names import LISTEN_NAMES, NOTIFY_NAMES, expand_names
from supervisor.core.message import Exited, KillTree, ShimLost, SpawnFailed, TreeGone
from supervisor.core.spec import INHERIT, WorkerId
from supervisor.host.wire import close_all

if TYPE_CHECKING:
    from supervisor.core.message import Event, Spawn
    from supervisor.host.prober_client import Spawner

TAIL_BYTES = 512
_PIECE_BYTES = 65536
_SHOWN_MAX = 120
REFUSED = frozenset({0, 11, 12, 23, 24})
"""No shim, EAGAIN, ENOMEM, ENFILE, EMFILE: the machine is short of something, which says nothing about the worker."""


class Command:
    """
    One worker's command, run again and again, never twice at once.

    Args:
        spawner: The client of keeper and shims.
        start: The start of the worker that is asked about, of which the command takes everything but its words.
        argv: The command, ``$(NAME)`` not yet replaced.
        purpose: ``ready`` or ``alive``; names its shim.
    """

    def __init__(self, spawner: Spawner, start: Spawn, argv: tuple[str, ...], purpose: str) -> None:
        self._spawner = spawner
        self._loop = asyncio.get_running_loop()
        env = {name: value for name, value in start.env.items() if name not in NOTIFY_NAMES | LISTEN_NAMES}
        self._order = replace(
            start,
            worker=WorkerId(f"({start.worker.service} {purpose})", start.worker.index),
            argv=tuple(expand_names(word, start.env) for word in argv),
            env=env,
            logs=INHERIT,
        )
        self._numbers = itertools.count(1)
        self._number = 0
        self._end: Exited | SpawnFailed | ShimLost | None = None
        self._changed = asyncio.Event()
        self._is_gone = True
        self._output: int | None = None
        self._tail = b""
        spawner.listen(self._order.worker, self._hear)

    async def ask(self, timeout_s: float | None, given: bytes | None = None) -> str | None:
        """
        Run it once.

        Args:
            timeout_s: For so long at the most; None = until it ends.
            given: What it finds on its standard input; None = nothing.

        Returns:
            Empty if it ended with 0, else why not, in words; None if this machine could not even run it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_gone:
                    await self._wait()
                self._start(given)
                while self._end is None:
                    await self._wait()
        except TimeoutError:
            self._kill()
            return f"{self.name} did not end within {timeout_s:g} s"
        except OSError:
            return None  # No descriptors for its output.
        except asyncio.CancelledError:
            self._kill()
            raise
        self._read()
        self._kill()
        return self._verdict(self._end)

    def close(self) -> None:
        """End it, and whatever it left, unheard."""
        self._close_output()
        self._spawner.dismiss(self._order.worker)

    @property
    def has_run(self) -> bool:
        """Whether the last time it was started at all; one that is missing was not."""
        return self._number > 0 and not isinstance(self._end, SpawnFailed | ShimLost)

    @property
    def name(self) -> str:
        """The command without its folder; a fault begins with it."""
        return self._order.argv[0].rpartition("/")[2][:_SHOWN_MAX]

    def _start(self, given: bytes | None) -> None:
        ours, its_own = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fds = {1: its_own}
        try:
            fds[2] = os.dup(its_own)
            if given is not None:
                fds[0] = _make_input(given)
        except OSError:
            close_all((ours, *fds.values()))
            raise
        os.set_blocking(its_own, True)
        self._close_output()
        self._end, self._is_gone, self._tail = None, False, b""
        self._number = next(self._numbers)
        self._output = ours
        self._loop.add_reader(ours, self._read)
        self._spawner.spawn(replace(self._order, incarnation=self._number), fds)

    def _kill(self) -> None:
        if not self._is_gone:
            self._spawner.kill_tree(KillTree(self._order.worker, self._number))

    def _hear(self, event: Event) -> None:
        if not isinstance(event, Exited | SpawnFailed | ShimLost | TreeGone) or event.incarnation != self._number:
            return
        if not isinstance(event, TreeGone):
            self._end = event
        if isinstance(event, TreeGone | SpawnFailed) or (isinstance(event, Exited) and event.alone):
            self._is_gone = True
            self._read()
            self._close_output()
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _read(self) -> None:
        """Take what it says, so that it does not wait for a reader; of that the end is kept."""
        if self._output is None:
            return
        try:
            piece = os.read(self._output, _PIECE_BYTES)
        except BlockingIOError:
            return
        self._tail = (self._tail + piece)[-TAIL_BYTES:]
        if not piece:
            self._close_output()

    def _close_output(self) -> None:
        if self._output is not None:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = None

    def _verdict(self, end: Exited | SpawnFailed | ShimLost | None) -> str | None:
        match end:
            case Exited(code=0):
                return ""
            case Exited():
                lines = self._tail.decode(errors="replace").strip().splitlines()[-1:]
                how = f"exited with {end.code}" if end.signal is None else f"ended by signal {end.signal}"
                return ": ".join([f"{self.name} {how}", *("".join(filter(str.isprintable, lines[0])) for _ in lines)])[
                    : 2 * _SHOWN_MAX
                ]
            case SpawnFailed():
                return None if end.errno in REFUSED else f"cannot run {self.name}: {end.detail}"
            case _:
                return None


def _make_input(content: bytes) -> int:
    """A file of memory: nobody has to write while it is read, and one who never reads it costs nothing."""
    descriptor = os.memfd_create("input")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
