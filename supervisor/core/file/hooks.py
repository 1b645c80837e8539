"""
Hooks: commands and URLs that are told what happens. How the file names them, and which events there are.

Runs nothing and reaches nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from supervisor.core.file.command import split_command
from supervisor.core.file.problems import (
    BadValueError,
    Place,
    Section,
    as_text,
    leaf,
    map_or_empty,
    nearest,
    read_section,
    shown,
    whole_number,
)
from supervisor.core.file.quantities import parse_duration_s

HOOKS_MAX = 16
RETRIES_MAX = 100
TIMEOUT_MIN_S = 0.1
TIMEOUT_MAX_S = 300.0

STATES = (
    *("pending", "starting", "ready", "unready", "stopping", "killing"),
    *("releasing", "backoff", "exited", "failed", "stopped", "gone"),
)
"""A worker's, and that there is none any more."""

NOTICES = (
    *(
        "worker.dirty",
        "worker.gpu_memory_exceeded",
        "worker.gpu_memory_kept",
        "worker.memory_late",
        "worker.unkillable",
    ),
    *("device.clean", "device.held", "device.unmeasured", "device.xid", "device.event", "device.forgotten"),
    *("device.ok", "device.suspect", "device.draining", "device.quarantined", "device.probing", "device.lost"),
    *("inventory.failed", "inventory.read"),
    *("plan.degraded", "plan.halted", "plan.surge_dropped", "plan.waiting", "scale.rejected", "socket.refused"),
    *("spec.loaded", "spec.rejected", "daemon.failed", "endpoints.failed", "endpoints.reload_failed"),
)
"""What is told beside the steps of workers; the names are those of the log."""

EVENTS = (*(f"worker.{state}" for state in STATES), *NOTICES)

_URL = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#\[\]:@]+)(?::[0-9]{1,5})?(?:[/?][\x21-\x7e]*)?", re.ASCII)


class Hook(BaseModel):
    """
    Who is told.

    Args:
        command: Gets each event on its standard input; empty with *url*.
        url: Each event is posted to it.
        events: Full names; () = all.
        retries: Tries after the first that failed.
        timeout_s: For one try.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    command: tuple[str, ...] = ()
    url: str = ""
    events: tuple[str, ...] = ()
    retries: int = 3
    timeout_s: float = Field(10.0, alias="timeout")


def read_hooks(place: Place) -> tuple[Hook, ...] | None:
    """A command, a URL, one of them with more to say, or a list of such."""
    if isinstance(place.value, list | tuple) and place.value and all(isinstance(one, Mapping) for one in place.value):
        items = place.items("")
        if len(items) > HOOKS_MAX:
            place.refuse(f"expected {HOOKS_MAX} hooks at the most, got {len(items)}")
            return None
        hooks = [_read_map(item) for item in items]
        return tuple(hook for hook in hooks if hook is not None)
    if isinstance(place.value, Mapping):
        hook = _read_map(place)
        return None if hook is None else (hook,)
    if isinstance(place.value, str) and re.match(r"[a-z]+://", place.value):
        url = place.read(_parse_url)
        return None if url is None else (Hook(url=url),)
    command = read_words(place)
    return None if command is None else (Hook(command=command),)


def _read_map(place: Place) -> Hook | None:
    good = read_section(place, HOOK)
    written = {"command", "url"} & map_or_empty(place.value).keys()
    if len(written) != 1:
        found = "both" if written else "neither"
        place.refuse(f"expected one of command and url, got {found}", HOOK.example)
        return None
    return Hook.model_validate(good) if written & good.keys() else None


def read_words(place: Place, example: str = "[./tell.sh, --now] or ./tell.sh --now") -> tuple[str, ...] | None:
    """A command as a string, which is split, or as a list, in which nothing is looked at."""
    if isinstance(place.value, str):
        return place.read(lambda value: split_command(as_text(value)))
    words = [item.read(as_text) for item in place.items(example)]
    if isinstance(place.value, list | tuple) and (not words or words[0] == ""):
        place.refuse("expected a command, got an empty one")
        return None
    return tuple(word for word in words if word is not None) or None


def _parse_url(value: object) -> str:
    text = as_text(value)
    match = _URL.fullmatch(text)
    if match is None:
        raise BadValueError(f"expected an http:// or https:// URL, got {shown(text)}", "write http://HOST:PORT/PATH")
    return text


def _read_events(place: Place) -> tuple[str, ...] | None:
    """Names, or their ends: ``failed`` is every event that ends so."""
    found: list[str] = []
    for item in place.items("[failed, dirty]"):
        word = item.read(as_text)
        names = [name for name in EVENTS if word in {name, name.partition(".")[2]}]
        if word is not None and not names:
            known = (*EVENTS, *(name.partition(".")[2] for name in EVENTS))
            hint = nearest(word, known) or f"there are {', '.join(dict.fromkeys(known[len(EVENTS) :]))}"
            item.refuse(f"there is no event {shown(word)}", hint)
        found += names
    if isinstance(place.value, list | tuple) and not place.value:
        place.refuse("expected events, got none", "leave it out for all")
    return tuple(dict.fromkeys(found)) or None


def _parse_timeout(value: object) -> float:
    seconds = parse_duration_s(value)
    if not TIMEOUT_MIN_S <= seconds <= TIMEOUT_MAX_S:
        raise BadValueError(f"expected 100ms to 5m, got {shown(value)}")
    return seconds


HOOK = Section(
    keys={
        "command": read_words,
        "url": leaf(_parse_url),
        "events": _read_events,
        "retries": leaf(whole_number(0, RETRIES_MAX)),
        "timeout": leaf(_parse_timeout),
    },
    example="on_event: {command: [./tell.sh], events: [failed]}",
)
