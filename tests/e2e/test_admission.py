"""When workers may start, on GPUs that are short, busy and given back late, and on a host that is short itself."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import is_alive
from tests.nvml.fake import FakeBox

GIB = 1 << 30


def service(name: str, workers: int, resources: str, *, command: str = "sleep 1000", more: str = "") -> str:
    return f"""
  {name}:
    command: {command}
    workers: {workers}
    resources: {{{resources}}}
    ready: {{after: 50ms}}
    restart: {{delay: 50ms}}
    {more}
"""


def test_a_foreign_holder_is_named_left_alone_and_waited_for(start: StartDaemon, tmp_path: Path) -> None:
    """Pid, name, user and MiB, as long as it is there."""
    box = FakeBox(tmp_path / "box", gpus=1)
    foreign = subprocess.Popen(["sleep", "1000"])
    try:
        box.claim(foreign.pid, box.uuids[0], 20 * GIB)
        daemon = start(f"services:{service('llm', 1, 'gpu: 1')}", box=box)
        user = pwd.getpwuid(os.getuid()).pw_name

        daemon.wait(
            lambda now: f"held by pid {foreign.pid} (sleep, {user}): 20480 MiB" in now["llm/0"]["reason"], "its name"
        )
        assert is_alive(foreign.pid)
    finally:
        foreign.kill()
        foreign.wait()

    daemon.wait_states(llm="ready")


def test_two_starts_that_race_for_one_gpu_go_one_after_the_other(start: StartDaemon, tmp_path: Path) -> None:
    """Two halves that declare nothing: the second starts when the first is ready."""
    box = FakeBox(tmp_path / "box", gpus=1)
    gate = tmp_path / "gate"
    port = free_port()
    serve = tmp_path / "serve.py"
    serve.write_text(
        "import http.server, os, pathlib, time\n"
        f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), None).serve_forever()\n"
    )
    daemon = start(
        f"""
services:
  llm:
    command: python3 {serve}
    workers: 2
    resources: {{gpu: 0.5}}
    port: {port}
    ready: {{tcp: true, interval: 100ms}}
""",
        box=box,
    )

    racing = daemon.wait(lambda now: "waiting until llm/0 has started" in now["llm/1"]["reason"], "one waits")
    gate.touch()

    assert [racing[one]["state"] for one in ("llm/0", "llm/1")] == ["starting", "pending"]
    both = daemon.wait_states(llm="ready")
    assert {one["gpus"][0]["uuid"] for one in both.values()} == {box.uuids[0]}


def test_so_many_start_at_once(start: StartDaemon, box: FakeBox) -> None:
    """`daemon.start_parallel`: the others say that they wait for their turn."""
    slow = service("llm", 3, "gpu: 1").replace("after: 50ms", "after: 600s, timeout: 15m")
    daemon = start(f"daemon: {{start_parallel: 1}}\nservices:{slow}", box=box)
    waiting = daemon.wait(lambda now: "start at once" in now["llm/2"]["reason"], "a line")
    assert [one["state"] for one in waiting.values()] == ["starting", "pending", "pending"]

    assert daemon.reload(f"daemon: {{start_parallel: 0}}\nservices:{slow}").returncode == 0

    daemon.wait_states(llm="starting")


def test_four_services_on_eight_uneven_gpus(start: StartDaemon, tmp_path: Path) -> None:
    """Whole ones, pairs, fractions and declared memory, on a box with two kinds of GPUs, some of them in use."""
    box = FakeBox(tmp_path / "box", gpus=4)
    for _ in range(4):
        box.add(name="NVIDIA L4", total_bytes=24 * GIB)
    foreign = subprocess.Popen(["sleep", "1000"])
    box.claim(foreign.pid, box.uuids[4], 20 * GIB)
    daemon = start(
        "services:"
        + service("big", 1, "gpu: 2, gpu_memory: 60GiB")
        + service("fraction", 4, "gpu: 0.5, gpu_memory: 20GiB")
        + service("whole", 2, "gpu: 1")
        + service("small", 2, "gpu: 1, gpu_memory: 16GiB"),
        box=box,
    )
    try:
        states = daemon.wait(lambda now: sum(one["state"] == "ready" for one in now.values()) >= 7, "all that can run")
        devices = {one["uuid"]: one for one in daemon.status()["devices"]}
    finally:
        foreign.kill()
        foreign.wait()

    used: dict[str, float] = {}
    for worker in states.values():
        for gpu in worker["gpus"] if worker["state"] == "ready" else ():
            used[gpu["uuid"]] = used.get(gpu["uuid"], 0) + gpu["share"]
    assert all(share <= 1 for share in used.values())
    assert {devices[gpu["uuid"]]["name"] for gpu in states["big/0"]["gpus"]} == {"NVIDIA H100 80GB HBM3"}
    assert all(one["reason"] for one in states.values() if one["state"] == "pending")
    daemon.wait_states(big="ready", fraction="ready", whole="ready", small="ready")


def test_the_hosts_memory_is_waited_for(start: StartDaemon) -> None:
    """More than the machine has: it waits with the numbers, beside one that fits."""
    daemon = start(f"services:{service('web', 1, 'memory: 16MiB')}{service('huge', 1, 'memory: 900TiB')}")

    workers = daemon.wait(lambda now: "host's memory" in now["huge/0"]["reason"], "the numbers")

    assert workers["huge/0"]["state"] == "pending"
    daemon.wait_states(web="ready")
    check = daemon.cli("check", str(daemon.file))
    assert check.returncode == 0
    assert "services.huge.resources.memory: warning" in check.stderr + check.stdout


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
