"""What workers said and say, as lines on standard output."""

from __future__ import annotations

import json
from typing import Any

from supervisor.cli.outcome import put, say
from supervisor.front.client import Client

EVERYTHING = 1_000_000
"""More lines than are kept of any worker."""


def show(client: Client, target: str | None, *, lines: int, follow: bool, is_json: bool) -> int:
    """
    Write the last lines of workers, and go on if that is wanted until there is no more.

    Args:
        client: Of the daemon.
        target: ``llm``, ``llm/0``; None for everybody.
        lines: Of each worker at the most.
        follow: Do not end with what has been said so far.
        is_json: One object a line, instead of text.

    Returns:
        The exit status.
    """
    is_named = target is None or "/" not in target
    width = _width(client, target) if is_named and not is_json else 0
    params = {"lines": str(lines), "follow": "1" if follow else "0"} | ({} if target is None else {"target": target})
    reason = "slow"
    while reason == "slow":
        for number, event, data in client.stream("/v1/logs", params, thing=f"show the logs of {target or 'everybody'}"):
            if event == "end":
                reason = data["reason"]
                break
            params["after"] = str(number)
            put(json.dumps(data) + "\n" if is_json else _text(data, width if is_named else None), is_raw=True)
        if reason == "slow":
            params["lines"] = str(EVERYTHING)
            say("fell behind; going on with what is still kept, lines may be missing")
    return 0


def _text(data: dict[str, Any], width: int | None) -> str:
    """The line as the worker wrote it, its escapes included: a terminal is to see what it would have seen."""
    return f"{data['line']}\n" if width is None else f"{data['worker']:<{width}} | {data['line']}\n"


def _width(client: Client, target: str | None) -> int:
    """Columns of the longest name, so that what workers say begins in one column."""
    status = client.get("/v1/status", {} if target is None else {"target": target}, thing=f"show the logs of {target}")
    names = [worker["worker"] for service in status["services"] for worker in service["workers"]]
    return max(map(len, names), default=0)
