"""How many workers the GPUs have place for, when that is asked, and when it is not."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.inventory import Device, Holder
from supervisor.core.message import ReloadRequested, ScaleRequested, SpecLoaded, State
from supervisor.core.preview import preview
from supervisor.core.spec import Spec
from tests.core.builders import GIB, bad, device, devices, good, spec_of
from tests.core.stage import Stage

PER_GPU = spec_of(llm={"workers": "per_gpu", "resources": {"gpu": 1}})


def fit(memory: str = "20GiB", **more: object) -> Spec:
    return spec_of(llm={"workers": "fit", "resources": {"gpu": 0.1, "gpu_memory": memory}}, **more)  # type: ignore[arg-type]


def test_one_worker_waits_until_the_gpus_are_known() -> None:
    """Then there are as many as the first good reading has place for."""
    stage = Stage().load(PER_GPU)
    assert stage.fleet.counts == {"llm": 1}

    stage.read(bad())
    assert stage.fleet.counts == {"llm": 1}

    stage.read(good(*devices(4)))
    assert stage.fleet.counts == {"llm": 4}


def test_what_comes_and_goes_later_changes_nothing() -> None:
    """A GPU that is lost takes no worker away, and one that is added makes none, until somebody asks."""
    stage = Stage().load(PER_GPU).read(good(*devices(3)))

    stage.read(good(device(0), device(1, sick=True)))
    assert stage.fleet.counts == {"llm": 3}
    stage.read(good(*devices(5)))
    assert stage.fleet.counts == {"llm": 3}

    stage.reload(PER_GPU, good(*devices(5)))
    assert stage.fleet.counts == {"llm": 5}


def test_a_reload_that_changes_nothing_makes_nothing_smaller() -> None:
    """Nor does `plan` say so; a file that is another one does."""
    stage = Stage().load(PER_GPU).read(good(*devices(5)))
    stage.read(good(*devices(2)))
    narrower = replace_llm(PER_GPU, env={"A": "1"})

    assert len(preview(stage.fleet, PER_GPU, 1)) == 5
    assert len(preview(stage.fleet, narrower, 1)) == 2

    stage.reload(PER_GPU, good(*devices(2)))
    assert stage.fleet.counts == {"llm": 5}
    stage.reload(narrower, good(*devices(2)))
    assert stage.fleet.counts == {"llm": 2}


def test_another_pool_is_another_file() -> None:
    """Who takes a GPU away from the file means its worker too."""
    stage = Stage().load(PER_GPU).read(good(*devices(3)))

    stage.reload(spec_of(llm={"workers": "per_gpu", "resources": {"gpu": 1}}, gpus=[0]), good(*devices(3)))

    assert stage.fleet.counts == {"llm": 1}


def test_what_an_operator_made_smaller_is_not_made_bigger_for_nothing() -> None:
    """The reload takes the operator's count back, and asks the GPUs."""
    stage = Stage().load(PER_GPU).read(good(*devices(5)))
    stage.meet(ScaleRequested({"llm": 1}))

    stage.reload(PER_GPU, good(*devices(2)))

    assert stage.fleet.counts == {"llm": 2}


def test_a_reload_while_the_driver_errs_keeps_the_count() -> None:
    """What was there is not forgotten; when the driver answers again there may be more, and not fewer."""
    stage = Stage().load(PER_GPU).read(good(*devices(3)))

    stage.meet(ReloadRequested())
    stage.meet(SpecLoaded(PER_GPU, 1))
    stage.read(bad())
    assert stage.fleet.counts == {"llm": 3}

    stage.read(good(*devices(2)))
    assert stage.fleet.counts == {"llm": 3}


def test_an_operators_count_stands_until_the_reload() -> None:
    """Also one that happens to be what the file would mean before the GPUs are known."""
    stage = Stage().load(PER_GPU).read(good(*devices(3)))

    stage.meet(ScaleRequested({"llm": 1}))
    assert (stage.fleet.counts, stage.fleet.scaled) == ({"llm": 1}, {"llm": 1})

    stage.reload(PER_GPU, good(*devices(3)))
    assert (stage.fleet.counts, stage.fleet.scaled) == ({"llm": 3}, {})


