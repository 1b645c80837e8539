"""`stop.exec` and `stop.group`: what comes before the signal, who gets that, and in what time."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from supervisor.core.inventory import GpuState
from supervisor.core.message import (
    EndStopCommand,
    KillTree,
    RunStopCommand,
    ShimLost,
    Signal,
    Spawned,
    Stalled,
    StartRequested,
    State,
    StopCommandEnded,
    StopRequested,
    TimePassed,
)
from supervisor.core.spec import Policy, Stop, unknown_names
from supervisor.core.worker import DeadlinePassed, KillAsked, StopAsked, Worker
from tests.core.builders import (
    LLM,
    TCP,
    after_all,
    bad,
    exit_of,
    meet,
    of_type,
    placed,
    spec_of,
    wanted,
    with_policy,
    worker_in,
)
from tests.core.stage import Stage, running

TERM = signal.SIGTERM
DRAIN = ("/opt/bin/drain", "--pid", "$(MAINPID)")
END = EndStopCommand(LLM, 7)
TO_MAIN = Signal(LLM, 7, TERM, "main")


def treated(timeout_s: float = 30.0, *, group: bool = False, exec_: tuple[str, ...] = DRAIN) -> Policy:
    return replace(TCP, stop=Stop(timeout_s=timeout_s, group=group, exec=exec_))


def ready(policy: Policy) -> Worker:
    return with_policy(worker_in(State.READY), policy)


@pytest.mark.parametrize(("timeout_s", "until"), [(30.0, 225.0), (10.0, 205.0), (4.0, 202.0)])
def test_a_stop_command_comes_first_and_has_a_part_of_the_grace(timeout_s: float, until: float) -> None:
    """Five seconds are left for the signal, or half of a short grace."""
    stopping, actions = meet(ready(treated(timeout_s)), StopAsked(), 200.0)

    assert actions == (RunStopCommand(LLM, 7, 4711, DRAIN),)
    assert (stopping.state, stopping.deadline, stopping.grace_until) == ("stopping", until, 200.0 + timeout_s)
    assert stopping.reason == "stopped by the operator; stop.exec drain runs"


def test_the_signal_follows_the_command_with_what_is_left_of_the_grace() -> None:
    """As with systemd and kubelet, also where it has failed."""
    stopping = after_all(ready(treated()), (200.0, StopAsked()))

    well, asked = meet(stopping, StopCommandEnded(LLM, 7, ""), 210.0)
    badly, also = meet(stopping, StopCommandEnded(LLM, 7, "exited with 3: no route"), 210.0)
    killed, kills = meet(badly, DeadlinePassed(), 230.0)

    assert asked == also == (TO_MAIN,)
    assert (well.deadline, well.grace_until, well.reason) == (230.0, None, "stopped by the operator")
    assert badly.reason == "stopped by the operator; stop.exec drain exited with 3: no route"
    assert (killed.state, killed.reason, kills) == (
        "killing",
        "did not end within 30 s: SIGKILL sent",
        (KillTree(LLM, 7),),
    )


def test_a_stop_command_that_hangs_is_killed_and_the_signal_sent() -> None:
    """What it says after that changes nothing."""
    stopping = after_all(ready(treated()), (200.0, StopAsked()))

    late, actions = meet(stopping, DeadlinePassed(), 225.0)

    assert actions == (END, TO_MAIN)
    assert (late.state, late.deadline) == ("stopping", 230.0)
    assert late.reason == "stopped by the operator; stop.exec drain did not end within 25 s"
    assert meet(late, StopCommandEnded(LLM, 7, ""), 226.0) == (late, ())


def test_what_went_wrong_with_its_command_is_on_record() -> None:
    """And that SIGKILL was needed."""
    stopping = after_all(ready(treated()), (200.0, StopAsked()), (201.0, StopCommandEnded(LLM, 7, "exited with 3")))

    ended = after_all(stopping, (202.0, exit_of(0)))
    killed = after_all(stopping, (230.0, DeadlinePassed()), (230.1, exit_of(None, number=9)))

    assert ended.last_exit is not None
    assert killed.last_exit is not None
    assert ended.last_exit.detail == "stop.exec drain exited with 3"
    assert killed.last_exit.detail == "stop.exec drain exited with 3; it did not end when it got SIGTERM"


def test_a_stop_command_ends_with_its_worker() -> None:
    """However that ends; and what outlives its main process has the rest of the whole grace."""
    stopping = after_all(ready(treated()), (200.0, StopAsked()))

    left, asked = meet(stopping, exit_of(0, alone=False), 210.0)

    assert (left.deadline, asked) == (230.0, (END, Signal(LLM, 7, TERM, "rest")))
    assert meet(stopping, exit_of(0), 210.0)[1] == (END,)
    assert meet(stopping, ShimLost(LLM, 7), 210.0)[1] == (END,)
    assert meet(stopping, KillAsked(), 210.0)[1] == (END, KillTree(LLM, 7))
    assert meet(left, StopCommandEnded(LLM, 7, ""), 211.0) == (left, ())


def test_a_stop_before_the_process_runs_sends_the_signal_alone() -> None:
    """There is nothing to drain."""
    starting = replace(with_policy(worker_in(State.STARTING), treated()), pid=None, spawned_at=None)

    stopping, none = meet(starting, StopAsked(), 101.0)
    running, actions = meet(stopping, Spawned(LLM, 7, 4711), 102.0)

    assert (none, actions) == ((), (TO_MAIN,))
    assert running.deadline == 131.0


def test_a_stop_command_is_that_of_its_start_and_the_rest_that_of_today() -> None:
    """Its environment is known for what it was started with; signal, group and time hold at once."""
    worker = ready(treated())
    today = placed(wanted(policy=treated(8.0, group=True, exec_=("other",)), port=8000), 0)
    never = placed(wanted(policy=treated(0.0, exec_=()), port=8000), 0)

    stopping, actions = meet(replace(worker, target=today), StopAsked(), 200.0)

    assert actions == (RunStopCommand(LLM, 7, 4711, DRAIN),)
    assert stopping.grace_until == 208.0
    assert meet(stopping, StopCommandEnded(LLM, 7, ""), 201.0)[1] == (Signal(LLM, 7, TERM, "group"),)
    assert meet(replace(worker, target=never), StopAsked(), 200.0)[1] == (TO_MAIN,)  # No time for it.


def test_with_group_the_whole_group_is_asked_and_nobody_twice() -> None:
    """A second SIGTERM makes many servers drop what they were about to finish."""
    stopping, asked = meet(ready(treated(group=True, exec_=())), StopAsked(), 200.0)
    _, others = meet(stopping, exit_of(0, alone=False), 201.0)
    _, crashed = meet(ready(treated(group=True, exec_=())), exit_of(1, alone=False), 201.0)

    assert asked == (Signal(LLM, 7, TERM, "group"),)
    assert others == (Signal(LLM, 7, TERM, "outside"),)
    assert crashed == (Signal(LLM, 7, TERM, "rest"),)


def test_what_outlives_the_next_process_is_asked_again() -> None:
    """That its group was asked before was another one's end."""
    stage = running(spec_of(llm={"stop": {"group": True}}))
    stage.meet(StopRequested(services=("llm",)))
    stage.exited("llm/0", 0).meet(StartRequested(services=("llm",)))
    stage.spawned("llm/0")

    stage.exited("llm/0", 1, alone=False)

    assert [one.scope for one in of_type(Signal, stage.actions)] == ["rest"]


def test_a_stall_is_given_back_to_command_and_signal() -> None:
    """Both have what they had before the daemon stood still."""
    stage = Stage().load(spec_of(llm={"stop": {"exec": ["drain"], "timeout": 30}})).read(bad(GpuState.ABSENT))
    stage.spawned("llm/0").at(2.0).meet(TimePassed((LLM,)))
    stage.meet(StopRequested((LLM,)))

    stage.at(12.0).meet(Stalled(9.0))

    assert (stage["llm/0"].deadline, stage["llm/0"].grace_until) == (36.0, 41.0)


def test_names_in_a_stop_command_are_checked() -> None:
    """It finds the pid beside what its worker finds; nobody else does."""
    spec = spec_of(llm={"stop": {"exec": ["x", "$(MAINPID)", "$(WORKER)", "$(NOBODY)"]}, "env": {"A": "$(MAINPID)"}})

    assert [(one.path[2:], one.message) for one in unknown_names(spec, {})] == [
        (("stop", "exec"), "$(NOBODY) has no value"),
        (("env", "A"), "$(MAINPID) has no value"),
    ]
