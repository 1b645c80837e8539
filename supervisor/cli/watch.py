"""
`status --watch`: the status, drawn anew at every event of a worker.

Asks the daemon only when something happened; ages go on by themselves, once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from supervisor.cli import terminal
from supervisor.cli.feed import Feed
from supervisor.cli.screen import EndedError, Screen, now
from supervisor.errors import CannotError
from supervisor.front.cells import Bars
from supervisor.front.client import AnswerError, Client
from supervisor.front.page import Line, Styled, ansi, cut, lay_out
from supervisor.front.show import status_of

GATHER_S = 0.1
"""Events come in swarms; one look is enough for all of them."""

TICK_S = 1.0
RETRY_S = 1.0

SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What the daemon said last.

    Args:
        status: The status JSON; None as long as there was none.
        trouble: Why there is no newer one, or empty.
    """

    status: dict[str, Any] | None
    trouble: str = ""


def watch(find: Callable[[], Client], target: str | None) -> int:
    """
    Show the status until somebody has seen enough of it.

    Args:
        find: A client of the daemon, or a CannotError.
        target: ``llm``, ``llm/0``; None for everything.

    Returns:
        The exit status.
    """
    seen = Seen(_ask(find(), target))
    screen = Screen("watch the status", "`events -f` tells what happens line by line")
    feed: Feed[Seen] = Feed(lambda put: _follow(find, target, put))
    kind = terminal.find()
    top = 0
    try:
        with screen:
            while True:
                width, height = screen.size
                lines = _lines(seen, target, width, kind.bars)
                top = max(0, min(top, len(lines) - (height - 1)))
                screen.draw([ansi(cut(line, width), colour=kind.colour) for line in _framed(lines, top, width, height)])
                for key in screen.wait([feed.descriptor], now() + TICK_S):
                    if key in {"q", "Q", "\x1b", "\x04"}:
                        return 0
                    top = scrolled(top, key, height - 1)
                newest = feed.take()
                if newest is not None:
                    # A daemon that is gone is shown as it was.
                    seen = newest if newest.status is not None else Seen(seen.status, newest.trouble)
    except KeyboardInterrupt:
        return 0
    except EndedError as ended:
        return SIGNALLED + ended.number


def scrolled(top: int, key: str, page: int) -> int:
    """The first line shown after a key."""
    return top + {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, " ": page}.get(
        key, -top if key == "home" else 1 << 20 if key == "end" else 0
    )


def _follow(find: Callable[[], Client], target: str | None, put: Callable[[Seen], None]) -> None:
    """Ask anew at every event, and for another daemon where one has ended."""
    pause = threading.Event()
    while True:
        try:
            client = find()
            stream = client.stream("/v1/events", {"follow": "1", "lines": "0"})
            news, over = threading.Event(), threading.Event()
            threading.Thread(target=_look, args=(client, target, news, over, put), daemon=True).start()
            news.set()
            try:
                for _, event, _ in stream:
                    news.set()
                    if event == "end":
                        break
            finally:
                over.set()
                news.set()
            put(Seen(None, "the daemon has ended; waiting for the next one"))
        except CannotError as error:
            put(Seen(None, f"{error}; waiting"))
        pause.wait(RETRY_S)


def _look(
    client: Client, target: str | None, news: threading.Event, over: threading.Event, put: Callable[[Seen], None]
) -> None:
    while news.wait() and not over.is_set():
        news.clear()
        try:
            put(Seen(_ask(client, target)))
        except AnswerError as error:
            put(Seen(None, str(error)))
        except CannotError:
            return  # Who follows its events says so.
        over.wait(GATHER_S)


def _ask(client: Client, target: str | None) -> dict[str, Any]:
    thing = f"show the status of {target}" if target else "show the status"
    return client.get("/v1/status", None if target is None else {"target": target}, thing=thing)


def _lines(seen: Seen, target: str | None, width: int, bars: Bars) -> list[Line]:
    page = () if seen.status is None else status_of(seen.status, target, datetime.now(UTC), bars=bars)
    return lay_out((*((Styled(seen.trouble, "red"),) if seen.trouble else ()), *page), width)


def _framed(lines: list[Line], top: int, width: int, height: int) -> list[Line]:
    """As many as the screen has, and below them what else there is."""
    shown = lines[top : top + height - 1]
    below = len(lines) - top - len(shown)
    more = f"{below} more lines below" if below else "the end" if top else ""
    foot = "  ".join(filter(None, (f"{datetime.now().astimezone():%H:%M:%S}", "q ends", more)))
    return [*shown, *[()] * (height - 1 - len(shown)), ((f"{foot:<{width}}", "reverse"),)]
