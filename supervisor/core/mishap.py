"""
What becomes of the fleet where our own bug keeps it from taking an event.

Nothing of the event holds, but that an answer has come does: nobody waits for it for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.evolve import evolve
from supervisor.core.fleet import handle
from supervisor.core.gpus import RETRY_S
from supervisor.core.message import Action, Event, HostRead, InventoryRead
from supervisor.core.turn import DaemonState, Fleet


@dataclass(frozen=True, slots=True)
class Taken:
    """
    What an event has made of the fleet.

    Args:
        fleet: The next one.
        actions: What is to be done, in order.
        error: Why the event was not taken, None where it was.
    """

    fleet: Fleet
    actions: tuple[Action, ...] = ()
    error: Exception | None = None


def take(fleet: Fleet, event: Event, now: float) -> Taken:
    """
    Handle an event, whatever is wrong with us.

    Args:
        fleet: Before it.
        event: What happened or is asked for.
        now: Monotonic seconds.

    Returns:
        Where it could not be handled, the fleet as it was, which asks again for a reading that has been lost so.
    """
    try:
        return Taken(*handle(fleet, event, now))
    except Exception as error:  # noqa: BLE001 - Whatever it is: ending here would kill every model server.
        return Taken(_without(fleet, event, now), error=error)


def _without(fleet: Fleet, event: Event, now: float) -> Fleet:
    """The fleet after an event that came to nothing."""
    match event:
        case InventoryRead():
            lost = evolve(fleet, asked=None, ask_again=False, touched=frozenset())
        case HostRead():
            lost = evolve(fleet, host_asked=False, touched=frozenset())
        case _:
            return fleet
    # A reading makes everybody who waits look again. While stopping the fleet's deadline is another one.
    if fleet.state is DaemonState.STOPPING:
        return lost
    due = now + RETRY_S if fleet.deadline is None else min(fleet.deadline, now + RETRY_S)
    look_at = now + RETRY_S if fleet.look_at is None else min(fleet.look_at, now + RETRY_S)
    return evolve(lost, deadline=due, look_at=look_at)
