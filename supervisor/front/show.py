"""
What people see: status, devices, plans, explanations and differences as pages.

Pages are mere values, which another module draws. With *bars* a page is for a terminal: memory is a bar too, and lists
are short. Without, it is for a pipe, where figures stand alone in a cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from supervisor.front.cells import (
    Bars,
    age_of,
    device_numbers,
    ended,
    gpus_of,
    left_s,
    reason_of,
    size_of,
    span_of,
)
from supervisor.front.inventory import bars_table, devices_table
from supervisor.front.page import Page, Styled, Table
from supervisor.front.words import GPU_WORDS, PROOFS, because

Json = Mapping[str, Any]

OLD_S = 60.0
"""What the driver said so long before a death may not have been so any more."""


def status_page(status: Json, now: datetime, *, bars: Bars = None, target: str | None = None) -> Page:
    """
    Services, workers and devices, and why they are as they are.

    Args:
        status: The status JSON.
        now: For ages.
        bars: See the module.
        target: What was asked for; of the devices only those of its workers are shown.
    """
    services = status["services"]
    parts: list[str | Table] = list(_daemon_lines(status["daemon"], now))
    if services:
        parts.append(_services_table(services))
    if sockets := tuple(_socket_rows(services)):
        parts.append(Table(("SERVICE", "SOCKET", "ADDRESS", "STATE", "REASON"), sockets))
    workers = [worker for service in services for worker in service["workers"]]
    if workers:
        parts.append(_workers_table(workers, now, device_numbers(status["devices"])))
        parts += _limit_lines(workers, "limits")
        parts += _limit_lines(workers, "gpu_limits")
    devices = status["devices"]
    if target is not None:
        own = {gpu["uuid"] for worker in workers for gpu in worker["gpus"]}
        devices = [device for device in devices if device["uuid"] in own]
    if devices:
        numbers = device_numbers(status["devices"])
        parts.append(bars_table(devices, numbers, bars, now) if bars else devices_table(devices, numbers, now))
    return tuple(parts)


def status_of(status: Json, target: str | None, now: datetime, *, bars: Bars = None) -> Page:
    """The answer of `status`: of a single worker also what its last process wrote last."""
    is_one = target is not None and "/" in target
    workers = [worker for service in status["services"] for worker in service["workers"] if is_one]
    words = [line for worker in workers for line in last_words_page(worker)]
    return (*status_page(status, now, bars=bars, target=target), *words)


def last_words_page(worker: Json) -> Page:
    """The last lines of what a worker's previous process wrote; nothing if there are none."""
    last = worker["last_exit"]
    if not last or not last["tail"]:
        return ()
    return (
        f"last lines of {worker['worker']} before it ended ({ended(last)}):",
        *(f"  {line}" for line in last["tail"]),
    )


def explain_page(worker: Json, now: datetime) -> Page:
    """Why a worker is where it is, or what it waits for."""
    pid = f", pid {worker['pid']}" if worker["pid"] else ""
    parts: list[str | Table] = [f"{worker['worker']}: {worker['state']} for {age_of(worker['since'], now)}{pid}"]
    parts.append(f"asks for {worker['asks']}")
    if worker["gpus"]:
        where = f"GPU {gpus_of(worker, {})}", ", ".join(gpu["uuid"] for gpu in worker["gpus"])
        is_reserved = worker["state"] == "pending"
        parts.append(f"{where[0]} is reserved for it ({where[1]})" if is_reserved else f"has {where[0]} ({where[1]})")
    if limits := worker.get("gpu_limits"):
        parts.append(limits["reason"])
    if sockets := worker.get("listen"):
        parts.append("shares " + ", ".join(f"{one['address']} ({one['name']})" for one in sockets))
    waits = None if worker["state"] == "backoff" else worker["waits"]
    if waits is not None and waits["for"]:
        parts.append(f"has waited {age_of(waits['since'], now)}: {waits['for']}")
    elif reason := reason_of(worker, now):
        parts.append(reason)
    parts += _failure_lines(worker.get("failures"))
    parts += _release_lines(worker.get("release"))
    is_told = waits is not None or worker.get("ready_by") or worker["next_start"]
    if not is_told and (timer := worker.get("timer")) is not None:
        parts.append(f"in {span_of(left_s(timer['at'], now))}: {timer['what']}")
    if waits is not None and waits["next_look"]:
        left = left_s(waits["next_look"], now)
        parts.append(
            "looks again now" if left < 1 else f"looks again in {span_of(left)}, sooner when something changes"
        )
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


