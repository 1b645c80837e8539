"""Liveness, words of the worker itself, and how long a start may take."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.environment import lacks
from supervisor.core.inventory import GpuState
from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Cause,
    Exited,
    LivenessLost,
    ProbeAlive,
    ProgressTold,
    RunStopCommand,
    Signal,
    Spawn,
    StartExtended,
    State,
    StopCommandEnded,
)
from supervisor.core.restart import Done, GiveUp, RestartAt
from supervisor.core.spec import Alive, Policy, Ready, Restart, Stop
from supervisor.core.stall import is_counted
from supervisor.core.table import step
from supervisor.core.worker import DeadlinePassed, Worker
from tests.core.builders import LLM, bad, of_type, placed, spec_of, wanted, worker_in
from tests.core.stage import Stage

NOTIFY = Alive(kind="notify")


def policy(alive: Alive = NOTIFY, restart: Restart | None = None) -> Policy:
    return Policy(ready=Ready(kind="tcp", timeout_s=600.0), alive=alive, restart=restart or Restart())


def worker(state: State, treated: Policy | None = None, **changes: object) -> Worker:
    placement = placed(wanted(gpu=0, policy=treated or policy(), port=8000))
    return replace(worker_in(state), target=placement, held=placement, **changes)  # type: ignore[arg-type]


def after(one: Worker, *events: object, now: float) -> Worker:
    for event in events:
        stepped, _ = step(one, event, now)  # type: ignore[arg-type]
        assert stepped is not None
        one = stepped
    return one


def test_it_is_asked_whether_it_lives_on_from_its_first_ready_and_once() -> None:
    """A model that loads is not dead, and one that gets ready again is asked already."""
    first, actions = step(worker(State.STARTING), BecameReady(LLM, 7), 130.0)
    assert first is not None
    assert actions == (ProbeAlive(LLM, 7, 8000, NOTIFY),)

    unready = after(first, BecameUnready(LLM, 7, "refused"), now=140.0)

    assert step(unready, BecameReady(LLM, 7), 150.0)[1] == ()


def test_nobody_asks_where_the_file_does_not_say_so() -> None:
    """`alive` is off unless it is written."""
    assert step(worker(State.STARTING, policy(Alive())), BecameReady(LLM, 7), 130.0)[1] == ()


def test_one_that_hangs_is_stopped_with_grace_and_charged() -> None:
    """Its end is on record with what its last probe found."""
    stopping, actions = step(worker(State.READY), LivenessLost(LLM, 7, "no answer"), 110.0)

    assert stopping is not None
    assert (stopping.state, stopping.cause, stopping.deadline) == (State.STOPPING, Cause.LIVENESS, 140.0)
    assert actions == (Signal(LLM, 7, 15, "main"),)
    ended = after(stopping, Exited(LLM, 7, 0, None, alone=True), now=111.0)
    assert ended.state is State.BACKOFF
    assert ended.history.failures == 1
    assert ended.history.start_failures == 0
    assert ended.last_exit is not None
    assert (ended.last_exit.cause, ended.last_exit.detail, ended.reason) == (Cause.LIVENESS, "no answer", "no answer")


def test_a_watchdog_is_a_cause_of_its_own() -> None:
    """It is the worker who was to speak, not we who were to ask."""
    stopping = after(worker(State.UNREADY), LivenessLost(LLM, 7, "silent", is_watchdog=True), now=110.0)

    assert stopping.cause is Cause.WATCHDOG


def test_one_that_missed_its_watchdog_is_asked_to_show_where_it_hangs() -> None:
    """As systemd does: SIGABRT, which leaves stacks or a core, whatever the file stops by; then grace and SIGKILL."""
    treated = replace(policy(), stop=Stop(signal=2, timeout_s=20.0))
    stopping, actions = step(worker(State.READY, treated), LivenessLost(LLM, 7, "silent", is_watchdog=True), 110.0)

    assert stopping is not None
    assert (stopping.state, stopping.deadline) == (State.STOPPING, 130.0)
    assert actions == (Signal(LLM, 7, 6, "main"),)

    # Of a wrapper it is the child that hangs.
    _, left = step(stopping, Exited(LLM, 7, None, 6, core_dumped=True), 111.0)
    assert left == (Signal(LLM, 7, 6, "rest"),)
    ended = after(stopping, Exited(LLM, 7, None, 6, core_dumped=True, alone=True), now=111.0)
    assert ended.last_exit is not None
    record = ended.last_exit
    assert (record.cause, record.signal, record.detail) == (Cause.WATCHDOG, "SIGABRT", "silent; dumped core")

    killed = after(stopping, DeadlinePassed(), Exited(LLM, 7, None, 9, alone=True), now=130.0)
    assert killed.last_exit is not None
    assert killed.last_exit.detail == "silent; it did not end when it got SIGABRT"


def test_a_stop_command_comes_before_the_signal_of_a_watchdog_too() -> None:
    """It takes the worker out of a balancer, which one that hangs needs more than others."""
    treated = replace(policy(), stop=Stop(timeout_s=20.0, exec=("drain",), group=True))
    stopping, actions = step(worker(State.READY, treated), LivenessLost(LLM, 7, "silent", is_watchdog=True), 110.0)
    assert stopping is not None
    assert [type(one) for one in actions] == [RunStopCommand]

    assert step(stopping, StopCommandEnded(LLM, 7, ""), 111.0)[1] == (Signal(LLM, 7, 6, "group"),)


def test_one_that_hangs_is_a_failure_whatever_its_code() -> None:
    """Code 0 is not done, a permanent code is not permanent: it was ended, it did not end."""
    for restart, code in ((Restart(policy="on-failure"), 0), (Restart(), 78)):
        stopping = after(worker(State.READY, policy(restart=restart)), LivenessLost(LLM, 7, "no"), now=110.0)
        ended = after(stopping, Exited(LLM, 7, code, None, alone=True), now=111.0)
        assert not isinstance(ended.verdict, Done | GiveUp)
        assert ended.state is State.BACKOFF

    never = after(worker(State.READY, policy(restart=Restart(policy="never"))), LivenessLost(LLM, 7, "no"), now=110.0)
    failed = after(never, Exited(LLM, 7, 0, None, alone=True), now=111.0)
    assert failed.state is State.FAILED
    assert failed.reason == "did not answer any more, and its policy is never to restart"


def test_a_healthy_one_that_hangs_comes_back_at_once() -> None:
    """It was ready for long enough when it stopped answering; the time that its end takes does not count."""
    healthy = after(worker(State.READY), LivenessLost(LLM, 7, "no"), now=161.0)
    killed = after(healthy, DeadlinePassed(), now=191.0)
    ended = after(killed, Exited(LLM, 7, None, 9, alone=False), now=191.5)
    assert ended.verdict == RestartAt(191.5)
    assert ended.history.failures == 0

    young = after(worker(State.READY), LivenessLost(LLM, 7, "no"), DeadlinePassed(), now=159.0)
    assert after(young, Exited(LLM, 7, None, 9, alone=False), now=191.5).history.failures == 1


def test_what_its_probe_finds_is_the_reason_of_a_long_start() -> None:
    """Until it is ready."""
    loading = after(worker(State.STARTING), BecameUnready(LLM, 7, "/health answered 503"), now=120.0)

    assert (loading.state, loading.reason) == (State.STARTING, "/health answered 503")
    assert after(loading, BecameReady(LLM, 7), now=130.0).reason == ""


def test_its_own_words_are_kept_until_its_next_start() -> None:
    """Of a process that is no more they say nothing."""
    assert after(worker(State.READY), ProgressTold(LLM, 7, "serving"), now=120.0).said == "serving"


def test_a_start_is_extended_up_to_an_hour() -> None:
    """From the moment on at which it asks, never to less than it had, and however often it asks."""
    starting = worker(State.STARTING)  # Since 100, until 700.

    assert after(starting, StartExtended(LLM, 7, 10.0), now=120.0).deadline == 700.0
    assert after(starting, StartExtended(LLM, 7, 900.0), now=120.0).deadline == 1020.0
    assert after(starting, StartExtended(LLM, 7, 9000.0), now=120.0).deadline == 3700.0
    assert after(starting, StartExtended(LLM, 7, 9000.0), now=3000.0).deadline == 3700.0


def test_a_file_that_gives_more_than_an_hour_is_not_cut() -> None:
    """The cap is on what a worker may ask for."""
    patient = replace(worker(State.STARTING), deadline=10_000.0)

    assert after(patient, StartExtended(LLM, 7, 9000.0), now=5000.0).deadline == 10_000.0


def test_an_extended_start_says_how_long_it_took() -> None:
    """The file's timeout would be a wrong number."""
    starting = after(worker(State.STARTING), StartExtended(LLM, 7, 900.0), now=120.0)
    stopping = after(starting, DeadlinePassed(), now=1020.0)
    ended = after(stopping, Exited(LLM, 7, None, 15, alone=True), now=1021.0)

    assert stopping.reason == "not ready within 920 s, more time that it asked for included"
    assert ended.last_exit is not None
    assert ended.last_exit.detail == stopping.reason


