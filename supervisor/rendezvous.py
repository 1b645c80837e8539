"""
Owns where a daemon and its clients meet: the path of the control socket.

Both sides import it, so it must stay with the standard library and make, bind and remove nothing. Every command passes
here first: paths are strings, and typing and pathlib, which take a third of an interpreter's start each, come later.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat

from supervisor.errors import CannotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Place = str | os.PathLike[str]

NAME = "gpu-supervisor"
SOCKET_NAME = "control.sock"
LOCK = ".lock"
"""Behind the name of a socket: what its daemon holds."""

PATH_MAX = 107
"""Bytes of a socket's path; sockaddr_un has 108, one of them ends it."""

EXIT_USAGE = 2
EXIT_NO_DAEMON = 4

RUN = "/run"
TMP = "/tmp"  # noqa: S108 - The owner of what is in it is checked.

SOCKETS = "/proc/net/unix"
LISTENING = "00010000"
"""__SO_ACCEPTCON of the kernel, in the column of flags."""

ANEW = "lets it make another one, and reload its file"

INSTANCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,62}")


def control_path(
    explicit: str | None,
    instance: str | None,
    environ: Mapping[str, str],
    uid: int,
    *,
    run: Place = RUN,
    tmp: Place = TMP,
) -> Path:
    """
    Where a daemon makes its control socket.

    Args:
        explicit: ``--socket``, before everything else.
        instance: ``--instance``, before the environment.
        environ: For GPU_SUPERVISOR_SOCKET and XDG_RUNTIME_DIR.
        uid: The effective user.
        run: In place of ``/run``.
        tmp: In place of ``/tmp``.

    Returns:
        An absolute path; its folder may not exist yet.

    Raises:
        CannotError: The path or the name of the instance is no good.
    """
    from pathlib import Path  # noqa: PLC0415 - See the module.

    if given := _given(explicit, instance, environ):
        return Path(given)
    return Path(_checked(os.path.join(_folders(environ, uid, run, tmp)[0], _subfolder(instance), SOCKET_NAME)))


def find_control(
    explicit: str | None,
    instance: str | None,
    environ: Mapping[str, str],
    uid: int,
    *,
    run: Place = RUN,
    tmp: Place = TMP,
) -> str:
    """
    Where a client finds the daemon. Arguments as of `control_path`.

    Every folder is searched that a daemon of this user may have used: one that a boot script started has no
    XDG_RUNTIME_DIR where its user's shell has.

    Returns:
        The path given, whether or not somebody is there; else the socket of the daemon without a name; else that of
        the only instance.

    Raises:
        CannotError: No daemon (4); several, which are named (2); somebody else's folder in our place (1).
    """
    if given := _given(explicit, instance, environ):
        return given
    folders = _folders(environ, uid, run, tmp)
    for folder in folders:
        if folder == _private(uid, tmp):
            check_private(folder, uid)
    wanted = [os.path.join(folder, _subfolder(instance), SOCKET_NAME) for folder in folders]
    for path in wanted:
        if _is_answering(path):
            return path
    if instance is not None:
        raise no_daemon(wanted[0])
    return _only([path for folder in folders for path in _instances(folder)], wanted[0])


def _instances(folder: str) -> list[str]:
    """Sockets of daemons with a name; a folder that is not there or not ours to read has none."""
    try:
        found = (os.path.join(folder, name, SOCKET_NAME) for name in sorted(os.listdir(folder)))
        return [path for path in found if os.path.lexists(path)]
    except OSError:
        return []


def no_daemon(path: Place, cause: str = "") -> CannotError:
    """The error of a client that finds nobody at *path*, though a daemon may live whose socket's file was removed."""
    hint = "start one with `gpu-supervisor run FILE`, or name its socket with --socket"
    if not cause and is_listening(path):
        if pid := _read_pid(path):
            cause, hint = f"it runs (pid {pid}), but the file of its socket is gone:", f"`kill -HUP {pid}` {ANEW}"
            return CannotError("reach the daemon", f"{cause} {path}", hint=hint, exit_code=EXIT_NO_DAEMON)
        # Or that of a container, which shares our network and not our files.
        hint = f"somebody listens under that name without a file; if it is your daemon, `kill -HUP PID` {ANEW}"
    cause = f"{cause or 'no daemon answers'} at {path}"
    return CannotError("reach the daemon", cause, hint=hint, exit_code=EXIT_NO_DAEMON)


