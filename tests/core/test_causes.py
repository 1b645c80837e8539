"""Why a worker died: by the way it ended, by what the kernel says, and by its own known last words."""

from __future__ import annotations

import pytest

from supervisor.core.last_words import LINE_MAX, TABLE, find_words
from supervisor.core.message import Cause, Exited, Report, State
from supervisor.core.spec import SpecError
from supervisor.core.story import make_death, transition_json
from tests.core.builders import LLM, devices, meet, of_type, spec_of, worker_in
from tests.core.stage import running

TRACE = (
    "Traceback (most recent call last):",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
    "RuntimeError: Engine core initialization failed.",
)


def died(code: int | None = 1, number: int | None = None, **more: object) -> Exited:
    return Exited(LLM, 7, code, number, alone=True, tail=TRACE, **more)  # type: ignore[arg-type]


def test_cuda_out_of_memory_is_a_cause_wherever_it_stands_in_the_last_lines() -> None:
    after, _ = meet(worker_in(State.READY), died(), 200.0)

    assert after.last_exit is not None
    assert (after.last_exit.cause, after.last_exit.detail) == (Cause.CUDA_OOM, "CUDA out of memory")


def test_who_ended_well_did_not_die_of_what_it_said() -> None:
    after, _ = meet(worker_in(State.READY), died(0), 200.0)

    assert after.last_exit is not None
    assert (after.last_exit.cause, after.last_exit.detail) == (Cause.EXIT, "")


def test_what_we_ended_it_for_and_what_the_kernel_says_go_before_its_words() -> None:
    stopped, _ = meet(worker_in(State.STOPPING), died(), 110.0)
    starved, _ = meet(worker_in(State.READY), died(None, 9, out_of_memory=True), 200.0)

    assert stopped.last_exit is not None
    assert stopped.last_exit.cause is Cause.OPERATOR
    assert starved.last_exit is not None
    assert starved.last_exit.cause is Cause.HOST_OOM


def test_words_that_are_no_cause_are_told() -> None:
    """An NCCL error is an exit, and its reason says more."""
    stage = running(spec_of(a={}))
    stage.meet(Exited(stage["a/0"].id, stage["a/0"].incarnation, 1, None, alone=True, tail=("NCCL error in: x.cpp",)))

    assert stage["a/0"].reason == "exited with 1: NCCL error"


def test_a_core_is_told() -> None:
    after, _ = meet(worker_in(State.READY), Exited(LLM, 7, None, 11, core_dumped=True, alone=True), 200.0)

    assert after.last_exit is not None
    assert (after.last_exit.core_dumped, after.last_exit.detail) == (True, "dumped core")


def test_only_the_beginning_of_a_line_is_looked_at() -> None:
    assert find_words(("x" * LINE_MAX + "CUDA out of memory",)) is None


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.pattern)
def test_every_row_is_reached_and_names_a_cause_of_the_contract(row: object) -> None:
    """A row behind one that contains it would never be."""
    from supervisor.core.last_words import Words

    assert isinstance(row, Words)
    assert find_words((f"E: {row.pattern}: more",)) is not None
    assert row.cause == "" or row.cause in set(Cause)
    assert row.meaning


# ---- restart.on -----------------------------------------------------------------------------------------------------


def test_a_cause_has_its_own_policy_and_the_rest_of_the_usual_one() -> None:
    spec = spec_of(a={"restart": {"delay": 1, "limit": 7, "on": {"cuda_oom": {"delay": 30, "max_delay": "2m"}}}})
    policy = spec.services["a"].restart

    assert (policy.for_cause("exit").delay_s, policy.for_cause("cuda_oom").delay_s) == (1.0, 30.0)
    assert policy.for_cause("cuda_oom").limit == 7


def test_the_policy_of_its_cause_decides() -> None:
    stage = running(spec_of(a={"restart": {"on": {"cuda_oom": {"policy": "never", "parole": "1m"}}}}))
    one = stage["a/0"]

    stage.meet(Exited(one.id, one.incarnation, 1, None, alone=True, tail=TRACE))

    assert stage.state("a/0") == "failed"
    stage = running(spec_of(a={"restart": {"on": {"cuda_oom": {"policy": "never"}}}}))
    assert stage.exited("a/0").state("a/0") == "backoff"


def test_the_parole_of_its_cause_counts() -> None:
    stage = running(spec_of(a={"restart": {"on": {"signal": {"limit": 1, "parole": "1m"}}}}))

    stage.exited("a/0", signal=11)

    assert (stage.state("a/0"), stage["a/0"].deadline) == ("failed", stage.now + 60.0)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("cuda_oo", ("unknown cause 'cuda_oo'", "did you mean cuda_oom?")),
        ("rollout", ("rollout has no policy", "such an end is nobody's fault and is followed at once")),
    ],
)
def test_a_cause_that_has_no_policy_is_refused(cause: str, words: tuple[str, str]) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(a={"restart": {"on": {cause: {"delay": 1}}}})

    (problem,) = caught.value.problems
    assert (problem.message, problem.hint) == words
    assert problem.path == ("services", "a", "restart", "on", cause)


def test_what_is_wrong_in_a_policy_of_a_cause_is_told_there() -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(a={"restart": {"on": {"exit": {"delay": "2m"}, "signal": {"permanent_exit": [1]}}}})

    assert [(one.path[-2:], one.hint) for one in caught.value.problems] == [
        (("signal", "permanent_exit"), "it belongs to restart itself"),
        (("exit", "delay"), "raise max_delay"),
    ]


# ---- the record -----------------------------------------------------------------------------------------------------


def test_the_record_has_times_cause_lines_devices_and_timeline_and_nothing_of_the_environment() -> None:
    stage = running(spec_of(a={"resources": {"gpu": 1}, "port": 8000, "env": {"TOKEN": "s3cret"}}), *devices(1))
    before, fleet = stage["a/0"], stage.fleet
    timeline = [one.transition for one in of_type(Report, stage.history)]
    stage.at(42.0).meet(Exited(before.id, before.incarnation, 1, None, alone=True, tail=TRACE))

    death = make_death(fleet, before, stage["a/0"], timeline, lambda at: f"T+{at:g}")

    assert death is not None
    assert (death["cause"], death["at"], death["uptime_s"], death["was_ready"]) == ("cuda_oom", "T+42", 42.0, True)
    assert death["tail"] == list(TRACE)
    assert death["devices"][0]["memory"] == {"total": 80 * 2**30, "free": 79 * 2**30, "read_at": "T+0"}
    assert [one["after"] for one in death["timeline"]] == ["starting", "ready"]
    assert "s3cret" not in repr(death)
    assert make_death(stage.fleet, stage["a/0"], stage["a/0"], (), str) is None


def test_a_transition_is_told_with_its_reason_and_fields() -> None:
    stage = running(spec_of(a={}))
    stage.exited("a/0")
    (report,) = of_type(Report, stage.actions)

    told = transition_json(report.transition, str)

    assert (told["worker"], told["before"], told["after"], told["exit_code"]) == ("a/0", "ready", "backoff", 1)
