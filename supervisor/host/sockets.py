"""
Owns the control socket's file: one daemon at a time has it, and a dead one's is taken over.

Must not speak over it; whoever serves requests gets it listening.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from supervisor.errors import CannotError
from supervisor.rendezvous import PATH_MAX, TMP, check_private, lock_path, private_folder, words

EXIT_TAKEN = 75
"""EX_TEMPFAIL of sysexits.h; the unit file does not restart after it."""

BACKLOG = 128


@dataclass(frozen=True, slots=True)
class BoundControl:
    """
    A control socket that is ours until `close`.

    Args:
        socket: Listening, non-blocking, mode 0600.
        lock: Descriptor that holds the lock beside it.
        path: Of the socket.
        inode: Device and inode of the socket's file.
        is_inherited: A service manager has made it, and keeps it too.
    """

    socket: socket.socket
    lock: int
    path: Path
    inode: tuple[int, int]
    is_inherited: bool = False

    def close(self) -> None:
        """Stop listening and remove what is ours; a file that somebody else made, or put in its place, stays."""
        with suppress(OSError):
            if not self.is_inherited and _inode(self.path) == self.inode:
                self.path.unlink()
        self.socket.close()
        _unlock(self.lock, lock_path(self.path))


def bind_control(path: Path, *, tmp: Path = Path(TMP)) -> BoundControl:
    """
    Make the control socket at *path* and listen on it, in a folder of mode 0700 that is made if need be.

    Args:
        path: Absolute.
        tmp: In place of ``/tmp``; a folder of ours in it must be ours indeed.

    Raises:
        CannotError: Another daemon has it (75), or the system does not let us.
    """
    if len(os.fsencode(path)) > PATH_MAX:
        raise CannotError(f"listen on {path}", f"a socket's path has at most {PATH_MAX} bytes", hint="give --socket")
    try:
        _make_folder(path.parent, tmp)
        lock = _lock(path)
        with ExitStack() as undo:
            undo.callback(_unlock, lock, lock_path(path))
            _clear(path)
            listener = _listen(path)
            undo.callback(listener.close)
            bound = BoundControl(listener, lock, path, _inode(path))
            undo.pop_all()
            return bound
    except OSError as error:
        raise CannotError(f"listen on {path}", words(error), hint="name another place with --socket") from error


def adopt_control(listener: socket.socket, path: Path) -> BoundControl:
    """
    Take a control socket that a service manager has made and listens on; its file is his, the lock beside it ours.

    Args:
        listener: Owned from now on.
        path: At which it listens.

    Raises:
        CannotError: Another daemon has it (75), or others than its owner and its group may connect.
    """
    try:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & stat.S_IRWXO:
            hint = "write SocketMode=0600 in the unit of the socket"
            raise CannotError(f"listen on {path}", f"everybody may connect to it (mode {mode:04o})", hint=hint)
        inode = _inode(path)
        lock = _lock(path)
    except OSError as error:
        raise CannotError(f"listen on {path}", words(error), hint="start the unit of the socket anew") from error
    listener.setblocking(False)
    return BoundControl(listener, lock, path, inode, is_inherited=True)


def renew_control(bound: BoundControl, *, tmp: Path = Path(TMP)) -> BoundControl | None:
    """
    Make the socket's file anew where somebody has removed it, or where it is a dead one's.

    Args:
        bound: The control socket that was ours; a new one takes its place, and its socket is the caller's to close.
        tmp: As of `bind_control`.

    Returns:
        None where the file is still ours, and its lock too.

    Raises:
        CannotError: Somebody else lives there, or something else lies there: it is left alone.
    """
    path, name = bound.path, lock_path(bound.path)
    if _is_at(path, bound.inode) and _is_at(name, _inode(bound.lock)):
        return None
    if bound.is_inherited:
        cause = "it is gone, and a service manager has made it, which has to be asked for another one"
        raise CannotError(f"listen on {path} again", cause)
    try:
        _make_folder(path.parent, tmp)
        with ExitStack() as undo:
            lock = bound.lock
            if not _is_at(name, _inode(lock)):
                lock = _lock(path)
                undo.callback(_unlock, lock, name)
            renewed = replace(bound, lock=lock)
            if not _is_at(path, bound.inode):
                _clear(path)
                listener = _listen(path)
                undo.callback(listener.close)
                renewed = BoundControl(listener, lock, path, _inode(path))
            undo.pop_all()
    except OSError as error:
        raise CannotError(f"listen on {path} again", words(error)) from error
    if lock != bound.lock:
        os.close(bound.lock)
    return renewed


def _is_at(path: Path, inode: tuple[int, int]) -> bool:
    try:
        return _inode(path) == inode
    except OSError:
        return False


def _make_folder(folder: Path, tmp: Path) -> None:
    """Make what is missing, closed to others; a folder in /tmp is checked before anything is made in it."""
    for place in reversed((folder, *folder.parents)):
        if not place.exists():
            with suppress(FileExistsError):  # A dangling link, or another daemon's doing just now.
                place.mkdir(mode=0o700)
        if place == private_folder(os.geteuid(), tmp):
            check_private(place, os.geteuid())


def _lock(path: Path) -> int:
    """Take the lock beside the socket, with our pid in it."""
    name = lock_path(path)
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            raise _taken(path, int(holder) if holder.isdigit() else 0) from None
        except OSError:
            os.close(lock)
            raise
        # Who ends removes the file while he holds it: then ours is a lock on nothing, and another may have the name.
        with suppress(FileNotFoundError):
            if _inode(name) == _inode(lock):
                os.ftruncate(lock, 0)
                os.pwrite(lock, b"%d\n" % os.getpid(), 0)
                return lock
        os.close(lock)


def _unlock(lock: int, name: Path) -> None:
    with suppress(OSError):
        if _inode(name) == _inode(lock):
            name.unlink()
    os.close(lock)


def _clear(path: Path) -> None:
    """Remove the socket of a daemon that is dead; one may live without its lock, which /tmp's cleaners remove."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        code = caller.connect_ex(str(path))
        if code == errno.ENOENT:
            return
        if code in {0, errno.EAGAIN}:
            raise _taken(path, _peer(caller) if code == 0 else 0)
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise CannotError(f"listen on {path}", "it is there already and is no socket", hint="give --socket")
    if code != errno.ECONNREFUSED:
        raise OSError(code, os.strerror(code))
    path.unlink()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # A mode set after bind would leave a moment for others.
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def _peer(caller: socket.socket) -> int:
    """Process that listens at the other end; 0 if it is in a namespace that we do not see."""
    size = struct.calcsize("3i")
    pid, _uid, _gid = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid)


def _taken(path: Path, pid: int) -> CannotError:
    who = f"another daemon (pid {pid})" if pid else "another daemon"
    return CannotError(
        "start",
        f"{who} has {path}",
        hint="stop it with `gpu-supervisor shutdown`, or give this one a name with --instance",
        exit_code=EXIT_TAKEN,
    )


def _inode(file: Path | int) -> tuple[int, int]:
    status = os.fstat(file) if isinstance(file, int) else file.lstat()
    return status.st_dev, status.st_ino
