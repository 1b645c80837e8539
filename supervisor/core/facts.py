"""
Cells of the state table for what happens to a worker's process, and for its deadlines.

A worker and an event in; the worker after it, and what is to be done, out.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Iterator

from supervisor.core.evolve import evolve
from supervisor.core.last_words import Words, find_words
from supervisor.core.message import (
    Action,
    BecameReady,
    BecameUnready,
    Cause,
    EndStopCommand,
    Exited,
    ExitRecord,
    LivenessLost,
    Probe,
    ProbeAlive,
    ProgressTold,
    ReadInventory,
    Say,
    ShimLost,
    Signal,
    Spawned,
    SpawnFailed,
    StartExtended,
    State,
    TreeGone,
)
from supervisor.core.moves import (
    LOOK_S,
    Step,
    enter,
    follow,
    recycle_at,
    signal_of,
    signalled,
    to_killing,
    to_pending,
    to_releasing,
    to_stopping,
)
from supervisor.core.restart import GiveUp, RestartAt, Run, decide_restart, is_healthy
from supervisor.core.spec import Ready
from supervisor.core.worker import Admitted, DeadlinePassed, MemoryBack, Overdrawn, Release, Worker

CRASH_GRACE_S = 5.0
"""What is left of a crashed worker's tree has this long to end by itself, as with kubelet and pebble."""

KILL_REPORT_S = 10.0
"""A tree that survives SIGKILL for this long hangs in the kernel; a person should know where."""

RELEASE_WARN_S = 5.0

SPAWN_RETRY_S = 2.0
"""When the system refuses a process for want of something of its own; not the worker's fault, so not charged."""

EXTENDED_MAX_S = 3600.0
"""All that a start may ask for, unless the file gives it more: a loop that asks for ever must come to an end."""

AT_FAULT = frozenset({Cause.START_TIMEOUT, Cause.LIVENESS, Cause.WATCHDOG, Cause.CUDA_OOM})
"""Why we end one for a fault of its own."""

HUNG = frozenset({Cause.LIVENESS, Cause.WATCHDOG})
"""Why one is ended that was ready and does not answer any more."""

PERMANENT_ERRNOS = frozenset({1, 2, 7, 8, 13, 20, 21, 22, 36, 40})
"""EPERM ENOENT E2BIG ENOEXEC EACCES ENOTDIR EISDIR EINVAL ENAMETOOLONG ELOOP: trying again is of no use."""

REFUSED_ERRNOS = frozenset({0, 11, 12, 23, 24})
"""No shim, EAGAIN, ENOMEM, ENFILE, EMFILE: the machine is short of something."""


def start(worker: Worker, event: Admitted, now: float) -> Step:
    """Admitted: it is on its way from now on."""
    started = evolve(
        worker,
        held=worker.target,
        incarnation=event.incarnation,
        starts=worker.starts + 1,
        ready_at=None,
        was_ready=False,
        was_healthy=False,
        killed=False,
        is_group_asked=False,
        fault="",
        stop_fault="",
        said="",
        worn="",
        over_at=None,
        excess="",
        is_extended=False,
        spawned_at=None,
        pid=None,
    )
    # The clock runs from here, so that a spawn that hangs is bounded too.
    return enter(started, State.STARTING, now, deadline=now + _ready_of(started).timeout_s), ()


def spawned(worker: Worker, event: Spawned, now: float) -> Step:
    """The process runs: look for its readiness."""
    ready = _ready_of(worker)
    running = evolve(worker, pid=event.pid, spawned_at=now)
    if ready.kind == "after":
        return evolve(running, deadline=now + ready.after_s), ()
    assert worker.held is not None
    port = worker.held.wanted.recipe.port
    assert port is not None or ready.kind != "tcp", "the spec refuses a tcp probe without a port"
    return running, (Probe(worker.id, worker.incarnation, port, ready.interval_s, ready.kind, ready.http, ready.exec),)


def spawned_too_late(worker: Worker, event: Spawned, now: float) -> Step:
    """A stop that came before the process did is sent now."""
    # Without its stop command: it has not served yet.
    return signalled(evolve(worker, pid=event.pid, spawned_at=now))


def spawned_while_killing(worker: Worker, event: Spawned, now: float) -> Step:
    """The kill is behind the spawn in the shim's queue."""
    return evolve(worker, pid=event.pid, spawned_at=now), ()


