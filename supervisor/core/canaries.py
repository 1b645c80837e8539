"""
Canaries: the file's own command on a sick device, before anybody starts there again.

One runs only on a device that is ours on the whole machine: where another daemon's workers are it would disturb them,
and tell of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.core.health import CanaryEnded
from supervisor.core.inventory import Health
from supervisor.core.message import CanaryFinished, RunCanary
from supervisor.core.wards import parts_of, tell, terms_of

if TYPE_CHECKING:
    from supervisor.core.turn import Turn


def settle(turn: Turn) -> None:
    """Devices that are looked at once more get theirs as soon as they have been claimed."""
    spec = terms_of(turn.fleet)
    if not spec.canary:
        return
    for uuid, ailment in turn.fleet.ailments.items():
        is_due = ailment.health is Health.PROBING and uuid not in turn.fleet.canaries
        if is_due and turn.fleet.claimed.issuperset(parts_of(turn.fleet, uuid)):
            turn.set(canaries={**turn.fleet.canaries, uuid: ailment.since})
            turn.do(RunCanary(uuid, spec.canary, spec.canary_timeout))


def take(turn: Turn, event: CanaryFinished) -> None:
    """What came of one; of one that was begun for an earlier look nothing does."""
    since = turn.fleet.canaries.get(event.uuid)
    turn.set(canaries={uuid: at for uuid, at in turn.fleet.canaries.items() if uuid != event.uuid})
    ailment = turn.fleet.ailments.get(event.uuid)
    if ailment is not None and ailment.since == since:
        fault = f"its canary: {event.fault}" if event.fault else ""
        tell(turn, event.uuid, CanaryEnded(fault, event.is_unable))
