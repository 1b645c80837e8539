"""
What NVML may answer, a row each: state of the GPUs, what who waits is told, and what becomes of who works.

Real probers on the fake library, and a fleet that is told what they read. In the order of the notes on the driver: the
library (12), the module (9), permission (4), mismatch (18), what a card does not know (3, 13, 25), lost (15, 16),
unknown (999), of a moment (19, 27, 29), what the binding makes of it, and a quiet wait (10). Calls that hang and
probers that crash are in `test_devices_failing` and `test_silence`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.core.gpus import LOOK_S, MISMATCH, RETRY_S
from supervisor.core.inventory import Device, GpuState, Reading
from supervisor.core.message import DeviceEventTold, Event, ReadInventory, ScaleRequested
from supervisor.daemon.sentry import Sentry
from supervisor.host.devices import Devices, parse_reading
from supervisor.host.excuses import explain_absence, explain_refusal
from supervisor.host.process import Processes
from tests.core.builders import spec_of
from tests.core.stage import Stage
from tests.core.stage import running as on_stage
from tests.host.devices_helpers import ask, until
from tests.host.prober_helpers import Asked
from tests.host.test_sentry import fleet
from tests.nvml.fake import FakeBox

ROOT = Path(__file__).parents[2]
ONE = {"resources": {"gpu": 1}}
LLM = spec_of(llm=ONE)
NAMES = ("nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetHandleByUUID")
MEMORY, MIG, UUID = "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMigMode", "nvmlDeviceGetUUID"


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=2)


@pytest.fixture
def asked(box: FakeBox) -> Iterator[Asked]:
    asked = Asked(box)
    yield asked
    asked.close()


def meet(good: Reading, answer: Reading) -> Stage:
    """A worker is ready on GPU 0 when the driver answers so; then an operator wants another one."""
    stage = on_stage(LLM, *good.devices)
    stage.driver = None
    stage.at(10.0).read(answer)
    stage.meet(ScaleRequested({"llm": 2}))
    return stage


def on(stage: Stage, worker: str) -> list[str]:
    """UUIDs of what a worker has."""
    return [share.uuid for share in stage[worker].occupied]


def is_on_the_cpu(stage: Stage) -> bool:
    held = stage["llm/0"].held
    return held is not None and held.fallback


# ---- the driver as a whole ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """
    What the fleet makes of an answer to initialising.

    Args:
        state: Of the GPUs.
        told: What a new worker is told that waits for it.
    """

    state: GpuState
    told: str


WHOLE: dict[int, Whole] = {
    9: Whole(GpuState.NOT_LOADED, "nvmlInit: Driver Not Loaded"),
    18: Whole(GpuState.MISMATCH, MISMATCH),
    999: Whole(GpuState.ERROR, "nvmlInit: Unknown Error"),  # A container that has lost its access says so, too.
    19: Whole(GpuState.ERROR, "nvmlInit: In use by another client"),
    27: Whole(GpuState.ERROR, "nvmlInit: Not Ready"),
    29: Whole(GpuState.ERROR, "nvmlInit: Invalid state"),
    15: Whole(GpuState.ERROR, "nvmlInit: GPU is lost"),
    13: Whole(GpuState.ERROR, "nvmlInit: Function Not Found"),
    777: Whole(GpuState.ERROR, "nvmlInit: Unknown Error"),  # A number that nobody knows.
}


async def test_what_initialising_answers_moves_nobody_and_is_told(box: FakeBox, devices: Devices) -> None:
    """Who works goes on, who comes waits with the answer as its reason, and the driver is asked again soon."""
    found, at_boot = {}, {}
    good = await ask(devices)
    for code in WHOLE:
        box.init_code(code)
        stage = meet(good, answer := await ask(devices, fresh=True))
        assert (stage.state("llm/0"), stage.state("llm/1")) == ("ready", "pending")
        assert stage.fleet.look_at is not None
        assert stage.fleet.look_at <= stage.now + RETRY_S
        found[code] = Whole(answer.state, stage["llm/1"].reason)
        at_boot[code] = Stage().load(LLM).read(answer)["llm/0"].reason
        box.heal()
        assert (await ask(devices, fresh=True)).state is GpuState.OK

    assert found == WHOLE
    assert at_boot == {code: row.told for code, row in WHOLE.items()}


def answer_of(box: FakeBox, *patches: str) -> Reading:
    """What a new prober reads, in which something of the binding or of the machine is otherwise."""
    program = "\n".join(
        ("import pynvml", "from supervisor.host import excuses, prober, vitals", *patches, "prober.main()")
    )
    asked = Asked(box, command=("-c", program))
    try:
        reading = parse_reading(asked.read())
        assert asked.end() == (0, b"")
    finally:
        asked.close()
    return reading


@pytest.mark.parametrize(
    ("traces", "told"),
    [
        ((), "NVML (libnvidia-ml.so.1) is not installed"),
        (("dev/nvidia0",), "driver present, NVML not mounted: add NVIDIA_DRIVER_CAPABILITIES=utility"),
        (("proc/driver/nvidia",), "driver present, NVML not mounted: add NVIDIA_DRIVER_CAPABILITIES=utility"),
    ],
)
def test_without_the_library_there_are_no_gpus_and_it_is_said_why(
    box: FakeBox, asked: Asked, tmp_path: Path, traces: tuple[str, ...], told: str
) -> None:
    """12: no driver at all, or a container that was given a part of it; GPUs that there were are not forgotten."""
    good = parse_reading(asked.read())
    for trace in traces:
        (tmp_path / trace).mkdir(parents=True)
    looked_for = [str(tmp_path / "dev/nvidia0"), str(tmp_path / "proc/driver/nvidia")]
    box.absent()

    answer = answer_of(box, f"prober.explain_absence = lambda: excuses.explain_absence({looked_for!r})")

    assert (answer.state, answer.detail) == (GpuState.ABSENT, told)
    assert Stage().load(LLM).read(answer)["llm/0"].reason == f"needs 1 GPU, there is none: {told}"
    fallback = Stage().load(spec_of(llm={**ONE, "on_no_gpu": "cpu"})).read(answer)
    assert (fallback.state("llm/0"), is_on_the_cpu(fallback)) == ("starting", True)
    stage = meet(good, answer)
    assert (stage.state("llm/0"), stage["llm/1"].reason) == ("ready", told)
    assert explain_absence(looked_for) == told


async def test_a_module_that_is_not_loaded_yet_is_waited_for(box: FakeBox, devices: Devices) -> None:
    """9: asked every second for as long as `gpu_wait`; after that it is a machine without GPUs, until it is there."""
    box.init_code(9)
    answer = await ask(devices)
    box.heal()
    good = await ask(devices)
    stage = Stage().load(spec_of(llm={**ONE, "on_no_gpu": "cpu"}))
    for second in range(30):
        stage.at(float(second)).read(answer)
        assert (stage.state("llm/0"), stage["llm/0"].reason) == ("pending", "nvmlInit: Driver Not Loaded")
        assert stage.fleet.look_at == second + 1.0

    late = Stage()
    late.fleet = stage.fleet
    stage.at(30.0).read(answer)
    assert (stage.state("llm/0"), is_on_the_cpu(stage)) == ("starting", True)
    late.at(30.0).read(good)
    assert (late.state("llm/0"), on(late, "llm/0")) == ("starting", [box.uuids[0]])


def test_without_permission_the_file_is_named(box: FakeBox, asked: Asked, tmp_path: Path) -> None:
    """4: which of the driver's files is not there, or may not be opened."""
    good = parse_reading(asked.read())
    box.init_code(4)

    answer = answer_of(box, f"prober.explain_refusal = lambda: excuses.explain_refusal({str(tmp_path)!r})")

    told = f"nvmlInit: Insufficient Permissions: there is no {tmp_path}/nvidiactl"
    assert (answer.state, answer.detail) == (GpuState.NO_PERMISSION, told)
    assert Stage().load(LLM).read(answer)["llm/0"].reason == told
    stage = meet(good, answer)
    assert (stage.state("llm/0"), stage["llm/1"].reason) == ("ready", told)


