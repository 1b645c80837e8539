"""The prober as the process that it is, against the fake library."""

from __future__ import annotations

import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.host import excuses, prober
from tests.host.prober_helpers import DEADLINE_S, Asked
from tests.nvml.fake import FakeBox


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=3)


@pytest.fixture
def asked(box: FakeBox) -> Iterator[Asked]:
    asked = Asked(box)
    yield asked
    asked.close()


def test_a_reading_holds_every_device(box: FakeBox, asked: Asked) -> None:
    """Identity, place and memory of each device, in index order."""
    box.change(box.uuids[1], used_bytes=1000, name="NVIDIA A100-SXM4-80GB", pci="0000:c7:00.0")

    reading = asked.read()

    assert (reading["state"], reading["detail"], reading["broken"]) == ("ok", "", [])
    assert [device["uuid"] for device in reading["devices"]] == box.uuids
    second = reading["devices"][1]
    assert second["memory_free"] == second["memory_total"] - 1000
    assert {key: second[key] for key in ("index", "name", "pci", "health", "reason")} == {
        "index": 1,
        "name": "NVIDIA A100-SXM4-80GB",
        "pci": "0000:c7:00.0",
        "health": "ok",
        "reason": "",
    }


def test_every_call_is_announced_before_it_is_made(box: FakeBox, asked: Asked) -> None:
    """The announcements are the calls that the library then gets, with the device's index."""
    asked.read()

    logged = [(call.name, call.device) for call in box.calls()]
    announced = [(name, int(index) if index else None) for name, _, index in (c.partition(" ") for c in asked.calling)]
    assert announced[0] == ("nvmlInit", None)
    assert logged[0] == ("nvmlInitWithFlags", None)
    assert len(announced) == len(logged)
    for (said, said_index), (done, index) in zip(announced[1:], logged[1:], strict=True):
        assert done.startswith(said)
        assert said_index == index


def test_nvml_stays_initialised_between_requests(box: FakeBox, asked: Asked) -> None:
    """The second reading is a new one through the same initialisation."""
    asked.read(1)
    box.change(box.uuids[0], used_bytes=5)

    reading = asked.read(2)

    assert reading["devices"][0]["memory_free"] == reading["devices"][0]["memory_total"] - 5
    assert len(box.calls("nvmlInitWithFlags")) == 1


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (9, "not_loaded", "Driver Not Loaded"),
        (4, "no_permission", "Insufficient Permissions"),
        (18, "mismatch", "version mismatch"),
        (999, "error", "Unknown Error"),
        (15, "error", "GPU is lost"),
        (28, "error", "GPU not found"),
    ],
)
def test_a_failed_initialisation_is_a_state_and_is_tried_again(
    box: FakeBox, asked: Asked, code: int, state: str, words: str
) -> None:
    """What NVML answers to initialising becomes the state; the next request tries anew."""
    box.init_code(code)

    reading = asked.read()
    assert (reading["state"], reading["devices"]) == (state, [])
    assert reading["detail"].startswith("nvmlInit: ")
    assert words in reading["detail"]
    box.heal()
    assert asked.read()["state"] == "ok"


def test_an_absent_library_is_a_state_and_is_looked_for_again(box: FakeBox, asked: Asked) -> None:
    """A machine without the library is no error; one that gets it later is found out."""
    box.absent()

    assert asked.read()["state"] == "absent"
    box.heal()
    assert asked.read()["state"] == "ok"


def test_absence_beside_a_driver_is_explained(tmp_path: Path) -> None:
    """A container that sees the driver but not the library is told what to add."""
    assert "NVIDIA_DRIVER_CAPABILITIES=utility" in excuses.explain_absence([str(tmp_path / "none"), str(tmp_path)])
    assert "not installed" in excuses.explain_absence([str(tmp_path / "none")])


def test_a_failed_count_is_the_state_of_the_whole(box: FakeBox, asked: Asked) -> None:
    """Without a count there is no reading, whatever the initialisation said."""
    box.fail("nvmlDeviceGetCount", "*", 18)

    reading = asked.read()

    assert reading["state"] == "mismatch"
    assert reading["detail"].startswith("nvmlDeviceGetCount: ")


def test_a_library_that_forgot_its_initialisation_is_initialised_again(box: FakeBox, asked: Asked) -> None:
    """Uninitialized as an answer makes the next request begin from the start."""
    asked.read()
    box.fail("nvmlDeviceGetCount", "*", 1)

    assert asked.read()["state"] == "error"
    box.heal()
    assert asked.read()["state"] == "ok"
    assert len(box.calls("nvmlInitWithFlags")) == 2


def test_an_older_library_is_asked_by_the_first_version(box: FakeBox, asked: Asked) -> None:
    """Memory comes from the first version of the call where the second is missing or has another structure."""
    for code in (13, 25):
        box.fail("nvmlDeviceGetMemoryInfo_v2", "*", code)

        reading = asked.read()

        assert [device["memory_total"] for device in reading["devices"]] == [box.devices[0].total_bytes] * 3
        assert "nvmlDeviceGetMemoryInfo 2" in asked.calling
        box.heal()


