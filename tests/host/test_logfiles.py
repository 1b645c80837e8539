from __future__ import annotations

import asyncio
import os
import resource
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from supervisor.core.message import Redirect
from supervisor.core.spec import Logs, WorkerId
from supervisor.host.logfiles import QUEUE_LIMIT, LogFiles, open_log
from supervisor.host.logs import Outputs
from supervisor.host.sink import Sink
from tests.host import looping
from tests.host.looping import Run, until

run = looping.run
no_leaks = looping.no_leaks

LLM = WorkerId("llm", 0)
WEB = WorkerId("web", 1)


class Told:
    """What was told of lost lines."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        self.events.append((event, dict(fields)))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


def open_nowhere() -> Sink:
    fd = os.open(os.devnull, os.O_WRONLY)
    try:
        return Sink(fd)
    finally:
        os.close(fd)


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def logs_of(path: Path | str, **keys: int) -> Logs:
    return Logs(kind="file", file=str(path), **keys)


def test_bytes_of_a_worker_reach_its_file_as_they_are(run: Run, tmp_path: Path) -> None:
    """No name in front, nothing decoded; directories are made, and names stand for the worker's environment."""

    async def main() -> None:
        sink = open_nowhere()
        outputs = Outputs(asyncio.get_running_loop(), sink)
        logs = Logs(kind="file", file="logs/$(WORKER_INDEX)/out.log", base_dir=str(tmp_path))
        fd = outputs.open(LLM, 1, logs, {"WORKER_INDEX": "7"})
        os.write(fd, b"one\r\n\xff\x00two\nthe end")
        os.close(fd)
        path = tmp_path / "logs/7/out.log"
        await until(lambda: read(path) == b"one\r\n\xff\x00two\nthe end\n")

        assert outputs.drain(LLM, 1) == ("one", "\ufffd\x00two", "the end")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        outputs.close_all()
        sink.close()

    run(main())


def test_file_is_appended_to_over_restarts_and_nothing_is_lost(run: Run, tmp_path: Path) -> None:
    """What a process wrote before it died is in the file once the daemon has let go of it."""
    path = tmp_path / "out.log"
    path.write_text("before\n")

    async def main() -> None:
        sink = open_nowhere()
        outputs = Outputs(asyncio.get_running_loop(), sink)
        for incarnation in range(50):
            fd = outputs.open(LLM, incarnation, logs_of(path))
            os.write(fd, b"%d\n" % incarnation * 100)
            os.close(fd)
            outputs.close(LLM, incarnation)
        outputs.close_all()
        sink.close()

    run(main())
    assert path.read_bytes() == b"before\n" + b"".join(b"%d\n" % number * 100 for number in range(50))


def test_workers_that_share_a_file_write_whole_lines(run: Run, tmp_path: Path) -> None:
    """Half a line of one is not followed by a line of the other."""

    async def main() -> None:
        sink = open_nowhere()
        outputs = Outputs(asyncio.get_running_loop(), sink)
        path = tmp_path / "all.log"
        first, second = outputs.open(LLM, 1, logs_of(path)), outputs.open(WEB, 2, logs_of(path))
        os.write(first, b"half ")
        os.write(second, b"whole\n")
        await until(lambda: read(path) == b"whole\n")
        os.write(first, b"and half\n")
        await until(lambda: read(path) == b"whole\nhalf and half\n")

        os.close(first)
        outputs.close(LLM, 1)
        os.write(second, b"still there\n")
        await until(lambda: read(path).endswith(b"still there\n"))
        os.close(second)
        outputs.close_all()
        sink.close()

    run(main())


def write_all(tmp_path: Path, text: bytes, *, max_size: int, keep: int, told: Told | None = None) -> None:
    async def main() -> None:
        files = LogFiles(asyncio.get_running_loop(), told or Told())
        file = files.open(str(tmp_path / "out.log"), max_size=max_size, keep=keep)
        file.write(text)
        files.close(10)
        await asyncio.sleep(0)

    asyncio.run(main())


