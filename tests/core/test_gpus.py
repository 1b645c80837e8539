"""The pool that the daemon found, and what the driver's answers do to the inventory in force."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from supervisor.core.gpus import LOOK_S, MISMATCH, make_supply, needs_cuda_order, parse_pool, resolve_pool
from supervisor.core.inventory import Device, GpuState
from supervisor.core.matching import find_devices
from supervisor.core.message import ReadInventory, Say, TimePassed
from supervisor.errors import CannotError
from tests.core.builders import bad, device, devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage

TWO = {"workers": 2, "resources": {"gpu": 1}}


# ---- the pool -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        (None, None),
        ("", ()),
        ("-1", ()),
        ("0", ("0",)),
        ("3, 1", ("3", "1")),
        ("0,-1,1", ("0",)),
        ("0,,1", ("0",)),
        ("0,1,", ("0", "1")),
        ("GPU-1000,GPU-2", ("GPU-1000", "GPU-2")),
        ("0,0", ("0", "0")),
        ("NoDevFiles", ()),
        ("MIG-1234,MIG-GPU-1/2/3,GPU-1", ("MIG-1234", "MIG-GPU-1/2/3", "GPU-1")),
    ],
)
def test_the_inherited_variable_is_read_as_cuda_reads_it(value: str | None, entries: tuple[str, ...] | None) -> None:
    """Unset is every GPU, empty is none, and the first entry that is no device ends the list."""
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}

    assert entries == parse_pool(environ)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0,MIG-GPU-1/2/3", "mixes indices and UUIDs"),
        ("all", '"all" is neither an index nor a UUID'),
        ("GPU-1000,gpu", '"gpu" is neither'),
        ("0,GPU-1000", "mixes indices and UUIDs"),
        ("nodevfiles", "neither"),
    ],
)
def test_a_pool_that_cannot_be_understood_is_refused(value: str, words: str) -> None:
    """Guessed wrong, workers would land on somebody else's GPUs."""
    with pytest.raises(CannotError, match=words) as refused:
        parse_pool({"CUDA_VISIBLE_DEVICES": value})

    assert str(refused.value).startswith(f"cannot use CUDA_VISIBLE_DEVICES={value} as the pool: ")
    assert refused.value.exit_code == 78
    assert "--pool all" in refused.value.hint


@pytest.mark.parametrize(
    ("entries", "indices"),
    [
        ((), []),
        (("3", "1"), [3, 1]),
        ((uuid_of(2), "GPU-0"), [2, 0]),
        (("1", "9", "2"), [1]),
        (("GPU-1", "GPU-x", "GPU-2"), [1]),
        (("GPU-",), []),
        (("1", "1"), []),
        (("GPU-1", uuid_of(1)), []),
    ],
)
def test_a_pool_is_the_devices_that_cuda_would_show(entries: tuple[str, ...], indices: list[int]) -> None:
    """In its order, up to the first that is not there; a device named twice leaves none at all."""
    assert tuple(uuid_of(index) for index in indices) == resolve_pool(entries, devices(4))


@pytest.mark.parametrize(
    ("entries", "uuids"),
    [
        (("0",), ["GPU-0"]),
        (("1",), []),
        (("MIG-b", "MIG-a"), ["MIG-b", "MIG-a"]),
        (("MIG-",), []),
        (("MIG-GPU-0/7/0",), ["MIG-a1"]),
        (("MIG-GPU-0/7/0", "MIG-GPU-0/9/0", "MIG-b"), ["MIG-a1"]),
        (("MIG-GPU-1/7/0",), []),
        (("GPU-0", "MIG-b"), ["GPU-0", "MIG-b"]),
        (("b2",), ["GPU-0"]),
        (("0", "b2"), []),
        (("b",), []),
    ],
)
def test_a_pool_names_mig_instances_in_every_form(entries: tuple[str, ...], uuids: list[str]) -> None:
    """By (the start of) their UUID, by numbers as before driver 470, or as CUDA tells them; an index is a GPU's."""
    found = resolve_pool(entries, box_with_mig())

    assert [uuid[: len(full)] for uuid, full in zip(found, uuids, strict=True)] == uuids


def box_with_mig() -> tuple[Device, ...]:
    gpu = replace(device(0), uuid="GPU-0", is_cut=True)
    one = replace(device(0), uuid="MIG-a1", parent=gpu.uuid, instance=(7, 0))
    other = replace(device(0), uuid="MIG-b2", parent=gpu.uuid, instance=(8, 0))
    return gpu, one, other


def test_whoever_has_a_gpu_has_its_instances_also_those_made_later() -> None:
    """In the pool's order, each once; an instance alone does not bring its GPU, nor its neighbours."""
    gpu, one, other = box_with_mig()
    last = device(3)

    def inside(pool: tuple[str, ...], *found: Device) -> list[str]:
        stage = Stage(pool=pool).load(spec_of(llm=TWO)).read(good(*found))
        return [each.uuid for each in make_supply(stage.fleet).devices]

    assert inside((last.uuid, "GPU-0", "MIG-b2"), gpu, one, other, last) == [last.uuid, "GPU-0", "MIG-a1", "MIG-b2"]
    assert inside(("MIG-b2",), gpu, one, other, last) == ["MIG-b2"]
    stage = Stage(pool=("GPU-0",)).load(spec_of(llm=TWO)).read(good(gpu, last)).read(good(gpu, other, last))
    assert [each.uuid for each in make_supply(stage.fleet).devices] == ["GPU-0", "MIG-b2"]


