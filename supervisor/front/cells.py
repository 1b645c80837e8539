"""What stands in the cells of tables: ages, sizes, bars, names, GPUs and reasons. Values in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from supervisor.front.page import Styled

Json = Mapping[str, Any]

Bars = Literal["ascii", "unicode"] | None
"""Of which characters bars are; None: there are none."""

BAR = 14
"""Columns of a bar."""

FULL, NEARLY = 0.95, 0.8
"""Parts of a device's memory from which on it is red, and yellow."""


def age_of(since: str | None, now: datetime) -> str:
    """Time passed since an RFC 3339 time, in its largest unit that leaves two digits or so: ``95s 12m 5h 3d``."""
    if since is None:
        return ""
    return span_of(max(0.0, (now - datetime.fromisoformat(since)).total_seconds()))


def left_s(until: str, now: datetime) -> float:
    """Seconds to an RFC 3339 time, 0 when it has passed."""
    return max(0.0, (datetime.fromisoformat(until) - now).total_seconds())


def span_of(seconds: float) -> str:
    """So many seconds, as `age_of`."""
    for unit_s, unit, limit in ((1, "s", 120), (60, "m", 120), (3600, "h", 48)):
        if seconds < limit * unit_s:
            return f"{seconds // unit_s:.0f}{unit}"
    return f"{seconds // 86400:.0f}d"


def size_of(count: int | None) -> str:
    """Bytes as a person reads them, without a blank: ``79.65GiB``."""
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g}{unit}"
        size /= 1024
    return f"{size:.4g}TiB"


def share_of(used: int | None, total: int | None) -> str:
    """Used of what there is, ``20.1/79.6GiB``; both in the unit of the second."""
    if not total:
        return ""
    unit, name = next(((unit, name) for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")) if total >= unit), (1, "B"))
    shown = "?" if used is None else f"{used / unit:.{1 if unit == 1 << 30 else 0}f}"
    return f"{shown}/{total / unit:.{1 if unit == 1 << 30 else 0}f}{name}"


def used_of(memory: Json) -> int | None:
    """Bytes of a device's memory that are taken."""
    total, free = memory["total"], memory["free"]
    return None if total is None or free is None else total - free


def bar_of(used: int | None, claimed: int | None, total: int | None, *, width: int = BAR, ascii_only: bool) -> str:
    """
    A bar of a device's memory: what is taken, what of it is declared beyond that, and what is left.

    Args:
        used: Bytes that are taken; None where that is not known.
        claimed: Bytes that workers have declared, taken or not.
        total: Bytes there are.
        width: Columns.
        ascii_only: For a terminal that has nothing else.
    """
    if not total or used is None:
        return ""
    taken = min(width, round(width * used / total))
    if used and not taken:
        taken = 1
    to_come = max(0, min(width, round(width * (claimed or 0) / total)) - taken)
    full, part, empty = "#=." if ascii_only else "█▒░"
    style = "red" if used > FULL * total else "yellow" if used > NEARLY * total else "green"
    return Styled(full * taken + part * to_come + empty * (width - taken - to_come), style)


def names_of(workers: Sequence[str]) -> str:
    """Names of workers in little place: ``llm/0-3,web/1``."""
    runs: list[tuple[str, int, int]] = []
    for service, slash, number in (worker.partition("/") for worker in workers):
        at = int(number) if slash and number.isdecimal() else -1
        if at >= 0 and runs and runs[-1][0] == service and runs[-1][2] == at - 1:
            runs[-1] = (service, runs[-1][1], at)
        else:
            runs.append((service, at, at))
    return ",".join(
        service if first < 0 else f"{service}/{first}" + (f"-{last}" if last > first else "")
        for service, first, last in runs
    )


def device_numbers(devices: Iterable[Json]) -> dict[str, str]:
    """``0``, and ``0/1`` for the second MIG instance of GPU 0, as nvidia-smi counts both."""
    numbers: dict[str, str] = {}
    counts: dict[str, int] = {}
    for device in devices:
        number, parent = str("-" if device["index"] is None else device["index"]), device.get("parent")
        if parent is not None:
            number += f"/{counts.get(parent, 0)}"
            counts[parent] = counts.get(parent, 0) + 1
        numbers[device["uuid"]] = number
    return numbers


def gpus_of(worker: Json, numbers: Mapping[str, str]) -> str:
    """``0,1``, with a share ``0:0.25``, a MIG instance ``0/1``; the fallback of one that runs without."""
    if worker["fallback"] and not worker["gpus"]:
        return f"fallback:{worker['fallback']}"
    return ",".join(
        f"{gpu['uuid'] if gpu['index'] is None else numbers.get(gpu['uuid'], gpu['index'])}"
        + (f":{gpu['share']:g}" if gpu["share"] < 1 else "")
        for gpu in worker["gpus"]
    )


def foreign_of(device: Json) -> str:
    """Processes of others on a device, ``python(4711,ann,20GiB)``; who they are is not always known."""
    return ",".join(
        f"{one['name'] or '?'}({','.join(filter(None, (str(one['pid']), one['user'], size_of(one['bytes']))))})"
        for one in device["foreign"] or ()
    )


def reason_of(worker: Json, now: datetime) -> str:
    """Why it is as it is; for one that is well, what became of the process before."""
    reason = str(worker["reason"])
    last = worker["last_exit"]
    is_told = last is not None and (ended(last) in reason or bool(last["detail"] and last["detail"] in reason))
    if last and not is_told and (worker["state"] == "failed" or not reason):
        is_down = worker["state"] in {"exited", "failed", "backoff"}
        reason = "; ".join(filter(None, (reason, ended(last) if is_down else f"before: {ended(last)}")))
    if ready_by := worker.get("ready_by"):
        took_s = worker.get("time_to_ready")
        last_time = "" if took_s is None else f", took {span_of(took_s)} last time"
        reason += ("; " if reason else "") + f"{span_of(left_s(ready_by, now))} left to get ready{last_time}"
    if worker["next_start"]:
        wait_s = left_s(worker["next_start"], now)
        reason += ("; " if reason else "") + (f"next start in {span_of(wait_s)}" if wait_s > 0 else "next start is due")
    return reason


def ended(last: Json) -> str:
    """How a process ended."""
    how = f"ended by {last['signal']}" if last["signal"] else f"exited with {last['code']}"
    if last["signal"] is None and last["code"] is None:
        how = str(last["cause"])
    return f"{how}: {last['detail']}" if last["detail"] else how
