"""
What people see: status, devices, plans and differences as pages, and pages on a terminal or in a pipe.

Pages are lines and tables, mere values; only `draw` writes. rich is imported for a terminal alone: in a pipe a page is
plain aligned text, as wide as it is, so that grep and awk find whole lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TextIO

Json = Mapping[str, Any]

GPU_WORDS = {
    None: "the GPUs have not been read yet",
    "absent": "no GPUs: there is no NVIDIA driver library here",
    "not_loaded": "no GPUs: the NVIDIA kernel module is not loaded",
    "no_permission": "no GPUs: no permission to use the NVIDIA driver",
    "mismatch": "no GPUs: the NVIDIA library and the loaded kernel module are of different versions",
    "unresponsive": "the NVIDIA driver does not answer; what was last known of the GPUs stays in force",
    "error": "the NVIDIA driver reports an error; what was last known of the GPUs stays in force",
}

STYLES = {
    **dict.fromkeys(("ready", "running", "ok", "yes", "keep", "bound"), "green"),
    **dict.fromkeys(("failed", "lost", "no", "problem", "refused"), "red"),
    **dict.fromkeys(
        ("starting", "unready", "backoff", "pending", "reloading", "wait", "replace", "stop", "warning"), "yellow"
    ),
    **dict.fromkeys(("stopping", "killing", "releasing"), "magenta"),
    **dict.fromkeys(("stopped", "exited"), "dim"),
}
"""Colours of words that stand alone in a cell."""

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table.

    Args:
        columns: Headings; the last column is the one with long texts.
        rows: Cells as text; an empty one is shown as a dash, so that columns can be counted.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Page = tuple[str | Table, ...]
"""Lines and tables, from the top down."""


# ---- pages ----------------------------------------------------------------------------------------------------------


def status_page(status: Json, now: datetime) -> Page:
    """
    Services, workers and devices, and why they are as they are.

    Args:
        status: The status JSON.
        now: For ages.
    """
    services = status["services"]
    parts: list[str | Table] = list(_daemon_lines(status["daemon"], now))
    if services:
        parts.append(_services_table(services))
    if sockets := tuple(_socket_rows(services)):
        parts.append(Table(("SERVICE", "SOCKET", "ADDRESS", "STATE", "REASON"), sockets))
    workers = [worker for service in services for worker in service["workers"]]
    if workers:
        parts.append(_workers_table(workers, now, _device_numbers(status["devices"])))
        parts += _limit_lines(workers)
    if status["devices"]:
        parts.append(_devices_table(status["devices"], is_long=False))
    return tuple(parts)


def last_words_page(worker: Json) -> Page:
    """The last lines of what a worker's previous process wrote; nothing if there are none."""
    last = worker["last_exit"]
    if not last or not last["tail"]:
        return ()
    return (
        f"last lines of {worker['worker']} before it ended ({_ended(last)}):",
        *(f"  {line}" for line in last["tail"]),
    )


def explain_page(worker: Json, now: datetime) -> Page:
    """Why a worker is where it is, or what it waits for."""
    pid = f", pid {worker['pid']}" if worker["pid"] else ""
    parts: list[str | Table] = [f"{worker['worker']}: {worker['state']} for {age_of(worker['since'], now)}{pid}"]
    parts.append(f"asks for {worker['asks']}")
    if worker["gpus"]:
        where = f"GPU {_gpus(worker, {})}", ", ".join(gpu["uuid"] for gpu in worker["gpus"])
        is_reserved = worker["state"] == "pending"
        parts.append(f"{where[0]} is reserved for it ({where[1]})" if is_reserved else f"has {where[0]} ({where[1]})")
    if sockets := worker.get("listen"):
        parts.append("shares " + ", ".join(f"{one['address']} ({one['name']})" for one in sockets))
    waits = None if worker["state"] == "backoff" else worker["waits"]
    if waits is not None and waits["for"]:
        parts.append(f"has waited {age_of(waits['since'], now)}: {waits['for']}")
    elif reason := _reason(worker, now):
        parts.append(reason)
    parts += _failure_lines(worker.get("failures"))
    is_told = waits is not None or worker.get("ready_by") or worker["next_start"]
    if not is_told and (timer := worker.get("timer")) is not None:
        left_s = max(0.0, (datetime.fromisoformat(timer["at"]) - now).total_seconds())
        parts.append(f"in {_span(left_s)}: {timer['what']}")
    if waits is not None and waits["next_look"]:
        left_s = max(0.0, (datetime.fromisoformat(waits["next_look"]) - now).total_seconds())
        soon = left_s < 1
        parts.append("looks again now" if soon else f"looks again in {_span(left_s)}, sooner when something changes")
    if worker["verdicts"]:
        rows = tuple((one["device"], one["name"], one["verdict"]) for one in worker["verdicts"])
        parts.append(Table(("DEVICE", "NAME", "FOR THIS WORKER"), rows))
    return (*parts, *_story_tables(worker, now), *last_words_page(worker))


