"""
Owns the sockets that workers are handed: bound here once, and kept while workers come and go.

Must not accept on them: whoever connects waits in the kernel until a worker takes him.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from supervisor.core.file.listen import Address, Socket
from supervisor.core.message import Event, SocketsBound
from supervisor.host.listeners import holder_of, name_process

BACKLOG = 4096
"""Who connects while no worker is there; the kernel has its own limit, net.core.somaxconn, of as many."""

MODE = 0o666
"""Of a unix socket's file, as systemd's: who may connect is a matter of the folder it lies in."""

LOOK_S = 0.5
"""How long a start waits at the most for the file system in which a unix socket's file lies."""

FIRST = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """
    A socket that listens.

    Args:
        file: Device and inode of the unix socket's file that we have made; None where there is none.
        is_inherited: Somebody has bound it for us, and keeps it too.
    """

    socket: socket.socket
    file: tuple[int, int] | None = None
    is_inherited: bool = False


class ServiceSockets:
    """
    Sockets by address.

    Args:
        post: Gets a SocketsBound for every `bind`.
        inherited: Sockets that a service manager has bound, by address; owned from now on.
    """

    def __init__(self, post: Callable[[Event], None], inherited: Mapping[Address, socket.socket]) -> None:
        self._post = post
        self._bound: dict[Address, _Bound] = {}
        self._inherited = dict(inherited)
        self._is_closed = False

    def bind(self, addresses: Iterable[Address]) -> None:
        """Listen there. A file system that does not answer must hold up nobody, so another thread does it."""
        wanted = tuple(addresses)
        mine = {address: self._inherited.pop(address) for address in wanted if address in self._inherited}
        found: dict[Address, _Bound | str] = {
            address: _Bound(its_own, is_inherited=True) for address, its_own in mine.items()
        }
        rest = [address for address in wanted if address not in mine]
        ours = {address: one.socket for address, one in self._bound.items()}
        loop = asyncio.get_running_loop()

        def work() -> None:
            for address in rest:
                found[address] = _try(address, [one for other, one in ours.items() if other.overlaps(address)])
            with suppress(RuntimeError):  # The loop is closed: nobody listens any more.
                loop.call_soon_threadsafe(self._take, found)

        if rest:
            # A daemon thread, so that one that never comes back does not hold up the end of the process either.
            threading.Thread(target=work, name="bind", daemon=True).start()
        else:
            loop.call_soon(self._take, found)

    def unbind(self, addresses: Iterable[Address]) -> None:
        """Listen there no more; what a service manager has given stays his, and is kept for another time."""
        for address in addresses:
            if (bound := self._bound.pop(address, None)) is None:
                continue
            if bound.is_inherited:
                self._inherited[address] = bound.socket
            else:
                _close(address, bound)

    def copies(self, sockets: Iterable[Socket]) -> dict[int, int]:
        """
        Descriptors for a worker.

        Returns:
            Number in the worker, from 3 on in the order of the file -> a descriptor of ours, the caller's to close.

        Raises:
            OSError: There is no room for them.
        """
        found: dict[int, int] = {}
        try:
            for number, one in enumerate(sockets, FIRST):
                found[number] = os.dup(self._listening(one.address).fileno())
        except OSError:
            for fd in found.values():
                os.close(fd)
            raise
        return found

    def close(self) -> None:
        """Close everything, and remove the files that are ours."""
        self._is_closed = True
        for address, bound in self._bound.items():
            _close(address, bound)
        for one in self._inherited.values():
            one.close()
        self._bound.clear()
        self._inherited.clear()

    def _listening(self, address: Address) -> socket.socket:
        if address not in self._bound:
            raise OSError(errno.EAGAIN, f"{address} is not bound")
        bound = self._bound[address]
        if bound.file is not None:
            bound = self._bound[address] = _with_file(address, bound)
        _revive(bound.socket)
        return bound.socket

    def _take(self, found: Mapping[Address, _Bound | str]) -> None:
        for address, one in found.items():
            if isinstance(one, _Bound):
                if self._is_closed:
                    _close(address, one)
                else:
                    self._bound[address] = one
        if not self._is_closed:
            refused = {address: one for address, one in found.items() if isinstance(one, str)}
            self._post(SocketsBound(tuple(one for one in found if one not in refused), refused))


