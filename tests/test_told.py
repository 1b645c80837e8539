"""What the daemon tells stands in its pages: events for hooks, and lines of the log by their level."""

from __future__ import annotations

import re

import pytest

from supervisor.core.file.hooks import NOTICES
from tests.e2e.harness import ROOT

SOURCES = sorted((ROOT / "supervisor").rglob("*.py"))
LOGGED = re.compile(r'\blog\.(warning|error|exception)\(\s*"([a-z_]+\.[a-z_]+)"')
NAMES = sorted({(level, name) for source in SOURCES for level, name in LOGGED.findall(source.read_text())})


def names_in(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+\.[a-z_]+)`", text))


def row_of(level: str) -> set[str]:
    """Names in the row of a level, in the table of the journal."""
    page = (ROOT / "docs/operations.md").read_text()
    (row,) = re.findall(rf"^\| {level} \|.*", page, re.MULTILINE)
    return names_in(row)


def test_there_are_lines_to_be_found() -> None:
    assert {"spec.rejected", "hook.full", "watcher.failed"} <= {name for _, name in NAMES}


def test_every_event_that_a_hook_may_be_told_stands_in_its_page() -> None:
    assert set(NOTICES) - names_in((ROOT / "docs/hooks.md").read_text()) == set()


@pytest.mark.parametrize(("level", "name"), NAMES)
def test_every_warning_and_every_error_stands_in_the_table_of_levels(level: str, name: str) -> None:
    assert name in row_of("error" if level == "exception" else level)


def test_what_the_core_has_said_stands_in_that_table_too() -> None:
    assert set(NOTICES) - row_of("error") - row_of("warning") - row_of("info") == set()
