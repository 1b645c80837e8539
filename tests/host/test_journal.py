from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
from pathlib import Path

import pytest

from supervisor.core.spec import Logs, WorkerId
from supervisor.host.journal import make_entry, make_fields
from supervisor.host.logs import Outputs
from supervisor.host.sink import Sink
from tests.host import looping
from tests.host.looping import Run, until
from tests.host.test_logfiles import Told

run = looping.run
no_leaks = looping.no_leaks

LLM = WorkerId("llm", 3)
JOURNAL = Logs(kind="journal")


class FakeJournal:
    """The receiving end of the native protocol, as systemd-journald reads it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self.entries: list[dict[str, str]] = []
        self.files = 0

    def read(self, count: int = 1 << 30) -> int:
        """Take in what is there; how many entries there are now."""
        while len(self.entries) < count:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
            except BlockingIOError:
                break
            for _, _, fds in ancillary:
                (fd,) = array.array("i", fds)
                assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
                data = os.pread(fd, os.fstat(fd).st_size, 0)
                os.close(fd)
                self.files += 1
            fields = (line.split("=", 1) for line in data.decode(errors="replace").removesuffix("\n").split("\n"))
            self.entries.append(dict(fields))
        return len(self.entries)

    def close(self) -> None:
        self._socket.close()


def open_sink(path: Path) -> Sink:
    with path.open("ab") as file:
        return Sink(file.fileno())


def test_lines_are_entries_with_the_workers_fields(run: Run, tmp_path: Path) -> None:
    """One for each line, with a level where the line begins with one; the partial one when the process has ended."""

    async def main() -> None:
        journal, sink = FakeJournal(tmp_path / "socket"), open_sink(tmp_path / "stderr")
        outputs = Outputs(asyncio.get_running_loop(), sink, journal=str(tmp_path / "socket"))
        fd = outputs.open(LLM, 41, JOURNAL)
        os.write(fd, b"one\r\n<3>bad = worse\nthe ")
        await until(lambda: journal.read() == 2)
        os.write(fd, b"end")
        os.close(fd)
        await until(lambda: journal.read() == 3)

        assert [(one["MESSAGE"], one["PRIORITY"]) for one in journal.entries] == [
            ("one", "6"),
            ("bad = worse", "3"),
            ("the end", "6"),
        ]
        assert {name: value for name, value in journal.entries[0].items() if name not in {"MESSAGE", "PRIORITY"}} == {
            "SYSLOG_IDENTIFIER": "llm/3",
            "WORKER": "llm/3",
            "SERVICE_NAME": "llm",
            "WORKER_INDEX": "3",
            "WORKER_INCARNATION": "41",
        }
        assert outputs.drain(LLM, 41) == ("one", "<3>bad = worse", "the end")
        outputs.close_all()
        sink.close()
        journal.close()

    run(main())
    assert (tmp_path / "stderr").read_bytes() == b""


def test_large_entry_goes_by_a_sealed_file(run: Run, tmp_path: Path) -> None:
    """A line that is too large for a datagram arrives in one piece."""

    async def main() -> None:
        journal, sink = FakeJournal(tmp_path / "socket"), open_sink(tmp_path / "stderr")
        outputs = Outputs(asyncio.get_running_loop(), sink, journal=str(tmp_path / "socket"))
        outputs._journal.is_there()
        assert outputs._journal._socket is not None
        outputs._journal._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        fd = outputs.open(LLM, 1, JOURNAL)
        os.write(fd, b"x" * 60_000 + b"\n")
        await until(lambda: journal.read() == 1)

        assert journal.files == 1
        assert journal.entries[0]["MESSAGE"] == "x" * 60_000
        os.close(fd)
        outputs.close_all()
        sink.close()
        journal.close()

    run(main())


def test_without_a_journal_output_is_inherited_with_one_warning(run: Run, tmp_path: Path) -> None:
    """However many workers there are."""
    told = Told()

    async def main() -> None:
        sink = open_sink(tmp_path / "stderr")
        outputs = Outputs(asyncio.get_running_loop(), sink, tell=told, journal=str(tmp_path / "absent"))
        for incarnation in (1, 2):
            fd = outputs.open(LLM, incarnation, JOURNAL)
            os.write(fd, b"hello\n")
            os.close(fd)
            outputs.close(LLM, incarnation)
        outputs.close_all()
        sink.close()

    run(main())
    assert (tmp_path / "stderr").read_bytes() == b"llm/3 | hello\n" * 2
    assert told.names == ["logs.no_journal"]


def test_journal_that_goes_away_and_comes_back_is_found_again(run: Run, tmp_path: Path) -> None:
    """What is said in between is in the daemon's own output."""
    path = tmp_path / "socket"

    async def main() -> None:
        told = Told()
        journal, sink = FakeJournal(path), open_sink(tmp_path / "stderr")
        outputs = Outputs(asyncio.get_running_loop(), sink, tell=told, journal=str(path))
        fd = outputs.open(LLM, 1, JOURNAL)
        os.write(fd, b"one\n")
        await until(lambda: journal.read() == 1)
        journal.close()
        path.unlink()
        os.write(fd, b"two\n")
        await until(lambda: (tmp_path / "stderr").read_bytes() == b"llm/3 | two\n")
        again = FakeJournal(path)
        os.write(fd, b"three\n")
        await until(lambda: again.read() == 1)

        assert again.entries[0]["MESSAGE"] == "three"
        assert told.names == ["logs.no_journal"]
        os.close(fd)
        outputs.close_all()
        sink.close()
        again.close()

    run(main())


@pytest.mark.slow
def test_slow_journal_holds_the_worker_up_and_a_stuck_one_loses_lines(run: Run, tmp_path: Path) -> None:
    """While it reads everything arrives; what one that reads nothing misses is counted and told."""

    async def main() -> None:
        told = Told()
        journal, sink = FakeJournal(tmp_path / "socket"), open_sink(tmp_path / "stderr")
        outputs = Outputs(asyncio.get_running_loop(), sink, tell=told, stall_s=0.05, journal=str(tmp_path / "socket"))
        fd = outputs.open(LLM, 1, JOURNAL)
        os.set_blocking(fd, False)
        line = b"x" * 999 + b"\n"
        written = 0

        def is_told() -> bool:
            nonlocal written
            try:
                for _ in range(16):
                    os.write(fd, line)
                    written += 1
            except BlockingIOError:
                pass
            return told.names == ["logs.dropping"]

        await until(is_told)
        os.close(fd)

        def missing() -> int:
            lost = sum(int(fields["lines"]) for event, fields in told.events if event == "logs.resumed")
            return written - journal.read() - lost

        await until(lambda: missing() == 0)
        assert told.names[0] == "logs.dropping"
        outputs.close_all()
        sink.close()
        journal.close()

    run(main())


def test_entry_has_the_form_of_the_protocol() -> None:
    """Newline-separated fields; the message as it came."""
    fields = make_fields("llm", 3, 41)

    assert make_entry(fields, b"a=b\xff").startswith(b"MESSAGE=a=b\xff\nPRIORITY=6\nSYSLOG_IDENTIFIER=llm/3\n")
    assert make_entry(fields, b"<9>no level").startswith(b"MESSAGE=<9>no level\nPRIORITY=6\n")
    assert make_entry(fields, b"<0>").startswith(b"MESSAGE=\nPRIORITY=0\n")
