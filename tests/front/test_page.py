"""Pages on terminals of all widths: nothing is lost, nothing is wider than it may be."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from supervisor.core.release import Proof
from supervisor.core.worker import WorkerEvent
from supervisor.front.cells import bar_of, names_of, share_of
from supervisor.front.page import Page, Styled, Table, columns_of, cut, draw, lay_out
from supervisor.front.show import devices_page, explain_page, plan_page, status_page
from supervisor.front.words import BECAUSE, BETWEEN, PROOFS, because
from tests.front.fakes import SINCE, a_device, a_row, a_status, a_worker, an_exit

NOW = datetime.fromisoformat(SINCE).astimezone(UTC) + timedelta(minutes=5)
GIB = 1 << 30

WHY = "needs 8 GPUs, 1 of 4 is free; reserved for embed/0, embed/1, embed/2, embed/3, llm/0, llm/1"
DEVICES = tuple(
    a_device(index, memory={"total": 80 * GIB, "free": 60 * GIB, "declared": 40 * GIB}, workers=["embed/0", "embed/1"])
    for index in range(4)
)
STATUS = a_status(
    *(a_worker(f"embed/{index}", gpus=[{"uuid": "GPU-00000000", "index": 0, "share": 0.25}]) for index in range(4)),
    a_worker("llm/0", "starting", ready_by="2026-11-20T10:06:30Z", last_exit=an_exit()),
    a_worker("big/0", "pending", pid=None, reason=WHY),
    devices=DEVICES,
)
EXPLAINED = a_worker(
    "big/0", "pending", asks="8 GPUs", waits={"for": WHY, "since": SINCE, "next_look": None}, verdicts=[]
)
PAGES: dict[str, Page] = {
    "status": status_page(STATUS, NOW, bars="unicode"),
    "devices": devices_page({"gpu": {"state": "ok"}, "devices": DEVICES}, NOW, bars="ascii"),
    "plan": plan_page({"devices": DEVICES, "workers": [a_row("big/0", placed=False, reason=WHY)]}, NOW, bars="unicode"),
    "explain": explain_page(EXPLAINED, NOW),
}


def shown(page: Page, width: int | None) -> str:
    out = io.StringIO()
    draw(page, out, width=width, colour=False)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_80_columns_and_uses_more_where_there_are(name: str, width: int) -> None:
    """No line is wider, no word is missing, and more columns never take more lines."""
    text = shown(PAGES[name], width)

    assert max(map(columns_of, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "big/0" in words or name == "devices"
    if name != "devices":
        assert [word for word in WHY.split() if word not in words] == []
    assert len(text.splitlines()) <= len(shown(PAGES[name], 80).splitlines())


@pytest.mark.parametrize("width", [1, 7, 20, 40])
def test_a_narrow_terminal_loses_columns_and_no_worker(width: int) -> None:
    """As narrow as it may be; where lines have to be cut they are no wider."""
    lines = lay_out(PAGES["status"], width)

    assert any("big/0" in "".join(text for text, _ in line) for line in lines)
    assert all(sum(columns_of(text) for text, _ in cut(line, width)) <= width for line in lines)


def test_a_long_reason_goes_below_its_worker() -> None:
    """And does not make a narrow column beside it."""
    lines = shown(PAGES["status"], 80).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("big/0  "))

    assert lines[at].split() == ["big/0", "pending", "-", "-", "0", "5m"]
    assert lines[at + 1].split()[:3] == ["needs", "8", "GPUs,"]
    assert lines[at + 1].startswith("  ")


def test_a_bar_has_what_is_taken_and_what_is_declared_beyond_it() -> None:
    """A device that tells nothing has none; a little that is taken can be seen."""
    assert bar_of(20 * GIB, 40 * GIB, 80 * GIB, width=8, ascii_only=True) == "##==...."
    assert bar_of(1, 0, 80 * GIB, width=8, ascii_only=False) == "█░░░░░░░"
    assert bar_of(80 * GIB, 90 * GIB, 80 * GIB, width=8, ascii_only=True) == "########"
    assert bar_of(None, 0, 80 * GIB, ascii_only=True) == ""
    assert bar_of(0, 0, None, ascii_only=True) == ""
    full = bar_of(79 * GIB, 0, 80 * GIB, ascii_only=True)
    assert isinstance(full, Styled)
    assert full.style == "red"


@pytest.mark.parametrize(
    ("used", "total", "text"),
    [(GIB, 80 * GIB, "1.0/80.0GiB"), (None, 80 * GIB, "?/80.0GiB"), (1 << 20, 10 << 20, "1/10MiB"), (1, None, "")],
)
def test_used_and_total_are_in_one_unit(used: int | None, total: int | None, text: str) -> None:
    """That of the total."""
    assert share_of(used, total) == text


def test_neighbours_are_one_name_on_a_terminal() -> None:
    """Indices that follow each other, of one service; what is no worker stays as it is."""
    assert names_of(["llm/0", "llm/1", "llm/2", "web/2", "web/4"]) == "llm/0-2,web/2,web/4"
    assert names_of([]) == ""
    assert names_of(["strange"]) == "strange"


def test_wide_characters_take_two_columns() -> None:
    """And those that only add to others none, or tables would be askew."""
    assert columns_of("模型") == 4
    assert columns_of("e\u0301") == 1
    page = (Table(("A", "B"), (("模型", "x"), ("abcd", "y"))),)
    lines = shown(page, 80).splitlines()
    assert lines[1:] == ["模型  x", "abcd  y"]
    assert cut((("模型模型", ""),), 3) == (("模", ""),)


def test_styles_are_of_cells_and_do_not_count_as_width() -> None:
    """A styled cell is in its column."""
    out = io.StringIO()

    draw((Table(("A", "B"), ((Styled("x", "red"), "y"),)),), out, width=80, colour=True)

    assert out.getvalue().splitlines()[1] == "\x1b[31mx\x1b[0m  y"


# ---- words ----------------------------------------------------------------------------------------------------------


def events() -> set[str]:
    """Everything that may be behind a transition."""
    return {event.__name__ for part in get_args(WorkerEvent) for event in (get_args(part) or (part,))}


def test_every_event_behind_a_transition_has_words() -> None:
    """And no other but the news of a GPU's memory, and of a sick GPU, whose cause is told in place of the event."""
    assert set(BECAUSE) == events() - {"Evicted"} | {"GpuMemoryExceeded", "device"}
    assert {event for event, _, _ in BETWEEN} <= events()
    assert set(PROOFS) == {proof.name.lower() for proof in Proof}


