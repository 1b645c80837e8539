"""What a status says."""

from __future__ import annotations

import pytest

from supervisor.front.verdict import Wait, has_no_place, is_fine, is_met, is_over
from tests.front.fakes import a_row, a_status, a_worker


@pytest.mark.parametrize(
    ("states", "fine"),
    [
        (("ready", "ready"), True),
        (("ready", "stopped", "exited"), True),
        (("ready", "starting"), False),
        (("unready",), False),
        (("failed",), False),
        (("pending",), False),
        (("backoff",), False),
        ((), True),
    ],
)
def test_all_is_well_when_each_worker_is_ready_stopped_or_done(states: tuple[str, ...], fine: bool) -> None:
    """Every other state is not."""
    workers = [a_worker(f"llm/{index}", state) for index, state in enumerate(states)]

    assert fine is is_fine(a_status(*workers))


def test_a_daemon_that_knows_no_services_yet_is_not_well() -> None:
    """Nothing known is not the same as nothing to run."""
    assert not is_fine(a_status(state="starting"))


@pytest.mark.parametrize(
    ("wait", "state", "daemon", "met", "over"),
    [
        ("ready", "ready", "running", True, True),
        ("ready", "ready", "starting", True, True),
        ("ready", "ready", "reloading", False, False),
        ("ready", "starting", "running", False, False),
        ("ready", "failed", "running", False, True),
        ("ready", "failed", "reloading", False, False),
        ("ready", "ready", "stopping", False, True),
        ("stopped", "stopped", "running", True, True),
        ("stopped", "exited", "running", True, True),
        ("stopped", "ready", "running", False, False),
        ("stopped", "stopping", "stopping", False, False),
        ("stopped", "failed", "running", False, True),
    ],
)
def test_a_wait_is_over_when_it_is_met_or_cannot_be(wait: Wait, state: str, daemon: str, met: bool, over: bool) -> None:
    """A failed worker ends it, but not while a reload may ask that worker again; so does the end of the daemon."""
    status = a_status(a_worker("llm/0", state), state=daemon)

    assert (met, over) == (is_met(status, wait), is_over(status, wait))


@pytest.mark.parametrize(
    ("row", "lacks"),
    [
        (a_row("llm/0"), False),
        (a_row("llm/0", fallback="cpu", reason="needs 1 GPU, there are 0"), False),
        (a_row("llm/0", placed=False, reason="needs 1 GPU, there are 0", action="wait"), True),
        (a_row("llm/0", placed=False, reason="needs 1 GPU, there are 0", action="keep"), True),
        (a_row("llm/0", placed=False, reason="needs 1 GPU, there are 0", action="stop"), True),
        (a_row("llm/0", placed=False, wanted=False, reason="not in the file", action="stop"), False),
        (a_row("llm/0", placed=False, action="keep"), False),
    ],
)
def test_a_row_has_no_place_only_when_the_file_wants_one(row: dict[str, object], lacks: bool) -> None:
    """Not a worker that goes, and not one that has ended and stays so."""
    assert lacks is has_no_place(row)
