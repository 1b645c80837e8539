from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from supervisor.host.clock import Clock
from supervisor.host.sink import Sink, _Relay
from tests.host import looping
from tests.host.looping import Run, until

if TYPE_CHECKING:
    from pathlib import Path


run = looping.run
no_leaks = looping.no_leaks

KINDS = ("pipe", "socket", "terminal", "shared pipe", "shared terminal")


def make_channel(kind: str) -> tuple[int, int]:
    """Read end and write end of a way to the outside."""
    if kind.endswith("pipe"):
        return os.pipe()
    if kind == "socket":
        ours, theirs = socket.socketpair()
        return ours.detach(), theirs.detach()
    return os.openpty()


def make_sink(kind: str, write_end: int, limit: int = 1 << 20) -> Sink:
    sink = Sink(write_end, limit=limit)
    if kind.startswith("shared"):  # Such as the terminal of another user: it cannot be opened anew.
        assert sink._channel is not None
        sink._channel.close()
        sink._channel = _Relay(os.dup(write_end))
    return sink


def numbered(first: int, last: int) -> list[bytes]:
    return [b"line %06d %s\n" % (number, b"x" * 80) for number in range(first, last)]


class Reader:
    """Reads an end in the loop, once it is told to."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.got = b""

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.fd, self._read)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self.fd)

    def _read(self) -> None:
        self.got += os.read(self.fd, 65536)

    def lines(self) -> list[bytes]:
        return self.got.replace(b"\r\n", b"\n").splitlines(keepends=True)


def test_sink_writes_to_a_file_at_once(tmp_path: Path) -> None:
    """A regular file, which no epoll takes, needs no loop."""
    with (tmp_path / "stderr").open("wb") as file:
        sink = Sink(file.fileno())
        sink.write(b"one\ntwo\n")
        sink.write(b"three\n", own=True)
        sink.close()

    assert (tmp_path / "stderr").read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("kind", KINDS)
def test_sink_keeps_everything_in_order_for_a_reader_that_pauses(run: Run, kind: str) -> None:
    """What a reader does not take now is queued, and arrives complete when it reads again."""

    async def main() -> None:
        read_end, write_end = make_channel(kind)
        sink, reader = make_sink(kind, write_end), Reader(read_end)
        lines = numbered(0, 8000)
        for line in lines:
            sink.write(line)
        assert sink.is_congested

        reader.start()
        await until(lambda: len(reader.lines()) == len(lines))

        assert lines == reader.lines()
        assert sink._queued == 0
        reader.stop()
        sink.close()
        os.close(read_end)
        os.close(write_end)

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_sink_leaves_the_shared_description_blocking(run: Run, kind: str) -> None:
    """The shell's terminal is as blocking as before, while we wait for it."""

    async def main() -> None:
        read_end, write_end = make_channel(kind)
        sink = make_sink(kind, write_end)
        for line in numbered(0, 8000):
            sink.write(line)
        await asyncio.sleep(0)

        assert not fcntl.fcntl(write_end, fcntl.F_GETFL) & os.O_NONBLOCK
        sink.close(timeout_s=0)
        os.close(read_end)
        os.close(write_end)

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_sink_drops_whole_lines_beyond_its_limit_and_says_how_many(run: Run, kind: str) -> None:
    """Every line arrives whole or is counted in a note."""

    async def main() -> None:
        read_end, write_end = make_channel(kind)
        sink, reader = make_sink(kind, write_end, limit=100_000), Reader(read_end)
        told: list[int] = []
        sink.report_loss = told.append
        lines = numbered(0, 20_000)
        for line in lines[:10_000]:
            sink.write(line)
        sink.write(b"".join(lines[10_000:]))
        assert sink._queued <= 100_000

        reader.start()
        await until(lambda: bool(told) and not sink._queue)
        sink.write(b"after\n")
        await until(lambda: reader.got.endswith(b"after\n" if "terminal" not in kind else b"after\r\n"))

        *got, after = reader.lines()
        assert set(got) <= set(lines)
        assert sorted(got) == got
        assert [len(lines) - len(got)] == told
        assert after == b"after\n"
        reader.stop()
        sink.close()
        os.close(read_end)
        os.close(write_end)

    run(main())