def test_a_transition_is_told_in_words_as_close_as_there_are() -> None:
    """A deadline means another thing in each state; what a newer daemon says is shown as it is."""
    over = {"cause": "DeadlinePassed", "before": "backoff", "after": "pending"}

    assert because(over) == "its back-off is over"
    assert because({**over, "before": "releasing"}) == BECAUSE["DeadlinePassed"]
    assert because({**over, "cause": "MoonRose"}) == "MoonRose"


@pytest.mark.parametrize(
    ("release", "line"),
    [
        (
            {"seconds": 2.345, "proof": "list", "dirty": False},
            "was back after 2.3 s (the driver lists no process of it)",
        ),
        (
            {"seconds": 61.0, "proof": "none", "dirty": True},
            "had not come back after 61s: the device was given up as dirty",
        ),
    ],
)
def test_an_explanation_tells_how_long_memory_took_to_come_back(release: object, line: str) -> None:
    """Where there was a process before."""
    worker = a_worker("a/0", asks="1 GPU", waits=None, verdicts=[])

    assert line in shown(explain_page({**worker, "release": release}, NOW), None)
    assert "memory" not in shown(explain_page({**worker, "release": None}, NOW), None)


def test_bars_are_for_terminals_alone() -> None:
    """A pipe has figures."""
    assert "█" not in shown(status_page(STATUS, NOW), None)