def is_listening(path: Place, table: Place = SOCKETS) -> bool:
    """Whether somebody listens on a socket that was bound to *path*, also when its file is gone; Linux alone tells."""
    try:
        with open(table, errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    rows = (line.split(maxsplit=7) for line in lines)
    return any(row[7:] == [os.fspath(path)] and row[3] == LISTENING for row in rows)


def _read_pid(path: Place) -> int:
    """Of the daemon, as it wrote into the lock beside its socket; 0 where that is gone too."""
    try:
        with open(f"{os.fspath(path)}{LOCK}", errors="replace") as file:
            text = file.read().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def lock_path(path: Path) -> Path:
    """The lock beside a control socket, which its daemon holds and has its pid in."""
    return path.with_name(f"{path.name}{LOCK}")


def private_folder(uid: int, tmp: Place = TMP) -> Path:
    """The folder of a user who has no runtime directory; its place is open to everybody, so it wants a check."""
    from pathlib import Path  # noqa: PLC0415 - See the module.

    return Path(_private(uid, tmp))


def _private(uid: int, tmp: Place) -> str:
    return os.path.join(tmp, f"{NAME}-{uid}")


def check_private(folder: Place, uid: int) -> None:
    """
    Refuse a private folder that somebody else may have made; one that does not exist is fine.

    Raises:
        CannotError: It is a link or no folder, belongs to another user, or others may enter it.
    """
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotError(f"use {folder}", words(error)) from error
    if stat.S_ISLNK(status.st_mode):
        cause = "it is a symbolic link"
    elif not stat.S_ISDIR(status.st_mode):
        cause = "it is not a directory"
    elif status.st_uid != uid:
        cause = f"it belongs to user {status.st_uid}, not to {uid}"
    elif status.st_mode & 0o077:
        cause = f"others may enter it (mode {stat.S_IMODE(status.st_mode):04o}, must be 0700)"
    else:
        return
    raise CannotError(f"use {folder}", cause, hint="somebody may have put it there; remove it, or give --socket")


def words(error: OSError) -> str:
    """Say an error of the system as part of a sentence."""
    return (error.strerror or str(error)).lower()


def _given(explicit: str | None, instance: str | None, environ: Mapping[str, str]) -> str | None:
    """Path that somebody named: by option, or, unless an instance is asked for, by environment."""
    if explicit is not None:
        if not explicit:
            raise CannotError("use --socket", "it is empty", exit_code=EXIT_USAGE)
        return _checked(os.path.abspath(explicit))
    from_environ = environ.get("GPU_SUPERVISOR_SOCKET", "") if instance is None else ""
    return _checked(os.path.abspath(from_environ)) if from_environ else None


def _folders(environ: Mapping[str, str], uid: int, run: Place, tmp: Place) -> tuple[str, ...]:
    """Folders of this user's daemons, the one for a new daemon first."""
    if uid == 0:
        return (os.path.join(run, NAME),)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    # After `su` the variable is that of another user; the specification demands the owner, so hold it to that.
    try:
        is_ours = runtime.startswith("/") and os.stat(runtime).st_uid == uid
    except OSError:
        is_ours = False
    private = _private(uid, tmp)
    return (os.path.join(runtime, NAME), private) if is_ours else (private,)


def _subfolder(instance: str | None) -> str:
    if instance is None:
        return ""
    if not INSTANCE.fullmatch(instance):
        raise CannotError(
            f'use instance "{instance}"',
            "a name has 1 to 63 letters, digits and _ . @ : -, and begins with one of the first three",
            exit_code=EXIT_USAGE,
        )
    return instance


def _checked(path: str) -> str:
    """Refuse what the kernel would refuse with a riddle."""
    size = len(os.fsencode(path))
    if size > PATH_MAX:
        raise CannotError(
            f"use {path} as a socket",
            f"its path has {size} bytes, the system takes {PATH_MAX}",
            hint="name a shorter one with --socket",
            exit_code=EXIT_USAGE,
        )
    return path


def _only(found: list[str], usual: str) -> str:
    """Pick the one that lives: a daemon that was killed leaves its socket."""
    living = [path for path in found if _is_answering(path)]
    if not living:
        raise no_daemon(usual)
    if len(living) > 1:
        raise CannotError(
            "choose a daemon",
            f"{len(living)} are running: {', '.join(living)}",
            hint="name one with --instance NAME or --socket PATH",
            exit_code=EXIT_USAGE,
        )
    return living[0]


def _is_answering(path: str) -> bool:
    """Whether somebody listens there, even if we may not speak to him: then the client's own try says so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            code = probe.connect_ex(path)
        except OSError:  # Too long.
            return False
    return code in {0, errno.EAGAIN, errno.EACCES, errno.EPERM}
