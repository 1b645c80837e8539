"""
Every signal by which NVML tells that a GPU is not well, and what follows for who is there and who would come.

The real prober with the real binding asks the fake library; the real core decides. No daemon: five minutes take none.
One daemon, at the end, starts beside a fabric that is not ready.
A device on which a call hangs, and one that `/proc` shows and NVML does not, are the client's business (test_silence).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.inventory import Reading
from supervisor.core.snapshot import View, make_devices
from supervisor.host.devices import parse_reading
from tests.core.builders import spec_of
from tests.core.stage import Stage
from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import wait_for
from tests.host.prober_helpers import Asked
from tests.nvml.fake import FakeBox

MINUTE = 60.0
GPUS = 5
PAIR, ALONE, EMPTY = (0, 1), 2, 3
"""Where a worker with two GPUs lives, where one with a single one does, and where nobody is; the last one is well."""

SICK = (PAIR[0], ALONE, EMPTY)
SPEC: dict[str, Any] = {
    "pair": {"resources": {"gpu": 2, "gpus": [*PAIR]}},
    "solo": {"resources": {"gpu": 1, "gpus": [ALONE]}},
}
LATE: dict[str, Any] = {"new": {"resources": {"gpu": 1, "gpus": [EMPTY]}}}
CHOOSY: dict[str, Any] = {"new": {"resources": {"gpu": 1}}}


@dataclass(frozen=True)
class Signal:
    """
    One row of the table of signals.

    Args:
        name: The check, and what it finds.
        changes: Fields of the sick devices.
        fails: Call -> code with which it fails there.
        act: What else is done to one of them.
        readings: So many are made, a minute apart.
        health: Of the sick device that nobody is on.
        pair, solo: Whether who is there with two GPUs, and with one, stays.
        late: Whether somebody starts there who may go nowhere else.
    """

    name: str
    changes: dict[str, Any]
    health: str
    pair: bool = True
    solo: bool = True
    late: bool = True
    readings: int = 1
    fails: tuple[tuple[str, int], ...] = ()
    act: Callable[[FakeBox, str], None] = lambda *_: None


def out(name: str, changes: dict[str, Any], health: str = "quarantined", **more: Any) -> Signal:
    """A fault of the device: everybody leaves, nobody comes."""
    return Signal(name, changes, health, **{"pair": False, "solo": False, "late": False, **more})


def nothing(name: str, changes: dict[str, Any], **more: Any) -> Signal:
    """It is shown at the most."""
    return Signal(name, changes, "ok", **more)


def odd(name: str, changes: dict[str, Any], **more: Any) -> Signal:
    """Somebody who may choose goes elsewhere."""
    return Signal(name, changes, "suspect", **more)


WELL: dict[str, Any] = {
    "recovery": 0,
    "remap_pending": 0,
    "remap_failed": 0,
    "pages_pending": -1,
    "repair": -1,
    "throttle": 0,
    "celsius": 30,
    "fabric": -1,
    "fabric_status": 0,
    "gpu_percent": 0,
    "used_bytes": 0,
}
MEMORY = "nvmlDeviceGetMemoryInfo_v2"
ASKED = (
    *("nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetRetiredPagesPendingStatus"),
    *("nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRepairStatus", "nvmlDeviceGetCurrentClocksEventReasons"),
    *("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetPowerUsage"),
    *("nvmlDeviceGetNvLinkState", "nvmlDeviceGetGpuFabricInfoV", "nvmlDeviceGetUtilizationRates"),
)

SIGNALS = (
    # Alive: its handle and its memory can be asked for.
    out("alive: lost (15)", {}, "lost", fails=((MEMORY, 15),)),
    out("alive: needs a reset (16)", {}, "lost", fails=((MEMORY, 16),)),
    Signal("alive: unknown error (999)", {}, "lost", fails=((MEMORY, 999),), late=False),
    # recovery action (field 230)
    nothing("recovery action: 0 none", {"recovery": 0}),
    out("recovery action: 1 reset", {"recovery": 1}),
    out("recovery action: 2 reboot", {"recovery": 2}),
    out("recovery action: 3 drain peers", {"recovery": 3}, solo=True),
    out("recovery action: 4 drain and reset", {"recovery": 4}),
    out("recovery action: 5 recover the IMEX domain", {"recovery": 5}, solo=True),
    out("recovery action: 6 reset the bus", {"recovery": 6}),
    out("recovery action: 7 reboot the system", {"recovery": 7}),
    out("recovery action: 8, of a driver to come", {"recovery": 8}),
    # row remapper, retired pages, repair
    odd("row remapper: pending", {"remap_pending": 1}),
    out("row remapper: failed", {"remap_failed": 1}),
    odd("retired pages: pending", {"pages_pending": 1, "remap_pending": -1, "remap_failed": -1}),
    odd("repair: a channel", {"repair": 1}),
    odd("repair: a TPC", {"repair": 2}),
    nothing("repair: none", {"repair": 0}),
    # ECC
    odd("ECC: one more that could not be corrected", {"ecc": 6}),
    nothing("ECC: as many as before", {"ecc": 5}),
    # throttling
    nothing("throttle: a power cap of software (0x4)", {"throttle": 0x4}, readings=6),
    nothing("throttle: slowed down by hardware, not said why (0x8)", {"throttle": 0x8}, readings=6),
    nothing("throttle: heat, by software (0x20)", {"throttle": 0x20}, readings=6),
    nothing("throttle: heat, by hardware (0x40), four minutes", {"throttle": 0x48}, readings=4),
    odd("throttle: heat, by hardware (0x40), five minutes", {"throttle": 0x48}, readings=5),
    odd("throttle: power brake (0x80), five minutes", {"throttle": 0x88}, readings=5),
    # temperature, power
    nothing("temperature: high", {"celsius": 108}, readings=6),
    nothing("power: an error", {}, fails=(("nvmlDeviceGetPowerUsage", 999),), readings=6),
    # NVLinks, fabric
    out("NVLink: one of four down", {}, solo=True, act=lambda box, uuid: box.nvlinks_down(uuid, 3)),
    Signal("fabric: not begun", {"fabric": 1}, "held", late=False),
    Signal("fabric: under way", {"fabric": 2}, "held", late=False),
    nothing("fabric: completed", {"fabric": 3}),
    nothing("fabric: there is none", {"fabric": 0}),
    odd("fabric: completed, without success", {"fabric": 3, "fabric_status": 999}),
    # ghost
    out("ghost: busy for five minutes, nobody there", {"gpu_percent": 95}, readings=5, pair=True, solo=True),
    nothing("ghost: busy for four minutes, nobody there", {"gpu_percent": 100}, readings=4),
    nothing("ghost: somebody has memory there", {"gpu_percent": 100, "used_bytes": 1 << 30}, readings=6),
    nothing(
        "ghost: somebody is on the list",
        {"gpu_percent": 100},
        act=lambda box, uuid: box.list_process(uuid, 4711, 4096),
        readings=6,
    ),
    # any other error leaves the field unknown
    *(nothing(f"all of these: error {code}", {}, fails=tuple((call, code) for call in ASKED)) for code in (3, 13, 999)),
)


@pytest.fixture(scope="module")
def prober_and_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Asked, FakeBox]]:
    """One for all rows: what changes is the box."""
    box = FakeBox(tmp_path_factory.mktemp("box"), gpus=GPUS)
    for uuid in box.uuids:
        box.nvlink(uuid, *["switch"] * 4)
    asked = Asked(box)
    yield asked, box
    asked.close()


@pytest.fixture
def prober(prober_and_box: tuple[Asked, FakeBox]) -> Asked:
    return prober_and_box[0]


@pytest.fixture
def box(prober_and_box: tuple[Asked, FakeBox]) -> Iterator[FakeBox]:
    box = prober_and_box[1]
    for index in SICK:
        box.change(box.uuids[index], ecc=5)
    yield box
    mend(box)


def mend(box: FakeBox) -> None:
    """As it was before."""
    box.heal()
    box.forget_processes()
    for index in SICK:
        box.nvlinks_down(box.uuids[index])
        box.change(
            box.uuids[index],
            **WELL,
        )


def look(prober: Asked) -> Reading:
    return parse_reading(prober.read(checkup=True))


def begin(reading: Reading) -> Stage:
    """A fleet that is ready. Whoever asks for a reading gets this one."""
    stage = Stage().load(spec_of(**SPEC))
    stage.driver = reading
    stage.read(reading)
    while starting := [name for name, state in stage.states().items() if state == "starting"]:
        stage.ready(*starting)
    return stage


def come(stage: Stage, reading: Reading, services: dict[str, Any]) -> Stage:
    """A fleet of its own, in which more is wanted."""
    other = copy(stage)
    other.driver = reading
    return other.load(spec_of(**SPEC, **services)).read(reading)


def health(stage: Stage, box: FakeBox, index: int) -> str:
    shown = make_devices(stage.fleet, View(rfc3339=str))["devices"]
    return next(str(one["health"]) for one in shown if one["uuid"] == box.uuids[index])


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda one: one.name)
def test_a_signal_has_its_verdict(signal: Signal, prober: Asked, box: FakeBox) -> None:
    """Who is there stays or leaves, who comes starts or waits; no other device notices; in the end all is well."""
    stage = begin(look(prober))
    assert stage.states() == {"pair/0": "ready", "solo/0": "ready"}

    for uuid in (box.uuids[index] for index in SICK):
        box.change(uuid, **signal.changes)
        signal.act(box, uuid)
        for call, code in signal.fails:
            box.fail(call, uuid, code)
    seen = look(prober)
    for _ in range(signal.readings):
        stage.at(stage.now + MINUTE).read(seen)

    assert (health(stage, box, EMPTY), health(stage, box, GPUS - 1)) == (signal.health, "ok")
    states = {"pair/0": "ready" if signal.pair else "stopping", "solo/0": "ready" if signal.solo else "stopping"}
    assert stage.states() == states

    late, choosy = (come(stage, seen, service) for service in (LATE, CHOOSY))
    assert late.state("new/0") == ("starting" if signal.late else "pending")
    chosen = [share.uuid for share in choosy["new/0"].occupied]
    assert chosen == [box.uuids[EMPTY if signal.health == "ok" else GPUS - 1]]

    mend(box)
    well = look(prober)
    stage.read(well)
    for _ in range(3):
        stage.pass_time(stage.now + 700.0).read(well)
    assert health(stage, box, EMPTY) == "ok"


FILE = """
services:
  llm:
    command: sleep 1000
    resources: {gpu: 1}
    on_no_gpu: cpu
    ready: {after: 50ms}