def devices_page(devices: Json, now: datetime, *, bars: Bars = None) -> Page:
    """The inventory, with who is on each device."""
    lines = list(driver_lines(devices["gpu"]))
    found = devices["devices"]
    if not found:
        return tuple(lines) or ("no GPUs: the NVIDIA driver shows none",)
    numbers = device_numbers(found)
    if not bars:
        return (*lines, devices_table(found, numbers, now, is_long=True))
    names = tuple((numbers[device["uuid"]], device["pci"], device["uuid"]) for device in found)
    return (*lines, bars_table(found, numbers, bars, now), Table(("GPU", "PCI", "UUID"), names))


def plan_page(plan: Json, now: datetime, *, bars: Bars = None) -> Page:
    """Device by device and worker by worker what would happen."""
    parts: list[str | Table] = list(driver_lines(plan.get("gpu") or {"state": "ok"}))
    numbers = device_numbers(plan["devices"])
    if devices := plan["devices"]:
        parts.append(bars_table(devices, numbers, bars, now) if bars else devices_table(devices, numbers, now))
    columns = ("WORKER", "ACTION", "PLACED", "GPUS", "REASON")
    rows = [
        (
            row["worker"],
            row["action"],
            "yes" if row["placed"] else "no",
            "" if row["action"] == "stop" else gpus_of(row, numbers),
            row["reason"],
        )
        for row in plan["workers"]
    ]
    parts.append(Table(columns, tuple(rows)) if rows else "no workers")
    parts += _listen_lines(plan["workers"])
    parts += _limit_lines(plan["workers"], "gpu_limits")
    steps = [
        (service["service"], str(number), _step(service, step), f"{step['ready']} of {service['target']}")
        for service in plan.get("rollout", ())
        for number, step in enumerate(service["steps"], 1)
    ]
    if steps:
        parts.append(Table(("SERVICE", "STEP", "REPLACED", "READY MEANWHILE"), tuple(steps)))
    lacks = [(service["service"], service.get("reason")) for service in plan.get("rollout", ())]
    parts += [f"{name} rolls without surge: {reason}" for name, reason in lacks if reason]
    return tuple(parts)


def _step(service: Json, step: Json) -> str:
    """Who is replaced in it; of those who come beyond the target that they do."""
    extra = service.get("extra", ())
    return ", ".join(f"{one} (extra)" if one in extra else one for one in step["workers"])


def difference_page(difference: Mapping[str, str], changed: Sequence[str] = ()) -> Page:
    """What a reload does, one line for each worker that it touches; and what is otherwise beside workers."""
    touched = [f"{worker} {action}" for worker, action in difference.items() if action != "keep"]
    touched += [f"{key} changed" for key in changed]
    return tuple(touched) or ("nothing to do",)


# ---- parts of pages -------------------------------------------------------------------------------------------------


def head_of(daemon: Json, now: datetime) -> str:
    """The first line about a daemon."""
    instance = f" instance {daemon['instance']}," if daemon["instance"] else ""
    age = age_of(daemon["since"], now)
    return f"{daemon['file']}: {daemon['state']},{instance} up {age}, pid {daemon['pid']}, version {daemon['version']}"


def _daemon_lines(daemon: Json, now: datetime) -> Iterator[str]:
    yield head_of(daemon, now)
    reload = daemon["reload"]
    if reload and not reload["ok"]:
        yield Styled(f"the last reload ({age_of(reload['at'], now)} ago) failed, what ran before goes on:", "red")
        yield from (f"  {problem}" for problem in reload["problems"])
    http = daemon.get("http")
    if http and http["state"] == "refused":
        yield f"not served over TCP: {http['reason']}; it is tried again and again"
    yield from driver_lines(daemon["gpu"])


def driver_lines(gpu: Json) -> Iterator[str]:
    """What is wrong with the driver, if anything is."""
    state = gpu["state"]
    if state == "ok":
        return
    words = GPU_WORDS.get(state, f"the GPUs are in state {state}")
    detail = gpu.get("detail")
    yield Styled(f"{words} ({detail})" if detail and detail != words else words, "yellow")


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


