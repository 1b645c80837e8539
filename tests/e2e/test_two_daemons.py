"""Two daemons on one machine never give the same GPU to two workers."""

from __future__ import annotations

import json
import signal

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import is_alive, wait_for
from tests.nvml.fake import FakeBox

FILE = """
services:
  llm: {command: sleep 1000, workers: WORKERS, resources: {gpu: 1}, ready: {after: 50ms}}
"""


def file(workers: int) -> str:
    return FILE.replace("WORKERS", str(workers))


def test_the_second_daemon_goes_round_the_first(start: StartDaemon, box: FakeBox) -> None:
    """Its workers are placed elsewhere; who finds nothing free waits and names the holder."""
    first = start(file(3), box=box)
    ours = first.wait_states(llm="ready")
    second = start(file(2), box=box)

    theirs = second.wait(lambda now: {"ready", "pending"} == {one["state"] for one in now.values()}, "one has a place")

    used = {gpu["uuid"] for one in ours.values() for gpu in one["gpus"]}
    placed, waiting = sorted(theirs.values(), key=lambda one: one["state"], reverse=True)
    assert placed["gpus"][0]["uuid"] not in used
    assert f"held by another daemon (pid {first.pid}" in waiting["reason"]
    held = {one["uuid"] for one in second.ask("/v1/devices")["devices"] if one["health"] == "held"}
    assert held == used


def test_a_gpu_that_the_first_lets_go_starts_the_worker_of_the_second(start: StartDaemon, box: FakeBox) -> None:
    """By a reload, or by the end of the daemon; nobody has to ask again."""
    first = start(file(4), box=box)
    first.wait_states(llm="ready")
    second = start(file(2), box=box)
    second.wait(lambda now: "another daemon" in now["llm/0"]["reason"], "it waits")

    assert first.reload(file(3)).returncode == 0
    second.wait(lambda now: any(one["state"] == "ready" for one in now.values()), "one GPU is free")
    assert first.stop() == 0

    second.wait_states(llm="ready")


def test_after_a_kill_the_second_starts_only_beside_the_dead(start: StartDaemon, box: FakeBox) -> None:
    """The keeper has the locks too, and lets go when everything that the killed daemon had started is gone."""
    first = start(
        """
services:
  llm:
    command: sh -c 'trap "" TERM; while :; do sleep 0.05; done'
    workers: 4
    resources: {gpu: 1}
    ready: {after: 50ms}
""",
        box=box,
    )
    pids = [one["pid"] for one in first.wait_states(llm="ready").values()]
    living = f"sh -c 'kill -0 {pids[0]} && echo beside the living; sleep 1000'"
    second = start(file(1).replace("sleep 1000", f'"{living}"'), box=box)
    second.wait(lambda now: "another daemon" in now["llm/0"]["reason"], "it waits")

    first.send(signal.SIGKILL)
    second.wait_states(llm="ready")

    assert not any(is_alive(pid) for pid in pids)
    assert "beside the living" not in second.output


def test_plan_and_devices_see_another_daemons_claims(start: StartDaemon, box: FakeBox) -> None:
    """Also without a daemon of their own."""
    first = start(file(1), box=box)
    used = first.wait_states(llm="ready")["llm/0"]["gpus"][0]["uuid"]
    second = start(file(4), box=box)
    second.wait(lambda now: any("another daemon" in one["reason"] for one in now.values()), "it runs")
    assert second.stop() == 0

    devices = json.loads(second.cli("devices", "--json").stdout)["devices"]
    plan = second.cli("plan", str(second.file))

    assert {one["uuid"]: one["health"] for one in devices}[used] == "held"
    assert plan.returncode == 3
    assert f"pid {first.pid}" in plan.stdout
    wait_for(lambda: is_alive(first.pid), "the first goes on")


def test_a_gpu_that_was_given_away_is_waited_for_like_any_other(start: StartDaemon, box: FakeBox) -> None:
    """Its new holder is named, once, however long it takes; and it is taken back as soon as that one lets go."""
    one = file(1).replace("gpu: 1", "gpu: 1, gpus: [0]")
    first = start(one, box=box)
    first.wait_states(llm="ready")
    assert first.cli("scale", "llm=0").returncode == 0
    second = start(one, box=box)
    second.wait_states(llm="ready")

    assert first.cli("scale", "llm=1").returncode == 0
    holder = f"held by another daemon (pid {second.pid}"
    first.wait(lambda now: holder in now["llm/0"]["reason"], "it says who has it")
    assert second.stop() == 0
    first.wait_states(llm="ready")

    said = [line for line in first.output.splitlines() if "device.held" in line]
    assert [holder in line for line in said] == [True]
    assert "does not say who it is" not in first.output


def test_a_gpu_that_an_operator_takes_is_out_of_use_for_both(start: StartDaemon, box: FakeBox) -> None:
    """As soon as whoever has it lets go; until then its holder is named, whatever is asked of it."""
    one = file(1).replace("gpu: 1", "gpu: 1, gpus: [0]")
    first, second = start(one, box=box), start(one.replace("[0]", "[1]"), box=box)
    first.wait_states(llm="ready")
    second.wait_states(llm="ready")
    holder = f"held by another daemon (pid {first.pid}, "

    assert f"GPU 0 quarantined (by the operator; {holder}" in second.cli("devices", "quarantine", "0").stdout
    assert f"GPU 0 released, and {holder}" in second.cli("devices", "release", "0").stdout
    assert second.cli("devices", "quarantine", "0").returncode == 0
    assert first.cli("scale", "llm=0").returncode == 0
    wait_for(lambda: "another daemon" not in second.cli("devices").stdout, "it has it")
    assert first.cli("scale", "llm=1").returncode == 0
    first.wait(lambda now: f"held by another daemon (pid {second.pid}" in now["llm/0"]["reason"], "it waits")

    assert "GPU 0 " in second.cli("devices", "release", "0").stdout
    first.wait_states(llm="ready")