"""


def test_a_daemon_waits_for_the_fabric_at_boot(start: StartDaemon, tmp_path: Path) -> None:
    """Nobody starts to fail with CUDA's error 802, and nobody falls back to the CPU; what slows a GPU down is shown."""
    box = FakeBox(tmp_path / "box", gpus=1)
    box.change(box.uuids[0], fabric=2, throttle=0x4)
    daemon = start(FILE, box=box)
    reason = "it has not joined the NVSwitch fabric (under way), without which CUDA does not start"
    daemon.wait(lambda now: now["llm/0"]["reason"] == f"held: GPU 0: {reason}", "it is held")

    shown = daemon.ask("/v1/devices")["devices"][0]
    assert (shown["health"], shown["reason"], shown["throttle"]) == ("held", reason, ["sw_power_cap"])
    metrics = daemon.text("/v1/metrics")
    assert 'reason="sw_power_cap"' in metrics
    assert 'health="held"' in metrics
    assert reason in daemon.cli("devices").stdout
    assert (daemon.worker("llm/0")["restarts"], daemon.worker("llm/0")["pid"]) == (0, None)

    box.change(box.uuids[0], fabric=3)
    wait_for(lambda: daemon.ask("/v1/devices")["devices"][0]["health"] == "ok", "it has joined")
    daemon.wait_states(llm="ready")
    assert "device.held" in daemon.output
