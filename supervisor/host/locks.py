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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from supervisor.core.message import DevicesClaimed, DevicesFreed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.core.message import Event

PREFIX = "\0gpu-supervisor/"
BACKLOG = 64  # Those who watch us are never accepted: that their connection ends is all they wait for.
LOOK_S = 5.0  # For a holder that cannot be watched: its backlog is full, or it does not listen.
TRY_S = 0.02  # A lock of our own that is on its way to be free.
TRIES = 150
USERS = Path("/etc/passwd")


class Trustee(Protocol):
    """Who holds locks beside this process; the client of the keeper."""

    def entrust(self, name: str, fd: int) -> None:
        """Hold a copy of a descriptor."""

    def take_back(self, name: str) -> None:
        """Close that copy."""


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
        self._leaving: dict[str, int] = {}  # Let go, and how often it was found to be held still.
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._ours: dict[str, socket.socket] = {}
        self._watched: dict[str, socket.socket] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def claim(self, uuids: Iterable[str]) -> None:
        """Claim devices; DevicesClaimed says which are ours, and who has the others."""
        claimed: list[str] = []
        held: dict[str, str] = {}
        again: list[str] = []
        for uuid in uuids:
            self._forget(uuid)
            holder = self._bind(uuid)
            if holder is not None and self._is_leaving(uuid):
                self._forget(uuid)
                again.append(uuid)
            elif holder is None:
                claimed.append(uuid)
            else:
                held[uuid] = holder
        if again:
            self._loop.call_later(TRY_S, self._claim_again, again)
        if claimed or held:
            self._loop.call_soon(self._post, DevicesClaimed(tuple(claimed), held))

    def let_go(self, uuids: Iterable[str]) -> None:
        """Let others have them."""
        for uuid in uuids:
            if (lock := self._ours.pop(uuid, None)) is not None:
                if self._trustee is not None:
                    self._trustee.take_back(uuid)
                    self._leaving[uuid] = 0
                lock.close()

    def close(self) -> None:
        """Let everything go, watch nobody."""
        self._is_closed = True
        self.let_go(list(self._ours))
        for uuid in [*self._watched, *self._timers]:
            self._forget(uuid)

    def _is_leaving(self, uuid: str) -> bool:
        """Whether it is held by the trustee alone, who has yet to hear that we let it go."""
        tries = self._leaving.get(uuid)
        if tries is None or tries >= TRIES:
            self._leaving.pop(uuid, None)
            return False
        self._leaving[uuid] = tries + 1
        return True

    def _claim_again(self, uuids: list[str]) -> None:
        if not self._is_closed:
            self.claim(uuids)

    def _bind(self, uuid: str) -> str | None:
        """Take the lock of a device; who has it, in words, if it cannot be had."""
        try:
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._look_later(uuid)
            return _words(error)
        try:
            lock.bind(PREFIX + uuid)
            lock.listen(BACKLOG)
        except OSError as error:
            lock.close()
            if error.errno != errno.EADDRINUSE:
                self._look_later(uuid)
                return _words(error)
            return self._watch(uuid)
        self._ours[uuid] = lock
        self._leaving.pop(uuid, None)
        if self._trustee is not None:
            self._trustee.entrust(uuid, lock.fileno())
        return None

    def _watch(self, uuid: str) -> str:
        """Have the kernel tell when a holder lets go: a connection that it never accepts ends with its socket."""
        try:
            caller, who = _call(uuid)
        except OSError:
            self._look_later(uuid)
            return describe(None)
        self._watched[uuid] = caller
        self._loop.add_reader(caller, partial(self._tell, uuid))
        return who

    def _look_later(self, uuid: str) -> None:
        self._timers[uuid] = self._loop.call_later(LOOK_S, self._tell, uuid)

    def _tell(self, uuid: str) -> None:
        """A holder is gone, or may be: whoever wants the device claims it again."""
        if uuid in self._watched:
            # Two daemons that let go of each other's devices must not come back in step for ever.
            self._forget(uuid)
            self._timers[uuid] = self._loop.call_later(TRY_S * (1 + os.getpid() % 16 / 16), self._tell, uuid)
            return
        self._forget(uuid)
        self._post(DevicesFreed((uuid,)))

    def _forget(self, uuid: str) -> None:
        if (timer := self._timers.pop(uuid, None)) is not None:
            timer.cancel()
        if (caller := self._watched.pop(uuid, None)) is not None:
            self._loop.remove_reader(caller)
            caller.close()


def find_holders(uuids: Iterable[str]) -> dict[str, str]:
    """Who has which of these devices, in words; those that nobody has are left out."""
    found = {}
    for uuid in uuids:
        with contextlib.suppress(OSError):
            caller, found[uuid] = _call(uuid)
            caller.close()
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


def _call(uuid: str) -> tuple[socket.socket, str]:
    """Connect to whoever has a device; OSError if nobody has, or he cannot be reached."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        caller.connect(PREFIX + uuid)
        size = struct.calcsize("3i")
        pid, uid, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    except OSError:
        caller.close()
        raise
    return caller, describe((pid, uid))


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
