from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.core.message import ReloadRequested
from tests.sim.life import Life, live
from tests.sim.rules_state import RULES as STATE_RULES
from tests.sim.trouble import TroubleError
from tests.sim.world import World

HERE = Path(__file__).parent
FRESH = range(1_000_000, 1_000_075)
CHUNK = 25


def kept_seeds() -> list[int]:
    """Those of `seeds.txt`, in its order."""
    lines = (HERE / "seeds.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def broken(lives: list[Life]) -> str:
    """What went wrong, with the way to see it again."""
    return "\n\n".join(
        f"seed {life.seed}: {life.story[-1500:]}\nreplay: python -m tests.sim --trace {life.seed}"
        for life in lives
        if life.rule
    )


def test_kept_seeds_break_no_rule() -> None:
    """Whatever a seed showed once is shown no more."""
    lives = [live(seed) for seed in kept_seeds()]

    assert broken(lives) == ""


def test_each_kept_seed_says_what_it_showed() -> None:
    """A number alone helps nobody."""
    lines = [line for line in (HERE / "seeds.txt").read_text().splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if len(line.split()) < 3] == []


@pytest.mark.slow
@pytest.mark.parametrize("start", range(FRESH.start, FRESH.stop, CHUNK))
def test_fresh_seeds_break_no_rule(start: int) -> None:
    """Lives that nobody has looked at: safety at every step, rest when all is well, and an end with nothing left."""
    lives = [live(seed) for seed in range(start, start + CHUNK)]

    assert broken(lives) == ""


def test_lives_are_not_idle() -> None:
    """The lives that are looked at are full of events, and many of them long."""
    lives = [live(seed) for seed in range(20)]

    assert sum(life.steps for life in lives) > 20 * 50
    assert sum(life.virtual_s for life in lives) > 20 * 60


def test_same_seed_same_trace() -> None:
    """A life can be lived again, step by step."""
    first, second = live(7), live(7)

    assert first == second
    assert live(8).digest != first.digest


@pytest.mark.slow
def test_same_seed_same_trace_in_another_process() -> None:
    """No order in the core hangs on the hashes of strings, which differ from process to process."""
    assert digests(hash_seed="1") == digests(hash_seed="2")


def digests(*, hash_seed: str) -> str:
    text = "from tests.sim.life import live; print([live(seed).digest for seed in range(12)])"
    done = subprocess.run(
        (sys.executable, "-c", text),
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_broken_rule_is_named() -> None:
    """A rule that is broken stops the life and says which one it was."""
    world = World(4)
    world.load_first()
    world.run(world.now + 5.0)
    assert world.checks.notes.spawns, "a life in which somebody has started by then"
    world.checks.notes.spawns.clear()

    world.post(ReloadRequested())
    with pytest.raises(TroubleError) as trouble:
        world.run(world.now + 1.0)

    assert trouble.value.rule == "restarts_are_counted"


def test_every_rule_says_what_it_is() -> None:
    """Rules are read when they break: each has a sentence."""
    assert [rule.__name__ for rule in STATE_RULES if not rule.__doc__] == []
