"""What `explain` says of a worker: where it is, what it waits for, and what is with each device."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from supervisor.core.explain import make_explanation
from supervisor.core.inventory import GpuState
from supervisor.core.message import StopRequested
from supervisor.core.snapshot import View
from supervisor.core.spec import WorkerId
from tests.core.builders import GIB, bad, device, devices, good, spec_of, uuid_of
from tests.core.effort import count_calls
from tests.core.stage import Stage, running

ON_TWO = spec_of(llm={"workers": 2, "resources": {"gpu": 1}})


def explain(stage: Stage, worker: str) -> Any:
    view = View(rfc3339=lambda second: f"T+{second:g}")
    return json.loads(json.dumps(make_explanation(stage.fleet, view, WorkerId.parse(worker))))


def verdicts(stage: Stage, worker: str) -> list[str]:
    return [one["verdict"] for one in explain(stage, worker)["verdicts"]]


def test_a_worker_in_its_place_is_told_device_by_device() -> None:
    """Its own, its sibling's, and one that is free."""
    stage = running(ON_TWO, *devices(3))

    found = explain(stage, "llm/0")

    assert (found["worker"], found["state"], found["asks"], found["waits"]) == ("llm/0", "ready", "1 GPU", None)
    assert [one["uuid"] for one in found["verdicts"]] == [uuid_of(0), uuid_of(1), uuid_of(2)]
    assert verdicts(stage, "llm/0") == ["its own", "is given away (llm/1)", "has room"]


def test_one_that_has_no_place_says_what_it_needs_and_since_when() -> None:
    """With the time of its beginning, not of the last look."""
    spec = spec_of(llm={"workers": 2, "resources": {"gpu": 1, "gpu_memory": "40GiB"}})
    stage = Stage().at(5.0).load(spec).read(good(device(0), device(1, total=24 * GIB, free=23 * GIB)))

    found = explain(stage.at(90.0), "llm/1")

    assert found["state"] == "pending"
    assert found["waits"]["since"] == "T+5"
    assert found["waits"]["for"].startswith("needs 1 GPU with 40 GiB free; 2 of 2 match")
    assert found["asks"] == "1 GPU with 40 GiB free"
    assert verdicts(stage, "llm/1") == ["is given away (llm/0)", "has 23.5 GiB of 24 GiB beside the headroom"]


def test_a_wait_counts_from_when_its_reason_began() -> None:
    """Not from when the worker came into its state; other numbers in the same reason are no other reason."""
    stage = Stage().load(spec_of(llm={"resources": {"gpu": 1, "gpu_memory": "40GiB"}}))
    stage.read(good(device(0, free=30 * GIB)))
    assert explain(stage, "llm/0")["waits"]["since"] == "T+0"
    stage.at(50.0).read(good(device(0, free=20 * GIB)))
    assert explain(stage, "llm/0")["waits"]["since"] == "T+0"

    stage.at(60.0).read(bad())

    assert explain(stage, "llm/0")["waits"]["for"].startswith("the GPUs cannot be read")
    assert explain(stage, "llm/0")["waits"]["since"] == "T+60"


def test_a_worker_without_a_gpu_has_no_verdicts() -> None:
    """Devices are not its business."""
    stage = running(spec_of(web={"workers": 1}), *devices(1))

    assert (explain(stage, "web/0")["asks"], verdicts(stage, "web/0")) == ("no GPU", [])


def test_what_a_stopped_worker_had_counts_as_free() -> None:
    """It keeps nothing, so nothing of it stands in anybody's way."""
    stage = running(ON_TWO, *devices(2))
    stage.meet(StopRequested((WorkerId("llm", 1),), ()))
    stage.exited("llm/1")

    assert verdicts(stage, "llm/0") == ["its own", "has room"]


def test_devices_of_another_daemon_and_outside_the_file_are_named_so() -> None:
    """And a GPU that MIG has cut up."""
    spec = spec_of(gpus=[0, 1, 3], llm={"workers": 2, "resources": {"gpu": 1}})
    stage = Stage()
    stage.rivals = {uuid_of(1): "held by pid 7"}
    cut = replace(device(3), is_cut=True)
    stage.load(spec).read(good(device(0), device(1), device(2), cut))
    stage.ready("llm/0")

    others = ["held by pid 7", "is outside the pool or the file's gpus", "is cut up by MIG"]
    assert verdicts(stage, "llm/0") == ["its own", *others]


def test_a_headroom_larger_than_a_gpu_leaves_nothing_of_it() -> None:
    """There is no less than nothing."""
    spec = spec_of(daemon={"headroom": "200GiB"}, llm={"resources": {"gpu": 1, "gpu_memory": "10GiB"}})
    stage = Stage().load(spec).read(good(*devices(2)))

    assert verdicts(stage, "llm/0") == ["has 0 MiB of 80 GiB beside the headroom"] * 2
    assert stage["llm/0"].reason.endswith("GPU 0, 1 have 0 MiB of 80 GiB beside the headroom")


@pytest.mark.parametrize("gpu", [1, 0.5])
def test_twice_the_devices_are_twice_the_work(gpu: float) -> None:
    """To say why there is no place, and to explain it: what is the same for all is made once."""

    def refused(count: int) -> Stage:
        spec = spec_of(llm={"resources": {"gpu": gpu, "gpu_memory": "90%"}})
        return Stage().load(spec).read(good(*(device(at, total=(at + 1) * GIB, free=GIB) for at in range(count))))

    few, many = 64, 256
    assert count_calls(lambda: refused(many)) < 5 * count_calls(lambda: refused(few))
    small, large = refused(few), refused(many)
    assert count_calls(lambda: verdicts(large, "llm/0")) < 5 * count_calls(lambda: verdicts(small, "llm/0"))


def test_the_next_timer_and_the_failures_so_far_are_told() -> None:
    """What happens if nothing else does, in each state that has a deadline."""
    file = spec_of(llm={"ready": {"after": 1}, "stop": {"exec": ["drain"]}, "restart": {"limit": 7}})
    stage = Stage().load(file).read(bad(GpuState.ABSENT)).spawned("llm/0")
    seen = [explain(stage, "llm/0")]
    seen.append(explain(stage.exited("llm/0"), "llm/0"))
    stage.pass_time(2.0).spawned("llm/0").pass_time(4.0).meet(StopRequested(services=("llm",)))
    seen.append(explain(stage, "llm/0"))
    seen.append(explain(stage.pass_time(30.0), "llm/0"))
    seen.append(explain(stage.pass_time(36.0), "llm/0"))

    assert [(one["state"], one["timer"]["what"]) for one in seen] == [
        ("starting", "it counts as ready"),
        ("backoff", "it is started again"),
        ("stopping", "its stop command is killed and the signal sent"),
        ("stopping", "SIGKILL"),
        ("killing", "it is looked at again"),
    ]
    assert seen[0]["failures"] is None
    assert seen[1]["failures"] == {"count": 1, "limit": 7, "without_ready": 1, "start_limit": 5}
