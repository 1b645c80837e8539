"""
How the GPUs of a machine are connected, as NVML tells it: by NVLink, and by where they meet on the way to the CPU.

Part of the prober's process. Knows nothing of what is placed where.
"""

from __future__ import annotations

import pynvml

from supervisor.host.nvml import NOTHING_THERE, CallError, Library, sysfs_pci

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_LINKED_MAX = 64  # Devices beyond which links are not asked for: every pair is a call.
_WHOLE_MACHINE = 50  # NVML's farthest common ancestor.


class Topology:
    """How the devices are connected: asked for once, and again when others are there."""

    def __init__(self) -> None:
        self._of: list[object] = []
        self._links: list[dict[str, object]] = []
        self._ends: dict[object, dict[int, str | None]] = {}
        """UUID -> link -> where it leads, of those that were ever active: a link that is down tells no more."""

    def read(self, library: Library, whole: Sequence[tuple[dict[str, Any], object]]) -> list[dict[str, object]]:
        """Links of these devices, each with its handle; MIG instances have none between them."""
        uuids: list[object] = [device["uuid"] for device, _ in whole]
        if uuids != self._of:
            self._of, self._ends = uuids, {}
            self._links = _read_links(library, whole) if len(whole) <= _LINKED_MAX else []
        return self._links

    def count(self, library: Library, whole: Sequence[tuple[dict[str, Any], object]]) -> dict[object, list[object]]:
        """
        Active NVLinks of these devices, after `read`: by UUID, pairs of where they lead and how many.

        Switches have an empty name. A device of which not everything can be told is left out, and so are links to GPUs
        that we are not shown.
        """
        found: dict[object, list[object]] = {}
        places = _places(whole)
        for device, handle in whole if 1 < len(whole) <= _LINKED_MAX else ():
            ends = self._ends.setdefault(device["uuid"], {})
            try:
                counts = _count_nvlinks(library, device["index"], handle, places, ends)
            except CallError:
                continue
            found[device["uuid"]] = [[end, count] for end, count in sorted(counts.items())]
        return found


def _read_links(library: Library, whole: Sequence[tuple[dict[str, Any], object]]) -> list[dict[str, object]]:
    """Every pair of which the driver tells something, once."""
    places = _places(whole)
    ends = [_read_nvlinks(library, device["index"], handle, places) for device, handle in whole if len(whole) > 1]
    tells_level = True
    links: list[dict[str, object]] = []
    for first, (device, handle) in enumerate(whole):
        for second in range(first + 1, len(whole)):
            other, other_handle = whole[second]
            level = None
            if tells_level:
                level, tells_level = _read_level(library, device["index"], handle, other_handle)
            # Through switches everybody reaches everybody, with what both have.
            switched = min(ends[first].get("", 0), ends[second].get("", 0))
            nvlinks = max(ends[first].get(other["uuid"], 0), ends[second].get(device["uuid"], 0)) + switched
            if nvlinks or level is not None:
                level = _WHOLE_MACHINE if level is None else level
                links.append({"one": device["uuid"], "other": other["uuid"], "nvlinks": nvlinks, "level": level})
    return links


def _places(whole: Sequence[tuple[dict[str, Any], object]]) -> dict[str, str]:
    return {device["pci"]: device["uuid"] for device, _ in whole if device["pci"]}


def _read_level(library: Library, index: int, one: object, other: object) -> tuple[int | None, bool]:
    """The nearest common ancestor of two devices, and whether to go on asking for such."""
    try:
        name = "nvmlDeviceGetTopologyCommonAncestor"
        return int(library.call(name, index, pynvml.nvmlDeviceGetTopologyCommonAncestor, one, other)), True
    except CallError as error:
        return None, not error.is_no_answer


def _read_nvlinks(library: Library, index: int, handle: object, places: dict[str, str]) -> dict[str, int]:
    """Active NVLinks of a device by the UUID where they lead, those to switches under an empty one."""
    found: dict[str, int] = {}
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            is_active = _is_active(library, index, handle, link)
        except CallError:
            continue
        if is_active is None:
            break
        try:
            end = _read_far_end(library, index, handle, link, places) if is_active else None
        except CallError:
            end = ""  # Machines that tell nothing of the other end are those with switches.
        if end is not None:
            found[end] = found.get(end, 0) + 1
    return found


def _count_nvlinks(
    library: Library, index: int, handle: object, places: dict[str, str], ends: dict[int, str | None]
) -> dict[str, int]:
    """
    As before, but a CallError where any of it cannot be told, and where there are none.

    Args:
        library: NVML.
        index: Of the device.
        handle: Of the device.
        places: PCI address -> UUID.
        ends: Where links lead, as far as that is known; what is learnt is added.
    """
    found: dict[str, int] = {}
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        is_active = _is_active(library, index, handle, link)
        if is_active is None:
            if link == 0 or any(known >= link for known in ends):
                raise CallError("nvmlDeviceGetNvLinkState", None, f"nothing of link {link}")
            break
        if is_active and link not in ends:
            ends[link] = _read_far_end(library, index, handle, link, places)
        end = ends[link] if is_active else None
        if end is not None:
            found[end] = found.get(end, 0) + 1
    return found


def _is_active(library: Library, index: int, handle: object, link: int) -> bool | None:
    """None where there is no such link."""
    try:
        return bool(library.call("nvmlDeviceGetNvLinkState", index, pynvml.nvmlDeviceGetNvLinkState, handle, link))
    except CallError as error:
        if _is_told(error):
            return None
        raise


def _is_told(error: CallError) -> bool:
    """Whether it says that there is nothing, and not that something went wrong."""
    return error.is_no_answer or error.code in NOTHING_THERE


def _read_far_end(library: Library, index: int, handle: object, link: int, places: dict[str, str]) -> str | None:
    """UUID of the GPU at the other end, empty for a switch, None for a GPU that we are not shown."""
    try:
        name = "nvmlDeviceGetNvLinkRemotePciInfo"
        pci = library.call(name, index, pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        if (uuid := places.get(sysfs_pci(pci))) is not None:
            return uuid
    except CallError as error:
        if not _is_told(error):
            raise
    try:
        name = "nvmlDeviceGetNvLinkRemoteDeviceType"
        kind = library.call(name, index, pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
    except CallError as error:
        if not _is_told(error):
            raise
        return ""  # Machines that tell nothing of the other end are those with switches.
    return None if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_GPU else ""
