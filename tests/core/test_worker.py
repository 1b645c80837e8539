"""One worker's start and stop: what is sent to it, how long it has."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Cause,
    ExamineTree,
    KillTree,
    Probe,
    ReadInventory,
    Say,
    Signal,
    Spawned,
    SpawnFailed,
    State,
    TreeExamined,
)
from supervisor.core.restart import NO_FAILURES, History, backoff_s
from supervisor.core.spec import Policy, Ready, Restart
from supervisor.core.worker import (
    Admitted,
    DeadlinePassed,
    MemoryBack,
    StopAsked,
    Wanted,
)
from tests.core.builders import (
    FREE,
    LLM,
    TCP,
    after_all,
    exit_of,
    meet,
    of_type,
    placed,
    wanted,
    with_policy,
    worker_in,
)

TERM = signal.SIGTERM


# ---- starting -------------------------------------------------------------------------------------------------------


def test_an_admitted_worker_starts_afresh() -> None:
    """Nothing of its last process is taken over but how it fared."""
    worker = worker_in(State.PENDING, starts=3, incarnation=2, was_ready=True, history=History(failures=2))

    started, actions = meet(worker, Admitted(8), 100.0)

    assert (started.state, started.incarnation, started.starts, started.held) == ("starting", 8, 4, worker.target)
    assert (started.was_ready, started.spawned_at, started.pid) == (False, None, None)
    assert (started.history, started.deadline, actions) == (History(failures=2), 700.0, ())


def test_a_spawned_worker_with_a_port_is_probed() -> None:
    """Its start timeout runs on from its admission."""
    worker = worker_in(State.STARTING, since=100.0, pid=None, spawned_at=None)

    running, actions = meet(worker, Spawned(LLM, 7, 4711), 101.0)

    assert (running.pid, running.spawned_at, running.deadline) == (4711, 101.0, 700.0)
    assert actions == (Probe(LLM, 7, port=8000, interval_s=2.0),)


def test_a_worker_without_a_probe_is_ready_once_it_has_lived_for_a_while() -> None:
    """`after: 3s`, counted from its process and not from its admission."""
    worker = with_policy(
        worker_in(State.STARTING, pid=None, spawned_at=None), Policy(ready=Ready(kind="after", after_s=3.0))
    )

    running, actions = meet(worker, Spawned(LLM, 7, 4711), 105.0)
    ready, _ = meet(running, DeadlinePassed(), 108.0)

    assert (running.deadline, actions) == (108.0, ())
    assert (ready.state, ready.ready_at, ready.deadline) == ("ready", 108.0, None)


def test_the_time_to_ready_is_that_of_the_first_readiness() -> None:
    """Coming back from unready is no start."""
    worker = worker_in(State.STARTING, spawned_at=100.0)

    ready = after_all(worker, (130.0, BecameReady(LLM, 7)))
    again = after_all(ready, (150.0, BecameUnready(LLM, 7, "refused")), (151.0, BecameReady(LLM, 7)))

    assert ready.history == again.history == History(time_to_ready_s=30.0)


def test_a_change_of_the_files_probe_does_not_concern_a_process_that_is_starting() -> None:
    """It was started without a port, so there is nothing to probe."""
    old = placed(wanted(policy=Policy(ready=Ready(kind="after", after_s=1.0))), 0)
    worker = worker_in(State.STARTING, pid=None, spawned_at=None, target=old, held=old)

    running = after_all(worker, (100.0, Wanted(FREE)), (101.0, Spawned(LLM, 7, 4711)), (102.0, DeadlinePassed()))

    assert running.state is State.READY


def test_a_start_that_takes_too_long_is_a_failure_whatever_the_code() -> None:
    """A server that was asked to end at its start timeout exits with 0."""
    worker = with_policy(worker_in(State.STARTING), TCP)

    stopping, actions = meet(worker, DeadlinePassed(), 700.0)
    after, _ = meet(stopping, exit_of(0), 701.0)

    assert (stopping.state, stopping.reason, actions) == (
        "stopping",
        "not ready within 600 s",
        (Signal(LLM, 7, TERM, "main"),),
    )
    assert (after.state, after.history.start_failures) == ("backoff", 1)
    assert after.last_exit is not None
    assert (after.last_exit.code, after.last_exit.cause) == (0, Cause.START_TIMEOUT)


def test_a_spawn_that_hangs_runs_into_the_start_timeout_too() -> None:
    """There is nobody to signal yet."""
    stopping, actions = meet(worker_in(State.STARTING, pid=None, spawned_at=None), DeadlinePassed(), 700.0)

    assert (stopping.state, stopping.reason, actions) == ("stopping", "its start hangs", ())


# ---- no process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("errno", [1, 2, 7, 8, 13, 20, 21, 22, 36, 40])
def test_a_program_that_cannot_be_run_fails_its_worker_at_once(errno: int) -> None:
    """Trying again is of no use; the reason is what the system said."""
    worker = worker_in(State.STARTING, pid=None, spawned_at=None)

    failed, _ = meet(worker, SpawnFailed(LLM, 7, errno, "command not found: serve"), 101.0)

    assert (failed.state, failed.reason, failed.held) == ("failed", "command not found: serve", None)
    assert failed.last_exit is not None
    assert (failed.last_exit.cause, failed.last_exit.code) == (Cause.SPAWN, None)


@pytest.mark.parametrize("errno", [0, 11, 12, 23, 24])
def test_a_start_that_the_machine_refuses_is_not_charged(errno: int) -> None:
    """No shim, no process, no memory, no descriptor: tried again in two seconds, for ever."""
    worker = worker_in(State.STARTING, pid=None, spawned_at=None)

    waiting, _ = meet(worker, SpawnFailed(LLM, 7, errno, "fork refused"), 101.0)

    assert (waiting.state, waiting.deadline, waiting.history) == ("backoff", 103.0, NO_FAILURES)
    assert waiting.reason == "fork refused"


def test_a_start_of_which_no_process_came_is_not_counted_as_one() -> None:
    """`restarts` counts processes."""
    worker = worker_in(State.STARTING, pid=None, spawned_at=None)

    after, _ = meet(worker, SpawnFailed(LLM, 7, 11, "cannot fork"), 100.0)

    assert after.starts == worker.starts - 1


def test_any_other_error_of_a_spawn_is_charged() -> None:
    """A disk that errs may come back, or not."""
    worker = worker_in(State.STARTING, pid=None, spawned_at=None)

    waiting, _ = meet(worker, SpawnFailed(LLM, 7, 5, "I/O error"), 101.0)

    assert (waiting.state, waiting.history) == ("backoff", History(failures=1, start_failures=1))
    assert waiting.deadline == 101.0 + backoff_s(Restart(), 1, LLM, 7)


def test_a_spawn_that_fails_after_a_stop_is_the_end_of_that_stop() -> None:
    """The operator wanted it down, and down it is: no failure."""
    worker = worker_in(State.STARTING, pid=None, spawned_at=None)

    stopped = after_all(worker, (101.0, StopAsked()), (102.0, SpawnFailed(LLM, 7, 2, "not found")))

    assert (stopped.state, stopped.reason) == ("stopped", "stopped by the operator")


# ---- being stopped --------------------------------------------------------------------------------------------------


def test_a_stop_before_the_process_is_kept_and_sent_then() -> None:
    """Its grace runs already."""
    worker = worker_in(State.STARTING, pid=None, spawned_at=None)

    stopping, before = meet(worker, StopAsked(), 101.0)
    spawned, then = meet(stopping, Spawned(LLM, 7, 4711), 103.0)

    assert (stopping.state, stopping.deadline, before) == ("stopping", 131.0, ())
    assert (spawned.state, spawned.deadline, then) == ("stopping", 131.0, (Signal(LLM, 7, TERM, "main"),))


def test_a_process_that_comes_after_its_kill_is_killed_by_it() -> None:
    """The kill stands behind the spawn in the shim's queue: nothing more to send."""
    worker = worker_in(State.STARTING, pid=None, spawned_at=None)

    killing = after_all(worker, (101.0, StopAsked()), (131.0, DeadlinePassed()))
    after, actions = meet(killing, Spawned(LLM, 7, 4711), 132.0)

    assert (after.state, after.pid, actions) == ("killing", 4711, ())


