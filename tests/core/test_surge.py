"""`update.surge`: more workers for as long as a roll-out takes, where other devices have room."""

from __future__ import annotations

import pytest

from supervisor.core.message import (
    FinishReload,
    QuarantineRequested,
    ReloadRequested,
    Say,
    ScaleRequested,
    ShutdownRequested,
    StopRequested,
    TimePassed,
)
from supervisor.core.outcome import unsettled
from supervisor.core.preview import preview
from supervisor.core.snapshot import make_rollout_json
from supervisor.core.spec import Spec, WorkerId
from tests.core.builders import device, devices, good, of_type, spec_of, uuid_of
from tests.core.spec_documents import problem_of
from tests.core.stage import Stage, running

UPDATE = {"max_unavailable": 0, "surge": 1}
OLD: dict[str, str] = {}
NEW = {"A": "1"}


def llm(workers: int = 2, **keys: object) -> Spec:
    """One service of workers with a GPU each."""
    return spec_of(llm={"workers": workers, "resources": {"gpu": 1}, "update": UPDATE, **keys})


def rolling(gpus: int = 3, spec: Spec | None = None, old: Spec | None = None) -> Stage:
    """Two workers, and a reload of another launch at second 100."""
    stage = running(old or llm(), *devices(gpus))
    stage.at(100.0).reload(spec or llm(env=NEW), good(*devices(gpus)))
    return stage


def ready(stage: Stage) -> int:
    return list(stage.states().values()).count("ready")


def finish(stage: Stage) -> set[int]:
    """Let everybody who is asked to go, and everybody who starts get ready; how many were ready meanwhile."""
    seen = set()
    for _ in range(100):
        seen.add(ready(stage))
        states = stage.states()
        if going := [one for one, state in states.items() if state == "stopping"]:
            stage.exited(going[0], 0)
        elif coming := [one for one, state in states.items() if state == "starting"]:
            stage.ready(coming[0])
        else:
            return seen
    raise AssertionError(stage.states())


def envs(stage: Stage) -> list[dict[str, str]]:
    """What their processes were started with, by index."""
    workers = [one for _, one in sorted(stage.fleet.workers.items())]
    return [dict(one.held.wanted.recipe.env) for one in workers if one.held]


def test_another_one_is_ready_before_anybody_goes() -> None:
    """It is the canary too, runs on a GPU that no other is on, and is ended when all are replaced."""
    stage = rolling()

    assert stage.states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "starting"}
    assert stage.slices()["llm/2"] == (2,)
    assert unsettled(stage.fleet)

    assert finish(stage) == {2}
    assert stage.states() == {"llm/0": "ready", "llm/1": "ready"}
    assert envs(stage) == [NEW, NEW]
    assert stage.slices() == {"llm/0": (0,), "llm/1": (1,)}
    assert unsettled(stage.fleet) == ()


def test_the_count_is_what_it_was() -> None:
    """To those who read it, the workers themselves among them."""
    stage = rolling()

    assert stage.fleet.counts == {"llm": 2}
    held = stage["llm/2"].held
    assert held is not None
    assert held.wanted.request.gpus is None


def test_without_room_it_rolls_as_without() -> None:
    """One is missing then, and the log says why."""
    stage = rolling(gpus=2)

    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}
    (said,) = [one for one in of_type(Say, stage.history) if one.event == "plan.surge_dropped"]
    assert said.fields["max_unavailable"] == 1
    assert "every GPU that would do has a worker of llm" in str(said.fields["reason"])
    assert finish(stage) == {1, 2}
    assert envs(stage) == [NEW, NEW]


def test_half_a_gpu_beside_another_of_the_service_is_no_room() -> None:
    """Never the same device twice."""
    half = {"gpu": 0.5}
    stage = rolling(1, llm(1, env=NEW, resources=half), llm(1, resources=half))

    assert stage.states() == {"llm/0": "stopping"}


