"""Who gets which GPUs, and what is said to who gets none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.inventory import Device, Holder
from supervisor.core.plan import Current, Launch, Placement, Share, Supply, find_devices, make_plan
from supervisor.core.spec import Policy, WorkerId, WorkerSpec
from tests.core.builders import GIB, LLM, device, devices, uuid_of, wanted, whole

CPU = Policy(on_no_gpu="cpu")
FAIL = Policy(on_no_gpu="fail")
WAIT = Policy(on_no_gpu="wait")


def supply(count: int, *, trusted: bool = True) -> Supply:
    return Supply(devices(count), trusted, detail="")


def plan_of(workers: list[WorkerSpec], there: Supply, **current: Current) -> dict[str, Placement]:
    """The plan by name; names of current workers with ``_`` for the slash."""
    known = {WorkerId.parse(name.replace("_", "/")): one for name, one in current.items()}
    return {str(worker): placement for worker, placement in make_plan(workers, there, known).items()}


def indices(placement: Placement) -> tuple[int, ...] | None:
    """Indices of the GPUs of a placement, None for one without a launch."""
    if placement.launch is None:
        return None
    return tuple(int(share.uuid[4:-3], 16) for share in placement.launch.slice)


def has(worker: WorkerSpec, *held: int, living: bool = True, reserved: bool = True) -> Current:
    """A worker that has these GPUs."""
    return Current(worker, whole(*held), living=living, reserved=reserved)


# ---- how many --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus_there", "requests", "slices"),
    [
        (0, [0, 0], [(), ()]),
        (4, [0], [()]),
        (4, [1000, 1000], [(0,), (1,)]),
        (4, [2000, 2000], [(0, 1), (2, 3)]),
        (4, [1000, 2000, 1000], [(0,), (1, 2), (3,)]),
        (4, ["all"], [(0, 1, 2, 3)]),
        (1, ["all"], [(0,)]),
        (4, [3000, 2000, 1000], [(0, 1, 2), None, (3,)]),
        (4, [1000, "all"], [(0,), None]),
        (4, ["all", 1000], [(0, 1, 2, 3), None]),
        (1, [1000, 1000, 0], [(0,), None, ()]),
    ],
)
def test_workers_get_whole_gpus_in_file_order(
    gpus_there: int, requests: list[int | str], slices: list[tuple[int, ...] | None]
) -> None:
    """One that does not fit is passed over and does not keep the next from its place."""
    workers = [wanted(index=index, gpu=gpu) for index, gpu in enumerate(requests)]

    plan = plan_of(workers, supply(gpus_there))

    assert slices == [indices(placement) for placement in plan.values()]
    assert ["llm/0", "llm/1", "llm/2"][: len(requests)] == list(plan)


def test_a_placement_runs_what_the_file_asks_for() -> None:
    """The launch is the worker's recipe and its slice of whole shares."""
    worker = wanted(gpu=2000, port=8000)

    plan = plan_of([worker], supply(2))

    expected = Launch(worker.recipe, (Share(uuid_of(0), 1000), Share(uuid_of(1), 1000)))
    assert plan["llm/0"] == Placement(worker, expected)


# ---- which ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ("2", [2]),
        ("9", []),
        (uuid_of(3), [3]),
        ("GPU-3", [3]),
        ("GPU-", [0, 1, 2, 3]),
        ("GPU-x", []),
        ("10:00.0", [0]),
        ("0000:11:00.0", [1]),
        ("00000000:12:00.0", [2]),
        ("0000:1F:00.0", []),
        ("0001:10:00.0", []),
    ],
)
def test_a_filter_entry_names_an_index_a_uuid_or_a_pci_id(token: str, found: list[int]) -> None:
    """The driver writes eight digits of the PCI domain, sysfs four, people none."""
    assert found == [one.index for one in find_devices(token, devices(4))]


def test_a_pci_id_may_be_written_in_capitals() -> None:
    """The driver writes capitals, sysfs does not."""
    there = (replace(device(0), pci="0000:af:00.0"),)

    assert there == find_devices("00000000:AF:00.0", there)


