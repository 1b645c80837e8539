"""
What all commands have in common: how they are named and found, how they end, and how they say which daemon is meant.

Imports only click and the standard library at once; no command is known here but those that are refused.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import click

from supervisor.cli.outcome import EXIT_USAGE, conclude, say
from supervisor.errors import CannotError

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.front.client import Client

PROGRAM = "gpu-supervisor"

COMPLETE_VARIABLE = "_GPU_SUPERVISOR_COMPLETE"
"""By which a shell's completion script asks the program."""

NOT_YET = (
    "export",
    "upgrade",
)
"""Commands that the contract has and this version has not."""

GROUPS = (
    ("run", "check", "plan"),
    ("status", "top", "devices", "explain", "logs", "events", "doctor"),
    ("reload", "scale", "start", "stop", "restart", "shutdown"),
    ("schema", "completion", "replay", "version"),
)
"""Of commands in the help: to begin with, to look, to change, and the rest."""

NAME_COLUMNS = 10
"""Of the longest name, so that the words of all groups begin in one column."""

Command = Callable[..., int | None]


@dataclass(frozen=True, slots=True)
class Where:
    """
    Which daemon is meant, as far as it was said.

    Args:
        socket: Path of its control socket.
        instance: Its name.
    """

    socket: str | None = None
    instance: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything was said."""
        return self.socket is not None or self.instance is not None

    @property
    def control(self) -> Path:
        """Where that daemon has its control socket, or would have it."""
        from supervisor.rendezvous import control_path

        return control_path(self.socket, self.instance, os.environ, os.geteuid())

    def client(self) -> Client:
        """A client of that daemon; CannotError when there is none, or several."""
        from supervisor.front.client import Client
        from supervisor.rendezvous import find_control

        return Client(find_control(self.socket, self.instance, os.environ, os.geteuid()))


class Commands(click.Group):
    """The commands, ending in our words and exit statuses rather than in click's."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **_extra: Any
    ) -> NoReturn:
        """Run one command and leave the process."""
        words = list(sys.argv[1:] if args is None else args)
        if COMPLETE_VARIABLE in os.environ:
            self._main_shell_completion({}, PROGRAM, COMPLETE_VARIABLE)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # Names and last words come from elsewhere; none of them may end a command.
                stream.reconfigure(errors="backslashreplace")
        sys.exit(conclude(lambda: self._run(words, prog_name), lambda: self._name(words)))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; an unknown name comes with the nearest one that works."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from supervisor.core.file.problems import nearest

            hint = nearest(args[0], self.commands.keys() - set(NOT_YET)) or f"see {PROGRAM} --help"
            cause = f'there is no command "{args[0]}"'
            raise CannotError("understand the command line", cause, hint=hint, exit_code=EXIT_USAGE)
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """In groups, by what a person wants; a command in none of them would be a mistake, and comes last."""
        listed = [name for group in GROUPS for name in group]
        rest = tuple(name for name in sorted(self.commands) if name not in listed)
        with formatter.section("Commands"):
            for number, group in enumerate((*GROUPS, rest)):
                known = [(name, self.commands[name]) for name in group if name in self.commands]
                rows = [
                    (name.ljust(NAME_COLUMNS), command.get_short_help_str(70))
                    for name, command in known
                    if not command.hidden
                ]
                if rows:
                    if number:
                        formatter.write_paragraph()
                    formatter.write_dl(rows, col_max=12)

    def _name(self, words: Sequence[str]) -> str:
        """What was asked for, for an error that says nothing of it."""
        return next((word for word in words if word in self.commands), "go on")

    def _run(self, words: list[str], prog_name: str | None) -> object:
        with self.make_context(prog_name or PROGRAM, words) as context:
            if not words:
                say(f"{context.get_help()}\n")
            return self.invoke(context)


def at_daemon(command: Command) -> Command:
    """Options that say which daemon, before the command or after it; what stands after it counts."""

    @click.option("--socket", metavar="PATH", help="Control socket of the daemon.")
    @click.option("--instance", metavar="NAME", help="Name of the daemon, among several.")
    @click.pass_context
    @functools.wraps(command)
    def with_daemon(context: click.Context, /, socket: str | None, instance: str | None, **rest: Any) -> int | None:
        own = Where(socket, instance)
        return command(own if own.is_given else context.obj, **rest)

    return with_daemon


as_json = click.option("--json", "is_json", is_flag=True, help="JSON on standard output, and nothing else.")


def refuse(name: str) -> click.Command:
    """A command that is only named: scripts written for it learn that it is missing, and not that it did nothing."""

    def refusal(words: tuple[str, ...]) -> NoReturn:  # noqa: ARG001
        raise CannotError(name, "not supported yet", exit_code=EXIT_USAGE)

    return click.Command(
        name,
        callback=refusal,
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        hidden=True,
        add_help_option=False,
    )
