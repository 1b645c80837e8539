"""
Durations, sizes and percentages as the file writes them.

Sizes are integers of bytes from the first digit on: no float ever stands between the file and the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from supervisor.core.file.problems import BadValueError, nearest, shown

DURATION_MAX_S = 10 * 365 * 86400.0  # Ten years: beyond any use, and far below what timers of the system take.
SIZE_MAX = 2**63 - 1  # What NVML and the kernel count in.

CPU_MAX = 65536  # Beyond any host.

_UNIT_S: dict[str, Fraction | int] = {"ms": Fraction(1, 1000), "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}
_UNIT_BYTES = {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)} | {
    f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)
}
# The counts of digits are bounded so that no text, however long, makes big arithmetic.
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([A-Za-z%]*)", re.ASCII)
_CPU = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(m?)", re.ASCII)


MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Percent:
    """A part of a whole, in thousandths of it: ``12.5%`` is 125."""

    thousandths: int

    def __str__(self) -> str:
        return f"{self.thousandths / 10:g}%"


Amount = int | Percent
"""An amount of memory: bytes, or a part of what there is."""


def amount_bytes(amount: Amount, total_bytes: int) -> int:
    """
    An amount of memory in bytes.

    Args:
        amount: Bytes, or a part of the total.
        total_bytes: What the part is of; >= 0.

    Returns:
        Bytes, rounded down.
    """
    if isinstance(amount, Percent):
        return total_bytes * amount.thousandths // 1000
    return amount


def parse_duration_s(value: object) -> float:
    """
    Seconds of a duration.

    Args:
        value: ``500ms``, ``10s``, ``5m``, ``2h``, ``1d``; a bare number is seconds.

    Returns:
        0 to DURATION_MAX_S seconds.

    Raises:
        BadValueError: It is none of these, negative, not finite or beyond ten years.
    """
    refused = BadValueError(
        f"expected a duration such as 500ms, 10s, 5m, 2h or 1d, got {shown(value)}",
        "the units are ms, s, m, h and d; a bare number is seconds" if isinstance(value, str) else "",
    )
    seconds: Fraction | int | float
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None or match[2] not in _UNIT_S:
            raise refused
        seconds = Fraction(match[1]) * _UNIT_S[match[2]]
    elif isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise refused
    else:
        seconds = value
    if seconds > DURATION_MAX_S:
        raise BadValueError(f"expected a duration of ten years at the most, got {shown(value)}")
    return float(seconds)


def duration(shortest_s: float) -> Callable[[object], float]:
    """A reader of durations of at least so many seconds."""

    def read(value: object) -> float:
        seconds = parse_duration_s(value)
        if seconds < shortest_s:
            raise BadValueError(f"expected a duration of at least {shortest_s * 1000:g}ms, got {shown(value)}")
        return seconds

    return read


def parse_size(value: object) -> int:
    """
    Bytes of a size.

    Args:
        value: ``20GiB`` (KiB to TiB), ``20GB`` (KB to TB); a bare whole number is bytes.

    Returns:
        0 to 2**63 - 1 bytes; a broken part of a byte is dropped.

    Raises:
        BadValueError: It is none of these, negative or too large.
    """
    refused = f"expected a size such as 512MiB or 20GiB, got {shown(value)}"
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None:
            raise BadValueError(refused)
        number, unit = match.groups()
        if unit not in _UNIT_BYTES and not (unit == "" and "." not in number):
            raise BadValueError(refused, _near_unit(number, unit))
        size = int(Fraction(number) * _UNIT_BYTES.get(unit, 1))
    elif isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadValueError(refused, "a bare number is whole bytes" if isinstance(value, float) else "")
    else:
        size = int(value)
    if size > SIZE_MAX:
        raise BadValueError(f"expected a size below 2**63 bytes, got {shown(value)}")
    return size


def parse_amount(value: object) -> Amount:
    """
    An amount of memory.

    Args:
        value: A size, or a part: ``50%``, in steps of 0.1, up to 100.

    Returns:
        Bytes or Percent.

    Raises:
        BadValueError: It is neither.
    """
    if not isinstance(value, str) or not value.endswith("%"):
        return parse_size(value)
    match = _NUMBER_AND_UNIT.fullmatch(value)
    thousandths = Fraction(match[1]) * 10 if match and match[2] == "%" else Fraction(-1)
    if thousandths.denominator != 1 or not 0 <= thousandths <= 1000:
        raise BadValueError(f"expected a percentage from 0% to 100% in steps of 0.1, got {shown(value)}")
    return Percent(int(thousandths))


def parse_amount_above_zero(value: object) -> Amount:
    """An amount of memory that is not nothing."""
    amount = parse_amount(value)
    if amount in (0, Percent(0)):
        raise BadValueError(f"expected more than nothing, got {shown(value)}", "leave it out to declare no memory")
    return amount


def parse_size_above_zero(value: object) -> int:
    """A size of the host's memory that is not nothing; a part of it would be another amount on every machine."""
    if isinstance(value, str) and value.endswith("%"):
        raise BadValueError(f"expected a size such as 512MiB or 20GiB, got {shown(value)}", "write how much it is")
    size = parse_size(value)
    if size == 0:
        raise BadValueError(f"expected more than nothing, got {shown(value)}", "leave it out to declare no memory")
    return size


def _near_unit(number: str, unit: str) -> str:
    """A hint with the unit that was meant: ``20G``, ``20Gi`` and ``20gib`` are all common elsewhere."""
    same = [known for known in _UNIT_BYTES if known.lower() in (unit.lower(), f"{unit}b".lower(), f"{unit}ib".lower())]
    return f"did you mean {number}{same[0]}?" if same else nearest(unit, _UNIT_BYTES)


def parse_cpu(value: object) -> int:
    """
    Cores of the CPU.

    Args:
        value: A number with at most three digits after the point (``4``, ``0.5``), or thousandths (``500m``); quotes
            are Kubernetes' way of writing either.

    Returns:
        Thousandths of a core, 1 to 1000 * CPU_MAX.

    Raises:
        BadValueError: It is none of these.
    """
    text = value if isinstance(value, str) else repr(value)
    match = None if isinstance(value, bool) or not isinstance(value, str | int | float) else _CPU.fullmatch(text)
    refused = f"expected a number of cores such as 4, 0.5 or 500m, got {shown(value)}"
    if match is None:
        is_milli = isinstance(value, str) and value.endswith("M") and _CPU.fullmatch(value.lower())
        like = f"did you mean {value[:-1]}m?" if isinstance(value, str) and is_milli else ""
        raise BadValueError(refused, "leave it out to declare none" if value is None else like)
    millis = Fraction(match[1]) * (1 if match[2] else 1000)
    if millis.denominator != 1:
        raise BadValueError(refused, "the smallest part is a thousandth, 0.001 or 1m")
    if millis == 0:
        raise BadValueError(f"expected more than nothing, got {shown(value)}", "leave it out to declare no cores")
    if millis > 1000 * CPU_MAX:
        raise BadValueError(f"expected {CPU_MAX} cores at the most, got {shown(value)}")
    return int(millis)
