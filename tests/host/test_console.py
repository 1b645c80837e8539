from __future__ import annotations

import json
import logging
import re
import warnings
from typing import TYPE_CHECKING

import pytest
import structlog

from supervisor.host.console import TextStream, configure_logging, wants_colour
from supervisor.host.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with (tmp_path / "stderr").open("wb") as file:
        sink = Sink(file.fileno())
        yield sink
        sink.close()


@pytest.fixture
def said(tmp_path: Path, sink: Sink) -> Callable[[], str]:
    """What has reached stderr."""
    return (tmp_path / "stderr").read_text


def test_json_lines_begin_with_time_level_and_event(sink: Sink, said: Callable[[], str]) -> None:
    """Machines get one object a line, fields in the order of the call."""
    configure_logging(sink, log_format="json", is_terminal=True, colour=True)
    structlog.get_logger().warning("worker.backoff", service="llm", worker=3, cause="exit", path=Ellipsis)

    event = json.loads(said())

    assert list(event) == ["timestamp", "level", "event", "service", "worker", "cause", "path"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event["timestamp"])
    assert (event["level"], event["event"], event["worker"]) == ("warning", "worker.backoff", 3)


@pytest.mark.parametrize(("is_terminal", "is_json"), [(True, False), (False, True)])
def test_format_follows_the_terminal_unless_the_file_says(
    sink: Sink, said: Callable[[], str], is_terminal: bool, is_json: bool
) -> None:
    """Console lines on a terminal, else JSON."""
    configure_logging(sink, log_format=None, is_terminal=is_terminal, colour=False)
    structlog.get_logger().info("daemon.started", pid=1)

    assert is_json == said().startswith("{")


def test_console_line_is_short(sink: Sink, said: Callable[[], str]) -> None:
    """A person reads time, level, event and what is known; unknown fields are left out."""
    configure_logging(sink, log_format="console", is_terminal=False, colour=False)
    structlog.get_logger().info("worker.ready", service="llm", worker=0, signal=None)

    assert re.fullmatch(r"\d\d:\d\d:\d\d info    worker.ready       service=llm worker=0\n", said())


def test_console_line_lists_several_things_as_a_person_would(sink: Sink, said: Callable[[], str]) -> None:
    """Without the brackets and quotes of a program."""
    configure_logging(sink, log_format="console", is_terminal=False, colour=False)
    log = structlog.get_logger()
    log.info("a", devices=["GPU-1", "GPU-2"], problems=("no such file", "bad line"), held={"GPU-1": "by ann"})

    assert said().split(maxsplit=3)[3] == 'devices=GPU-1,GPU-2 problems="no such file; bad line" held="GPU-1: by ann"\n'


def test_console_line_escapes_what_others_wrote(sink: Sink, said: Callable[[], str]) -> None:
    """A detail with a line feed or an escape sequence forges no line and no colour."""
    configure_logging(sink, log_format="console", is_terminal=True, colour=False)
    structlog.get_logger().error("worker.failed", reason="a\n12:00:00 info \x1b[2J", empty="", name="två ord")

    assert said().endswith('reason="a\\n12:00:00 info \\u001b[2J" empty="" name="två ord"\n')
    assert said().count("\n") == 1


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_the_journal_gets_the_level_of_every_line(sink: Sink, said: Callable[[], str], log_format: str) -> None:
    """A prefix that it takes off again; each line of a traceback has one."""
    configure_logging(sink, log_format=log_format, is_terminal=False, colour=False, is_journal=True)  # type: ignore[arg-type]
    structlog.get_logger().info("daemon.started")
    structlog.get_logger().warning("worker.backoff")
    try:
        int("boom")
    except ValueError:
        structlog.get_logger().exception("worker.failed")

    first, second, *rest = said().splitlines()
    assert (first[:3], second[:3], {line[:3] for line in rest}) == ("<6>", "<4>", {"<3>"})


def test_colour_marks_levels_only_where_wanted(sink: Sink, said: Callable[[], str]) -> None:
    """Warnings stand out, everyday lines do not."""
    configure_logging(sink, log_format="console", is_terminal=True, colour=True)
    structlog.get_logger().info("daemon.started")
    structlog.get_logger().warning("inventory.failed")

    plain, coloured = said().splitlines()
    assert "\x1b" not in plain
    assert coloured.startswith("\x1b[33m")
    assert coloured.endswith("\x1b[0m")


def test_no_color_is_honoured() -> None:
    """NO_COLOR, a dumb terminal or none at all mean no colour."""
    assert wants_colour({}, is_terminal=True)
    assert wants_colour({"NO_COLOR": ""}, is_terminal=True)
    assert not wants_colour({"NO_COLOR": "1"}, is_terminal=True)
    assert not wants_colour({"TERM": "dumb"}, is_terminal=True)
    assert not wants_colour({}, is_terminal=False)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_traceback_goes_with_its_event(sink: Sink, said: Callable[[], str], log_format: str) -> None:
    """Our own bug is logged with its story."""
    configure_logging(sink, log_format=log_format, is_terminal=False, colour=False)  # type: ignore[arg-type]
    try:
        int("boom")
    except ValueError:
        structlog.get_logger().exception("daemon.invariant_broken")

    assert "daemon.invariant_broken" in said()
    assert "ValueError: invalid literal" in said()


def test_libraries_log_through_the_sink(sink: Sink, said: Callable[[], str]) -> None:
    """The standard library's logging and warnings, which would block on stderr, take the same way."""
    configure_logging(sink, log_format="json", is_terminal=False, colour=False)
    logging.getLogger("asyncio").info("chatter")
    logging.getLogger("asyncio").error("%s was never awaited", "it")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    first, second = map(json.loads, said().splitlines())
    assert tuple(first[key] for key in ("event", "level", "logger", "message")) == (
        "library.logged",
        "error",
        "asyncio",
        "it was never awaited",
    )
    assert (second["level"], second["logger"]) == ("warning", "py.warnings")


def test_losses_are_told_as_an_event(sink: Sink, said: Callable[[], str]) -> None:
    """The note of dropped lines has the format of all others."""
    configure_logging(sink, log_format="json", is_terminal=False, colour=False)
    sink.report_loss(12)

    assert (json.loads(said())["event"], json.loads(said())["lines"]) == ("output.dropped", 12)


def test_text_stream_keeps_lines_whole_and_in_order(sink: Sink, said: Callable[[], str]) -> None:
    """Halves of a line wait for each other, others may pass them."""
    stream = TextStream(sink)
    stream.write("half")
    sink.write(b"llm/0 | hello\n")
    stream.write(" and half\nne")
    stream.write("xt\n\udc80\n")
    stream.flush()

    assert said() == "llm/0 | hello\nhalf and half\nnext\n\\udc80\n"
    assert not stream.isatty()
