"""
Devices that a reading lacks: calls of NVML hang on them, they have no more than a name, or are not to be touched.

Keeps the books of it for one client of probers; starts and asks nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from supervisor.core.inventory import Device, Health, Reading, Vitals

HANGS = 2
"""So many probers in a row that hung on one device: then it is that device, and the others are read without it."""

AGAIN_FIRST_S, AGAIN_MAX_S = 60.0, 3600.0
"""After which it is tried again: each try may cost a prober."""

KERNEL_GPUS = Path("/proc/driver/nvidia/gpus")
"""What the kernel's driver lists: reading it takes none of the locks on which NVML hangs."""


@dataclass(frozen=True, slots=True)
class _Silence:
    words: str
    hangs: int
    until: float


@dataclass(frozen=True, slots=True)
class Lost:
    """A GPU that a reading could name and not read: where, why in words, and NVML's code for that."""

    uuid: str
    index: int
    words: str
    code: int | None


class Silences:
    """
    What is known of devices by their index.

    Args:
        kernel_gpus: The kernel driver's folder, one entry for each GPU.
    """

    def __init__(self, kernel_gpus: Path = KERNEL_GPUS) -> None:
        self._kernel_gpus = kernel_gpus
        self._silent: dict[int, _Silence] = {}
        self._known: tuple[Device, ...] = ()

    def list_kernel(self) -> frozenset[str] | None:
        """PCI addresses of the GPUs that the kernel's driver has; None where it does not tell."""
        try:
            return frozenset(os.listdir(self._kernel_gpus))  # noqa: PTH208 - Only names.
        except OSError:
            return None

    def note_hang(self, calling: str, words: str, now: float) -> None:
        """A prober hung in a call, ``NAME INDEX``; of one that concerns no device nothing is learnt."""
        _, _, index = calling.partition(" ")
        if not index.isdecimal():
            return
        before = self._silent.get(int(index))
        hangs = 1 if before is None else before.hangs + 1
        until = now + min(AGAIN_FIRST_S * 2.0 ** (hangs - HANGS), AGAIN_MAX_S) if hangs >= HANGS else 0.0
        self._silent[int(index)] = _Silence(words, hangs, until)

    def left_out(self, spared: Collection[str], now: float, *, is_stuck: bool) -> tuple[int, ...]:
        """
        Indices of devices not to ask about.

        Args:
            spared: UUIDs of those that are not to be touched.
            now: Of the loop's time.
            is_stuck: A prober that hung is not dead yet: then the driver has not come to itself either.
        """
        silent = {at for at, one in self._silent.items() if one.hangs >= HANGS and (is_stuck or now < one.until)}
        return tuple(sorted(silent | {one.index for one in self._known if one.uuid in spared}))

    def known_gpus(self) -> list[tuple[int, str, str]]:
        """Index, UUID and PCI address of every GPU as it was read last."""
        return [(one.index, one.uuid, one.pci) for one in self._known if one.parent is None]

    def complete(
        self, reading: Reading, left_out: Iterable[int], spared: Collection[str], named: Iterable[Lost] = ()
    ) -> Reading:
        """A good reading with the silent devices and the *named* in it, as they last answered, and lost."""
        missing = set(left_out)
        self._silent = {at: one for at, one in self._silent.items() if at in missing}
        lost = [
            replace(one, health=Health.LOST, reason=self._silent[one.index].words, memory_free_bytes=None, holders=None)
            for one in self._known
            if one.index in self._silent and one.uuid not in spared
        ]
        lost += self._recall(named)
        unknown = self._silent.keys() - {one.index for one in self._known}
        details = [reading.detail, *(f"device {at}: {self._silent[at].words}" for at in sorted(unknown))]
        untouched = [one for one in self._known if one.index in missing and one.index not in self._silent]
        devices = tuple(sorted((*reading.devices, *lost), key=lambda one: one.index))
        self._known = tuple(sorted((*devices, *untouched), key=lambda one: one.index))
        return replace(reading, devices=devices, detail="; ".join(filter(None, details)))

    def _recall(self, named: Iterable[Lost]) -> list[Device]:
        """With their instances: where the GPU is lost those are."""
        return [
            replace(
                device,
                index=one.index,
                health=Health.LOST,
                reason=one.words,
                memory_free_bytes=None,
                holders=None,
                vitals=Vitals(fault=one.code),
                checkup=None,
            )
            for one in named
            for device in self._known
            if one.uuid in {device.uuid, device.parent}
        ]
