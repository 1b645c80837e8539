"""Tables of devices, and what is said of those that are not well. Reads the devices of the status JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from supervisor.front.cells import Bars, bar_of, foreign_of, left_s, names_of, share_of, size_of, span_of, used_of
from supervisor.front.page import Table

Json = Mapping[str, Any]


def bars_table(devices: Iterable[Json], numbers: Mapping[str, str], bars: Bars, now: datetime) -> Table:
    """Devices for a terminal: how full each is, and who is on it; their health only where one is not well."""
    columns: tuple[str, ...] = ("GPU", "HEALTH", "MEMORY", "USED", "DECLARED", "WORKERS", "NAME")
    rows: list[tuple[str, ...]] = []
    for device in (devices := list(devices)):
        memory = device["memory"]
        used = used_of(memory)
        foreign = foreign_of(device)
        remarks = (*remarks_of(device, devices), *((f"others: {foreign}",) if foreign else ()))
        rows.append(
            (
                numbers[device["uuid"]],
                device["health"],
                bar_of(used, memory["declared"], memory["total"], ascii_only=bars == "ascii"),
                share_of(used, memory["total"]),
                size_of(memory["declared"]) if memory["declared"] else "",
                names_of(device["workers"]),
                ": ".join(filter(None, (device["name"].removeprefix("NVIDIA "), "; ".join(remarks)))),
            )
        )
    if all(device["health"] == "ok" for device in devices):
        columns, rows = (columns[0], *columns[2:]), [(row[0], *row[2:]) for row in rows]
    return _with_reasons(Table(columns, tuple(rows), spare=("DECLARED", "MEMORY")), devices, now)


def devices_table(
    devices: Iterable[Json], numbers: Mapping[str, str], now: datetime, *, is_long: bool = False
) -> Table:
    """Devices for a pipe: figures stand alone in their cells; with *is_long* also what a file names them by."""
    columns = ["GPU", "HEALTH", "FREE", "TOTAL", "DECLARED", "WORKERS", "FOREIGN"]
    columns += ["UUID", "PCI"] if is_long else []
    rows = []
    for device in (devices := list(devices)):
        memory = device["memory"]
        row = [numbers[device["uuid"]], device["health"]]
        row += [size_of(memory["free"]), size_of(memory["total"]), size_of(memory["declared"])]
        row += [",".join(device["workers"]), foreign_of(device)]
        row += [device["uuid"], device["pci"]] if is_long else []
        row += [": ".join(filter(None, (device["name"], "; ".join(remarks_of(device, devices)))))]
        rows.append(tuple(row))
    return _with_reasons(Table((*columns, "NAME"), tuple(rows)), devices, now)


def _with_reasons(table: Table, devices: Iterable[Json], now: datetime) -> Table:
    """Why devices are not well, as a last column where there is one that is not."""
    reasons = [health_reason_of(device, now) for device in devices]
    if not any(reasons):
        return table
    rows = tuple((*row, reason) for row, reason in zip(table.rows, reasons, strict=True))
    return replace(table, columns=(*table.columns, "REASON"), rows=rows, spare=(*table.spare, "NAME"))


def health_reason_of(device: Json, now: datetime) -> str:
    """Why a device is not well, and when that is looked at again; empty for one that is."""
    words = [str(device["reason"])] if device["reason"] else []
    if until := device.get("health_until"):
        what = "trusted" if device["health"] == "suspect" else "looked at"
        left = left_s(until, now)
        words.append(f"{what} again in {span_of(left)}" if left >= 1 else f"{what} again now")
    return "; ".join(words)


def remarks_of(device: Json, devices: Iterable[Json]) -> Iterator[str]:
    """What a person has to know of a device beside its numbers and its health."""
    if device.get("mig"):
        count = sum(one.get("parent") == device["uuid"] for one in devices)
        yield "MIG is on, " + (f"{count} instance{'s' * (count > 1)}" if count else "without an instance to place on")
    if not device.get("in_pool", True):
        yield "outside the pool"
    if device["memory"].get("unified"):
        yield "its memory is the host's"
