"""
Whether a dead process' memory is back on one device, by what three witnesses say of it. Values in, a verdict out.

The witnesses: the driver's list of processes, who has the device's files open, and free memory. Each may be missing or
be of no use: then the others count, and the verdict says how much it proves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from supervisor.core.file.quantities import MIB

SLACK_BYTES, SLACK_PERCENT = 64 * MIB, 2
"""What memory figures may be off for reasons that are nobody's: the larger of the two, of a device's total."""


class Proof(IntEnum):
    """On whose word memory counts as back; the higher, the surer."""

    NOTHING = 0  # Nobody can tell: its processes are gone, and that is all there is.
    FILES = 1  # No process of it has the device open.
    MEMORY = 2  # As much is free as the next one needs, or as there was before it.
    LIST = 3  # The driver lists nothing of it, and no memory is without an owner.
    NONE_HELD = 4  # It had no GPU there that the machine still has.


WORDS = {
    Proof.NOTHING: "nothing but the end of its processes",
    Proof.FILES: "no process of it has the GPU open",
    Proof.MEMORY: "enough memory is free",
    Proof.LIST: "the driver lists no process of it",
    Proof.NONE_HELD: "its GPUs are gone",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """
    What was seen of a process on one device while it lived: what its end is measured by.

    Args:
        listed: The driver's list has shown it there, so the list can be believed when it shows it no more.
        unlisted: It had the device open as only who computes there does, and the list did not show it.
        had: The most bytes that the list showed for it, None if it never did.
        stray: The fewest bytes that were used and nobody's on the list, from its start on.
        free: Bytes free when it was let start, less what others were still to take.
        beside: Who had a part of the device then: its incarnation, and the bytes it had declared, None if it had not.
    """

    listed: bool = False
    unlisted: bool = False
    had: int | None = None
    stray: int | None = None
    free: int | None = None
    beside: tuple[tuple[int, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What the witnesses say of one device, all of it asked for after the end. None: that witness cannot tell.

    Args:
        device: Its name to a person.
        listed: The driver's list, which can be believed, shows a process of it.
        opened: A process of it has the device open.
        fits: What it had declared, or all that it needs of a device for itself, is free.
        lacking: Bytes that were free before it and are not accounted for now.
        figures: The memory of the device in words, empty where it is not told.
        may_be_asked: Who has the device open has not been looked at yet, and will be.
    """

    device: str
    listed: bool | None = None
    opened: bool | None = None
    fits: bool | None = None
    lacking: int | None = None
    figures: str = ""
    may_be_asked: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one device: whether the memory is back; if so on whose word, if not why not."""

    is_back: bool
    proof: Proof = Proof.NOTHING
    reason: str = ""


def judge(evidence: Evidence) -> Verdict:
    """
    Weigh what the witnesses say of one device.

    A list that can be believed comes first; beside it memory counts as stuck only where it is nobody's, so that
    neighbours may grow and shrink. Without such a list free memory decides, and without any figures the open files.
    """
    if evidence.listed:
        return _held(evidence, "the driver still lists its process")
    if evidence.opened:
        return _held(evidence, "a process of it still has the GPU open")
    if evidence.listed is False:
        if evidence.lacking:
            return _held(evidence, f"{evidence.lacking // MIB} MiB are used by no process that is listed")
        return Verdict(is_back=True, proof=Proof.LIST)
    if evidence.fits or evidence.lacking == 0:
        return Verdict(is_back=True, proof=Proof.MEMORY)
    if evidence.fits is False or evidence.lacking is not None:
        return _held(evidence, "who has the rest is not told")
    if evidence.opened is False:
        return Verdict(is_back=True, proof=Proof.FILES)
    if evidence.may_be_asked:
        return _held(evidence, "who has it open is being looked at")
    return Verdict(is_back=True, proof=Proof.NOTHING)


def _held(evidence: Evidence, why: str) -> Verdict:
    figures = f"{evidence.figures}, " if evidence.figures else ""
    return Verdict(is_back=False, reason=f"{evidence.device}: {figures}{why}")


def slack_bytes(total: int) -> int:
    """By how much figures of a device of so many bytes may differ and still be the same."""
    return max(SLACK_BYTES, total * SLACK_PERCENT // 100)


def lacking_bytes(before: int, now: int, total: int) -> int:
    """How much less there is than before; 0 where that is within the slack."""
    lacking = before - now
    return lacking if lacking > slack_bytes(total) else 0