def test_memory_that_cannot_be_told_is_unknown_and_the_device_fine(box: FakeBox, asked: Asked) -> None:
    """A library without either call leaves the numbers open and the device usable."""
    box.fail("nvmlDeviceGetMemoryInfo_v2", 1, 13)
    box.fail("nvmlDeviceGetMemoryInfo", 1, 13)

    devices = asked.read()["devices"]

    assert [device["memory_total"] is None for device in devices] == [False, True, False]
    assert [device["memory_free"] is None for device in devices] == [False, True, False]
    assert [device["health"] for device in devices] == ["ok"] * 3
    assert not any(device["is_unified"] for device in devices)


@pytest.mark.parametrize(("code", "words"), [(15, "GPU is lost"), (16, "GPU requires restart"), (999, "Unknown Error")])
def test_a_device_that_loses_its_memory_is_lost_with_the_reason(
    box: FakeBox, asked: Asked, code: int, words: str
) -> None:
    """A device whose identity is readable stays in the reading, marked; the others are untouched."""
    box.fail("nvmlDeviceGetMemoryInfo_v2", 1, code)

    devices = asked.read()["devices"]

    assert [device["health"] for device in devices] == ["ok", "lost", "ok"]
    assert devices[1]["reason"] == f"nvmlDeviceGetMemoryInfo_v2: {words}"
    assert devices[1]["memory_free"] is None


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"])
def test_a_device_without_an_identity_does_not_stop_the_rest(box: FakeBox, asked: Asked, call: str) -> None:
    """It is named apart, with NVML's words, and the others are read."""
    box.fail(call, 0, 15)

    reading = asked.read()

    assert reading["state"] == "ok"
    assert [device["index"] for device in reading["devices"]] == [1, 2]
    assert reading["broken"] == [{"index": 0, "detail": f"{call}: GPU is lost", "code": 15}]


def test_devices_that_all_fail_are_an_error_and_no_empty_machine(box: FakeBox, asked: Asked) -> None:
    """Workers that may fall back to the CPU on a machine without GPUs must not do so for this."""
    box.fail("nvmlDeviceGetHandleByIndex", "*", 999)

    reading = asked.read()

    assert reading["state"] == "error"
    assert "nvmlDeviceGetHandleByIndex: Unknown Error" in reading["detail"]
    assert [each["index"] for each in reading["broken"]] == [0, 1, 2]


def test_a_machine_with_a_driver_and_no_device_is_fine(box: FakeBox, asked: Asked) -> None:
    """No devices is a good reading of none."""
    for uuid in box.uuids:
        box.remove(uuid)

    reading = asked.read()

    assert (reading["state"], reading["devices"], reading["broken"]) == ("ok", [], [])


def test_a_device_pulled_out_while_it_was_known_is_named(box: FakeBox, asked: Asked) -> None:
    """A device that leaves after the initialisation is broken, and the rest goes on."""
    asked.read()
    box.remove(box.uuids[1])

    reading = asked.read()

    assert [device["index"] for device in reading["devices"]] == [0, 2]
    assert reading["broken"] == [{"index": 1, "detail": "nvmlDeviceGetHandleByIndex: Unknown Error", "code": 999}]


def test_small_facts_that_fail_are_unknown(box: FakeBox, asked: Asked) -> None:
    """Neither the name nor the PCI address is worth losing a device for."""
    box.fail("nvmlDeviceGetName", 0, 13)
    box.fail("nvmlDeviceGetPciInfo", 0, 3)

    first = asked.read()["devices"][0]

    assert (first["name"], first["pci"], first["numa"], first["health"]) == ("", "", None, "ok")


def test_a_name_that_is_not_utf8_is_readable_in_part(box: FakeBox, asked: Asked) -> None:
    """What cannot be decoded is replaced, and the device stays."""
    box.change(box.uuids[0], name=b"caf\xe9 GPU")

    assert asked.read()["devices"][0]["name"] == "caf\N{REPLACEMENT CHARACTER} GPU"


@pytest.mark.parametrize(
    ("content", "node"), [("1\n", 1), ("0\n", 0), ("-1\n", None), ("", None), ("what\n", None), (None, None)]
)
def test_the_numa_node_is_what_sysfs_says(tmp_path: Path, content: str | None, node: int | None) -> None:
    """A machine with one node says -1, and a device may have no such file."""
    (tmp_path / "0000:10:00.0").mkdir()
    if content is not None:
        (tmp_path / "0000:10:00.0" / "numa_node").write_text(content)

    assert prober.read_numa(str(tmp_path), "0000:10:00.0") == node


