"""The pages of docs/ tell the truth: their commands are run, their files are checked, their words exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from supervisor.cli.commands import cli
from tests.e2e.harness import ROOT
from tests.e2e.pages import Block, Command, Reader, is_among, is_as_said, read_blocks, read_steps

DOCS = sorted((ROOT / "docs").glob("*.md"))
RECIPES = sorted((ROOT / "docs/recipes").glob("*.md"))
"""What they say of `plan`, and their files, are held to in tests/test_recipes.py, without a process for each."""

PAGES = [*DOCS, *RECIPES, ROOT / "README.md"]
FOLLOWED = [page for page in DOCS if any(isinstance(step, Command) for step in read_steps(page.read_text()))]

_SAID = re.compile(r"gpu-supervisor ((?:[^\s`|;&()<>]+ ?)+)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_there_are_pages_to_follow() -> None:
    """Both of those with commands in them."""
    assert {"docs/guide.md", "docs/operations.md"} <= set(map(_name, FOLLOWED))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("page", FOLLOWED, ids=_name)
def test_a_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    """From top to bottom, each command answers what the page says, and at the end nothing is left running."""
    with Reader(tmp_path) as reader:
        for step in read_steps(page.read_text()):
            is_right, answer = reader.take(step)
            shown = "\n".join(answer)
            assert is_right, f"{_name(page)}:{step.line}: {getattr(step, 'text', '')}\nit says:\n{shown}"

        assert reader.living() == []


def _yaml() -> Iterator[tuple[Path, Block]]:
    for page in (*DOCS, ROOT / "README.md"):
        for block in read_blocks(page.read_text()):
            if block.kind == "yaml":
                yield page, block


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(*one, id=f"{_name(one[0])}:{one[1].line}") for one in _yaml()]
)
def test_every_service_file_is_a_good_one(page: Path, block: Block, tmp_path: Path) -> None:
    """`check` accepts it; what this machine lacks is a warning."""
    (tmp_path / "service.yaml").write_text("\n".join(block.lines))
    for name in re.findall(r"env_file: \[?([\w./-]+)", "\n".join(block.lines)):
        (tmp_path / name).write_text("")
    for name in re.findall(r"http_token_file: ([\w./-]+)", "\n".join(block.lines)):
        (tmp_path / name).write_text("a-token")
        (tmp_path / name).chmod(0o600)

    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "check", "service.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_word_of_the_command_line_exists(page: Path) -> None:
    """Commands and options, wherever they are named in a code span or a block."""
    wrong = [f"{line}: {said}" for line, said in _said(page.read_text()) if not _is_understood(said.split())]

    assert wrong == []


def _said(text: str) -> Iterator[tuple[int, str]]:
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("```"):
            is_code = not is_code
        spans = [line] if is_code and line.startswith(("$ ", "# ", "> ")) else re.findall(r"`([^`]+)`", line)
        for span in spans:
            for said in _SAID.findall(span):
                yield number, said


def _is_understood(words: list[str]) -> bool:
    """Options before and after a command, and the command, of the program as it is."""
    command: click.Command = cli
    for word in words:
        if word.startswith("-"):
            options = {name for one in (cli, command) for option in one.params for name in option.opts}
            if word.split("=")[0].rstrip(",.") not in {*options, "-h", "--help"}:
                return False
        elif command is cli and word in cli.commands:
            command = cli.commands[word]
            if command.hidden:
                return False
        elif isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
        elif command is cli and re.fullmatch(r"[a-z]+", word) and not _is_value(words, word):
            return False
    return True


def _is_value(words: list[str], word: str) -> bool:
    at = words.index(word)
    return at > 0 and words[at - 1] in {"--socket", "--instance"}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading in it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (heading and heading not in _headings(file.read_text())):
            broken.append(target)

    assert broken == []


def _headings(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*DOCS, *RECIPES], ids=_name)
def test_one_sentence_per_line(page: Path) -> None:
    """Two in one line make every change of one a change of both."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    prose = [line for line in text.splitlines() if not line.startswith("|")]

    assert [line for line in prose if re.search(r"[a-z`)][.!?] [A-Z]", line)] == []


# ---- what the pages are held to -------------------------------------------------------------------------------------


def test_what_differs_from_run_to_run_is_not_compared() -> None:
    """Times, pids, UUIDs and the width of columns; everything else is."""
    said = ["llm/0  ready  4711   0  1  12s"]

    assert is_as_said(said, ["llm/0 ready 25008 0 1 1m5s"])
    assert not is_as_said(said, ["llm/0 ready 25008 0 2 1m5s"])
    assert not is_as_said(said, ["llm/0 failed 25008 0 1 1m5s"])


def test_dots_stand_for_anything() -> None:
    """In a line, and for lines."""
    assert is_as_said(["a ... z"], ["a to z"])
    assert is_as_said(["first", "...", "last"], ["first", "second", "third", "last"])
    assert is_as_said(["first", "..."], ["first"])
    assert not is_as_said(["first", "..."], ["second"])
    assert not is_as_said([], ["something"])


def test_lines_of_a_daemon_are_found_among_others_in_their_order() -> None:
    """Not the other way around."""
    assert is_among(["one", "three"], ["one", "two", "three"])
    assert not is_among(["three", "one"], ["one", "two", "three"])


def test_an_unknown_word_is_found() -> None:
    """Commands, options, and those that are only named."""
    assert _is_understood(["status", "--wait", "ready"])
    assert _is_understood(["--instance", "llm", "reload"])
    assert not _is_understood(["stats"])
    assert not _is_understood(["status", "--follow"])
