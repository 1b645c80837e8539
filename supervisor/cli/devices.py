"""What an operator does with GPUs: `devices quarantine`, `devices release`."""

from __future__ import annotations

import json
from typing import Any

import click

from supervisor.cli.grammar import Where, as_json, at_daemon
from supervisor.cli.outcome import put, say

EMPTY_S = 120.0
"""Longer than the daemon waits until a GPU is empty."""


@click.command()
@click.argument("gpus", metavar="GPU...", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", help="Why, for whoever looks at it later.")
@as_json
@at_daemon
def quarantine(where: Where, gpus: tuple[str, ...], *, reason: str | None, is_json: bool) -> int:
    """Take each GPU (index, UUID or its start, PCI id) out of use until it is released; its workers move."""
    params = {"target": ",".join(gpus)} | ({"reason": reason} if reason else {})
    answer = where.client().post("/v1/devices/quarantine", params, thing=f"quarantine {_named(gpus)}")
    return _show(answer, is_json=is_json)


@click.command()
@click.argument("gpus", metavar="GPU...", nargs=-1, required=True)
@click.option("--for-reset", is_flag=True, help="Empty it, close what we have open of it, say who else has it open.")
@as_json
@at_daemon
def release(where: Where, gpus: tuple[str, ...], *, for_reset: bool, is_json: bool) -> int:
    """
    Look at each GPU once more and use it again, or forget it if it is gone.

    With --for-reset, give it away until it is released without.
    """
    params = {"target": ",".join(gpus)} | ({"for_reset": "1"} if for_reset else {})
    thing = f"release {_named(gpus)}"
    answer = where.client().post("/v1/devices/release", params, thing=thing, timeout_s=EMPTY_S)
    _show(answer, is_json=is_json, is_release=not for_reset)
    there = {one["uuid"] for one in answer["devices"]}
    gone = [uuid for uuid in answer.get("before", {}) if uuid not in there]
    for uuid in () if is_json else gone:
        put(f"{gpus[0] if len(gpus) == 1 else uuid} is forgotten: nothing shows it any more\n")
    return 0


COMMANDS = (quarantine, release)
NEVER_OUT = frozenset({"ok", "suspect", "held", "stuck", "dirty"})


def _named(gpus: tuple[str, ...]) -> str:
    return f"GPU{'s' * (len(gpus) > 1)} {', '.join(gpus)}"


def _show(answer: dict[str, Any], *, is_json: bool, is_release: bool = False) -> int:
    for warning in answer.get("warnings", ()):
        say(f"warning: {warning}")
    if is_json:
        put(json.dumps(answer, indent=2) + "\n")
        return 0
    before = answer.get("before", {})
    for one in answer["devices"]:
        line = show_released(one, before.get(one["uuid"], "")) if is_release else show_taken(one)
        put(f"{line}\n")
    if "openers" in answer:
        put("".join(f"{line}\n" for line in show_openers(answer["openers"])))
    return 0


def show_taken(device: dict[str, Any]) -> str:
    """A GPU that was taken out of use, and who is on the way out."""
    on = f"; still there: {', '.join(device['workers'])}" if device["workers"] else ""
    # One that another daemon has may not be used for that: what was asked for has been done all the same.
    is_held = device["health"] == "held"
    state = f"quarantined, and {_reason(device)}" if is_held else f"{device['health']}{_why(device)}"
    return f"{_name(device)} {state}{on}"


def show_released(device: dict[str, Any], before: str) -> str:
    """
    What became of a GPU that was released.

    Args:
        device: As it is now.
        before: Its health when it was asked for.
    """
    name, health = _name(device), device["health"]
    if health == "probing":
        # Its reason is that of last time; what comes of this look is not known yet.
        return f"{name} probing: looked at once more, and used again if it is well"
    if before in NEVER_OUT:
        return f"{name} was not quarantined: it is {health}{_why(device)}"
    if health == "held":
        return f"{name} released, and {_reason(device)}"
    again = {"ok": ", in use again", "quarantined": " again", "lost": ", used when it is there again"}.get(health, "")
    return f"{name} {health}{again}{_why(device)}"


def _name(device: dict[str, Any]) -> str:
    return device["uuid"] if device["index"] is None or device["parent"] else f"GPU {device['index']}"


def _why(device: dict[str, Any]) -> str:
    return f" ({_reason(device)})" if device["reason"] else ""


def _reason(device: dict[str, Any]) -> str:
    from supervisor.front.page import clean

    return clean(str(device["reason"]))


def show_openers(openers: list[dict[str, Any]] | None) -> list[str]:
    """Who has a GPU open, a line each; None = it cannot be told."""
    from supervisor.front.page import clean

    if openers is None:
        return ["who has it open cannot be told: not every process may be looked at"]
    names = (", ".join(filter(None, (one["worker"] or one["name"], one["user"]))) for one in openers)
    found = [f"open: pid {one['pid']} ({clean(name)})" for one, name in zip(openers, names, strict=True)]
    return found or ["nobody has it open"]
