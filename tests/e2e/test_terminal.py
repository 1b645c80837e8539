"""What a person sees on a terminal: `status --watch` and `top` in tmux, which tells what stands on the screen."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import PATIENCE_S, RunningDaemon, wait_for
from tests.nvml.fake import FakeBox

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (apt-get install tmux)")

FILE = """
services:
  llm:
    command: [sleep, infinity]
    workers: 2
    resources: {gpu: 1, gpu_memory: 20GiB}
    ready: {after: 50ms}
  busy:
    command: [sh, -c, "while :; do sleep 0.01; done"]
    ready: {after: 50ms}
    restart: {delay: 0s}
"""


class Tmux:
    """
    A terminal with a shell in it.

    Args:
        daemon: Whose environment it has.
        size: Columns and lines.
    """

    def __init__(self, daemon: RunningDaemon, size: tuple[int, int]) -> None:
        self._socket = daemon.home / "tmux"
        self._env = {**daemon.env, "TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
        for name in ("TMUX", "NO_COLOR", "COLUMNS", "LINES"):
            self._env.pop(name, None)
        self._do("-f", "/dev/null", "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), "sh")

    def type(self, *words: str) -> None:
        """A command of the program, and Enter."""
        command = f"{shlex.join((sys.executable, '-m', 'supervisor', *words))}; echo over $?"
        self._do("send-keys", "-l", command)
        self._do("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        self._do("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self._do("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def text(self) -> str:
        return self._do("capture-pane", "-p")

    @property
    def is_given_back(self) -> bool:
        """On its first screen, and with a cursor."""
        return self._do("display-message", "-p", "#{alternate_on} #{cursor_flag}").split() == ["0", "1"]

    def wait(self, is_right: Callable[[str], bool], what: str) -> str:
        def found() -> str | None:
            text = self.text
            return text if is_right(text) else None

        return wait_for(found, lambda: f"{what}\n{self.text}", 3 * PATIENCE_S)

    def end(self) -> None:
        self._do("kill-server", check=False)

    def _do(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *words],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=check,
        )
        return done.stdout


@pytest.fixture
def tmux(start: StartDaemon, box: FakeBox) -> Iterator[tuple[RunningDaemon, Tmux]]:
    """A daemon whose workers are ready, and a terminal beside it."""
    box.change(box.uuids[0], gpu_percent=97, celsius=83, milliwatts=655_000)
    daemon = start(FILE, box=box)
    daemon.wait_states(llm="ready", busy="ready")
    terminal = Tmux(daemon, (80, 30))
    try:
        terminal.wait(lambda text: text.strip() != "", "a shell")
        yield daemon, terminal
    finally:
        terminal.end()


def line_of(text: str, word: str) -> list[str]:
    """The words of the first line that begins with one; none if there is no such line."""
    return next((line.split() for line in text.splitlines() if line.split()[:1] == [word]), [])


@pytest.mark.slow
def test_the_status_is_watched_and_the_terminal_given_back(tmux: tuple[RunningDaemon, Tmux]) -> None:
    """A crash and the return are shown without a key, on a small terminal too; q ends it, and so does Ctrl-C."""
    daemon, terminal = tmux
    terminal.type("status", "--watch")
    terminal.wait(lambda text: line_of(text, "busy/0")[1:2] == ["ready"] and "q ends" in text, "the status")

    os.kill(daemon.worker("busy/0")["pid"], signal.SIGKILL)
    terminal.wait(lambda text: line_of(text, "busy/0")[1:2] == ["ready"] and "ended by SIGKILL" in text, "the return")
    daemon.cli("stop", "llm/1")
    terminal.wait(lambda text: line_of(text, "llm")[1:] == ["1/2", "1", "stopped"], "what was stopped")

    terminal.resize(50, 8)
    terminal.wait(lambda text: "more lines below" in text and len(text.splitlines()) == 8, "a small terminal")
    terminal.press("End")
    terminal.wait(lambda text: "the end" in text, "its last lines")
    terminal.press("q")
    terminal.wait(lambda text: "over 0" in text, "the shell")
    assert terminal.is_given_back

    terminal.type("status", "--watch")
    terminal.wait(lambda text: "q ends" in text, "the status again")
    terminal.press("C-c")
    terminal.wait(lambda text: text.count("over 0") == 2, "the shell again")
    assert terminal.is_given_back


@pytest.mark.slow
def test_top_shows_sorts_filters_and_asks_before_it_touches_anything(tmux: tuple[RunningDaemon, Tmux]) -> None:
    """Devices above, workers below; the terminal is given back, also at SIGTERM."""
    daemon, terminal = tmux
    terminal.type("top")
    text = terminal.wait(lambda text: line_of(text, "busy/0") != [] and "%" in line_of(text, "busy/0")[3], "figures")
    assert {"97%", "83C", "655/700W"} <= set(line_of(text, "0"))

    terminal.press("c")
    terminal.wait(lambda text: text.find("busy/0 ") < text.rfind("llm/0 ") and "sort: cpu" in text, "the busiest first")
    terminal.press("/", "l", "l", "m", "Enter")
    terminal.wait(lambda text: line_of(text, "busy/0") == [] and line_of(text, "llm/1") != [], "the others left out")

    terminal.press("End", "r")
    text = terminal.wait(lambda text: "? y does it" in text, "a question")
    worker = next(name for name in ("llm/0", "llm/1") if f"restart {name}?" in text)
    terminal.press("n")
    terminal.wait(lambda text: "nothing was done" in text, "a no")
    assert daemon.worker(worker)["restarts"] == 0
    terminal.press("r", "y")
    terminal.wait(lambda text: line_of(text, worker)[1:2] == ["ready"] and line_of(text, worker)[6] == "1", "a restart")

    (pid,) = _pids_of("top", daemon.home)
    os.kill(pid, signal.SIGTERM)
    terminal.wait(lambda text: f"over {128 + signal.SIGTERM}" in text, "the shell")
    assert terminal.is_given_back


def _pids_of(command: str, home: Path) -> list[int]:
    """Processes of the program with that command, below a folder's terminal."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
            if (
                words[2:4] == [b"supervisor", command.encode()]
                and f"{home}/".encode() in (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_figures_in_a_pipe_and_without_a_daemon(start: StartDaemon, box: FakeBox) -> None:
    """One frame, of the devices alone where there is no daemon; and watching needs a terminal."""
    daemon = start(FILE, box=box)
    daemon.wait_states(llm="ready", busy="ready")

    beside = daemon.cli("top", "--sort", "cpu")
    refused = daemon.cli("status", "--watch")
    assert daemon.stop() == 0
    alone = daemon.cli("top")

    assert (beside.returncode, beside.stderr) == (0, "")
    lines = [line.split()[:2] for line in beside.stdout.splitlines() if line]
    assert lines.index(["busy/0", "ready"]) < lines.index(["llm/0", "ready"])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "cannot watch the status: this is no terminal" in refused.stderr
    assert alone.returncode == 0
    assert alone.stdout.startswith("no daemon answers")
    assert len(alone.stdout.splitlines()) == 7
