"""What an operator asks for: holds that outlive workers and files, restarts in turn, counts until the next reload."""

from __future__ import annotations

import pytest

from supervisor.core.message import (
    Cause,
    RestartRequested,
    Say,
    ScaleRequested,
    SpecLoaded,
    StartRequested,
    StopRequested,
)
from supervisor.core.message import ReloadRequested as Reload
from supervisor.core.outcome import unsettled
from supervisor.core.snapshot import View, make_status
from supervisor.core.spec import Spec, WorkerId, scale_problems
from tests.core.builders import devices, good, of_type, spec_of
from tests.core.stage import Stage, running

FOUR = good(*devices(4))


def web(workers: object = 3, **keys: object) -> Spec:
    """Workers without a GPU."""
    return spec_of(web={"workers": workers, "port": 8000, **keys})


def stopped(stage: Stage, *workers: str, services: tuple[str, ...] = ()) -> Stage:
    """An operator stops them, and they end."""
    stage.meet(StopRequested(tuple(WorkerId.parse(one) for one in workers), services))
    for name, state in stage.states().items():
        if state == "stopping":
            stage.exited(name, 0)
    return stage


def scaled(stage: Stage) -> dict[str, tuple[int, bool]]:
    """Target and mark of each service, as the status shows them."""
    services = make_status(stage.fleet, View(rfc3339=str))["services"]
    return {service["name"]: (service["target"], service["scaled"]) for service in services}


# ---- stop and start -------------------------------------------------------------------------------------------------


def test_a_stopped_service_stays_down_over_reloads_with_all_that_grow() -> None:
    """Also what a reload replaces, removes and adds back, and a service that left the file for a while."""
    stage = stopped(running(web(2)), services=("web",))

    stage.at(10.0).reload(web(4, command="other"), good())
    assert set(stage.states().values()) == {"stopped"}
    stage.at(20.0).reload(spec_of(other={}), good())
    stage.at(30.0).reload(web(2), good())

    assert (stage.state("web/0"), stage.state("web/1")) == ("stopped", "stopped")


def test_a_stopped_worker_that_is_removed_and_added_back_stays_down() -> None:
    """It is the index that is held."""
    stage = stopped(running(web(3)), "web/2")

    stage.at(10.0).reload(web(2), good())
    assert stage.state("web/2") == "gone"
    stage.at(20.0).reload(web(3), good())

    assert stage.state("web/2") == "stopped"


def test_start_of_a_service_ends_every_hold_in_it() -> None:
    """Those of its workers too, and those of workers that are not there."""
    stage = stopped(running(web(3)), "web/2")
    stage.at(10.0).reload(web(2), good())

    stage.meet(StartRequested(services=("web",)))
    stage.at(20.0).reload(web(3), good())

    assert stage.state("web/2") == "starting"


def test_one_started_out_of_a_stopped_service_is_alone_in_that() -> None:
    """The rest and those to come stay down; it comes back when it was away."""
    stage = stopped(running(web(3)), services=("web",))

    stage.meet(StartRequested((WorkerId("web", 1),)))
    assert stage.states() == {"web/0": "stopped", "web/1": "starting", "web/2": "stopped"}
    stage.ready("web/1").at(10.0).reload(web(0), good())
    stage.exited("web/1", 0).at(20.0).reload(web(4), good())

    assert stage.states() == {f"web/{i}": "starting" if i == 1 else "stopped" for i in range(4)}


def test_a_stop_of_the_service_holds_one_that_was_started_out_of_it_again() -> None:
    """Also when it was away meanwhile."""
    stage = stopped(running(web(2)), services=("web",))
    stage.meet(StartRequested((WorkerId("web", 1),)))
    stage.ready("web/1")

    stopped(stage, services=("web",))
    stage.at(10.0).reload(web(1), good())
    stage.at(20.0).reload(web(2), good())

    assert stage.states() == {"web/0": "stopped", "web/1": "stopped"}


def test_no_slice_is_kept_for_one_that_is_born_held_down() -> None:
    """The GPU goes to who may run."""
    stage = stopped(running(spec_of(llm={"workers": 1, "resources": {"gpu": 4}}), *devices(4)), services=("llm",))

    stage.at(10.0).reload(spec_of(llm={"workers": 4, "resources": {"gpu": 1}}, web={"resources": {"gpu": 4}}), FOUR)

    assert stage.state("web/0") == "starting"


def test_orders_can_be_given_twice_and_about_nobody() -> None:
    """The second changes nothing, and what is not there does no harm."""
    stage = running(web(2))

    for _ in range(2):
        stage.meet(StopRequested((WorkerId("web", 0), WorkerId("nope", 7)), ("gone",)))
    assert stage.states() == {"web/0": "stopping", "web/1": "ready"}
    stage.exited("web/0", 0)
    for _ in range(2):
        stage.meet(StartRequested((WorkerId("web", 0), WorkerId("nope", 7))))

    assert stage.states() == {"web/0": "starting", "web/1": "ready"}


