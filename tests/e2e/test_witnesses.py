"""What the driver tells while a real daemon works: each class of XID, a mismatch, who has too much, a GPU that goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import Json, RunningDaemon, wait_for
from tests.nvml.fake import FakeBox

GIB = 1 << 30
CLASSES = ("application", "contained", "often", "action", "reset", "gone", "other")
CLASSES_FILE = "services:\n" + "".join(
    f"  {name}: {{command: sleep 1000, resources: {{gpu: {gpus}}}, ready: {{after: 50ms}}, restart: {{delay: 50ms}}}}\n"
    for name, gpus in [*dict.fromkeys(CLASSES, 1).items(), ("single", 1), ("pair", 2)]
)
WAIT = "nvmlEventSetWait_v2"


def on(worker: Json) -> list[str]:
    return [one["uuid"] for one in worker["gpus"]]


def health(daemon: RunningDaemon) -> dict[str, str]:
    return {one["uuid"]: one["health"] for one in daemon.ask("/v1/devices")["devices"]}


def counted(daemon: RunningDaemon, names: dict[str, str]) -> dict[tuple[str, str, str], float]:
    """Errors that a scrape counts: whose device, number, class."""
    families = {one.name: one for one in text_string_to_metric_families(daemon.text("/v1/metrics"))}
    samples = families["gpu_supervisor_device_xids"].samples
    return {(names[one.labels["uuid"]], one.labels["xid"], one.labels["class"]): one.value for one in samples}


def is_back(worker: Json, before: Json) -> bool:
    return bool(worker["state"] == "ready" and worker["restarts"] > before["restarts"])


def test_every_class_of_xid_and_a_driver_that_is_upgraded(start: StartDaemon, tmp_path: Path) -> None:
    """One of each, all at once on a box of 16: who leaves, who stays, what is told, and who is left alone."""
    box = FakeBox(tmp_path / "box", gpus=16)
    daemon = start(CLASSES_FILE, box=box)
    before = daemon.wait_states(**dict.fromkeys((*CLASSES, "single", "pair"), "ready"))
    at = {name.partition("/")[0]: on(worker) for name, worker in before.items()}
    wait_for(lambda: bool(box.calls(WAIT)), "the driver is listened to")

    box.xid(at["application"][0], 31)
    box.xid(at["contained"][0], 94)
    for _ in range(3):
        box.xid(at["often"][0], 92)
    box.change(at["action"][0], recovery=1)
    box.xid(at["action"][0], 154)
    box.xid(at["reset"][0], 119)
    box.fail("nvmlDeviceGetMemoryInfo_v2", at["gone"][0], 15)
    box.xid(at["gone"][0], 79)
    box.xid(at["other"][0], 999)
    box.xid(at["single"][0], 74)
    box.xid(at["pair"][1], 74)

    # What an error of its own is, and one that hit it alone, is seen when it ends.
    alone = ("application/0", "contained/0")
    wait_for(lambda: '"xid": 31' in daemon.output and '"xid": 94' in daemon.output, "both are told")
    for name in alone:
        os.kill(before[name]["pid"], signal.SIGKILL)
    movers = ("action/0", "reset/0", "gone/0", "pair/0")
    after = daemon.wait(lambda now: all(is_back(now[one], before[one]) for one in (*movers, *alone)), "all are back")

    sick = {"action/0": at["action"][0], "reset/0": at["reset"][0], "gone/0": at["gone"][0], "pair/0": at["pair"][1]}
    for name in movers:
        assert sick[name] not in on(after[name])
        assert after[name]["last_exit"]["cause"] == "device"
    assert [on(after[name]) for name in alone] == [on(before[name]) for name in alone]
    ends = [after[name]["last_exit"] for name in alone]
    assert [(one["cause"], one["detail"].partition(" on ")[0]) for one in ends] == [
        ("signal", "XID 31 (memory page fault)"),
        ("device", "XID 94 (contained memory error)"),
    ]
    for name in ("often/0", "other/0", "single/0"):
        assert (after[name]["pid"], after[name]["state"]) == (before[name]["pid"], "ready")
    expected = {
        **{at[name][0]: "ok" for name in ("application", "contained", "other")},
        at["often"][0]: "suspect",
        at["action"][0]: "quarantined",
        at["reset"][0]: "quarantined",
        at["gone"][0]: "lost",
        at["single"][0]: "draining",
        at["pair"][1]: "quarantined",
        at["pair"][0]: "ok",
    }
    wait_for(lambda: expected.items() <= health(daemon).items(), lambda: f"{expected}\n{health(daemon)}")
    told = {
        ("application", "31", "application"): 1,
        ("contained", "94", "contained"): 1,
        ("often", "92", "information"): 3,
        ("action", "154", "information"): 1,
        ("reset", "119", "hardware"): 1,
        ("gone", "79", "hardware"): 1,
        ("other", "999", "unknown"): 1,
        ("single", "74", "link"): 1,
        ("pair", "74", "link"): 1,
    }
    names = {uuid: name for name, uuids in at.items() for uuid in uuids}
    assert counted(daemon, names) == told
    for _, number, kind in told:
        assert f'"xid": {number}, "class": "{kind}"' in daemon.output

    # The driver's package is upgraded under all of them: nobody who lives notices, nobody new starts.
    box.fail("nvmlDeviceGetCount", "*", 18)
    box.init_code(18)
    wait_for(lambda: daemon.ask("/v1/devices")["gpu"]["state"] == "mismatch", "it is seen")
    held = daemon.workers()
    assert daemon.cli("scale", "other=2").returncode == 0
    now = daemon.wait(lambda now: "other/1" in now and "held:" in now["other/1"]["reason"], "a start is held")
    assert (now["other/1"]["state"], "does not fit the loaded kernel module" in now["other/1"]["reason"]) == (
        "pending",
        True,
    )
    assert {name: one["pid"] for name, one in now.items() if name in held} == {
        name: one["pid"] for name, one in held.items()
    }
    box.init_code(0)
    box.heal()
    assert daemon.ask("/v1/devices")["gpu"]["state"] == "ok"
    daemon.wait(lambda now: now["other/1"]["state"] == "ready", "it starts by itself")


GUARD_FILE = """
services:
  full:
    command: sleep 1000
    workers: 2
    resources: {gpu: 0.5, gpus: [0], gpu_memory: 10GiB, gpu_memory_guard: restart, gpu_memory_guard_after: 3s}
    ready: {after: 50ms}
    restart: {delay: 50ms}
