"""
What the error numbers of NVIDIA's driver (XIDs) mean: a table, and the look-up in it.

Sources: NVIDIA's XID catalogue (docs.nvidia.com/deploy/xid-errors) as gpud carries it, the errors that DCGM calls
devastating, and those that Kubernetes' device plugin leaves to the application. They disagree on a few: 109 counts as a
reset here, as in NVIDIA's own catalogue. A file may say otherwise under `health.xids`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

XidClass = Literal["application", "contained", "information", "hardware", "link", "unknown", "ignore"]

CLASSES: tuple[XidClass, ...] = ("application", "contained", "information", "hardware", "link", "unknown", "ignore")
"""
application: the worker's own doing, written into its crash record. contained: a memory error that ends the process it
hit, and nobody else. information: told, and the device is looked at. hardware: the device is taken out of use. link:
the same for workers with several devices. unknown: told, and the device is looked at. ignore: nothing at all.
"""

ECHOES = frozenset({43, 45})
"""Told also of a process that was killed, by us too."""

COUNTED = frozenset({92, 121})
"""News of what the hardware has mended by itself; too much of it is a bad sign."""

RESET, REBOOT, SERVICE = "reset the GPU", "reboot the machine", "check the GPU's power and seat"


@dataclass(frozen=True, slots=True)
class Xid:
    """
    One row.

    Args:
        kind: Its class.
        meaning: For a person; empty where the catalogue says nothing that helps.
        advice: What usually mends it, empty where nothing has to be.
    """

    kind: XidClass
    meaning: str = ""
    advice: str = ""


UNKNOWN = Xid("unknown")


def _rows(kind: XidClass, numbers: Iterable[int], advice: str = "") -> dict[int, Xid]:
    return {number: Xid(kind, _MEANINGS.get(number, ""), advice) for number in numbers}


_NVLINK_UNITS = {144: "SAW", 145: "RLW", 146: "TLW", 147: "TREX", 148: "NVLPW", 149: "NETIR", 150: "MSE"}
"""As the catalogue calls the parts of a link's engine; what they are it does not say."""

_MEANINGS: Mapping[int, str] = {
    8: "GPU stopped processing",
    11: "invalid push buffer",
    13: "graphics engine exception",
    31: "memory page fault",
    32: "corrupted push buffer",
    37: "driver firmware error",
    38: "driver firmware error",
    43: "GPU stopped processing",
    44: "fault during a context switch",
    45: "preemptive cleanup",
    46: "GPU stopped processing",
    48: "double bit ECC error",
    54: "auxiliary power is not connected",
    62: "internal micro-controller halt",
    63: "row remapping or page retirement recorded",
    64: "row remapping or page retirement failed",
    68: "video decoder exception",
    69: "graphics engine class error",
    74: "NVLink error",
    78: "vGPU start error",
    79: "GPU has fallen off the bus",
    92: "high rate of corrected ECC errors",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch timeout",
    110: "security fault",
    119: "GSP does not answer",
    120: "GSP error",
    121: "C2C link error",
    137: "NVLink access without privilege",
    140: "unrecovered ECC error",
    143: "GPU initialisation failed",
    **{number: f"NVLink error in its {unit} unit" for number, unit in _NVLINK_UNITS.items()},
    154: "recovery action changed",
    167: "fatal PCIe error",
    169: "SEC2 halt",
    171: "uncorrectable DRAM error",
    172: "uncorrectable SRAM error",
}

_APPLICATION = (
    *(8, 11, 13, 25, 31, 32, 39, 40, 41, 42, 43, 45, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86),
    *(88, 89, *range(96, 106), *range(126, 136), 139),
)
_INFORMATION = (37, 38, 44, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 154, 157, 160, 161)
_RESET = (46, 48, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158, 171, 172)

TABLE: Mapping[int, Xid] = {
    **_rows("application", _APPLICATION),
    **_rows("contained", (94,)),
    **_rows("information", _INFORMATION),
    **_rows("hardware", _RESET, RESET),
    **_rows("link", (74, *range(144, 151), 173), RESET),
    **_rows("hardware", (79, 167, 169), REBOOT),
    **_rows("hardware", (54,), SERVICE),
    **_rows("unknown", (78, 151, 159, 168, 174, 175, 176)),
}


def find_xid(number: int, overrides: Mapping[int, XidClass]) -> Xid:
    """
    The row of a number.

    Args:
        number: As the driver told it; 999 where it does not know itself.
        overrides: What the file says instead.
    """
    row = TABLE.get(number, UNKNOWN)
    kind = overrides.get(number)
    return row if kind is None else Xid(kind, row.meaning, row.advice)


def words(number: int) -> str:
    """A number to a person: ``XID 31 (memory page fault)``."""
    meaning = TABLE.get(number, UNKNOWN).meaning
    return f"XID {number}" + (f" ({meaning})" if meaning else "")
