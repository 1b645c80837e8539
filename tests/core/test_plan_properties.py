"""What holds of every plan, whatever the file and the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.gpu_types import matches
from supervisor.core.inventory import Device, Health, Link
from supervisor.core.plan import WHOLE, Current, Placement, Slice, Supply, find_devices, headroom_bytes, make_plan
from supervisor.core.spec import Percent, Policy, WorkerId, WorkerSpec, amount_bytes
from tests.core.builders import GIB, device, devices, wanted

Plan = Mapping[WorkerId, Placement]

counts = st.one_of(
    st.sampled_from([0, 1000, 1000, 1000, 2000, 3000, 5000]),
    st.sampled_from([1, 50, 250, 333, 500, 500, 700, 999]),
    st.just("all"),
)
amounts = st.sampled_from([None, None, 5 * GIB, 20 * GIB, 40 * GIB, 78 * GIB, 100 * GIB, Percent(250), Percent(500)])
kinds = st.sampled_from([(), (), (), ("nvidia-h100-80gb",), ("*H100*", "nvidia-l4"), ("nvidia-l4",)])
filters = st.none() | st.lists(st.sampled_from(["0", "1", "2", "GPU-3", "0000:14:00.0"]), min_size=1).map(tuple)
policies = st.sampled_from([Policy(on_no_gpu="wait"), Policy(on_no_gpu="cpu"), Policy(on_no_gpu="fail")])


@st.composite
def services(draw: st.DrawFn, name: str = "llm") -> list[WorkerSpec]:
    """Up to six workers of one service, each with wishes of its own."""
    return [
        with_wish(
            wanted(name, index, gpu=draw(counts), gpus=draw(filters), memory=draw(amounts), policy=draw(policies)),
            gpu_type=draw(kinds),
            spread=draw(st.booleans()),
        )
        for index in range(draw(st.integers(0, 6)))
    ]


def with_wish(worker: WorkerSpec, **wish: object) -> WorkerSpec:
    """The same worker with more to say; one without a GPU has nothing to say of them."""
    if worker.request.gpu == 0:
        return wanted(worker.id.service, worker.id.index, gpu=0, policy=worker.policy)
    return replace(worker, request=replace(worker.request, **wish))  # type: ignore[arg-type]  # Checked by the names.


@st.composite
def supplies(draw: st.DrawFn) -> Supply:
    """Up to six devices in any order: some sick, some cut up by MIG, on two NUMA nodes, with links between some."""
    found: list[Device] = []
    for index in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["whole", "whole", "whole", "sick", "cut"]))
        one = replace(device(index, sick=kind == "sick"), numa=draw(st.integers(0, 1)), is_cut=kind == "cut")
        found.append(one)
        found += [part_of(one, number) for number in range(draw(st.integers(0, 3)) if kind == "cut" else 0)]
    uuids = [one.uuid for one in found if one.parent is None]
    pairs = [pair for pair in combinations(uuids, 2) if draw(st.booleans())]
    links = tuple(Link(one, other, draw(st.sampled_from([0, 0, 4])), 30) for one, other in pairs)
    return Supply(tuple(draw(st.permutations(found))), trusted=draw(st.booleans()), links=links)


def part_of(whole: Device, number: int) -> Device:
    """An instance of a GPU."""
    size = 10 * GIB
    return replace(
        whole,
        uuid=f"MIG-{whole.index}-{number}",
        name=f"{whole.name} MIG 1g.10gb",
        memory_total_bytes=size,
        memory_free_bytes=size,
        parent=whole.uuid,
        is_cut=False,
    )


def taken(plan: Plan, *, living: bool = True) -> dict[WorkerId, Current]:
    """What workers have once a plan was carried out."""
    return {
        worker: Current(one.wanted, one.launch.slice, living=living, fallback=one.fallback)
        for worker, one in plan.items()
        if one.launch is not None
    }


def remembered(plan: Plan) -> dict[WorkerId, Current]:
    """What is left of a plan when its workers are gone."""
    return {
        worker: Current(one.wanted, one.launch.slice, living=False, reserved=False)
        for worker, one in plan.items()
        if one.launch is not None and one.launch.slice
    }


def slices(plan: Plan) -> dict[WorkerId, Slice]:
    return {worker: one.launch.slice for worker, one in plan.items() if one.launch is not None}


def some(plan: Plan, workers: Sequence[WorkerSpec]) -> dict[WorkerId, Slice]:
    """Slices of some workers."""
    return {one.id: slices(plan)[one.id] for one in workers if one.id in slices(plan)}


@given(services("a"), services("b"), supplies(), supplies())
def test_nobody_gets_a_short_slice_and_no_device_is_booked_twice(
    first: list[WorkerSpec], second: list[WorkerSpec], before: Supply, after: Supply
) -> None:
    """A slice is whole or there is none; also when the devices change under a plan."""
    plan = make_plan(first, before, {})
    again = make_plan([*first, *second], after, taken(plan, living=False))

    for one in (plan, again):
        booked: Counter[str] = Counter()
        for placement in one.values():
            request, launch = placement.wanted.request, placement.launch
            for share in launch.slice if launch else ():
                booked[share.uuid] += share.millis
            if launch is not None and not placement.fallback and request.gpu != "all":
                assert sum(share.millis for share in launch.slice) == request.gpu
            if launch is not None and request.gpu == "all":
                assert placement.fallback or launch.slice
            assert not (placement.refused and launch)
            assert launch or placement.reason
        assert max(booked.values(), default=0) <= WHOLE


@given(services("a"), services("b"), supplies(), st.sampled_from([None, 0, 10 * GIB]))
def test_no_memory_is_promised_twice_and_devices_are_what_was_asked_for(
    first: list[WorkerSpec], second: list[WorkerSpec], supply: Supply, headroom: int | None
) -> None:
    """What is declared on a device and the headroom are within what it has; kinds, filters, cuts and health hold."""
    supply = replace(supply, headroom=headroom)
    plan = make_plan([*first, *second], supply, {})
    known = {one.uuid: one for one in supply.devices}
    declared: Counter[str] = Counter()

    for placement in plan.values():
        request = placement.wanted.request
        there = [known[share.uuid] for share in (placement.launch.slice if placement.launch else ())]
        for one in there:
            total = one.memory_total_bytes or 0
            declared[one.uuid] += amount_bytes(request.gpu_memory or 0, total)
            assert declared[one.uuid] + headroom_bytes(headroom, total) <= total or request.gpu_memory is None
            assert one.health is Health.OK
            assert not one.is_cut
            assert not request.gpu_type or any(matches(kind, one) for kind in request.gpu_type)
            assert request.gpus is None or any(one in find_devices(token, supply.devices) for token in request.gpus)
        assert len(there) == 1 or all(one.parent is None for one in there)


@given(services(), supplies())
def test_nobody_waits_beside_a_place(workers: list[WorkerSpec], supply: Supply) -> None:
    """Who was refused is refused by an empty rest too: planned once more after the others, nothing has changed."""
    plan = make_plan(workers, supply, {})
    refused = [one for one in workers if plan[one.id].launch is None]

    again = make_plan(workers, supply, taken(plan))

    assert all(again[one.id].launch is None for one in refused)


@given(services(), supplies())
def test_the_same_input_gives_the_same_plan(workers: list[WorkerSpec], supply: Supply) -> None:
    """Nothing but the arguments decides."""
    assert make_plan(workers, supply, {}) == make_plan(tuple(workers), supply, {})


@given(services(), supplies())
def test_a_plan_that_is_carried_out_stays(workers: list[WorkerSpec], supply: Supply) -> None:
    """Planned again, everybody who has a place keeps it."""
    plan = make_plan(workers, supply, {})

    assert slices(plan) == slices(make_plan(workers, supply, taken(plan)))


@given(services("b"), services("a"), supplies())
def test_another_service_moves_nobody(old: list[WorkerSpec], new: list[WorkerSpec], supply: Supply) -> None:
    """Even when it stands before the others in the file."""
    before = make_plan(old, supply, {})

    after = make_plan([*new, *old], supply, taken(before))

    assert slices(before).items() <= slices(after).items()


@given(services("a"), services("b"), supplies())
def test_a_service_that_is_removed_and_added_back_finds_its_devices(
    kept: list[WorkerSpec], removed: list[WorkerSpec], supply: Supply
) -> None:
    """As long as nobody has taken them meanwhile, which nobody new did."""
    before = make_plan([*kept, *removed], supply, {})
    stay = [one for one in kept if one.id in slices(before)]
    # A worker without a GPU then may find one now, and "all" may be more than they were.
    come_back = [one for one in removed if one.id in remembered(before) and one.request.gpu != "all"]

    without = make_plan(stay, supply, taken(before))
    restored = make_plan([*stay, *come_back], supply, {**remembered(before), **taken(without)})

    assert some(before, [*stay, *come_back]) == slices(restored)


@given(st.integers(1, 8), st.integers(1, 3))
def test_four_two_four_keeps_the_slices(there: int, each: int) -> None:
    """Shrinking leaves the lower ones where they are, growing gives the higher ones their old places."""
    supply = Supply(devices(there), trusted=True)
    workers = [wanted(index=index, gpu=1000 * each) for index in range(4)]
    four = make_plan(workers, supply, {})

    two = make_plan(workers[:2], supply, taken(four))
    again = make_plan(workers, supply, {**remembered(four), **taken(two)})

    assert some(four, workers[:2]) == slices(two)
    assert slices(four) == slices(again)


@given(services(), supplies(), supplies())
def test_a_running_worker_never_moves(workers: list[WorkerSpec], before: Supply, after: Supply) -> None:
    """Devices that are lost, found, reordered or sick are no reason, and neither is a driver in trouble."""
    plan = make_plan(workers, before, {})
    current = {worker: one for worker, one in taken(plan).items() if one.wanted.request.gpu != "all"}

    replanned = make_plan([one for one in workers if one.id in current], after, current)

    assert {worker: one.slice for worker, one in current.items()} == slices(replanned)