# ---- restart --------------------------------------------------------------------------------------------------------


def test_restart_replaces_one_at_a_time() -> None:
    """The next when the last is ready; the cause of the end is the operator."""
    stage = running(web(3))

    stage.at(100.0).meet(RestartRequested(services=("web",)))

    for worker in ("web/0", "web/1", "web/2"):
        assert [name for name, state in stage.states().items() if state != "ready"] == [worker]
        stage.exited(worker, 0).spawned(worker)
        record = stage[worker].last_exit
        assert record is not None
        assert record.cause is Cause.OPERATOR
        stage.ready(worker)
    assert set(stage.states().values()) == {"ready"}
    assert [worker.starts for worker in stage.fleet.workers.values()] == [2, 2, 2]
    assert not stage.fleet.restarting


def test_restart_is_no_part_of_a_reload() -> None:
    """Who waits for a reload does not wait for it."""
    stage = running(web(2))

    stage.at(100.0).meet(RestartRequested((WorkerId("web", 1),)))
    stage.exited("web/1", 0).ready("web/1").meet(RestartRequested(services=("web",)))

    assert unsettled(stage.fleet) == (WorkerId("web", 0),)  # It is on its way; web/1 waits for its turn.


def test_restart_halts_when_the_first_one_fails() -> None:
    """The rest go on; a further restart is another one."""
    stage = running(web(3))
    stage.at(100.0).meet(RestartRequested(services=("web",)))

    stage.exited("web/0", 0).spawn_failed("web/0", 2)

    assert stage.states() == {"web/0": "failed", "web/1": "ready", "web/2": "ready"}
    assert [say.event for say in of_type(Say, stage.actions)] == ["plan.halted"]
    assert stage.fleet.last_reload is None
    stage.at(200.0).meet(RestartRequested(services=("web",)))
    assert stage.states() == {"web/0": "starting", "web/1": "ready", "web/2": "ready"}
    assert stage.ready("web/0").states() == {"web/0": "ready", "web/1": "stopping", "web/2": "ready"}


def test_restart_of_one_does_not_wait_for_another_in_trouble() -> None:
    """Nor does it touch it."""
    stage = running(web(2, restart={"start_limit": 0, "limit": 0}))
    stage.at(1.0).exited("web/1", 1)

    stage.meet(RestartRequested((WorkerId("web", 0),)))

    assert stage.states() == {"web/0": "stopping", "web/1": "backoff"}


def test_restart_leaves_alone_who_is_held_down() -> None:
    """`stop` holds until `start`."""
    stage = stopped(running(web(2)), "web/1")

    stage.meet(RestartRequested(services=("web",)))
    stage.exited("web/0", 0).ready("web/0")

    assert stage.states() == {"web/0": "ready", "web/1": "stopped"}


@pytest.mark.parametrize("state", ["backoff", "failed", "exited"])
def test_restart_starts_who_has_no_process(state: str) -> None:
    """With clean counts, at once."""
    restart = {"backoff": {}, "failed": {"start_limit": 1}, "exited": {"policy": "on-failure"}}[state]
    stage = Stage().load(spec_of(web={"restart": restart})).read(good()).spawned("web/0")
    stage.exited("web/0", 0 if state == "exited" else 1)
    assert stage.state("web/0") == state

    stage.meet(RestartRequested((WorkerId("web", 0),)))

    assert stage.state("web/0") == "starting"
    assert stage["web/0"].history.failures == 0


def test_restart_asks_for_a_gpu_again_and_nothing_else_does() -> None:
    """A worker on the CPU stays there over reloads and crashes."""
    spec = spec_of(llm={"resources": {"gpu": 1}, "on_no_gpu": "cpu", "port": 8000})
    stage = running(spec)
    stage.at(10.0).reload(spec, FOUR)
    stage.exited("llm/0", 1).pass_time(20.0).ready("llm/0")
    assert stage["llm/0"].occupied == ()

    stage.meet(RestartRequested((WorkerId("llm", 0),)))
    stage.exited("llm/0", 0)

    assert stage.slices() == {"llm/0": (0,)}


# ---- scale ----------------------------------------------------------------------------------------------------------


def test_scale_holds_until_the_next_reload_and_is_marked() -> None:
    """The highest indices go first; the file's own count is no override."""
    stage = running(web(2))

    stage.meet(ScaleRequested({"web": 3}))
    assert stage.states() == {"web/0": "ready", "web/1": "ready", "web/2": "starting"}
    assert scaled(stage) == {"web": (3, True)}
    stage.meet(ScaleRequested({"web": 1}))
    assert stage.state("web/1") == "stopping"
    stage.meet(ScaleRequested({"web": 2}))
    assert scaled(stage) == {"web": (2, False)}
    stage.meet(ScaleRequested({"web": 5}))
    stage.at(10.0).reload(web(2), good())

    assert scaled(stage) == {"web": (2, False)}


