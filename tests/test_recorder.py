"""The recorder of a daemon: everything that its core meets, at the end of each turn, and a copy when it breaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from supervisor import __version__
from supervisor.core.fleet import handle
from supervisor.core.message import Event, Exited, Spawned, SpecLoaded, TimePassed
from supervisor.core.recording import replay
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.daemon.recorder import AGAIN_S, Recorder
from supervisor.errors import InvariantBrokenError
from supervisor.host.clock import Clock
from supervisor.host.flight import SEGMENT_MAX, Ring
from tests.core.builders import spec_of
from tests.e2e.harness import wait_for

A = WorkerId("a", 0)
SPEC = spec_of(a={"restart": {"delay": 0, "start_limit": 0, "limit": 0}})
BROKEN = InvariantBrokenError("impossible")


class Settable(Clock):
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Daemon:
    """A fleet and its recorder."""

    def __init__(self, folder: Path) -> None:
        self.clock = Settable()
        self.ring = Ring(folder)
        self.recorder = Recorder(self.ring, self.clock, b"key")
        self.fleet = Fleet()
        self.recorder.begin(self.fleet)

    def meet(self, *events: Event) -> None:
        for event in events:
            self.fleet, actions = handle(self.fleet, event, self.clock.now)
            self.recorder.hear(self.clock.now, event, actions)
        self.recorder.flush(self.fleet)

    def crash(self, words: str = "") -> None:
        number = self.fleet.workers[A].incarnation
        self.meet(Spawned(A, number, 4711), Exited(A, number, 1, None, alone=True, tail=(words,)))
        self.clock.now += 100.0
        self.meet(TimePassed((A,)))

    def close(self) -> None:
        self.recorder.close(self.fleet)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    daemon = Daemon(tmp_path / "flight")
    daemon.meet(SpecLoaded(SPEC))
    return daemon


def events_of(file: Path) -> list[str]:
    """Names of the events of a recording that comes out the same."""
    with file.open("rb") as lines:
        outcomes = list(replay(lines, __version__))
    assert all(one.is_same for one in outcomes if not isinstance(one.recorded, str))
    return [type(one.event).__name__ for one in outcomes]


def test_what_the_core_meets_is_on_the_disk_after_the_turn(daemon: Daemon) -> None:
    daemon.crash()

    daemon.close()

    assert events_of(daemon.ring.folder / "ring.0") == ["SpecLoaded", "Spawned", "Exited", "TimePassed"]


def test_each_file_can_be_replayed_by_itself(daemon: Daemon) -> None:
    """A full one is followed by one that begins with the fleet."""
    for _ in range(5):
        daemon.crash("x" * (SEGMENT_MAX // 2))

    daemon.close()

    found = {one.name: events_of(one) for one in daemon.ring.folder.iterdir()}
    assert set(found) == {"ring.0", "ring.1"}
    assert all(found.values())
    assert sum(one.stat().st_size for one in daemon.ring.folder.iterdir()) < 4 * SEGMENT_MAX


def test_a_broken_invariant_leaves_a_copy_that_ends_with_it(daemon: Daemon) -> None:
    path = daemon.recorder.hear_broken(100.0, Spawned(A, 1, 2), BROKEN, daemon.fleet)
    daemon.crash()
    daemon.close()

    assert path is not None
    assert events_of(path) == ["SpecLoaded", "Spawned"]
    assert json.loads(path.read_bytes().splitlines()[-1])["broken"] == "InvariantBrokenError: impossible"
    assert len(events_of(daemon.ring.folder / "ring.0")) == 5


def test_one_that_breaks_all_the_time_is_copied_now_and_then(daemon: Daemon) -> None:
    """The ring has the others."""
    times = (100.0, 101.0, 100.0 + AGAIN_S)

    paths = [daemon.recorder.hear_broken(now, Spawned(A, 1, 2), BROKEN, daemon.fleet) for now in times]
    daemon.close()

    assert [path is not None for path in paths] == [True, False, True]


def test_a_disk_in_trouble_is_told_of_once_and_tried_again(tmp_path: Path) -> None:
    """What came meanwhile is not recorded; what comes then is, from the fleet as it is."""
    folder = tmp_path / "flight"
    folder.write_text("in the way")
    daemon = Daemon(folder)
    wait_for(lambda: daemon.ring.trouble, "the disk is in trouble")
    with structlog.testing.capture_logs() as logs:
        daemon.meet(SpecLoaded(SPEC))
        daemon.clock.now += AGAIN_S
        daemon.meet()
        wait_for(lambda: daemon.ring.trouble, "it still is")
        daemon.meet(SpecLoaded(SPEC))
    assert [(one["event"], one["error"]) for one in logs] == [("flight.failed", "File exists")]

    folder.unlink()
    daemon.clock.now += AGAIN_S
    daemon.meet()
    daemon.crash()
    daemon.close()

    assert events_of(folder / "ring.0") == ["Spawned", "Exited", "TimePassed"]


def test_a_bug_of_the_recorder_ends_no_daemon(daemon: Daemon) -> None:
    with structlog.testing.capture_logs() as logs:
        daemon.recorder.hear(100.0, "no event", ())  # type: ignore[arg-type]
        daemon.recorder.flush(daemon.fleet)
    daemon.close()

    assert [one["event"] for one in logs] == ["flight.failed"]
    assert events_of(daemon.ring.folder / "ring.0") == ["SpecLoaded"]
