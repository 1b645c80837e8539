"""What a process is going to do in its life. Drawn when it is started, so that nothing is decided while it runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

PERMANENT = (1, 2, 7, 8, 13, 20, 21, 22, 36, 40)
REFUSED = (0, 11, 12, 23, 24)
NEVER_S = 1e6
"""Memory that only a reset would bring back."""

OTHER = (5, 16, 28)
"""EIO, EBUSY, ENOSPC: failures like any other."""


@dataclass(frozen=True, slots=True)
class Child:
    """
    A process that the main process started.

    Args:
        outlives_s: How long it lives on when the main process has ended; None = until it is killed.
        term_s: How long it takes to end when asked; None = it does not listen.
        kill_s: How long SIGKILL takes.
        is_in_group: It is of the main process' group.
    """

    outlives_s: float | None = None
    term_s: float | None = None
    kill_s: float = 0.001
    is_in_group: bool = True


@dataclass(frozen=True, slots=True)
class Nature:
    """
    What a process does.

    Args:
        spawn_s: How long the call that starts it takes.
        errno: With which it fails, None when it does not.
        life_s: After which it ends by itself; None = never.
        code: Exit status of that end; None when a signal does it.
        term_s: How long it takes to end when asked; None = it does not listen.
        term_code: Exit status then; None = it dies of the signal.
        kill_s: How long SIGKILL takes.
        ready_s: After which its port takes connections; None = never.
        flaps_s: Seconds from one loss or return of readiness to the next.
        hangs_s: After which it does not answer any more, None = it always does.
        extends_s: For how much more time it asks while it starts, one after the other.
        children: What it starts.
        memory: Part of the declared memory that it allocates, 0..1.
        memory_s: When.
        release_s: How long the driver keeps its memory after its tree is gone.
        is_patient: Whether its shim answers orders while it hangs in the spawn.
        starves: The kernel kills it, or something that it started, for want of the host's memory.
        stop_s: How long its stop command takes; None = it hangs.
        stop_fault: What that says in the end.
        stop_ends_s: How long after its beginning the command makes the process end; None = it does not.
    """

    spawn_s: float = 0.002
    errno: int | None = None
    life_s: float | None = None
    code: int | None = 1
    term_s: float | None = 0.05
    term_code: int | None = None
    kill_s: float = 0.001
    ready_s: float | None = 0.3
    flaps_s: tuple[float, ...] = ()
    hangs_s: float | None = None
    extends_s: tuple[float, ...] = ()
    children: tuple[Child, ...] = ()
    memory: float = 1.0
    memory_s: float = 0.5
    release_s: float = 0.1
    is_patient: bool = False
    starves: bool = False
    stop_s: float | None = 0.1
    stop_fault: str = ""
    stop_ends_s: float | None = None


GOOD = Nature()
"""Starts, gets ready, works, and ends when asked."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely each trouble is for a process of one seed, 0..1. Most seeds have some kinds and not others."""

    spawn_fails: float
    spawn_slow: float
    dies: float
    dies_late: float
    never_ready: float
    slow_ready: float
    flaps: float
    hangs: float
    ignores_term: float
    slow_term: float
    kill_hangs: float
    children: float
    memory_late: float
    starves: float
    stop_fails: float


def draw_odds(rng: random.Random) -> Odds:
    """Which troubles this seed has, and how much of each."""

    def some(most: float) -> float:
        return rng.random() * most if rng.random() < 0.5 else 0.0

    return Odds(
        spawn_fails=some(0.4),
        spawn_slow=some(0.4),
        dies=some(0.8),
        dies_late=some(0.5),
        never_ready=some(0.5),
        slow_ready=some(0.5),
        flaps=some(0.4),
        hangs=some(0.5),
        ignores_term=some(0.6),
        slow_term=some(0.5),
        kill_hangs=some(0.4),
        children=some(0.8),
        memory_late=some(0.5),
        starves=some(0.5),
        stop_fails=some(0.7),
    )


def draw_nature(rng: random.Random, odds: Odds) -> Nature:
    """What one process is going to do."""

    def happens(chance: float) -> bool:
        return rng.random() < chance

    code: int | None = rng.choice((0, 0, 1, 1, 2, 78, 255, None))
    life = None
    if happens(odds.dies):
        life = rng.choice((0.0, 0.01, 0.2, rng.uniform(0.0, 8.0)))
    elif happens(odds.dies_late):
        life = rng.uniform(8.0, 300.0)
    return Nature(
        spawn_s=rng.uniform(1.0, 40.0) if happens(odds.spawn_slow) else rng.uniform(0.0005, 0.01),
        errno=rng.choice(rng.choice((PERMANENT, REFUSED, REFUSED, OTHER))) if happens(odds.spawn_fails) else None,
        life_s=life,
        code=code,
        term_s=_term_s(rng, odds),
        term_code=rng.choice((0, 0, 143, 1, None, None)),
        kill_s=_kill_s(rng, odds),
        ready_s=None if happens(odds.never_ready) else rng.uniform(5, 45) if happens(odds.slow_ready) else rng.random(),
        flaps_s=tuple(rng.uniform(0.5, 90.0) for _ in range(rng.randint(1, 6))) if happens(odds.flaps) else (),
        extends_s=tuple(rng.choice((1.0, 10.0, 60.0, 9000.0)) for _ in range(rng.randint(1, 4) if happens(0.2) else 0)),
        hangs_s=rng.uniform(0.0, 60.0) if happens(odds.hangs) else None,
        children=tuple(_draw_child(rng, odds) for _ in range(rng.randint(1, 3))) if happens(odds.children) else (),
        memory=rng.choice((1.0, 1.0, 0.5, 0.0)),
        memory_s=rng.uniform(0.0, 5.0),
        release_s=_release_s(rng, odds),
        is_patient=happens(0.5),
        starves=happens(odds.starves),
        **_draw_stop(rng, odds),
    )


def _draw_stop(rng: random.Random, odds: Odds) -> dict[str, Any]:
    """What its stop command does: hang, fail, end the process, or nothing that anybody sees."""
    hangs = rng.random() < odds.stop_fails
    return {
        "stop_s": None if hangs else rng.choice((0.0, rng.uniform(0.0, 1.0), rng.uniform(0.0, 20.0))),
        "stop_fault": "exited with 1" if rng.random() < odds.stop_fails else "",
        "stop_ends_s": rng.uniform(0.0, 8.0) if rng.random() < 0.4 else None,
    }


def _release_s(rng: random.Random, odds: Odds) -> float:
    if rng.random() >= odds.memory_late:
        return rng.uniform(0.0, 0.4)
    return rng.choice((rng.uniform(1.0, 100.0), rng.uniform(1.0, 9.0), NEVER_S))


def _term_s(rng: random.Random, odds: Odds) -> float | None:
    if rng.random() < odds.ignores_term:
        return None
    return rng.uniform(1.0, 30.0) if rng.random() < odds.slow_term else rng.uniform(0.0, 0.3)


def _kill_s(rng: random.Random, odds: Odds) -> float:
    return rng.choice((0.3, rng.uniform(5.0, 120.0))) if rng.random() < odds.kill_hangs else 0.001


def _draw_child(rng: random.Random, odds: Odds) -> Child:
    outlives = rng.choice((0.0, 0.0, rng.uniform(0.0, 20.0), None))
    in_group = rng.random() < 0.5
    return Child(outlives_s=outlives, term_s=_term_s(rng, odds), kill_s=_kill_s(rng, odds), is_in_group=in_group)
