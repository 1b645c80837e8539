"""`gpu_memory_guard`: who has more of a shared GPU than it declares is warned about, then ended, by turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.excess import enforcement, wants_devices
from supervisor.core.inventory import GpuState, Holder, Reading
from supervisor.core.message import Cause, RestartRequested, Say, Signal
from supervisor.core.plan import Placement
from supervisor.core.spec import Spec, SpecError, WorkerId
from supervisor.core.turn import Fleet
from tests.core.builders import GIB, device, good, of_type, spec_of
from tests.core.stage import Stage, running

AFTER = {"after": "1s", "timeout": "10s"}
MUCH = "who has more than its gpu_memory for a minute is"


def shared(guard: str = "", workers: int = 2, **keys: object) -> Spec:
    """Workers with 8 GiB on a half of a GPU each."""
    resources = {"gpu": 0.5, "gpu_memory": "8GiB"} | ({"gpu_memory_guard": guard} if guard else {})
    return spec_of(llm={"workers": workers, "resources": resources, "port": 8000, **keys})


def shown(**amounts: float) -> Reading:
    """What the driver shows: GiB that each has, ``llm_0`` for ``llm/0``, two of a name on each GPU."""
    found: dict[int, list[Holder]] = {0: [], 1: []}
    for name, amount in amounts.items():
        worker = name.replace("_", "/")
        found[int(name[-1]) // 2].append(Holder(4, int(amount * GIB), worker=worker))
    return good(*(replace(device(index), holders=tuple(who)) for index, who in found.items()))


def look(stage: Stage, at: float, **amounts: float) -> Stage:
    """A reading every five seconds until then, all of the same."""
    while stage.now < at:
        stage.at(min(stage.now + 5.0, at)).read(shown(**amounts))
    return stage


def start(spec: Spec) -> Stage:
    """All of them ready at second 0, on GPUs whose driver is silent unless somebody reads."""
    stage = running(spec, device(0), device(1))
    stage.driver = None
    for _ in spec.expand(1):
        stage.read(shown())
        stage.ready(*[name for name, state in stage.states().items() if state == "starting"])
    return stage


def warnings(stage: Stage) -> list[str]:
    """Who was warned about, ever."""
    return [str(one.fields["worker"]) for one in of_type(Say, stage.history) if one.event.endswith("_exceeded")]


def test_a_minute_too_much_is_warned_about_once_and_nothing_else_happens() -> None:
    """By default, where a GPU is shared."""
    stage = start(shared())

    look(stage, 64.0, llm_0=9, llm_1=8)
    assert (stage["llm/0"].over_at, stage["llm/0"].excess) == (5.0, "")
    look(stage, 200.0, llm_0=9, llm_1=8)

    assert stage["llm/0"].excess == "has 9216 MiB of GPU 0, its gpu_memory is 8192 MiB"
    assert (stage["llm/1"].over_at, stage["llm/1"].excess) == (None, "")
    assert warnings(stage) == ["llm/0"]
    assert stage.states() == {"llm/0": "ready", "llm/1": "ready"}


def test_how_long_is_the_files_word() -> None:
    """Also for those that live when it changes; blind is who has not looked for longer than that."""
    spec = shared(resources={"gpu": 0.5, "gpu_memory": "8GiB", "gpu_memory_guard_after": "12s"})
    assert spec.expand(1)[0].policy.guard_after_s == 12.0
    stage = start(spec)
    look(stage, 16.0, llm_0=9)
    assert warnings(stage) == []
    look(stage, 17.0, llm_0=9)
    assert warnings(stage) == ["llm/0"]
    assert "for 12 s is warned about" in enforcement(spec_held(stage))

    patient = start(shared())
    look(patient, 20.0, llm_0=9)
    patient.reload(spec, shown(llm_0=9))
    look(patient, 25.0, llm_0=9)
    assert warnings(patient) == ["llm/0"]


def test_a_file_that_is_more_patient_counts_at_once() -> None:
    """Who is warned about by then goes on until its time is over."""
    quick = {"gpu": 0.5, "gpu_memory": "8GiB", "gpu_memory_guard": "restart", "gpu_memory_guard_after": "12s"}
    stage = start(shared(resources={**quick, "gpu_memory_guard": "warn"}))
    look(stage, 20.0, llm_0=9)
    assert warnings(stage) == ["llm/0"]

    stage.reload(shared(resources={**quick, "gpu_memory_guard_after": "40s"}), shown(llm_0=9))
    assert stage.state("llm/0") == "ready"
    look(stage, 40.0, llm_0=9)
    assert stage.state("llm/0") == "ready"
    look(stage, 45.0, llm_0=9)

    assert stage.state("llm/0") == "stopping"


def spec_held(stage: Stage) -> Placement:
    held = stage["llm/0"].held
    assert held is not None
    return held


def test_one_that_gives_it_back_in_time_is_forgiven() -> None:
    """A minute begins anew with what is taken anew; a warning is taken back."""
    stage = start(shared())

    look(stage, 50.0, llm_0=9)
    look(stage, 55.0, llm_0=8)
    assert stage["llm/0"].over_at is None
    look(stage, 115.0, llm_0=9)
    assert warnings(stage) == []
    look(stage, 120.0, llm_0=9)
    assert warnings(stage) == ["llm/0"]
    look(stage, 125.0, llm_0=1)

    assert stage["llm/0"].excess == ""
    assert [one.event for one in of_type(Say, stage.actions)] == ["worker.gpu_memory_kept"]


def test_what_nobody_saw_for_long_is_not_held_against_it() -> None:
    """A driver, or a daemon, that hung between two readings; and a driver that does not tell changes nothing."""
    stage = start(shared())

    look(stage, 50.0, llm_0=9)
    stage.at(200.0).read(shown(llm_0=9))
    assert (stage["llm/0"].over_at, warnings(stage)) == (200.0, [])
    stage.at(230.0).read(good(device(0), device(1)))
    assert stage["llm/0"].over_at == 200.0
    stage.at(240.0).read(good(device(1)))
    stage.at(250.0).read(Reading(GpuState.ERROR))
    stage.at(261.0).read(shown(llm_0=9))

    assert warnings(stage) == ["llm/0"]


def test_restart_ends_it_and_charges_it_as_one_that_was_out_of_memory() -> None:
    """It had too much as soon as it served: it was never healthy."""
    stage = start(shared("restart", restart={"delay": "30s"}))

    look(stage, 65.0, llm_0=9)
    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}
    stage.exited("llm/0", 0)

    worker = stage["llm/0"]
    assert worker.last_exit is not None
    assert (worker.last_exit.cause, worker.last_exit.detail) == (
        Cause.CUDA_OOM,
        "has 9216 MiB of GPU 0, its gpu_memory is 8192 MiB",
    )
    assert worker.history.failures == 1
    assert stage.at(66.0).read(shown(llm_1=8)).state("llm/0") == "backoff"


def test_one_that_was_well_for_long_before_comes_back_at_once() -> None:
    """A leak of days is no failure in a row; what it took too much in is no part of its good life."""
    stage = start(shared("restart"))

    look(stage, 100.0, llm_0=8)
    look(stage, 165.0, llm_0=9)
    stage.exited("llm/0", 0).at(166.0).read(shown())

    assert stage["llm/0"].history.failures == 0
    assert stage.state("llm/0") == "starting"


def test_one_that_always_takes_too_much_has_failed_in_the_end() -> None:
    """By `limit`, with the policy of its cause."""
    stage = start(shared("restart", restart={"on": {"cuda_oom": {"limit": 1}}}))

    look(stage, 65.0, llm_0=9)
    stage.exited("llm/0", 0).at(66.0).read(shown())

    assert stage.state("llm/0") == "failed"


def test_one_goes_at_a_time_until_it_is_back() -> None:
    """Of a service, and on a device, however many take too much."""
    stage = start(shared("restart", workers=3, restart={"delay": "0s"}))

    look(stage, 65.0, llm_0=9, llm_1=9, llm_2=9)
    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready", "llm/2": "ready"}
    stage.exited("llm/0", 0).at(66.0).read(shown(llm_1=9, llm_2=9))
    assert stage.states() == {"llm/0": "starting", "llm/1": "ready", "llm/2": "ready"}
    stage.ready("llm/0")

    assert stage.states() == {"llm/0": "ready", "llm/1": "stopping", "llm/2": "ready"}


def test_two_services_on_one_device_take_turns_too() -> None:
    """And those on another are none of their business."""
    half = {"gpu": 0.5, "gpu_memory": "8GiB", "gpu_memory_guard": "restart"}
    one = {"resources": half, "ready": AFTER}
    stage = start(spec_of(a=one, b=one, c={"resources": {**half, "gpus": [1]}, "ready": AFTER}))

    while stage.now < 65.0:
        holders = [Holder(4, 9 * GIB, worker=f"{name}/0") for name in "abc"]
        zero, other = (replace(device(0), holders=tuple(holders[:2])), replace(device(1), holders=(holders[2],)))
        stage.at(stage.now + 5.0).read(good(zero, other))

    assert stage.states() == {"a/0": "stopping", "b/0": "ready", "c/0": "stopping"}


def test_one_that_cannot_come_back_is_not_waited_for() -> None:
    """What it waits for is what the other has."""
    stage = start(shared("restart", resources={"gpu": 0.5, "gpu_memory": "39GiB", "gpu_memory_guard": "restart"}))

    look(stage, 65.0, llm_0=40, llm_1=40)
    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}
    full = good(replace(device(0, free=30 * GIB), holders=(Holder(4, 49 * GIB, worker="llm/1"),)))
    stage.exited("llm/0", 0)
    for _ in range(20):
        stage.pass_time(stage.now + 1.0).read(full)

    assert stage.state("llm/1") == "stopping"


def test_an_operator_comes_first() -> None:
    """Who is going down anyway is not ended a second time."""
    stage = start(shared("restart"))

    look(stage, 60.0, llm_0=9)
    stage.meet(RestartRequested(workers=(WorkerId("llm", 0),)))
    look(stage, 90.0, llm_0=9)

    assert (stage.state("llm/0"), stage["llm/0"].cause) == ("stopping", Cause.OPERATOR)


def test_a_file_without_the_guard_forgets_what_was() -> None:
    """Policies are taken by those that live."""
    stage = start(shared("restart"))
    look(stage, 60.0, llm_0=9)

    stage.reload(shared("off"), shown(llm_0=9))
    look(stage, 200.0, llm_0=9)

    assert stage["llm/0"].over_at is None
    assert not of_type(Signal, stage.history)


@pytest.mark.parametrize(
    ("resources", "guard"),
    [
        ({"gpu": 0.5, "gpu_memory": "8GiB"}, "warn"),
        ({"gpu": 1, "gpu_memory": "8GiB"}, "off"),
        ({"gpu": 2, "gpu_memory": "8GiB", "gpu_memory_guard": "restart"}, "restart"),
        ({"gpu": 0.5}, "off"),
        ({"gpu": "all", "gpu_memory": "8GiB"}, "off"),
        ({"gpu": 0.5, "gpu_memory": "8GiB", "gpu_memory_guard": "off"}, "off"),
    ],
)
def test_who_is_guarded(resources: dict[str, object], guard: str) -> None:
    """Who declares and shares; or whoever the file says so of."""
    spec = spec_of(llm={"resources": resources})

    assert spec.expand(1)[0].policy.guard == guard
    assert wants_devices(Fleet(spec=spec)) is (guard != "off")


def test_a_guard_without_a_declaration_is_refused() -> None:
    """There is nothing to hold a worker to."""
    with pytest.raises(SpecError) as found:
        spec_of(llm={"resources": {"gpu": 0.5, "gpu_memory_guard": "warn", "gpu_memory_guard_after": "5s"}})

    assert [str(one.message) for one in found.value.problems] == [
        "gpu_memory_guard needs gpu_memory",
        "gpu_memory_guard_after needs gpu_memory",
    ]


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"gpu": 0.5}, "not enforced on the GPU: its share; without gpu_memory nobody watches what it takes"),
        ({"gpu": 0.5, "gpu_memory": "8GiB"}, f"not enforced on the GPU: its share and gpu_memory; {MUCH} warned about"),
        (
            {"gpu": 1, "gpu_memory": "8GiB", "gpu_memory_guard": "restart"},
            f"not enforced on the GPU: gpu_memory; {MUCH} restarted",
        ),
        ({"gpu": 1, "gpu_memory": "8GiB"}, ""),
        ({"gpu": 0}, ""),
    ],
)
def test_what_nothing_enforces_is_said(resources: dict[str, object], words: str) -> None:
    """Of those that share a GPU, and of those that are guarded."""
    stage = start(spec_of(llm={"resources": resources, "ready": AFTER}))

    held = stage["llm/0"].held
    assert held is not None
    assert enforcement(held) == words
