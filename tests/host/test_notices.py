"""What workers say on their sockets, who may say it, and what becomes of those who fall silent."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Event,
    LivenessLost,
    Probe,
    ProbeAlive,
    ProgressTold,
    StartExtended,
)
from supervisor.core.spec import Alive, WorkerId
from supervisor.host.notices import TURN_MAX_WORDS, Notices
from tests.host import looping
from tests.host.looping import Run, until

run = looping.run
no_leaks = looping.no_leaks

LLM = WorkerId("llm", 0)


@contextmanager
def notices(events: list[Event], place: Path) -> Iterator[Notices]:
    one = Notices(asyncio.get_running_loop(), events.append, (place,))
    try:
        yield one
    finally:
        one.close()
    assert list(place.iterdir()) == []


def say(path: str, text: str, fds: tuple[int, ...] = ()) -> None:
    parts = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendmsg([text.encode()], parts, 0, path)


def alive(interval_s: float = 0.05, failures: int = 2) -> Alive:
    return Alive(kind="notify", interval_s=interval_s, failures=failures)


def started(voices: Notices) -> str:
    path = voices.open(LLM, 1)
    voices.listen(LLM, 1)
    voices.watch(Probe(LLM, 1, None, 2.0, "notify"))
    return path


def test_a_worker_says_how_it_is_and_that_it_is_ready(run: Run, tmp_path: Path) -> None:
    """READY, STATUS and EXTEND_TIMEOUT_USEC, several in one word; MAINPID is nobody's business."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            say(path, "STATUS=loading \x1b[1m3/4\nEXTEND_TIMEOUT_USEC=5000000\nMAINPID=1")
            await until(lambda: len(events) == 2)
            say(path, "READY=1")
            await until(lambda: len(events) == 3)

            assert StartExtended(LLM, 1, 5.0) in events
            assert ProgressTold(LLM, 1, "loading [1m3/4") in events
            assert events[2] == BecameReady(LLM, 1)

    run(main())


def test_ready_is_nothing_where_the_file_asks_otherwise(run: Run, tmp_path: Path) -> None:
    """A worker whose port is probed may say READY as it likes."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = voices.open(LLM, 1)
            voices.listen(LLM, 1)
            say(path, "READY=1\nSTATUS=here")
            await until(lambda: bool(events))

            assert events == [ProgressTold(LLM, 1, "here")]

    run(main())


def test_what_is_said_before_its_start_is_known_waits(run: Run, tmp_path: Path) -> None:
    """A process may be faster than its shim's word of it."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = voices.open(LLM, 1)
            say(path, "READY=1")
            await asyncio.sleep(0)
            assert events == []
            voices.listen(LLM, 1)
            voices.watch(Probe(LLM, 1, None, 2.0, "notify"))
            await until(lambda: events == [BecameReady(LLM, 1)])

    run(main())


def test_the_last_word_of_one_that_ended_is_heard(run: Run, tmp_path: Path) -> None:
    """READY, then the end, in one turn of the loop."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            say(path, "READY=1\nSTATUS=done")

            assert voices.drain(LLM, 1) == [BecameReady(LLM, 1), ProgressTold(LLM, 1, "done")]
            assert voices.drain(LLM, 2) == []

    run(main())


def test_a_barrier_is_over_when_all_before_it_was_heard(run: Run, tmp_path: Path) -> None:
    """The descriptor that comes with it is closed, and none is kept of any other word."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            ours, its_own = os.pipe2(os.O_NONBLOCK)
            say(path, "READY=1")
            say(path, "BARRIER=1", (its_own,))
            os.close(its_own)
            await until(lambda: _is_closed(ours))

            assert events == [BecameReady(LLM, 1)]
            os.close(ours)

    run(main())


def _is_closed(descriptor: int) -> bool:
    try:
        return os.read(descriptor, 1) == b""
    except BlockingIOError:
        return False


def test_words_that_are_too_long_or_no_words_are_dropped(run: Run, tmp_path: Path) -> None:
    """Nor does a number that is none do anything."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            for word in (
                "STATUS=" + "x" * 5000,
                "READY",
                "READY=0",
                "EXTEND_TIMEOUT_USEC=-1",
                "\xff=\n=",
                "WATCHDOG=1",
            ):
                say(path, word)
            say(path, "STATUS=end")
            await until(lambda: bool(events))

            assert events == [ProgressTold(LLM, 1, "end")]

    run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs somebody else to be")
def test_a_stranger_is_not_heard(run: Run, tmp_path: Path) -> None:
    """Who has come by the socket of another user's worker is known by the kernel's word and dropped."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            speaker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            speaker.connect(path)
            os.setresuid(65534, 65534, 0)
            try:
                speaker.send(b"READY=1")
            finally:
                os.setresuid(0, 0, 0)
            voices.own(LLM, 4711)
            assert {os.stat(name).st_uid for name in (path, os.path.dirname(path))} == {4711}  # noqa: PTH116, PTH120
            say(path, "STATUS=end")
            await until(lambda: bool(events))

            assert events == [ProgressTold(LLM, 1, "end")]
            speaker.close()

    run(main())