def test_files_that_may_not_be_opened_are_all_named(tmp_path: Path) -> None:
    """By their modes, as the user who asks; none of them is opened."""
    (tmp_path / "nvidia-uvm").touch(0)
    for name, mode in (("nvidiactl", 0o666), ("nvidia0", 0), ("nvidia12", 0)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    program = f"from supervisor.host.excuses import explain_refusal; print(explain_refusal({str(tmp_path)!r}))"
    become: tuple[str, ...] = ()
    if os.geteuid() == 0:  # Root may open everything, but without its capabilities.
        become = ("setpriv", "--inh-caps", "-all", "--bounding-set", "-all,+dac_read_search")
        if subprocess.run([*become, "true"], check=False, capture_output=True).returncode != 0:
            pytest.skip("cannot give up capabilities here")

    run = [*become, sys.executable, "-c", program]
    told = subprocess.run(run, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()

    assert told == f"user {os.geteuid()} may not open {tmp_path}/nvidia0, {tmp_path}/nvidia12"
    assert explain_refusal(str(tmp_path / "none")) == ""


# ---- what a card, a driver or a library does not know ---------------------------------------------------------------

FIELDS: dict[str, tuple[tuple[str, ...], Callable[[Device], object], object]] = {
    "name": (("nvmlDeviceGetName",), lambda one: one.name, ""),
    "place on the bus": (("nvmlDeviceGetPciInfo",), lambda one: one.pci, ""),
    "number of its file": (("nvmlDeviceGetMinorNumber",), lambda one: one.minor, None),
    "whether it is cut": ((MIG,), lambda one: one.is_cut, False),
    "recovery action": (("nvmlDeviceGetFieldValues",), lambda one: one.vitals.recovery, None),
    "row remapper": (("nvmlDeviceGetRemappedRows",), lambda one: one.vitals.remap_pending, None),
    "retired pages": (("nvmlDeviceGetRetiredPagesPendingStatus",), lambda one: one.vitals.pages_pending, None),
    "ECC": (("nvmlDeviceGetTotalEccErrors",), lambda one: one.vitals.uncorrected, None),
    "who computes": (
        tuple(f"nvmlDeviceGetComputeRunningProcesses_v{version}" for version in (2, 3)),
        lambda one: one.holders,
        None,
    ),
    "who draws": (
        tuple(f"nvmlDeviceGetGraphicsRunningProcesses_v{version}" for version in (2, 3)),
        lambda one: one.holders,
        (),
    ),
    # Not supported means memory of the host's, whose figures it then has: `test_prober_devices`.
    "memory": ((MEMORY, "nvmlDeviceGetMemoryInfo"), lambda one: one.is_unified or one.memory_free_bytes, None),
}


def test_what_is_not_known_is_that_field_and_the_gpu_is_fine(box: FakeBox, asked: Asked) -> None:
    """3, 13, 25: whatever is asked for, who works goes on and who comes may start there."""
    box.change(box.uuids[0], pages_pending=0)
    good = parse_reading(asked.read())
    found, expected = {}, {}
    for field, (calls, look, unknown) in FIELDS.items():
        for code in (3, 13, 25):
            for call in calls:
                box.fail(call, 0, code)
            answer = parse_reading(asked.read())
            stage = meet(good, answer)
            health = [str(one.health) for one in answer.devices]
            found[field, code] = (look(answer.devices[0]), health, stage.state("llm/0"), stage.state("llm/1"))
            is_unified = field == "memory" and code == 3
            expected[field, code] = (True if is_unified else unknown, ["ok", "ok"], "ready", "starting")
            box.heal()
        assert look(parse_reading(asked.read()).devices[0]) != unknown or field in {"whether it is cut", "who draws"}

    assert found == expected


# ---- one device -----------------------------------------------------------------------------------------------------

LEAVES, STAYS = ("lost", "stopping"), ("lost", "ready")
NOTHING = ("ok", "ready")

ONE_DEVICE: dict[str, tuple[dict[str, int], tuple[str, str], str]] = {
    # It says itself that it is broken: whoever is there leaves.
    "15 of its memory": ({MEMORY: 15}, LEAVES, f"{MEMORY}: GPU is lost"),
    "16 of its memory": ({MEMORY: 16}, LEAVES, f"{MEMORY}: GPU requires restart"),
    "15 of its identity": ({UUID: 15}, LEAVES, f"{UUID}: GPU is lost"),
    "16 of its identity": ({UUID: 16}, LEAVES, f"{UUID}: GPU requires restart"),
    "15 of MIG": ({MIG: 15}, LEAVES, f"{MIG}: GPU is lost"),
    "15 by every name": (dict.fromkeys(NAMES, 15), LEAVES, f"{NAMES[0]}: GPU is lost"),
    # Anything may be meant: nobody starts there, whoever is there goes on.
    "999 of its memory": ({MEMORY: 999}, STAYS, f"{MEMORY}: Unknown Error"),
    "999 of its identity": ({UUID: 999}, STAYS, f"{UUID}: Unknown Error"),
    "999 of MIG": ({MIG: 999}, STAYS, f"{MIG}: Unknown Error"),
    "777 of its memory": ({MEMORY: 777}, STAYS, f"{MEMORY}: Unknown Error"),
    "4 of its memory": ({MEMORY: 4}, STAYS, f"{MEMORY}: Insufficient Permissions"),
    # By its index it is unknown: it is asked for by its place on the bus, and by its UUID.
    "999 by its index": ({NAMES[0]: 999}, NOTHING, ""),
    "999 by its index and its place": ({NAMES[0]: 999, NAMES[1]: 999}, NOTHING, ""),
    "999 by every name": (dict.fromkeys(NAMES, 999), STAYS, f"{NAMES[0]}: Unknown Error"),
    "999 by its index, 15 by its place": (
        {NAMES[0]: 999, NAMES[1]: 15, NAMES[2]: 999},
        LEAVES,
        f"{NAMES[1]}: GPU is lost",
    ),
    "999 by its index, 16 by its UUID": (
        {NAMES[0]: 999, NAMES[1]: 6, NAMES[2]: 16},
        LEAVES,
        f"{NAMES[2]}: GPU requires restart",
    ),
    # Of a moment.
    "19 of its memory": ({MEMORY: 19}, STAYS, f"{MEMORY}: In use by another client"),
    "27 of its memory": ({MEMORY: 27}, STAYS, f"{MEMORY}: Not Ready"),
    "29 of its memory": ({MEMORY: 29}, STAYS, f"{MEMORY}: Invalid state"),
    "29 of its identity": ({UUID: 29}, STAYS, f"{UUID}: Invalid state"),
}


async def test_what_one_device_answers_is_its_own(box: FakeBox, devices: Devices) -> None:
    """15, 16, 999, 19, 27, 29 on GPU 0: GPU 1 is used meanwhile; what was of a moment is forgotten with it."""
    found, expected = {}, {}
    good = await ask(devices)
    for name, (codes, (health, state), reason) in ONE_DEVICE.items():
        for call, code in codes.items():
            box.fail(call, "*" if call == NAMES[1] else 0, code)
        stage = meet(good, answer := await ask(devices))
        assert stage.fleet.inventory is not None
        one = stage.fleet.inventory.by_uuid[box.uuids[0]]
        found[name] = (answer.state, str(one.health), one.reason, stage.state("llm/0"), on(stage, "llm/1"))
        expected[name] = (GpuState.OK, health, reason, state, [box.uuids[1]])
        box.heal()
        stage.at(12.0).read(again := await ask(devices))
        assert [str(each.health) for each in again.devices] == ["ok", "ok"]
        ailment = stage.fleet.ailments.get(box.uuids[0])
        assert (ailment is not None) is (state == "stopping"), name

    assert found == expected


def test_one_that_did_not_answer_for_a_moment_is_asked_again_soon(box: FakeBox, asked: Asked) -> None:
    """For a minute; then as often as all the others."""
    good = parse_reading(asked.read())
    box.fail(MEMORY, 0, 27)
    answer = parse_reading(asked.read())
    stage = on_stage(LLM, *good.devices)
    stage.driver = None

    looks = []
    for now in (10.0, 40.0, 70.0):
        stage.at(now).read(answer)
        assert stage.fleet.look_at is not None
        looks.append(stage.fleet.look_at - now)

    assert looks == [RETRY_S, RETRY_S, LOOK_S]


async def test_one_that_is_pulled_out_is_lost_by_its_name(box: FakeBox, devices: Devices) -> None:
    """The prober that knew it asks for it, and so does another one that was told of it."""
    good = await ask(devices)
    box.remove(box.uuids[0])
    stage = meet(good, await ask(devices))
    assert (stage.state("llm/0"), on(stage, "llm/1")) == ("stopping", [good.devices[1].uuid])
    gone = await ask(devices, fresh=True)

    assert [(one.uuid, str(one.health)) for one in gone.devices] == [(good.devices[1].uuid, "ok")]


async def test_devices_that_are_all_lost_are_no_driver_in_trouble(box: FakeBox, devices: Devices, asked: Asked) -> None:
    """Each is lost and left; where nobody knows what they are the driver errs, and all go on."""
    good = await ask(devices)
    for call in NAMES:
        box.fail(call, "*", 15)
    known = await ask(devices)
    unknown = parse_reading(asked.read())

    assert [(str(one.health), one.vitals.fault) for one in known.devices] == [("lost", 15)] * 2
    assert meet(good, known).states() == {"llm/0": "stopping", "llm/1": "pending"}
    assert (unknown.state, unknown.detail.split(";")[0]) == (GpuState.ERROR, "no device can be read")
    assert meet(good, unknown).states() == {"llm/0": "ready", "llm/1": "pending"}


async def test_an_instance_is_lost_with_its_gpu(box: FakeBox, devices: Devices) -> None:
    """As it was when it was last read."""
    (instance,) = box.cut(box.uuids[0], (0,))
    await ask(devices)
    for call in NAMES:
        box.fail(call, "*" if call == NAMES[1] else 0, 15)
    answer = await ask(devices)

    assert [(one.uuid, str(one.health)) for one in answer.devices] == [
        (box.uuids[0], "lost"),
        (instance, "lost"),
        (box.uuids[1], "ok"),
    ]


# ---- what comes of the binding --------------------------------------------------------------------------------------

STUMBLES = {
    "NVMLLibraryMismatchError: too old": 'pynvml.NVMLLibraryMismatchError("too old")',
    "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: bad": (
        'UnicodeDecodeError("utf-8", bytes([255]), 0, 1, "bad")'
    ),
    "AttributeError: no such thing": 'AttributeError("no such thing")',
    "OSError: cannot allocate memory": 'OSError("cannot allocate memory")',
}


@pytest.mark.parametrize("words", STUMBLES)
def test_whatever_the_binding_raises_is_an_answer(box: FakeBox, asked: Asked, words: str) -> None:
    """Of the driver as a whole, of a device's identity, or of one of its fields: no prober ends of it."""
    good = parse_reading(asked.read())
    stumble = f"def stumble(*_):\n    raise {STUMBLES[words]}\n"

    whole = answer_of(box, stumble, "pynvml.nvmlInit = stumble")
    name = answer_of(box, stumble, "pynvml.nvmlDeviceGetUUID = stumble")
    field = answer_of(box, stumble, "pynvml.nvmlDeviceGetMemoryInfo = pynvml.nvmlDeviceGetFieldValues = stumble")

    assert (whole.state, whole.detail) == (GpuState.ERROR, f"nvmlInit: {words}")
    assert (name.state, name.detail) == (
        GpuState.ERROR,
        f"no device can be read; device 0: nvmlDeviceGetUUID: {words}",
    )
    for answer in (whole, name):
        stage = meet(good, answer)
        assert (stage.state("llm/0"), stage["llm/1"].reason) == ("ready", answer.detail)
    assert [(one.memory_free_bytes, one.vitals.recovery, str(one.health)) for one in field.devices] == [
        (None, None, "ok")
    ] * 2
    assert meet(good, field).states() == {"llm/0": "ready", "llm/1": "starting"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"uuid": ""}, "'' is no identity"),
        ({"uuid": "GPU-\x01,x"}, "'GPU-\\x01,x' is no identity"),
        ({"uuid": "GPU 0"}, "it is that of device 0"),
    ],
)
def test_garbage_for_an_identity_is_nobodys(box: FakeBox, asked: Asked, fields: dict[str, str], told: str) -> None:
    """One that has none is not handed out, and of two that say the same only one is."""
    uuid = box.uuids[0] if "that of" in told else fields["uuid"]
    box.add(uuid=uuid, used_bytes=1 << 60, name=b"\xff\x01", pci="where?")

    answer = parse_reading(asked.read())

    assert [one.uuid for one in answer.devices] == box.uuids[:2]
    assert (answer.state, answer.detail) == (GpuState.OK, f"device 2: {UUID}: {told}")


