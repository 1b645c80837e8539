"""What happens to workers and devices, as lines on standard output."""

from __future__ import annotations

import json
from typing import Any

from supervisor.cli import terminal
from supervisor.cli.outcome import put, say
from supervisor.front.client import Client
from supervisor.front.page import STYLES, ansi, clean
from supervisor.front.words import because


def show(client: Client, target: str | None, *, lines: int | None, follow: bool, is_json: bool) -> int:
    """
    Write the last transitions of workers, and go on if that is wanted until there is no more.

    Args:
        client: Of the daemon.
        target: ``llm``, ``llm/0``; None for everybody.
        lines: At the most; None for all that the daemon keeps.
        follow: Do not end with what has happened so far.
        is_json: One object a line, instead of text.

    Returns:
        The exit status.
    """
    params = {"follow": "1" if follow else "0"} | ({} if target is None else {"target": target})
    params |= {} if lines is None else {"lines": str(lines)}
    thing = f"show the events of {target or 'everybody'}"
    colour = terminal.find().colour
    reason = "slow"
    while reason == "slow":
        for number, event, data in client.stream("/v1/events", params, thing=thing):
            if event == "end":
                reason = data["reason"]
                break
            params["after"] = str(number)
            put(f"{json.dumps(data) if is_json else _text(data, colour=colour)}\n", is_raw=True)
        if reason == "slow":
            params.pop("lines", None)
            say("fell behind; going on with what is still kept, events may be missing")
    return 0


def _text(data: dict[str, Any], *, colour: bool) -> str:
    """``2026-11-20T10:00:00Z llm/0 ready -> backoff (it ended): exited with 1``; one line, whatever a reason holds."""
    if data["worker"] is None:
        return _device_text(data, colour=colour)
    after = data["after"] or "gone"
    style = STYLES.get(after, "") if colour else ""
    pieces = (
        (f"{data['at']} {data['worker']} {data['before'] or 'new'} -> ", ""),
        (after, style),
        (f" ({because(data)})", ""),
    )
    return ansi(pieces, colour=colour) + _reason(data)


def _device_text(data: dict[str, Any], *, colour: bool) -> str:
    """``2026-11-20T10:00:00Z GPU 3 ok -> draining: XID 79 (...)``, ``... GPU 3 xid: XID 31 (...) (llm/0 there)``."""
    after = data["after"]
    what = str(data["cause"]).partition(".")[2]
    name = clean(str(data.get("name") or data["device"]))
    began = f"{data['at']} {name} {data['before'] or 'ok'} -> " if after else f"{data['at']} {name} "
    there = f" ({', '.join(data['workers'])} there)" if data.get("workers") else ""
    pieces = ((began, ""), (after or what, STYLES.get(after or "", "") if colour else ""))
    return ansi(pieces, colour=colour) + _reason(data) + there


def _reason(data: dict[str, Any]) -> str:
    told = data["reason"] or (f"it was {was}" if (was := data.get("was")) else "")
    reason = clean(" ".join(str(told).split()))
    return f": {reason}" if reason else ""
