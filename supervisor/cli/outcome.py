"""
How a command ends: what is said on standard error, and the exit status; CONTRACT section 3.

Every exception ends here. Decides nothing else, and imports nothing that a fast command does not need anyway.
"""

from __future__ import annotations

import io
import os
import select
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import click

from supervisor.errors import CannotError
from supervisor.rendezvous import words

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_ALL = 3
EXIT_NO_DAEMON = 4
EXIT_BAD_FILE = 78
"""EX_CONFIG of sysexits.h."""

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
"""128 and the signal's number: what a shell reports of programs that leave both signals alone."""

DEBUG = "GPU_SUPERVISOR_DEBUG"


class FileRefusedError(Exception):
    """
    A service file that cannot be used.

    Args:
        thing: What was to be done with it, as an infinitive; None where the problems speak for themselves.
        lines: One or more for each problem.
    """

    def __init__(self, thing: str | None, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.thing = thing
        self.lines = tuple(lines)


def conclude(work: Callable[[], object], name: Callable[[], str]) -> int:
    """
    Do the work of a command and say what went wrong with it.

    Args:
        work: Its answer is the exit status; None is 0.
        name: The command as far as it is known, for an error of ours.

    Returns:
        The exit status.
    """
    try:
        status = work()
    except click.exceptions.Exit as ending:
        return _after_flush(ending.exit_code)
    except click.ClickException as error:
        return _end_usage(error)
    except FileRefusedError as refused:
        return _end_refused(refused)
    except CannotError as error:
        return _after_flush(complain(error))
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - A person gets a sentence, whatever it is.
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            # Whoever read has had enough, which is nobody's fault.
            _drop_output()
            return EXIT_PIPE
        return _end_unexpected(name(), error)
    return _after_flush(status if isinstance(status, int) else 0)


def put(text: str, *, is_raw: bool = False) -> None:
    """
    An answer, on standard output.

    Args:
        text: What.
        is_raw: Its escapes are somebody's own and go to pipes and files too.

    Raises:
        BrokenPipeError: Nobody reads it.
        CannotError: It cannot be written.
    """
    try:
        click.echo(text, nl=False, color=True if is_raw else None)
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise CannotError("write the output", words(error)) from error


def put_json(answer: Mapping[str, object]) -> None:
    """An answer as JSON: on one line for programs, set in for a person at a terminal."""
    import json

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    put(json.dumps(answer, indent=2 if is_terminal else None) + "\n")


def complain(error: CannotError) -> int:
    """Say what cannot be done and what to do about it; the exit status for it."""
    say(str(error))
    if error.hint:
        say(f"hint: {error.hint}")
    return error.exit_code


def say(text: str) -> None:
    """Lines for a person, on standard error."""
    from supervisor.front.page import clean_lines

    with suppress(OSError):
        for line in clean_lines(text):
            click.echo(line, err=True)


def _end_usage(error: click.ClickException) -> int:
    """Words of click as ours. Its own first letter and full stop are not our style."""
    message = getattr(error, "message", "") or error.format_message()
    message = message[:1].lower() + message[1:].rstrip(".")
    context = getattr(error, "ctx", None)
    hint = _possibility(error) or (f"see {context.command_path} --help" if context else "")
    param = getattr(error, "param", None)
    if isinstance(error, click.MissingParameter) and param is not None:
        message = f"{param.get_error_hint(context)} is missing"
    elif isinstance(error, click.BadParameter) and param is not None:
        message = f"{param.get_error_hint(context)}: {message}"
    return complain(CannotError("understand the command line", message, hint=hint, exit_code=EXIT_USAGE))


def _possibility(error: click.ClickException) -> str:
    possibilities = getattr(error, "possibilities", None)
    return f"did you mean {possibilities[0]}?" if possibilities else ""


def _end_refused(refused: FileRefusedError) -> int:
    if refused.thing is not None:
        count = "a problem" if len(refused.lines) == 1 else f"{len(refused.lines)} problems"
        say(f"cannot {refused.thing}: the file has {count}")
    for line in refused.lines:
        say(line)
    return EXIT_BAD_FILE


def _end_unexpected(name: str, error: Exception) -> int:
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(error)
    hint = f"this is a bug of gpu-supervisor; {DEBUG}=1 shows where"
    return complain(CannotError(name, f"internal error: {type(error).__name__}: {error}", hint=hint))


def _after_flush(status: int) -> int:
    """What is left in the buffer has been answered for; the interpreter is not to stumble over it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _drop_output()
    return status


def _is_reader_gone() -> bool:
    """Whether it is our own output that nobody reads: a pipe of the daemon's that breaks is another matter."""
    asking = select.poll()
    asking.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in asking.poll(0))


def _drop_output() -> None:
    """Send what is still buffered nowhere, or the interpreter complains about it at its end."""
    with suppress(OSError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
