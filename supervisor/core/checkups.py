"""
What checkups say of a device over minutes: what lasts counts, what is of one moment does not.

Values in, values out; what becomes of a device for it stands in `wards`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from supervisor.core.inventory import Device, Health

LASTING = 5
"""What so many checkups in a row have found is no matter of a moment."""

APART_S = 45.0
"""Checkups are a minute apart; who asks in between does not make five of them in a moment."""

BUSY_PERCENT = 95
NOBODYS_BYTES = 128 * 1024 * 1024
"""Less memory than any process with a context has, without what the driver keeps for itself."""

HOT: Mapping[int, str] = {0x40: "heat", 0x80: "its power supply"}
"""What the board slows its clocks down for by itself. What software decides, as a power cap, is nobody's illness."""

THROTTLES: Mapping[int, str] = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}
"""As nvidia-smi names them. The other bits of NVML slow nothing down: idle, settings of an administrator."""

Ends = tuple[tuple[str, int], ...]
"""Where NVLinks lead, and how many."""


@dataclass(frozen=True, slots=True)
class Watch:
    """
    What checkups of one device have found.

    Args:
        at: Monotonic second of the last that counted; None before the first.
        hot: Checkups in a row that found its clocks slowed down by the board.
        haunted: Those in a row that found it busy with nobody on it.
        throttle: The bits of the last one; None where it did not tell.
        repair_pending: It said so.
        nvlinks: The most links that were ever active.
        down: Links that were active and were not at the last one, though what they lead to was there.
    """

    at: float | None = None
    hot: int = 0
    haunted: int = 0
    throttle: int | None = None
    repair_pending: bool = False
    nvlinks: Ends = ()
    down: int = 0


UNWATCHED = Watch()


def watch(before: Watch, device: Device, at: float, *, is_used: bool, absent: Collection[str]) -> Watch:
    """
    The books of a device after a reading.

    Args:
        before: As they were.
        device: As it was read.
        at: Monotonic second at which it was asked for.
        is_used: Somebody of ours occupies it, or another daemon has it.
        absent: Devices that are away or sick themselves: a link to such a one is their affair.
    """
    if device.health is Health.LOST:
        return replace(before, hot=0, haunted=0, throttle=None, repair_pending=False, down=0)
    found = device.checkup
    if found is None:
        return before
    is_next = before.at is None or at - before.at >= APART_S
    is_haunted = (
        not is_used
        and device.holders == ()
        and found.busy_percent is not None
        and found.busy_percent >= BUSY_PERCENT
        and found.used_bytes is not None
        and found.used_bytes <= NOBODYS_BYTES
    )
    return Watch(
        at=at if is_next else before.at,
        hot=before.hot + is_next if (found.throttle or 0) & sum(HOT) else 0,
        haunted=before.haunted + is_next if is_haunted else 0,
        throttle=found.throttle,
        repair_pending=bool(found.repair_pending),
        nvlinks=before.nvlinks if found.nvlinks is None else _most(before.nvlinks, found.nvlinks),
        # Links to switches come up as the fabric does: the driver was loaded anew.
        down=0 if found.nvlinks is None or device.vitals.is_joining else _down(before.nvlinks, found.nvlinks, absent),
    )


def _most(before: Ends, now: Ends) -> Ends:
    known = dict(before)
    return tuple(sorted({**known, **{end: max(known.get(end, 0), count) for end, count in now}}.items()))


def _down(before: Ends, now: Ends, absent: Collection[str]) -> int:
    active = dict(now)
    return sum(max(0, count - active.get(end, 0)) for end, count in before if end not in absent)


def haunting(one: Watch) -> str:
    """Why a device is of no use though nobody is on it; empty if it is not so."""
    if one.haunted < LASTING:
        return ""
    return "it is busy and nobody is there: what a killed process began goes on (reset the GPU)"


def broken_links(one: Watch) -> str:
    """What is with its NVLinks; empty where all that ever were active are."""
    if not one.down:
        return ""
    total = sum(count for _, count in one.nvlinks)
    return f"{one.down} of its {total} NVLinks {'is' if one.down == 1 else 'are'} down"


def doubt(one: Watch) -> str:
    """What is odd about it; empty where nothing is."""
    if one.hot >= LASTING:
        causes = [words for bit, words in HOT.items() if (one.throttle or 0) & bit]
        return f"hot: the board has slowed it down for minutes, because of {' and '.join(causes)}"
    return "a part of it is repaired at its next reset" if one.repair_pending else ""


def throttles(one: Watch) -> tuple[str, ...] | None:
    """What slowed it down at the last checkup, as nvidia-smi names it; None where that is not known."""
    return None if one.throttle is None else tuple(name for bit, name in THROTTLES.items() if one.throttle & bit)
