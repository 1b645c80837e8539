"""
The state machine of one device's health: every state x event, `IGNORE` and `IMPOSSIBLE` included, and `step`.

Pure values. What makes a witness' word an event, and what follows for workers, stands in `wards`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from supervisor.core.evolve import evolve
from supervisor.core.inventory import Health
from supervisor.errors import InvariantBrokenError

SUSPECT_S = 600.0
"""So long after the last doubt a device is believed again."""

FORGIVEN_S = 86_400.0
"""A device that has been well for a day begins with the shortest quarantine again."""

LINK, ANY = "link", "any"


@dataclass(frozen=True, slots=True)
class Terms:
    """
    How long a device stays in quarantine.

    Args:
        probation_s: The first time.
        max_probation_s: At the most; each time in a row takes twice as long as the one before.
        max_strikes: The so manyth in a row ends only by an operator's word; 0 = each ends by itself.
    """

    probation_s: float = 300.0
    max_probation_s: float = 3600.0
    max_strikes: int = 5


@dataclass(frozen=True)
class Ailment:
    """
    What is known against one device; one that nothing is known against has none.

    Args:
        health: OK, SUSPECT, DRAINING, QUARANTINED, PROBING or LOST; OK of one that was in quarantine not long ago.
        since: Monotonic second at which it came into that.
        reason: Why, in words.
        strikes: Quarantines in a row, without those that an operator has ordered.
        until: Monotonic second at which it is looked at again by itself; None for never.
        is_held: Nothing but an operator's word releases it: they hold it, or it has been given up.
        is_faulty: Where it is lost: when it comes back it is in quarantine.
        scope: Who cannot stay there: ``any``, or who has several devices, where only the ``link`` between them is down.
    """

    health: Health
    since: float
    reason: str = ""
    strikes: int = 0
    until: float | None = None
    is_held: bool = False
    is_faulty: bool = False
    scope: str = ANY


WELL = Ailment(Health.OK, 0.0)


# ---- what happens to a device ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Faulted:
    """A witness says that the device itself is sick."""

    reason: str
    scope: str = ANY


@dataclass(frozen=True, slots=True)
class Doubted:
    """A witness has seen something odd."""

    reason: str


@dataclass(frozen=True, slots=True)
class Vanished:
    """It does not answer, or is not there. *is_faulty*: it has said that it is broken."""

    reason: str
    is_faulty: bool = False


@dataclass(frozen=True, slots=True)
class SeenWell:
    """A reading that was asked for after it came into its state has nothing against it."""


@dataclass(frozen=True, slots=True)
class Emptied:
    """Nobody of ours is there any more."""


@dataclass(frozen=True, slots=True)
class TimeUp:
    """What it waited for is over."""


@dataclass(frozen=True, slots=True)
class CanaryEnded:
    """
    What came of the command that was run on it.

    Args:
        fault: What was wrong; empty where nothing was.
        is_unable: The command itself could not be run, which says nothing against the device, nor for it.
    """

    fault: str = ""
    is_unable: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """An operator takes it out of use."""

    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """An operator wants it used again."""


Sign = Faulted | Doubted | Vanished | SeenWell | Emptied | TimeUp | CanaryEnded | Taken | Released
Handler = Callable[[Ailment, Any, Terms, float], Ailment]


# ---- the cells ------------------------------------------------------------------------------------------------------


def _enter(one: Ailment, health: Health, now: float, **changes: Any) -> Ailment:
    return evolve(one, health=health, since=now, **{"until": None, **changes})


def span_s(terms: Terms, strikes: int) -> float:
    """How long quarantine number *strikes* in a row takes."""
    return min(terms.max_probation_s, terms.probation_s * 2.0 ** min(strikes - 1, 32))


BEFORE = "; before that: "
BACK = "it is back: "
REASONS_MAX = 3


def _with_past(reason: str, one: Ailment) -> str:
    """A reason with those before it, newest first; of many the first one is kept, and nothing is said twice."""
    parts = one.reason.removeprefix(BACK).split(BEFORE)
    past = [part for part in parts if part not in {"", reason} and not reason.startswith(f"{part}: ")]
    found = [reason, *past]
    return BEFORE.join(found if len(found) <= REASONS_MAX else [*found[: REASONS_MAX - 1], found[-1]])


def past_strikes(one: Ailment, now: float) -> int:
    """
    Quarantines in a row that still count.

    Args:
        one: What is known of a device.
        now: Monotonic seconds.
    """
    return 0 if one.health is Health.OK and now - one.since >= FORGIVEN_S else one.strikes


def _shut_in(one: Ailment, terms: Terms, now: float, *, reason: str, strikes: int, **changes: Any) -> Ailment:
    """In quarantine, for its time or, if it was there too often, until somebody has looked at it."""
    is_given_up = 0 < terms.max_strikes <= strikes and not one.is_held
    if is_given_up:
        reason = f"{reason}; quarantine number {strikes} in a row, so it is kept until `devices release`"
    until = None if one.is_held or is_given_up else now + span_s(terms, max(1, strikes))
    is_held = one.is_held or is_given_up
    return _enter(one, Health.QUARANTINED, now, reason=reason, strikes=strikes, until=until, is_held=is_held, **changes)


def _drain(one: Ailment, event: Faulted, _terms: Terms, now: float) -> Ailment:
    strikes = past_strikes(one, now) + 1
    return _enter(one, Health.DRAINING, now, reason=event.reason, strikes=strikes, scope=event.scope)


def _drain_wider(one: Ailment, event: Faulted, _terms: Terms, _now: float) -> Ailment:
    """What is worse counts; the first reason is what it began with."""
    if one.is_held or (one.scope == ANY and event.scope == LINK):
        return one
    return evolve(one, reason=event.reason, scope=event.scope)


def _doubt(one: Ailment, event: Doubted, _terms: Terms, now: float) -> Ailment:
    strikes = past_strikes(one, now)
    return _enter(one, Health.SUSPECT, now, reason=event.reason, until=now + SUSPECT_S, strikes=strikes)


def _doubt_on(one: Ailment, event: Doubted, _terms: Terms, now: float) -> Ailment:
    return evolve(one, reason=event.reason, until=now + SUSPECT_S)


def _lose(one: Ailment, event: Vanished, _terms: Terms, now: float) -> Ailment:
    was_sick = one.health in {Health.DRAINING, Health.QUARANTINED, Health.PROBING}
    is_new = event.is_faulty and one.health not in {Health.DRAINING, Health.QUARANTINED}
    strikes = past_strikes(one, now) + is_new
    reason = _with_past(event.reason, one) if was_sick else event.reason
    return _enter(one, Health.LOST, now, reason=reason, is_faulty=was_sick or event.is_faulty, strikes=strikes)


def _lose_more(one: Ailment, event: Vanished, _terms: Terms, _now: float) -> Ailment:
    if one.is_faulty:
        return one
    return evolve(one, reason=event.reason, is_faulty=event.is_faulty, strikes=one.strikes + event.is_faulty)


def _note_fault(one: Ailment, event: Faulted, _terms: Terms, _now: float) -> Ailment:
    """It is away already; when it comes back it has to prove itself."""
    if one.is_faulty:
        return one
    return evolve(one, is_faulty=True, reason=f"{event.reason}; {one.reason}", strikes=one.strikes + 1)


def _come_back(one: Ailment, _event: SeenWell, terms: Terms, now: float) -> Ailment:
    if not one.is_held and not one.is_faulty:
        return _enter(one, Health.OK, now, reason="")
    reason = one.reason if one.reason.startswith(BACK) else f"{BACK}{one.reason}"
    return _shut_in(one, terms, now, reason=reason, strikes=one.strikes, is_faulty=False)


def _quarantine(one: Ailment, _event: Emptied, terms: Terms, now: float) -> Ailment:
    return _shut_in(one, terms, now, reason=one.reason, strikes=one.strikes)


def _begin_anew(one: Ailment, event: Faulted, terms: Terms, now: float) -> Ailment:
    """It has to be without a fault for the whole time."""
    if one.is_held:
        return one
    return evolve(one, reason=event.reason, until=now + span_s(terms, max(1, one.strikes)), scope=event.scope)


def _probe(one: Ailment, _event: TimeUp, _terms: Terms, now: float) -> Ailment:
    return _enter(one, Health.PROBING, now)


def _probe_anew(one: Ailment, _event: Released, _terms: Terms, now: float) -> Ailment:
    """Whoever releases it has looked after it: what was before counts no more."""
    return _enter(one, Health.PROBING, now, is_held=False, strikes=0)


def _forget(one: Ailment, _event: Released, _terms: Terms, _now: float) -> Ailment:
    return evolve(one, strikes=0) if one.strikes else one


def _fail(one: Ailment, event: Faulted, terms: Terms, now: float) -> Ailment:
    return _shut_in(one, terms, now, reason=event.reason, strikes=one.strikes + 1)


def _judge_canary(one: Ailment, event: CanaryEnded, terms: Terms, now: float) -> Ailment:
    if not event.fault:
        return _recover(one, event, terms, now)
    if event.is_unable:
        # Not used, as nobody has looked at it; not given up either, for a program that is missing.
        until = now + span_s(terms, max(1, one.strikes))
        return _enter(one, Health.QUARANTINED, now, reason=_with_past(event.fault, one), until=until)
    return _shut_in(one, terms, now, reason=event.fault, strikes=one.strikes + 1)


def _recover(one: Ailment, _event: object, _terms: Terms, now: float) -> Ailment:
    return _enter(one, Health.OK, now, reason="", scope=ANY)


def _believe(one: Ailment, _event: Released, _terms: Terms, now: float) -> Ailment:
    return _enter(one, Health.OK, now, reason="", scope=ANY, strikes=0)


def _take(one: Ailment, event: Taken, _terms: Terms, now: float) -> Ailment:
    reason = _with_past(event.reason, one)
    return _enter(one, Health.DRAINING, now, reason=reason, is_held=True, scope=ANY)


def _hold(one: Ailment, event: Taken, _terms: Terms, _now: float) -> Ailment:
    return evolve(one, is_held=True, reason=_with_past(event.reason, one), until=None, scope=ANY)


def _let_go(one: Ailment, _event: Released, _terms: Terms, _now: float) -> Ailment:
    """It does not answer: there is nothing to use, but nobody holds it, and its past is forgotten."""
    return evolve(one, is_held=False, is_faulty=False, strikes=0)


# ---- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """What a sign does, and the states it may lead to besides the one it is in."""

    do: Handler | None = None
    to: tuple[Health, ...] = ()
    impossible: bool = False


IGNORE = Cell()
"""It says nothing new, or is late."""

IMPOSSIBLE = Cell(impossible=True)
"""If it comes, the fault is ours."""


@dataclass(frozen=True, slots=True)
class Row:
    """One state's cells."""

    faulted: Cell
    doubted: Cell
    vanished: Cell
    seen_well: Cell
    emptied: Cell
    time_up: Cell
    canary: Cell
    taken: Cell
    released: Cell