def test_file_is_rotated_at_line_ends(tmp_path: Path) -> None:
    """No file is larger than `max_size`; `keep` of them are left, newest first, and no line is torn."""
    lines = [b"line %04d\n" % number for number in range(1000)]

    write_all(tmp_path, b"".join(lines), max_size=105, keep=3)

    files = ["out.log", "out.log.1", "out.log.2", "out.log.3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    texts = [(tmp_path / name).read_bytes() for name in reversed(files)]
    assert all(len(text) <= 105 for text in texts)
    assert b"".join(texts) == b"".join(lines[-40:])


def test_nothing_is_kept_with_keep_0_and_nothing_rotated_with_max_size_0(tmp_path: Path) -> None:
    """The two ends of the scale."""
    write_all(tmp_path, b"0123456789\n" * 3, max_size=12, keep=0)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.log", b"0123456789\n")]

    write_all(tmp_path, b"0123456789\n" * 1000, max_size=0, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["out.log"]


def test_line_larger_than_a_file_has_one_for_itself(tmp_path: Path) -> None:
    """It is not torn for that."""
    write_all(tmp_path, b"a\n" + b"x" * 50 + b"\nb\n", max_size=10, keep=5)

    assert [read(tmp_path / name) for name in ("out.log.2", "out.log.1", "out.log")] == [
        b"a\n",
        b"x" * 50 + b"\n",
        b"b\n",
    ]


def test_reopening_follows_the_name_and_makes_directories_anew(run: Run, tmp_path: Path) -> None:
    """As logrotate wants it: the file was moved away, or its directory has vanished."""

    async def main() -> None:
        files = LogFiles(asyncio.get_running_loop(), Told())
        path = tmp_path / "logs" / "out.log"
        file = files.open(str(path), max_size=0, keep=0)
        file.write(b"one\n")
        await until(lambda: read(path) == b"one\n")
        path.rename(tmp_path / "moved")
        path.parent.rmdir()
        file.write(b"two\n")
        await until(lambda: read(tmp_path / "moved") == b"one\ntwo\n")

        files.reopen()
        file.write(b"three\n")

        await until(lambda: read(path) == b"three\n")
        files.close()

    run(main())


def test_vanished_directory_is_made_again_at_the_next_rotation(run: Run, tmp_path: Path) -> None:
    """And not one worker notices."""

    async def main() -> None:
        told = Told()
        files = LogFiles(asyncio.get_running_loop(), told)
        path = tmp_path / "logs" / "out.log"
        file = files.open(str(path), max_size=10, keep=1)
        file.write(b"12345678\n")
        await until(lambda: read(path) != b"")
        path.unlink()
        path.parent.rmdir()

        file.write(b"abcdefgh\n")

        await until(lambda: read(path) == b"abcdefgh\n")
        files.close()
        assert told.events == []

    run(main())


def test_link_is_not_followed(run: Run, tmp_path: Path) -> None:
    """Neither when the file is opened nor after it was replaced by one; what is said then is counted."""
    target = tmp_path / "target"
    target.write_text("secret")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        told = Told()
        files = LogFiles(asyncio.get_running_loop(), told)
        for name in ("link", "fifo"):
            file = files.open(str(tmp_path / name), max_size=0, keep=0)
            file.write(b"a\nb\n")
            files.release(file)
        await until(lambda: told.names.count("logs.lost") == 2)
        files.close()
        lost = [fields for event, fields in told.events if event == "logs.lost"]
        assert [(fields["lines"], fields["bytes"]) for fields in lost] == [(2, 4), (2, 4)]
        assert "it is a link, which is not followed" in [fields.get("reason") for _, fields in told.events]

    run(main())
    assert target.read_text() == "secret"


def test_full_disk_drops_lines_and_tells_how_many_when_it_works_again(run: Run, tmp_path: Path) -> None:
    """One line when it begins, one with the count at the end; a torn line is not continued by another one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "out.log"

    async def main() -> None:
        told = Told()
        files = LogFiles(asyncio.get_running_loop(), told)
        file = files.open(str(path), max_size=0, keep=0)
        file.write(b"0123456\n")
        await until(lambda: read(path) != b"")
        resource.setrlimit(resource.RLIMIT_FSIZE, (12, before[1]))
        try:
            for line in (b"abcdefgh\n", b"lost\n", b"lost too\n"):
                file.write(line)
            await until(lambda: file.queued == 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        file.write(b"again\n")

        await until(lambda: told.names == ["logs.dropping", "logs.resumed"])

        assert "File too large" in str(told.events[0][1]["reason"])
        assert (told.events[1][1]["lines"], told.events[1][1]["bytes"]) == (3, 19)
        assert path.read_bytes() == b"0123456\nabcd\nagain\n"
        files.close()

    run(main())


def test_file_that_cannot_be_opened_is_tried_again(run: Run, tmp_path: Path) -> None:
    """A directory in its place goes away, and the file is there: with what is said from then on."""
    path = tmp_path / "out.log"
    path.mkdir()

    async def main() -> None:
        told = Told()
        files = LogFiles(asyncio.get_running_loop(), told)
        file = files.open(str(path), max_size=0, keep=0)
        file.write(b"lost\n")
        await until(lambda: told.names == ["logs.dropping"] and file.queued == 0)
        path.rmdir()
        await until(lambda: told.names[1:] == ["logs.resumed"])
        file.write(b"there\n")
        await until(lambda: read(path) == b"there\n")
        files.close()
        assert told.events[1][1]["lines"] == 1

    run(main())


def test_disk_that_does_not_answer_holds_up_neither_worker_nor_loop(run: Run, tmp_path: Path) -> None:
    """What does not fit into the queue is dropped and counted; files of other directories go on."""
    os.mkfifo(tmp_path / "stuck")

    async def main() -> None:
        told = Told()
        files = LogFiles(asyncio.get_running_loop(), told)
        stuck = files.open(str(tmp_path / "a/out.log"), max_size=0, keep=0)
        # Opening a FIFO for reading waits for a writer: a disk that hangs.
        files._writer_of[stuck].put(("write", stuck, [_Hanging(tmp_path / "stuck")]))
        other = files.open(str(tmp_path / "b/out.log"), max_size=0, keep=0)

        for _ in range(3):
            stuck.write(b"x\n" * (QUEUE_LIMIT // 4))
        other.write(b"fine\n")

        await until(lambda: read(tmp_path / "b/out.log") == b"fine\n")
        assert stuck.queued <= QUEUE_LIMIT
        assert told.names == ["logs.dropping"]
        os.close(os.open(tmp_path / "stuck", os.O_WRONLY))
        await until(lambda: told.names == ["logs.dropping", "logs.resumed"])
        files.close()

    run(main())


class _Hanging(bytes):
    """Bytes that take as long to write as nobody opens the FIFO."""

    def __new__(cls, _path: Path) -> Self:
        return super().__new__(cls, b"z\n")

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path

    def __len__(self) -> int:
        path, self.path = self.path, None
        if path is not None:
            path.open("rb").close()
        return 2


def test_output_is_led_elsewhere_under_a_living_process(run: Run, tmp_path: Path) -> None:
    """From stderr to a file to another one; every line is in exactly one of them."""

    async def main() -> None:
        with (tmp_path / "stderr").open("wb") as stderr:
            sink = Sink(stderr.fileno())
        outputs = Outputs(asyncio.get_running_loop(), sink)
        fd = outputs.open(LLM, 1, env={"WORKER_INDEX": "0"})
        os.write(fd, b"one\n")
        await until(lambda: read(tmp_path / "stderr") == b"llm/0 | one\n")

        outputs.redirect(Redirect(LLM, 1, logs_of(tmp_path / "$(WORKER_INDEX).log")))
        os.write(fd, b"two\n")
        await until(lambda: read(tmp_path / "0.log") == b"two\n")
        outputs.redirect(Redirect(LLM, 1, logs_of(tmp_path / "other.log")))
        os.write(fd, b"three\n")
        await until(lambda: read(tmp_path / "other.log") == b"three\n")
        outputs.redirect(Redirect(LLM, 1, Logs()))
        os.write(fd, b"four\n")
        await until(lambda: read(tmp_path / "stderr") == b"llm/0 | one\nllm/0 | four\n")

        outputs.redirect(Redirect(WEB, 9, Logs()))
        assert outputs.drain(LLM, 1) == ("one", "two", "three", "four")
        os.close(fd)
        outputs.close_all()
        sink.close()

    run(main())


def test_log_is_made_with_the_rights_of_the_contract_whatever_the_umask(tmp_path: Path) -> None:
    """0640; one that is there keeps its own."""
    umask = os.umask(0o077)
    try:
        os.close(open_log(str(tmp_path / "a/b.log")))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a/b.log").stat().st_mode) == 0o640

    (tmp_path / "own.log").touch(mode=0o600)
    os.close(open_log(str(tmp_path / "own.log")))
    assert stat.S_IMODE((tmp_path / "own.log").stat().st_mode) == 0o600
