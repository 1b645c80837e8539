"""
The pages of docs/ as a newcomer follows them: files are written, commands are run in order, answers are compared.

    python -m tests.e2e.pages PAGE...           put in what the commands answer today
    python -m tests.e2e.pages --box PAGE...     those for root, in a container with systemd

What is written how:

- a block of yaml, python or ini whose first line is ``# NAME`` is a file, to be written in the folder of the page;
- in a block of console ``$ `` begins a command, ``> `` goes on with it, and what follows is its answer;
- ``gpu-supervisor run`` is left running, as in a terminal of its own, and what follows it is among what it says;
- ``...`` stands for anything in a line, or, alone, for any lines; what differs from run to run, such as times, pids and
  UUIDs, is not compared;
- ``<!-- machine: 2 gpus -->``: from here on another machine, with a copy of the folder;
- ``# `` begins a command that wants root and systemd, and a file whose name begins with / is one beside them: these
  are for the box of tests/systemd, which has its own `RootReader`; those of make have made it.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from tests.e2e.harness import PATIENCE_S
from tests.nvml.__main__ import write_programs
from tests.nvml.fake import FakeBox

SETTLE_S = 3.0
"""For an answer to become what the page says, where the page is what will be changed."""

CHANGES = re.compile(
    r"(gpu-supervisor|systemctl)( --\w+ \S+)? (start|stop|restart|scale|reload|shutdown|enable|disable|kill|edit)\b"
    r"|devices (quarantine|release)\b|fake-gpu|\b(kill|sed|mv|rm|cp|mkdir)\b|/crash| -X POST | --json |[^2&]> ?\w[^d]"
)
"""Commands to be given once; all others only look, and may look again until they see what the page says."""

_FENCE = re.compile(r"```(\w*)$")
_FILE = re.compile(r"# ([/\w.@-]+\.(?:yaml|py|env|conf))$")
_MACHINE = re.compile(r"<!-- machine: (?:no gpu|(\d+) gpus?) -->$")
_VARYING = (
    (re.compile(r"\b(?:GPU-)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b"), "UUID"),
    (re.compile(r"\b(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d[.\d]*Z?"), "TIME"),
    (re.compile(r"\b(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+\b"), "DURATION"),
    (re.compile(r"(\bpid\W{1,3}|\b(?:un)?ready +|\bstarting +|\bgpu-supervisor[.\[])\d+\b"), r"\1NUMBER"),
    (re.compile(r"([├└]─) *\d+\b"), r"\1NUMBER"),
    (re.compile(r"\b\d{3,}\b"), "NUMBER"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """From here on another one, and a copy of the folder."""

    line: int
    gpus: int


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written."""

    line: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """
    Something to be typed.

    Args:
        line: Where it stands, from 1.
        text: Lines that go on included.
        answer: The lines after it.
        end: The line after the last one of the answer.
        as_root: It wants root and systemd.
    """

    line: int
    text: str
    answer: tuple[str, ...]
    end: int
    as_root: bool = False

    @property
    def is_daemon(self) -> bool:
        return re.match(r"gpu-supervisor (--\w+ \S+ )*run ", self.text) is not None


Step = Machine | File | Command


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; *line* is that of its first line."""

    line: int
    kind: str
    lines: tuple[str, ...]


def read_blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, and the remarks about machines as blocks of their own kind."""
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at].strip())
        if fence is None:
            if _MACHINE.match(lines[at]):
                yield Block(at + 1, "machine", (lines[at],))
            at += 1
            continue
        end = next(number for number in range(at + 1, len(lines)) if lines[number].strip() == "```")
        yield Block(at + 2, fence[1], tuple(lines[at + 1 : end]))
        at = end + 1