COLUMNS: Mapping[type[Sign], str] = {
    Faulted: "faulted",
    Doubted: "doubted",
    Vanished: "vanished",
    SeenWell: "seen_well",
    Emptied: "emptied",
    TimeUp: "time_up",
    CanaryEnded: "canary",
    Taken: "taken",
    Released: "released",
}

_LOST = Cell(_lose, (Health.LOST,))
_TAKEN = Cell(_take, (Health.DRAINING,))
_DRAINED = Cell(_drain, (Health.DRAINING,))

TABLE: Mapping[Health, Row] = {
    Health.OK: Row(
        faulted=_DRAINED,
        doubted=Cell(_doubt, (Health.SUSPECT,)),
        vanished=_LOST,
        seen_well=IGNORE,
        emptied=IMPOSSIBLE,
        time_up=IMPOSSIBLE,
        canary=IGNORE,
        taken=_TAKEN,
        released=Cell(_forget),
    ),
    Health.SUSPECT: Row(
        faulted=_DRAINED,
        doubted=Cell(_doubt_on),
        vanished=_LOST,
        seen_well=IGNORE,
        emptied=IMPOSSIBLE,
        time_up=Cell(_recover, (Health.OK,)),
        canary=IGNORE,
        taken=_TAKEN,
        released=Cell(_believe, (Health.OK,)),
    ),
    Health.DRAINING: Row(
        faulted=Cell(_drain_wider),
        doubted=IGNORE,
        vanished=_LOST,
        seen_well=IGNORE,
        emptied=Cell(_quarantine, (Health.QUARANTINED,)),
        time_up=IMPOSSIBLE,
        canary=IGNORE,
        taken=Cell(_hold),
        released=Cell(_probe_anew, (Health.PROBING,)),
    ),
    Health.QUARANTINED: Row(
        faulted=Cell(_begin_anew),
        doubted=IGNORE,
        vanished=_LOST,
        seen_well=IGNORE,
        emptied=IMPOSSIBLE,
        time_up=Cell(_probe, (Health.PROBING,)),
        canary=IGNORE,
        taken=Cell(_hold),
        released=Cell(_probe_anew, (Health.PROBING,)),
    ),
    Health.PROBING: Row(
        faulted=Cell(_fail, (Health.QUARANTINED,)),
        doubted=IGNORE,
        vanished=_LOST,
        seen_well=Cell(_recover, (Health.OK,)),
        emptied=IMPOSSIBLE,
        time_up=IMPOSSIBLE,
        canary=Cell(_judge_canary, (Health.QUARANTINED, Health.OK)),
        taken=_TAKEN,
        released=Cell(_forget),
    ),
    Health.LOST: Row(
        faulted=Cell(_note_fault),
        doubted=IGNORE,
        vanished=Cell(_lose_more),
        seen_well=Cell(_come_back, (Health.OK, Health.QUARANTINED)),
        emptied=IMPOSSIBLE,
        time_up=IMPOSSIBLE,
        canary=IGNORE,
        taken=Cell(_hold),
        released=Cell(_let_go),
    ),
}
"""STUCK, DIRTY and HELD are no states of it: they are what workers and other daemons make of one that is well."""


def step(ailment: Ailment, sign: Sign, terms: Terms, now: float) -> Ailment:
    """
    What a sign makes of a device.

    Args:
        ailment: Before it; WELL for one that nothing is known against.
        sign: What was seen.
        terms: Of quarantines.
        now: Monotonic seconds.

    Raises:
        InvariantBrokenError: The table calls this impossible, or the cell led where the table does not say.
    """
    cell: Cell = getattr(TABLE[ailment.health], COLUMNS[type(sign)])
    if cell.impossible:
        raise InvariantBrokenError(f"a device is {ailment.health} and got {sign}")
    if cell.do is None:
        return ailment
    after = cell.do(ailment, sign, terms, now)
    if after.health is not ailment.health and after.health not in cell.to:
        raise InvariantBrokenError(f"a device went from {ailment.health} to {after.health} at {sign}")
    return after


def column_names() -> tuple[str, ...]:
    """Names of the columns in their order."""
    return tuple(field.name for field in fields(Row))
