"""
What an operator asks for: workers held down, let go, replaced in turn, and counts other than the file's.

Sets what is wanted and returns; the rest of the turn, and those that follow, carry it out. Each order can be given
again, at any moment, also beside a reload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.core import rescale
from supervisor.core.evolve import evolve
from supervisor.core.message import RestartRequested, Say, ScaleRequested, StartRequested, StopRequested
from supervisor.core.spec import WorkerId, scale_problems
from supervisor.core.turn import DaemonState, Restarting, Turn
from supervisor.core.worker import RestartAsked, StartAsked, StopAsked

if TYPE_CHECKING:
    from supervisor.core.turn import Holds


def stop(turn: Turn, event: StopRequested) -> None:
    """Hold workers down until they are started, be they there or not: an index that comes later is held too."""
    holds = _without(turn.fleet.holds, event.services)
    holds |= dict.fromkeys(event.services, True)
    holds |= dict.fromkeys(event.workers, True)
    turn.set(holds=holds)
    for worker in _named(turn, event):
        turn.tell(worker, StopAsked())


def start(turn: Turn, event: StartRequested) -> None:
    """Let workers run, with clean counts."""
    holds = _without(turn.fleet.holds, event.services)
    for worker in event.workers:
        holds.pop(worker, None)
        if holds.get(worker.service):
            holds[worker] = False  # The service stays down, but for this one.
    turn.set(holds=holds)
    for worker in _named(turn, event):
        turn.tell(worker, StartAsked())


def restart(turn: Turn, event: RestartRequested) -> None:
    """
    Replace processes in turn, as for a new launch; whoever has none to lose starts at once.

    Workers that are held down stay so. Who runs without the GPU that it asked for is asked for one again.
    """
    if turn.fleet.state is DaemonState.STOPPING:
        return
    asked = frozenset(worker for worker in _named(turn, event) if not turn.workers[worker].down)
    targets = [turn.workers[worker].target for worker in asked]
    if any(target is not None and target.fallback for target in targets):
        rescale.replan(turn, asked=asked)
    restarting = dict(turn.fleet.restarting)
    for worker in sorted(asked & turn.workers.keys()):
        turn.tell(worker, RestartAsked())
        before = restarting.get(worker.service)
        restarting[worker.service] = Restarting(
            turn.now, frozenset({worker}) | (before.workers if before else frozenset())
        )
    turn.set(restarting=restarting)


def scale(turn: Turn, event: ScaleRequested) -> None:
    """Other counts than the file's, until the next reload; one that is under way does not take them back."""
    fleet = turn.fleet
    if fleet.spec is None or fleet.state is DaemonState.STOPPING:
        return
    scaled = {**fleet.scaled, **event.counts}
    if problems := scale_problems(fleet.spec.scale(fleet.sizes), scaled, fleet.cpu_count):
        turn.do(Say("scale.rejected", {"problems": list(problems)}, is_warning=True))
        return
    if fleet.reload is not None:
        turn.set(reload=evolve(fleet.reload, scaled={**fleet.reload.scaled, **event.counts}))
    turn.set(scaled=fleet.spec.without_effectless(scaled, fleet.cpu_count), sizes_due=True)
    rescale.replan(turn)


def _named(turn: Turn, event: StopRequested | StartRequested | RestartRequested) -> list[WorkerId]:
    """Workers that an order is about, in their order."""
    return [one for one in sorted(turn.workers) if one in event.workers or one.service in event.services]


def _without(holds: Holds, services: tuple[str, ...]) -> dict[WorkerId | str, bool]:
    """What is held beside some services: an order for a service ends those for its workers."""

    def service_of(one: WorkerId | str) -> str:
        return one if isinstance(one, str) else one.service

    return {one: is_held for one, is_held in holds.items() if service_of(one) not in services}
