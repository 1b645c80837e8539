"""
Owns the log files of workers: opens them without following links, rotates them, opens them anew.

Every call that touches a file system is made by a thread of the file's directory, so that a disk that does not answer
holds up neither the loop nor the files elsewhere. Must not let an error of a disk reach a worker: what cannot be
written is dropped, counted and told.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from supervisor.host.clock import Clock

QUEUE_LIMIT = 1 << 20
"""Bytes of one file that wait for its disk. Beyond it blocks are lost, and counted."""

BATCH_SIZE = 256 * 1024
BATCH_S = 0.005
"""Gathered before a thread is woken: two threads that take turns for each 64 KiB halve the throughput."""

IOV_MAX = 1024
"""Blocks in one call; sysconf(_SC_IOV_MAX) of Linux, where it is a constant."""

WRITERS_MAX = 16
"""Threads at the most; directories beyond it share them."""

RETRY_S = 1.0
"""A file that cannot be opened is tried again this often; and trouble has to be over for so long to be told as over."""

MODE = 0o640
DIRECTORY_MODE = 0o750

Tell = Callable[[str, Mapping[str, object]], None]
"""Takes the name of a log event and its values; called in the loop."""


class LogFile:
    """
    One file that one or more workers write into; as an outlet of `Outputs`, in the loop's thread.

    Args:
        path: Absolute.
        home: Who has it.
    """

    def __init__(self, path: str, home: LogFiles) -> None:
        self.path = path
        self.users = 0
        self.moved = 0
        """Bytes that the disk has taken or refused; written by the thread alone."""
        self.wants_relief = False
        self.on_relief: Callable[[], None] = _nothing
        self._sent = 0
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._home = home
        self._lost_lines = 0
        self._lost_bytes = 0

    @property
    def queued(self) -> int:
        """Bytes that wait for the disk."""
        return self._sent - self.moved

    @property
    def is_congested(self) -> bool:
        """More than half of what may wait does: who can wait should not add to it, and is told when it is over."""
        if self.queued <= QUEUE_LIMIT // 2:
            return False
        self.wants_relief = True
        # The thread may have been done before it could see that.
        return self.queued > QUEUE_LIMIT // 2

    def write(self, text: bytes) -> None:
        """Send bytes on their way and return at once."""
        if not text:
            return
        if self.queued + len(text) > QUEUE_LIMIT:
            if not self._lost_lines:
                self._home.tell("logs.dropping", {"file": self.path, "reason": "the disk does not keep up"})
            self._lost_lines += max(1, text.count(b"\n"))
            self._lost_bytes += len(text)
            self.wants_relief = True
            return
        self._sent += len(text)
        self._pending.append(text)
        self._pending_size += len(text)
        if self._pending_size >= BATCH_SIZE:
            self.flush()
        elif self._timer is None:
            self._timer = self._home.loop.call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Hand what has been gathered to the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            self._home.send(self, self._pending)
            self._pending = []
            self._pending_size = 0

    def relieve(self) -> None:
        """The disk has caught up."""
        if self._lost_lines:
            fields = {"file": self.path, "lines": self._lost_lines, "bytes": self._lost_bytes}
            self._lost_lines = self._lost_bytes = 0
            self._home.tell("logs.resumed", fields)
        self.on_relief()


class LogFiles:
    """
    Every log file by its path, and the threads that write them.

    Args:
        loop: Where `Tell` and reliefs are called.
        tell: Says that lines are dropped, and how many were when it works again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Tell) -> None:
        self.tell = tell
        self.loop = loop
        self._files: dict[str, LogFile] = {}
        self._writers: dict[str, _Writer] = {}
        self._writer_of: dict[LogFile, _Writer] = {}

    def open(self, path: str, *, max_size: int, keep: int) -> LogFile:
        """
        A file to write into, the same one for everybody who asks for its path. Errors are told, not raised.

        Args:
            path: Absolute.
            max_size: Bytes at which it is rotated, 0 = never. The newest word on it counts.
            keep: Rotated files beside it.
        """
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = LogFile(path, self)
            self._writer_of[file] = self._writer_for(path)
        file.users += 1
        self._writer_of[file].put(("open", file, (max_size, keep)))
        return file

    def release(self, file: LogFile) -> None:
        """One who writes into it less; after the last one it is closed, everything written."""
        file.users -= 1
        if not file.users:
            file.flush()
            del self._files[file.path]
            self._writer_of.pop(file).put(("close", file, None))

    def send(self, file: LogFile, blocks: list[bytes]) -> None:
        """For `LogFile`: blocks for the thread."""
        self._writer_of[file].put(("write", file, blocks))

    def reopen(self) -> None:
        """Somebody has moved the files away: make them anew, their directories too."""
        for file, writer in self._writer_of.items():
            file.flush()
            writer.put(("reopen", file, None))

    def close(self, timeout_s: float = 2.0) -> None:
        """Wait at most so long (blocking: for the end of the daemon) until everything is written."""
        clock = Clock()
        deadline = clock.monotonic() + timeout_s
        for file in tuple(self._files.values()):
            file.users = 1
            self.release(file)
        for writer in self._writers.values():
            writer.put(None)
        for writer in self._writers.values():
            writer.thread.join(max(0.0, deadline - clock.monotonic()))
        self._writers.clear()

    def _writer_for(self, path: str) -> _Writer:
        # By directory: what is on which disk cannot be asked without waiting for that disk.
        folder = path.rpartition("/")[0]
        if folder not in self._writers and len(self._writers) >= WRITERS_MAX:
            folder = sorted(self._writers)[zlib.crc32(os.fsencode(folder)) % WRITERS_MAX]
        if folder not in self._writers:
            self._writers[folder] = _Writer(self.loop, self.tell)
        return self._writers[folder]


