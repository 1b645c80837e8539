"""
One keeper or shim as the master sees it: its channel in the event loop, its process, and the patience with both.

Knows framing and answers, not what the messages mean. Never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import supervisor
from supervisor.host import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    Deliver = Callable[[wire.Message, tuple[int, ...] | None], None]

PATIENCE_S = 5.0  # ARCHITECTURE, "Messages": then the peer is continued.
LAST_PATIENCE_S = 1.0  # Then it is killed.
STALLED_S = 0.01
_KEEPER_CODE = "import sys; sys.path.append(sys.argv[1]); from supervisor.host.keeper import main; main()"
_KEEPER_SOCKET = 3


class Peer:
    """
    A process of ours at the other end of a channel.

    Args:
        sock: Our end.
        on_message: Called for each message, but the answers to ask(), with its descriptors.
        on_end: Called once when the channel ends by the other side's doing.
        patience_s: How long an answer may take before the process is continued, and a second later killed.
        origin: Who is asked to start this process: it is to blame as long as there is none.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_message: Deliver,
        on_end: Callable[[], None],
        patience_s: float,
        origin: Peer | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = wire.Channel(sock)
        self._on_message = on_message
        self._on_end = on_end
        self._patience_s = patience_s
        self._origin = origin
        self._pidfd: int | None = None
        self._is_watched = False
        self._is_writer = False
        self._asked = 0
        self._waiting: list[wire.Message] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.pid: int | None = None
        self.end = "its end was not seen"
        """How the process ended, in words, once it is reaped."""
        self._loop.add_reader(self._channel.fileno(), self.read)

    # ---- the channel -------------------------------------------------------------------------------------------------

    def send(self, message: wire.Message, fds: tuple[int, ...] = ()) -> None:
        """Send, or queue, a message. The descriptors are owned from now on."""
        self._channel.send(message, fds)
        self._watch_output()

    def ask(self, message: wire.Message) -> None:
        """Send a message whose answer, ``heard``, is awaited with limited patience."""
        if self._waiting is not None:
            self._waiting.append(message)
            return
        self._asked += 1
        self.send({**message, "order": self._asked})
        self._start_timer()

    def pause(self) -> None:
        """Keep what is asked from now on: what it is about has not been sent yet."""
        self._waiting = []

    def resume(self) -> None:
        """Ask what was kept."""
        waiting, self._waiting = self._waiting, None
        for message in waiting or ():
            self.ask(message)

    def read(self) -> None:
        """Deliver what has come; at the end of the channel say so."""
        try:
            messages = self._channel.receive()
        except wire.WireError:
            messages = []
            self._channel.ended = True
        for message, fds in messages:
            if self._channel.fileno() < 0:  # Closed by what a message before led to.
                wire.close_all(fds or ())
            else:
                self._deliver(message, fds)
        if self._channel.ended and self._channel.fileno() >= 0:
            self.close_channel(expect_end=False)
            self._on_end()

    def close_channel(self, *, expect_end: bool = True) -> None:
        """
        Let the process see the end of the channel, at which it ends; nothing is delivered from now on.

        Args:
            expect_end: Whether the process is continued, and killed, if it is not released within the patience.
        """
        fd = self._channel.fileno()
        if fd >= 0:
            # Out of the loop first: a closed descriptor may live on in a child that has not exec'd yet.
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._channel.close()
        self._waiting = None
        self._stop_timer()
        if expect_end:
            self._start_timer()

    def _deliver(self, message: wire.Message, fds: tuple[int, ...] | None) -> None:
        if message["did"] == "heard":
            if message["order"] == self._asked:
                self._stop_timer()
            return
        try:
            self._on_message(message, fds)
        except Exception as error:  # noqa: BLE001 - the messages behind it must not be lost.
            self._loop.call_exception_handler({"message": "cannot handle a report", "exception": error})

    def _watch_output(self) -> None:
        fd = self._channel.fileno()
        if fd < 0:
            return
        if self._channel.stalled:
            self._loop.call_later(STALLED_S, self._write)
        elif self._channel.is_pending != self._is_writer:
            self._is_writer = self._channel.is_pending
            if self._is_writer:
                self._loop.add_writer(fd, self._write)
            else:
                self._loop.remove_writer(fd)

    def _write(self) -> None:
        if self._channel.fileno() >= 0:
            self._channel.flush()
            self._watch_output()

    # ---- the process -------------------------------------------------------------------------------------------------

    def hold(self, pid: int, pidfd: int) -> None:
        """Take the process, known from now on; owns the pidfd."""
        self.pid = pid
        self._pidfd = pidfd

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Call when the process has ended. Needed of our own children only: for others the keeper speaks."""
        if self._pidfd is not None and not self._is_watched:
            self._is_watched = True
            self._loop.add_reader(self._pidfd, on_exit)

    def reap(self) -> bool:
        """Collect the process, a child of ours; True if it has ended."""
        if self._pidfd is None:
            return True
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # Collected by the keeper before that ended.
            return True
        if result is not None:
            self.end = _words_of_end(result)
        return result is not None

    def kill(self) -> None:
        """SIGKILL the process, if there is one."""
        self._signal(signal.SIGKILL)

    def release(self) -> None:
        """Forget the process, which has ended, and close everything."""
        self.close_channel(expect_end=False)
        if self._pidfd is None:
            return
        if self._is_watched:
            self._loop.remove_reader(self._pidfd)
            self._is_watched = False
        os.close(self._pidfd)
        self._pidfd = None

    def _signal(self, number: int) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    # ---- patience ----------------------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience_s, self._continue)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _continue(self) -> None:
        self._blame(signal.SIGCONT)
        self._start_last_timer()

    def _start_last_timer(self) -> None:
        self._timer = self._loop.call_later(LAST_PATIENCE_S, self._give_up, self._loop.time() + LAST_PATIENCE_S)

    def _give_up(self, due: float) -> None:
        # If it is late it is we who were stopped, maybe together with it: its answer may be unread, or to come.
        if self._loop.time() - due > LAST_PATIENCE_S / 2:
            self._start_last_timer()
            return
        self._timer = None
        self._blame(signal.SIGKILL)

    def _blame(self, number: int) -> None:
        if self._pidfd is None and self._origin is not None:
            self._origin._signal(number)  # noqa: SLF001 - another of ours.
        else:
            self._signal(number)


def _words_of_end(result: os.waitid_result) -> str:
    if result.si_code == os.CLD_EXITED:
        return f"exited with {result.si_status}"
    try:
        return f"killed by {signal.Signals(result.si_status).name}"
    except ValueError:
        return f"killed by signal {result.si_status}"


def exec_keeper() -> tuple[socket.socket, int, int]:
    """
    Start a keeper, a child of this process in a session of its own.

    Returns:
        Our end of its socket, its pid, its pidfd.

    Raises:
        OSError: No process or no descriptor is left.
    """
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as at_end, contextlib.ExitStack() as on_error:
        on_error.callback(ours.close)
        at_end.callback(theirs.close)
        # Away from the target: a dup2 onto itself would leave it closed on exec.
        end = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, _KEEPER_SOCKET + 1)
        at_end.callback(os.close, end)
        pid = _exec_python(end)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        on_error.pop_all()
    return ours, pid, pidfd


def _exec_python(end: int) -> int:
    root = str(Path(supervisor.__file__).parent.parent)
    utf8 = f"utf8={sys.flags.utf8_mode}"  # Names have to mean the same bytes there as here.
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-X", utf8, "-c", _KEEPER_CODE, root],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, end, _KEEPER_SOCKET),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
    )
