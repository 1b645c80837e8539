"""
The process that talks to NVML, and the only one: a call may hang for ever, crash, or never be killable.

It imports nothing of ours but its own parts, so that it starts fast. A line of JSON on standard input asks, lines on
standard output answer: one before each call of NVML, so that the other side knows where a silent prober hangs, and one
with the reading.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import pynvml

from supervisor.host.checkup import read_checkup
from supervisor.host.excuses import explain_absence, explain_refusal
from supervisor.host.links import Topology
from supervisor.host.nvml import NOTHING_THERE, TRY_OLDER, CallError, Library, sysfs_pci
from supervisor.host.openers import find_openers
from supervisor.host.recall import GONE, settle_broken
from supervisor.host.sensors import read_sensors
from supervisor.host.settings import read_settings
from supervisor.host.vitals import read_vitals

TYPE_CHECKING = False  # The import of typing would cost a tenth of the start; type checkers know this name, too.
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_STATES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "absent",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "not_loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "no_permission",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "mismatch",
}
_PCI_DEVICES = "/sys/bus/pci/devices"
_HOST_MEMORY = "/proc/meminfo"

# Integrated GPUs of which some drivers tell the host's memory as theirs, without what the page cache would give back.
_INTEGRATED = {"GB10", "Orin", "Thor", "Tegra"}


def read_inventory(
    library: Library,
    topology: Topology,
    spare: Sequence[int] = (),
    known: Sequence[Sequence[Any]] = (),
    *,
    is_checkup: bool = False,
) -> dict[str, object]:
    """
    Ask NVML for everything that a reading holds.

    Args:
        library: NVML.
        topology: Kept from one reading to the next.
        spare: Indices of devices that are not asked about: NVML opens a device when its handle is asked for.
        known: Index, UUID and PCI address of GPUs as they were read last.
        is_checkup: Ask also what is looked at only now and then.

    Returns:
        The reading of the protocol; *broken* in it names devices that have no readable identity, with the UUID of those
        that were known.
    """
    try:
        library.initialise()
        count = library.count()
    except CallError as error:
        return _make_reading(_STATES.get(error.code or 0, "error"), _describe(error))
    found = _Found(library)
    for index in range(count):
        if index not in spare:
            found.take(index)
    others = [one for one in known if one[0] not in spare]
    for index, handle, uuid in settle_broken(library, others, [one["uuid"] for one in found.devices], found.broken):
        found.take(index, handle, uuid=uuid)
    devices, broken = found.devices, found.broken
    if broken and not devices and not any(one.get("uuid") and one["code"] in GONE for one in broken):
        # Not an empty machine: its workers wait, they are not to fall back to the CPU.
        return _make_reading("error", f"no device can be read; device 0: {broken[0]['detail']}", broken=broken)
    whole = [one for one in found.well if not one[0]["is_cut"]]
    links = topology.read(library, whole)
    if is_checkup:
        nvlinks = topology.count(library, whole)
        for device, handle in found.well:
            told = read_checkup(library, int(device["index"]), handle)
            device["checkup"] = {**told, "used_bytes": device["memory_used"], "nvlinks": nvlinks.get(device["uuid"])}
    return {**_make_reading("ok", "", devices, broken), "links": links}


class _Found:
    """What a reading has so far: devices, indices without a readable identity, and handles of GPUs that are well."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.devices: list[dict[str, Any]] = []
        self.broken: list[dict[str, Any]] = []
        self.well: list[tuple[dict[str, Any], object]] = []

    def take(self, index: int, handle: object = None, **name: str) -> None:
        """Read the GPU of an index, by a handle where there is one already; *name*: the UUID that it has then."""
        try:
            device, handle = _read_device(self._library, index, handle)
            self._refuse_twin(device)
        except CallError as error:
            self.broken.append({"index": index, "detail": str(error), "code": error.code, **name})
            return
        self.devices.append(device)
        if device["is_cut"]:
            self.devices += _read_instances(self._library, device, handle, self.broken)
        if device["health"] == "ok":
            self.well.append((device, handle))

    def _refuse_twin(self, device: dict[str, Any]) -> None:
        """Two of one identity would be handed out as two."""
        for one in self.devices:
            if one["uuid"] == device["uuid"]:
                raise CallError("nvmlDeviceGetUUID", None, f"it is that of device {one['index']}")


def _make_reading(
    state: str,
    detail: str,
    devices: Sequence[dict[str, object]] = (),
    broken: Sequence[dict[str, object]] = (),
) -> dict[str, object]:
    return {"state": state, "detail": detail, "devices": list(devices), "broken": list(broken)}


def _describe(error: CallError) -> str:
    if error.code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return explain_absence()
    if error.code == pynvml.NVML_ERROR_NO_PERMISSION:
        return ": ".join(filter(None, (str(error), explain_refusal())))
    return str(error)


