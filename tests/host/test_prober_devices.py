"""What the prober tells of devices: MIG instances, who has memory of them, when it is the host's, and links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.host import prober
from supervisor.host.nvml import CallError
from tests.host.prober_helpers import Asked
from tests.nvml.fake import H100_BYTES, FakeBox

GIB = 1 << 30


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=3)


@pytest.fixture
def asked(box: FakeBox) -> Iterator[Asked]:
    asked = Asked(box)
    yield asked
    asked.close()


# ---- MIG ------------------------------------------------------------------------------------------------------------


def test_instances_follow_their_gpu_and_gaps_are_skipped(box: FakeBox, asked: Asked) -> None:
    """Each with an identity and memory of its own, at the place of its GPU; the others of the box stay whole."""
    instances = box.cut(box.uuids[1], (0, 2, 6), total_bytes=10 * GIB)
    box.change_instance(instances[1], used_bytes=GIB)

    reading = asked.read()

    devices = reading["devices"]
    assert [device["uuid"] for device in devices] == [*box.uuids[:2], *instances, box.uuids[2]]
    assert [device["is_cut"] for device in devices] == [False, True, False, False, False, False]
    assert [device["parent"] for device in devices] == [None, None, *[box.uuids[1]] * 3, None]
    second = devices[3]
    assert (second["memory_total"], second["memory_free"]) == (10 * GIB, 9 * GIB)
    assert {key: second[key] for key in ("index", "pci", "health", "instance", "is_unified")} == {
        "index": 1,
        "pci": box.devices[1].pci,
        "health": "ok",
        "instance": [9, 0],
        "is_unified": False,
    }
    assert second["name"] == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert reading["broken"] == []


def test_a_gpu_cut_into_nothing_is_cut_and_has_no_instance(box: FakeBox, asked: Asked) -> None:
    """MIG is on and nobody made an instance: neither the GPU nor a part of it is there to be used."""
    box.cut(box.uuids[0])

    devices = asked.read()["devices"]

    assert [(device["uuid"], device["is_cut"]) for device in devices] == [
        (box.uuids[0], True),
        (box.uuids[1], False),
        (box.uuids[2], False),
    ]


@pytest.mark.parametrize("code", [3, 13])
def test_a_gpu_that_knows_no_mig_is_whole(box: FakeBox, asked: Asked, code: int) -> None:
    """An older card, or an older library."""
    box.change(box.uuids[0], mig="none")
    box.fail("nvmlDeviceGetMigMode", 1, code)

    devices = asked.read()["devices"]

    assert [(device["is_cut"], device["health"]) for device in devices] == [(False, "ok")] * 3


def test_a_gpu_that_does_not_tell_whether_it_is_cut_is_not_used(box: FakeBox, asked: Asked) -> None:
    """Taken for whole, its instances would be handed out a second time."""
    box.fail("nvmlDeviceGetMigMode", 1, 999)

    device = asked.read()["devices"][1]

    assert (device["health"], device["reason"]) == ("lost", "nvmlDeviceGetMigMode: Unknown Error")


def test_a_binding_that_stumbles_over_the_mig_mode_does_not_make_a_gpu_whole() -> None:
    """It says nothing of the GPU."""

    class Stumbling:
        def call(self, name: str, *_: object) -> object:
            raise CallError(name, None, "it broke")

    is_cut, stumble = prober._read_mig_mode(Stumbling(), 0, None)  # type: ignore[arg-type]
    assert (is_cut, str(stumble)) == (False, "nvmlDeviceGetMigMode: it broke")


def test_instances_that_cannot_be_read_do_not_stop_the_rest(box: FakeBox, asked: Asked) -> None:
    """One without an identity is named; one that is another container's is nobody's business."""
    first, second, third = box.cut(box.uuids[0], (0, 1, 2))
    box.fail("nvmlDeviceGetUUID", first, 999)
    box.fail("nvmlDeviceGetUUID", second, 4)
    box.fail("nvmlDeviceGetMemoryInfo_v2", third, 15)

    reading = asked.read()

    (instance,) = [device for device in reading["devices"] if device["parent"]]
    assert (instance["uuid"], instance["health"]) == (third, "lost")
    assert reading["broken"] == [{"index": 0, "detail": "MIG instance 0: nvmlDeviceGetUUID: Unknown Error"}]


def test_a_gpu_whose_instances_cannot_be_counted_has_none(box: FakeBox, asked: Asked) -> None:
    """And says so; it is not whole for that."""
    box.cut(box.uuids[0], (0,))
    box.fail("nvmlDeviceGetMaxMigDeviceCount", 0, 999)

    reading = asked.read()

    assert [device["is_cut"] for device in reading["devices"]] == [True, False, False]
    assert reading["broken"][0]["detail"].startswith("its MIG instances: nvmlDeviceGetMaxMigDeviceCount")


# ---- who has memory -------------------------------------------------------------------------------------------------


def holders(asked: Asked, index: int = 0) -> Any:
    return asked.read()["devices"][index]["holders"]


def test_processes_that_compute_and_those_that_draw_are_holders(box: FakeBox, asked: Asked) -> None:
    """One that does both is one, with all it has; memory that is not told is not zero."""
    box.list_process(box.uuids[0], 40, 5, kind="graphics")
    box.list_process(box.uuids[0], 30, 7)
    box.list_process(box.uuids[0], 30, 7, kind="graphics")
    box.list_process(box.uuids[0], 20, None)

    devices = asked.read()["devices"]

    assert devices[0]["holders"] == [[20, None], [30, 7], [40, 5]]
    assert devices[1]["holders"] == []


def test_an_older_library_lists_processes_by_its_own_version(box: FakeBox, asked: Asked) -> None:
    """The second version of the call, where there is no third."""
    box.list_process(box.uuids[0], 30, 7)
    box.drop_symbol("nvmlDeviceGetComputeRunningProcesses_v3")
    box.drop_symbol("nvmlDeviceGetGraphicsRunningProcesses_v3")

    assert holders(asked) == [[30, 7]]


@pytest.mark.parametrize("code", [3, 4, 999])
def test_processes_that_are_not_told_are_unknown_and_the_device_fine(box: FakeBox, asked: Asked, code: int) -> None:
    """Without permission, on a card that does not know, or for no reason."""
    box.fail("nvmlDeviceGetComputeRunningProcesses_v3", 0, code)

    device = asked.read()["devices"][0]

    assert (device["holders"], device["health"]) == (None, "ok")


def test_a_card_that_cannot_draw_still_tells_who_computes(box: FakeBox, asked: Asked) -> None:
    """The list of those that draw is not worth the other."""
    box.list_process(box.uuids[0], 30, 7)
    box.fail("nvmlDeviceGetGraphicsRunningProcesses_v3", 0, 3)

    assert holders(asked) == [[30, 7]]


def test_holders_are_told_of_instances_and_not_of_the_gpu_that_was_cut(box: FakeBox, asked: Asked) -> None:
    """There each has its own."""
    first, second = box.cut(box.uuids[0], (0, 1))
    box.list_process(second, 30, 7)

    devices = {device["uuid"]: device["holders"] for device in asked.read()["devices"]}

    assert (devices[box.uuids[0]], devices[first], devices[second]) == (None, [], [[30, 7]])


# ---- unified memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"has_memory": False}, {"name": "NVIDIA GB10"}])
def test_a_gpu_on_the_hosts_memory_has_the_hosts_figures(box: FakeBox, asked: Asked, fields: dict[str, Any]) -> None:
    """What could be had of it without swapping; also where a driver tells figures that leave the page cache out."""
    box.change(box.uuids[0], **fields)

    device = asked.read()["devices"][0]

    assert (device["is_unified"], device["health"]) == (True, "ok")
    assert device["memory_total"] == prober.read_host_memory("/proc/meminfo")[0]
    assert 0 < device["memory_free"] < device["memory_total"]


def test_an_instance_without_figures_has_none(box: FakeBox, asked: Asked) -> None:
    """The host's memory is not what a MIG instance is made of."""
    (instance,) = box.cut(box.uuids[0], (0,), has_memory=False)

    device = asked.read()["devices"][1]

    assert (device["uuid"], device["memory_total"], device["is_unified"]) == (instance, None, False)


