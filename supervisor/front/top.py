"""
`top` without its terminal: what is shown of devices and workers, in which order, and what each key does.

Values in, values out. Reads the status JSON with figures; a key that changes a worker only says what is to be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from supervisor.front.cells import (
    Bars,
    age_of,
    bar_of,
    device_numbers,
    foreign_of,
    gpus_of,
    names_of,
    reason_of,
    share_of,
    size_of,
    used_of,
)
from supervisor.front.inventory import health_reason_of, remarks_of
from supervisor.front.page import Page, Styled, Table
from supervisor.front.show import driver_lines, head_of

Json = Mapping[str, Any]

Sort = Literal["name", "cpu", "memory", "gpu", "age", "restarts"]
SORTS: tuple[Sort, ...] = ("name", "cpu", "memory", "gpu", "age", "restarts")

SORT_KEYS: Mapping[str, Sort] = {"n": "name", "c": "cpu", "m": "memory", "g": "gpu", "a": "age", "t": "restarts"}
VERBS: Mapping[str, str] = {"r": "restart", "x": "stop"}
MOVES: Mapping[str, int] = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10}

HOT, WARM = 90, 60
"""Per cent of utilization and degrees Celsius from which on a figure stands out."""


@dataclass(frozen=True, slots=True)
class View:
    """
    What somebody wants to see.

    Args:
        sort: By what workers are ordered; a name is the place in the file.
        is_inverted: The other way around.
        pattern: Part of the names or states of those that are shown.
        is_typing: Keys are letters of the pattern.
        selected: Name of a worker; None while nobody is.
        asks: What is to be done to it, once that is confirmed.
        message: What came of the last key, or empty.
    """

    sort: Sort = "name"
    is_inverted: bool = False
    pattern: str = ""
    is_typing: bool = False
    selected: str | None = None
    asks: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """Something to ask of the daemon: ``restart`` or ``stop`` a worker."""

    verb: str
    worker: str


def press(view: View, key: str, names: Sequence[str]) -> tuple[View, Order | None]:
    """
    What a key does.

    Args:
        view: Before it.
        key: A letter, or the name of a key.
        names: Of the workers that are shown, in their order.

    Returns:
        The view after it, and what is to be asked of the daemon.
    """
    view = replace(view, message="")
    if view.is_typing:
        return _type(view, key), None
    if view.asks is not None:
        return _confirm(view, key, names)
    if key in MOVES:
        return replace(view, selected=_moved(view.selected, MOVES[key], names)), None
    if key in VERBS and view.selected not in names:
        return replace(view, message=f"choose a worker with the arrow keys, then {key} for {VERBS[key]}"), None
    return _set(view, key, names), None


def _set(view: View, key: str, names: Sequence[str]) -> View:
    """Keys that change nothing but what is seen, and that which asks for a confirmation."""
    match key:
        case "s":
            following = SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)]
            return replace(view, sort=following, is_inverted=False)
        case "i":
            return replace(view, is_inverted=not view.is_inverted)
        case "/":
            return replace(view, is_typing=True)
        case "\x1b":
            return replace(view, pattern="", selected=None)
        case "home" | "end":
            return replace(view, selected=(names[0 if key == "home" else -1] if names else None))
    if key in SORT_KEYS:
        return replace(view, sort=SORT_KEYS[key], is_inverted=False)
    return replace(view, asks=VERBS[key]) if key in VERBS else view


def _confirm(view: View, key: str, names: Sequence[str]) -> tuple[View, Order | None]:
    if view.asks is None or view.selected is None or key not in {"y", "Y"} or view.selected not in names:
        return replace(view, asks=None, message="nothing was done"), None
    return replace(view, asks=None), Order(view.asks, view.selected)


def workers_shown(status: Json, view: View) -> list[Json]:
    """The workers that somebody wants to see, in the order that they want."""
    workers = [worker for service in status["services"] for worker in service["workers"]]
    wanted = view.pattern.lower()
    found = [worker for worker in workers if not wanted or any(wanted in text.lower() for text in _texts(worker))]
    if view.sort != "name":
        figure = FIGURES[view.sort]
        told = [worker for worker in found if figure(worker) is not None]
        silent = [worker for worker in found if figure(worker) is None]
        told.sort(key=figure, reverse=not view.is_inverted)
        return [*told, *silent]
    return found[::-1] if view.is_inverted else found


def head_page(status: Json, now: datetime, *, bars: Bars = None) -> Page:
    """The daemon and the devices."""
    numbers = device_numbers(status["devices"])
    parts: list[str | Table] = []
    if status["daemon"] is None:
        parts.append(Styled("no daemon answers: the GPUs alone, as they are without one", "yellow"))
        parts += driver_lines(status["gpu"])
    else:
        parts.append(head_of(status["daemon"], now))
        parts += driver_lines(status["daemon"]["gpu"])
    if status["devices"]:
        # Above all of them: of many devices a small screen shows the first ones.
        parts += _sick_lines(status["devices"], numbers, now)
        parts.append(_devices_table(status["devices"], numbers, bars))
    return tuple(parts)


def _sick_lines(devices: Sequence[Json], numbers: Mapping[str, str], now: datetime) -> Iterator[str]:
    """Why devices are not well: what stands at the end of a row is cut away on a narrow terminal."""
    for device in devices:
        if device["health"] != "ok":
            reason = health_reason_of(device, now)
            name = device["uuid"] if device["index"] is None else f"GPU {numbers[device['uuid']]}"
            yield Styled(f"{name} {device['health']}{f': {reason}' if reason else ''}", "yellow")


def workers_table(status: Json, view: View, now: datetime) -> Table | None:
    """The workers, each on one line; None if there are none to show."""
    numbers = device_numbers(status["devices"])
    rows = [
        (
            Styled(worker["worker"], "reverse") if worker["worker"] == view.selected else worker["worker"],
            worker["state"],
            gpus_of(worker, numbers),
            _percent(_usage(worker, "cpu")),
            size_of(_usage(worker, "memory")),
            size_of(_usage(worker, "gpu_memory")),
            str(worker["restarts"]),
            age_of(worker["since"], now),
            reason_of(worker, now),
        )
        for worker in workers_shown(status, view)
    ]
    heads = ("WORKER", "STATE", "GPUS", "CPU", "RSS", "GPU MEM", "RESTARTS", "AGE", "REASON")
    return Table(heads, tuple(rows), spare=("RESTARTS", "GPUS", "AGE"), is_cut=True) if rows else None


def foot_of(view: View) -> str:
    """The line below everything: what is asked, or which keys there are."""
    if view.asks is not None:
        return f"{view.asks} {view.selected}? y does it, every other key does not"
    if view.is_typing:
        return f"/{view.pattern}_  (Enter takes it, Esc shows all)"
    if view.message:
        return view.message
    found = f"  only /{view.pattern}" if view.pattern else ""
    order = f"{view.sort}{', inverted' if view.is_inverted else ''}"
    return f"q ends  s sort: {order}  i inverts  / filters{found}  up, down choose  r restart  x stop"


def _type(view: View, key: str) -> View:
    match key:
        case "\r" | "\n":
            return replace(view, is_typing=False)
        case "\x1b":
            return replace(view, is_typing=False, pattern="")
        case "\x7f" | "\b":
            return replace(view, pattern=view.pattern[:-1])
        case _ if len(key) == 1 and key.isprintable():
            return replace(view, pattern=view.pattern + key)
    return view


def _moved(selected: str | None, step: int, names: Sequence[str]) -> str | None:
    if not names:
        return None
    if selected not in names:
        return names[0 if step > 0 else -1]
    return names[max(0, min(len(names) - 1, names.index(selected) + step))]


def _texts(worker: Json) -> Iterator[str]:
    yield from (worker["worker"], worker["state"])


def _usage(worker: Json, key: str) -> Any:
    return (worker.get("usage") or {}).get(key)


def _age(worker: Json) -> float | None:
    """The older, the larger."""
    return None if worker["since"] is None else -datetime.fromisoformat(worker["since"]).timestamp()


FIGURES: Mapping[str, Callable[[Json], Any]] = {
    "cpu": lambda worker: _usage(worker, "cpu"),
    "memory": lambda worker: _usage(worker, "memory"),
    "gpu": lambda worker: _usage(worker, "gpu_memory"),
    "age": _age,
    "restarts": lambda worker: worker["restarts"],
}
"""What workers are ordered by, the largest first."""


def _percent(cores: float | None) -> str:
    """Of one core, as every other top has it."""
    return "" if cores is None else f"{100 * cores:.0f}%"


def _devices_table(devices: Sequence[Json], numbers: Mapping[str, str], bars: Bars) -> Table:
    rows = []
    for device in devices:
        memory, used = device["memory"], used_of(device["memory"])
        bar = bar_of(used, memory["declared"], memory["total"], ascii_only=bars == "ascii") if bars else ""
        foreign = foreign_of(device)
        tail = (
            *remarks_of(device, devices),
            *((f"others: {foreign}",) if foreign else ()),
        )
        rows.append(
            (
                numbers[device["uuid"]],
                device["health"],
                _warm(_figure((device.get("utilization") or {}).get("gpu"), "%"), WARM, HOT),
                bar,
                share_of(used, memory["total"]),
                _warm(_figure(device.get("temperature"), "C"), WARM, HOT),
                _power(device.get("power") or {}),
                names_of(device["workers"]),
                ": ".join(filter(None, (device["name"].removeprefix("NVIDIA "), "; ".join(tail)))),
            )
        )
    heads = ("GPU", "HEALTH", "UTIL", "MEMORY", "USED", "TEMP", "POWER", "WORKERS", "NAME")
    hidden = {"MEMORY"} if not bars else set()
    if all(device["health"] == "ok" for device in devices):
        hidden.add("HEALTH")
    shown = [at for at, head in enumerate(heads) if head not in hidden]
    cells = tuple(tuple(row[at] for at in shown) for row in rows)
    return Table(tuple(heads[at] for at in shown), cells, spare=("MEMORY", "POWER", "TEMP"), is_cut=bool(bars))


def _figure(figure: float | None, unit: str) -> str:
    return "" if figure is None else f"{figure:.0f}{unit}"


def _warm(text: str, warm: float, hot: float) -> str:
    if not text:
        return ""
    value = float(text[:-1])
    return Styled(text, "red" if value >= hot else "yellow" if value >= warm else "green")


def _power(power: Json) -> str:
    draw, limit = power.get("draw"), power.get("limit")
    if draw is None:
        return ""
    return f"{draw:.0f}W" if limit is None else f"{draw:.0f}/{limit:.0f}W"
