"""What a tree of processes has of the host's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from supervisor.host.usage import tree_bytes
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


def measured(count: int) -> int | None:
    """What so many children with 40 MiB each have, by the figure of their parent."""
    root = subprocess.Popen(
        [sys.executable, "-c", ROOT, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert root.stdout is not None
        assert root.stdout.readline() == "ready\n"
        return tree_bytes(root.pid)
    finally:
        root.communicate("")


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
