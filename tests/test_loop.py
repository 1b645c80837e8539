"""The main loop where the core breaks: nothing of it is taken, it is told with a recording, and life goes on."""

from __future__ import annotations

from pathlib import Path

import structlog

from supervisor import __version__
from supervisor.core.message import FinishReload, HostRead, Spawned, SpecLoaded
from supervisor.core.recording import replay
from supervisor.core.reload import TOO_LATE
from supervisor.core.spec import WorkerId
from supervisor.daemon.loop import Daemon
from supervisor.daemon.reader import SpecReader
from supervisor.daemon.recorder import Recorder
from supervisor.host.clock import Clock
from supervisor.host.flight import Ring
from supervisor.host.sink import Sink
from tests.core.builders import spec_of

A = WorkerId("a", 0)
IMPOSSIBLE = Spawned(A, 0, 4711)
"""Of a worker that was never let start."""


def lines_of(file: str) -> list[bytes]:
    return Path(file).read_bytes().splitlines(keepends=True)


async def test_a_broken_invariant_names_a_recording_and_changes_nothing(tmp_path: Path) -> None:
    daemon = Daemon(SpecReader(tmp_path / "none.yaml", {}), Clock(), Sink(2), pool=None, instance="")
    recorder = daemon._recorder = Recorder(Ring(tmp_path / "flight"), daemon.clock, b"key")
    recorder.begin(daemon.fleet)
    daemon.decide(SpecLoaded(spec_of(a={"resources": {"gpu": 1}})))
    before = daemon.fleet

    with structlog.testing.capture_logs() as logs:
        daemon.decide(IMPOSSIBLE)
    after = daemon.fleet
    daemon.decide(HostRead(1, 2))
    recorder.close(daemon.fleet)

    assert after is before
    assert daemon.fleet.host_memory is not None
    (told,) = [one for one in logs if one["event"] == "daemon.invariant_broken"]
    outcomes = list(replay(lines_of(told["recording"]), __version__))
    assert outcomes[-1].event == IMPOSSIBLE
    assert [one.is_same for one in outcomes] == [True, True]


async def test_a_reload_that_comes_while_the_daemon_stops_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """It is refused, and the log says so without raising an alarm."""
    daemon = Daemon(SpecReader(tmp_path / "none.yaml", {}), Clock(), Sink(2), pool=None, instance="")
    recorder = daemon._recorder = Recorder(Ring(tmp_path / "flight"), daemon.clock, b"key")
    recorder.begin(daemon.fleet)

    with structlog.testing.capture_logs() as logs:
        daemon._finish_reload(TOO_LATE)
        daemon._finish_reload(FinishReload(ok=False, problems=("bad.yaml:1:1: bad",)))
    recorder.close(daemon.fleet)

    assert [(one["event"], one["log_level"]) for one in logs] == [
        ("reload.refused", "info"),
        ("spec.rejected", "error"),
    ]
