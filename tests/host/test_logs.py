from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from supervisor.core.spec import WorkerId
from supervisor.host.logs import TAIL_LINES, Outputs
from supervisor.host.sink import Sink
from tests.host import looping
from tests.host.looping import Run, descriptors, until

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


run = looping.run
no_leaks = looping.no_leaks

LLM = WorkerId("llm", 0)
WEB = WorkerId("web", 3)


@pytest.fixture
def stderr(tmp_path: Path) -> Path:
    path = tmp_path / "stderr"
    path.touch()
    return path


def open_sink(path: Path) -> Sink:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        return Sink(fd)
    finally:
        os.close(fd)


def start(command: str, fd: int) -> subprocess.Popen[bytes]:
    """A real process that writes into *fd*, and alone has it."""
    try:
        return subprocess.Popen(["sh", "-c", command], stdout=fd, stderr=fd)
    finally:
        os.close(fd)


def said(stderr: Path) -> bytes:
    """What has reached the daemon's stderr."""
    return stderr.read_bytes()


def read(fd: int) -> bytes:
    """What a non-blocking descriptor has now."""
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


class CountedOutputs(Outputs):
    """Counts how often the loop turned to a pipe."""

    turns = 0

    def _turn(self, pipe: Any) -> None:
        self.turns += 1
        super()._turn(pipe)


def test_output_of_processes_reaches_stderr_by_name(run: Run, stderr: Path) -> None:
    """Two real processes write lines; each is named, whole, and the last ones are in the tail."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        processes = []
        for worker, word in ((LLM, "alpha"), (WEB, "beta")):
            processes.append(start(f"echo {word}; echo err >&2; printf end", outputs.open(worker, 7)))
        for process in processes:
            process.wait()

        assert outputs.drain(LLM, 7) == ("alpha", "err", "end")
        assert outputs.drain(WEB, 7) == ("beta", "err", "end")
        outputs.close_all()
        sink.close()

    run(main())

    lines = stderr.read_text().splitlines()
    assert [line for line in lines if line.startswith("llm/0")] == ["llm/0 | alpha", "llm/0 | err", "llm/0 | end"]
    assert [line for line in lines if line.startswith("web/3")] == ["web/3 | beta", "web/3 | err", "web/3 | end"]


def test_lines_are_written_while_the_worker_runs(run: Run, stderr: Path) -> None:
    """A line is seen when it is complete, not when the process ends."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        fd = outputs.open(LLM, 1)
        os.write(fd, b"loading\n50")

        await until(lambda: said(stderr) == b"llm/0 | loading\n")

        os.write(fd, b" %\n")
        await until(lambda: said(stderr) == b"llm/0 | loading\nllm/0 | 50 %\n")
        os.close(fd)
        outputs.close(LLM, 1)
        sink.close()

    run(main())


def test_write_end_is_as_a_worker_expects_it(run: Run, stderr: Path) -> None:
    """It blocks, is not inherited by accident, and the pipe has the kernel's size."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        fd = outputs.open(LLM, 1)

        assert os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        assert fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == 64 * 1024
        os.close(fd)
        outputs.close(LLM, 1)
        sink.close()

    run(main())


def test_end_of_file_does_not_turn_the_loop(run: Run, stderr: Path) -> None:
    """A worker that closes its output is let go at once, its partial line is written, its tail stays."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = CountedOutputs(asyncio.get_running_loop(), sink)
        before = descriptors()
        fd = outputs.open(LLM, 1)
        os.write(fd, b"bye")
        os.close(fd)

        await until(lambda: descriptors() == before)
        turns = outputs.turns
        await asyncio.sleep(0.05)

        assert turns == outputs.turns <= 2
        assert said(stderr) == b"llm/0 | bye\n"
        assert outputs.drain(LLM, 1) == ("bye",)
        outputs.close(LLM, 1)
        sink.close()

    run(main())


def test_close_does_not_wait_for_an_orphan(run: Run, stderr: Path) -> None:
    """An orphan that holds the pipe keeps neither descriptor nor partial line from us."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        held = outputs.open(LLM, 1)
        os.write(held, b"last words")

        assert outputs.drain(LLM, 1) == ("last words",)
        outputs.close(LLM, 1)

        with pytest.raises(BrokenPipeError):
            os.write(held, b"nobody")
        assert outputs.drain(LLM, 1) == ()
        outputs.close(LLM, 1)
        os.close(held)
        sink.close()

    run(main())
    assert stderr.read_bytes() == b"llm/0 | last words\n"


def test_incarnations_of_a_worker_have_pipes_of_their_own(run: Run, stderr: Path) -> None:
    """A new process may start while an orphan still holds the old one's pipe."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        old, new = outputs.open(LLM, 1), outputs.open(LLM, 2)
        os.write(old, b"old\n")
        os.write(new, b"new\n")

        assert outputs.drain(LLM, 1) == ("old",)
        outputs.close(LLM, 1)
        assert outputs.drain(LLM, 2) == ("new",)
        outputs.close_all()
        os.close(old)
        os.close(new)
        sink.close()

    run(main())