def spawn_failed(worker: Worker, event: SpawnFailed, now: float) -> Step:
    """No process came of it: permanent, refused by the machine, or a failure like any other."""
    record = ExitRecord(code=None, signal=None, cause=Cause.SPAWN, detail=event.detail, at=now)
    # It was counted as a start, so that the process would have found its number.
    worker = evolve(worker, last_exit=record, pid=None, starts=worker.starts - 1)
    if worker.cause is not None and worker.cause is not Cause.START_TIMEOUT:
        return follow(worker, now)
    if event.errno in PERMANENT_ERRNOS:
        return follow(evolve(worker, verdict=GiveUp(event.detail)), now)
    if event.errno in REFUSED_ERRNOS:
        return follow(evolve(worker, verdict=RestartAt(now + SPAWN_RETRY_S)), now)
    return follow(_charged(worker, Run(code=None, failed_to_start=True), now), now)


def became_ready(worker: Worker, _event: BecameReady | DeadlinePassed, now: float) -> Step:
    """Ready, by its probe or by having lived long enough."""
    took = now - (worker.spawned_at if worker.spawned_at is not None else now)
    history = worker.history if worker.was_ready else evolve(worker.history, time_to_ready_s=took)
    ready = enter(worker, State.READY, now, deadline=recycle_at(worker))
    after = evolve(ready, ready_at=now, was_ready=True, history=history)
    assert worker.held is not None
    alive = worker.held.wanted.policy.alive
    if worker.was_ready:
        return after, ()
    # What the driver shows of it now is what its end will be measured by.
    look = (ReadInventory(),) if worker.occupied else ()
    # Once for each process, and never before this: a model that loads for minutes must not be taken for a dead one.
    if alive.kind == "off":
        return after, look
    return after, (*look, ProbeAlive(worker.id, worker.incarnation, worker.held.wanted.recipe.port, alive))


def not_ready_yet(worker: Worker, event: BecameUnready, _now: float) -> Step:
    """What its probe found; it goes on loading."""
    return evolve(worker, reason=event.detail), ()


def progress_told(worker: Worker, event: ProgressTold, _now: float) -> Step:
    """Its own words, for whoever looks."""
    return evolve(worker, said=event.text), ()


def start_extended(worker: Worker, event: StartExtended, now: float) -> Step:
    """It needs longer than the file gives it, and says so; never less, and never for ever."""
    ready = _ready_of(worker)
    if ready.kind == "after" or worker.deadline is None:
        return worker, ()  # Its deadline is when it is ready, not when it is given up.
    latest = max(worker.deadline, worker.since + EXTENDED_MAX_S)
    deadline = min(max(worker.deadline, now + event.seconds), latest)
    return evolve(worker, deadline=deadline, is_extended=worker.is_extended or deadline > worker.deadline), ()


def liveness_lost(worker: Worker, event: LivenessLost, now: float) -> Step:
    """It hangs: another process takes its place, and this one is charged with it."""
    healthy = worker.was_healthy or is_healthy_now(worker, now)
    cause = Cause.WATCHDOG if event.is_watchdog else Cause.LIVENESS
    return to_stopping(evolve(worker, was_healthy=healthy, fault=event.detail), now, cause, event.detail)


def overdrawn(worker: Worker, _event: Overdrawn, now: float) -> Step:
    """It has more of a GPU than it declares, at the cost of others: charged to it, but for what was well before."""
    since = now if worker.over_at is None else worker.over_at
    healthy = worker.was_healthy or is_healthy_now(worker, since)
    return to_stopping(evolve(worker, was_healthy=healthy, fault=worker.excess), now, Cause.CUDA_OOM, worker.excess)


def became_unready(worker: Worker, event: BecameUnready, now: float) -> Step:
    """Readiness lost makes `unready`, never a restart."""
    healthy = worker.was_healthy or is_healthy_now(worker, now)
    after = enter(worker, State.UNREADY, now, deadline=recycle_at(worker), reason=event.detail)
    return evolve(after, was_healthy=healthy, ready_at=None), ()


def _ready_of(worker: Worker) -> Ready:
    """How this process gets ready: as it was started with, since its port and its probe are."""
    assert worker.held is not None
    return worker.held.wanted.policy.ready


def is_healthy_now(worker: Worker, now: float) -> bool:
    """Contract, Restarts: with `after` as the only probe, readiness says nothing, so a long life must do."""
    ready = _ready_of(worker)
    if ready.kind == "after":
        return worker.spawned_at is not None and now - worker.spawned_at >= ready.timeout_s
    return worker.ready_at is not None and is_healthy(now - worker.ready_at, worker.history.time_to_ready_s or 0.0)


