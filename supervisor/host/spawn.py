"""
One start: the directory, the search of the worker's PATH, posix_spawn, and in words why it failed.

Standard library only, since shims run it without site-packages. Everything here may hang on a dead disk, so it runs in
a shim and nowhere else.
"""

# pathlib costs memory in every shim.
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH123
from __future__ import annotations

import errno
import fcntl
import os
import signal

from supervisor.host.leaf import ENTER_STEP, is_shell_name

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"  # For a worker without PATH; what dash and bash take then.
STDIN = 0
STDERR = 2
SHELL = "/bin/sh"
SCRIPTS_NESTED_MAX = 5  # Of the kernel: a script whose interpreter is a script, and so on.
SHEBANG_MAX_BYTES = 256  # BINPRM_BUF_SIZE of the kernel.

# Ignored signals outlive an exec, and Python ignores SIGPIPE. SIGKILL and SIGSTOP have no action to set.
_DEFAULT_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class SpawnError(Exception):
    """
    No process came of it.

    Args:
        number: The errno.
        detail: In words, with the thing it happened to.
    """

    def __init__(self, number: int, detail: str) -> None:
        super().__init__(detail)
        self.errno = number
        self.detail = detail


def spawn(
    argv: list[str],
    env: dict[str, str],
    working_dir: str,
    fds: dict[int, int],
    *,
    leaf: int | None = None,
    has_sockets: bool = False,
) -> int:
    """
    Start a process in a session of its own, with default signals and no descriptor but 0, 1, 2 and the given ones.

    Args:
        argv: Command and arguments. A command with a slash is relative to *working_dir*.
        env: Its whole environment; its PATH is searched.
        working_dir: Absolute.
        fds: Target in the worker -> descriptor of ours. Standard streams that are not named are /dev/null.
        leaf: Descriptor of the cgroup.procs that the worker enters by itself, through a shell; None = it stays in ours.
        has_sockets: It finds its own pid in LISTEN_PID, through the same shell: nobody knows it before.

    Returns:
        Its pid.

    Raises:
        SpawnError: No process came of it.
    """
    _enter(working_dir)
    path = argv[0]
    moved: dict[int, int] = {}
    try:
        path = _find(path, env)
        words, names, program = argv, env, path
        enters = leaf is not None and STDIN not in fds
        if enters or has_sockets:
            _check_program(path, argv, env, working_dir)
            words, names = _through_shell(argv, env, enters=enters, has_sockets=has_sockets)
            program = SHELL
        if enters and leaf is not None:
            fds = {STDIN: leaf, **fds}
        _move_above(fds, moved)
        return os.posix_spawn(
            program,
            words,
            names,
            file_actions=_file_actions(moved),
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    except OSError as error:
        raise _explain(error.errno or errno.EIO, argv, env, path, working_dir) from None
    except ValueError as error:  # A NUL in an argument, "=" in a name.
        raise SpawnError(errno.EINVAL, str(error)) from None
    finally:
        for fd in moved.values():
            os.close(fd)
        os.chdir("/")  # A shim must not keep a file system from being unmounted.


def _through_shell(
    argv: list[str], env: dict[str, str], *, enters: bool, has_sockets: bool
) -> tuple[list[str], dict[str, str]]:
    """
    The words by which a shell becomes the worker, and what it is given of the environment.

    A shell drops names that are none of its own, such as functions that bash exports: these are put back by env.
    """
    odd = [f"{name}={value}" for name, value in env.items() if not is_shell_name(name)]
    steps = ENTER_STEP if enters else ""
    steps += "export LISTEN_PID=$$; " if has_sockets else ""
    last = 'exec env -- "$@"' if odd else 'exec "$@"'
    script = steps + last + (" </dev/null" if enters else "")
    return ["sh", "-c", script, "sh", *odd, *argv], {name: env[name] for name in env if is_shell_name(name)}


def _check_program(path: str, argv: list[str], env: dict[str, str], working_dir: str) -> None:
    """Refuse what the shell could not execute: nobody would learn its errno, and it takes any text for a script."""
    for interpreter, _ in _interpreters(path, path):
        if not os.access(interpreter, os.X_OK, effective_ids=True):
            number = errno.EACCES if os.path.exists(interpreter) else errno.ENOENT
            raise _explain(number, argv, env, path, working_dir)
    try:
        with open(path, "rb", buffering=0) as file:
            is_program = file.read(4).startswith((b"#!", b"\x7fELF"))
    except PermissionError:  # It may be executed and not read.
        return
    if not is_program:
        raise _explain(errno.ENOEXEC, argv, env, path, working_dir)


def _enter(working_dir: str) -> None:
    try:
        os.chdir(working_dir)
    except OSError as error:
        words = {
            errno.ENOENT: "working directory not found",
            errno.ENOTDIR: "working directory is not a directory",
            errno.EACCES: "no permission to enter working directory",
        }
        number = error.errno or errno.EIO
        what = words.get(number, f"cannot enter working directory ({os.strerror(number).lower()})")
        raise SpawnError(number, f"{what}: {working_dir}") from None
    except ValueError as error:
        raise SpawnError(errno.EINVAL, f"working directory: {error}") from None


def _move_above(fds: dict[int, int], moved: dict[int, int]) -> None:
    """Copy descriptors to numbers above every target: a dup2 must not overwrite what a later one copies."""
    floor = max((STDERR, *fds)) + 1
    for target, fd in fds.items():
        moved[target] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)