def test_a_stop_has_its_own_signal_and_grace() -> None:
    """`stop: {signal: SIGINT, timeout: 90s}`."""
    policy = replace(TCP, stop=TCP.stop.model_copy(update={"signal": int(signal.SIGINT), "timeout_s": 90.0}))
    worker = with_policy(worker_in(State.READY), policy)

    stopping, actions = meet(worker, StopAsked(), 200.0)

    assert (stopping.deadline, actions) == (290.0, (Signal(LLM, 7, signal.SIGINT, "main"),))


def test_a_worker_that_ends_as_asked_is_stopped_when_its_memory_is_back() -> None:
    """An exit during the grace is no failure, whatever the code."""
    stopping = after_all(worker_in(State.READY), (200.0, StopAsked()))

    releasing, actions = meet(stopping, exit_of(143), 210.0)
    stopped, _ = meet(releasing, MemoryBack(), 211.0)

    assert (releasing.state, releasing.pid, actions) == ("releasing", None, (ReadInventory(),))
    assert (stopped.state, stopped.history, stopped.held) == ("stopped", NO_FAILURES, None)
    assert stopped.last_exit is not None
    assert (stopped.last_exit.cause, stopped.last_exit.tail) == (Cause.OPERATOR, ("bye",))


@pytest.mark.parametrize(("exited_at", "killed_at"), [(210.0, 230.0), (225.0, 230.0), (229.0, 234.0)])
def test_what_outlives_a_stopped_main_process_gets_the_rest_of_its_grace(exited_at: float, killed_at: float) -> None:
    """The same signal at once, and at least five seconds."""
    stopping = after_all(worker_in(State.READY), (200.0, StopAsked()))

    killing, asked = meet(stopping, exit_of(0, alone=False), exited_at)
    killed, actions = meet(killing, DeadlinePassed(), killed_at)

    assert (killing.state, killing.deadline, killing.pid) == ("killing", killed_at, None)
    assert asked == (Signal(LLM, 7, TERM, "rest"),)
    assert (killed.deadline, actions) == (killed_at + 10.0, (KillTree(LLM, 7),))