Job = tuple[str, LogFile, object] | None


class _Writer:
    """One thread, and what it knows of its files."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Tell) -> None:
        self._loop = loop
        self._tell = tell
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self.put = self._jobs.put
        self._disks: dict[LogFile, _Disk] = {}
        # As a daemon thread it does not hold up the end of the process when it is stuck.
        self.thread = threading.Thread(target=self._run, name="log-files", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=RETRY_S if any(one.lost for one in self._disks.values()) else None)
            except Empty:
                for disk in self._disks.values():
                    disk.look()
                continue
            if job is None:
                break
            self._do(*job)
        for disk in self._disks.values():
            disk.close()

    def _do(self, what: str, file: LogFile, value: object) -> None:
        if what == "open":
            disk = self._disks.setdefault(file, _Disk(file.path, self._say))
            disk.max_size, disk.keep = value  # type: ignore[misc]  # What goes with "open".
            disk.look()
            return
        disk = self._disks[file]
        match value:
            case list():
                disk.write(value)
                file.moved += sum(map(len, value))
                if file.wants_relief and file.queued <= QUEUE_LIMIT // 4:
                    file.wants_relief = False
                    self._call(file.relieve)
            case _ if what == "reopen":
                disk.reopen()
            case _:
                disk.close()
                del self._disks[file]

    def _say(self, event: str, fields: Mapping[str, object]) -> None:
        self._call(self._tell, event, fields)

    def _call(self, call: Callable[..., None], *values: object) -> None:
        # The loop may have been closed while a disk did not answer.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *values)


class _Disk:
    """
    A file as its thread sees it: open or not, how large, and what was lost.

    Args:
        path: Absolute.
        say: Takes log events; called in the thread.
    """

    def __init__(self, path: str, say: Tell) -> None:
        self.max_size = 0
        self.keep = 0
        self.lost = False
        """Something was lost, and it has not been told that it works again."""
        self._path = path
        self._say = say
        self._clock = Clock()
        self._fd: int | None = None
        self._size = 0
        self._is_torn = False  # The last line in the file is not complete.
        self._lost_lines = 0
        self._lost_bytes = 0
        self._failed_at = 0.0
        self._tried_at = float("-inf")

    def write(self, blocks: list[bytes]) -> None:
        """Write whole lines, and rotate where the next one does not fit."""
        start = self._write_at_once(blocks)
        if start < sum(map(len, blocks)):
            self._write_with_care(b"".join(blocks), start)

    def _write_at_once(self, blocks: list[bytes]) -> int:
        """All of it, where there is nothing to mind: no copy is made then. Returns how much the disk took."""
        size = sum(map(len, blocks))
        is_too_much = len(blocks) > IOV_MAX or (self.max_size and self._size + size > self.max_size)
        if self._fd is None or self.lost or is_too_much or not size:
            return 0
        try:
            taken = os.writev(self._fd, blocks)
        except OSError:
            return 0  # It is tried again with care, which tells.
        self._size += taken
        last = blocks[-1] if taken == size else b"".join(blocks)[:taken]
        self._is_torn = last[-1:] != b"\n"
        return taken

    def _write_with_care(self, text: bytes, start: int) -> None:
        """Line by line where they do not all fit, and count what is lost."""
        while start < len(text):
            if self._fd is None and not self._open():
                break
            end = self._end_of_fitting(text, start)
            if end == start:
                self.rotate()
                continue
            start += self._append(text, start, end)
            if start < end:
                break
        if start < len(text):
            self._lost_lines += max(1, text.count(b"\n", start))
            self._lost_bytes += len(text) - start
        elif self.lost:
            self.look()

    def look(self) -> None:
        """Open the file if it is not, and tell when what was wrong has been over for a while."""
        if self._fd is None and not self._open():
            return
        if self.lost and self._clock.monotonic() - self._failed_at >= RETRY_S:
            self._say("logs.resumed", {"file": self._path, "lines": self._lost_lines, "bytes": self._lost_bytes})
            self.lost = False
            self._lost_lines = self._lost_bytes = 0

    def rotate(self) -> None:
        """The file becomes .1, .1 becomes .2, and so on; what would be beyond `keep` goes."""
        self._let_go()
        for number in range(self.keep, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            with suppress(FileNotFoundError):
                self._attempt(os.replace, newer, older)
        if not self.keep:
            with suppress(FileNotFoundError):
                self._attempt(os.unlink, self._path)
        self._open(is_rotated=True)

    def reopen(self) -> None:
        """Go on in what has the name now. Where that cannot be opened the old one is better than nothing."""
        try:
            fd = open_log(self._path)
        except OSError as error:
            self._say("logs.not_reopened", {"file": self._path, "reason": _words(error)})
            return
        self._let_go()
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._is_torn = False

    def close(self) -> None:
        """Say what was lost, and let go."""
        if self.lost and self._lost_lines:
            self._say("logs.lost", {"file": self._path, "lines": self._lost_lines, "bytes": self._lost_bytes})
        self._let_go()

    def _end_of_fitting(self, text: bytes, start: int) -> int:
        """How far the lines from *start* fit into the file; a line larger than a file has one for itself."""
        room = self.max_size - self._size
        if not self.max_size or len(text) - start <= room:
            return len(text)
        fitting = text.rfind(b"\n", start, start + max(0, room)) + 1
        if fitting > start or self._size:
            return max(fitting, start)
        return text.find(b"\n", start) + 1 or len(text)

    def _append(self, text: bytes, start: int, end: int) -> int:
        """Write; returns how much of it the disk took."""
        assert self._fd is not None
        taken = 0
        try:
            if self._is_torn and self.lost:
                self._size += os.write(self._fd, b"\n")
                self._is_torn = False
            view = memoryview(text)[start:end]
            while taken < len(view):
                taken += os.write(self._fd, view[taken:])
        except OSError as error:
            self._fail(error)
        if taken:
            self._size += taken
            self._is_torn = text[start + taken - 1] != 0x0A
        return taken

    def _open(self, *, is_rotated: bool = False) -> bool:
        now = self._clock.monotonic()
        if not is_rotated and self._fd is None and now - self._tried_at < RETRY_S and self.lost:
            return False
        self._tried_at = now
        try:
            self._fd = open_log(self._path)
        except OSError as error:
            self._fail(error)
            return False
        # A rotation that did not come about is tried again when as much has been written once more.
        self._size = 0 if is_rotated else os.fstat(self._fd).st_size
        self._is_torn = False
        return True

    def _attempt(self, call: Callable[[str, str], None] | Callable[[str], None], *paths: str) -> None:
        try:
            call(*paths)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._say("logs.not_rotated", {"file": self._path, "reason": _words(error)})

    def _fail(self, error: OSError) -> None:
        self._failed_at = self._clock.monotonic()
        if not self.lost:
            self.lost = True
            self._say("logs.dropping", {"file": self._path, "reason": _words(error)})

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def open_log(path: str) -> int:
    """
    Open a log file for appending, and make it and its directories where they are not there.

    Raises:
        OSError: It cannot be opened, is a link, or is no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, MODE)
        except FileExistsError:  # By somebody else, just now.
            fd = os.open(path, flags)
        else:
            # Whatever the daemon's umask is.
            os.fchmod(fd, MODE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "it is no regular file")
    return fd


def _words(error: OSError) -> str:
    if error.errno == 40:  # ELOOP is what O_NOFOLLOW says of a link.
        return "it is a link, which is not followed"
    return error.strerror or str(error)


def _nothing() -> None:
    pass
