"""
`top`: devices and workers with their figures, drawn anew every other second for as long as somebody looks.

Nobody looks, nobody asks: the daemon reads figures only for this. Without a daemon the devices alone are shown.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from supervisor.cli import terminal
from supervisor.cli.feed import Feed
from supervisor.cli.grammar import Where
from supervisor.cli.outcome import EXIT_NO_DAEMON, put, put_json
from supervisor.cli.screen import EndedError, Screen
from supervisor.errors import CannotError
from supervisor.front.cells import Bars
from supervisor.front.page import Line, Page, Styled, ansi, cut, lay_out
from supervisor.front.top import Order, Sort, View, foot_of, head_page, press, workers_shown, workers_table

REFRESH_S = 2.0
PATIENCE_S = 10.0
SIGNALLED = 128

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """
    The newest figures.

    Args:
        status: The status JSON with figures; its daemon is None where there is none.
        trouble: Why there are no newer ones, or empty.
    """

    status: Json | None
    trouble: str = ""


def top(where: Where, *, sort: Sort, once: bool, is_json: bool) -> int:
    """
    Show figures until somebody has seen enough of them.

    Args:
        where: Which daemon.
        sort: By what workers are ordered at first.
        once: One look, and no keys; so it is where standard output is no terminal.
        is_json: The same as JSON.

    Returns:
        The exit status.
    """
    kind = terminal.find()
    view = View(sort=sort)
    if is_json:
        put_json(_ask(where))
        return 0
    if once or kind.width is None:
        status = _ask(where)
        put(terminal.text_of(lambda bars: _page(status, view, bars), kind))
        return 0
    screen = Screen("show figures that change", "`top --once` shows them once")
    poke = threading.Event()
    feed: Feed[Seen] = Feed(lambda put_on: _fetch(where, poke, put_on))
    try:
        with screen:
            return _stay(where, screen, feed, poke, view=view)
    except KeyboardInterrupt:
        return 0
    except EndedError as ended:
        return SIGNALLED + ended.number


def _stay(where: Where, screen: Screen, feed: Feed[Seen], poke: threading.Event, *, view: View) -> int:
    kind = terminal.find()
    seen = Seen(None)
    while True:
        lines = _frame(seen, view, screen.size, kind.bars)
        screen.draw([ansi(line, colour=kind.colour) for line in lines])
        for key in screen.wait([feed.descriptor], None):
            if key in {"q", "Q", "\x04"} and not view.is_typing:
                return 0
            names = [worker["worker"] for worker in workers_shown(seen.status, view)] if seen.status else []
            view, order = press(view, key, names)
            if order is not None:
                view = replace(view, message=_carry_out(where, order))
                poke.set()
        if (newest := feed.take()) is not None:
            seen = newest if newest.status is not None else Seen(seen.status, newest.trouble)


def _fetch(where: Where, poke: threading.Event, put_on: Callable[[Seen], None]) -> None:
    while True:
        try:
            put_on(Seen(_ask(where)))
        except CannotError as error:
            put_on(Seen(None, str(error)))
        except Exception as error:  # noqa: BLE001 - A thread that ends in silence would leave old figures standing.
            put_on(Seen(None, f"cannot show figures: internal error: {type(error).__name__}: {error}"))
        poke.wait(REFRESH_S)
        poke.clear()


def _ask(where: Where) -> Json:
    """The status with figures; where there is no daemon, the devices as this machine has them."""
    try:
        return where.client().get("/v1/status", {"figures": "1"}, thing="show the figures", timeout_s=PATIENCE_S)
    except CannotError as error:
        if error.exit_code != EXIT_NO_DAEMON:
            raise
    from supervisor.daemon import survey

    return {"daemon": None, "services": [], **survey.devices(os.environ, where.control)}


def _carry_out(where: Where, order: Order) -> str:
    thing = f"{order.verb} {order.worker}"
    try:
        where.client().post(f"/v1/{order.verb}", body={"targets": [order.worker]}, thing=thing)
    except CannotError as error:
        return str(error)
    return f"{thing}: asked for"


def _page(status: Json, view: View, bars: Bars) -> Page:
    now = datetime.now(UTC)
    table = workers_table(status, view, now)
    return (*head_page(status, now, bars=bars), *((table,) if table else ()))


def _frame(seen: Seen, view: View, size: tuple[int, int], bars: Bars) -> list[Line]:
    """As many lines as the screen has: devices above, workers around the one that is chosen, keys below."""
    width, height = size
    foot: Line = ((f"{foot_of(view):<{width}}", "reverse"),)
    if seen.status is None:
        lines = lay_out((seen.trouble or "reading the GPUs ...",), width)
        return _filled(lines, foot, width, height)
    now = datetime.now(UTC)
    trouble: Page = (Styled(seen.trouble, "red"),) if seen.trouble else ()
    above = lay_out((*trouble, *head_page(seen.status, now, bars=bars)), width)
    table = workers_table(seen.status, view, now)
    if table is None:
        none = "no worker has that in its name or state" if view.pattern else ""
        return _filled([*above, (), ((none, "dim"),)], foot, width, height)
    if len(above) > (most := max(1, (height - 1) // 2)) and len(table.rows) + 2 > height - 1 - len(above):
        above = [*above[: most - 1], ((f"... {len(above) - most + 1} more lines", "dim"),)]
    head, *rows = lay_out((table,), width)
    place = max(1, height - 3 - len(above))
    names = [str(row[0]) for row in table.rows]
    at = names.index(view.selected) if view.selected in names else 0
    first = max(0, min(at - place // 2, len(rows) - place))
    return _filled([*above, (), head, *rows[first : first + place]], foot, width, height)


def _filled(lines: list[Line], foot: Line, width: int, height: int) -> list[Line]:
    shown = [cut(line, width) for line in lines[: height - 1]]
    return [*shown, *[()] * (height - 1 - len(shown)), cut(foot, width)]