def doctor_page(findings: Sequence[Json]) -> Page:
    """What was looked at, what is wrong first and what to do about each."""
    order = ("problem", "warning", "note", "ok")
    rows = sorted(findings, key=lambda one: order.index(one["level"]))
    hints = [f"hint: {one['check']}: {one['hint']}" for one in rows if one["hint"]]
    table = Table(("LEVEL", "CHECK", "FOUND"), tuple((one["level"], one["check"], one["found"]) for one in rows))
    return (table, *hints)


def _failure_lines(failures: Json | None) -> Iterator[str]:
    """How near it is to be given up; a daemon of before does not tell."""
    if failures is None:
        return
    kinds = (("count", "limit", "without a healthy run"), ("without_ready", "start_limit", "without being ready"))
    counts = [
        f"{failures[count]} of {failures[limit]} {words}"
        for count, limit, words in kinds
        if failures[count] and failures[limit]
    ]
    if counts:
        yield f"failures in a row: {', '.join(counts)}; at a limit it has failed"


def _story_tables(worker: Json, now: datetime) -> Iterator[Table]:
    """Its last transitions and deaths; a daemon of before has told none."""
    if rows := [
        (age_of(one["at"], now), one["before"] or "new", one["after"] or "gone", one["cause"], one["reason"] or "-")
        for one in worker.get("transitions", ())
    ]:
        yield Table(("AGO", "FROM", "TO", "BECAUSE", "REASON"), tuple(rows))
    if deaths := [
        (
            age_of(one["at"], now),
            str(one["incarnation"]),
            one["cause"],
            _ended(one),
            "-" if one["uptime_s"] is None else _span(one["uptime_s"]),
            _death_devices(one["devices"]),
        )
        for one in worker.get("deaths", ())
    ]:
        yield Table(("DIED AGO", "PROCESS", "CAUSE", "HOW", "LIVED", "GPUS, FREE THEN"), tuple(deaths))


def _death_devices(devices: list[Json]) -> str:
    return (
        ", ".join(
            f"{one.get('index', one['uuid'])}: {size_of(one['memory']['free'])}" if "memory" in one else one["uuid"]
            for one in devices
        )
        or "-"
    )


def devices_page(devices: Json) -> Page:
    """The inventory, with who is on each device."""
    lines = list(_gpu_lines(devices["gpu"]))
    if devices["devices"]:
        return (*lines, _devices_table(devices["devices"], is_long=True))
    return tuple(lines) or ("no GPUs: the NVIDIA driver shows none",)


def plan_page(plan: Json) -> Page:
    """Device by device and worker by worker what would happen."""
    parts: list[str | Table] = list(_gpu_lines(plan.get("gpu") or {"state": "ok"}))
    if plan["devices"]:
        parts.append(_devices_table(plan["devices"], is_long=False))
    numbers = _device_numbers(plan["devices"])
    columns = ("WORKER", "ACTION", "PLACED", "GPUS", "FALLBACK", "REASON")
    rows = [
        (
            row["worker"],
            row["action"],
            "yes" if row["placed"] else "no",
            _gpus(row, numbers),
            row["fallback"] or "",
            row["reason"],
        )
        for row in plan["workers"]
    ]
    parts.append(Table(columns, tuple(rows)) if rows else "no workers")
    parts += _listen_lines(plan["workers"])
    steps = [
        (service["service"], str(number), ", ".join(step["workers"]), f"{step['ready']} of {service['target']}")
        for service in plan.get("rollout", ())
        for number, step in enumerate(service["steps"], 1)
    ]
    if steps:
        parts.append(Table(("SERVICE", "STEP", "REPLACED", "READY MEANWHILE"), tuple(steps)))
    return tuple(parts)


def _listen_lines(workers: Iterable[Json]) -> list[str]:
    """Where services would listen."""
    found = {row["worker"].partition("/")[0]: row["listen"] for row in workers if row["wanted"] and row.get("listen")}
    return [f"{service} listens on {', '.join(addresses)}" for service, addresses in found.items()]


def difference_page(difference: Mapping[str, str]) -> Page:
    """What a reload does, one line for each worker that it touches."""
    touched = [f"{worker} {action}" for worker, action in difference.items() if action != "keep"]
    return tuple(touched) or ("nothing to do",)


