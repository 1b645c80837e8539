"""
What a reading says of one device's own health: one verdict of everything the driver told. Pure.

The worst comes first; what is not known is no sign. The table of witnesses is in docs/health.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.checkups import Watch, broken_links, doubt, haunting
from supervisor.core.health import ANY, LINK, Doubted, Faulted, SeenWell, Sign, Vanished
from supervisor.core.inventory import Device, Health

_RECOVERY: Mapping[int, str] = {
    1: "reset the GPU",
    2: "reboot the machine",
    3: "drain its peers",
    4: "drain and reset the GPU",
    5: "recover the IMEX domain",
    6: "reset the bus",
    7: "reboot the system",
}
_PEERS = frozenset({3, 5})
"""What these are about is between devices."""

_GONE_CODES = frozenset({15, 16})
"""NVML: the GPU is lost; the GPU requires a reset. Any other failure may be of one moment."""


def sign_of(device: Device, watch: Watch, uncorrected: int | None) -> Sign:
    """
    What the driver's figures of one device say.

    Args:
        device: As it was read.
        watch: What its checkups have found, this reading included.
        uncorrected: ECC errors that could not be corrected, as last told before; None where they never were.
    """
    vitals = device.vitals
    if device.health is Health.LOST:
        return Vanished(device.reason, is_faulty=vitals.fault in _GONE_CODES)
    if vitals.recovery:
        what = _RECOVERY.get(vitals.recovery, f"action {vitals.recovery}")
        scope = LINK if vitals.recovery in _PEERS else ANY
        return Faulted(f"the driver wants somebody to {what} (recovery action {vitals.recovery})", scope)
    if vitals.remap_failed:
        return Faulted("its memory has no rows left to replace bad ones by: it is to be exchanged")
    if reason := haunting(watch):
        return Faulted(reason)
    if reason := broken_links(watch):
        return Faulted(reason, LINK)
    if reason := _doubt(device, watch, uncorrected):
        return Doubted(reason)
    return SeenWell()


def _doubt(device: Device, watch: Watch, uncorrected: int | None) -> str:
    vitals = device.vitals
    if uncorrected is not None and vitals.uncorrected is not None and vitals.uncorrected > uncorrected:
        return f"{vitals.uncorrected - uncorrected} more ECC errors that could not be corrected"
    if vitals.remap_pending or vitals.pages_pending:
        return "bad memory of it is replaced at its next reset"
    if vitals.fabric_fault is not None:
        return f"it could not join the NVSwitch fabric (error {vitals.fabric_fault}), so it may reach no other GPU"
    return doubt(watch)
