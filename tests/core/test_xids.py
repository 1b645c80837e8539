"""The driver's error numbers: each in the class in which the catalogue has it, and what follows from each class."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.inventory import Reading, Vitals
from supervisor.core.message import DeviceEventTold, ReadInventory, Say
from supervisor.core.spec import HealthSpec
from supervisor.core.xids import TABLE, find_xid
from tests.core.builders import device, devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

ONE = {"resources": {"gpu": 1}}
XID = 0x8

CATALOGUE = {
    "application": "8, 11, 13, 25, 31, 32, 39-42, 43, 45, 60, 68-72, 75-77, 80, 82-86, 88, 89, 96-105, 126-135, 139",
    "contained": "94",
    "information": "37, 38, 44, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 154, 157, 160, 161",
    # They need a reset; of 48 it is said that only an empty GPU is to get one, and all of them are emptied.
    "hardware: reset the GPU": "46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158, 48, 171, 172",
    "link: reset the GPU": "74, 144-150, 173",
    # They are gone: no reset reaches them.
    "hardware: reboot the machine": "79, 167, 169",
    "hardware: check the GPU's power and seat": "54",
    "unknown": "78, 151, 159, 168, 174, 175, 176",
}
"""Written from NVIDIA's catalogue as gpud carries it, DCGM's devastating errors and what Kubernetes' plugins ignore."""


