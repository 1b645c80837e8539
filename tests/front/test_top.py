"""`top` without a terminal: what keys do, in which order workers are, and what stands in the rows."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from supervisor.cli.commands import SORTS as CHOICES
from supervisor.cli.progress import words_of
from supervisor.cli.top import Seen, _frame
from supervisor.front.page import Page, columns_of, draw
from supervisor.front.top import (
    FIGURES,
    SORT_KEYS,
    SORTS,
    Order,
    View,
    foot_of,
    head_page,
    press,
    workers_shown,
    workers_table,
)
from tests.front.fakes import SINCE, Json, a_device, a_status, a_worker

NOW = datetime.fromisoformat(SINCE).astimezone(UTC) + timedelta(minutes=5)
MIB = 1 << 20


def used(worker: str, cpu: float | None, memory: int | None, gpu_memory: int | None = 0, **more: Any) -> Json:
    usage = {"cpu": cpu, "cpu_seconds": 1.0, "memory": memory, "gpu_memory": gpu_memory}
    return a_worker(worker, usage=usage, **more)


WORKERS = (
    used("llm/0", 0.5, 300 * MIB, restarts=2),
    used("llm/1", 1.5, 100 * MIB, 7 * MIB, since="2026-11-20T09:00:00Z"),
    used("web/0", None, None, None, state="failed", reason="it was no good " * 20),
)
DEVICES = tuple(
    a_device(
        index,
        utilization={"gpu": 97, "memory": 3},
        temperature=61,
        power={"draw": 312.4, "limit": 700.0},
        memory={"total": 80 << 30, "free": 20 << 30, "declared": 0},
        workers=["llm/0", "llm/1"],
    )
    for index in range(2)
)
SICK = {"health": "quarantined", "reason": "XID 79 (it fell off the bus): reboot", "health_until": None}
STATUS = a_status(*WORKERS, devices=DEVICES)
NAMES = ["llm/0", "llm/1", "web/0"]


def names(view: View) -> list[str]:
    return [worker["worker"] for worker in workers_shown(STATUS, view)]


def pressed(*keys: str, view: View | None = None) -> tuple[View, list[Order]]:
    view, orders = view or View(), []
    for key in keys:
        view, order = press(view, key, names(view))
        orders += [order] if order else []
    return view, orders


def shown(page: Page, width: int | None = None) -> str:
    out = io.StringIO()
    draw(page, out, width=width, colour=False)
    return out.getvalue()


def test_orders_are_the_same_for_the_command_line_and_for_keys() -> None:
    """Each has a figure, but for the place in the file."""
    assert CHOICES == SORTS
    assert set(SORT_KEYS.values()) == set(SORTS)
    assert set(FIGURES) == set(SORTS) - {"name"}


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ("", ["llm/0", "llm/1", "web/0"]),
        ("c", ["llm/1", "llm/0", "web/0"]),
        ("m", ["llm/0", "llm/1", "web/0"]),
        ("g", ["llm/1", "llm/0", "web/0"]),
        ("t", ["llm/0", "llm/1", "web/0"]),
        ("ci", ["llm/0", "llm/1", "web/0"]),
        ("i", ["web/0", "llm/1", "llm/0"]),
        ("ssn", ["llm/0", "llm/1", "web/0"]),
    ],
)
def test_keys_sort_the_largest_first_and_those_without_a_figure_last(keys: str, order: list[str]) -> None:
    """`i` turns it around, and still nobody without a figure is first."""
    view, orders = pressed(*keys)

    assert names(view) == order
    assert orders == []


def test_the_oldest_are_first_by_age() -> None:
    """Whoever has been in its state for the longest time."""
    assert names(pressed("a")[0])[0] == "llm/1"


def test_a_pattern_leaves_those_that_have_it() -> None:
    """While it is typed, letters are letters; Esc shows all again."""
    typing, _ = pressed("/", "L", "L", "q", "\x7f")
    taken, _ = pressed("\n", view=typing)

    assert foot_of(typing).startswith("/LL_")
    assert names(typing) == names(taken) == ["llm/0", "llm/1"]
    assert not taken.is_typing
    assert names(pressed("/", *"failed", "\n")[0]) == ["web/0"]
    assert names(pressed("\x1b", view=taken)[0]) == NAMES
    assert names(pressed("/", "x", "\x1b")[0]) == NAMES


@pytest.mark.parametrize(("key", "verb"), [("r", "restart"), ("x", "stop")])
def test_a_worker_is_touched_only_after_a_yes(key: str, verb: str) -> None:
    """Every other key is a no; without a choice nothing is asked at all."""
    nobody, _ = pressed(key)
    asking, orders = pressed("down", "down", key)

    assert (nobody.asks, "choose a worker" in foot_of(nobody)) == (None, True)
    assert (asking.asks, asking.selected, orders) == (verb, "llm/1", [])
    assert foot_of(asking).startswith(f"{verb} llm/1? ")
    assert pressed("y", view=asking)[1] == [Order(verb, "llm/1")]
    for other in ("n", "\n", key, "q", "\x1b"):
        after, orders = pressed(other, view=asking)
        assert (after.asks, orders, after.message) == (None, [], "nothing was done")


def test_a_worker_that_has_gone_meanwhile_is_not_touched() -> None:
    """Though it was chosen while it was there."""
    asking, _ = pressed("down", "r")

    assert press(asking, "y", ["llm/1"])[1] is None


def test_the_choice_moves_within_those_that_are_shown() -> None:
    """It stays at the ends, and starts anew where the chosen one is not shown any more."""
    assert pressed("up")[0].selected == "web/0"
    assert pressed("down", "up", "up")[0].selected == "llm/0"
    assert pressed("end", "down")[0].selected == "web/0"
    assert pressed("end", "home")[0].selected == "llm/0"
    assert pressed("end", "/", *"llm", "\n", "down")[0].selected == "llm/0"
    assert press(View(), "down", []) == (View(), None)


def test_a_row_has_the_figures_of_a_worker_and_of_a_device() -> None:
    """What is not known is a dash."""
    table = workers_table(STATUS, View(), NOW)
    assert table is not None
    lines = [line.split() for line in shown((*head_page(STATUS, NOW), table)).splitlines()]

    assert ["0", "97%", "60.0/80.0GiB", "61C", "312/700W", "llm/0-1", "H100", "80GB", "HBM3"] in lines
    assert ["llm/0", "ready", "-", "50%", "300MiB", "0B", "2", "5m", "-"] in lines
    assert lines[-1][:6] == ["web/0", "failed", "-", "-", "-", "-"]
    bare = {**DEVICES[0], "utilization": {"gpu": None, "memory": None}, "temperature": None, "power": {"draw": None}}
    assert "0    -     60.0/80.0GiB  -     -      " in shown(head_page({**STATUS, "devices": [bare]}, NOW))


def test_without_a_daemon_the_devices_are_shown_alone() -> None:
    """And it is said."""
    text = shown(head_page({"daemon": None, "gpu": {"state": "ok"}, "services": [], "devices": DEVICES}, NOW))

    assert text.startswith("no daemon answers")
    assert "97%" in text


@pytest.mark.parametrize("size", [(80, 24), (40, 8), (120, 60), (10, 3), (1, 1)])
def test_a_frame_is_as_large_as_the_screen_and_has_the_chosen_one(size: tuple[int, int]) -> None:
    """However small: no line more, none wider; a worker is one line."""
    view = View(selected="web/0")
    lines = _frame(Seen(STATUS), view, size, "unicode")

    text = ["".join(piece for piece, _ in line) for line in lines]
    assert len(text) == max(1, size[1])
    assert all(columns_of(line) <= size[0] for line in text)
    if size[1] >= 8:
        assert any("web/0" in line for line in text)


def test_a_sick_device_is_seen_on_the_smallest_of_usual_screens() -> None:
    """Its health in a column, and why on a line of its own: the end of a row is cut away."""
    sick = {
        **DEVICES[1],
        "health": "quarantined",
        "reason": "XID 79 (it fell off the bus): reboot",
        "health_until": None,
    }
    many = [a_worker(f"web/{number}") for number in range(40)]

    def seen(*devices: Json) -> list[str]:
        lines = _frame(Seen(a_status(*many, devices=devices)), View(), (80, 24), "unicode")
        return ["".join(piece for piece, _ in line).rstrip() for line in lines]

    text = seen(DEVICES[0], sick)
    assert any(line.startswith("GPU  HEALTH") for line in text)
    assert any(line.startswith("1    quarantined  97%") for line in text)
    assert "GPU 1 quarantined: XID 79 (it fell off the bus): reboot" in text
    crowd = [{**DEVICES[0], "uuid": f"GPU-{index}", "index": index} for index in range(16)]
    assert "GPU 15 quarantined: XID 79 (it fell off the bus): reboot" in seen(*crowd[:15], {**crowd[15], **SICK})
    assert not any("HEALTH" in line for line in shown(head_page(STATUS, NOW)).splitlines())


def test_a_frame_says_what_went_wrong_and_keeps_what_was_seen() -> None:
    """Old figures with a reason are better than none."""
    text = ["".join(piece for piece, _ in line) for line in _frame(Seen(STATUS, "it hangs"), View(), (80, 24), None)]
    nothing = ["".join(piece for piece, _ in line) for line in _frame(Seen(None, "it hangs"), View(), (80, 24), None)]

    assert text[0] == nothing[0] == "it hangs"
    assert any("llm/0" in line for line in text)


def test_a_wait_says_who_is_waited_for() -> None:
    """By name as long as they are few."""
    workers = [a_worker("llm/0"), *(a_worker(f"web/{index}", "starting") for index in range(6))]

    assert words_of(a_status(*workers[:2]), "ready") == "waiting: 1 of 2 ready; web/0 starting"
    assert words_of(a_status(*workers), "ready").endswith("web/3 starting and 2 more")
    assert words_of(a_status(a_worker("llm/0", "stopped")), "stopped") == "waiting: 1 of 1 stopped"