def _charged(worker: Worker, run: Run, now: float) -> Worker:
    verdict, history = decide_restart(
        worker.restart, worker.history, run, worker=worker.id, incarnation=worker.incarnation, now=now
    )
    return evolve(worker, verdict=verdict, history=history)


def exited(worker: Worker, event: Exited, now: float) -> Step:
    """The main process ended by itself, or was ended by somebody else."""
    worker = _recorded(worker, event, now)
    if event.device_fault and event.code != 0 and worker.restart.policy != "never":
        return _bury(evolve(worker, verdict=RestartAt(now)), event, now, grace_until=now)
    run = Run(event.code, was_ready=worker.was_ready, was_healthy=worker.was_healthy or is_healthy_now(worker, now))
    return _bury(_charged(worker, run, now), event, now, grace_until=now)


def exited_in_stopping(worker: Worker, event: Exited, now: float) -> Step:
    """The main process ended as asked, or by itself at the same moment."""
    assert worker.deadline is not None
    grace_until, ends = worker.grace_until or worker.deadline, end_command(worker)
    worker = _charged_if_at_fault(_recorded(worker, event, now), event, now)
    after, actions = _bury(worker, event, now, grace_until=grace_until)
    return after, (*ends, *actions)


def end_command(worker: Worker) -> tuple[EndStopCommand, ...]:
    """Its stop command has nobody left to stop; what it has not done by now it does not do."""
    return () if worker.grace_until is None else (EndStopCommand(worker.id, worker.incarnation),)


def _charged_if_at_fault(worker: Worker, event: Exited, now: float) -> Worker:
    """What we end for its own fault is a failure whatever its code; what is not wanted any more has no future."""
    if worker.target is None:
        return worker
    if worker.cause is Cause.START_TIMEOUT:
        return _charged(worker, Run(event.code, failed_to_start=True), now)
    if worker.cause in HUNG:
        run = Run(event.code, was_ready=True, was_healthy=worker.was_healthy, hung=True)
        return _charged(worker, run, now)
    if worker.cause is Cause.CUDA_OOM:
        run = Run(event.code, was_ready=worker.was_ready, was_healthy=worker.was_healthy, was_overdrawn=True)
        return _charged(worker, run, now)
    return worker


def _bury(worker: Worker, event: Exited, now: float, *, grace_until: float) -> Step:
    """The main process is dead: see to what it leaves behind."""
    number = signal_of(worker)
    if event.alone:
        return to_releasing(worker, now)
    after = to_killing(
        worker,
        now,
        deadline=max(grace_until, now + CRASH_GRACE_S),
        reason=f"its main process ended, others that it started still live: {signal_name(number)} sent to them",
    )
    # A second signal makes many servers drop what they were about to finish.
    rest = Signal(worker.id, worker.incarnation, number, "outside" if worker.is_group_asked else "rest")
    return after, (rest,)


def exited_in_killing(worker: Worker, event: Exited, now: float) -> Step:
    """The main process is dead; the rest of its tree may not be."""
    if worker.pid is None and worker.spawned_at is not None:
        return worker, ()  # Its shim was lost in the same moment: the end is on record.
    worker = _charged_if_at_fault(_recorded(worker, event, now), event, now)
    return to_releasing(worker, now) if event.alone else (worker, ())


def _recorded(worker: Worker, event: Exited, now: float) -> Worker:
    # One that ended well in spite of it did not end of it.
    starved = event.out_of_memory and event.code != 0
    own = Cause.HOST_OOM if starved else Cause.EXIT if event.signal is None else Cause.SIGNAL
    words = _last_words(worker, event)
    if event.device_fault and event.code != 0:
        own = Cause.DEVICE
    elif words is not None and words.cause and not starved:
        own = Cause(words.cause)
    record = ExitRecord(
        code=event.code,
        signal=None if event.signal is None else signal_name(event.signal),
        cause=worker.cause or own,
        detail="; ".join(filter(None, (*_details(worker, event), words.meaning if words else ""))),
        at=now,
        tail=event.tail,
        core_dumped=event.core_dumped,
    )
    return evolve(worker, last_exit=record, pid=None)


def _last_words(worker: Worker, event: Exited) -> Words | None:
    """What one that died by itself said of it. Who ended well, or was ended by us, did not die of what it said."""
    return None if worker.cause is not None or event.code == 0 else find_words(event.tail)