def _daemon_lines(daemon: Json, now: datetime) -> Iterator[str]:
    instance = f" instance {daemon['instance']}," if daemon["instance"] else ""
    age = age_of(daemon["since"], now)
    yield f"{daemon['file']}: {daemon['state']},{instance} up {age}, pid {daemon['pid']}, version {daemon['version']}"
    reload = daemon["reload"]
    if reload and not reload["ok"]:
        yield f"the last reload ({age_of(reload['at'], now)} ago) failed, what ran before goes on:"
        yield from (f"  {problem}" for problem in reload["problems"])
    http = daemon.get("http")
    if http and http["state"] == "refused":
        yield f"not served over TCP: {http['reason']}; it is tried again and again"
    yield from _gpu_lines(daemon["gpu"])


def _gpu_lines(gpu: Json) -> Iterator[str]:
    state = gpu["state"]
    if state == "ok":
        return
    words = GPU_WORDS.get(state, f"the GPUs are in state {state}")
    detail = gpu.get("detail")
    yield f"{words} ({detail})" if detail and detail != words else words


def _services_table(services: Iterable[Json]) -> Table:
    rows = [(service["name"], _target(service), str(service["ready"])) for service in services]
    return Table(("SERVICE", "WORKERS", "READY"), tuple(rows))


def _socket_rows(services: Iterable[Json]) -> Iterator[tuple[str, ...]]:
    """Where services listen; a daemon of before tells none."""
    for service in services:
        for one in service.get("listen", ()):
            yield service["name"], one["name"], one["address"], one["state"], one["reason"]


