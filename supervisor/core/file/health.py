"""
The file-wide key `health`: what becomes of a device that is sick, and of those who work there.

File-wide, not a service's: a device is empty only when everybody has left it, so one service that stayed would keep it
from being reset, and a fault of the device is nobody's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from supervisor.core.file.hooks import read_words
from supervisor.core.file.probe_keys import SHORTEST_S
from supervisor.core.file.problems import Place, Section, choice, leaf, read_section, shown, whole_number
from supervisor.core.file.quantities import duration
from supervisor.core.xids import CLASSES, XidClass

OnFault = Literal["drain", "kill", "ignore"]
XID_MAX = 999
STRIKES_MAX = 1000


class HealthSpec(BaseModel):
    """
    What the file says of sick devices.

    Args:
        on_fault: What becomes of workers on one: asked to end and started elsewhere, killed and started elsewhere, or
            left alone.
        probation: Seconds that a device has to be well before it is used again, the first time.
        max_probation: At the most; each quarantine in a row takes twice as long as the one before.
        max_strikes: The so manyth in a row ends only by an operator's word; 0 = each ends by itself.
        canary: A command that has to end well on the device before it is used again; empty for none.
        canary_timeout: Seconds that it may take.
        xids: Numbers of the driver's errors that count as another class than in the table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_fault: OnFault = "drain"
    probation: float = 300.0
    max_probation: float = 3600.0
    max_strikes: int = 5
    canary: tuple[str, ...] = ()
    canary_timeout: float = 30.0
    xids: tuple[tuple[int, XidClass], ...] = ()


def read_health(place: Place) -> HealthSpec:
    """The whole key."""
    good = read_section(place, HEALTH)
    found = HealthSpec.model_validate(good)
    if found.max_probation < found.probation:
        if "max_probation" in good:
            message = f"expected at least probation ({found.probation:g}s), got {found.max_probation:g}s"
            place.refuse(message, below=("max_probation",))
        found = found.model_copy(update={"max_probation": found.probation})
    return found


def _read_xids(place: Place) -> tuple[tuple[int, str], ...]:
    """Numbers, quoted or not, and their classes."""
    if not isinstance(place.value, Mapping):
        if place.value is not None:
            place.refuse(f"expected a map, got {shown(place.value)}", 'write xids: {"94": hardware}')
        return ()
    found: dict[int, str] = {}
    for key, value in place.value.items():
        at = place.child(key, value)
        text = str(key)
        if isinstance(key, bool) or not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= XID_MAX):
            at.refuse(f"expected the number of an XID, got {shown(key)}", at_key=True)
        elif int(text) in found:
            at.refuse(f"XID {int(text)} is there already", "leave one of them out", at_key=True)
        elif (kind := at.read(choice(*CLASSES))) is not None:
            found[int(text)] = kind
    return tuple(found.items())


HEALTH = Section(
    keys={
        "on_fault": leaf(choice(*get_args(OnFault))),
        "probation": leaf(duration(SHORTEST_S)),
        "max_probation": leaf(duration(SHORTEST_S)),
        "max_strikes": leaf(whole_number(0, STRIKES_MAX)),
        "canary": lambda place: read_words(place, "canary: [./matmul.py, --quick] or canary: ./matmul.py --quick"),
        "canary_timeout": leaf(duration(SHORTEST_S)),
        "xids": _read_xids,
    },
    example="health: {on_fault: drain}",
)
