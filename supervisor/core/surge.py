"""
`update.surge`: extra workers that run for as long as a roll-out takes, so that fewer are missing, or nobody is.

Says when there are any; what they are and where they may go is in `extras`, whom they let go is in `rollout`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from supervisor.core.evolve import evolve
from supervisor.core.extras import allowed_extras, extras_of, new_ids
from supervisor.core.message import Say, State
from supervisor.core.preview import Plan, preview
from supervisor.core.spec import Spec, WorkerId
from supervisor.core.turn import Fleet, Try, Turn
from supervisor.core.worker import FREED, HOLDING, reach

WAIT_S = 60.0
"""An extra worker may wait so long for what it needs to start, or as long as a start may take."""

NO_ROOM = "no room for one more worker: {}"


def may_be_missing(fleet: Fleet, service: str) -> int:
    """How many workers of a service may be: one where nobody may, but there is no room for anybody more."""
    spec = fleet.spec.services.get(service) if fleet.spec else None
    if spec is None:
        return 1
    return spec.update.max_unavailable or (1 if not spec.update.surge or fleet.rolls[service].lack else 0)


def grow(turn: Turn, service: str, serving: int, *, is_arriving: bool, is_last_word: bool) -> bool:
    """
    Let extra workers come, where there is room for them: first one alone.

    Args:
        turn: The turn.
        service: Whose roll-out it is.
        serving: How many are ready and have still to be replaced.
        is_arriving: Somebody is on its way to the new launch.
        is_last_word: Where there is no room now there will be none later: nobody who serves nobody is to go before.

    Returns:
        Whether somebody comes.
    """
    fleet, spec = turn.fleet, turn.fleet.spec
    roll, most = fleet.rolls[service], spec.services[service].update.surge if spec and service in spec.services else 0
    mine = extras_of(fleet, service)
    if not roll.is_proven:
        most = 0 if is_arriving or mine else min(most, 1)
    if roll.room is not None:
        most = min(most, roll.room)
    missing = min(most, serving) - len(mine)
    if missing <= 0:
        return False
    new, why = _find_room(turn, new_ids(fleet, service, missing, fleet.counts.get(service, 0)))
    if len(new) < missing and is_last_word:
        turn.set(rolls={**fleet.rolls, service: replace(roll, room=len(mine) + len(new))})
        if not mine and not new:
            _go_without(turn, service, NO_ROOM.format(why))
    if not new:
        return False
    tries = {one: Try(None, turn.now) for one in new}
    turn.set(extras=fleet.extras | set(new), tried={**fleet.tried, **tries})
    return True


def _find_room(turn: Turn, new: list[WorkerId]) -> tuple[list[WorkerId], str]:
    """Those of some that have a place beside all others, and why the rest have none."""
    found = foresee_extras(turn.fleet, turn, new)
    lost = next((found[one].reason for one in new if found[one].launch is None), "")
    return [one for one in new if found[one].launch is not None], lost


def foresee_extras(fleet: Fleet, turn: Turn, new: Collection[WorkerId]) -> Plan:
    """The plan if there were some more extra workers."""
    after = evolve(fleet, extras=fleet.extras | set(new))
    spec = (fleet.spec or Spec()).scale({**fleet.sizes, **fleet.scaled})
    return preview(after, spec, fleet.cpu_count, workers=turn.workers, reloaded=False, kept=fleet.kept)


def _go_without(turn: Turn, service: str, why: str) -> None:
    """The roll-out goes on without extra workers, and says so once."""
    roll = turn.fleet.rolls.get(service)
    if roll is None or roll.is_halted or roll.lack:
        return
    turn.set(rolls={**turn.fleet.rolls, service: replace(roll, room=0, lack=why)})
    missing = may_be_missing(turn.fleet, service)
    fields = {"service": service, "reason": why, "max_unavailable": missing}
    turn.do(Say("plan.surge_dropped", fields, is_warning=True))


# ---- their end ------------------------------------------------------------------------------------------------------


def end_unwanted(turn: Turn, spec: Spec) -> None:
    """A file that wants none ends them, and a count that has grown makes them workers like others."""
    if turn.fleet.extras:
        allowed = allowed_extras(turn.fleet, spec, turn.fleet.cpu_count)
        turn.set(extras=frozenset(one.id for one in allowed))


def end_homeless(turn: Turn, plan: Plan) -> list[WorkerId]:
    """Those without a process that have lost their place: others have it."""
    lost = [one for one in turn.fleet.extras if one in plan and plan[one].launch is None]
    lost = [one for one in lost if one not in turn.workers or turn.workers[one].state not in HOLDING]
    for one in sorted(lost):
        _go_without(turn, one.service, f"{one} has lost its place: {plan[one].reason}")
    turn.set(extras=turn.fleet.extras - set(lost))
    return [one for one in lost if one in turn.workers]


def end_useless(turn: Turn, service: str) -> bool:
    """
    End those that will not serve: it goes on without.

    Returns:
        Whether there were any; the plan is to be made anew then.
    """
    ended = set()
    for one in extras_of(turn.fleet, service):
        worker = turn.workers.get(one)
        if worker is None or worker.down or worker.state in FREED:
            why = f"{one} is {worker.state if worker else 'gone'}"
        elif worker.state is State.PENDING and turn.now - worker.since >= max(WAIT_S, worker.policy.ready.timeout_s):
            why = f"{one} has waited too long: {worker.reason}"
        else:
            continue
        ended.add(one)
        _go_without(turn, service, why)
    turn.set(extras=turn.fleet.extras - ended)
    return bool(ended)


def make_room(turn: Turn, service: str, why: str) -> bool:
    """
    End those of a service, so that others of it have their places.

    Returns:
        Whether there were any; the plan is to be made anew then.
    """
    mine = {one for one in extras_of(turn.fleet, service) if has_place(turn, one)}
    if mine:
        _go_without(turn, service, why)
    turn.set(extras=turn.fleet.extras - mine)
    return bool(mine)


def has_place(turn: Turn, worker: WorkerId) -> bool:
    """Whether a worker has, or is to have, a GPU that it could leave to another."""
    return bool(reach(turn.workers.get(worker)))


def end_all(turn: Turn, service: str, *, is_over: bool) -> bool:
    """
    End those whose roll-out is over or has come to a halt; until nobody is on its way back any more they serve.

    Returns:
        Whether there were any; the plan is to be made anew then.
    """
    mine = extras_of(turn.fleet, service)
    workers = [turn.workers[one] for one in mine if one in turn.workers]
    serving = {one.id for one in workers if one.state is State.READY}
    ended = {one for one in mine if is_over or one not in serving}
    turn.set(extras=turn.fleet.extras - ended)
    return bool(ended)