def test_an_index_is_the_one_nvidia_smi_shows_and_not_a_position() -> None:
    """A pool without GPU 0 does not renumber the rest."""
    there = Supply(devices(4)[2:], trusted=True, outside=devices(4)[:2])

    plan = plan_of([wanted(gpus=("3",)), wanted(index=1, gpus=("0",))], there)

    assert indices(plan["llm/0"]) == (3,)
    assert plan["llm/1"].reason == 'GPU "0" is outside the pool'


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        (("7",), 'there is no GPU "7" on this machine'),
        (("GPU-",), '"GPU-" names 4 GPUs: GPU-0000, GPU-1000, GPU-2000, GPU-3000'),
        (("1", "GPU-1"), '"GPU-1" names GPU 1 a second time'),
        (("1", "0000:11:00.0"), '"0000:11:00.0" names GPU 1 a second time'),
    ],
)
def test_a_filter_that_names_no_one_device_is_refused(gpus: tuple[str, ...], reason: str) -> None:
    """None, several, or the same twice: said, and nobody is placed by guess."""
    plan = plan_of([wanted(gpus=gpus)], supply(4))

    assert (plan["llm/0"].launch, plan["llm/0"].reason) == (None, reason)


def test_a_filter_keeps_its_workers_on_its_devices() -> None:
    """The third of two devices waits although others are free."""
    workers = [wanted(index=index, gpus=("1", "3")) for index in range(3)]

    plan = plan_of(workers, supply(4))

    assert [indices(one) for one in plan.values()] == [(1,), (3,), None]
    assert plan["llm/2"].reason == "needs 1 GPU, 0 of 2 are free; reserved for llm/0, llm/1"


def test_all_means_all_that_the_filter_lets_through() -> None:
    """Whole, in the pool's order and not the filter's."""
    plan = plan_of([wanted(gpu="all", gpus=("3", "1"))], supply(4))

    assert indices(plan["llm/0"]) == (1, 3)


def test_exact_lists_are_booked_before_those_who_can_go_elsewhere() -> None:
    """Whoever stands first in the file does not take the device that another one must have."""
    free = wanted("a", gpu=1000)
    exact = wanted("b", gpu=1000, gpus=("0",), exact=True)

    plan = plan_of([free, exact], supply(2))

    assert {name: indices(one) for name, one in plan.items()} == {"a/0": (1,), "b/0": (0,)}
    assert list(plan) == ["a/0", "b/0"]


def test_the_file_wide_filter_holds_for_everybody() -> None:
    """A device that the file leaves out is as good as outside the pool."""
    plan = make_plan([wanted(), wanted(index=1, gpus=("0",))], supply(4), {}, allowed=("2",))

    assert indices(plan[WorkerId("llm", 0)]) == (2,)
    assert plan[WorkerId("llm", 1)].reason == 'GPU "0" is not among the file\'s gpus'


def test_a_file_wide_filter_that_names_nothing_is_said_to_who_gets_no_place() -> None:
    """A slip explains why there is none; a GPU that has gone does not stop those that are left."""
    plan = make_plan([wanted(), wanted(index=1)], supply(4), {}, allowed=("1", "9"))

    assert indices(plan[WorkerId("llm", 0)]) == (1,)
    problem = 'the file\'s gpus: there is no GPU "9" on this machine'
    assert plan[WorkerId("llm", 1)].reason == f"needs 1 GPU, 0 of 1 are free; reserved for llm/0; {problem}"


def crowded(index: int, used: int) -> Device:
    """A GPU of which a stranger has so many bytes."""
    return replace(device(index, free=80 * GIB - used), holders=(Holder(99, used, "python", "ann"),))


@pytest.mark.parametrize(
    ("memory", "used", "expected"),
    [(None, 20 * GIB, 1), (None, 7 * GIB, 0), (40 * GIB, 20 * GIB, 0), (40 * GIB, 60 * GIB, 1)],
)
def test_a_gpu_that_a_stranger_has_filled_is_taken_last(memory: int | None, used: int, expected: int) -> None:
    """Beside a free one nobody waits there; how much is too much is what admission says."""
    there = Supply((crowded(0, used), device(1)), trusted=True)

    (placement,) = plan_of([wanted(memory=memory)], there).values()

    assert indices(placement) == (expected,)


def test_where_strangers_are_everywhere_one_waits_where_one_was() -> None:
    """That is only busy, and busy is waited for."""
    there = Supply((crowded(0, 70 * GIB), crowded(1, 70 * GIB)), trusted=True)
    before = {LLM: Current(wanted(), whole(1), living=False)}

    (placement,) = make_plan([wanted()], there, before).values()

    assert indices(placement) == (1,)