def _limit_lines(workers: Iterable[Json]) -> list[str]:
    """Limits that do not hold, each reason with those it is true of."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        if reason := (worker.get("limits") or {}).get("reason"):
            found.setdefault(reason, []).append(worker["worker"])
    shown = {reason: ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") for reason, names in found.items()}
    return [f"{reason} ({names})" for reason, names in shown.items()]


def _target(service: Json) -> str:
    """How many workers there shall be; what an operator asked for instead of the file is marked."""
    return f"{service['target']} (scaled)" if service["scaled"] else str(service["target"])


def _workers_table(workers: Iterable[Json], now: datetime, numbers: Mapping[str, str]) -> Table:
    rows = [
        (
            worker["worker"],
            worker["state"],
            str(worker["pid"] or ""),
            _gpus(worker, numbers),
            str(worker["restarts"]),
            age_of(worker["since"], now),
            _reason(worker, now),
        )
        for worker in workers
    ]
    return Table(("WORKER", "STATE", "PID", "GPUS", "RESTARTS", "AGE", "REASON"), tuple(rows))


def _devices_table(devices: Iterable[Json], *, is_long: bool) -> Table:
    columns = ["GPU", "HEALTH", "FREE", "TOTAL", "DECLARED", "WORKERS", "FOREIGN"]
    columns += ["UUID", "PCI"] if is_long else []
    rows = []
    numbers = _device_numbers(devices := list(devices))
    for device in devices:
        memory = device["memory"]
        row = [numbers[device["uuid"]], device["health"]]
        row += [size_of(memory["free"]), size_of(memory["total"]), size_of(memory["declared"])]
        row += [",".join(device["workers"]), _foreign(device)]
        row += [device["uuid"], device["pci"]] if is_long else []
        row += [": ".join(filter(None, (device["name"], "; ".join(_device_remarks(device, devices)))))]
        rows.append(tuple(row))
    return Table((*columns, "NAME"), tuple(rows))


def _device_numbers(devices: Iterable[Json]) -> dict[str, str]:
    """``0``, and ``0/1`` for the second MIG instance of GPU 0, as nvidia-smi counts both."""
    numbers: dict[str, str] = {}
    counts: dict[str, int] = {}
    for device in devices:
        number, parent = str(device["index"]), device.get("parent")
        if parent is not None:
            number += f"/{counts.get(parent, 0)}"
            counts[parent] = counts.get(parent, 0) + 1
        numbers[device["uuid"]] = number
    return numbers


def _device_remarks(device: Json, devices: Iterable[Json]) -> Iterator[str]:
    """What a person has to know of a device beside its numbers."""
    if device["reason"]:
        yield device["reason"]
    if device.get("mig"):
        count = sum(one.get("parent") == device["uuid"] for one in devices)
        yield "MIG is on, " + (f"{count} instance{'s' * (count > 1)}" if count else "without an instance to place on")
    if not device.get("in_pool", True):
        yield "outside the pool"
    if device["memory"].get("unified"):
        yield "its memory is the host's"


# ---- cells ----------------------------------------------------------------------------------------------------------


def age_of(since: str | None, now: datetime) -> str:
    """Time passed since an RFC 3339 time, in its largest unit that leaves two digits or so: ``95s 12m 5h 3d``."""
    if since is None:
        return ""
    return _span(max(0.0, (now - datetime.fromisoformat(since)).total_seconds()))


def size_of(count: int | None) -> str:
    """Bytes as a person reads them, without a blank: ``79.6GiB``."""
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g}{unit}"
        size /= 1024
    return f"{size:.4g}TiB"


def _span(seconds: float) -> str:
    for unit_s, unit, limit in ((1, "s", 120), (60, "m", 120), (3600, "h", 48)):
        if seconds < limit * unit_s:
            return f"{seconds // unit_s:.0f}{unit}"
    return f"{seconds // 86400:.0f}d"


def _gpus(worker: Json, numbers: Mapping[str, str]) -> str:
    """``0,1``, with a share ``0:0.25``, a MIG instance ``0/1``; the fallback of one that runs without."""
    if worker["fallback"] and not worker["gpus"]:
        return f"fallback:{worker['fallback']}"
    return ",".join(
        f"{gpu['uuid'] if gpu['index'] is None else numbers.get(gpu['uuid'], gpu['index'])}"
        + (f":{gpu['share']:g}" if gpu["share"] < 1 else "")
        for gpu in worker["gpus"]
    )


def _foreign(device: Json) -> str:
    """Processes of others on a device, ``python(4711,ann,20GiB)``; who they are is not always known."""
    return ",".join(
        f"{one['name'] or '?'}({','.join(filter(None, (str(one['pid']), one['user'], size_of(one['bytes']))))})"
        for one in device["foreign"] or ()
    )


def _reason(worker: Json, now: datetime) -> str:
    """Why it is as it is; for one that is well, what became of the process before."""
    reason = str(worker["reason"])
    last = worker["last_exit"]
    is_told = last is not None and (_ended(last) in reason or bool(last["detail"] and last["detail"] in reason))
    if last and not is_told and (worker["state"] == "failed" or not reason):
        is_down = worker["state"] in {"exited", "failed", "backoff"}
        reason = "; ".join(filter(None, (reason, _ended(last) if is_down else f"before: {_ended(last)}")))
    if ready_by := worker.get("ready_by"):
        left_s = max(0.0, (datetime.fromisoformat(ready_by) - now).total_seconds())
        took_s = worker.get("time_to_ready")
        last_time = "" if took_s is None else f", took {_span(took_s)} last time"
        reason += ("; " if reason else "") + f"{_span(left_s)} left to get ready{last_time}"
    if worker["next_start"]:
        wait_s = (datetime.fromisoformat(worker["next_start"]) - now).total_seconds()
        reason += ("; " if reason else "") + (f"next start in {_span(wait_s)}" if wait_s > 0 else "next start is due")
    return reason


def _ended(last: Json) -> str:
    how = f"ended by {last['signal']}" if last["signal"] else f"exited with {last['code']}"
    if last["signal"] is None and last["code"] is None:
        how = str(last["cause"])
    return f"{how}: {last['detail']}" if last["detail"] else how


# ---- drawing --------------------------------------------------------------------------------------------------------


def draw(page: Page, out: TextIO, *, width: int | None, colour: bool) -> None:
    """
    Write a page.

    Args:
        page: What.
        out: Where.
        width: Columns of the terminal; None where there is none, and then nothing is cut or wrapped.
        colour: Whether it may be coloured.
    """
    for number, part in enumerate(page):
        # Tables stand apart from what is above and below them.
        if number and (isinstance(part, Table) or isinstance(page[number - 1], Table)):
            out.write("\n")
        if isinstance(part, str):
            out.write("".join(f"{line}\n" for line in clean_lines(part)))
        elif width is None:
            _write_plain(part, out)
        else:
            _write_rich(part, out, width, colour=colour)


def clean_lines(text: str) -> list[str]:
    """A text from elsewhere as lines that do nothing to a terminal."""
    return [clean(line) for line in text.splitlines()] or [""]


def clean(text: str) -> str:
    """A text on one line, what cannot be printed shown as its escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _write_plain(table: Table, out: TextIO) -> None:
    lines = [table.columns, *([clean(cell) or NOTHING for cell in row] for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out.write("  ".join(padded).rstrip() + "\n")


def _write_rich(table: Table, out: TextIO, width: int, *, colour: bool) -> None:
    # Together about 50 ms, which only a person at a terminal should wait for.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
    )
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in table.columns:
        drawn.add_column(heading, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(clean(cell) or NOTHING, style=STYLES.get(cell, "")) for cell in row))
    console.print(drawn)
