"""What must be true of sockets: there before a start, bound once, kept as long as somebody has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.message import Bind, Cause, State, Unbind
from supervisor.core.sockets import RETRY_S
from supervisor.core.turn import DaemonState
from supervisor.core.worker import HOLDING, RUNNING
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from supervisor.core.file.listen import Address
    from supervisor.core.turn import Fleet
    from tests.sim.world import World


def starts_find_their_sockets(world: World, step: Step) -> Iterator[str]:
    """Every one of the file is open by then, and the worker is told of them in the file's order."""
    for spawn in step.spawns:
        sockets = spawn.launch.recipe.listen
        if missing := {str(one.address) for one in sockets} - {str(one) for one in world.addresses.ours}:
            yield f"{spawn.worker} starts without {missing}"
        names = ":".join(one.name for one in sockets) if sockets else None
        if (spawn.env.get("LISTEN_FDNAMES"), spawn.env.get("LISTEN_FDS")) != (names, names and str(len(sockets))):
            yield f"{spawn.worker} with {names} is told of {spawn.env.get('LISTEN_FDNAMES')}"


def sockets_are_bound_once(world: World, step: Step) -> Iterator[str]:
    """Nobody asks for what is open, or asked for already; and no stranger's address is asked for all the time."""
    for action in step.actions:
        for address in action.addresses if isinstance(action, Bind) else ():
            if address in world.addresses.ours or address in step.before.binding:
                yield f"{address} is bound a second time"
            refusal = step.before.refused.get(address)
            is_still_refused = refusal is not None and step.after.refused.get(address) is refusal
            if refusal is not None and is_still_refused and step.now < refusal.retry_at - EPSILON_S:
                yield f"{address} is asked for again {refusal.retry_at - step.now:.1f} s early"


def sockets_are_kept(_world: World, step: Step) -> Iterator[str]:
    """Through restarts, reloads, stops and failures: as long as a worker has them, or the file has the worker."""
    used = _meant(step.after) | _held(step.after)
    for action in step.actions:
        for address in set(action.addresses) & used if isinstance(action, Unbind) else ():
            yield f"{address} is closed while somebody has it"


def nobody_goes_down_for_what_is_not_bound(_world: World, step: Step) -> Iterator[str]:
    """A roll-out takes no worker from its old address before the new one is there."""
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or before.state not in RUNNING or after.state is not State.STOPPING:
            continue
        if after.cause is Cause.ROLLOUT and after.target and not before.occupied:
            missing = [str(one.address) for one in after.target.wanted.recipe.listen if one.address not in _had(step)]
            if missing:
                yield f"{change.id} goes down for {missing}, which is not bound"


def open_sockets_are_somebodys(world: World, step: Step) -> Iterator[str]:
    """What no worker has is closed; what one is to have is there, asked for, or refused."""
    fleet = step.after
    if fleet.exiting:
        return
    meant, held = _meant(fleet), _held(fleet)
    if left := fleet.bound - meant - held:
        yield f"{sorted(map(str, left))} is open for nobody"
    if lost := meant - fleet.bound - fleet.binding - fleet.refused.keys():
        yield f"nobody asks for {sorted(map(str, lost))}"
    if fleet.bound - world.addresses.ours:
        yield f"{fleet.bound - world.addresses.ours} is taken for open"


def refused_is_tried_again(_world: World, step: Step) -> Iterator[str]:
    """Who waits for an address looks again soon, unless it is being asked for or he waits for something else first."""
    fleet = step.after
    if not fleet.refused or fleet.state is DaemonState.STOPPING:
        return
    for worker in fleet.workers.values():
        if worker.state is not State.PENDING or not worker.reason.startswith("cannot listen on "):
            continue
        missing = {one.address for one in worker.target.wanted.recipe.listen} if worker.target else set()
        if missing & fleet.binding or not missing & fleet.refused.keys():
            continue
        if worker.deadline is None or worker.deadline > step.now + RETRY_S + EPSILON_S:
            yield f"{worker.id} waits for an address and does not look again"


def _meant(fleet: Fleet) -> set[Address]:
    targets = (worker.target for worker in fleet.workers.values() if worker.target)
    services = fleet.spec.services if fleet.spec else {}
    # What a roll-out goes to is there before the first of its workers.
    coming = {one.address for name in fleet.rolling if name in services for one in services[name].listen}
    # What one that is on its way to the file may go back to stays.
    coming |= {socket.address for one in fleet.tried.values() if one.was for socket in one.was.recipe.listen}
    return coming | {socket.address for target in targets for socket in target.wanted.recipe.listen}


def _held(fleet: Fleet) -> set[Address]:
    held = (worker.held for worker in fleet.workers.values() if worker.held and worker.state in HOLDING)
    return {socket.address for one in held for socket in one.wanted.recipe.listen}


def _had(step: Step) -> frozenset[Address]:
    """What is bound when the step decides: its event may be the answer."""
    return step.before.bound | step.after.bound


RULES: tuple[Rule, ...] = (
    starts_find_their_sockets,
    sockets_are_bound_once,
    sockets_are_kept,
    nobody_goes_down_for_what_is_not_bound,
)
STATE_RULES: tuple[Rule, ...] = (open_sockets_are_somebodys, refused_is_tried_again)
