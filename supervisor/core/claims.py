"""
Which devices this daemon claims machine-wide, so that no other one starts anything there.

Asked for before the first start on a device, let go when nobody of ours is placed there any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.core.message import Claim, DevicesClaimed, DevicesFreed, LetGo, Say
from supervisor.core.worker import reach

if TYPE_CHECKING:
    from supervisor.core.plan import Launch
    from supervisor.core.turn import Turn


def take_answer(turn: Turn, event: DevicesClaimed) -> None:
    """What was asked for is ours, or another daemon's: then those that were meant for it are placed anew."""
    fleet = turn.fleet
    answered = {*event.claimed, *event.held}
    turn.set(
        claimed=fleet.claimed | set(event.claimed),
        claiming=fleet.claiming - answered,
        elsewhere={**{uuid: who for uuid, who in fleet.elsewhere.items() if uuid not in answered}, **event.held},
    )
    turn.has_moved = True  # Nobody may want it any more.
    if event.held:
        turn.stale = True
        turn.do(Say("device.held", {"devices": dict(event.held)}, is_warning=True))


def take_freed(turn: Turn, event: DevicesFreed) -> None:
    """Another daemon has let devices go: those that wait for a place may have one."""
    left = {uuid: who for uuid, who in turn.fleet.elsewhere.items() if uuid not in event.uuids}
    if len(left) < len(turn.fleet.elsewhere):
        turn.set(elsewhere=left)
        turn.stale = True


def are_claimed(turn: Turn, launch: Launch) -> bool:
    """Whether every device of a launch is ours."""
    return all(share.uuid in turn.fleet.claimed for share in launch.slice)


def settle(turn: Turn) -> None:
    """Ask for what workers are placed on by now, and let go what they are not. Costs nothing where nobody moved."""
    if not turn.has_moved or turn.fleet.exiting:
        return
    turn.has_moved = False
    fleet = turn.fleet
    wanted = frozenset(uuid for worker in turn.workers.values() for uuid in reach(worker))
    missing = wanted - fleet.claimed - fleet.claiming - fleet.elsewhere.keys()
    left = fleet.claimed - wanted
    if missing:
        turn.set(claiming=fleet.claiming | missing)
        turn.do(Claim(tuple(sorted(missing))))
    if left:
        turn.set(claimed=fleet.claimed - left)
        turn.do(LetGo(tuple(sorted(left))))