def test_a_worker_that_does_not_end_in_time_is_killed() -> None:
    """The whole tree, and the reason says so."""
    stopping = after_all(worker_in(State.READY), (200.0, StopAsked()))

    killing, actions = meet(stopping, DeadlinePassed(), 230.0)

    assert (killing.state, killing.reason) == ("killing", "did not end within 30 s: SIGKILL sent")
    assert actions == (KillTree(LLM, 7),)


def test_a_tree_that_survives_sigkill_is_reported_every_ten_seconds() -> None:
    """It hangs in the kernel; its slice stays its own."""
    killing = after_all(worker_in(State.READY), (200.0, StopAsked()), (230.0, DeadlinePassed()))

    at_ten, first = meet(killing, DeadlinePassed(), 240.0)
    at_twenty, second = meet(at_ten, DeadlinePassed(), 250.0)

    assert [at_ten.deadline, at_twenty.deadline] == [250.0, 260.0]
    assert (at_twenty.state, at_twenty.occupied) == ("killing", killing.occupied)
    assert killing.occupied
    assert "still not gone after 20 s in spite of SIGKILL" in at_twenty.reason
    for actions in (first, second):
        assert actions == (KillTree(LLM, 7), ExamineTree(LLM, 7))


def test_where_it_hangs_is_its_reason_and_is_said() -> None:
    """As soon as it has been looked at."""
    stuck = after_all(
        worker_in(State.READY), (200.0, StopAsked()), (230.0, DeadlinePassed()), (240.0, DeadlinePassed())
    )

    examined, actions = meet(stuck, TreeExamined(LLM, 7, "process 4711 (serve) hangs in nvidia_ioctl (state D)"), 240.5)

    assert examined.reason == (
        "still not gone after 10 s in spite of SIGKILL; its GPUs stay taken:"
        " process 4711 (serve) hangs in nvidia_ioctl (state D)"
    )
    assert [(say.event, say.fields["reason"]) for say in of_type(Say, actions)] == [
        ("worker.unkillable", examined.reason)
    ]
    assert (examined.state, examined.deadline) == ("killing", 250.0)
