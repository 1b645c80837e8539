"""Files that others read while they are written."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from supervisor.host.endpoint_files import write_file


def test_a_file_is_replaced_whole_and_anybody_may_read_it(tmp_path: Path) -> None:
    """Whatever the umask; nothing else is left in the folder, and one that is the same is not touched."""
    path = tmp_path / "a.conf"
    before = os.umask(0o077)
    try:
        assert write_file(str(path), "one")
        first = path.stat()
        assert not write_file(str(path), "one")
        assert path.stat().st_mtime_ns == first.st_mtime_ns
        assert write_file(str(path), "two")
    finally:
        os.umask(before)

    assert path.read_text() == "two"
    assert path.stat().st_ino != first.st_ino
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Nor none, between two."""
    path = tmp_path / "a.json"
    texts = ["a" * 100_000, "b" * 200_000]
    write_file(str(path), texts[0])
    done = threading.Event()

    def write() -> None:
        for at in range(100):
            write_file(str(path), texts[at % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    writer.join()

    assert seen <= set(texts)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """A directory in its place, no folder, or a link that somebody has laid where the new one begins."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "victim").write_text("precious")
    (tmp_path / f"a.{os.getpid()}.new").symlink_to(tmp_path / "victim")
    for name in ("folder", "none/a", "a"):
        with pytest.raises(OSError, match=" "):
            write_file(str(tmp_path / name), "text")

    assert (tmp_path / "victim").read_text() == "precious"
    assert {one.name for one in tmp_path.iterdir()} <= {"folder", "victim", f"a.{os.getpid()}.new"}
