"""Devices as one reading of the driver shows them. Pure values; reads nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class GpuState(StrEnum):
    """What the driver's management library (NVML) answers as a whole."""

    OK = "ok"
    ABSENT = "absent"  # No library: a machine without NVIDIA GPUs, or a container without the utility capability.
    NOT_LOADED = "not_loaded"  # The library is there, the kernel module is not (yet).
    NO_PERMISSION = "no_permission"
    MISMATCH = "mismatch"  # The library was upgraded under a loaded kernel module.
    UNRESPONSIVE = "unresponsive"  # A call went past its deadline.
    ERROR = "error"  # Anything else, a prober that crashed included.


class Health(StrEnum):
    """
    Health of one device; what leads from one to another stands in `health`.

    A reading itself tells only OK, and LOST of a device that does not answer.
    """

    OK = "ok"
    SUSPECT = "suspect"  # Something is odd: the last choice for who has yet to start.
    DRAINING = "draining"  # Sick, and somebody of ours is still there.
    QUARANTINED = "quarantined"  # Sick, and empty: nobody starts there until it has been well for a while.
    PROBING = "probing"  # Looked at once more before it is used again.
    LOST = "lost"  # It does not answer, or is not there.
    STUCK = "stuck"  # A process of ours there does not die in spite of SIGKILL.
    DIRTY = "dirty"  # Memory of the dead is left there.
    HELD = "held"  # Another daemon has it, or it has not joined the NVSwitch fabric yet.


