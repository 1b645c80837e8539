"""
Owns the machine-wide claims on devices: an abstract Unix socket ``@gpu-supervisor/UUID`` for each.

Whoever has bound it has the device, root or not. The kernel lets go for a dead daemon, so nothing stale is ever left.
Decides nothing; must not touch a device.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from supervisor.core.message import DevicesClaimed, DevicesFreed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.core.message import Event

PREFIX = "\0gpu-supervisor/"
BACKLOG = 64
WATCHERS_MAX = 32
"""So many are let in for each device: each costs a descriptor, and anybody on the machine may call."""

LOOK_S = 5.0
"""For a holder that cannot be watched: too many wait for it, or it does not listen."""

TRY_S = 0.02
"""After a holder has hung up: the lock may be another's too, as a daemon's is its keeper's."""

LEAVING_S = 3.0
"""For so long a lock that we have let go, and that our keeper still has, is not called held."""

USERS = Path("/etc/passwd")


class Trustee(Protocol):
    """Who holds locks beside this process; the client of the keeper."""

    def entrust(self, name: str, fd: int) -> None:
        """Hold a copy of a descriptor."""

    def take_back(self, name: str) -> None:
        """Close that copy."""


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who has a device, or why it cannot be had, in words; *pid* is 0 where it is not known."""

    words: str
    pid: int = 0


class Locks:
    """
    The devices that this daemon has claimed, and an eye on those that others have.

    Args:
        post: Called with DevicesClaimed and DevicesFreed, never from inside a method here.
        trustee: Holds each lock too, so that it outlives this process as long as what it started does.
    """

    def __init__(self, post: Callable[[Event], None], trustee: Trustee | None = None) -> None:
        self._post = post
        self._trustee = trustee
        self._loop = asyncio.get_running_loop()
        self._ours: dict[str, _Lock] = {}
        self._leaving: set[str] = set()  # Let go by us, and perhaps not by the trustee yet.
        self._unanswered: dict[str, float] = {}  # Claimed while they were leaving, and when to give up on that.
        self._known: dict[str, str] = {}  # What was said of who has those that are watched.
        self._watched: dict[str, socket.socket] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def claim(self, uuids: Iterable[str]) -> None:
        """Claim devices; DevicesClaimed says which are ours, and who has the others."""
        claimed: list[str] = []
        held: dict[str, str] = {}
        for uuid in uuids:
            self._forget(uuid)
            holder = self._take(uuid)
            if holder is None:
                claimed.append(uuid)
            elif not self._is_leaving(uuid, holder):
                held[uuid] = self._known[uuid] = holder.words
        if claimed or held:
            self._loop.call_soon(self._post, DevicesClaimed(tuple(claimed), held))

    def let_go(self, uuids: Iterable[str]) -> None:
        """Let others have them."""
        for uuid in uuids:
            if (lock := self._ours.pop(uuid, None)) is not None:
                if self._trustee is not None:
                    self._trustee.take_back(uuid)
                    self._leaving.add(uuid)
                lock.close()

    def close(self) -> None:
        """Let everything go, watch nobody."""
        self.let_go(list(self._ours))
        for uuid in [*self._watched, *self._timers]:
            self._forget(uuid)

    def _take(self, uuid: str) -> _Holder | None:
        """Take the lock of a device; else say who has it, and have an eye on that."""
        for _ in range(3):  # Between two calls a holder may let go, or not listen yet.
            try:
                lock = _Lock(uuid, self._loop)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    self._look_later(uuid, LOOK_S)
                    return _Holder(_words(error))
            else:
                self._ours[uuid] = lock
                self._leaving.discard(uuid)
                self._unanswered.pop(uuid, None)
                if self._trustee is not None:
                    self._trustee.entrust(uuid, lock.fileno())
                return None
            with contextlib.suppress(ConnectionRefusedError):
                return self._watch(uuid)
        self._look_later(uuid, LOOK_S)
        return _Holder(describe(None))

    def _is_leaving(self, uuid: str, holder: _Holder) -> bool:
        """Whether the trustee alone has it, who has yet to hear that we let it go: then it is ours in a moment."""
        # The kernel remembers who has made a socket listen, whoever has it now: of another daemon it is never we.
        if uuid in self._leaving and holder.pid == os.getpid():
            now = self._loop.time()
            until = self._unanswered.setdefault(uuid, now + LEAVING_S)
            if now < until:
                self._look_later(uuid, until - now)
                return True
        self._leaving.discard(uuid)
        self._unanswered.pop(uuid, None)
        return False

    def _watch(self, uuid: str) -> _Holder:
        """Have the kernel tell when a holder lets go, by the end of a connection; refused where nobody listens."""
        try:
            caller, holder = _call(uuid)
        except ConnectionRefusedError:
            raise
        except OSError:
            self._look_later(uuid, LOOK_S)
            return _Holder(describe(None))
        self._watched[uuid] = caller
        self._loop.add_reader(caller, self._hear_end, uuid)
        return holder

    def _hear_end(self, uuid: str) -> None:
        """A holder has hung up."""
        self._leave(uuid)
        # Two daemons that let go of each other's devices must not come back in step for ever.
        self._look_later(uuid, TRY_S * (1 + os.getpid() % 16 / 16))

    def _look_later(self, uuid: str, after_s: float) -> None:
        if (timer := self._timers.pop(uuid, None)) is not None:
            timer.cancel()
        self._timers[uuid] = self._loop.call_later(after_s, self._look, uuid)

    def _look(self, uuid: str) -> None:
        """See whether a device is free by now. That somebody still has it is no news; that it is somebody else is."""
        if uuid in self._unanswered:
            self.claim((uuid,))
            return
        known = self._known.get(uuid)
        self._forget(uuid)
        try:
            words = self._known[uuid] = self._watch(uuid).words
        except ConnectionRefusedError:
            self._post(DevicesFreed((uuid,)))
            return
        if words != known:
            self._post(DevicesClaimed((), {uuid: words}))

    def _forget(self, uuid: str) -> None:
        self._known.pop(uuid, None)
        if (timer := self._timers.pop(uuid, None)) is not None:
            timer.cancel()
        self._leave(uuid)

    def _leave(self, uuid: str) -> None:
        if (caller := self._watched.pop(uuid, None)) is not None:
            self._loop.remove_reader(caller)
            caller.close()


class _Lock:
    """
    A bound socket, and those who are connected to it in order to hear of its end.

    They are let in, for one who has gone again would else stay in line until there is no place for anybody.
    """

    def __init__(self, uuid: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watchers: set[socket.socket] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(PREFIX + uuid)
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._pause: asyncio.TimerHandle | None = None
        self._open()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let it go, as far as it is ours alone, and have everybody look."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        for watcher in self._watchers:
            self._loop.remove_reader(watcher)
            watcher.close()
        self._socket.close()

    def _open(self) -> None:
        self._loop.add_reader(self._socket, self._admit)

    def _admit(self) -> None:
        while len(self._watchers) < WATCHERS_MAX:
            try:
                watcher, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:  # No descriptor is left: whoever waits in line is watching as well.
                self._pause = self._loop.call_later(LOOK_S, self._open)
                break
            watcher.setblocking(False)
            self._watchers.add(watcher)
            self._loop.add_reader(watcher, self._dismiss, watcher)
        self._loop.remove_reader(self._socket)

    def _dismiss(self, watcher: socket.socket) -> None:
        """It has gone, or talks, for which nobody is here."""
        self._loop.remove_reader(watcher)
        self._watchers.discard(watcher)
        watcher.close()
        self._open()


def find_holders(uuids: Iterable[str]) -> dict[str, str]:
    """Who has which of these devices, in words; those that nobody has are left out."""
    found = {}
    for uuid in uuids:
        with contextlib.suppress(OSError):
            caller, holder = _call(uuid)
            caller.close()
            found[uuid] = holder.words
    return found


def describe(holder: tuple[int, int] | None) -> str:
    """
    Say who has a device.

    Args:
        holder: Process, 0 in a namespace that is not seen from here, and user; None for somebody who cannot be asked.
    """
    if holder is None:
        return "held by another process that does not say who it is"
    pid, uid = holder
    process = f"pid {pid}" if pid else "in another container"
    return f"held by another daemon ({process}, user {_user_name(uid)})"


def _call(uuid: str) -> tuple[socket.socket, _Holder]:
    """Connect to whoever has a device; OSError if nobody has, or he cannot be reached."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        caller.connect(PREFIX + uuid)
        size = struct.calcsize("3i")
        pid, uid, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    except OSError:
        caller.close()
        raise
    return caller, _Holder(describe((pid, uid)), pid)


def _user_name(uid: int) -> str:
    """By the file alone: other sources of names may be servers that do not answer."""
    with contextlib.suppress(OSError):
        for line in USERS.read_text(errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2] == str(uid):
                return fields[0]
    return str(uid)


def _words(error: OSError) -> str:
    return f"cannot be claimed: {(error.strerror or str(error)).lower()}"
