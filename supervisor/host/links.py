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

    def read(self, library: Library, whole: Sequence[tuple[dict[str, Any], object]]) -> list[dict[str, object]]:
        """Links of these devices, each with its handle; MIG instances have none between them."""
        uuids: list[object] = [device["uuid"] for device, _ in whole]
        if uuids != self._of:
            self._of = uuids
            self._links = _read_links(library, whole) if len(whole) <= _LINKED_MAX else []
        return self._links


def _read_links(library: Library, whole: Sequence[tuple[dict[str, Any], object]]) -> list[dict[str, object]]:
    """Every pair of which the driver tells something, once."""
    places = {device["pci"]: device["uuid"] for device, _ in whole if device["pci"]}
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
            is_active = library.call("nvmlDeviceGetNvLinkState", index, pynvml.nvmlDeviceGetNvLinkState, handle, link)
        except CallError as error:
            if error.is_no_answer or error.code in NOTHING_THERE:
                break
            continue
        end = _read_far_end(library, index, handle, link, places) if is_active else None
        if end is not None:
            found[end] = found.get(end, 0) + 1
    return found


def _read_far_end(library: Library, index: int, handle: object, link: int, places: dict[str, str]) -> str | None:
    """UUID of the GPU at the other end, empty for a switch, None for a GPU that we are not shown."""
    try:
        name = "nvmlDeviceGetNvLinkRemotePciInfo"
        pci = library.call(name, index, pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        if (uuid := places.get(sysfs_pci(pci))) is not None:
            return uuid
    except CallError:
        pass
    try:
        name = "nvmlDeviceGetNvLinkRemoteDeviceType"
        kind = library.call(name, index, pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
    except CallError:
        return ""  # Machines that tell nothing of the other end are those with switches.
    return None if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_GPU else ""