def test_one_that_does_not_live_leaves_a_gpu_that_a_stranger_has_filled() -> None:
    """And one that lives stays, whatever a stranger has there."""
    there = Supply((crowded(0, 70 * GIB), device(1)), trusted=True)

    def index_of(*, living: bool) -> tuple[int, ...] | None:
        (placement,) = make_plan([wanted()], there, {LLM: Current(wanted(), whole(0), living=living)}).values()
        return indices(placement)

    assert (index_of(living=False), index_of(living=True)) == ((1,), (0,))


def test_devices_are_handed_out_in_the_pools_order() -> None:
    """`CUDA_VISIBLE_DEVICES=3,1` of the daemon puts GPU 3 first."""
    three, one = device(3), device(1)

    plan = plan_of([wanted(), wanted(index=1)], Supply((three, one), trusted=True))

    assert [indices(placement) for placement in plan.values()] == [(3,), (1,)]


def test_a_sick_device_gets_nobody_new() -> None:
    """It is counted, named, and passed over."""
    there = Supply((device(0, sick=True), device(1)), trusted=True)

    plan = plan_of([wanted(), wanted(index=1)], there)

    assert [indices(one) for one in plan.values()] == [(1,), None]
    assert plan["llm/1"].reason == "needs 1 GPU, 0 of 2 are free; reserved for llm/0; GPU 0 lost"


# ---- no place -------------------------------------------------------------------------------------------------------


def test_on_no_gpu_says_what_becomes_of_a_worker_without_a_place() -> None:
    """It waits, runs without, or fails; the arithmetic is the reason each time."""
    workers = [wanted(index=index, policy=policy) for index, policy in enumerate([WAIT, WAIT, CPU, FAIL])]

    plan = plan_of(workers, supply(1))

    reason = "needs 1 GPU, 0 of 1 are free; reserved for llm/0"
    assert plan["llm/1"] == Placement(workers[1], None, reason=reason)
    assert plan["llm/2"] == Placement(workers[2], Launch(workers[2].recipe), fallback=True, reason=reason)
    assert plan["llm/3"] == Placement(workers[3], None, refused=True, reason=reason)


@pytest.mark.parametrize(
    ("gpus_there", "gpu", "reason"),
    [
        (0, 1000, "needs 1 GPU, there is none"),
        (0, 4000, "needs 4 GPUs, there is none"),
        (0, "all", "needs 1 GPU, there is none"),
        (1, 2000, "needs 2 GPUs, 1 of 1 is free"),
        (4, 8000, "needs 8 GPUs, 4 of 4 are free"),
    ],
)
def test_a_refusal_shows_the_arithmetic(gpus_there: int, gpu: int | str, reason: str) -> None:
    """What is needed, what is there, what is free."""
    assert plan_of([wanted(gpu=gpu)], supply(gpus_there))["llm/0"].reason == reason


def test_a_refusal_names_at_most_eight_holders() -> None:
    """A hundred names would not be read."""
    workers = [wanted(index=index) for index in range(11)]

    reason = plan_of(workers, supply(10))["llm/10"].reason

    assert reason.endswith("; reserved for " + ", ".join(f"llm/{index}" for index in range(8)) + " and 2 more")


def test_a_machine_without_gpus_is_a_reason_with_its_detail() -> None:
    """What the driver said stands behind the arithmetic."""
    plan = plan_of([wanted()], Supply(trusted=True, detail="libnvidia-ml.so.1 not found"))

    assert plan["llm/0"].reason == "needs 1 GPU, there is none: libnvidia-ml.so.1 not found"


@pytest.mark.parametrize("policy", [WAIT, CPU, FAIL])
def test_a_supply_that_is_not_trusted_places_nobody_new_and_refuses_nobody(policy: Policy) -> None:
    """While the driver errs, on_no_gpu is not asked: everybody waits."""
    there = Supply(devices(4), trusted=False, detail="no answer within 10 s")
    newcomer, old = wanted(policy=policy), wanted(index=1, policy=policy)

    plan = plan_of([newcomer, old], there, llm_1=has(old, 2, living=False))

    assert plan["llm/0"] == Placement(newcomer, None, reason="no answer within 10 s")
    assert indices(plan["llm/1"]) == (2,)


