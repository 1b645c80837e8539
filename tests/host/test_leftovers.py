"""What an earlier life of the same instance left is ended; a stranger never is, nor who has a number again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.host import leftovers
from supervisor.host.leftovers import (
    MARK,
    Ledger,
    find_leftovers,
    make_mark,
    read_ledger,
    read_start,
    state_path,
    sweep,
)

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def run() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run_one(*command: str, mark: str | None = None, **options: Any) -> subprocess.Popen[bytes]:
        env = {**os.environ, **({} if mark is None else {MARK: mark})}
        started.append(subprocess.Popen(command or ("sleep", "1000"), env=env, **options))
        return started[-1]

    yield run_one
    for one in started:
        one.kill()
        one.wait()


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def write(path: Path, *identities: tuple[int, int], **changes: object) -> None:
    document = {"format": leftovers.FORMAT, "boot": leftovers._boot_id(), "processes": identities}
    path.write_text(json.dumps({**document, **changes}))


def identity(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    start = read_start(process.pid)
    assert start is not None
    return process.pid, start


async def test_who_is_remembered_is_ended_with_all_below(run: Start, control: Path) -> None:
    """By pid and start time, whatever its environment says by now."""
    parent = run("sh", "-c", "sleep 1000 & echo $!; exec sleep 1000", stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.stdout.close()
    ledger = state_path(control, {})
    write(ledger, identity(parent))

    await sweep(ledger, make_mark(control))

    assert parent.wait() == -9
    assert read_start(child) is None


async def test_who_carries_the_mark_is_ended(run: Start, control: Path) -> None:
    """Those that were started after the file was last written."""
    ours, other = run(mark=make_mark(control)), run(mark=f"{make_mark(control)}2")

    await sweep(state_path(control, {}), make_mark(control))

    assert ours.wait() == -9
    assert other.poll() is None


async def test_a_number_that_was_used_again_is_nobody_of_ours(run: Start, control: Path) -> None:
    """Another start time, or another boot."""
    stranger = run()
    pid, start = identity(stranger)
    ledger = state_path(control, {})

    write(ledger, (pid, start + 1))
    await sweep(ledger, make_mark(control))
    write(ledger, (pid, start), boot="another")
    await sweep(ledger, make_mark(control))

    assert stranger.poll() is None


def test_nobody_ends_itself_or_those_above(control: Path) -> None:
    """The daemon may have been started from the shell of a worker."""
    above = [(pid, start) for pid in (os.getpid(), os.getppid()) if (start := read_start(pid)) is not None]

    assert find_leftovers(above, make_mark(control)) == set()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"format": 99}', '{"format": 1, "boot": "x"}', "null", "[" * 100_000, "\0\xff"),
        '{"format": 1, "boot": "x", "processes": [[1, 1]]}',
    ],
    ids=["empty", "torn", "list", "newer", "short", "null", "deep", "binary", "boot"],
)
def test_a_file_that_is_not_ours_is_ignored(control: Path, text: str) -> None:
    """It was torn by a crash, or somebody else wrote it."""
    path = state_path(control, {})
    path.write_text(text)

    assert read_ledger(path) == frozenset()


def test_a_link_and_a_pipe_are_ignored(control: Path, tmp_path: Path) -> None:
    """Neither followed nor waited for."""
    path = state_path(control, {})
    write(tmp_path / "real", (1, 1))
    path.symlink_to(tmp_path / "real")
    assert read_ledger(path) == frozenset()
    path.unlink()
    os.mkfifo(path)
    assert read_ledger(path) == frozenset()


def test_the_file_is_in_the_state_directory_where_there_is_one(control: Path) -> None:
    """As systemd gives it; else beside the socket."""
    assert state_path(control, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}) == Path("/var/lib/a/control.sock.state")
    assert state_path(control, {}) == control.with_name("control.sock.state")


async def test_many_changes_are_written_once(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many restarts there are a second."""
    monkeypatch.setattr(leftovers, "WRITE_EVERY_S", 0.05)
    asked: list[int] = []

    def read_pids() -> set[int]:
        asked.append(1)
        return {os.getpid()}

    ledger = Ledger(state_path(control, {}), read_pids)
    for _ in range(1000):
        ledger.note()
    async with asyncio.timeout(20):
        while not state_path(control, {}).exists():  # noqa: ASYNC110 - A timer's doing, which tells nobody.
            await asyncio.sleep(0.01)

    assert len(asked) == 1
    assert read_ledger(state_path(control, {})) == {(os.getpid(), read_start(os.getpid()))}
    ledger.close()
    assert not state_path(control, {}).exists()


async def test_a_disk_that_takes_nothing_is_told_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And no reason to stop."""
    ledger = Ledger(tmp_path / "missing" / "state", lambda: {os.getpid()})

    ledger.write()
    ledger.note()

    assert capsys.readouterr().out.count("ledger.failed") == 1
    assert sys.exc_info() == (None, None, None)
