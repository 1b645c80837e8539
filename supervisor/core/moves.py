"""
The moves of a worker between its states: going down, and what follows when nothing of its process is left.

Used by the cells of the state table (`facts`, `intents`); a fleet uses `new_worker` alone.
"""

from __future__ import annotations

from signal import SIGABRT

from supervisor.core.evolve import evolve
from supervisor.core.message import Action, Cause, ReadInventory, RunStopCommand, Signal, State
from supervisor.core.plan import Placement
from supervisor.core.restart import Done, GiveUp, History, RestartAt, parole_at, spread_s
from supervisor.core.spec import WorkerId
from supervisor.core.worker import Worker

LOOK_S = 0.5
"""Between two looks at a GPU whose memory is not back yet."""

SIGNAL_S = 5.0
"""
What a stop command leaves of the grace to the signal, or half of a shorter grace: one that hangs costs nobody his end.
"""

RELEASING = "waiting for the memory of its ended process to come back"

Step = tuple[Worker | None, tuple[Action, ...]]
"""The worker after a step, None when it is to be forgotten, and what is to be done."""


def new_worker(worker: WorkerId, placement: Placement, now: float, *, down: bool = False) -> Worker:
    """A worker that the plan wants for the first time."""
    born = Worker(worker, State.PENDING, now, down=down)
    after, _ = (to_stopped if down else to_pending)(evolve(born, target=placement), now)
    assert after is not None
    return after


def enter(worker: Worker, state: State, now: float, *, deadline: float | None = None, reason: str = "") -> Worker:
    """In a new state, with a new deadline and reason."""
    return evolve(worker, state=state, since=now, deadline=deadline, reason=reason, starved=False, grace_until=None)


def recycle_at(worker: Worker) -> float | None:
    """When its process is too old; None for never, and where it is marked already."""
    after_s = worker.policy.recycle.after_s
    if not after_s or worker.spawned_at is None or worker.worn:
        return None
    return worker.spawned_at + spread_s(after_s, worker.id, worker.incarnation)


def to_pending(worker: Worker, now: float) -> Step:
    """Wait for admission, unless the plan says that there is no use."""
    worker = evolve(
        worker,
        held=None,
        pid=None,
        relaunch=False,
        renew=False,
        verdict=None,
        cause=None,
        killed=False,
        spawned_at=None,
    )
    assert worker.target is not None
    if worker.target.refused:
        return enter(worker, State.FAILED, now, reason=worker.target.reason), ()
    return enter(worker, State.PENDING, now, reason="" if worker.target.launch else worker.target.reason), ()


def to_stopped(worker: Worker, now: float) -> Step:
    """Held down, without a slice."""
    return enter(freed(worker), State.STOPPED, now, reason="stopped by the operator"), ()


def freed(worker: Worker) -> Worker:
    """Without a slice, held or reserved: others may have it."""
    assert worker.target is not None
    target = evolve(worker.target, launch=None, fallback=False)
    down = evolve(worker, held=None, pid=None, relaunch=False, renew=False, verdict=None, cause=None, killed=False)
    return evolve(down, target=target)


def to_failed(worker: Worker, now: float, reason: str) -> Worker:
    """Without a slice, until somebody asks for it or its parole has come."""
    deadline = parole_at(worker.restart, worker.history, now)
    return enter(freed(worker), State.FAILED, now, deadline=deadline, reason=reason)


def renewed(worker: Worker) -> Worker:
    """With clean counts."""
    return evolve(worker, history=History(time_to_ready_s=worker.history.time_to_ready_s))


def follow(worker: Worker, now: float) -> Step:
    """What follows when nothing of the process is left: intents first, then the verdict of the restart policy."""
    if worker.target is None:
        return None, ()
    if worker.down:
        return to_stopped(worker, now)
    if worker.relaunch or worker.renew or (worker.held is not None and worker.held.launch != worker.target.launch):
        # How its last process fared says nothing about another launch; and an operator who restarts it forgives.
        # One that leaves a sick device with the same words neither gains nor loses by it.
        was = worker.held.wanted.recipe if worker.held else None
        is_same = worker.cause is Cause.DEVICE and not worker.renew and was == worker.target.wanted.recipe
        return to_pending(worker if is_same else renewed(worker), now)
    match worker.verdict:
        case RestartAt(at) if at > now:
            reason = last_words(worker)
            waiting = evolve(worker, held=None, pid=None, killed=False, cause=None)
            return enter(waiting, State.BACKOFF, now, deadline=at, reason=reason), ()
        case GiveUp(reason):
            return to_failed(worker, now, reason), ()
        case Done():
            return enter(freed(worker), State.EXITED, now), ()
        case _:
            return to_pending(worker, now)


def last_words(worker: Worker) -> str:
    """How its last process ended, or empty."""
    last = worker.last_exit
    if last is None:
        return ""
    how = f"ended by {last.signal}" if last.signal else f"exited with {last.code}"
    if last.detail and last.cause in {Cause.EXIT, Cause.SIGNAL, Cause.CUDA_OOM, Cause.DEVICE}:
        return f"{how}: {last.detail}"
    return last.detail or how


def to_releasing(worker: Worker, now: float) -> Step:
    """The tree is gone: wait for its memory where it had a GPU."""
    worker = evolve(worker, pid=None, is_told=False)
    if not worker.occupied:
        return follow(worker, now)
    return enter(worker, State.RELEASING, now, deadline=now + LOOK_S, reason=RELEASING), (ReadInventory(),)


def to_stopping(worker: Worker, now: float, cause: Cause, reason: str) -> Step:
    """Ask the main process to end; one that does not run yet is asked as soon as it does."""
    grace_s = worker.policy.stop.timeout_s
    after = evolve(enter(worker, State.STOPPING, now, deadline=now + grace_s, reason=reason), cause=cause)
    if worker.pid is None:
        return after, ()
    command = stop_command_of(worker)
    if not command or grace_s == 0:
        return signalled(after)
    runs = evolve(
        after,
        deadline=now + grace_s - min(SIGNAL_S, grace_s / 2),
        grace_until=now + grace_s,
        reason=reason + command_words(worker),
    )
    return runs, (RunStopCommand(worker.id, worker.incarnation, worker.pid, command),)


def stop_command_of(worker: Worker) -> tuple[str, ...]:
    """What is run before the signal: as its process was started with, since its environment is."""
    return worker.held.wanted.policy.stop.exec if worker.held else ()


def command_words(worker: Worker) -> str:
    """What its reason says while its stop command runs."""
    command = stop_command_of(worker)
    return f"; stop.exec {command[0].rpartition('/')[2]} runs" if command else ""


def signalled(worker: Worker) -> tuple[Worker, tuple[Signal, ...]]:
    """The main process gets the signal of its stop, or its whole process group does."""
    stop = worker.policy.stop
    ask = Signal(worker.id, worker.incarnation, signal_of(worker), "group" if stop.group else "main")
    return evolve(worker, is_group_asked=stop.group), (ask,)


def signal_of(worker: Worker) -> int:
    """
    How it is asked to end.

    One that missed its watchdog gets SIGABRT, as under systemd: where it hangs can be seen in the stacks or the core
    that it leaves, and nowhere else. So does what outlives it: of a wrapper that is the one that hangs.
    """
    return int(SIGABRT) if worker.cause is Cause.WATCHDOG else worker.policy.stop.signal


def to_killing(worker: Worker, now: float, *, deadline: float, reason: str) -> Worker:
    """Its end is near; see `deadline`."""
    return enter(worker, State.KILLING, now, deadline=deadline, reason=reason)
