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
    """Health of one device."""

    OK = "ok"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Device:
    """
    A GPU. Its identity is the UUID.

    Args:
        uuid: As NVML gives it, ``GPU-...``.
        index: Index in this reading as nvidia-smi shows it. Not an identity: it may differ in the next reading.
        name: Product name, ``NVIDIA H100 80GB HBM3``.
        pci: PCI address as sysfs writes it, ``0000:10:00.0``.
        numa: NUMA node of the PCI device, None if unknown.
        memory_total_bytes: None where the device does not support the question (unified memory).
        memory_free_bytes: As total.
        health: Whether new workers may be placed on it.
        reason: Why the health is not ok, else empty.
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


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What one asking of the driver gave.

    Args:
        state: What the library answered as a whole.
        detail: The answer in words, empty when the state is ok.
        devices: In the driver's index order, which is PCI order. Empty unless the state is ok.
    """

    state: GpuState
    detail: str = ""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices of the last good reading, in PCI order, and when it was asked for (monotonic seconds)."""

    devices: tuple[Device, ...] = ()
    asked_at: float = 0.0
    by_uuid: Mapping[str, Device] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_uuid", MappingProxyType({device.uuid: device for device in self.devices}))
