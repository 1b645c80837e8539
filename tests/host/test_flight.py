"""Files of the flight recorder: two that take turns, bounded, ours, and in nobody's way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from supervisor.host import flight
from supervisor.host.flight import DUMPS, RING, SEGMENT_MAX, Ring


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    ring = Ring(tmp_path / "flight")
    yield ring
    ring.close()


def begin(ring: Ring, *lines: bytes) -> None:
    ring.begin(lambda: lines)


def files_of(ring: Ring) -> dict[str, bytes]:
    """What is there once everything is written."""
    ring.close(20.0)
    return {one.name: one.read_bytes() for one in ring.folder.iterdir()}


def test_nobody_else_may_read_them(ring: Ring) -> None:
    begin(ring, b"fleet\n")

    assert files_of(ring) == {"ring.0": b"fleet\n"}
    assert stat.S_IMODE(ring.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((ring.folder / "ring.0").stat().st_mode) == 0o600


def test_the_two_take_turns(ring: Ring) -> None:
    """The one before stays, so that there is always as much as one of them."""
    for number in range(5):
        begin(ring, b"fleet %d\n" % number)
        ring.write(b"turn %d\n" % number)

    assert files_of(ring) == {"ring.0": b"fleet 4\nturn 4\n", "ring.1": b"fleet 3\nturn 3\n"}


def test_a_segment_is_full_by_what_is_added_to_it(ring: Ring) -> None:
    """What it begins with does not count: a large fleet would begin one after another."""
    begin(ring, b"x" * SEGMENT_MAX)
    ring.write(b"y" * (SEGMENT_MAX - 1))
    before = ring.is_full
    ring.write(b"\n")
    after = ring.is_full
    begin(ring)

    assert (before, after, ring.is_full) == (False, True, False)


def test_what_an_earlier_life_wrote_last_stays_as_long_as_it_can(tmp_path: Path) -> None:
    for life in range(3):
        ring = Ring(tmp_path / "flight")
        begin(ring, b"life %d\n" % life)
        files = files_of(ring)

    assert sorted(files.values()) == [b"life 1\n", b"life 2\n"]


def test_a_copy_has_what_this_life_has_written(ring: Ring, tmp_path: Path) -> None:
    """In order. What an earlier life left may be of another version."""
    old = Ring(ring.folder)
    begin(old, b"old\n")
    files_of(old)
    begin(ring, b"one\n")
    begin(ring, b"two\n")
    ring.write(b"turn\n")

    path = ring.dump("broken-1.jsonl")
    ring.write(b"later\n")

    assert files_of(ring)[path.name] == b"one\ntwo\nturn\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_the_last_copies_stay(ring: Ring) -> None:
    begin(ring)
    for number in range(DUMPS + 3):
        ring.dump(f"broken-{number}.jsonl")

    assert set(files_of(ring)) == {"ring.0", *(f"broken-{number}.jsonl" for number in range(3, DUMPS + 3))}


def test_a_link_is_replaced_and_not_followed(ring: Ring, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    ring.folder.mkdir(mode=0o700)
    for name in RING:
        (ring.folder / name).symlink_to(victim)

    begin(ring, b"fleet\n")

    assert b"fleet\n" in files_of(ring).values()
    assert victim.read_text() == "mine"


def test_a_disk_that_takes_nothing_is_told_and_outlived(ring: Ring) -> None:
    """Nothing is written until another segment is begun."""
    ring.folder.write_text("in the way")
    begin(ring, b"fleet\n")
    ring.write(b"turn\n")
    ring.close(20.0)
    assert ring.trouble == "File exists"
    assert ring.is_idle

    ring.folder.unlink()
    again = Ring(ring.folder)
    begin(again, b"fleet\n")

    assert files_of(again) == {"ring.0": b"fleet\n"}
    assert again.trouble is None


def test_a_bug_of_whoever_writes_ends_no_thread(ring: Ring) -> None:
    """Another segment may be better."""

    def fail() -> Iterable[bytes]:
        raise TypeError("no coder for this")

    ring.begin(fail)
    ring.write(b"turn\n")
    begin(ring, b"fleet\n")

    assert b"fleet\n" in files_of(ring).values()


def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    """So much is held for it, and no more; the end does not wait for it either."""
    read_end, write_end = os.pipe()

    def hang() -> Iterable[bytes]:
        os.read(read_end, 1)
        return ()

    ring = Ring(tmp_path / "flight")
    ring.begin(hang)
    ring.write(b"x" * flight.WAITING_MAX)
    before = ring.trouble
    ring.write(b"x")
    after, is_idle = ring.trouble, ring.is_idle
    ring.close(0.0)
    os.write(write_end, b"x")
    ring.close(20.0)

    assert (before, after, is_idle) == (None, "the disk does not take it", False)
    assert ring.trouble is None
    os.close(read_end)
    os.close(write_end)


def test_nothing_is_made_before_there_is_something(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "flight")

    ring.close()

    assert not ring.folder.exists()
