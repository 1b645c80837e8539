"""A daemon that did not run for a while counts that time against nobody."""

from __future__ import annotations

import pytest

from supervisor.core.message import KillTree, ReadInventory, ShutdownRequested, Signal, Stalled
from tests.core.builders import device, good, of_type, spec_of
from tests.core.stage import Stage, running

TCP = {"port": 8000, "ready": {"tcp": True, "timeout": "30s"}, "stop": {"timeout": "10s"}}


def starting() -> Stage:
    """A worker whose start began at second 0, with 30 s to get ready."""
    return Stage().load(spec_of(llm=TCP)).read(good()).spawned("llm/0")


@pytest.mark.parametrize(
    ("began", "lost_s", "deadline"),
    [(20.0, 100.0, 130.0), (20.0, 2.0, 32.0), (29.9, 100.0, 134.9), (29.9, 0.6, 31.1)],
    ids=["as much later", "also if it was not due", "at least a moment", "at most as long as the stall"],
)
def test_a_limit_is_met_as_much_later(began: float, lost_s: float, deadline: float) -> None:
    """And not before what waits unread, and a probe's next try, have come."""
    stage = starting()
    stage.now = began + lost_s

    stage.meet(Stalled(lost_s))

    assert stage["llm/0"].deadline == pytest.approx(deadline)
    assert (stage.state("llm/0"), stage.actions) == ("starting", ())


def test_who_was_asked_to_end_keeps_his_grace() -> None:
    """In stopping, and the daemon's own end with it."""
    stage = running(spec_of(llm=TCP))
    stage.meet(ShutdownRequested())
    assert (stage["llm/0"].deadline, stage.fleet.deadline) == (10.0, 16.0)
    stage.now = 100.0

    stage.meet(Stalled(95.0))

    assert (stage["llm/0"].deadline, stage.fleet.deadline) == (105.0, 116.0)
    assert not of_type(KillTree, stage.actions) + of_type(Signal, stage.actions)


def test_a_back_off_goes_on() -> None:
    """Nobody is ended at its end, so there is nothing to be put off."""
    stage = running(spec_of(llm=TCP)).exited("llm/0")
    assert stage.state("llm/0") == "backoff"
    before = stage["llm/0"]
    stage.now = 100.0

    stage.meet(Stalled(95.0))

    assert before == stage["llm/0"]


def test_a_slice_is_not_called_dirty_before_the_driver_was_asked() -> None:
    """What a dead worker held may be free for long."""
    spec = spec_of(llm={"resources": {"gpu": 1, "gpu_memory": "20GiB"}})
    stage = running(spec, device(0))
    stage.exited("llm/0")
    assert stage.state("llm/0") == "releasing"
    while stage.fleet.asked is not None:
        stage.read(good(device(0, free=2**30)))
    stage.now = 100.0

    stage.meet(Stalled(95.0))

    assert ReadInventory() in stage.actions
    assert stage["llm/0"].deadline == 105.0
