"""What a tree of processes has of the host's memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.host.usage import PAGE, TICK_S, TreeUse, read_trees, tree_bytes
from tests.e2e.harness import wait_for

MIB = 1024 * 1024

ROOT = """
import subprocess, sys, time
eater = "import time; have = bytearray(40 << 20); print('full', flush=True); time.sleep(1000)"
below = [subprocess.Popen([sys.executable, "-c", eater], stdout=subprocess.PIPE) for _ in range(int(sys.argv[1]))]
for one in below:
    one.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
for one in below:
    one.kill()
"""


@contextmanager
def a_tree(count: int) -> Iterator[int]:
    """So many children with 40 MiB each; the pid of their parent."""
    root = subprocess.Popen(
        [sys.executable, "-c", ROOT, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert root.stdout is not None
        assert root.stdout.readline() == "ready\n"
        yield root.pid
    finally:
        root.communicate("")


def measured(count: int) -> int | None:
    """What all of a tree have, by the figure of its root."""
    with a_tree(count) as root:
        return tree_bytes(root)


def test_a_single_process_below_the_root_is_counted() -> None:
    """And the root is not."""
    found = measured(1)

    assert found is not None
    assert 40 * MIB < found < 80 * MIB


def test_all_of_a_tree_are_counted() -> None:
    """Each page once."""
    found = measured(3)

    assert found is not None
    assert 120 * MIB < found < 200 * MIB


def test_nobody_has_nothing(tmp_path: Path) -> None:
    """Nor has a machine that tells nothing."""
    assert measured(0) is None
    assert tree_bytes(wait_for(lambda: 1, "a pid"), tmp_path) is None


async def test_trees_are_read_together_without_their_roots() -> None:
    """And without those that are gone."""
    with a_tree(3) as three, a_tree(1) as one:
        found = await read_trees([three, one])
        alone = await read_trees([2**22 + 1])

    assert set(found) == {three, one}
    assert 120 * MIB < (found[three].memory_bytes or 0) < 400 * MIB
    assert 40 * MIB < (found[one].memory_bytes or 0) < 80 * MIB
    assert found[three].cpu_s > 0
    assert alone == {}


async def test_what_has_ended_counts_with_who_waited_for_it(tmp_path: Path) -> None:
    """Names may hold anything; who is gone between two looks, or is no process, is nobody."""
    stat = "{pid} (a) b {pid}) S {parent} 0 0 0 0 0 0 0 0 0 {u} {s} {cu} {cs} 0 0 1 0 0 0 {pages}"
    rows = (
        {"pid": 10, "parent": 1, "u": 1000, "s": 1000, "cu": 20, "cs": 30, "pages": 99},
        {"pid": 11, "parent": 10, "u": 1, "s": 2, "cu": 3, "cs": 4, "pages": 5},
        {"pid": 12, "parent": 11, "u": 10, "s": 0, "cu": 0, "cs": 0, "pages": 7},
        {"pid": 20, "parent": 1, "u": 500, "s": 0, "cu": 8, "cs": 0, "pages": 3},
    )
    for row in rows:
        (tmp_path / str(row["pid"])).mkdir()
        (tmp_path / str(row["pid"]) / "stat").write_text(stat.format(**row) + "\n")
    (tmp_path / "13").mkdir()
    (tmp_path / "uptime").write_text("1")

    found = await read_trees([10, 20, 13], tmp_path)

    assert found == {10: TreeUse(70 * TICK_S, 12 * PAGE), 20: TreeUse(8 * TICK_S, None)}
