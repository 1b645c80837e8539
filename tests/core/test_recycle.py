"""`recycle`: by age with a spread, by memory, one at a time, by turns on a device, and nobody's fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.inventory import Holder
from supervisor.core.message import Cause, RestartRequested, Signal, UsageRead
from supervisor.core.restart import spread_s
from supervisor.core.spec import Spec, WorkerId
from tests.core.builders import GIB, device, devices, good, of_type, spec_of
from tests.core.stage import Stage, running


def llm(workers: int = 2, *, recycle: dict[str, object], **keys: object) -> Spec:
    """One service of workers with a GPU each and a port."""
    return spec_of(llm={"workers": workers, "resources": {"gpu": 1}, "port": 8000, "recycle": recycle, **keys})


def use(stage: Stage, worker: str, amount: int) -> Stage:
    """It was measured."""
    stage.meet(UsageRead({stage[worker].id: (stage[worker].incarnation, amount)}))
    return stage


def test_an_old_worker_is_replaced_without_being_charged() -> None:
    """The same launch, the same slice; the cause says why."""
    stage = running(llm(1, recycle={"after": "1h"}), *devices(2))

    due = stage["llm/0"].deadline
    assert due is not None
    stage.pass_time(due)
    assert stage.states() == {"llm/0": "stopping"}
    assert due == spread_s(3600.0, WorkerId("llm", 0), 1)
    assert 3240.0 <= due < 3600.0
    stage.exited("llm/0", 0)

    last = stage["llm/0"].last_exit
    assert last is not None
    assert (stage.state("llm/0"), str(last.cause), stage["llm/0"].history.failures) == ("starting", "recycle", 0)
    assert stage.slices() == {"llm/0": (0,)}


def test_one_that_is_due_and_is_restarted_by_the_operator_first_is_not_recycled() -> None:
    """It does not wait for the turn that it had, and says whose doing it is."""
    stage = running(llm(2, recycle={"memory": "8GiB"}), *devices(4)).at(200.0)
    for worker in ("llm/0", "llm/1"):
        use(stage, worker, 9 * GIB)
    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}

    stage.meet(RestartRequested(workers=(WorkerId("llm", 1),)))

    assert stage.states() == {"llm/0": "stopping", "llm/1": "stopping"}
    assert (stage["llm/0"].cause, stage["llm/1"].cause) == (Cause.RECYCLE, Cause.OPERATOR)


def test_ages_differ_from_worker_to_worker_and_are_the_same_every_time() -> None:
    """By up to a tenth, never above what the file says."""
    ages = [spread_s(1000.0, WorkerId("llm", index), 1) for index in range(50)]

    assert len(set(ages)) == 50
    assert 900.0 <= min(ages) < 920.0
    assert 980.0 < max(ages) <= 1000.0
    assert ages[7] == spread_s(1000.0, WorkerId("llm", 7), 1)


def test_one_is_recycled_at_a_time_and_the_next_when_it_is_ready() -> None:
    """However large the others are by then."""
    stage = running(llm(3, recycle={"memory": "8GiB"}), *devices(4)).at(200.0)

    for index in range(3):
        use(stage, f"llm/{index}", 9 * GIB)
    first = [name for name, state in stage.states().items() if state != "ready"]
    assert len(first) == 1
    stage.exited(first[0], 0).spawned(first[0])
    assert [name for name, state in stage.states().items() if state != "ready"] == first
    stage.ready(first[0])

    second = [name for name, state in stage.states().items() if state != "ready"]
    assert len(second) == 1
    assert second != first


def test_nobody_is_recycled_while_another_of_its_service_is_not_ready() -> None:
    """It waits for its turn."""
    stage = running(llm(2, recycle={"memory": "8GiB"}), *devices(2))
    stage.at(200.0).unready("llm/1")

    use(stage, "llm/0", 9 * GIB)
    assert stage.states() == {"llm/0": "ready", "llm/1": "unready"}
    stage.ready("llm/1")

    assert stage.states() == {"llm/0": "stopping", "llm/1": "ready"}


@pytest.mark.parametrize(("amount", "state"), [(8 * GIB, "ready"), (8 * GIB + 1, "stopping")])
def test_host_memory_beyond_the_limit(amount: int, state: str) -> None:
    """What is measured now."""
    stage = running(llm(1, recycle={"memory": "8GiB"}), *devices(1)).at(200.0)

    assert use(stage, "llm/0", amount).state("llm/0") == state


def test_a_measurement_of_another_process_counts_for_nothing() -> None:
    """It is late."""
    stage = running(llm(1, recycle={"memory": "8GiB"}), *devices(1)).at(200.0)

    stage.meet(UsageRead({stage["llm/0"].id: (stage["llm/0"].incarnation - 1, 9 * GIB)}))

    assert stage.state("llm/0") == "ready"


def test_one_that_needs_more_as_soon_as_it_serves_is_not_replaced_for_ever() -> None:
    """Only who has proven healthy is."""
    stage = running(llm(1, recycle={"memory": "8GiB"}), *devices(1))

    assert use(stage.at(30.0), "llm/0", 9 * GIB).state("llm/0") == "ready"
    assert use(stage.at(61.0), "llm/0", 9 * GIB).state("llm/0") == "stopping"


def test_gpu_memory_beyond_the_limit_as_the_driver_shows_it() -> None:
    """Its own, on any one of its devices."""
    stage = running(llm(1, recycle={"gpu_memory": "50%"}), device(0)).at(200.0)
    stage.driver = None

    def shown(worker: str, amount: int) -> None:
        holder = Holder(pid=4, used_bytes=amount, worker=worker)
        stage.read(good(replace(device(0), holders=(holder,))))

    total = device(0).memory_total_bytes or 0
    shown("llm/0", total // 2)
    shown("other/0", total)
    assert stage.state("llm/0") == "ready"
    shown("llm/0", total // 2 + 1)
    assert stage.state("llm/0") == "stopping"


def test_two_services_on_one_device_take_turns() -> None:
    """Never both at once, until the first is ready again."""
    half = {
        "resources": {"gpu": 0.5, "gpu_memory": "8GiB"},
        "ready": {"after": "1s", "timeout": "10s"},
        "recycle": {"memory": "8GiB"},
    }
    stage = running(spec_of(a=half, b=half), device(0)).at(200.0)
    stage.driver = good(device(0))

    use(stage, "a/0", 9 * GIB)
    use(stage, "b/0", 9 * GIB)
    assert stage.states() == {"a/0": "stopping", "b/0": "ready"}
    stage.exited("a/0", 0).pass_time(300.0).read(good(device(0))).spawned("a/0")
    assert stage.states() == {"a/0": "starting", "b/0": "ready"}

    assert stage.ready("a/0").states() == {"a/0": "ready", "b/0": "stopping"}


def test_a_file_without_recycle_takes_it_back() -> None:
    """Who waited for its turn goes on."""
    stage = running(llm(2, recycle={"memory": "8GiB"}), *devices(2)).at(200.0)
    stage.unready("llm/1")
    use(stage, "llm/0", 9 * GIB)

    stage.reload(llm(2, recycle={}), good(*devices(2)))
    stage.ready("llm/1")

    assert set(stage.states().values()) == {"ready"}
    assert not of_type(Signal, stage.actions)


def test_a_file_with_another_age_is_taken_by_those_that_live() -> None:
    """Policies are."""
    stage = running(llm(1, recycle={}), *devices(1))
    assert stage["llm/0"].deadline is None

    stage.at(100.0).reload(llm(1, recycle={"after": "50s"}), good(*devices(1)))
    stage.pass_time(100.0)

    assert stage.state("llm/0") == "stopping"


def test_nobody_is_recycled_into_a_launch_that_has_no_place() -> None:
    """Its roll-out was halted, and who still runs goes on."""
    spec = llm(2, recycle={"memory": "8GiB"})
    stage = running(spec, *devices(2)).at(200.0)
    stage.reload(spec.model_copy(update={"gpus": ("7",)}), good(*devices(2)))
    stage.exited("llm/0", signal=15).at(201.0).read(good(*devices(2)))
    assert stage.fleet.rolls["llm"].is_halted
    assert stage.states() == {"llm/0": "pending", "llm/1": "ready"}

    use(stage, "llm/1", 9 * GIB)

    assert stage.states() == {"llm/0": "pending", "llm/1": "ready"}