def test_one_that_asks_for_all_gpus_is_not_content_with_some() -> None:
    """Another daemon has one of them."""
    stage = running(llm(1, resources={"gpu": 0}), *devices(2))
    stage.rivals[uuid_of(1)] = "held by another daemon (pid 7, user ann)"

    stage.at(100.0).reload(llm(1, resources={"gpu": "all"}), good(*devices(2)))
    stage.at(101.0).read(good(*devices(2)))

    assert all(not slice_ for slice_ in stage.slices().values())
    assert stage.states()["llm/0"] == "ready"


def test_what_it_has_is_left_to_those_who_have_no_place_otherwise() -> None:
    """A bigger launch fits all workers only without it: it was the canary, and the others follow."""
    stage = rolling(4, llm(env=NEW, resources={"gpu": 2}))
    assert stage.slices()["llm/2"] == (2, 3)

    finish(stage)

    assert stage.slices() == {"llm/0": (0, 1), "llm/1": (2, 3)}
    assert envs(stage) == [NEW, NEW]
    assert stage.fleet.last_reload is not None
    assert stage.fleet.last_reload.ok


def test_who_serves_nobody_goes_first_and_may_leave_room() -> None:
    """What there is room for is known only then."""
    stage = running(llm(on_no_gpu="cpu", resources={"gpu": 3}), *devices(3))
    assert stage.slices() == {"llm/0": (0, 1, 2), "llm/1": ()}
    stage.exited("llm/0", 1)

    stage.at(50.0).reload(llm(on_no_gpu="cpu", env=NEW), good(*devices(3)))
    stage.ready("llm/0")

    assert stage.states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "starting"}
    assert "plan.surge_dropped" not in [one.event for one in of_type(Say, stage.history)]


def test_one_without_a_gpu_leaves_room_to_nobody() -> None:
    """It serves on, and the launch that has no place is the end of the roll-out."""
    stage = rolling(0, llm(env=NEW, resources={}), llm(resources={})).ready("llm/2")
    stage.at(110.0).reload(llm(env={"A": "2"}), good())

    stage.exited("llm/0", 0)

    assert stage.states() == {"llm/0": "starting", "llm/1": "ready", "llm/2": "ready"}
    assert stage.fleet.last_reload is not None
    assert "no place" in stage.fleet.last_reload.problems[0]


def test_without_a_gpu_there_is_room() -> None:
    """On the host."""
    stage = rolling(0, llm(env=NEW, resources={}), llm(resources={}))

    assert stage.states()["llm/2"] == "starting"
    assert finish(stage) == {2}
    assert len(stage.fleet.workers) == 2


def test_one_first_then_as_many_as_there_is_room_for() -> None:
    """And as many go at once as there are more."""
    update = {"max_unavailable": 0, "surge": 3}
    stage = rolling(6, llm(4, env=NEW, update=update), llm(4, update=update))
    assert [one for one, state in stage.states().items() if state == "starting"] == ["llm/4"]

    stage.ready("llm/4")

    assert stage.states()["llm/5"] == "starting"
    assert "llm/6" not in stage.states()
    assert [one for one, state in stage.states().items() if state == "stopping"] == ["llm/0"]
    stage.ready("llm/5")
    assert [one for one, state in stage.states().items() if state == "stopping"] == ["llm/0", "llm/1"]
    assert min(finish(stage)) >= 4
    assert envs(stage) == [NEW] * 4


def test_one_that_does_not_work_costs_nobody_anything() -> None:
    """The roll-out is halted, and it is gone."""
    stage = rolling()

    stage.spawn_failed("llm/2", 2)

    assert stage.states() == {"llm/0": "ready", "llm/1": "ready"}
    assert envs(stage) == [OLD, OLD]
    assert stage.fleet.last_reload is not None
    assert not stage.fleet.last_reload.ok
    assert "llm/2 did not get ready" in stage.fleet.last_reload.problems[0]