def test_a_name_that_only_begins_alike_is_no_integrated_gpu(box: FakeBox, asked: Asked) -> None:
    """GB100 has memory of its own."""
    box.change(box.uuids[0], name="NVIDIA GB100")

    device = asked.read()["devices"][0]

    assert (device["is_unified"], device["memory_total"]) == (False, H100_BYTES)


@pytest.mark.parametrize("text", ["", "MemTotal: lots\n", None])
def test_a_host_that_does_not_tell_its_memory_leaves_it_open(tmp_path: Path, text: str | None) -> None:
    """As a reading without figures."""
    if text is not None:
        (tmp_path / "meminfo").write_text(text)

    assert prober.read_host_memory(str(tmp_path / "meminfo")) == (None, None)


# ---- links ----------------------------------------------------------------------------------------------------------


def links(asked: Asked, box: FakeBox) -> dict[tuple[int, int], tuple[int, int]]:
    """Indices of each pair to its NVLinks and its level."""
    found = asked.read()["links"]
    return {
        (box.uuids.index(link["one"]), box.uuids.index(link["other"])): (link["nvlinks"], link["level"])
        for link in found
    }


def test_every_pair_has_its_nearest_common_ancestor(box: FakeBox, asked: Asked) -> None:
    """Each pair once."""
    box.level(box.uuids[0], box.uuids[1], 10)
    box.level(box.uuids[0], box.uuids[2], 50)

    assert links(asked, box) == {(0, 1): (0, 10), (0, 2): (0, 50), (1, 2): (0, 40)}