def test_garbage_for_figures_is_no_more_than_there_is(box: FakeBox, asked: Asked) -> None:
    """A device says that more is used than it has: nothing of it is free."""
    box.change(box.uuids[0], used_bytes=1 << 60, name=b"\xff\x01", pci="where?")

    first = parse_reading(asked.read()).devices[0]

    assert (first.memory_free_bytes, first.name, first.pci, str(first.health)) == (
        0,
        "\N{REPLACEMENT CHARACTER}\x01",
        "",
        "ok",
    )


# ---- the wait for events --------------------------------------------------------------------------------------------

WAIT = "nvmlEventSetWait_v2"


async def test_a_quiet_wait_is_nothing_and_one_that_is_over_at_once_is_not_repeated_at_once(
    box: FakeBox, processes: Processes
) -> None:
    """10: nothing is told; what happens then is heard all the same, by the same process."""
    told: list[Event] = []
    sentry = Sentry(processes, {**os.environ, **box.env}, told.append)
    box.fail(WAIT, "*", 10)
    sentry.hear(fleet(box))
    await until(lambda: len(box.calls(WAIT)) >= 3)
    assert len(box.calls(WAIT)) <= 10
    box.heal()
    box.xid(box.uuids[1], 31)
    await until(lambda: bool(told))
    await sentry.close()

    assert told == [DeviceEventTold(box.uuids[1], 8, 31)]
    assert len({call.pid for call in box.calls(WAIT)}) == 1