def _file_actions(fds: dict[int, int]) -> list[tuple[int, int, int]]:
    # Our own 0 and 1 are /dev/null already. Before the given ones, which may take the place of 0.
    null = [] if STDERR in fds else [(os.POSIX_SPAWN_DUP2, 0, STDERR)]
    return [*null, *((os.POSIX_SPAWN_DUP2, fd, target) for target, fd in fds.items())]


def _find(command: str, env: dict[str, str]) -> str:
    """Return the path to execute; relative ones are seen from the working directory."""
    if "/" in command:
        return command
    refused = None
    for directory in env.get("PATH", DEFAULT_PATH).split(":") if command else ():
        path = os.path.join(directory or ".", command)
        if os.path.isfile(path):
            if os.access(path, os.X_OK, effective_ids=True):
                return path
            refused = refused or path
    if refused:
        raise SpawnError(errno.EACCES, f"not executable: {refused}")
    raise SpawnError(errno.ENOENT, f"command not found: {command}")


def _explain(number: int, argv: list[str], env: dict[str, str], path: str, working_dir: str) -> SpawnError:
    """Find out what the errno of an exec meant."""
    full = os.path.normpath(os.path.join(working_dir, path))
    match number:
        case errno.ENOENT:
            detail = _explain_missing(argv[0], path, full)
        case errno.ENOTDIR:
            detail = f"command not found: {argv[0]} (a part of its path is not a directory)"
        case errno.EACCES | errno.EPERM:
            detail = _explain_refused(path, full)
        case errno.ENOEXEC:
            detail = f"not a program: {full} (neither a binary for this machine nor a script that begins with #!)"
        case errno.E2BIG:
            size = sum(len(os.fsencode(text)) + 1 for text in (*argv, *env, *env.values()))
            detail = f"arguments and environment too long: {size} bytes"
        case _:
            detail = f"{os.strerror(number).lower()}: {full}"
    return SpawnError(number, detail)


def _explain_missing(command: str, path: str, full: str) -> str:
    if not os.path.exists(path):
        return f"command not found: {command}"
    for interpreter, script in _interpreters(path, full):
        if not os.path.exists(interpreter):
            return f"interpreter not found: {_printable(interpreter)} (of {script})"
    return f"dynamic loader not found (of {full})"


def _explain_refused(path: str, full: str) -> str:
    if os.path.isdir(path):
        return f"is a directory: {full}"
    if not os.path.exists(path):
        return f"no permission to reach: {full}"
    if not os.access(path, os.X_OK, effective_ids=True):
        return f"not executable: {full}"
    for interpreter, script in _interpreters(path, full):
        if not os.path.isfile(interpreter) or not os.access(interpreter, os.X_OK, effective_ids=True):
            return f"interpreter not executable: {_printable(interpreter)} (of {script})"
    return f"execution not permitted: {full} (its file system may be mounted noexec)"


def _interpreters(path: str, full: str) -> list[tuple[str, str]]:
    """Return (interpreter, its script) for a script, and for its interpreter if that is one too."""
    found = []
    script = full
    for _ in range(SCRIPTS_NESTED_MAX):
        try:
            with open(path, "rb", buffering=0) as file:
                line = file.read(SHEBANG_MAX_BYTES).partition(b"\n")[0]
        except OSError:
            break
        words = line[2:].strip(b" \t").replace(b"\t", b" ").split(b" ")
        if not line.startswith(b"#!") or not words[0]:
            break
        path = os.fsdecode(words[0])
        found.append((path, script))
        script = path
    return found


def _printable(text: str) -> str:
    """Show a carriage return at the end of a script's first line as what it is."""
    return text if text.isprintable() else ascii(text)