def test_nvlinks_are_counted_where_they_lead(box: FakeBox, asked: Asked) -> None:
    """To one of the GPUs; one to a GPU that is not shown here counts for nobody."""
    one, other, third = box.uuids
    box.nvlink(one, other, other, "hidden")
    box.nvlink(other, one, one)
    box.nvlink(third, "hidden")

    assert {pair: link[0] for pair, link in links(asked, box).items()} == {(0, 1): 2, (0, 2): 0, (1, 2): 0}


@pytest.mark.parametrize("end", ["switch", "unknown"])
def test_through_switches_all_pairs_are_equal(box: FakeBox, asked: Asked, end: str) -> None:
    """Everybody reaches everybody, with as many as both have; some machines with switches tell nothing of them."""
    for uuid in box.uuids:
        box.nvlink(uuid, *[end] * 4)

    assert {link[0] for link in links(asked, box).values()} == {4}


def test_what_is_not_told_of_a_pair_leaves_it_out(box: FakeBox, asked: Asked) -> None:
    """A virtual machine knows no ancestors, and is asked for one of them only; NVLinks alone are told all the same."""
    box.fail("nvmlDeviceGetTopologyCommonAncestor", "*", 3)
    box.nvlink(box.uuids[0], box.uuids[1])
    box.nvlink(box.uuids[1], box.uuids[0])

    assert links(asked, box) == {(0, 1): (1, 50)}
    assert len(box.calls("nvmlDeviceGetTopologyCommonAncestor")) == 1


def test_one_pair_that_fails_does_not_stop_the_others(box: FakeBox, asked: Asked) -> None:
    """Nor the reading."""
    box.fail("nvmlDeviceGetTopologyCommonAncestor", 0, 999)

    assert links(asked, box) == {(1, 2): (0, 40)}


def test_links_are_asked_for_once(box: FakeBox, asked: Asked) -> None:
    """They are many calls, and do not change; other devices are another matter."""
    asked.read()
    asked.read()
    assert len(box.calls("nvmlDeviceGetTopologyCommonAncestor")) == 3

    box.fail("nvmlDeviceGetMemoryInfo_v2", 2, 15)
    assert links(asked, box) == {(0, 1): (0, 40)}
    box.heal()
    assert len(links(asked, box)) == 3


def test_gpus_that_are_cut_have_no_links(box: FakeBox, asked: Asked) -> None:
    """Nor have their instances."""
    box.cut(box.uuids[0], (0, 1))

    assert list(links(asked, box)) == [(1, 2)]


def test_more_devices_than_anybody_has_are_not_asked_for_their_links(tmp_path: Path) -> None:
    """Every pair is a call."""
    counts = {}
    for count in (64, 65):
        box = FakeBox(tmp_path / str(count), gpus=count)
        asked = Asked(box)
        reading = asked.read()
        asked.close()
        counts[len(reading["devices"])] = len(reading["links"])

    assert counts == {64: 64 * 63 // 2, 65: 0}