def _read_device(library: Library, index: int, handle: object = None) -> tuple[dict[str, Any], object]:
    """One GPU and its handle, None to look that up; a CallError rises only where its identity cannot be read."""
    if handle is None:
        handle = library.call("nvmlDeviceGetHandleByIndex", index, pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = library.identity(index, handle)
    is_cut, stumble = _read_mig_mode(library, index, handle)
    name, pci = _read_name(library, index, handle), _read_pci(library, index, handle)
    device: dict[str, object] = {
        "uuid": uuid,
        "index": index,
        "name": name,
        "pci": pci,
        "numa": read_numa(_PCI_DEVICES, pci),
        "parent": None,
        "instance": None,
        "is_cut": is_cut,
        **_read_memory(library, index, handle, name),
    }
    if stumble is not None and device["health"] == "ok":
        device.update(health="lost", reason=str(stumble), vitals={"fault": stumble.code})
    if device["health"] == "ok":
        # One that does not answer is not asked ten more times: each of them may hang.
        device["vitals"] = read_vitals(library, index, handle)
    # Who has memory of a cut GPU is told by its instances.
    device["holders"] = None if is_cut else _read_holders(library, index, handle)
    device["minor"] = _read_minor(library, index, handle)
    return device, handle


def _read_minor(library: Library, index: int, handle: object) -> int | None:
    """Number of its file, ``/dev/nvidia3``."""
    try:
        return int(library.call("nvmlDeviceGetMinorNumber", index, pynvml.nvmlDeviceGetMinorNumber, handle))
    except CallError:
        return None


def _read_mig_mode(library: Library, index: int, handle: object) -> tuple[bool, CallError | None]:
    """Whether the GPU is cut up, and what keeps us from knowing it."""
    try:
        current, _ = library.call("nvmlDeviceGetMigMode", index, pynvml.nvmlDeviceGetMigMode, handle)
    except CallError as error:
        # One that is cut and taken for whole would be handed out a second time.
        is_told = error.code is not None and error.is_no_answer
        return False, None if is_told else error
    return current == pynvml.NVML_DEVICE_MIG_ENABLE, None


def _read_instances(
    library: Library, gpu: dict[str, Any], handle: object, broken: list[dict[str, object]]
) -> list[dict[str, object]]:
    """The MIG instances of a GPU, of which it may have none; those without a readable identity go to *broken*."""
    index = int(gpu["index"])
    try:
        name = "nvmlDeviceGetMaxMigDeviceCount"
        count = int(library.call(name, index, pynvml.nvmlDeviceGetMaxMigDeviceCount, handle))
    except CallError as error:
        broken.append({"index": index, "detail": f"its MIG instances: {error}"})
        return []
    found: list[dict[str, object]] = []
    for place in range(count):
        try:
            instance = _read_instance(library, gpu, handle, place)
        except CallError as error:
            # Places without an instance lie between others; in a container so do those of other containers.
            if error.code not in {*NOTHING_THERE, pynvml.NVML_ERROR_NO_PERMISSION}:
                broken.append({"index": index, "detail": f"MIG instance {place}: {error}"})
            continue
        found.append(instance)
    return found


def _read_instance(library: Library, gpu: dict[str, Any], parent: object, place: int) -> dict[str, object]:
    index = int(gpu["index"])
    name = "nvmlDeviceGetMigDeviceHandleByIndex"
    handle = library.call(name, index, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, place)
    return {
        **gpu,  # Where the GPU is, there it is.
        "uuid": library.identity(index, handle),
        "name": _read_name(library, index, handle),
        "parent": gpu["uuid"],
        "vitals": {},
        "instance": _read_instance_ids(library, index, handle),
        "is_cut": False,
        **_read_memory(library, index, handle, None),
        "holders": _read_holders(library, index, handle),
    }


def _read_instance_ids(library: Library, index: int, handle: object) -> list[int] | None:
    """Numbers of its GPU instance and compute instance, by which older drivers name it."""
    try:
        return [
            int(library.call("nvmlDeviceGetGpuInstanceId", index, pynvml.nvmlDeviceGetGpuInstanceId, handle)),
            int(library.call("nvmlDeviceGetComputeInstanceId", index, pynvml.nvmlDeviceGetComputeInstanceId, handle)),
        ]
    except CallError:
        return None


def _read_name(library: Library, index: int, handle: object) -> str:
    try:
        return library.text("nvmlDeviceGetName", index, pynvml.nvmlDeviceGetName, handle)
    except CallError:
        return ""


def _read_pci(library: Library, index: int, handle: object) -> str:
    """Its address as sysfs writes it, empty where NVML does not tell."""
    try:
        pci = library.call("nvmlDeviceGetPciInfo", index, pynvml.nvmlDeviceGetPciInfo, handle)
    except CallError:
        return ""
    return sysfs_pci(pci)


def _read_memory(library: Library, index: int, handle: object, name: str | None) -> dict[str, object]:
    """Memory, and health by whether it can be asked for; *name* is None for MIG instances, which are never unified."""
    total = free = used = fault = None
    reason = ""
    is_unified = name is not None and not _INTEGRATED.isdisjoint(name.split())
    try:
        memory = _ask_memory(library, index, handle)
        total, free = int(memory.total), int(memory.free)
        # Only the second version of the call tells what the driver keeps for itself apart from it.
        used = int(memory.used) if hasattr(memory, "reserved") else None
    except CallError as error:
        # Anything but a device that cannot tell is a device to keep new workers from, be it for one reading only.
        reason, fault = ("", None) if error.is_no_answer else (str(error), error.code)
        is_unified = is_unified or (name is not None and error.code == pynvml.NVML_ERROR_NOT_SUPPORTED)
    if is_unified and not reason:
        total, free = read_host_memory(_HOST_MEMORY)
    return {
        "memory_total": total,
        "memory_free": free,
        "memory_used": used,
        "is_unified": is_unified,
        "health": "lost" if reason else "ok",
        "reason": reason,
        "vitals": {} if fault is None else {"fault": fault},
    }


def _ask_memory(library: Library, index: int, handle: object) -> Any:
    try:
        return library.call(
            "nvmlDeviceGetMemoryInfo_v2", index, pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2
        )
    except CallError as error:
        if error.code is not None and error.code not in TRY_OLDER:
            raise
        return library.call("nvmlDeviceGetMemoryInfo", index, pynvml.nvmlDeviceGetMemoryInfo, handle)


def read_host_memory(file: str) -> tuple[int | None, int | None]:
    """Bytes that the machine has, and those that could be had without swapping; None where that is not told."""
    lines: dict[str, int] = {}
    try:
        with open(file, encoding="ascii") as content:  # noqa: PTH123 - As below.
            for line in content:
                name, _, rest = line.partition(":")
                lines[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None, None
    return lines.get("MemTotal"), lines.get("MemAvailable")


def _read_holders(library: Library, index: int, handle: object) -> list[tuple[int, int | None]] | None:
    """Pid and bytes of everybody who has memory there; None where the driver does not tell."""
    compute = _ask_processes(library, index, handle, "Compute")
    graphics = _ask_processes(library, index, handle, "Graphics")
    if compute is None:
        return None
    holders: dict[int, int | None] = {}
    for process in (*compute, *(graphics or ())):
        pid, used = int(process.pid), process.usedGpuMemory
        # One that computes and draws is in both lists, each time with all that it has.
        known = [each for each in (holders.get(pid), used) if each is not None]
        holders[pid] = max(map(int, known), default=None)
    return sorted(holders.items())


def _ask_processes(library: Library, index: int, handle: object, kind: str) -> Sequence[Any] | None:
    for version in ("_v3", "_v2"):
        name = f"nvmlDeviceGet{kind}RunningProcesses{version}"
        try:
            answer: Sequence[Any] = library.call(name, index, getattr(pynvml, name), handle)
        except CallError as error:
            if error.code not in TRY_OLDER:
                return None
        else:
            return answer
    return None


def read_numa(pci_devices: str, pci: str) -> int | None:
    """NUMA node of a PCI device from sysfs; None where it is not known or the machine has only one."""
    try:
        with open(f"{pci_devices}/{pci}/numa_node", encoding="ascii") as file:  # noqa: PTH123 - As above.
            node = int(file.read())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _answer(request: dict[str, Any], library: Library, topology: Topology) -> dict[str, object]:
    if request.get("ask") == "settings":
        try:
            return {"settings": read_settings(library)}
        except CallError as error:
            return {"error": str(error)}
    if request.get("ask") != "inventory":
        return {"error": f"cannot answer {request.get('ask')!r}: not a question of this prober"}
    is_checkup = bool(request.get("checkup"))
    spare, known = request.get("spare", ()), request.get("known", ())
    return {"reading": read_inventory(library, topology, spare, known, is_checkup=is_checkup)}


def _look_around() -> dict[str, object]:
    """Who has the driver's files open; said before NVML is asked, which may never answer."""
    found, hidden = find_openers()
    return {"openers": found, "hidden": hidden}


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the daemon's to handle.
    # The answers get a descriptor of their own: what a driver library prints must not end up among them.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    current = None

    def say(message: dict[str, object]) -> None:
        answers.write(json.dumps({"id": current, **message}) + "\n")
        answers.flush()

    library, topology = Library(lambda call: say({"calling": call})), Topology()
    try:
        for line in sys.stdin.buffer:
            current = None
            try:
                request = json.loads(line)
                current = request["id"]
            except (ValueError, TypeError, KeyError):
                say({"error": "not a request"})
                continue
            if request.get("closely"):
                say(_look_around())
            say(_answer(request, library, topology))
            if request.get("sensors"):
                say({"sensors": read_sensors(library, request.get("spare", ()))})
    except BrokenPipeError:
        pass  # Nobody listens any more, which is the same as the end of input.
    # Neither nvmlShutdown nor the clean-up at exit: both would go through the driver once more, where a sick one keeps
    # us for ever. The kernel closes what is open.
    os._exit(0)


if __name__ == "__main__":
    main()