def test_note_of_a_loss_is_a_line_of_its_own(run: Run) -> None:
    """Without a logger the sink itself says what was lost."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        sink, reader = Sink(write_end, limit=10_000), Reader(read_end)
        lines = numbered(0, 2000)
        for line in lines:
            sink.write(line)

        reader.start()
        await until(lambda: b"lost" in reader.got and reader.got.endswith(b"\n"))

        kept = len(reader.lines()) - 1
        assert b"gpu-supervisor | %d lines lost, nobody took them\n" % (len(lines) - kept) == reader.lines()[-1]
        reader.stop()
        sink.close()
        os.close(read_end)
        os.close(write_end)

    run(main())


def test_flood_leaves_room_for_the_daemons_own_lines(run: Run) -> None:
    """A worker that fills the queue does not hide what the daemon has to say."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        sink, reader = Sink(write_end, limit=100_000), Reader(read_end)
        for line in numbered(0, 5000):
            sink.write(line)
        sink.write(b"worker.failed\n", own=True)

        reader.start()
        await until(lambda: b"worker.failed\n" in reader.got)

        reader.stop()
        sink.close()
        os.close(read_end)
        os.close(write_end)

    run(main())


def test_stuck_reader_costs_no_wake_ups(run: Run) -> None:
    """While nobody reads, the loop sleeps."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        sink = Sink(write_end)
        for line in numbered(0, 8000):
            sink.write(line)
        resumed = 0

        def count() -> None:
            nonlocal resumed
            resumed += 1

        sink._unwatch()
        sink._resume = count  # type: ignore[method-assign]
        sink._watch()
        await asyncio.sleep(0.1)

        assert resumed == 0
        sink.close(timeout_s=0)
        os.close(read_end)
        os.close(write_end)

    run(main())


@pytest.mark.parametrize("is_full", [False, True])
def test_reader_that_goes_away_is_survived(run: Run, is_full: bool) -> None:
    """After a broken pipe everything is swallowed, and whoever waited for room is told."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        sink = Sink(write_end)
        relieved = asyncio.Event()
        sink.on_relief = relieved.set
        for line in numbered(0, 8000 if is_full else 1):
            sink.write(line)
        os.close(read_end)
        if not is_full:
            sink.write(b"nobody\n")

        await asyncio.wait_for(relieved.wait(), 5)

        sink.write(b"nobody\n")
        assert not sink.is_congested
        sink.close()
        os.close(write_end)

    run(main())


def test_closed_stderr_is_survived() -> None:
    """A daemon started without stderr says nothing, and lives."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    sink = Sink(write_end)

    sink.write(b"nobody\n")
    sink.close()

    assert not sink.is_congested


def test_full_disk_loses_lines_and_is_told_of_when_there_is_room(tmp_path: Path) -> None:
    """A file that takes nothing for a while is tried again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "stderr").open("wb") as file:
        sink = Sink(file.fileno())
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
            for line in (b"one\n", b"two\n", b"three\n"):
                sink.write(line)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sink.write(b"four\n")
        sink.close()

    expected = b"one\ngpu-supervisor | 2 lines lost, nobody took them\nfour\n"
    assert expected == (tmp_path / "stderr").read_bytes()


def test_device_that_refuses_is_survived() -> None:
    """An error that is no matter of space or time ends the sink, not the daemon."""
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        os.write(full, b"x")
    sink = Sink(full)

    sink.write(b"nobody\n")
    sink.write(b"nobody\n")

    sink.close()
    os.close(full)


def test_close_waits_for_a_slow_reader() -> None:
    """The last words of the daemon leave before it does."""
    read_end, write_end = os.pipe()
    sink = Sink(write_end)
    lines = numbered(0, 8000)
    for line in lines:
        sink.write(line)
    got = b""

    def read() -> None:
        nonlocal got
        while block := os.read(read_end, 65536):
            got += block

    thread = threading.Thread(target=read)
    thread.start()
    sink.close(timeout_s=5)
    os.close(write_end)
    thread.join(5)

    assert b"".join(lines) == got
    os.close(read_end)


def test_close_gives_up_on_a_stuck_reader() -> None:
    """The end of the daemon is not held up by its terminal."""
    read_end, write_end = os.pipe()
    sink = Sink(write_end)
    for line in numbered(0, 8000):
        sink.write(line)
    clock = Clock()
    started = clock.monotonic()

    sink.close(timeout_s=0.05)

    assert clock.monotonic() - started < 2
    os.close(read_end)
    os.close(write_end)
