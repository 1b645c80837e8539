"""What an operator does with one GPU: `devices quarantine`, `devices release`."""

from __future__ import annotations

import json
from typing import Any

import click

from supervisor.cli.grammar import Where, as_json, at_daemon
from supervisor.cli.outcome import put

EMPTY_S = 120.0
"""Longer than the daemon waits until a GPU is empty."""


@click.command()
@click.argument("gpu")
@as_json
@at_daemon
def quarantine(where: Where, gpu: str, *, is_json: bool) -> int:
    """Take GPU (index, UUID or its start, PCI id) out of use until it is released; its workers move."""
    answer = where.client().post("/v1/devices/quarantine", {"target": gpu}, thing=f"quarantine GPU {gpu}")
    _show(answer, "quarantined", is_json=is_json)
    return 0


@click.command()
@click.argument("gpu")
@click.option("--for-reset", is_flag=True, help="Empty it, close what we have open of it, say who else has it open.")
@as_json
@at_daemon
def release(where: Where, gpu: str, *, for_reset: bool, is_json: bool) -> int:
    """
    Look at GPU once more and use it again, or forget it if it is gone.

    With --for-reset, give it away until it is released without.
    """
    params = {"target": gpu} | ({"for_reset": "1"} if for_reset else {})
    answer = where.client().post("/v1/devices/release", params, thing=f"release GPU {gpu}", timeout_s=EMPTY_S)
    _show(answer, "quarantined" if for_reset else "released", is_json=is_json)
    if not answer["devices"] and not is_json:
        put(f"{gpu} is forgotten: nothing shows it any more\n")
    return 0


COMMANDS = (quarantine, release)


def _show(answer: dict[str, Any], what: str, *, is_json: bool) -> None:
    if is_json:
        put(json.dumps(answer, indent=2) + "\n")
        return
    from supervisor.front.page import clean

    for one in answer["devices"]:
        name = one["uuid"] if one["index"] is None or one["parent"] else f"GPU {one['index']}"
        on = f"; still there: {', '.join(one['workers'])}" if one["workers"] else ""
        why = f" ({clean(str(one['reason']))})" if one["reason"] else ""
        # One that another daemon has may not be used for that: what was asked for has been done all the same.
        is_held = one["health"] == "held"
        state = f"{what}, and {clean(str(one['reason']))}" if is_held else f"{one['health']}{why}"
        put(f"{name} {state}{on}\n")
    if "openers" in answer:
        put("".join(f"{line}\n" for line in show_openers(answer["openers"])))


def show_openers(openers: list[dict[str, Any]] | None) -> list[str]:
    """Who has a GPU open, a line each; None = it cannot be told."""
    from supervisor.front.page import clean

    if openers is None:
        return ["who has it open cannot be told: not every process may be looked at"]
    names = (", ".join(filter(None, (one["worker"] or one["name"], one["user"]))) for one in openers)
    found = [f"open: pid {one['pid']} ({clean(name)})" for one, name in zip(openers, names, strict=True)]
    return found or ["nobody has it open"]