def test_scale_beside_a_reload_is_not_taken_back_by_it() -> None:
    """It was asked for later; one more reload takes it back."""
    stage = running(web(2))

    stage.at(10.0).meet(Reload())
    stage.meet(ScaleRequested({"web": 3}))
    stage.meet(SpecLoaded(web(2)))
    stage.read(good())
    assert scaled(stage) == {"web": (3, True)}
    stage.at(20.0).reload(web(2), good())

    assert scaled(stage) == {"web": (2, False)}


def test_a_refused_reload_keeps_what_was_scaled() -> None:
    """A bad file changes nothing."""
    from supervisor.core.message import SpecRejected

    stage = running(web(2))
    stage.meet(ScaleRequested({"web": 3}))

    stage.at(10.0).meet(Reload())
    stage.meet(SpecRejected(("bad",)))

    assert scaled(stage) == {"web": (3, True)}


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({"nope": 1}, "there is no service 'nope'"),
        ({"list": 3}, "list: its file lists 2 workers one by one, so 2 is the most, got 3"),
        ({"web": 100_001}, "web: expected 0 to 100000 workers, got 100001"),
        ({"high": 2}, "worker high/1 would get port 65536, beyond 65535"),
        ({"web": 101}, "worker web/100 would get port 8100, which is list/0's"),
    ],
)
def test_counts_that_the_file_does_not_allow_are_refused(counts: dict[str, int], problem: str) -> None:
    """By name, and nothing is changed."""
    spec = spec_of(list={"workers": [{"port": 8100}, {}]}, web={"port": 8000}, high={"port": 65535})
    stage = running(spec)
    before = stage.states()

    stage.meet(ScaleRequested(counts))

    assert (problem,) == scale_problems(spec, counts, 1)
    assert stage.states() == before
    assert not stage.fleet.scaled


# ---- parole ---------------------------------------------------------------------------------------------------------


def failed_at_zero(**restart: object) -> Stage:
    """A worker that has failed for good at second 0."""
    spec = spec_of(web={"port": 8000, "restart": {"start_limit": 1, "parole": "10m", **restart}})
    stage = Stage().load(spec).read(good()).spawned("web/0")
    return stage.exited("web/0", 1)


def test_a_failed_worker_gets_one_try_after_its_parole_then_every_three_times() -> None:
    """A try that fails ends in `failed` at once, without a back-off; the status shows the time."""
    stage = failed_at_zero()
    (service,) = make_status(stage.fleet, View(rfc3339=lambda at: f"{at:g}"))["services"]
    assert service["workers"][0]["next_start"] == "600"

    for at in (600.0, 2400.0, 4200.0):
        assert stage["web/0"].deadline == at
        stage.pass_time(at)
        assert stage.state("web/0") == "starting"
        stage.spawned("web/0").exited("web/0", 1)
        assert stage.state("web/0") == "failed"
    assert "parole" in stage["web/0"].reason


def test_a_healthy_run_ends_parole() -> None:
    """From then on it is a worker like any other."""
    stage = failed_at_zero(start_limit=2, delay=1)
    stage.pass_time(2.0).spawned("web/0").exited("web/0", 1)
    stage.pass_time(stage.now + 600.0).ready("web/0").at(stage.now + 61.0).exited("web/0", 1)

    assert stage.state("web/0") == "starting"
    assert not stage["web/0"].history.on_parole


@pytest.mark.parametrize("restart", [{"parole": 0}, {"policy": "never"}])
def test_no_parole_where_none_is_wanted(restart: dict[str, object]) -> None:
    """`parole: 0`, and those that are never to be restarted."""
    stage = failed_at_zero(**restart)

    assert (stage.state("web/0"), stage["web/0"].deadline) == ("failed", None)


def test_no_parole_for_want_of_a_gpu() -> None:
    """Those are asked again at a reload."""
    stage = Stage().load(spec_of(llm={"resources": {"gpu": 1}, "on_no_gpu": "fail"})).read(good())

    assert (stage.state("llm/0"), stage["llm/0"].deadline) == ("failed", None)


def test_another_parole_counts_from_the_failure() -> None:
    """A reload that changes it moves the time of who waits for it."""
    stage = failed_at_zero()

    keys = {"port": 8000, "restart": {"start_limit": 1, "parole": "1h"}}
    stage.at(100.0).reload(spec_of(web=keys), good())

    assert (stage.state("web/0"), stage["web/0"].deadline) == ("failed", 3600.0)