def test_it_serves_until_those_are_back_whose_roll_out_is_halted() -> None:
    """The others go back one by one meanwhile."""
    stage = rolling().ready("llm/2")
    stage.exited("llm/0", 0).spawn_failed("llm/0", 2)

    assert stage.states() == {"llm/0": "starting", "llm/1": "ready", "llm/2": "ready"}
    stage.ready("llm/0")
    assert stage.states() == {"llm/0": "ready", "llm/1": "ready", "llm/2": "stopping"}
    stage.exited("llm/2", 0)
    assert envs(stage) == [OLD, OLD]


def test_one_whose_gpu_is_sick_does_not_come_back_without_a_gpu() -> None:
    """`on_no_gpu: cpu` is for those that the file wants: the others serve, and nothing is gained by a slow one more."""
    file = llm(env=NEW, on_no_gpu="cpu")
    stage = rolling(3, file, llm(on_no_gpu="cpu")).ready("llm/2")
    stage.driver = None
    stage.at(101.0).meet(ReloadRequested())
    stage.load(file).at(101.5).meet(QuarantineRequested((uuid_of(2),)))
    stage.exited("llm/2", 0)
    stage.at(102.0).read(good(*devices(3)), asked_at=101.0)
    assert stage.states()["llm/2"] == "releasing"
    assert "plan.degraded" not in [one.event for one in of_type(Say, stage.history)]

    stage.at(103.0).read(good(*devices(3)))

    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}


def test_one_that_waits_too_long_for_memory_is_given_up() -> None:
    """A stranger is on the only other GPU: nobody waits for him for ever."""
    full = good(*devices(2), device(2, free=1))
    stage = running(llm(), *devices(3))
    stage.driver = full
    stage.at(100.0).reload(llm(env=NEW, ready={"timeout": 30, "after": 1}), full)
    assert stage.states()["llm/2"] == "pending"

    stage.pass_time(150.0)
    assert stage.states()["llm/0"] == "ready"
    stage.pass_time(170.0)

    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}


def test_a_reload_in_the_middle_goes_on_with_it() -> None:
    """It is the first to get the newest launch: it is nobody's loss."""
    stage = rolling().ready("llm/2").exited("llm/0", 0).ready("llm/0")
    assert stage.states() == {"llm/0": "ready", "llm/1": "stopping", "llm/2": "ready"}

    stage.at(110.0).reload(llm(env={"A": "2"}), good(*devices(3)))
    assert stage.states() == {"llm/0": "ready", "llm/1": "stopping", "llm/2": "ready"}

    assert min(finish(stage)) >= 2
    assert envs(stage) == [{"A": "2"}, {"A": "2"}]


def test_a_file_that_wants_fewer_ends_those_that_are_not_ready() -> None:
    """In the middle of a roll-out: who serves stays."""
    many, few = {"max_unavailable": 0, "surge": 2}, {"max_unavailable": 0, "surge": 1}
    stage = rolling(6, llm(4, env=NEW, update=many), llm(4, update=many)).ready("llm/4")
    assert stage.states()["llm/5"] == "starting"

    stage.at(110.0).reload(llm(4, env=NEW, update=few), good(*devices(6)))

    assert stage.states()["llm/4"] == "ready"
    assert stage.states()["llm/5"] == "stopping"
    stage.exited("llm/5", 0)
    assert min(finish(stage)) >= 4
    assert envs(stage) == [NEW] * 4


def test_back_to_the_old_file_it_is_ended() -> None:
    """Nobody else has anything else yet."""
    stage = rolling().ready("llm/2")
    stage.at(110.0)

    back = stage.reload(llm(), good(*devices(3)))

    assert back == FinishReload(ok=True, difference={}, changed=("services.llm",))
    finish(stage)
    assert stage.states() == {"llm/0": "ready", "llm/1": "ready"}
    assert envs(stage) == [OLD, OLD]