def read_steps(page: str) -> Iterator[Step]:
    """What a reader does, in order."""
    for block in read_blocks(page):
        if block.kind == "machine" and (machine := _MACHINE.match(block.lines[0])):
            yield Machine(block.line, int(machine[1] or 0))
        elif block.kind in {"yaml", "python", "ini"} and block.lines and (name := _FILE.match(block.lines[0])):
            yield File(block.line, name[1], "\n".join((*block.lines, "")))
        elif block.kind == "console":
            yield from _read_commands(block)


def _read_commands(block: Block) -> Iterator[Command]:
    starts = [at for at, line in enumerate(block.lines) if line.startswith(("$ ", "# "))]
    assert starts[:1] == [0], f"line {block.line}: a block of console begins with a command"
    for at, end in zip(starts, (*starts[1:], len(block.lines)), strict=True):
        rest = at + 1
        while rest < end and block.lines[rest].startswith("> "):
            rest += 1
        text = "\n".join(line[2:] for line in block.lines[at:rest])
        answer = block.lines[rest:end]
        yield Command(block.line + at, text, answer, block.line + end, as_root=block.lines[at].startswith("# "))


def is_as_said(said: Sequence[str], answer: Sequence[str]) -> bool:
    """Whether the lines of an answer are those of the page, but for what differs from run to run."""
    if not said:
        return not answer
    if said[0].strip() == "...":
        return any(is_as_said(said[1:], answer[at:]) for at in range(len(answer) + 1))
    return bool(answer) and _is_line(said[0], answer[0]) and is_as_said(said[1:], answer[1:])


def is_among(said: Sequence[str], answer: Sequence[str]) -> bool:
    """Whether the lines of the page are in the answer, in their order."""
    rest = iter(answer)
    return all(line.strip() == "..." or any(_is_line(line, one) for one in rest) for line in said)


def _is_line(said: str, line: str) -> bool:
    wanted = re.escape(_steady(said)).replace(re.escape("..."), ".*")
    return re.fullmatch(wanted, _steady(line)) is not None


def _steady(line: str) -> str:
    for varying, word in _VARYING:
        line = varying.sub(word, line)
    return line.strip()


class Terminal:
    """What `gpu-supervisor run` is left running in: it has a terminal of its own."""

    def __init__(self, command: str, home: Path, env: dict[str, str]) -> None:
        master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "-c", command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=home,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self._text = b""
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._reader.start()

    @property
    def lines(self) -> list[str]:
        return self._text.decode(errors="replace").replace("\r", "").splitlines()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    def _read(self, master: int) -> None:
        # A terminal whose other side is closed answers with EIO.
        with suppress(OSError):
            while chunk := os.read(master, 65536):
                self._text += chunk
        os.close(master)