def test_a_gpu_that_is_not_cut_any_more_is_placed_on_at_once() -> None:
    """Nothing else about it has changed: neither its identity nor its index."""
    stage = (
        Stage().load(spec_of(llm={"workers": 1, "resources": {"gpu": 1}})).read(good(replace(device(0), is_cut=True)))
    )
    before = stage.slices()

    stage.read(good(device(0)))

    assert (before, stage.slices()) == ({"llm/0": ()}, {"llm/0": (0,)})


def test_an_index_means_the_instances_where_their_gpu_is_not_in_the_pool() -> None:
    """They have no index of their own; where the GPU is there too, it is named once."""
    gpu, one, other = box_with_mig()

    assert (find_devices("0", (one, other)), find_devices("0", (gpu, one))) == ((one, other), (one,))


def test_who_ran_on_a_gpu_that_is_cut_up_by_now_starts_elsewhere() -> None:
    """It lived there when MIG was switched on, and nothing about the devices changes when it ends."""
    spec = spec_of(llm={"workers": 1, "resources": {"gpu": 1}, "restart": {"delay": "0s", "max_delay": "0s"}})
    cut = good(replace(device(0), is_cut=True), device(1))
    stage = Stage().load(spec).read(good(device(0), device(1))).ready("llm/0").read(cut)
    lived = stage.slices()

    stage.at(100.0).exited("llm/0").read(cut)

    assert (lived, stage.slices()) == ({"llm/0": (0,)}, {"llm/0": (1,)})


@pytest.mark.parametrize(
    ("environ", "entries", "needed"),
    [
        ({}, ("0",), True),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, ("0",), True),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ("0",), False),
        ({}, ("GPU-1",), False),
        ({}, (), False),
        ({}, None, False),
    ],
)
def test_positions_mean_devices_only_in_pci_order(
    environ: dict[str, str], entries: tuple[str, ...] | None, needed: bool
) -> None:
    """Otherwise CUDA alone knows what comes first."""
    assert needed == needs_cuda_order(environ, entries)


def test_the_pool_is_handed_out_in_its_order_and_nothing_else_is() -> None:
    """The rest is known as outside, for the words of a refusal."""
    stage = Stage(pool=("3", "1")).load(spec_of(llm={**TWO, "workers": 3})).read(good(*devices(4)))

    assert stage.slices() == {"llm/0": (3,), "llm/1": (1,), "llm/2": ()}
    assert stage["llm/2"].reason == "needs 1 GPU, 0 of 2 are free; reserved for llm/0, llm/1"
    assert [one.index for one in make_supply(stage.fleet).outside] == [0, 2]


def test_the_pool_stays_the_same_devices_when_indices_change() -> None:
    """Positions are turned into UUIDs once, by the first good reading that shows a device."""
    stage = Stage(pool=("1",)).load(spec_of(llm=TWO)).read(bad()).read(good())
    before = stage.fleet.pool

    stage.read(good(*devices(2)))
    stage.read(good(replace(device(1), index=0)))

    assert (before, stage.fleet.pool) == (None, (uuid_of(1),))
    assert stage.slices() == {"llm/0": (1,), "llm/1": ()}


def test_an_empty_pool_leaves_no_gpu_and_says_why() -> None:
    """`CUDA_VISIBLE_DEVICES=` of the daemon."""
    stage = Stage(pool=()).load(spec_of(llm=TWO)).read(good(*devices(2)))

    assert stage.states() == {"llm/0": "pending", "llm/1": "pending"}
    assert "CUDA_VISIBLE_DEVICES of the daemon leaves no GPU" in stage["llm/0"].reason


# ---- the driver's answers -------------------------------------------------------------------------------------------


def test_a_machine_without_the_library_is_one_without_gpus() -> None:
    """On_no_gpu is asked at once."""
    stage = Stage().load(spec_of(llm={**TWO, "on_no_gpu": "cpu"})).read(bad(GpuState.ABSENT, "no libnvidia-ml.so.1"))

    assert stage.states() == {"llm/0": "starting", "llm/1": "starting"}
    assert stage.fleet.deadline is None