def test_one_that_goes_for_good_does_not_go_for_another_launch() -> None:
    """Back to the old file, or halted: nothing is left that it could make way for."""
    stage = rolling().at(110.0)
    stage.reload(llm(), good(*devices(3)))
    assert (stage.state("llm/2"), stage["llm/2"].reason) == ("stopping", "not wanted any more")

    update = {"max_unavailable": 2, "surge": 1}
    stage = rolling(4, llm(3, env=NEW, update=update), llm(3, update=update)).ready("llm/3").at(110.0)
    stage.reload(llm(3, env={"A": "2"}, update=update), good(*devices(4)))
    stage.exited("llm/0", 0).ready("llm/0").exited("llm/3", 0)
    assert stage.state("llm/3") == "starting"
    stage.exited("llm/1", 0).spawn_failed("llm/1", 2)
    assert (stage.state("llm/3"), stage["llm/3"].reason) == ("stopping", "not wanted any more")


def test_one_more_worker_is_what_it_becomes() -> None:
    """It is started as the worker that an operator asks for would be."""
    stage = rolling().ready("llm/2")
    pid = stage["llm/2"].pid

    stage.at(110.0).meet(ScaleRequested({"llm": 3}))
    finish(stage)

    assert envs(stage) == [NEW, NEW, NEW]
    assert stage["llm/2"].pid == pid
    assert not stage.fleet.extras


@pytest.mark.parametrize("workers", ["llm/2", None])
def test_an_operator_may_stop_it(workers: str | None) -> None:
    """Alone, then it rolls without; or with all others."""
    stage = rolling().spawned("llm/2")
    named = (WorkerId.parse(workers),) if workers else ()

    stage.at(110.0).meet(StopRequested(services=() if workers else ("llm",), workers=named))
    finish(stage)

    assert not stage.fleet.extras
    assert stage.states() == dict.fromkeys(("llm/0", "llm/1"), "ready" if workers else "stopped")


def test_it_ends_with_the_daemon() -> None:
    """As all others do."""
    stage = rolling().ready("llm/2")

    stage.at(110.0).meet(ShutdownRequested())
    finish(stage)

    assert stage.states() == {}


def test_one_that_crashes_is_waited_for() -> None:
    """Nobody else goes before it is back."""
    stage = rolling().ready("llm/2").exited("llm/0", 0).ready("llm/0").exited("llm/1", 0)
    stage.exited("llm/2", 1)

    stage.ready("llm/1")
    stage.meet(TimePassed(()))

    assert finish(stage)
    assert envs(stage) == [NEW, NEW]


def test_the_steps_are_told_beforehand() -> None:
    """Who comes, who goes, and that nobody is missing; or why somebody is."""
    for gpus, expected in (
        (
            3,
            {
                "steps": [
                    {"workers": ["llm/2"], "ready": 2},
                    {"workers": ["llm/0"], "ready": 2},
                    {"workers": ["llm/1"], "ready": 2},
                ],
                "extra": ["llm/2"],
                "reason": "",
            },
        ),
        (
            2,
            {
                "steps": [{"workers": ["llm/0"], "ready": 1}, {"workers": ["llm/1"], "ready": 1}],
                "extra": [],
                "reason": "no room for one more worker: every GPU that would do has a worker of llm",
            },
        ),
    ):
        stage = running(llm(), *devices(gpus))

        found = make_rollout_json(stage.fleet, llm(env=NEW), preview(stage.fleet, llm(env=NEW), 1))

        assert found == [{"service": "llm", "target": 2, **expected}]


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"port": 8000, "update": {"surge": 1}}, ("update", "surge")),
        ({"workers": [{}, {}], "update": {"surge": 1}}, ("update", "surge")),
        ({"workers": "per_gpu", "resources": {"gpu": 1}, "update": {"surge": 1}}, ("update", "surge")),
        ({"update": {"max_unavailable": 0}}, ("update", "max_unavailable")),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, object], where: tuple[str, ...]) -> None:
    """One more needs to be like the others and to have room; and somebody has to be missing if nobody comes."""
    path, problem = problem_of(**keys)

    assert path == ".".join(where)
    assert problem.hint