class Reader:
    """
    Somebody who follows a page.

    Args:
        home: An empty folder for everything.
        patience_s: For an answer to become what the page says.
    """

    def __init__(self, home: Path, *, patience_s: float = PATIENCE_S) -> None:
        self._home = home
        self._patience_s = patience_s
        self._terminals: list[Terminal] = []
        self._machines = 0
        self.folder = home / "new"
        self.folder.mkdir()
        self._move(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        for terminal in self._terminals:
            terminal.end()

    def take(self, step: Step) -> tuple[bool, list[str]]:
        """Do as the page says. Whether it is as the page says, and what there is to see."""
        match step:
            case Machine():
                self._move(step.gpus)
            case File() if not step.name.startswith("/"):
                (self.folder / step.name).write_text(step.text)
            case Command() if step.is_daemon:
                self._terminals.append(Terminal(step.text, self.folder, self.env))
                return self._watch(self._terminals[-1], step)
            case Command() if not step.as_root:
                return self._type(step)
            case _:
                pass
        return True, []

    def living(self) -> list[list[str]]:
        """What those daemons said that the page has not ended."""
        for terminal in self._terminals:
            with suppress(subprocess.TimeoutExpired):
                terminal.process.wait(self._patience_s)
        return [terminal.lines for terminal in self._terminals if terminal.process.poll() is None]

    def _move(self, gpus: int) -> None:
        self._machines += 1
        place = self._home / str(self._machines)
        programs = write_programs(place / "bin")
        before, self.folder = self.folder, place / "fleet"
        shutil.copytree(before, self.folder)
        box = FakeBox(place / "box", gpus=gpus).env if gpus else {}
        own = ("CUDA_", "GPU_SUPERVISOR_", "XDG_RUNTIME_DIR")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.env = {
            **inherited,
            **box,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "GPU_SUPERVISOR_SOCKET": str(place / "control.sock"),
            "NO_COLOR": "1",
        }

    def _watch(self, terminal: Terminal, step: Command) -> tuple[bool, list[str]]:
        deadline = time.monotonic() + self._patience_s
        while not (is_right := is_among(step.answer, terminal.lines)) and time.monotonic() < deadline:
            if terminal.process.poll() is not None:
                break
            time.sleep(0.05)
        return is_right, terminal.lines

    def _type(self, step: Command) -> tuple[bool, list[str]]:
        return type_until(step, lambda: self._run(step.text), self._patience_s)

    def _run(self, command: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=6 * PATIENCE_S,
            check=False,
        )
        return done.stdout.decode(errors="replace").splitlines()


class RootReader:
    """
    Somebody who follows the rest of a page, as root of a machine with systemd.

    Args:
        box: That machine.
        patience_s: For an answer to become what the page says.
    """

    def __init__(self, box: Box, *, patience_s: float = PATIENCE_S) -> None:
        self._box = box
        self._patience_s = patience_s

    def take(self, step: Step) -> tuple[bool, list[str]]:
        """Do as the page says. Whether it is as the page says, and what there is to see."""
        match step:
            case File() if step.name.startswith("/"):
                self._box.write(step.name, step.text)
            case Command() if step.as_root and not step.text.startswith("make "):
                return type_until(step, lambda: self._run(step.text), self._patience_s)
            case _:
                pass
        return True, []

    def _run(self, command: str) -> list[str]:
        return self._box.run("sh", "-c", f"{{ {command}\n}} 2>&1", check=False).stdout.splitlines()


class Box(Protocol):
    """The machine of a `RootReader`."""

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command there."""

    def write(self, path: str, text: str) -> None:
        """A file there."""


def type_until(step: Command, run: Callable[[], list[str]], patience_s: float) -> tuple[bool, list[str]]:
    """Type a command; one that only looks again and again, until it sees what the page says."""
    deadline = time.monotonic() + patience_s
    while True:
        answer = run()
        if is_as_said(step.answer, answer):
            return True, answer
        if CHANGES.search(step.text) or time.monotonic() > deadline:
            return False, answer
        time.sleep(0.1)


def rewrite(path: Path, take: Callable[[Step], tuple[bool, list[str]]]) -> None:
    """Put today's answers into a page, where they are not as it says."""
    page = path.read_text()
    lines = page.splitlines()
    changed: list[tuple[Command, list[str]]] = []
    for step in read_steps(page):
        is_right, answer = take(step)
        if isinstance(step, Command) and not is_right:
            changed.append((step, answer))
    for step, answer in reversed(changed):
        lines[step.end - 1 - len(step.answer) : step.end - 1] = [line.rstrip() for line in answer]
    path.write_text("\n".join((*lines, "")))


def main(words: list[str]) -> None:
    """Bring pages up to date."""
    if words[0] == "--box":
        from tests.systemd.box import Box as RealBox

        box = RealBox()
        try:
            for name in words[1:]:
                rewrite(Path(name), RootReader(box, patience_s=SETTLE_S).take)
        finally:
            box.end()
        return
    for name in words:
        with tempfile.TemporaryDirectory(prefix="page-") as home, Reader(Path(home), patience_s=SETTLE_S) as reader:
            rewrite(Path(name), reader.take)


if __name__ == "__main__":
    main(sys.argv[1:])