def _details(worker: Worker, event: Exited) -> Iterator[str]:
    yield _detail(worker, event)
    yield "dumped core" if event.core_dumped else ""
    yield worker.stop_fault
    if worker.cause is None and event.code != 0:
        yield event.device_fault or event.xids
    if worker.cause is not None and worker.killed and event.signal == signals.SIGKILL:
        yield f"it did not end when it got {signal_name(signal_of(worker))}"


def _detail(worker: Worker, event: Exited) -> str:
    if worker.cause is Cause.START_TIMEOUT and worker.held is not None:
        return worker.fault or f"not ready within {worker.held.wanted.policy.ready.timeout_s:g} s"
    if worker.cause in AT_FAULT or worker.cause is Cause.DEVICE:
        return worker.fault
    if worker.cause is None and event.out_of_memory and event.code != 0:
        return "out of memory"
    return ""


def signal_name(number: int) -> str:
    """What a person calls it."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"  # Real-time signals have no name of their own.


def tree_gone(worker: Worker, _event: TreeGone, now: float) -> Step:
    """Nothing of its tree lives."""
    return to_releasing(worker, now)


def shim_lost(worker: Worker, _event: ShimLost, now: float) -> Step:
    """The keeper kills what the shim left; the worker comes back uncharged."""
    lost = ExitRecord(code=None, signal=None, cause=Cause.LOST, detail="its shim was killed", at=now)
    after = to_killing(worker, now, deadline=now + KILL_REPORT_S, reason=lost.detail)
    verdict = worker.verdict or RestartAt(now)
    return evolve(after, pid=None, last_exit=lost, verdict=verdict, killed=True), end_command(worker)


def shim_lost_while_killing(worker: Worker, _event: ShimLost, now: float) -> Step:
    """What it was doing the keeper does now."""
    return evolve(worker, pid=None, killed=True), ()


# ---- time -----------------------------------------------------------------------------------------------------------


def start_deadline(worker: Worker, event: DeadlinePassed, now: float) -> Step:
    """Not ready in time; or, with `after`, long enough alive."""
    ready = _ready_of(worker)
    if ready.kind == "after" and worker.spawned_at is not None:
        return became_ready(worker, event, now)
    reason = f"not ready within {ready.timeout_s:g} s" if worker.spawned_at is not None else "its start hangs"
    if worker.is_extended:
        reason = f"not ready within {now - worker.since:.0f} s, more time that it asked for included"
        worker = evolve(worker, fault=reason)
    return to_stopping(worker, now, Cause.START_TIMEOUT, reason)


def worn_out(worker: Worker, _event: DeadlinePassed, _now: float) -> Step:
    """It is so old that another process is to take its place, when its turn comes."""
    age_s = worker.policy.recycle.after_s
    return evolve(worker, deadline=None, worn=f"older than recycle.after, {age_s:g} s" if age_s else ""), ()


def look_again(worker: Worker, _event: DeadlinePassed, _now: float) -> Step:
    """In pending: what it waits for may be there by now; the fleet looks at whoever has changed."""
    return evolve(worker, deadline=None), ()


def release_deadline(worker: Worker, _event: DeadlinePassed, now: float) -> Step:
    """The memory is not back yet: look again, and warn after a while. When it is given up the fleet decides."""
    waited = now - worker.since
    actions: tuple[Action, ...] = (ReadInventory(),)
    is_late = waited >= RELEASE_WARN_S
    if is_late and not worker.is_told:
        fields = {"worker": str(worker.id), "waited_s": round(waited, 1), "reason": worker.reason}
        actions += (Say("worker.memory_late", fields, is_warning=True),)
    return evolve(worker, deadline=now + LOOK_S, is_told=is_late), actions


def memory_back(worker: Worker, event: MemoryBack, now: float) -> Step:
    """The slice is free again, or is given up."""
    release = Release(now - worker.since, event.proof, event.is_dirty)
    return follow(evolve(worker, release=release), now)


def parole(worker: Worker, _event: DeadlinePassed, now: float) -> Step:
    """It has failed and waited: one more try, whatever it failed of."""
    return to_pending(evolve(worker, history=evolve(worker.history, on_parole=True)), now)


def back_off_over(worker: Worker, _event: DeadlinePassed, now: float) -> Step:
    """It has waited long enough."""
    return to_pending(worker, now)
