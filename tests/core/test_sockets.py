"""Sockets of services: bound before anybody starts, kept while workers come and go, one service's trouble alone."""

from __future__ import annotations

from supervisor.core.environment import Moment, render
from supervisor.core.explain import make_explanation
from supervisor.core.file.listen import Address
from supervisor.core.message import Bind, RestartRequested, Say, SocketsBound, StopRequested, Unbind
from supervisor.core.outcome import failures_since_reload, unsettled
from supervisor.core.preview import preview
from supervisor.core.snapshot import View, make_plan_json, make_status
from supervisor.core.sockets import RETRY_S
from supervisor.core.spec import WorkerId
from tests.core.builders import devices, good, of_type, spec_of
from tests.core.stage import Stage, running

HTTP = Address("tcp", "127.0.0.1", 9000)
OTHER = Address("tcp", "127.0.0.1", 9001)
WEB = {"workers": 2, "listen": {"http": str(HTTP)}}
IN_USE = "address already in use by pid 7 (nginx)"
VIEW = View(lambda at: f"{at:g}")


def refused(address: Address = HTTP) -> SocketsBound:
    return SocketsBound(refused={address: IN_USE})


def serving(stage: Stage | None = None) -> Stage:
    """Both workers are ready behind one socket."""
    stage = stage or Stage()
    stage.load(spec_of(web=WEB)).read(good()).meet(SocketsBound((HTTP,)))
    stage.spawned("web/0", "web/1")
    stage.pass_time(2.0)
    assert stage.states() == {"web/0": "ready", "web/1": "ready"}
    return stage


def moved(stage: Stage) -> Stage:
    """The file has another address by now."""
    stage.reload(spec_of(web={**WEB, "listen": {"http": str(OTHER)}}), good())
    return stage


def held_by(stage: Stage, worker: str) -> tuple[Address, ...]:
    """Where its newest process listens."""
    held = stage[worker].held
    assert held is not None
    return tuple(one.address for one in held.wanted.recipe.listen)


def replaced(stage: Stage, worker: str) -> None:
    """It ends, and its next process gets ready."""
    stage.exited(worker, signal=15).spawned(worker).pass_time(stage.now + 2.0)


def test_nobody_starts_before_his_sockets_are_bound() -> None:
    """They are asked for once for all workers; who has none does not wait."""
    stage = Stage()

    stage.load(spec_of(web=WEB, plain={}))

    assert of_type(Bind, stage.actions) == [Bind((HTTP,))]
    assert stage.spawns() == ("plain/0",)
    assert stage["web/0"].reason == "binding tcp://127.0.0.1:9000"
    stage.meet(SocketsBound((HTTP,)))
    assert stage.spawns() == ("web/0", "web/1")


def test_a_worker_is_told_of_its_sockets_in_the_order_of_the_file() -> None:
    """Which is that of the descriptors from 3 on."""
    spec = spec_of(web={"listen": {"http": str(HTTP), "admin": "unix:/run/a.sock"}})
    (worker,) = spec.expand(1)
    launch = preview(Stage().fleet, spec, 1)[worker.id].launch
    assert launch is not None

    env = render(launch, Moment(worker.id, 1, 0, 1, {}), Stage().fleet.host).env

    assert {name: value for name, value in env.items() if name.startswith("LISTEN_")} == {
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "http:admin",
    }


def test_sockets_stay_through_crashes_stops_and_failures() -> None:
    """Nothing is closed and nothing bound anew while the file has a worker for them."""
    stage = serving()
    asked = len(of_type(Bind, stage.history))

    stage.exited("web/0").pass_time(5.0).meet(StopRequested((WorkerId("web", 1),)))
    stage.exited("web/1", signal=15)

    assert asked == len(of_type(Bind, stage.history))
    assert not of_type(Unbind, stage.history)
    assert frozenset({HTTP}) == stage.fleet.bound


def test_a_reload_that_changes_nothing_leaves_the_sockets_alone() -> None:
    """Nor does one that changes something else."""
    stage = serving()
    asked = len(of_type(Bind, stage.history))

    stage.reload(spec_of(web={**WEB, "env": {"A": "b"}}), good())

    assert asked == len(of_type(Bind, stage.history))
    assert not of_type(Unbind, stage.history)


