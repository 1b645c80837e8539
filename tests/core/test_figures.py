"""What devices and workers do, as keys of the JSON that are there for who asks."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.figures import Figures, Sensors, Usage
from supervisor.core.inventory import Device, Holder
from supervisor.core.snapshot import Json, View, make_devices, make_status
from supervisor.core.spec import WorkerId
from tests.core.builders import device, spec_of, uuid_of
from tests.core.stage import running

SPEC = spec_of(llm={"workers": 1, "resources": {"gpu": 1}}, web={"workers": 1})


def shown(*devices: Device, figures: Figures | None = None) -> tuple[Json, dict[str, Json]]:
    """The devices JSON, and the workers by name."""
    stage = running(SPEC, *devices)
    view = View(rfc3339=str, figures=figures)
    status = make_status(stage.fleet, view)
    workers = {worker["worker"]: worker for service in status["services"] for worker in service["workers"]}
    return make_devices(stage.fleet, view), workers


def gpu_memory(*holders: Holder | None) -> list[int | None]:
    """Of llm/0 on the first device and of web/0 on none, where each device has one holder; None does not tell."""
    rows = [replace(device(at), holders=None if one is None else (one,)) for at, one in enumerate(holders)]
    _, workers = shown(*rows, figures=Figures())
    return [workers[name]["usage"]["gpu_memory"] for name in ("llm/0", "web/0")]


def test_without_asking_there_is_nothing() -> None:
    """The keys are not there: who asks for them knows that."""
    found, workers = shown(device(0))

    assert not {"utilization", "temperature", "power"} & set(found["devices"][0])
    assert "usage" not in workers["llm/0"]


def test_what_is_known_is_shown_and_the_rest_is_null() -> None:
    """Per cent, degrees, watts; cores, seconds, bytes."""
    sensors = {uuid_of(0): Sensors(40, 7, 55, 300.5, None)}
    usage = {WorkerId("llm", 0): Usage(1.5, 20.25, 4096)}
    found, workers = shown(device(0), device(1), figures=Figures(sensors, usage))

    keys = ("utilization", "temperature", "power")
    assert [[one[key] for key in keys] for one in found["devices"]] == [
        [{"gpu": 40, "memory": 7}, 55, {"draw": 300.5, "limit": None}],
        [{"gpu": None, "memory": None}, None, {"draw": None, "limit": None}],
    ]
    assert workers["llm/0"]["usage"] | {"gpu_memory": 0} == {
        "cpu": 1.5,
        "cpu_seconds": 20.25,
        "memory": 4096,
        "gpu_memory": 0,
    }
    assert workers["web/0"]["usage"] == {"cpu": None, "cpu_seconds": None, "memory": None, "gpu_memory": 0}


def test_gpu_memory_is_what_the_driver_says_of_its_processes() -> None:
    """On all devices; what others have there is not counted."""
    own = Holder(5, 700, "python", "ann", "llm/0")

    assert gpu_memory(own, own) == [1400, 0]
    assert gpu_memory(Holder(9, 50, "python", "ann"), own) == [700, 0]
    assert gpu_memory(own, Holder(6, 30, "python", "ann", "web/0")) == [700, 30]


def test_gpu_memory_that_nobody_tells_is_unknown() -> None:
    """No list, no bytes, or a list of pids that nobody here can see; a device that is not its own does not matter."""
    own = Holder(5, 700, "python", "ann", "llm/0")

    assert gpu_memory(None, None) == [None, 0]
    assert gpu_memory(replace(own, used_bytes=None)) == [None, 0]
    assert gpu_memory(Holder(4242, 900)) == [None, 0]
    assert gpu_memory(own, None) == [700, 0]
