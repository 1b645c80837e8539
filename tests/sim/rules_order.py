"""What must be true of `after`: nobody starts before those it comes after were ready, and the end goes in reverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.message import Cause, ShutdownRequested, State, StopRequested
from supervisor.core.spec import WorkerId
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import LIVING, RUNNING, Worker
from tests.sim.notes import MET
from tests.sim.rules_start import wanted_by_file
from tests.sim.trouble import EPSILON_S, Rule, Step, is_named

if TYPE_CHECKING:
    from tests.sim.world import World

MARGIN_S = 6.0


def start_comes_after_those_before_it(world: World, step: Step) -> Iterator[str]:
    """Each service that the file names before it has been ready, or has nobody to be."""
    for spawn in step.spawns:
        if missing := missing_before(world, step.after, spawn.worker.service):
            yield f"{spawn.worker} is started before {sorted(missing)} were ready"


def end_goes_in_reverse(world: World, step: Step) -> Iterator[str]:
    """While the daemon stops nobody is asked to end before those that come after it are gone, or had their time."""
    notes = world.checks.notes
    if step.after.state is not DaemonState.STOPPING:
        return
    is_second = isinstance(step.event, ShutdownRequested) and step.before.state is DaemonState.STOPPING
    asked = [one for one in step.changes if _is_asked_to_end(one.before, one.after)] if not is_second else []
    # Who is stopped by name while the daemon stops is stopped as at any other time.
    asked = [one for one in asked if not (isinstance(step.event, StopRequested) and is_named(step.event, one.id))]
    for change in asked:
        for tree in world.processes.living():
            later = tree.order.worker
            since = notes.asked_to_end.get(later)
            other = step.before.workers.get(later)
            if other is None or change.id.service not in firsts_of(step.after, later.service):
                continue
            time_s = other.policy.stop.timeout_s + MARGIN_S
            if since is None or step.now < since + time_s - EPSILON_S:
                yield f"{change.id} is asked to end while {later}, which comes after it, lives"
    for change in step.changes:
        if change.after is not None and change.after.target is None:
            notes.asked_to_end.setdefault(change.id, step.now)


def _is_asked_to_end(before: Worker | None, after: Worker | None) -> bool:
    if before is None or after is None or before.target is None or after.target is not None:
        return False
    return before.state in RUNNING and after.state is State.STOPPING and after.cause is Cause.OPERATOR


def waits_say_for_whom(world: World, step: Step) -> Iterator[str]:
    """Who has a place and waits for others says so with numbers, and nobody else does."""
    fleet = step.after
    if fleet.state is DaemonState.STOPPING:
        return
    for worker_id in fleet.waiting - fleet.in_line:
        reason = fleet.workers[worker_id].reason
        missing = missing_before(world, fleet, worker_id.service)
        words = [f"{name}: {ready} of {total} ready" for name, (ready, total) in missing.items()]
        expected = f"waits for {', '.join(words)}" if words else ""
        if reason.startswith("waits for ") != bool(words) or (words and reason != expected):
            yield f"{worker_id} says {reason!r} and should say {expected!r}"


def nobody_is_kept_for_nothing(world: World, step: Step) -> Iterator[str]:
    """While the daemon stops, who is not asked to end yet is needed by somebody who lives."""
    fleet = step.after
    if fleet.state is not DaemonState.STOPPING or fleet.exiting:
        return
    living = {one.id.service for one in fleet.workers.values() if one.state in LIVING}
    needed = {first for service in living for first in firsts_of(fleet, service)}
    known = fleet.spec.services.keys() if fleet.spec else set()
    gone = [one for one in fleet.workers.values() if one.state in LIVING and one.id.service not in known]
    needed |= {first for one in gone for first in one.policy.after}
    needed |= {first for service in set(needed) for first in firsts_of(fleet, service)}
    for worker in fleet.workers.values():
        if worker.target is not None and worker.id.service not in needed:
            yield f"{worker.id} is {worker.state} and nobody asks it to end"


# ---- what the file means, worked out a second time ------------------------------------------------------------------


def missing_before(world: World, fleet: Fleet, service: str) -> dict[str, tuple[int, int]]:
    """Services that have not been ready, of those that a service comes after: how many of them are, of how many."""
    spec, notes = fleet.spec, world.checks.notes
    found: dict[str, tuple[int, int]] = {}
    if spec is None or service not in spec.services:
        return found
    for first in spec.services[service].after:
        ids = [one for one in wanted_by_file(world, fleet) if one.service == first and not notes.is_down(one)]
        if ids and first not in notes.been_ready:
            found[first] = (sum(_state(fleet, one) in MET for one in ids), len(ids))
    return found


def _state(fleet: Fleet, worker: WorkerId) -> State | None:
    found = fleet.workers.get(worker)
    return found.state if found else None


def firsts_of(fleet: Fleet, service: str) -> set[str]:
    """Services that a service comes after, be it by way of others."""
    services = fleet.spec.services if fleet.spec else {}
    direct = services[service].after if service in services else ()
    return {one for first in direct for one in (first, *firsts_of(fleet, first))}


def layers(fleet: Fleet) -> int:
    """How many layers an end may have: the longest way from a service over those it comes after."""
    services = fleet.spec.services if fleet.spec else {}
    after = {name: set(service.after) for name, service in services.items()}
    for worker in fleet.workers.values():
        after.setdefault(worker.id.service, set()).update(worker.policy.after)

    def depth(name: str, seen: frozenset[str]) -> int:
        ways = [depth(one, seen | {name}) for one in after.get(name, ()) if one not in seen]
        return 1 + max(ways, default=0)

    return max((depth(name, frozenset()) for name in after), default=1)


def waits_for_others(world: World, fleet: Fleet, worker: Worker) -> bool:
    """Whether a worker waits, or will, for a service that has not been ready."""
    return bool(missing_before(world, fleet, worker.id.service))


def waits_for_failed(world: World, fleet: Fleet, worker: Worker) -> bool:
    """Whether a worker without a process waits for one that has failed, be it by way of others."""
    if worker.state is not State.PENDING:
        return False
    missing = missing_before(world, fleet, worker.id.service)
    firsts = [
        one for one in fleet.workers.values() if one.id.service in missing and not world.checks.notes.is_down(one.id)
    ]
    return any(one.state is State.FAILED or waits_for_failed(world, fleet, one) for one in firsts)


RULES: tuple[Rule, ...] = (start_comes_after_those_before_it, end_goes_in_reverse)
STATE_RULES: tuple[Rule, ...] = (waits_say_for_whom, nobody_is_kept_for_nothing)
