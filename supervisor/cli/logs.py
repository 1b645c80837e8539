"""What workers said and say, as lines on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from supervisor.cli import terminal
from supervisor.cli.outcome import EXIT_USAGE, put, say
from supervisor.errors import CannotError
from supervisor.front.client import Client
from supervisor.front.page import CODES
from supervisor.front.verdict import UnknownNameError, select_all, workers_of

EVERYTHING = 1_000_000
"""More lines than are kept of any worker."""

LINES = 100
"""Of each worker for who says neither how many nor since when."""

PALETTE = ("cyan", "yellow", "green", "magenta", "blue", "red")
"""Of the names in front of the lines, in turn."""


@dataclass(frozen=True, slots=True)
class Asked:
    """
    Which lines.

    Args:
        targets: ``llm``, ``llm/0``; none for everybody.
        lines: Of each worker at the most; None where nothing was said.
        since: Only lines that are not older; None for all.
        follow: Go on.
    """

    targets: tuple[str, ...]
    lines: int | None = None
    since: datetime | None = None
    follow: bool = False

    @property
    def title(self) -> str:
        """What was asked for, in words."""
        return f"show the logs of {' '.join(self.targets) or 'everybody'}"


def show(client: Client, asked: Asked, *, is_json: bool) -> int:
    """
    Write the last lines of workers, and go on if that is wanted until there is no more.

    Args:
        client: Of the daemon.
        asked: Which lines.
        is_json: One object a line, instead of text.

    Returns:
        The exit status.
    """
    writer = _json if is_json else _make_prefix(client, asked)
    wants = _chooser(asked)
    lines = (LINES if asked.since is None else EVERYTHING) if asked.lines is None else min(asked.lines, EVERYTHING)
    params = {"lines": str(lines), "follow": "1" if asked.follow else "0"}
    if len(asked.targets) == 1:
        params["target"] = asked.targets[0]
    reason = "slow"
    while reason == "slow":
        for number, event, data in client.stream("/v1/logs", params, thing=asked.title):
            if event == "end":
                reason = data["reason"]
                break
            params["after"] = str(number)
            if wants(data):
                put(writer(data), is_raw=True)
        if reason == "slow":
            params["lines"] = str(EVERYTHING)
            say("fell behind; going on with what is still kept, lines may be missing")
    return 0


def read_since(text: str, now: datetime) -> datetime:
    """
    A point in time, as a person gives it.

    Args:
        text: A duration such as ``10m``, counted back from now, or a time of RFC 3339; without a zone a local one.
        now: With its zone.

    Raises:
        CannotError: It is neither.
    """
    from supervisor.core.file.problems import BadValueError
    from supervisor.core.file.quantities import parse_duration_s

    try:
        return now - timedelta(seconds=parse_duration_s(text))
    except BadValueError:
        pass
    try:
        found = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        cause = f'expected a duration such as 10m, or a time such as 2026-11-20T10:00:00Z, got "{text}"'
        raise CannotError("use --since", cause, exit_code=EXIT_USAGE) from None
    # Lines have whole seconds: one of the same second is not older.
    return found.replace(microsecond=0)


def _chooser(asked: Asked) -> Callable[[dict[str, Any]], bool]:
    """Whether a line was asked for, by its worker and its time."""
    targets = asked.targets if len(asked.targets) > 1 else ()  # One alone is the daemon's to pick.
    since = asked.since

    def wants(data: dict[str, Any]) -> bool:
        worker = str(data["worker"])
        is_named = not targets or worker in targets or worker.partition("/")[0] in targets
        return is_named and (since is None or datetime.fromisoformat(data["at"]).astimezone(UTC) >= since)

    return wants


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data) + "\n"


@dataclass(slots=True)
class _Prefix:
    """Names in front of lines: in one column, and on a terminal each in a colour of its own."""

    width: int
    colour: bool
    styles: dict[str, int] = field(default_factory=dict)

    def __call__(self, data: dict[str, Any]) -> str:
        """The line as the worker wrote it, its escapes included: a terminal is to see what it would have seen."""
        worker, line = str(data["worker"]), str(data["line"])
        if not self.colour:
            return f"{worker:<{self.width}} | {line}\n"
        code = self.styles.setdefault(worker, CODES[PALETTE[len(self.styles) % len(PALETTE)]])
        # What a line has begun is not to go on in the next one, which may be another's.
        return f"\x1b[{code}m{worker:<{self.width}} |\x1b[0m {line}" + ("\x1b[0m\n" if "\x1b" in line else "\n")


def _make_prefix(client: Client, asked: Asked) -> Callable[[dict[str, Any]], str]:
    """For one worker alone no name is needed; else they have the columns of the longest one there is now."""
    status = client.get("/v1/status", thing=asked.title)
    try:
        services: Sequence[dict[str, Any]] = select_all(status, asked.targets) if asked.targets else status["services"]
    except UnknownNameError as error:
        raise CannotError(asked.title, str(error), hint=error.hint, exit_code=EXIT_USAGE) from None
    if len(asked.targets) == 1 and "/" in asked.targets[0]:
        return lambda data: f"{data['line']}\n"
    names = [str(worker["worker"]) for worker in workers_of({"services": services})]
    prefix = _Prefix(max(map(len, names), default=0), terminal.find().colour)
    for number, name in enumerate(names):
        prefix.styles[name] = CODES[PALETTE[number % len(PALETTE)]]
    return prefix
