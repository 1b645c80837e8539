"""
Owns what sysfs says of where devices are: the CPUs beside them.

Must not set anything: a worker's shim does, around its spawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from supervisor.core.message import Site

SYSFS = Path("/sys")
LIST_MAX_BYTES = 65536


def near_cpus(
    sites: Iterable[Site], allowed: AbstractSet[int], sysfs: Path = SYSFS
) -> tuple[frozenset[int] | None, str]:
    """
    The CPUs beside devices, all of theirs together.

    Args:
        sites: Where the devices are.
        allowed: CPUs that the daemon itself may use.
        sysfs: In place of ``/sys``.

    Returns:
        Those that may be used and an empty text; or None, and why nothing is to be done.
    """
    found: set[int] = set()
    for site in sites:
        local = _local_cpus(site, sysfs)
        if not local:
            return None, f"the NUMA node of the device {site.pci} is not known"
        found |= local
    if not found & allowed:
        return None, f"the CPUs beside its devices ({_shown(found)}) are not among those that the daemon may use"
    return frozenset(found & allowed), ""


def parse_cpus(text: str) -> set[int]:
    """
    CPUs of a list as the kernel writes it: ``0-3,8``.

    Raises:
        ValueError: It is none.
    """
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _local_cpus(site: Site, sysfs: Path) -> set[int]:
    """None of them where the machine does not know: then every CPU would be said to be beside it."""
    device = sysfs / "bus/pci/devices" / site.pci
    node = _read(device / "numa_node")
    number = int(node) if node.isdecimal() else site.numa
    if number is None or number < 0:
        return set()
    text = _read(device / "local_cpulist") or _read(sysfs / f"devices/system/node/node{number}/cpulist")
    try:
        return parse_cpus(text)
    except ValueError:
        return set()


def _read(file: Path) -> str:
    try:
        with file.open(encoding="ascii") as opened:
            return opened.read(LIST_MAX_BYTES).strip()
    except (OSError, ValueError):
        return ""


def _shown(cpus: Iterable[int]) -> str:
    return ",".join(map(str, sorted(cpus)))