def numbers_of(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(", "):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_every_number_is_in_the_class_of_the_catalogue() -> None:
    """And none is that is not there, or twice."""
    expected = {number: kind for kind, text in CATALOGUE.items() for number in numbers_of(text)}
    assert len(expected) == sum(len(numbers_of(text)) for text in CATALOGUE.values())

    found = {number: row.kind + (f": {row.advice}" if row.advice else "") for number, row in TABLE.items()}

    assert found == expected
    assert {find_xid(number, {}).kind for number in {*range(1, 1000)} - expected.keys()} == {"unknown"}


def told(stage: Stage, number: int, index: int = 0) -> Say:
    """An XID comes; the line that tells of it."""
    stage.meet(DeviceEventTold(uuid_of(index), XID, number))
    (line,) = [one for one in of_type(Say, stage.actions) if one.event == "device.xid"]
    return line


def health(stage: Stage, index: int = 0) -> str:
    assert stage.fleet.inventory is not None
    return str(stage.fleet.inventory.by_uuid[uuid_of(index)].health)


def with_vitals(vitals: Vitals) -> Reading:
    """Two GPUs, of which the first tells this."""
    return good(replace(device(0), vitals=vitals), device(1))


@pytest.mark.parametrize("kind", ["application", "contained", "information", "unknown"])
def test_what_is_no_fault_of_the_gpu_leaves_it_and_its_worker(kind: str) -> None:
    """A line, a warning unless it is news; all but the worker's own doing makes the driver look at the GPU."""
    for number in sorted(numbers_of(CATALOGUE[kind])):
        stage = running(spec_of(llm=ONE), *devices(2))
        stage.driver = None
        line = told(stage.at(100.0), number)

        assert (line.fields["xid"], line.fields["class"], line.fields["workers"]) == (number, kind, ["llm/0"])
        assert line.is_warning == (kind != "information")
        assert (health(stage), stage.state("llm/0")) == ("ok", "ready")
        assert (ReadInventory() in stage.actions) == (kind != "application")


def test_a_number_that_is_not_listed_is_decided_by_what_the_driver_then_says() -> None:
    """999, by which it says that it does not know itself, too: the recovery action, and whether the GPU answers."""
    for number in (999, 177, 1):
        stage = running(spec_of(llm=ONE), *devices(2))
        stage.driver = with_vitals(Vitals(recovery=0))
        told(stage.at(100.0), number)
        assert (health(stage), stage.state("llm/0")) == ("ok", "ready")

        stage.driver = with_vitals(Vitals(recovery=1))
        told(stage.at(110.0), number)
        assert (health(stage), stage.state("llm/0")) == ("draining", "stopping")


def test_of_154_the_recovery_action_is_read_at_once() -> None:
    """The number says only that it has changed."""
    stage = running(spec_of(llm=ONE), *devices(2))
    stage.driver = with_vitals(Vitals(recovery=2))

    assert not told(stage.at(100.0), 154).is_warning

    assert (health(stage), stage.state("llm/0")) == ("draining", "stopping")
    assert "the driver wants somebody to reboot the machine" in stage.fleet.ailments[uuid_of(0)].reason


@pytest.mark.parametrize("number", [92, 121])
def test_errors_that_were_mended_are_a_bad_sign_where_there_are_many(number: int) -> None:
    """Three within ten minutes: a warning, and the last choice for who starts; nobody is moved."""
    stage = running(spec_of(llm=ONE), *devices(2))
    for at in (0.0, 500.0, 700.0):
        told(stage.at(at), number)
    assert health(stage) == "ok"

    told(stage.at(1000.0), number)

    assert (health(stage), stage.state("llm/0")) == ("suspect", "ready")
    assert "again and again" in stage.fleet.ailments[uuid_of(0)].reason
    stage.pass_time(1700.0)
    assert health(stage) == "ok"


def test_other_news_is_news_however_often() -> None:
    """63: a row was replaced."""
    stage = running(spec_of(llm=ONE), *devices(2))
    for at in range(100, 110):
        told(stage.at(float(at)), 63)

    assert health(stage) == "ok"


def test_numbers_that_are_counted_are_those_whose_class_is_news() -> None:
    """The file may say otherwise."""
    spec = spec_of(llm=ONE).model_copy(update={"health": HealthSpec(xids=((92, "unknown"),))})
    stage = running(spec, *devices(2))
    for at in range(100, 110):
        told(stage.at(float(at)), 92)

    assert health(stage) == "ok"


def test_a_contained_error_with_a_row_to_be_replaced_makes_the_gpu_the_last_choice() -> None:
    """
    The process that it hit comes back there, uncharged; others go elsewhere where they can.

    Nobody new at all would leave a machine with one GPU without a worker for a row that the next reset replaces.
    """
    stage = running(spec_of(llm=ONE, web={**ONE, "workers": 0}), *devices(2))
    stage.driver = with_vitals(Vitals(remap_pending=True))
    told(stage.at(100.0), 94)
    assert health(stage) == "suspect"

    stage.at(101.0).exited("llm/0", 1)

    last = stage["llm/0"].last_exit
    assert last is not None
    assert (str(last.cause), stage["llm/0"].history.failures) == ("device", 0)
    assert (stage.state("llm/0"), stage.slices()["llm/0"]) == ("starting", (0,))


@pytest.mark.parametrize("kind", [kind for kind in CATALOGUE if kind.startswith("hardware")])
def test_a_fault_of_the_gpu_moves_its_worker_and_says_what_mends_it(kind: str) -> None:
    """To another GPU, uncharged; nobody starts there."""
    for number in sorted(numbers_of(CATALOGUE[kind])):
        stage = running(spec_of(llm=ONE), *devices(2))
        advice = kind.partition(": ")[2]
        line = told(stage.at(100.0), number)

        assert (line.fields["class"], line.fields["advice"], line.is_warning) == ("hardware", advice, True)
        assert stage.fleet.ailments[uuid_of(0)].reason.endswith(f": {advice}")
        stage.exited("llm/0", 0)
        assert (health(stage), stage.slices()["llm/0"]) == ("quarantined", (1,))
        assert stage["llm/0"].history.failures == 0


def test_a_fault_of_links_moves_who_has_several_gpus() -> None:
    """Who has one stays; nobody new comes to either."""
    for number in sorted(numbers_of(CATALOGUE["link: reset the GPU"])):
        stage = running(spec_of(pair={"resources": {"gpu": 2}}, solo=ONE), *devices(3))
        told(stage.at(100.0), number, 0)
        told(stage, number, 2)

        assert stage.states() == {"pair/0": "stopping", "solo/0": "ready"}
        assert (health(stage, 0), health(stage, 2)) == ("draining", "draining")
