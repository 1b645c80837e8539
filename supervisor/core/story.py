"""
What a worker went through, as JSON: its transitions and its deaths. Values in, values out; keeps nothing.

No variable of a worker's environment is ever a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from supervisor.core import xids
from supervisor.core.inventory import Health
from supervisor.core.message import Say, Transition
from supervisor.core.snapshot import Json
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker

Times = Callable[[float], str]
"""A monotonic second as a wall time."""


def transition_json(transition: Transition, rfc3339: Times) -> Json:
    """One step of one worker."""
    return {
        "worker": str(transition.worker),
        "incarnation": transition.incarnation or None,
        "before": None if transition.before is None else str(transition.before),
        "after": None if transition.after is None else str(transition.after),
        "cause": transition.cause,
        "at": rfc3339(transition.at),
        "reason": transition.reason,
        **transition.fields,
    }


def device_json(said: Say, at: str) -> Json:
    """
    What became of a device, with the keys of a worker's step: there is no worker, and a device instead.

    Args:
        said: A line about one device, ``device.xid`` or ``device.`` and its health.
        at: When, as a wall time.
    """
    fields = dict(said.fields)
    after = said.event.partition(".")[2]
    reason = fields.pop("reason", None) or fields.pop("event", None) or ""
    if xid := fields.get("xid"):
        reason = xids.words(int(str(xid))) + (f": {advice}" if (advice := fields.pop("advice", None)) else "")
        fields.pop("meaning", None)
    before = fields.pop("before", None)
    return {
        "worker": None,
        "incarnation": None,
        "before": None if before is None else str(before),
        "after": after if after in set(Health) else None,
        "cause": said.event,
        "at": at,
        "reason": str(reason),
        **fields,
    }


def make_death(
    fleet: Fleet, before: Worker, after: Worker, timeline: Iterable[Transition], rfc3339: Times
) -> Json | None:
    """
    The record of a death, at the moment of it.

    Args:
        fleet: Of before: what it had is still known to be its own.
        before: The worker as it lived.
        after: The worker as it is on record.
        timeline: Its transitions, oldest first.
        rfc3339: See Times.

    Returns:
        None if nothing died.
    """
    record = after.last_exit
    if record is None or record is before.last_exit:
        return None
    return {
        "worker": str(after.id),
        "incarnation": before.incarnation,
        "pid": before.pid,
        "started_at": None if before.spawned_at is None else rfc3339(before.spawned_at),
        "was_ready": before.was_ready,
        "at": rfc3339(record.at),
        "uptime_s": None if before.spawned_at is None else round(record.at - before.spawned_at, 3),
        "state": str(before.state),
        "code": record.code,
        "signal": record.signal,
        "core_dumped": record.core_dumped,
        "cause": str(record.cause),
        "detail": record.detail,
        "devices": _devices(fleet, before, rfc3339),
        "timeline": [transition_json(one, rfc3339) for one in timeline if one.incarnation == before.incarnation],
        "tail": list(record.tail),
    }


def _devices(fleet: Fleet, worker: Worker, rfc3339: Times) -> list[Json]:
    """What it had, as the driver showed it last."""
    inventory = fleet.inventory
    known = inventory.by_uuid if inventory else {}
    found: list[Json] = []
    for share in worker.occupied:
        device = known.get(share.uuid)
        one: Json = {"uuid": share.uuid, "share": share.millis / 1000}
        if device is not None and inventory is not None:
            one |= {
                "index": device.index,
                "name": device.name,
                "health": str(device.health),
                "memory": {
                    "total": device.memory_total_bytes,
                    "free": device.memory_free_bytes,
                    "read_at": rfc3339(inventory.asked_at),
                },
            }
        found.append(one)
    return found