def test_a_changed_address_is_bound_before_anybody_goes_down_and_the_old_one_closed_at_last() -> None:
    """In between both are open."""
    stage = moved(serving())
    assert of_type(Bind, stage.history)[-1] == Bind((OTHER,))
    assert stage.states() == {"web/0": "ready", "web/1": "ready"}

    stage.meet(SocketsBound((OTHER,)))

    assert stage.states() == {"web/0": "stopping", "web/1": "ready"}
    replaced(stage, "web/0")
    assert frozenset({HTTP, OTHER}) == stage.fleet.bound
    replaced(stage, "web/1")
    assert stage.states() == {"web/0": "ready", "web/1": "ready"}
    assert frozenset({OTHER}) == stage.fleet.bound
    assert [Unbind((HTTP,))] == of_type(Unbind, stage.history)


def test_who_makes_room_for_another_service_waits_for_its_own_address() -> None:
    """Two that swap their GPUs, one of which is to listen from now on."""
    one, two = ({"resources": {"gpu": 1, "gpus": [index]}} for index in (0, 1))
    stage = running(spec_of(a=one, b=two), *devices(2))

    stage.reload(spec_of(a={**two, "listen": {"http": str(HTTP)}}, b=one), good(*devices(2)))
    assert stage.state("a/0") == "ready"

    stage.meet(SocketsBound((HTTP,)))
    assert stage.state("a/0") == "stopping"
    stage.exited("a/0", 0).exited("b/0", 0)
    assert stage.slices() == {"a/0": (1,), "b/0": (0,)}


def test_the_old_address_stays_open_while_somebody_may_go_back_to_it() -> None:
    """The last one has left it, and does not get ready with the new one: it finds the old one as it was."""
    stage = moved(serving())
    stage.meet(SocketsBound((OTHER,)))
    replaced(stage, "web/0")
    stage.exited("web/1", signal=15)
    assert frozenset({HTTP, OTHER}) == stage.fleet.bound

    while not stage.fleet.rolls["web"].is_halted:
        stage.spawned("web/1").exited("web/1").pass_time(stage.now + 60.0)

    assert stage.state("web/1") == "starting"
    assert held_by(stage, "web/1") == (HTTP,)
    assert not of_type(Unbind, stage.history)
    assert frozenset({HTTP, OTHER}) == stage.fleet.bound


def test_an_address_to_which_nobody_goes_back_any_more_is_closed() -> None:
    """The last one that might have is held down by the operator on its way to a third."""
    third = Address("tcp", "127.0.0.1", 9002)
    stage = moved(serving())
    stage.meet(SocketsBound((OTHER,)))
    replaced(stage, "web/0")
    stage.reload(spec_of(web={**WEB, "listen": {"http": str(third)}}), good())
    stage.meet(SocketsBound((third,)))
    stage.exited("web/1", signal=15).spawned("web/1")
    assert frozenset({HTTP, OTHER, third}) == stage.fleet.bound

    stage.meet(StopRequested((WorkerId("web", 1),)))

    assert stage.states() == {"web/0": "ready", "web/1": "stopping"}
    assert frozenset({OTHER, third}) == stage.fleet.bound


def test_a_restart_too_waits_for_the_new_address() -> None:
    """What an operator asks for meanwhile takes nobody down either."""
    stage = moved(serving())

    stage.meet(RestartRequested(services=("web",)))

    assert stage.states() == {"web/0": "ready", "web/1": "ready"}
    stage.meet(SocketsBound((OTHER,)))
    assert stage.states() == {"web/0": "stopping", "web/1": "ready"}


def test_a_new_address_that_is_taken_stops_the_roll_out_and_nobody_else() -> None:
    """The workers go on with the old one; the reload has failed with the reason."""
    stage = moved(serving())

    stage.meet(refused(OTHER))

    assert stage.states() == {"web/0": "ready", "web/1": "ready"}
    assert stage.fleet.last_reload is not None
    problem = f"web cannot listen on {OTHER}: {IN_USE}; 2 of web keep the old one until the next reload"
    assert stage.fleet.last_reload.problems == (problem,)
    assert unsettled(stage.fleet) == ()
    assert frozenset({HTTP}) == stage.fleet.bound


def outrun(stage: Stage) -> Stage:
    """The first to be replaced is on its way to another launch when the file gets another address."""
    stage.reload(spec_of(web={**WEB, "env": {"A": "1"}}), good())
    stage.exited("web/0", signal=15).spawned("web/0")
    assert stage.states() == {"web/0": "starting", "web/1": "ready"}
    return moved(stage)


