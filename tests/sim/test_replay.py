"""Lives of the simulator, recorded, and decided once more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.recordings import Record
from tests.sim.life import live

ROOT = Path(__file__).parents[2]
REPLAY = """
import sys
from supervisor.cli.replay import show
sys.exit(any([show(one, is_json=False) for one in sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 2_000_000])
def test_lives_of_the_simulator_come_out_the_same(tmp_path: Path, start: int) -> None:
    """In another process, in which sets have another order."""
    records = []
    for seed in range(start, start + 8):
        record = Record(every=100)
        live(seed, hear=record.hear)
        records.append(tmp_path / f"{seed}.jsonl")
        records[-1].write_bytes(b"".join(record.lines))

    env = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, *records], env=env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    assert done.stdout.count("all with the same actions") == len(records)
