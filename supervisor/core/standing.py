"""
How the fleet stands, for a service manager above it: whether its start is over, and one line in words.

Pure, and a scan of all workers: for who asks now and then, not at every event.
"""

from __future__ import annotations

from collections import Counter

from supervisor.core.inventory import GpuState
from supervisor.core.message import State
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import Worker

WORDS_MAX = 400
"""Of one line: more is for `status`."""

REASON_MAX = 160

_SEVERITY = (
    State.FAILED,
    State.KILLING,
    State.BACKOFF,
    State.UNREADY,
    State.PENDING,
    State.RELEASING,
    State.STOPPING,
    State.STARTING,
    State.STOPPED,
    State.EXITED,
)
"""Which worker that is not ready a person should hear of first."""

_TROUBLE = frozenset({State.FAILED, State.KILLING, State.BACKOFF, State.UNREADY, State.PENDING})
"""States whose reason is worth a word; the others pass by themselves or were asked for."""

_HARMLESS = frozenset({GpuState.OK, GpuState.ABSENT, None})


def is_up(fleet: Fleet) -> bool:
    """
    Whether the daemon's own start is over; see ARCHITECTURE, "The unit".

    Then every worker has been spawned once or stands in a state with a reason. None needs to be ready: a model
    takes minutes to load, and whoever waits for that asks `status --wait ready`.
    """
    return fleet.spec is not None and not is_under_way(fleet) and not any(map(_is_next, fleet.workers.values()))


def is_under_way(fleet: Fleet) -> bool:
    """Whether something of the start is going on that ends by a deadline of its own: a first reading, a spawn."""
    if fleet.state is DaemonState.STARTING and fleet.wants_gpu:
        return True
    return any(worker.state is State.STARTING and worker.spawned_at is None for worker in fleet.workers.values())


def in_words(fleet: Fleet) -> str:
    """The line: ``4 of 4 workers ready``, ``3 of 4 ready; llm/2 failed: exited with 1``."""
    if fleet.state is DaemonState.STOPPING:
        left = len(fleet.workers)
        return f"stopping, {left} of its workers left" if left else "stopping"
    prefix = "reloading, " if fleet.state is DaemonState.RELOADING else ""
    return _cut("; ".join([prefix + _counts(fleet), *_troubles(fleet)]), WORDS_MAX)


def _is_next(worker: Worker) -> bool:
    """About to be admitted: it has no reason to wait."""
    return worker.state is State.PENDING and worker.starts == 0 and not worker.reason


def _counts(fleet: Fleet) -> str:
    states = Counter(worker.state for worker in fleet.workers.values())
    total, ready = sum(states.values()), states[State.READY]
    if not total:
        return "no workers"
    if ready == total:
        return f"{ready} of {total} workers ready"
    worst = _worst(fleet)
    is_told = worst is not None and worst.state in _TROUBLE
    rest = [
        f"{states[state]} {state}"
        for state in _SEVERITY
        if states[state] and not (is_told and worst is not None and worst.state is state and states[state] == 1)
    ]
    return ", ".join([f"{ready} of {total} ready", *rest])


def _troubles(fleet: Fleet) -> list[str]:
    found = []
    worst = _worst(fleet)
    if worst is not None and worst.state in _TROUBLE:
        reason = f": {_cut(worst.reason, REASON_MAX)}" if worst.reason else ""
        found.append(f"{worst.id} {worst.state}{reason}")
    if fleet.wants_gpu and fleet.gpu.state not in _HARMLESS:
        detail = f" ({_cut(fleet.gpu.detail, REASON_MAX)})" if fleet.gpu.detail else ""
        found.append(f"GPUs {str(fleet.gpu.state).replace('_', ' ')}{detail}")
    last = fleet.last_reload
    if last is not None and not last.ok and last.problems:
        more = f" and {len(last.problems) - 1} more" if len(last.problems) > 1 else ""
        found.append(f"the last reload failed: {_cut(last.problems[0], REASON_MAX)}{more}")
    return found


def _worst(fleet: Fleet) -> Worker | None:
    rank = {state: number for number, state in enumerate(_SEVERITY)}
    bad = [worker for worker in fleet.workers.values() if worker.state is not State.READY]
    return min(bad, key=lambda worker: (rank[worker.state], worker.id), default=None)


def _cut(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
