"""
The file-wide key `health`: what becomes of a device that is sick, and of those who work there.

File-wide, not a service's: a device is empty only when everybody has left it, so one service that stayed would keep it
from being reset, and a fault of the device is nobody's own.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from supervisor.core.file.probe_keys import SHORTEST_S, read_argv
from supervisor.core.file.problems import Place, Section, choice, leaf, read_section
from supervisor.core.file.quantities import duration
from supervisor.core.xids import XidClass

OnFault = Literal["drain", "kill", "ignore"]


class HealthSpec(BaseModel):
    """
    What the file says of sick devices.

    Args:
        on_fault: What becomes of workers on one: asked to end and started elsewhere, killed and started elsewhere, or
            left alone.
        probation: Seconds that a device has to be well before it is used again, the first time.
        max_probation: At the most; each quarantine in a row takes twice as long as the one before.
        canary: A command that has to end well on the device before it is used again; empty for none.
        canary_timeout: Seconds that it may take.
        xids: Numbers of the driver's errors that count as another class than in the table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_fault: OnFault = "drain"
    probation: float = 300.0
    max_probation: float = 3600.0
    canary: tuple[str, ...] = ()
    canary_timeout: float = 30.0
    xids: tuple[tuple[int, XidClass], ...] = ()


def read_health(place: Place) -> HealthSpec:
    """The whole key."""
    good = read_section(place, HEALTH)
    found = HealthSpec.model_validate(good)
    if found.max_probation < found.probation:
        if "max_probation" in good:
            place.refuse("expected at least probation", below=("max_probation",))
        found = found.model_copy(update={"max_probation": found.probation})
    return found


HEALTH = Section(
    keys={
        "on_fault": leaf(choice(*get_args(OnFault))),
        "probation": leaf(duration(SHORTEST_S)),
        "max_probation": leaf(duration(SHORTEST_S)),
        "canary": read_argv,
        "canary_timeout": leaf(duration(SHORTEST_S)),
    },
    not_yet=frozenset({"xids"}),
    example="health: {on_fault: drain}",
)