def test_a_driver_that_is_not_loaded_is_waited_for() -> None:
    """At boot its module may come a little later: asked every second for `gpu_wait`, then it is no GPU."""
    not_loaded = bad(GpuState.NOT_LOADED, "the kernel module is not loaded")
    spec = spec_of(llm={**TWO, "on_no_gpu": "cpu"}, daemon={"gpu_wait": "3s"})
    stage = Stage().load(spec).at(0.2).read(not_loaded)
    deadlines = []

    while stage.now < 3.0:
        assert stage.states() == {"llm/0": "pending", "llm/1": "pending"}
        assert stage.fleet.deadline is not None
        deadlines.append(stage.fleet.deadline)
        stage.at(stage.fleet.deadline).meet(TimePassed())
        assert stage.actions == (ReadInventory(fresh=True),)
        stage.read(not_loaded)

    assert deadlines == pytest.approx([1.2, 2.2, 3.0])
    assert stage.states() == {"llm/0": "starting", "llm/1": "starting"}


def test_a_driver_that_is_loaded_late_is_still_found() -> None:
    """Workers that wait for a GPU get it, as the driver is asked on."""
    stage = Stage().load(spec_of(llm=TWO)).at(31.0).read(bad(GpuState.NOT_LOADED, "not loaded"))
    assert stage["llm/0"].reason == "needs 1 GPU, there is none: not loaded"
    assert stage.due() == 36.0

    stage.at(36.0).meet(TimePassed())
    stage.read(good(*devices(2)))

    assert stage.states() == {"llm/0": "starting", "llm/1": "starting"}
    assert stage.fleet.deadline == 36.0 + LOOK_S


@pytest.mark.parametrize("state", [one for one in GpuState if one is not GpuState.OK])
def test_the_last_good_inventory_stays_in_force(state: GpuState) -> None:
    """A failed reading is no empty one: not even when the library itself is gone, as in the middle of an upgrade."""
    stage = Stage().load(spec_of(llm=TWO)).read(good(*devices(2))).ready("llm/0", "llm/1")
    inventory = stage.fleet.inventory

    stage.at(100.0).read(bad(state, "what it said"))

    assert (stage.fleet.inventory, stage.fleet.trusted) == (inventory, False)
    assert (stage.fleet.gpu.state, stage.fleet.gpu.detail, stage.fleet.gpu.since) == (state, "what it said", 100.0)
    assert set(stage.states().values()) == {"ready"}
    assert stage.fleet.deadline == 105.0


@pytest.mark.parametrize(
    "state", [GpuState.NO_PERMISSION, GpuState.MISMATCH, GpuState.UNRESPONSIVE, GpuState.ERROR, GpuState.NOT_LOADED]
)
def test_a_driver_in_trouble_is_asked_again_ever_more_rarely(state: GpuState) -> None:
    """5 s, doubling to a minute, through a fresh prober; from the beginning once it has answered."""
    stage = Stage().load(spec_of(llm=TWO)).at(40.0)
    delays = []

    for _ in range(6):
        stage.read(bad(state))
        assert stage.fleet.deadline is not None
        delays.append(stage.fleet.deadline - stage.now)
        stage.at(stage.fleet.deadline).meet(TimePassed())
        assert stage.actions == (ReadInventory(fresh=True),)
    stage.read(good(*devices(2))).read(bad(state))

    assert delays == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert stage.fleet.deadline == stage.now + 5.0


def test_nobody_is_asked_when_nobody_wants_a_gpu() -> None:
    """A web server on a machine with a broken driver is none of its business."""
    stage = Stage().load(spec_of(web={})).read(bad())

    assert stage.fleet.deadline is None


def test_a_change_of_the_drivers_state_is_said_once() -> None:
    """As trouble, unless it is an answer."""
    stage = Stage().load(spec_of(llm=TWO))
    for reading in (good(*devices(2)), good(*devices(2)), bad(), bad(), good(*devices(2))):
        stage.at(stage.now + 1.0).read(reading)

    said = [(say.event, say.fields["state"], say.is_warning) for say in of_type(Say, stage.history)]

    assert said == [
        ("inventory.read", "ok", False),
        ("inventory.failed", "unresponsive", True),
        ("inventory.read", "ok", False),
    ]


def test_the_reason_of_those_who_wait_follows_what_the_driver_says() -> None:
    """Not what it said at first."""
    stage = Stage().load(spec_of(llm=TWO))
    assert stage["llm/0"].reason == "the GPUs have not been read yet"

    stage.read(bad(detail="no answer within 10 s"))
    assert stage["llm/0"].reason == "no answer within 10 s"

    stage.read(bad(GpuState.NO_PERMISSION, "user 7 may not open /dev/nvidiactl"))
    assert stage["llm/0"].reason == "user 7 may not open /dev/nvidiactl"
    stage.read(bad(GpuState.MISMATCH, "library 560, module 550"))
    assert stage["llm/0"].reason == MISMATCH


def test_a_device_that_was_lost_before_the_driver_erred_is_missed() -> None:
    """Nobody is started with an index that nobody knows."""
    stage = Stage().load(spec_of(llm={"resources": {"gpu": 1}}))
    stage.driver = good(*devices(2))
    stage.read(good(*devices(2)))
    assert stage.slices() == {"llm/0": (0,)}
    stage.read(good(device(1))).read(bad())

    stage.spawn_failed("llm/0", errno.EAGAIN, "no more processes")

    target = stage["llm/0"].target
    assert target is not None
    assert target.launch is None