def _release_lines(release: Json | None) -> Iterator[str]:
    """How the GPU memory of its last process came back."""
    if release is None:
        return
    seconds = release["seconds"]
    took = f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 60 else span_of(seconds)
    if release["dirty"]:
        yield f"the GPU memory of its last process had not come back after {took}: the device was given up as dirty"
    else:
        proof = PROOFS.get(release["proof"], release["proof"])
        yield f"the GPU memory of its last process was back after {took} ({proof})"


def _story_tables(worker: Json, now: datetime) -> Iterator[Table]:
    """Its last transitions and deaths; a daemon of before has told none."""
    if rows := [
        (age_of(one["at"], now), one["before"] or "new", one["after"] or "gone", because(one), one["reason"])
        for one in worker.get("transitions", ())
    ]:
        yield Table(("AGO", "FROM", "TO", "BECAUSE", "REASON"), tuple(rows))
    if deaths := [
        (
            age_of(one["at"], now),
            str(one["incarnation"]),
            one["cause"],
            "" if one["uptime_s"] is None else span_of(one["uptime_s"]),
            _death_devices(one),
            ended(one),
        )
        for one in worker.get("deaths", ())
    ]:
        yield Table(("DIED AGO", "PROCESS", "CAUSE", "LIVED", "GPUS, FREE THEN", "HOW"), tuple(deaths))


def _death_devices(death: Json) -> str:
    return ", ".join(
        f"{one.get('index', one['uuid'])}: {_free_then(one['memory'], death['at'])}" if "memory" in one else one["uuid"]
        for one in death["devices"]
    )


def _free_then(memory: Json, died_at: str) -> str:
    """How much was free; the driver is not asked all the time, and what it said long before is marked as such."""
    before_s = (datetime.fromisoformat(died_at) - datetime.fromisoformat(memory["read_at"])).total_seconds()
    return size_of(memory["free"]) + (f" ({span_of(before_s)} before)" if before_s > OLD_S else "")


def _listen_lines(workers: Iterable[Json]) -> list[str]:
    """Where services would listen."""
    found = {row["worker"].partition("/")[0]: row["listen"] for row in workers if row["wanted"] and row.get("listen")}
    return [f"{service} listens on {', '.join(addresses)}" for service, addresses in found.items()]


def _services_table(services: Iterable[Json]) -> Table:
    return Table(
        ("SERVICE", "READY", "NOT READY"),
        tuple((service["name"], _ready(service), _not_ready(service)) for service in services),
    )


def _ready(service: Json) -> str:
    """``3/4``; a target that an operator asked for instead of the file is marked."""
    count = f"{service['ready']}/{service['target']}" + (" (scaled)" if service["scaled"] else "")
    return Styled(count, "green" if service["ready"] == service["target"] else "yellow")


def _not_ready(service: Json) -> str:
    """The workers that are not, by their states: ``2 starting, 1 failed``."""
    counts = Counter(worker["state"] for worker in service["workers"] if worker["state"] != "ready")
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _socket_rows(services: Iterable[Json]) -> Iterator[tuple[str, ...]]:
    """Where services listen; a daemon of before tells none."""
    for service in services:
        for one in service.get("listen", ()):
            yield service["name"], one["name"], one["address"], one["state"], one["reason"]


def _limit_lines(workers: Iterable[Json], key: str) -> list[str]:
    """Limits that do not hold, each reason with those it is true of."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        if reason := (worker.get(key) or {}).get("reason"):
            found.setdefault(reason, []).append(worker["worker"])
    shown = {reason: ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") for reason, names in found.items()}
    return [f"{reason} ({names})" for reason, names in shown.items()]


def _workers_table(workers: Iterable[Json], now: datetime, numbers: Mapping[str, str]) -> Table:
    rows = [
        (
            worker["worker"],
            worker["state"],
            str(worker["pid"] or ""),
            gpus_of(worker, numbers),
            str(worker["restarts"]),
            age_of(worker["since"], now),
            reason_of(worker, now),
        )
        for worker in workers
    ]
    columns = ("WORKER", "STATE", "PID", "GPUS", "RESTARTS", "AGE", "REASON")
    return Table(columns, tuple(rows), spare=("PID", "GPUS", "RESTARTS"))
