"""
The failure matrix: which service's processes have died on which devices. Values in, values out.

A service that dies on one device and is well elsewhere speaks against the device; one that dies everywhere against
itself. One service alone never condemns a device: what it does there nobody else may do.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from supervisor.core.message import Cause
from supervisor.core.turn import Death

if TYPE_CHECKING:
    from supervisor.core.turn import Fleet
    from supervisor.core.worker import Worker

WINDOW_S = 600.0
DEATHS_MIN, SERVICES_MIN = 3, 2
"""So many deaths of so many services within the window make a device suspect."""

DEATHS_KEPT = 256
_OWN = frozenset({Cause.EXIT, Cause.SIGNAL, Cause.DEVICE})


def note(fleet: Fleet, before: Worker, after: Worker | None, now: float) -> tuple[Death, ...] | None:
    """The deaths with that of a worker's process in it; None where none of them has ended badly by itself."""
    last = after.last_exit if after else None
    if last is None or last is before.last_exit or last.cause not in _OWN or last.code == 0 or before.cause is not None:
        return None
    if not before.occupied:
        return None
    recent = tuple(one for one in fleet.deaths if now - one.at <= WINDOW_S)
    devices = frozenset(share.uuid for share in before.occupied)
    return (*recent, Death(before.id.service, devices, now))[-DEATHS_KEPT:]


def suspicious(deaths: tuple[Death, ...], uuid: str) -> tuple[str, ...]:
    """Services whose deaths speak against a device, sorted; none where they do not suffice."""
    elsewhere = {one.service for one in deaths if uuid not in one.devices}
    against = [one.service for one in deaths if uuid in one.devices and one.service not in elsewhere]
    services = tuple(sorted(set(against)))
    return services if len(against) >= DEATHS_MIN and len(services) >= SERVICES_MIN else ()


def column_of(deaths: tuple[Death, ...], uuid: str) -> dict[str, int]:
    """Service -> how often its processes have died on a device, within a window that ends with the last death."""
    latest = deaths[-1].at if deaths else 0.0
    found = (one.service for one in deaths if uuid in one.devices and latest - one.at <= WINDOW_S)
    return dict(sorted(Counter(found).items()))