daemon: {poll: 1s}
"""


def test_who_takes_too_much_is_restarted_and_a_gpu_that_is_gone_is_forgotten(
    start: StartDaemon, tmp_path: Path
) -> None:
    """The one that has more than it declares is warned about, then ended; its neighbour and the rest go on."""
    box = FakeBox(tmp_path / "box", gpus=2)
    first, second = box.uuids
    daemon = start(GUARD_FILE, box=box)
    before = daemon.wait_states(full="ready")
    box.claim(before["full/0"]["pid"], first, 11 * GIB)
    box.claim(before["full/1"]["pid"], first, 9 * GIB)

    after = daemon.wait(lambda now: is_back(now["full/0"], before["full/0"]), "it is another process")

    assert (after["full/0"]["last_exit"]["cause"], after["full/0"]["last_exit"]["detail"]) == (
        "cuda_oom",
        "has 11264 MiB of GPU 0, its gpu_memory is 10240 MiB",
    )
    assert on(after["full/0"]) == [first]
    assert (after["full/1"]["pid"], after["full/1"]["restarts"]) == (before["full/1"]["pid"], 0)
    assert daemon.output.count("worker.gpu_memory_exceeded") == 1
    assert '"worker": "full/1"' not in next(
        line for line in daemon.output.splitlines() if "worker.gpu_memory_exceeded" in line
    )

    box.remove(second)
    wait_for(lambda: health(daemon).get(second) == "lost", "it is missed")
    assert "lost" in daemon.cli("devices").stdout
    released = daemon.cli("devices", "release", second)
    assert (released.returncode, released.stderr) == (0, "")
    wait_for(lambda: second not in health(daemon), "it is forgotten")
    assert "device.forgotten" in daemon.output
    assert daemon.cli("devices", "release", second).returncode == 2
    assert daemon.worker("full/1")["pid"] == before["full/1"]["pid"]
