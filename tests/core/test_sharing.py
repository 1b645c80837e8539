"""Workers that share a GPU, from the file to their starts."""

from __future__ import annotations

from supervisor.core.message import Spawn
from supervisor.core.preview import preview
from tests.core.builders import GIB, device, devices, good, of_type, spec_of
from tests.core.stage import Stage, running

QUARTERS = {"workers": 4, "resources": {"gpu": 0.25, "gpu_memory": "10GiB"}, "port": 8000}
WORKERS = [f"llm/{index}" for index in range(4)]


def all_ready(stage: Stage) -> Stage:
    """Everybody who starts gets ready, as often as somebody new does."""
    for _ in range(8):
        starting = [one for one in WORKERS if stage.states().get(one) == "starting"]
        if starting:
            stage.ready(*starting)
        stage.read(good(device(0)))
    return stage


def test_four_quarters_run_beside_each_other_on_one_gpu() -> None:
    """Each sees that GPU, and is told its share."""
    stage = all_ready(running(spec_of(llm=QUARTERS), device(0)))

    assert [stage.state(one) for one in WORKERS] == ["ready"] * 4
    envs = [spawn.env for spawn in of_type(Spawn, stage.history)]
    assert {env["CUDA_VISIBLE_DEVICES"] for env in envs} == {"0"}
    assert {env["WORKER_GPU_SHARE"] for env in envs} == {"0.25"}


def test_a_neighbour_that_crashes_disturbs_nobody() -> None:
    """It comes back on its own share."""
    stage = all_ready(running(spec_of(llm=QUARTERS), device(0))).at(200.0)

    stage.exited("llm/2", 1)
    all_ready(stage)

    assert [stage.state(one) for one in WORKERS] == ["ready"] * 4
    assert [stage[one].starts for one in WORKERS] == [1, 1, 2, 1]


def test_a_bigger_share_moves_only_whose_it_is() -> None:
    """The neighbours keep their processes; who has no room beside them goes to the next GPU."""
    a, b = {"resources": {"gpu": 0.5}, "port": 8000}, {"resources": {"gpu": 0.5}, "port": 8100}
    stage = running(spec_of(a=a, b=b), *devices(2))

    plan = preview(stage.fleet, spec_of(a=a, b={"resources": {"gpu": 0.8}, "port": 8100}), 1)

    slices = {str(one): placement.launch.slice for one, placement in plan.items() if placement.launch}
    assert [share.uuid for share in slices["a/0"]] == ["GPU-0000"]
    assert [(share.uuid, share.millis) for share in slices["b/0"]] == [("GPU-1000", 800)]


def test_another_headroom_ends_nobody_and_holds_for_who_comes() -> None:
    """It is that of the file which is planned."""
    service = {"workers": 2, "resources": {"gpu": 0.5, "gpu_memory": "35GiB"}, "port": 8000}
    stage = Stage().load(spec_of(llm=service)).read(good(device(0)))
    stage.ready(*[one for one in WORKERS[:2] if stage.states()[one] == "starting"])

    more = preview(stage.fleet, spec_of(llm={**service, "workers": 3}, daemon={"headroom": 40 * GIB}), 1)

    placed = [placement.launch is not None for placement in more.values()]
    living = sum(worker.pid is not None for worker in stage.fleet.workers.values())
    assert living >= 1
    assert sum(placed) == living