def test_a_stall_is_measured_for_those_who_give_signs_of_life() -> None:
    """Their clock runs outside the core, and has to be told of time in which nobody listened."""
    assert is_counted(worker(State.READY))
    assert not is_counted(worker(State.READY, policy(Alive(kind="http", http="/health"))))
    assert not is_counted(worker_in(State.BACKOFF))


def test_who_speaks_for_himself_finds_where_and_how_often() -> None:
    """NOTIFY_SOCKET, filled in where the process is started; WATCHDOG_USEC where signs of life are asked for."""
    cases: tuple[tuple[dict[str, object], set[str]], ...] = (
        ({"ready": {"notify": True}}, {"NOTIFY_SOCKET"}),
        ({"alive": {"notify": True, "interval": 2, "failures": 5}}, {"NOTIFY_SOCKET", "WATCHDOG_USEC"}),
        ({"alive": {"exec": ["check"]}}, set()),
    )
    for keys, names in cases:
        stage = Stage().load(spec_of(llm=keys))
        (spawn,) = of_type(Spawn, stage.read(bad(GpuState.ABSENT)).history)
        assert spawn.env.keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC"} == names
        assert spawn.env.get("WATCHDOG_USEC", "10000000") == "10000000"
        assert lacks("NOTIFY_SOCKET", spawn.env) == bool(names)
