"""
Owns the files of the flight recorder: ``flight/ring.0`` and ``ring.1``, which take turns, and copies of them.

A thread of its own writes them: a disk that hangs holds up nobody, and whoever writes nothing wakes nobody. What is in
them is not known here.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from supervisor.host.crashes import make_folder

SEGMENT_MAX = 4 * 1024 * 1024
"""Bytes of a file after which the other one is begun; what it begins with does not count."""

WAITING_MAX = 8 * 1024 * 1024
"""Bytes on their way to a disk that does not take them."""

DUMPS = 3
RING = ("ring.0", "ring.1")

Make = Callable[[], Iterable[bytes]]


class Ring:
    """
    Two files, of which the older one is begun anew when the newer one is full.

    Args:
        folder: It is made when there is something to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ordered = 0
        self._done = 0
        self._given = 0
        self._taken = 0
        self._in_segment = 0
        self._trouble: str | None = None
        self._fd: int | None = None
        self._begun: list[Path] = []

    @property
    def is_full(self) -> bool:
        """Whether another segment is due."""
        return self._in_segment >= SEGMENT_MAX

    @property
    def is_idle(self) -> bool:
        """Whether everything that was given has been dealt with."""
        return self._ordered == self._done

    @property
    def trouble(self) -> str | None:
        """Why nothing more is written until another segment is begun, in words; None while all is well."""
        if self._given - self._taken > WAITING_MAX:
            return "the disk does not take it"
        return self._trouble

    def begin(self, make: Make) -> None:
        """Begin another segment. *make* is called in the thread, and what it gives is written as it comes."""
        self._in_segment = 0
        self._trouble = None
        self._order(lambda: self._begin(make))

    def write(self, lines: bytes) -> None:
        """Add whole lines to the segment."""
        self._given += len(lines)
        self._in_segment += len(lines)
        self._order(lambda: self._write(lines))

    def dump(self, name: str) -> Path:
        """Copy what there is by now into a file of its own, of which the last few stay; where it will be."""
        path = self.folder / name
        self._order(lambda: self._dump(path))
        return path

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is on its way, but do not wait for ever."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join(timeout_s)

    def _order(self, order: Callable[[], None]) -> None:
        if self._thread is None:
            # As a daemon thread it does not hold up the end of the process when it is stuck.
            self._thread = threading.Thread(target=self._work, name="flight", daemon=True)
            self._thread.start()
        self._ordered += 1
        self._orders.put(order)

    # ---- in the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                order()
            except Exception as error:  # noqa: BLE001 - Whoever hears of it says so; the thread goes on.
                self._let_go()
                self._trouble = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._done += 1
        self._let_go()

    def _begin(self, make: Make) -> None:
        self._let_go()
        self._trouble = None  # That of a write on its way to the segment before does not count any more.
        make_folder(self.folder)
        # What an earlier life wrote last stays as long as it can.
        ring = [self.folder / name for name in RING]
        path = next((one for one in ring if self._begun and one != self._begun[-1]), min(ring, key=_age))
        with suppress(FileNotFoundError):
            path.unlink()  # Whoever reads it goes on reading what it was.
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._begun = [*self._begun[-1:], path]
        for lines in make():
            _write_all(self._fd, lines)

    def _write(self, lines: bytes) -> None:
        try:
            if self._fd is not None:
                _write_all(self._fd, lines)
        finally:
            self._taken += len(lines)

    def _dump(self, path: Path) -> None:
        half = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):
            half.unlink()
        fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as target:
                for one in self._begun:
                    with suppress(FileNotFoundError), one.open("rb") as source:
                        shutil.copyfileobj(source, target)
            half.replace(path)
        except OSError:
            with suppress(OSError):
                half.unlink()
            raise
        kept = sorted(self.folder.glob("broken-*"), key=_age)
        for old in kept[:-DUMPS]:
            old.unlink(missing_ok=True)

    def _let_go(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def _age(path: Path) -> tuple[int, str]:
    """Sorts files: first those that are not there, last those that were written last."""
    try:
        return path.stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name


def _write_all(fd: int, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[os.write(fd, rest) :]