@pytest.mark.parametrize("code", [15, 999])
async def test_a_wait_that_fails_makes_the_devices_looked_at(box: FakeBox, processes: Processes, code: int) -> None:
    """It does not say which of them is lost; it is tried again after a pause."""
    told: list[Event] = []
    sentry = Sentry(processes, {**os.environ, **box.env}, told.append)
    box.fail(WAIT, "*", code)
    sentry.hear(fleet(box))
    await until(lambda: bool(told))
    box.heal()
    waits = len(box.calls(WAIT))
    await until(lambda: len(box.calls(WAIT)) > waits)
    box.xid(box.uuids[0], 79)
    await until(lambda: told[-1] == DeviceEventTold(box.uuids[0], 8, 79))
    await sentry.close()

    stage = Stage().load(LLM)
    stage.meet(told[0])
    assert ReadInventory() in stage.history


async def test_where_nobody_can_be_watched_nobody_is(box: FakeBox, processes: Processes) -> None:
    """3: cards without events, once and for all; not one process after another."""
    sentry = Sentry(processes, {**os.environ, **box.env}, lambda _: None)
    box.fail("nvmlDeviceRegisterEvents", "*", 3)
    sentry.hear(fleet(box))
    await until(lambda: sentry._has_nobody and sentry._watcher is None)
    await sentry.close()

    assert len({call.pid for call in box.calls()}) == 1
