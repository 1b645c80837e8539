"""Workers that die come back, as their file says and with the slice they had."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import environment_of, is_alive, offspring_of, wait_for
from tests.nvml.fake import FakeBox

FOUR = """
services:
  llm:
    command: sleep 1000
    workers: 4
    resources: {gpu: 1}
    ready: {after: 100ms}
    restart: {delay: 50ms}
"""


def test_each_worker_gets_a_gpu_of_its_own_and_finds_it_in_its_environment(start: StartDaemon, box: FakeBox) -> None:
    """The table of the contract, as the worker sees it."""
    daemon = start(FOUR, box=box, env={"HIP_VISIBLE_DEVICES": "3", "RANK": "7", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"})

    workers = daemon.wait_states(llm="ready")

    for index in range(4):
        env = environment_of(workers[f"llm/{index}"]["pid"])
        assert env["CUDA_VISIBLE_DEVICES"] == str(index)
        assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert env["WORKER_GPU_UUIDS"] == box.uuids[index]
        assert env["WORKER"] == f"llm/{index}"
        assert env["WORKER_NUMBER"] == str(index + 1)
        assert env["WORKER_COUNT"] == "4"
        assert not {"HIP_VISIBLE_DEVICES", "RANK"} & env.keys()


def test_a_killed_worker_comes_back_with_the_same_slice(start: StartDaemon, box: FakeBox) -> None:
    """Same index, same GPU, another process; the neighbours are not touched."""
    daemon = start(FOUR, box=box)
    before = daemon.wait_states(llm="ready")

    os.kill(before["llm/2"]["pid"], signal.SIGKILL)
    after = daemon.wait(lambda now: now["llm/2"]["restarts"] == 1 and now["llm/2"]["state"] == "ready", "llm/2 is back")

    assert after["llm/2"]["pid"] != before["llm/2"]["pid"]
    assert after["llm/2"]["gpus"] == before["llm/2"]["gpus"]
    assert environment_of(after["llm/2"]["pid"])["WORKER_RESTARTS"] == "1"
    assert after["llm/2"]["last_exit"]["signal"] == "SIGKILL"
    assert after["llm/2"]["last_exit"]["cause"] == "signal"
    for name in ("llm/0", "llm/1", "llm/3"):
        assert after[name]["pid"] == before[name]["pid"]


def test_a_worker_that_never_gets_ready_fails_loudly_and_alone(start: StartDaemon) -> None:
    """`start_limit` failures in a row, with its last words; its neighbour goes on."""
    daemon = start("""
services:
  bad:
    command: sh -c 'echo the reason; exit 3'
    restart: {delay: 10ms, start_limit: 3}
  good:
    command: sleep 1000
    ready: {after: 100ms}
""")

    workers = daemon.wait_states(bad="failed", good="ready")

    bad = workers["bad/0"]
    assert bad["restarts"] == 2
    assert "start_limit" in bad["reason"]
    assert bad["last_exit"]["code"] == 3
    assert bad["last_exit"]["tail"] == ["the reason"]
    assert daemon.cli("status").returncode == 3


def test_what_cannot_be_started_is_named_and_fails_at_once(start: StartDaemon) -> None:
    """Not found, not executable, no such directory: permanent, that worker only."""
    daemon = start("""
services:
  absent: {command: no-such-program-here}
  file: {command: [/etc/hostname]}
  nowhere: {command: sleep 1000, working_dir: /no/such/folder}
  good: {command: sleep 1000, ready: {after: 100ms}}
""")

    workers = daemon.wait_states(absent="failed", file="failed", nowhere="failed", good="ready")

    assert "no-such-program-here" in workers["absent/0"]["reason"]
    assert "/etc/hostname" in workers["file/0"]["reason"]
    assert "/no/such/folder" in workers["nowhere/0"]["reason"]
    assert {workers[f"{name}/0"]["last_exit"]["cause"] for name in ("absent", "file", "nowhere")} == {"spawn"}
    assert {workers[f"{name}/0"]["restarts"] for name in ("absent", "file", "nowhere")} == {0}


def test_exit_codes_do_what_the_policy_says(start: StartDaemon) -> None:
    """`never` and code 0 is done, 78 is permanent, on-failure leaves a clean exit alone."""
    daemon = start("""
services:
  once: {command: 'true', restart: {policy: never}}
  broke: {command: 'false', restart: {policy: never}}
  config: {command: sh -c 'exit 78'}
  clean: {command: 'true', restart: {policy: on-failure}}
""")

    workers = daemon.wait_states(once="exited", broke="failed", config="failed", clean="exited")

    assert {worker["restarts"] for worker in workers.values()} == {0}
    assert "permanent_exit" in workers["config/0"]["reason"]


def test_a_worker_that_is_not_ready_in_time_is_stopped_and_tried_again(start: StartDaemon) -> None:
    """A start timeout counts as a failure whatever the exit code."""
    daemon = start("""
services:
  slow:
    command: sh -c 'trap "exit 0" TERM; while :; do sleep 0.05; done'
    port: 18471
    ready: {tcp: true, timeout: 300ms}
    restart: {delay: 10ms, start_limit: 2}
""")

    workers = daemon.wait_states(slow="failed")

    assert workers["slow/0"]["last_exit"]["cause"] == "start_timeout"
    assert workers["slow/0"]["restarts"] == 1


def test_ready_by_tcp_waits_for_the_port(start: StartDaemon) -> None:
    """Worker i listens on port + i and is ready when it does."""
    daemon = start("""
services:
  web:
    command:
      - python3
      - -c
      - |
        import os, socket, time
        time.sleep(0.3)
        server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
        while True: server.accept()[0].close()
    workers: 2
    port: 18481
    ready: {tcp: true, interval: 50ms}
""")

    workers = daemon.wait_states(web="ready")

    assert [workers[f"web/{index}"]["port"] for index in range(2)] == [18481, 18482]


def test_output_has_the_name_in_front_and_a_flood_without_newlines_is_harmless(start: StartDaemon) -> None:
    """100 MB on one line neither blocks the daemon nor grows it."""
    daemon = start("""
services:
  talk: {command: sh -c 'echo hello; sleep 1000'}
  flood: {command: sh -c 'head -c 100000000 /dev/zero; echo; echo done; sleep 1000'}
""")

    wait_for(lambda: "flood/0 | done" in daemon.output or None, "the end of the flood")

    assert "talk/0 | hello\n" in daemon.output
    status = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak_kib < 200_000


def test_nothing_is_left_when_the_daemon_is_killed(start: StartDaemon, box: FakeBox) -> None:
    """SIGKILL of the daemon: keeper, shims, prober and workers are gone within two seconds."""
    daemon = start(FOUR, box=box)
    workers = daemon.wait_states(llm="ready")
    pids = [worker["pid"] for worker in workers.values()]

    daemon.process.kill()
    daemon.process.wait()

    wait_for(lambda: not any(map(is_alive, pids)) or None, "the workers are gone", timeout=2.0)
    wait_for(lambda: not offspring_of(daemon.home) or None, "keeper, shims and prober are gone", timeout=2.0)