def test_who_falls_silent_is_told_of_once(run: Run, tmp_path: Path) -> None:
    """Only from the first ready on; each sign of life gives it as much time again."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            voices.watch_alive(ProbeAlive(LLM, 1, None, alive(0.2, 2)))
            for _ in range(6):
                say(path, "WATCHDOG=1")
                await asyncio.sleep(0.1)
            assert events == []
            await until(lambda: bool(events))
            await asyncio.sleep(0.1)

            (lost,) = events
            assert lost == LivenessLost(LLM, 1, "no sign of life (WATCHDOG=1) within 0.4 s", is_watchdog=True)

    run(main())


def test_a_watchdog_is_as_patient_as_its_worker_has_asked(run: Run, tmp_path: Path) -> None:
    """Once, and before it is ready as most do, or in the same word."""

    async def main() -> None:
        for said in (("WATCHDOG_USEC=3600000000", "READY=1"), ("READY=1\nWATCHDOG_USEC=3600000000",)):
            events: list[Event] = []
            with notices(events, tmp_path) as voices:
                path = started(voices)
                for word in said:
                    say(path, word)
                await until(lambda: BecameReady(LLM, 1) in events)  # noqa: B023 - Of this turn.
                voices.watch_alive(ProbeAlive(LLM, 1, None, alive(0.05, 2)))
                await asyncio.sleep(0.3)
                assert events == [BecameReady(LLM, 1)]

                say(path, "WATCHDOG_USEC=100000")
                await until(lambda: len(events) == 2)  # noqa: B023
                assert events[1] == LivenessLost(LLM, 1, "no sign of life (WATCHDOG=1) within 0.1 s", is_watchdog=True)

    run(main())


def test_a_stall_of_ours_is_not_silence(run: Run, tmp_path: Path) -> None:
    """Time in which this process did not run is given back."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            started(voices)
            voices.watch_alive(ProbeAlive(LLM, 1, None, alive(0.1, 3)))
            _stall(0.9)
            await asyncio.sleep(0.05)
            assert events == []
            await until(lambda: bool(events))

    run(main())


def _stall(seconds: float) -> None:
    """Hold up the loop, as a debugger would."""
    time.sleep(seconds)


def test_one_that_says_it_hangs_or_stops_is_believed(run: Run, tmp_path: Path) -> None:
    """`WATCHDOG=trigger` ends it now; after STOPPING nobody waits for signs of life."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            voices.watch_alive(ProbeAlive(LLM, 1, None, alive(30)))
            say(path, "WATCHDOG=trigger")
            await until(lambda: bool(events))
            voices.watch_alive(ProbeAlive(LLM, 1, None, alive()))
            say(path, "STOPPING=1")
            await until(lambda: len(events) == 2)
            await asyncio.sleep(0.2)

            assert events == [
                LivenessLost(LLM, 1, "it says itself that it hangs", is_watchdog=True),
                BecameUnready(LLM, 1, "it says that it is stopping"),
            ]

    run(main())


def test_one_that_talks_without_end_delays_nobody(run: Run, tmp_path: Path) -> None:
    """So many words at a turn, then a rest; and of a progress bar not every step is passed on."""

    async def main() -> None:
        events: list[Event] = []
        with notices(events, tmp_path) as voices:
            path = started(voices)
            speaker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sent = 0
            for number in range(20 * TURN_MAX_WORDS):
                try:
                    speaker.sendto(f"STATUS={number}".encode(), path)
                except BlockingIOError:
                    await asyncio.sleep(0.01)
                    continue
                sent = number
            await until(lambda: bool(events) and events[-1] == ProgressTold(LLM, 1, str(sent)))

            assert len(events) < sent / 2
            speaker.close()

    run(main())


def test_what_a_killed_daemon_left_is_removed(run: Run, tmp_path: Path) -> None:
    """And nothing of one that lives: it holds a lock on its folder."""

    async def main() -> None:
        left = tmp_path / "gpu-supervisor-notify-1"
        (left / "7").mkdir(parents=True)
        with notices([], tmp_path) as voices:
            started(voices)
            assert not left.exists()
            other = Notices(asyncio.get_running_loop(), print, (tmp_path, tmp_path / "absent"))
            with pytest.raises(OSError, match="exists"):
                other.open(LLM, 2)
            assert len(os.listdir(tmp_path)) == 1  # noqa: PTH208

    run(main())