def _with_file(address: Address, bound: _Bound) -> _Bound:
    """
    The socket with its file: another one where somebody has removed that, which no socket gets back.

    So it is made where a worker starts, who serves it: those that run have the old one, which nobody finds any more. A
    file system that does not answer is not waited for, nor what others have put there removed.
    """
    lock, found = threading.Lock(), [bound]

    def work() -> None:
        if os.path.lexists(address.host):
            return
        new = _try(address, [])
        with lock:
            if isinstance(new, _Bound) and found:
                found.append(new)
            elif isinstance(new, _Bound):
                _close(address, new)  # Nobody waits for it any more.

    thread = threading.Thread(target=work, name="bind", daemon=True)
    thread.start()
    thread.join(LOOK_S)
    with lock:
        newest = found[-1]
        found.clear()
    if newest is not bound:
        bound.socket.close()
    return newest


def _try(address: Address, ours: list[socket.socket]) -> _Bound | str:
    """A socket, or why there is none."""
    try:
        if address.kind == "unix":
            return _bind_file(Path(address.host))
        try:
            return _Bound(_bind_port(address))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not ours:
                raise
        # It is our own, which goes when the last worker that has it is gone: for that long there are two.
        with _shared(ours):
            return _Bound(_bind_port(address, is_shared=True))
    except OSError as error:
        return _words(address, error)


def _bind_port(address: Address, *, is_shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of a daemon before us that are not forgotten yet must not keep us from our port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        with _shared([listener] if is_shared else []):
            listener.bind((address.host, address.port))
            listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def _shared(listeners: Iterable[socket.socket]) -> Iterator[None]:
    """While it lasts other sockets of this user may be bound beside these; both sides have to say so."""
    done = []
    try:
        for one in listeners:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            done.append(one)
        yield
    finally:
        for one in done:
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _bind_file(path: Path) -> _Bound:
    """A unix socket. Its folder is locked for as long as it may look as if nobody listened on it."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its file is made with this mode: one that is set later would leave a moment for others.
        os.fchmod(listener.fileno(), 0o600)
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            listener.bind(str(path))
        listener.listen(BACKLOG)
        return _Bound(listener, _open_up(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that is dead; anything else is left alone."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, "something is there already that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        code = caller.connect_ex(str(path))
        if code in {0, errno.EAGAIN}:
            who = name_process(_peer(caller)) if code == 0 else ""
            raise OSError(errno.EADDRINUSE, "address already in use" + (f" by {who}" if who else ""))
    if code != errno.ECONNREFUSED:
        raise OSError(code, os.strerror(code))
    path.unlink()


def _open_up(path: Path) -> tuple[int, int]:
    """Let others connect. Somebody who may write in the folder must not lead us to another file by a link."""
    fd = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode):
            raise OSError(errno.EEXIST, "somebody else has put something there")
        os.chmod(f"/proc/self/fd/{fd}", MODE)  # noqa: PTH101 - A descriptor has no other name.
    finally:
        os.close(fd)
    return status.st_dev, status.st_ino


def _revive(listener: socket.socket) -> None:
    """A worker that calls shutdown() on a socket of TCP as it ends closes it for all who share it."""
    with suppress(OSError):
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.listen(BACKLOG)


def _close(address: Address, bound: _Bound) -> None:
    if bound.file is not None:
        with suppress(OSError):
            status = Path(address.host).lstat()
            if (status.st_dev, status.st_ino) == bound.file:
                Path(address.host).unlink()
    bound.socket.close()


def _peer(caller: socket.socket) -> int:
    """Process that listens at the other end; 0 if it is in a namespace that we do not see."""
    return int.from_bytes(caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")


def _words(address: Address, error: OSError) -> str:
    """Why an address cannot be bound, and what is in the way."""
    match error.errno:
        case errno.EADDRINUSE if address.kind == "tcp":
            who = holder_of(address.port)
            return "address already in use" + (f" by {who}" if who else "")
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case errno.EACCES | errno.EPERM if address.kind == "tcp":
            return "permission denied: a port this low needs root or CAP_NET_BIND_SERVICE"
        case errno.ENOENT:
            return f"there is no folder {Path(address.host).parent}"
        case errno.EAGAIN:
            return "somebody else is making a socket in its folder"
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]