def test_a_worker_without_gpus_never_waits_for_the_driver() -> None:
    """It needs nothing of it."""
    worker = wanted(gpu=0)

    assert plan_of([worker], Supply())["llm/0"] == Placement(worker, Launch(worker.recipe))


# ---- who has a place keeps it ---------------------------------------------------------------------------------------


def test_who_has_a_place_keeps_it_against_everybody_new() -> None:
    """An exact list and a place earlier in the file are no reason to move a worker."""
    exact = wanted("a", gpu=1000, gpus=("1",), exact=True)
    old = wanted("b")

    plan = plan_of([exact, old], supply(2), b_0=has(old, 1))

    assert {name: indices(one) for name, one in plan.items()} == {"a/0": None, "b/0": (1,)}


def test_a_worker_that_asks_for_more_keeps_what_it_had_of_it() -> None:
    """Growing from one GPU to two adds one, where that one is free."""
    old, new = wanted(), wanted(gpu=2000)

    plan = plan_of([new], supply(4), llm_0=has(old, 2))

    assert indices(plan["llm/0"]) == (0, 2)


def test_a_slice_that_is_only_remembered_goes_to_whoever_comes_first() -> None:
    """It is a wish and no reservation."""
    first, second = wanted(), wanted(index=1)

    plan = plan_of([first, second], supply(2), llm_1=has(second, 0, living=False, reserved=False))

    assert [indices(one) for one in plan.values()] == [(0,), (1,)]


def test_a_remembered_slice_is_tried_first() -> None:
    """An index that returns finds its old device, though an earlier one is free too."""
    worker = wanted()

    plan = plan_of([worker], supply(4), llm_0=has(worker, 3, living=False, reserved=False))

    assert indices(plan["llm/0"]) == (3,)


@pytest.mark.parametrize("there", [(device(1),), (device(0, sick=True), device(1))])
def test_a_device_that_is_lost_keeps_its_living_worker_and_loses_the_other(there: tuple[Device, ...]) -> None:
    """A process that runs there knows more than a reading; a reservation is planned anew."""
    worker = wanted()
    found = Supply(there, trusted=True)

    living = plan_of([worker], found, llm_0=has(worker, 0))
    reserved = plan_of([worker], found, llm_0=has(worker, 0, living=False))

    assert (indices(living["llm/0"]), indices(reserved["llm/0"])) == ((0,), (1,))


def test_a_living_worker_gives_up_a_device_that_its_file_does_not_allow_any_more() -> None:
    """A changed filter is a changed wish: it is replaced, not tolerated."""
    old, new = wanted(), wanted(gpus=("1",))

    assert indices(plan_of([new], supply(2), llm_0=has(old, 0))["llm/0"]) == (1,)


def test_a_worker_with_all_gpus_keeps_them_when_one_falls_sick() -> None:
    """Its process lives on them; only a worker that has to start asks how many all are."""
    worker = wanted(gpu="all")
    there = Supply((device(0), device(1, sick=True)), trusted=True)

    assert indices(plan_of([worker], there, llm_0=has(worker, 0, 1))["llm/0"]) == (0, 1)


def test_a_fallback_stays_on_the_cpu_until_the_file_asks_for_something_else() -> None:
    """Back to a GPU is the operator's word, or a new wish."""
    same, changed = wanted(policy=CPU), wanted(policy=CPU, port=9000)
    current = Current(same, (), living=True, fallback=True)

    assert plan_of([same], supply(4), llm_0=current)["llm/0"].fallback
    assert indices(plan_of([changed], supply(4), llm_0=current)["llm/0"]) == (0,)


def test_a_device_that_is_gone_does_not_move_the_workers_on_the_others_of_a_filter() -> None:
    """The filter cannot be met any more, but who lives on what is left of it does."""
    worker = wanted(gpus=("1", "0"))

    plan = plan_of([worker], Supply((device(0),), trusted=True), llm_0=has(worker, 0, living=False))

    assert indices(plan["llm/0"]) == (0,)


def test_a_running_worker_does_not_move_because_indices_did() -> None:
    """GPU 0 is gone, and what was GPU 1 is GPU 0 now: its process is where it should be."""
    worker = wanted(gpus=("1",))
    there = Supply((replace(device(1), index=0), replace(device(2), index=1)), trusted=True)

    plan = plan_of([worker], there, llm_0=has(worker, 1))

    assert indices(plan["llm/0"]) == (1,)
