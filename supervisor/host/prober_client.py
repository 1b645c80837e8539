"""
Owns one prober process from the daemon's side: its start, its descriptors, its end.

Knows nothing of deadlines and of what the answers mean; that is the business of whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import supervisor
from supervisor.core.message import Event, Exited, KillTree, ShimLost, Spawn, SpawnFailed, TreeGone
from supervisor.core.plan import Launch
from supervisor.core.spec import Recipe, WorkerId

_LINE_MAX_BYTES = 4 * 1024 * 1024  # A reading of a hundred devices takes some 30 KiB.
_COMPLAINTS_MAX_BYTES = 4096
_PIECE_BYTES = 65536
_TURN_MAX_PIECES = 16  # A library that prints without end must not hold the loop.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
_ROOT = str(Path(supervisor.__file__).parent.parent)
# Last on the path: where the daemon found us and the prober would not, nothing else may come to be found there.
_CODE = "import sys; sys.path.append(sys.argv[1]); from supervisor.host.{} import main; main()"


class Spawner(Protocol):
    """What is needed of the client of keeper and shims."""

    def listen(self, worker: WorkerId, callback: Callable[[Event], None]) -> None:
        """Give the events of *worker* to *callback*."""

    def spawn(self, order: Spawn, fds: Mapping[int, int]) -> None:
        """Start a process; *fds*, descriptor there to descriptor here, are closed here."""

    def kill_tree(self, order: KillTree) -> None:
        """End a process and all it started."""

    def dismiss(self, worker: WorkerId) -> None:
        """Let go of the shim."""


class Prober:
    """
    One prober process, from its start until it is gone.

    Args:
        place: Index of its worker id, which no other living prober has.
        number: Its incarnation.
        environ: Its whole environment.
        program: Module of this package that it runs.
    """

    def __init__(
        self, spawner: Spawner, *, place: int, number: int, environ: Mapping[str, str], program: str = "prober"
    ) -> None:
        self.place = place
        self._spawner = spawner
        self._title = "the prober" if program == "prober" else f"the process that asks {program.upper()}"
        self._worker = WorkerId(f"({program})", place)
        self._incarnation = number
        self._loop = asyncio.get_running_loop()
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._complaints = b""
        self._is_open = True  # Our ends of its descriptors.
        self._has_ended = False  # It answers no more.
        self._woken = asyncio.Event()
        self._gone = asyncio.Event()
        self._end = ""
        self._told = asyncio.Event()  # Its parent said how it ended.
        self.calling = ""
        self.retired_at = 0.0
        self._talk, self._stderr, its_fds = _make_channels()
        self._watch(self._talk, self._read_answers)
        self._watch(self._stderr, self._read_complaints)
        # The interpreter does not put the current directory on its path (-P), since modules there would hide the
        # library's; but it has to find packages wherever the daemon found them, so not -I.
        argv = (sys.executable, "-P", "-c", _CODE.format(program), _ROOT)
        launch = Launch(Recipe(command=argv, env=(), working_dir="/", port=None, gpu_memory=None))
        spawner.listen(self._worker, self._take_event)
        spawner.spawn(Spawn(self._worker, self._incarnation, launch, argv, dict(environ), "/"), its_fds)

    @property
    def has_ended(self) -> bool:
        """Whether it cannot answer any more."""
        return self._has_ended

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it lives."""
        return self._gone.is_set()

    def ask(
        self,
        number: int,
        question: str = "inventory",
        *,
        closely: bool = False,
        sensors: bool = False,
        checkup: bool = False,
        spare: Iterable[int] = (),
        known: Iterable[tuple[int, str, str]] = (),
    ) -> None:
        """Send a request; a prober that is dead already is noticed by its silence."""
        self.calling = ""
        asked = {"id": number, "ask": question, "closely": closely, "sensors": sensors, "checkup": checkup}
        request = json.dumps({**asked, "spare": [*spare], "known": [*known]}).encode() + b"\n"
        try:
            self._talk.send(request)  # A few bytes into an empty buffer: it neither blocks nor is cut.
        except OSError:
            self._note_end()

    async def wait_line(self, deadline_s: float) -> bytes | None:
        """
        The next line of its answers.

        Returns:
            None when there will be none any more.

        Raises:
            TimeoutError: None came in time.
        """
        due = self._loop.time() + deadline_s
        while not self._lines and not self._has_ended:
            left_s = due - self._loop.time()
            if left_s <= 0:
                # The late one may be this loop: what waits in the socket was in time.
                self._read_answers()
                if self._lines or self._has_ended:
                    break
                raise TimeoutError
            self._woken.clear()
            await wait_event(self._woken, left_s)
        return self._lines.popleft() if self._lines else None

    async def describe_end(self, deadline_s: float) -> str:
        """How it ended, in words, waiting a moment for its parent to tell."""
        await wait_event(self._told, deadline_s)
        self._read_complaints()
        where = f" in {self.calling}" if self.calling else ""
        end = self._end or f"{self._title} stopped answering"
        last_words = self._complaints.decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([f"{end}{where}", *last_words])

    def kill(self) -> None:
        """End it. Our ends of its descriptors are closed, whether it dies or not."""
        self.retired_at = self._loop.time()
        self._close()
        if not self.is_gone:
            self._spawner.kill_tree(KillTree(self._worker, self._incarnation))

    async def wait_gone(self, deadline_s: float) -> None:
        """Wait until nothing of it lives, or for *deadline_s* seconds."""
        await wait_event(self._gone, deadline_s)

    def _take_event(self, event: Event) -> None:
        if not isinstance(event, Exited | ShimLost | SpawnFailed | TreeGone):
            return
        match event:
            case SpawnFailed():
                self._end = f"cannot start {self._title}: {event.detail}"
            case Exited():
                self._end = f"{self._title} {_describe_exit(event)}"
            case ShimLost():
                self._end = f"{self._title} lost its shim"
        is_last = event.alone if isinstance(event, Exited) else not isinstance(event, ShimLost)
        if is_last:
            self._gone.set()
            self._spawner.dismiss(self._worker)
        self._told.set()
        self._read_answers()  # What it said before its end counts.
        self._note_end()

    def _watch(self, our_end: socket.socket, callback: Callable[[], None]) -> None:
        our_end.setblocking(False)
        self._loop.add_reader(our_end.fileno(), callback)

    def _read_answers(self) -> None:
        for chunk in self._receive(self._talk):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._lines.extend(lines)
            if not chunk or len(self._rest) > _LINE_MAX_BYTES:
                self._note_end()
                self._loop.remove_reader(self._talk.fileno())
                break
        if self._lines:
            self._woken.set()

    def _read_complaints(self) -> None:
        for chunk in self._receive(self._stderr):
            self._complaints = (self._complaints + chunk)[-_COMPLAINTS_MAX_BYTES:]
            if not chunk:
                self._loop.remove_reader(self._stderr.fileno())
                break

    def _receive(self, our_end: socket.socket) -> Iterator[bytes]:
        """What is there to be read, an empty piece at its end."""
        for _ in range(_TURN_MAX_PIECES):
            if not self._is_open:
                return
            try:
                yield our_end.recv(_PIECE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                yield b""

    def _note_end(self) -> None:
        self._has_ended = True
        self._woken.set()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            for our_end in (self._talk, self._stderr):
                self._loop.remove_reader(our_end.fileno())
                our_end.close()
        self._note_end()


def _make_channels() -> tuple[socket.socket, socket.socket, dict[int, int]]:
    """Our end of what it hears and says, our end of what it complains, and its own descriptors."""
    with contextlib.ExitStack() as undo:
        talk, its_talk = (undo.enter_context(end) for end in socket.socketpair())
        stderr, its_stderr = (undo.enter_context(end) for end in socket.socketpair())
        its_input = undo.enter_context(its_talk.dup())
        undo.pop_all()
    return talk, stderr, {0: its_input.detach(), 1: its_talk.detach(), 2: its_stderr.detach()}


def _describe_exit(exited: Exited) -> str:
    if exited.signal is None:
        return f"exited with status {exited.code}"
    if exited.signal not in set(signal.Signals):
        return f"was killed (signal {exited.signal})"
    verb = "crashed" if exited.signal in _CRASHES else "was killed"
    return f"{verb} ({signal.Signals(exited.signal).name})"


async def wait_event(event: asyncio.Event, deadline_s: float) -> None:
    """Wait for *event*, but no longer than *deadline_s* seconds; the caller looks which it was."""
    if deadline_s > 0 and not event.is_set():
        # Not wait_for: before Python 3.12 it may swallow the cancellation by which close() ends all waiting.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await event.wait()
