"""
Owns how the daemon's own log lines look, and sends all of them, other libraries' too, through the sink.

Must not write to stderr by another way, which might block.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Literal

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from structlog.typing import EventDict, Processor, WrappedLogger

    from supervisor.host.sink import Sink

LOUDNESS = {"debug": "2", "warning": "33", "error": "31", "critical": "31;1"}
"""Select Graphic Rendition parameters of ECMA-48 for the levels that shall be seen, or overlooked."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Levels of syslog; sd-daemon(3)."""

EVENT_WIDTH = 18
"""Most events fit, so that the fields of successive lines begin in one column."""


class TextStream:
    """What a library takes for a text file: whole lines reach the sink, in order with everything else."""

    encoding = "utf-8"

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._partial = ""

    def write(self, text: str) -> int:
        """Take text; what follows the last line feed waits for its own."""
        lines, feed, rest = (self._partial + text).rpartition("\n")
        self._partial = rest
        if feed:
            self._sink.write((lines + feed).encode(errors="backslashreplace"), own=True)
        return len(text)

    def flush(self) -> None:
        """Nothing: the sink sends what it can as soon as it can."""

    def isatty(self) -> bool:
        """No: nobody shall draw on it, or ask it for its size."""
        return False


def configure_logging(
    sink: Sink,
    *,
    log_format: Literal["console", "json"] | None,
    is_terminal: bool,
    colour: bool,
    is_journal: bool = False,
) -> None:
    """
    Set up structlog, and the standard library's logging behind it.

    Args:
        sink: Where lines go.
        log_format: As the file says; None chooses by *is_terminal*.
        is_terminal: Whether stderr is one.
        colour: Whether levels are coloured on the console; see `wants_colour`.
        is_journal: Whether stderr is a stream into the journal, which takes a line's level from a prefix.
    """
    is_console = is_terminal if log_format is None else log_format == "console"
    *before, render = _console(colour=colour) if is_console else _json()
    structlog.configure(
        processors=[*before, _Prioritized(render) if is_journal else render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=TextStream(sink)),  # type: ignore[arg-type]  # It needs no more of a file.
        cache_logger_on_first_use=False,
    )
    sink.report_loss = _report_loss
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


def silence_unless_configured() -> None:
    """Nothing is logged by a command that only looks: its standard output is its answer, and nothing else."""
    if not structlog.is_configured():
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def wants_colour(environ: Mapping[str, str], *, is_terminal: bool) -> bool:
    """
    Decide whether lines may be coloured.

    Source: https://no-color.org: a NO_COLOR that is set and not empty forbids it.
    """
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _console(*, colour: bool) -> list[Processor]:
    """Short lines for a person who watches."""
    return [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        _ConsoleLine(colour=colour),
    ]


def _json() -> list[Processor]:
    """One object a line for a machine."""
    return [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _json_line,
    ]


class _ConsoleLine:
    """``12:00:01 warning worker.backoff    worker=llm/0 cause=exit``; other people's line feeds are escaped."""

    def __init__(self, *, colour: bool) -> None:
        self._colours = LOUDNESS if colour else {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        time, level, name = event.pop("timestamp"), event.pop("level"), str(event.pop("event"))
        exception = event.pop("exception", None)
        fields = " ".join(f"{key}={_shown(value)}" for key, value in event.items() if value is not None)
        line = f"{time} {level:<7} {name:<{EVENT_WIDTH}} {fields}".rstrip()
        if sgr := self._colours.get(level):
            line = f"\x1b[{sgr}m{line}\x1b[0m"
        return line if exception is None else f"{line}\n{exception}"


def _shown(value: object) -> str:
    """As a bare word where that is unambiguous, else as a JSON string; several things with something between them."""
    match value:
        case list() | tuple():
            text = ("; " if any(" " in str(one) for one in value) else ",").join(map(str, value))
        case dict():
            text = "; ".join(f"{name}: {one}" for name, one in value.items())
        case _:
            text = str(value)
    is_bare = text.isprintable() and text and not set(text) & set(" =\"'")
    return text if is_bare else json.dumps(text, ensure_ascii=not text.isprintable())


class _Prioritized:
    """Puts ``<4>`` before every line: the journal takes it off again, and `journalctl -p err` finds what is one."""

    def __init__(self, render: Processor) -> None:
        self._render = render

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        priority = PRIORITIES.get(event["level"], PRIORITIES["info"])
        return "\n".join(f"<{priority}>{line}" for line in str(self._render(logger, method, event)).split("\n"))


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    head = {key: event.pop(key) for key in ("timestamp", "level", "event")}
    return json.dumps({**head, **event}, default=str)


def _report_loss(lines: int) -> None:
    structlog.get_logger().warning("output.dropped", lines=lines)


class _Bridge(logging.Handler):
    """What asyncio, aiohttp and others log through the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "library.logged",
            logger=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info or None,
        )
