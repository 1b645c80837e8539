"""
Which sockets the daemon listens on: those that a worker of the file has or is to have, from before its first start on.

Kept as they are through restarts, reloads, stops and failures, so that nobody who connects meanwhile is turned away;
closed when the last worker that has them is gone. What cannot be bound is one service's trouble, and is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.core.message import Bind, Say, SocketsBound, Unbind
from supervisor.core.worker import HOLDING, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.core.file.listen import Address, Socket
    from supervisor.core.turn import Fleet, Turn

RETRY_S = 5.0
"""Between two tries to bind an address that somebody else has."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address could not be bound, and the monotonic second at which that is tried again."""

    reason: str
    retry_at: float


def sockets_of(worker: Worker | None) -> tuple[tuple[Socket, ...], tuple[Socket, ...]]:
    """The sockets that a worker is meant to have, and those that its process has."""
    if worker is None:
        return (), ()
    meant = worker.target.wanted.recipe.listen if worker.target else ()
    has = worker.held.wanted.recipe.listen if worker.held and worker.state in HOLDING else ()
    return meant, has


def take_answer(turn: Turn, event: SocketsBound) -> None:
    """What was asked for is bound, or is not: then those that wait for it say why."""
    fleet = turn.fleet
    answered = {*event.bound, *event.refused}
    refused = {address: one for address, one in fleet.refused.items() if address not in event.bound}
    retry_at = turn.now + RETRY_S
    turn.set(
        bound=fleet.bound | set(event.bound),
        binding=fleet.binding - answered,
        refused={**refused, **{address: Refusal(why, retry_at) for address, why in event.refused.items()}},
    )
    turn.has_other_sockets = True  # Nobody may want it any more.
    for address, why in event.refused.items():
        before = fleet.refused.get(address)
        if before is None or before.reason != why:
            fields = {"address": str(address), "services": _services_of(turn, address), "reason": why}
            turn.do(Say("socket.refused", {**fields, "retry_in_s": RETRY_S}, is_warning=True))


def wait_of(turn: Turn, worker: Worker) -> tuple[str, float | None] | None:
    """
    For which of its sockets a worker that is to start has to wait, and when to look again; None if for none.

    One whose time has come is asked for once more: the answer will tell.
    """
    fleet = turn.fleet
    for socket in sockets_of(worker)[0]:
        address = socket.address
        if address in fleet.bound:
            continue
        refusal = fleet.refused.get(address)
        if refusal is None:
            return f"binding {address}", None
        is_asked = address in fleet.binding or turn.now >= refusal.retry_at
        turn.has_other_sockets |= is_asked
        return _words(address, refusal), None if is_asked else refusal.retry_at
    return None


def is_missing(fleet: Fleet, worker: Worker) -> bool:
    """Whether a worker could not start now for want of a socket."""
    return any(socket.address not in fleet.bound for socket in sockets_of(worker)[0])


def refusal_of(fleet: Fleet, worker: Worker) -> str | None:
    """Why a worker cannot have the sockets that it is meant to have, None where none was refused."""
    return refusal_for(fleet, sockets_of(worker)[0]) if fleet.refused else None


def refusal_for(fleet: Fleet, sockets: Iterable[Socket]) -> str | None:
    """Why some of these sockets cannot be had, as far as that is known."""
    refused = (one.address for one in sockets if one.address in fleet.refused)
    return next((_words(address, fleet.refused[address]) for address in refused), None)


def coming(fleet: Fleet, service: str) -> tuple[Socket, ...]:
    """What the newest file has a service listen to; those that keep an old launch do not yet."""
    spec = fleet.spec.services.get(service) if fleet.spec else None
    return spec.listen if spec else ()


def retry(turn: Turn) -> None:
    """Somebody has asked for something anew: what could not be bound is tried again at once."""
    if turn.fleet.refused:
        turn.set(refused={})
        turn.has_other_sockets = True


def settle(turn: Turn) -> None:
    """Ask for the sockets that are missing, and close what nobody has any more. Costs nothing where nobody moved."""
    if not turn.has_other_sockets and turn.fleet.tried is turn.before.tried:
        return
    turn.has_other_sockets = False
    fleet = turn.fleet
    found = [sockets_of(worker) for worker in turn.workers.values()]
    meant = {socket.address for sockets, _ in found for socket in sockets}
    # Nobody goes down for a new address before it is there.
    meant |= {socket.address for name in fleet.rolling for socket in coming(fleet, name)}
    # Nor is the old one closed while somebody may go back to it: others would take it meanwhile.
    meant |= {socket.address for one in fleet.tried.values() if one.was for socket in one.was.recipe.listen}
    wanted = meant | {socket.address for _, sockets in found for socket in sockets}
    refused = {address: one for address, one in fleet.refused.items() if address in wanted}
    later = {address for address, one in refused.items() if turn.now < one.retry_at}
    missing = meant - fleet.bound - fleet.binding - later
    left = fleet.bound - wanted
    if refused != fleet.refused:
        turn.set(refused=refused)
    if left:
        turn.set(bound=fleet.bound - left)
        turn.do(Unbind(tuple(sorted(left))))
    if missing and not fleet.exiting:
        turn.set(binding=fleet.binding | missing)
        turn.do(Bind(tuple(sorted(missing))))


def _words(address: Address, refusal: Refusal) -> str:
    return f"cannot listen on {address}: {refusal.reason}"


def _services_of(turn: Turn, address: Address) -> list[str]:
    workers = turn.workers.values()
    found = {one.id.service for one in workers if any(it.address == address for it in sockets_of(one)[0])}
    return sorted(found)