def test_a_hang_is_the_last_call_announced(box: FakeBox, asked: Asked) -> None:
    """Who listens knows where a silent prober is; when the driver comes to, the reading follows."""
    box.hang("nvmlDeviceGetMemoryInfo_v2", 1)
    asked.tell(b'{"id": 7, "ask": "inventory"}')
    asked.hear_until("nvmlDeviceGetMemoryInfo_v2 1")

    assert asked.process.stdout is not None
    assert select.select([asked.process.stdout], [], [], 0.05)[0] == []
    box.heal()
    while (message := asked.hear()) is not None and "reading" not in message:
        pass
    assert message is not None
    assert (message["id"], message["reading"]["state"]) == (7, "ok")


def test_a_hang_in_initialising_is_announced_too(box: FakeBox, asked: Asked) -> None:
    """The very first call may be the one that does not return."""
    box.hang("nvmlInit")
    asked.tell(b'{"id": 1, "ask": "inventory"}')

    assert asked.hear() == {"id": 1, "calling": "nvmlInit"}


def test_a_crash_ends_the_prober_in_the_call_announced(box: FakeBox, asked: Asked) -> None:
    """A library that takes the process down leaves the announcement as the last word."""
    box.crash("nvmlDeviceGetName", 2)
    asked.tell(b'{"id": 1, "ask": "inventory"}')
    asked.hear_until("nvmlDeviceGetName 2")

    assert asked.hear() is None
    assert asked.process.wait(DEADLINE_S) == -signal.SIGSEGV


def test_the_end_of_input_ends_it_without_shutting_down(box: FakeBox, asked: Asked) -> None:
    """It exits with 0 and asks nothing more of the driver, which may be sick."""
    asked.read()

    assert asked.end() == (0, b"")
    assert box.calls("nvmlShutdown") == []


def test_nobody_listening_ends_it(asked: Asked) -> None:
    """A prober whose answers nobody can hear is of no use."""
    assert asked.process.stdout is not None
    asked.process.stdout.close()
    asked.tell(b'{"id": 1, "ask": "inventory"}')

    assert asked.process.wait(DEADLINE_S) == 0


def test_an_interrupt_from_a_terminal_is_ignored(asked: Asked) -> None:
    """Ctrl-C is the daemon's to handle."""
    asked.read()
    asked.process.send_signal(signal.SIGINT)

    assert asked.read()["state"] == "ok"
    assert asked.end() == (0, b"")


def test_nonsense_is_refused_and_does_not_end_it(asked: Asked) -> None:
    """An unknown question, and a line that is no request, get an error each."""
    asked.tell(b'{"id": 1, "ask": "tea"}')
    assert asked.hear() == {"id": 1, "error": "cannot answer 'tea': not a question of this prober"}
    for line in (b"", b"[]", b'"id"', b'{"ask": "inventory"}', b"\xff"):
        asked.tell(line)
        assert asked.hear() == {"id": None, "error": "not a request"}

    assert asked.read()["state"] == "ok"


def test_it_also_runs_as_a_module(box: FakeBox) -> None:
    """For a person with a question: python -m supervisor.host.prober."""
    asked = Asked(box, command=("-m", "supervisor.host.prober"))

    assert asked.read()["state"] == "ok"
    asked.close()


def test_what_a_library_prints_does_not_end_up_among_the_answers(box: FakeBox) -> None:
    """Standard output of the process is not where the answers go once it runs."""
    program = f"""
import os, runpy, sys
import pynvml
init = pynvml.nvmlInit
def chatty():
    os.write(1, b"driver: hello\\n")
    init()
pynvml.nvmlInit = chatty
runpy.run_path({prober.__file__!r}, run_name="__main__")
"""
    asked = Asked(box, command=("-c", program))

    assert asked.read()["state"] == "ok"
    assert asked.end() == (0, b"driver: hello\n")


def test_an_error_of_the_binding_itself_is_a_state_or_an_unknown_field(box: FakeBox) -> None:
    """The binding raises other things than NVMLError; none of them gets out of the prober."""
    program = f"""
import runpy
import pynvml
def stumble(*args):
    raise pynvml.NVMLLibraryMismatchError("too old")
pynvml.nvmlDeviceGetMemoryInfo = pynvml.nvmlDeviceGetName = stumble
runpy.run_path({prober.__file__!r}, run_name="__main__")
"""
    asked = Asked(box, command=("-c", program))
    reading = asked.read()
    assert asked.end() == (0, b"")
    assert [(each["name"], each["memory_total"], each["health"]) for each in reading["devices"]] == [
        ("", None, "ok")
    ] * 3

    asked = Asked(box, command=("-c", program.replace("nvmlDeviceGetMemoryInfo", "nvmlInit")))
    reading = asked.read()
    assert asked.end() == (0, b"")
    assert (reading["state"], reading["detail"]) == ("error", "nvmlInit: NVMLLibraryMismatchError: too old")