def test_drain_of_a_pipe_that_is_filled_all_the_time_ends(run: Run, stderr: Path) -> None:
    """An orphan that writes for ever does not hold the daemon."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        with start("exec yes", outputs.open(LLM, 1)) as process:
            await until(lambda: len(outputs.drain(LLM, 1)) == TAIL_LINES)
            outputs.close(LLM, 1)
            process.kill()
        sink.close()

    run(main())
    assert stderr.stat().st_size < 16 << 20


def test_descriptors_stay_flat_over_many_processes(run: Run, stderr: Path) -> None:
    """A thousand restarts leave nothing open."""

    async def main() -> None:
        sink = open_sink(stderr)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        before = descriptors()
        for incarnation in range(1000):
            os.close(outputs.open(LLM, incarnation))
            outputs.drain(LLM, incarnation)
            outputs.close(LLM, incarnation)

        assert before == descriptors()
        sink.close()

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("letters", ["x", "\n"])
def test_hundred_megabytes_leave_memory_flat(run: Run, letters: str) -> None:
    """100 MB without a line feed, or 8 MB of nothing else, are harmless."""

    async def main() -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        sink = Sink(null)
        os.close(null)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        us = psutil.Process()
        before = us.memory_info().rss
        peak = 0
        size = 100_000_000 if letters == "x" else 8_000_000
        command = f"head -c {size} /dev/zero | tr '\\0' '{letters}'"
        with start(command, outputs.open(LLM, 1)) as process:

            def is_over() -> bool:
                nonlocal peak
                peak = max(peak, us.memory_info().rss)
                return process.poll() is not None

            await until(is_over, timeout_s=60)
        tail = outputs.drain(LLM, 1)

        assert peak - before < 32 << 20
        assert sum(map(len, tail)) <= TAIL_LINES * 2048
        assert sink.moved >= size
        outputs.close(LLM, 1)
        sink.close()

    run(main())


@pytest.mark.slow
def test_slow_reader_slows_the_worker_and_loses_nothing(run: Run) -> None:
    """While stderr moves, a worker that says more than it takes waits, and every line arrives."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        sink = Sink(write_end)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        count = 500_000
        lines = 0
        with start(f"exec seq {count}", outputs.open(LLM, 1)) as process:
            was_congested = False  # Nobody reads before, so it must come to that.
            async with asyncio.timeout(30):
                while lines < count:
                    was_congested |= sink.is_congested
                    assert sink._queued <= 1 << 20
                    if was_congested:
                        lines += read(read_end).count(b"\n")
                    await asyncio.sleep(0)
            assert process.wait() == 0

        assert count == lines
        outputs.close_all()
        sink.close()
        os.close(read_end)
        os.close(write_end)

    run(main())


@pytest.mark.slow
def test_stuck_stderr_blocks_neither_loop_nor_worker(run: Run) -> None:
    """A terminal under Ctrl-S: workers wait a little, then their lines are dropped, and counted when it goes on."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        sink = Sink(write_end)
        outputs = CountedOutputs(asyncio.get_running_loop(), sink, stall_s=0.2)
        count = 1_000_000
        with start(f"exec seq {count}", outputs.open(LLM, 1)) as process:
            await until(lambda: bool(outputs._gate.paused))
            turns = outputs.turns
            await asyncio.sleep(0.05)
            assert turns == outputs.turns
            assert process.poll() is None

            await until(lambda: process.poll() is not None)
            outputs.close(LLM, 1)
            assert sink._queued <= 1 << 20

        got = b""

        def is_told() -> bool:
            nonlocal got
            got += read(read_end)
            return b"lost" in got and got.endswith(b"\n")

        await until(is_told)
        *lines, note = got.splitlines()
        assert [b"llm/0 | %d" % number for number in range(1, len(lines) + 1)] == lines
        assert b"gpu-supervisor | %d lines lost, nobody took them" % (count - len(lines)) == note
        sink.close()
        os.close(read_end)
        os.close(write_end)

    run(main())


def test_stderr_that_breaks_lets_paused_workers_go_on(run: Run) -> None:
    """When the reader of stderr goes away for good, workers are read into nothing."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        sink = Sink(write_end)
        outputs = Outputs(asyncio.get_running_loop(), sink)
        with start("exec seq 1000000", outputs.open(LLM, 1)) as process:
            await until(lambda: bool(outputs._gate.paused))

            os.close(read_end)

            await until(lambda: process.poll() is not None)
        outputs.close_all()
        sink.close()
        os.close(write_end)

    run(main())