def test_who_gets_ready_while_the_new_address_is_bound_is_missed_like_others() -> None:
    """It had its turn for an earlier file, and serves by now: who does not goes before it."""
    stage = outrun(serving())
    stage.pass_time(stage.now + 2.0).unready("web/1")
    assert stage.states() == {"web/0": "ready", "web/1": "unready"}

    stage.meet(SocketsBound((OTHER,)))

    assert stage.states() == {"web/0": "ready", "web/1": "stopping"}


def test_who_gets_ready_while_the_new_address_is_bound_stays_where_that_is_taken() -> None:
    """What it runs works, and is all that can be had."""
    stage = outrun(serving())
    stage.pass_time(stage.now + 2.0)

    stage.meet(refused(OTHER))

    assert stage.states() == {"web/0": "ready", "web/1": "ready"}
    assert stage.fleet.rolls["web"].is_halted


def test_who_gets_ready_while_the_new_address_is_bound_is_planned_where_it_lives() -> None:
    """Not where it was to go."""
    stage = Stage()
    first, second = devices(2)
    stage.load(spec_of(web={**WEB, "workers": 1, "resources": {"gpu": 1}})).read(good(first, second))
    stage.meet(SocketsBound((HTTP,)))
    stage.spawned("web/0")
    listens = {"listen": {"http": str(OTHER)}, "workers": 1, "resources": {"gpu": 1, "gpus": [1]}}
    stage.reload(spec_of(web=listens), good(first, second))

    stage.pass_time(2.0)

    assert stage.states() == {"web/0": "ready"}
    assert stage.slices() == {"web/0": (0,)}
    assert not stage["web/0"].is_outdated


def test_all_who_get_ready_while_the_new_address_is_bound_take_turns() -> None:
    """Nobody served when the file came, so nobody had a turn to wait for; now they have."""
    stage = Stage()
    two_at_once = {**WEB, "update": {"max_unavailable": 2}}
    stage.load(spec_of(web=two_at_once)).read(good()).meet(SocketsBound((HTTP,)))
    stage.spawned("web/0", "web/1")
    stage.reload(spec_of(web={**two_at_once, "listen": {"http": str(OTHER)}}), good())
    stage.pass_time(2.0)
    assert stage.states() == {"web/0": "ready", "web/1": "ready"}

    stage.meet(SocketsBound((OTHER,)))

    assert stage.states() == {"web/0": "stopping", "web/1": "ready"}


def test_who_cannot_go_back_is_not_taken_down_for_an_address_that_is_taken() -> None:
    """It was never anything that worked: it goes on with what it runs."""
    stage = Stage()
    stage.load(spec_of(web=WEB)).read(good()).meet(SocketsBound((HTTP,)))
    stage.spawned("web/0", "web/1").reload(spec_of(web={**WEB, "env": {"A": "1"}}), good())
    for worker in ("web/0", "web/1"):
        stage.exited(worker, signal=15).spawned(worker)
    moved(stage)
    assert stage.states() == {"web/0": "starting", "web/1": "starting"}

    stage.meet(refused(OTHER))

    assert stage.states() == {"web/0": "starting", "web/1": "starting"}


def test_a_restart_waits_for_an_address_that_was_taken_when_the_file_came() -> None:
    """It is asked for anew, and nobody goes down before the answer."""
    stage = Stage()
    stage.load(spec_of(web=WEB)).read(good()).meet(SocketsBound((HTTP,)))
    stage.spawned("web/0", "web/1")
    moved(stage).meet(refused(OTHER))

    stage.meet(RestartRequested(services=("web",)))

    assert of_type(Bind, stage.actions) == [Bind((OTHER,))]
    assert stage.states() == {"web/0": "starting", "web/1": "starting"}
    stage.meet(SocketsBound((OTHER,)))
    assert stage.states() == {"web/0": "stopping", "web/1": "starting"}


def test_the_next_reload_asks_again_for_an_address_that_was_taken() -> None:
    """However soon it comes."""
    stage = moved(serving())
    stage.meet(refused(OTHER))

    moved(stage).meet(SocketsBound((OTHER,)))

    assert stage.states() == {"web/0": "stopping", "web/1": "ready"}


