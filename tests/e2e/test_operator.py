"""start, stop, restart and scale, with real workers."""

from __future__ import annotations

from tests.e2e.conftest import StartDaemon
from tests.nvml.fake import FakeBox

WEB = "services: {web: {command: sleep 1000, workers: 3, ready: {after: 50ms}}}"


def test_stop_holds_over_a_reload_and_start_ends_it(start: StartDaemon) -> None:
    """A stopped service is well; what a reload adds to it is stopped too."""
    daemon = start(WEB)
    daemon.wait_states(web="ready")

    assert daemon.cli("stop", "web").returncode == 0
    assert daemon.cli("status", "web", "--wait", "stopped", "--timeout", "15s").returncode == 0
    daemon.reload(WEB.replace("workers: 3", "workers: 4"))
    assert daemon.wait_states(web="stopped").keys() == {f"web/{index}" for index in range(4)}
    assert daemon.cli("status").returncode == 0
    assert daemon.cli("start", "web").returncode == 0

    daemon.wait_states(web="ready")


def test_an_unknown_name_stops_nobody(start: StartDaemon) -> None:
    """2, with the others untouched."""
    daemon = start(WEB)
    before = daemon.wait_states(web="ready")

    done = daemon.cli("stop", "web/0", "web/9", "nope")

    assert done.returncode == 2
    assert "web/9" in done.stderr
    assert "nope" in done.stderr
    assert daemon.worker("web/0")["pid"] == before["web/0"]["pid"]


def test_restart_rolls_through_the_service(start: StartDaemon, box: FakeBox) -> None:
    """New processes on the same GPUs; the log shows them one after the other."""
    daemon = start(
        "services: {llm: {command: sleep 1000, workers: 3, ready: {after: 50ms}, resources: {gpu: 1}}}", box=box
    )
    before = daemon.wait_states(llm="ready")

    assert daemon.cli("restart", "llm").returncode == 0

    after = daemon.wait(
        lambda workers: all(one["restarts"] == 1 and one["state"] == "ready" for one in workers.values()), "restarted"
    )
    assert {name: one["gpus"] for name, one in after.items()} == {name: one["gpus"] for name, one in before.items()}
    assert all(one["last_exit"]["cause"] == "operator" for one in after.values())


def test_scale_lasts_until_the_reload(start: StartDaemon) -> None:
    """Marked in the status, and taken back."""
    daemon = start(WEB)
    daemon.wait_states(web="ready")

    assert daemon.cli("scale", "web=5").returncode == 0
    daemon.wait(lambda workers: len(workers) == 5, "five workers")
    (service,) = daemon.status()["services"]
    assert (service["target"], service["scaled"]) == (5, True)
    daemon.cli("reload")
    daemon.wait(lambda workers: len(workers) == 3, "three workers")

    assert daemon.status()["services"][0]["scaled"] is False


def test_a_failed_worker_is_tried_again_after_its_parole(start: StartDaemon) -> None:
    """Without anybody asking; the status says when."""
    daemon = start(
        "services: {web: {command: [sh, -c, test -e ok && exec sleep 1000], ready: {after: 50ms},"
        " restart: {start_limit: 1, parole: 1s}}}"
    )
    failed = daemon.wait(lambda workers: workers["web/0"]["state"] == "failed", "failed")
    assert failed["web/0"]["next_start"]

    (daemon.home / "ok").touch()

    daemon.wait_states(web="ready")
