"""What happens to workers, as lines on standard output."""

from __future__ import annotations

import json
from typing import Any

from supervisor.cli.outcome import put, say
from supervisor.front.client import Client


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
    reason = "slow"
    while reason == "slow":
        for number, event, data in client.stream("/v1/events", params, thing=thing):
            if event == "end":
                reason = data["reason"]
                break
            params["after"] = str(number)
            put(f"{json.dumps(data) if is_json else _text(data)}\n", is_raw=True)
        if reason == "slow":
            params.pop("lines", None)
            say("fell behind; going on with what is still kept, events may be missing")
    return 0


def _text(data: dict[str, Any]) -> str:
    """``2026-11-20T10:00:00Z llm/0 ready -> backoff (Exited): exited with 1``; on one line, whatever a reason holds."""
    way = f"{data['before'] or 'new'} -> {data['after'] or 'gone'}"
    reason = " ".join(str(data["reason"]).split())
    shown = "".join(one if one.isprintable() else "?" for one in reason)
    return f"{data['at']} {data['worker']} {way} ({data['cause']})" + (f": {shown}" if shown else "")