USABLE = frozenset({Health.OK, Health.SUSPECT})
"""Of a device in the inventory: whoever starts may be placed there."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """
    What the driver tells of a device's own health; None where it does not.

    Args:
        recovery: What it wants done about the device: 0 nothing, 1 reset, 2 reboot, and so on.
        remap_pending: Rows of memory are to be replaced at the next reset.
        remap_failed: There are no rows left to replace them by.
        pages_pending: Of cards without that: pages of memory are to be retired at the next reset.
        uncorrected: ECC errors that could not be corrected since the driver was loaded.
        fault: The code by which it said that it does not answer: 15 lost, 16 needs a reset, 999 whatever.
        fabric: Of a machine with NVSwitches, how far it has joined them: 1 not begun, 2 under way, 3 done.
        fabric_fault: NVML's code for why that came to nothing, where it is done and did.
    """

    recovery: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    pages_pending: bool | None = None
    uncorrected: int | None = None
    fault: int | None = None
    fabric: int | None = None
    fabric_fault: int | None = None

    @property
    def is_joining(self) -> bool:
        """Whether it has yet to join the NVSwitches."""
        return self.fabric in {1, 2}


UNTOLD = Vitals()


@dataclass(frozen=True, slots=True)
class Checkup:
    """
    What a device is asked about only once a minute: some of it takes many calls, and all of it counts over minutes.

    None where the driver does not tell.

    Args:
        throttle: Bits for what slows its clocks down at this moment, as NVML numbers them.
        repair_pending: Something of it is to be repaired at the next reset.
        busy_percent: Of the last moments, in how much of them something ran there.
        used_bytes: Memory that anybody has there, without what the driver keeps for itself.
        nvlinks: Active NVLinks by where they lead: a UUID, empty for switches, ``hidden`` for GPUs that we are not
            shown. None too for one that has no peers here.
    """

    throttle: int | None = None
    repair_pending: bool | None = None
    busy_percent: int | None = None
    used_bytes: int | None = None
    nvlinks: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """
    A process that has memory of a device.

    Args:
        pid: As the driver tells it; in a container it may be one that is not seen there.
        used_bytes: None where the driver does not tell.
        name: Of the process, empty if unknown.
        user: Whose it is, empty if unknown.
        worker: ``llm/0`` when it belongs to the tree of one of our workers, else empty: a foreign one.
    """

    pid: int
    used_bytes: int | None = None
    name: str = ""
    user: str = ""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Opener:
    """
    A process that has files of the driver open.

    Args:
        holder: Who it is; the bytes are not known.
        minors: Numbers of the devices whose files it has open.
        computes: It has opened what only who computes does: it surely has a context, if it has a device open.
    """

    holder: Holder
    minors: tuple[int, ...] = ()
    computes: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """
    How two devices are connected.

    Args:
        one, other: UUIDs.
        nvlinks: Active NVLinks between them; to a switch they share counts too.
        level: Nearest common ancestor as NVML counts it: 0 one board, 10 and 20 PCIe switches, 30 host bridge,
            40 NUMA node, 50 the whole machine.
    """

    one: str
    other: str
    nvlinks: int
    level: int


@dataclass(frozen=True, slots=True)
class Device:
    """
    A GPU, or an instance of one that MIG has cut up. Its identity is the UUID.

    Args:
        uuid: As NVML gives it, ``GPU-...`` or ``MIG-...``.
        index: Index in this reading as nvidia-smi shows it; of an instance that of its GPU. Not an identity: it may
            differ in the next reading.
        name: Product name, ``NVIDIA H100 80GB HBM3``.
        pci: PCI address as sysfs writes it, ``0000:10:00.0``.
        numa: NUMA node of the PCI device, None if unknown.
        memory_total_bytes: None where the device does not support the question (unified memory).
        memory_free_bytes: As total.
        health: Whether new workers may be placed on it.
        reason: Why the health is not ok, else empty.
        parent: UUID of the GPU that this is a MIG instance of; None for a GPU.
        is_cut: MIG is on: nothing is placed on the GPU itself, only on its instances, of which it may have none.
        is_unified: It has the host's memory; the figures are the host's.
        holders: Who has memory of it; None where the driver does not tell.
        minor: Number of its file, ``/dev/nvidia3``; of an instance that of its GPU. None if unknown.
        instance: Numbers of a MIG instance's GPU instance and compute instance, by which older drivers name it.
        vitals: What the driver tells of its health; of an instance nothing.
        checkup: What it was asked beside that; None in all readings but one a minute, and of an instance.
    """

    uuid: str
    index: int
    name: str
    pci: str
    numa: int | None
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    health: Health = Health.OK
    reason: str = ""
    parent: str | None = None
    is_cut: bool = False
    is_unified: bool = False
    holders: tuple[Holder, ...] | None = None
    instance: tuple[int, int] | None = None
    minor: int | None = None
    vitals: Vitals = UNTOLD
    checkup: Checkup | None = None

    @property
    def is_usable(self) -> bool:
        """Whether whoever starts may be placed there, as far as its health goes."""
        return self.health in USABLE


def name_of(device: Device) -> str:
    """A device to a person: ``GPU 3``."""
    return f"GPU {device.index}" if device.parent is None else f"{device.uuid} of GPU {device.index}"


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What one asking of the driver gave.

    Args:
        state: What the library answered as a whole.
        detail: The answer in words, empty when the state is ok.
        devices: In the driver's index order, which is PCI order, each followed by its MIG instances. Empty unless
            the state is ok.
        links: Between GPUs, each pair once; those that the driver does not tell are left out.
        openers: Who has the driver's files open, whatever the state; None where that was not looked at.
        hidden: Processes that could not be looked at for that.
        kernel: PCI addresses of the GPUs that the kernel's driver lists, None where it does not tell.
    """

    state: GpuState
    detail: str = ""
    devices: tuple[Device, ...] = ()
    links: tuple[Link, ...] = ()
    openers: tuple[Opener, ...] | None = None
    hidden: int = 0
    kernel: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices of the last good reading, in PCI order, and when it was asked for (monotonic seconds)."""

    devices: tuple[Device, ...] = ()
    asked_at: float = 0.0
    links: tuple[Link, ...] = ()
    by_uuid: Mapping[str, Device] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_uuid", MappingProxyType({device.uuid: device for device in self.devices}))