def test_scaling_one_asks_again_for_the_others() -> None:
    """What it frees may be place for more; nobody goes for it."""
    spec = fit("20GiB", web={"workers": 2, "resources": {"gpu": 0.1, "gpu_memory": "20GiB"}})
    stage = Stage().load(spec).read(good(device(0)))
    assert stage.fleet.counts == {"llm": 1, "web": 2}

    stage.meet(ScaleRequested({"web": 0}))
    assert stage.fleet.counts == {"llm": 3}

    stage.meet(ScaleRequested({"web": 2}))
    assert stage.fleet.counts == {"llm": 3, "web": 2}


def test_fit_leaves_room_for_what_is_not_ours() -> None:
    """Named by the driver, or where it names nobody what is missing beyond the headroom."""
    ann = replace(device(0), memory_free_bytes=30 * GIB, holders=(Holder(9, 45 * GIB, "python", "ann"),))
    untold = device(0, free=30 * GIB)

    assert counts_on(fit(), device(0)) == 3
    assert counts_on(fit(), ann) == 1
    assert counts_on(fit(), untold) == 1


def test_fit_does_not_take_our_own_for_others_where_pids_are_unknown() -> None:
    """In a container the driver tells pids that nobody has there: who holds the rest is reckoned."""
    stage = Stage().load(fit()).read(good(device(0)))
    stage.spawned("llm/0")
    ours = (Holder(9000, 20 * GIB),)

    stage.reload(replace_llm(fit(), port=9000), good(replace(device(0, free=59 * GIB), holders=ours)))

    assert stage.fleet.counts == {"llm": 3}


def test_fit_reckons_where_the_driver_tells_no_bytes() -> None:
    """Some drivers name who is there and not what they hold."""
    silent = replace(device(0, free=30 * GIB), holders=(Holder(9, None, "python", "ann"),))

    assert counts_on(fit(), silent) == 1


def test_fit_counts_its_own_workers_as_room() -> None:
    """A reload finds the same number, also when they hold what they declared."""
    stage = Stage().load(fit()).read(good(device(0)))
    running = [str(worker.id) for worker in stage.fleet.workers.values() if worker.state is State.STARTING]
    assert running

    stage.spawned(*running)
    stage.reload(fit(), good(device(0, free=(79 - 20 * len(running)) * GIB)))

    assert stage.fleet.counts == {"llm": 3}


def test_nothing_eligible_is_one_worker_that_says_why() -> None:
    """Under `on_no_gpu`, as any other that has no place."""
    stage = Stage().load(fit("100GiB")).read(good(device(0)))

    assert stage.fleet.counts == {"llm": 1}
    assert "needs 0.1 of a GPU with 100 GiB free" in stage["llm/0"].target.reason  # type: ignore[union-attr]


def test_ports_are_the_limit_where_gpus_are_not() -> None:
    """A file that is good stays so on a bigger machine."""
    spec = spec_of(
        llm={"workers": "per_gpu", "resources": {"gpu": 0.25}, "port": 8000},
        web={"port": 8005},
    )

    assert counts_on(spec, *devices(4)) == 5


def test_a_preview_counts_as_the_reload_would() -> None:
    """And changes nothing."""
    stage = Stage().load(spec_of(llm={})).read(good(*devices(3)))

    assert len(preview(stage.fleet, PER_GPU, 1)) == 3
    assert stage.fleet.counts == {"llm": 1}


def counts_on(spec: Spec, *there: Device) -> int:
    """Workers of llm after the first reading."""
    return Stage().load(spec).read(good(*there)).fleet.counts["llm"]


def replace_llm(spec: Spec, **changes: object) -> Spec:
    """The file with another llm."""
    return spec.model_copy(update={"services": {"llm": spec.services["llm"].model_copy(update=changes)}})
