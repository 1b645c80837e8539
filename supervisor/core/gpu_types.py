"""
What kind of GPU a device is: BentoML's names for them, told from what the driver calls it and how much memory it has.

Knows names only; reads no device itself. Never by a part of a name alone: L4 is not L40, P4 is not P40.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from supervisor.core.file.quantities import GIB
from supervisor.core.inventory import Device


class Kind(NamedTuple):
    """
    A kind of GPU.

    Args:
        literal: Its name in a file.
        names: What the whole of the driver's name may be, a leading ``NVIDIA`` taken away.
        low, high: GiB of memory it has at the least and the most, as NVML counts (a little less than on the box).
    """

    literal: str
    names: re.Pattern[str]
    low: float
    high: float


def _kind(literal: str, names: str, low: float, high: float) -> Kind:
    return Kind(literal, re.compile(names, re.IGNORECASE | re.ASCII), low, high)


KINDS: tuple[Kind, ...] = (
    _kind("nvidia-b200", r"B200", 164, 200),
    _kind("nvidia-gb200", r"GB200", 164, 205),
    _kind("nvidia-rtx-pro-6000", r"RTX PRO 6000 Blackwell( (Server|Workstation|Max-Q Workstation) Edition)?", 87, 104),
    _kind("nvidia-h200-141gb", r"H200( NVL)?", 129, 153),
    _kind("nvidia-h100-80gb", r"H100( 80GB HBM3| PCIe| SXM5( 80GB)?)?", 73, 86),
    _kind("nvidia-tesla-h100", r"H100( (?!.*\bMIG\b).+)?", 73, 104),
    _kind("nvidia-tesla-t4", r"(Tesla )?T4", 13, 17),
    _kind("nvidia-a100-80gb", r"A100([ -](SXM4|PCIe?)(-80GB)?| 80GB PCIe)?", 70, 87),
    _kind("nvidia-tesla-a100", r"(Tesla )?A100(-(SXM4|PCIe?)(-40GB)?)?", 36, 43),
    _kind("nvidia-a10g", r"A10G", 20, 25),
    _kind("nvidia-l4", r"L4", 20, 25),
    _kind("nvidia-tesla-v100", r"(Tesla )?V100S?-(SXM2|SXM3|PCIE|FHHL)-(16|32)GB", 14, 35),
    _kind("nvidia-tesla-p100", r"(Tesla )?P100-(PCIE|SXM2)-(12|16)GB", 10, 18),
    _kind("nvidia-tesla-k80", r"(Tesla )?K80", 10, 13),
    _kind("nvidia-tesla-p4", r"(Tesla )?P4", 6, 9),
    _kind("amd-mi300x", r"(AMD )?Instinct MI300X( OAM)?", 176, 208),
    _kind("amd-mi325x", r"(AMD )?Instinct MI325X( OAM)?", 235, 277),
    _kind("amd-mi355x", r"(AMD )?Instinct MI355X( OAM)?", 264, 312),
)
"""In the order in which a device's own kind is looked for: the narrower one of two that hold stands first."""

LITERALS = tuple(kind.literal for kind in KINDS)
_BY_LITERAL = {kind.literal: kind for kind in KINDS}


def type_of(device: Device) -> str | None:
    """The kind of a device; None for an instance that MIG has cut out, and for what has no name here."""
    return _type_of(device.name, device.memory_total_bytes)


def matches(wanted: str, device: Device) -> bool:
    """
    Whether a device is of a kind.

    Args:
        wanted: One of `LITERALS`, or a glob on the driver's name, with or without its leading ``NVIDIA``, in any case.
        device: Of any vendor.
    """
    return _matches(wanted, device.name, device.memory_total_bytes)


def is_glob(wanted: str) -> bool:
    """Whether a word is a pattern and no name."""
    return any(one in wanted for one in "*?[")


@lru_cache(maxsize=1024)
def _matches(wanted: str, name: str, total: int | None) -> bool:
    if kind := _BY_LITERAL.get(wanted):
        return _is_of(kind, name, total)
    pattern = wanted.lower()
    return any(fnmatchcase(one.lower(), pattern) for one in (name, _plain(name)))


@lru_cache(maxsize=1024)
def _type_of(name: str, total: int | None) -> str | None:
    return next((kind.literal for kind in KINDS if _is_of(kind, name, total)), None)


def _is_of(kind: Kind, name: str, total: int | None) -> bool:
    """By name alone where the device does not tell its memory."""
    if kind.names.fullmatch(_plain(name)) is None:
        return False
    return total is None or kind.low <= total / GIB <= kind.high


def _plain(name: str) -> str:
    """Old drivers leave the vendor out."""
    return name[7:] if name.upper().startswith("NVIDIA ") else name