def test_an_address_in_use_is_the_trouble_of_its_service_alone() -> None:
    """Its workers wait with the reason, which is logged once; others start."""
    stage = Stage()
    stage.load(spec_of(web=WEB, api={"listen": {"http": str(OTHER)}}))

    stage.meet(SocketsBound((OTHER,), {HTTP: IN_USE}))

    assert stage.spawns() == ("api/0",)
    reason = f"cannot listen on {HTTP}: {IN_USE}"
    assert {stage["web/0"].reason, stage["web/1"].reason} == {reason}
    (said,) = [one for one in of_type(Say, stage.actions) if one.event == "socket.refused"]
    assert said.fields == {"address": str(HTTP), "services": ["web"], "reason": IN_USE, "retry_in_s": RETRY_S}


def test_what_was_refused_is_tried_again_until_it_is_free() -> None:
    """Every few seconds, in silence while the reason is the same."""
    stage = Stage()
    stage.load(spec_of(web=WEB)).meet(refused())

    stage.pass_time(RETRY_S)

    assert [Bind((HTTP,))] * 2 == of_type(Bind, stage.history)
    assert stage["web/0"].reason == f"cannot listen on {HTTP}: {IN_USE}"
    stage.meet(refused())
    assert not [one for one in of_type(Say, stage.actions) if one.event == "socket.refused"]
    stage.pass_time(RETRY_S)
    stage.meet(SocketsBound((HTTP,)))
    assert stage.spawns() == ("web/0", "web/1")
    assert stage.fleet.refused == {}


def test_a_reload_tries_at_once_what_was_refused() -> None:
    """Whoever reloads may just have made it free."""
    stage = Stage()
    stage.load(spec_of(web=WEB)).read(good()).meet(refused())

    stage.reload(spec_of(web=WEB), good())

    assert [Bind((HTTP,))] * 2 == of_type(Bind, stage.history)


def test_a_reload_does_not_wait_for_an_address_that_somebody_else_has() -> None:
    """It is over, and says who waits for what."""
    stage = Stage()
    stage.load(spec_of(plain={})).read(good())
    stage.spawned("plain/0")
    stage.pass_time(2.0)
    stage.reload(spec_of(plain={}, web={**WEB, "workers": 1}), good())

    stage.meet(refused())

    assert unsettled(stage.fleet) == ()
    assert failures_since_reload(stage.fleet) == (f"web/0 waits: cannot listen on {HTTP}: {IN_USE}",)


def test_the_sockets_of_a_service_that_is_gone_are_closed_with_its_last_worker() -> None:
    """Not before: who was let in is served."""
    stage = serving()
    stage.reload(spec_of(), good())
    stage.exited("web/0", signal=15)
    assert frozenset({HTTP}) == stage.fleet.bound

    stage.exited("web/1", signal=15)

    assert of_type(Unbind, stage.actions) == [Unbind((HTTP,))]
    assert frozenset() == stage.fleet.bound


def test_a_socket_that_comes_when_nobody_wants_it_any_more_is_closed() -> None:
    """The file has changed while it was bound."""
    stage = Stage()
    stage.load(spec_of(web=WEB)).reload(spec_of(), good())

    stage.meet(SocketsBound((HTTP,)))

    assert of_type(Unbind, stage.actions) == [Unbind((HTTP,))]


def test_status_and_plan_show_the_sockets_and_what_is_wrong_with_them() -> None:
    """By service with the reason, and for each worker what it has."""
    stage = Stage()
    spec = spec_of(web=WEB)
    stage.load(spec).meet(refused())

    (service,) = make_status(stage.fleet, VIEW)["services"]
    explained = make_explanation(stage.fleet, VIEW, WorkerId("web", 0))
    row = make_plan_json(stage.fleet, preview(stage.fleet, spec, 1), VIEW)["workers"][0]

    shown = {"name": "http", "address": str(HTTP)}
    assert service["listen"] == [{**shown, "state": "refused", "reason": IN_USE}]
    assert explained["listen"] == [shown]
    assert explained["waits"]["for"] == row["reason"] == f"cannot listen on {HTTP}: {IN_USE}"
    assert row["listen"] == [str(HTTP)]


def test_what_a_process_is_told_of_its_sockets_is_no_difference() -> None:
    """Its pid and their count are values of the moment; what the file says of them is not."""
    stage = serving()

    answer = stage.reload(spec_of(web=WEB), good())
    changed = stage.reload(spec_of(web={**WEB, "listen": {"web": str(HTTP)}}), good())

    assert answer.difference == {}
    assert changed.difference == {WorkerId("web", 0): "replace", WorkerId("web", 1): "replace"}
