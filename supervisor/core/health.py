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
    """

    probation_s: float = 300.0
    max_probation_s: float = 3600.0


@dataclass(frozen=True)
class Ailment:
    """
    What is known against one device; one that nothing is known against has none.

    Args:
        health: OK, SUSPECT, DRAINING, QUARANTINED, PROBING or LOST; OK of one that was in quarantine not long ago.
        since: Monotonic second at which it came into that.
        reason: Why, in words.
        strikes: Quarantines in a row.
        until: Monotonic second at which it is looked at again by itself; None for never.
        is_held: An operator holds it: nothing but their word releases it.
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
    """What came of the command that was run on it; *fault* is empty where nothing was wrong."""

    fault: str = ""


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


def _drain(one: Ailment, event: Faulted, _terms: Terms, now: float) -> Ailment:
    is_forgiven = one.health is Health.OK and now - one.since >= FORGIVEN_S
    strikes = 1 if is_forgiven else one.strikes + 1
    return _enter(one, Health.DRAINING, now, reason=event.reason, strikes=strikes, scope=event.scope)


def _drain_wider(one: Ailment, event: Faulted, _terms: Terms, _now: float) -> Ailment:
    """What is worse counts; the first reason is what it began with."""
    if one.is_held or (one.scope == ANY and event.scope == LINK):
        return one
    return evolve(one, reason=event.reason, scope=event.scope)


def _doubt(one: Ailment, event: Doubted, _terms: Terms, now: float) -> Ailment:
    return _enter(one, Health.SUSPECT, now, reason=event.reason, until=now + SUSPECT_S)


def _doubt_on(one: Ailment, event: Doubted, _terms: Terms, now: float) -> Ailment:
    return evolve(one, reason=event.reason, until=now + SUSPECT_S)


def _lose(one: Ailment, event: Vanished, _terms: Terms, now: float) -> Ailment:
    is_forgiven = one.health is Health.OK and now - one.since >= FORGIVEN_S
    was_sick = one.health in {Health.DRAINING, Health.QUARANTINED, Health.PROBING}
    strikes = one.strikes if was_sick else (0 if is_forgiven else one.strikes)
    is_faulty = was_sick or event.is_faulty
    reason = f"{event.reason}; before that: {one.reason}" if was_sick else event.reason
    return _enter(one, Health.LOST, now, reason=reason, is_faulty=is_faulty, strikes=strikes)


def _lose_more(one: Ailment, event: Vanished, _terms: Terms, _now: float) -> Ailment:
    return one if one.is_faulty else evolve(one, reason=event.reason, is_faulty=event.is_faulty)


def _note_fault(one: Ailment, event: Faulted, _terms: Terms, _now: float) -> Ailment:
    """It is away already; when it comes back it has to prove itself."""
    return evolve(one, is_faulty=True, reason=f"{event.reason}; {one.reason}" if not one.is_faulty else one.reason)


def _come_back(one: Ailment, _event: SeenWell, terms: Terms, now: float) -> Ailment:
    if one.is_held:
        return _enter(one, Health.QUARANTINED, now)
    if not one.is_faulty:
        return _enter(one, Health.OK, now, reason="")
    strikes = max(1, one.strikes)
    until = now + span_s(terms, strikes)
    reason = f"it is back: {one.reason}"
    return _enter(one, Health.QUARANTINED, now, reason=reason, strikes=strikes, until=until, is_faulty=False)


def _quarantine(one: Ailment, _event: Emptied, terms: Terms, now: float) -> Ailment:
    until = None if one.is_held else now + span_s(terms, one.strikes)
    return _enter(one, Health.QUARANTINED, now, until=until)


def _begin_anew(one: Ailment, event: Faulted, terms: Terms, now: float) -> Ailment:
    """It has to be without a fault for the whole time."""
    if one.is_held:
        return one
    return evolve(one, reason=event.reason, until=now + span_s(terms, max(1, one.strikes)), scope=event.scope)


def _probe(one: Ailment, _event: TimeUp | Released, _terms: Terms, now: float) -> Ailment:
    return _enter(one, Health.PROBING, now, is_held=False)


def _fail(one: Ailment, event: Faulted | CanaryEnded, terms: Terms, now: float) -> Ailment:
    strikes = one.strikes + 1
    reason = event.reason if isinstance(event, Faulted) else event.fault
    until = now + span_s(terms, strikes)
    return _enter(one, Health.QUARANTINED, now, reason=reason, strikes=strikes, until=until)


def _judge_canary(one: Ailment, event: CanaryEnded, terms: Terms, now: float) -> Ailment:
    return _fail(one, event, terms, now) if event.fault else _recover(one, event, terms, now)


def _recover(one: Ailment, _event: object, _terms: Terms, now: float) -> Ailment:
    return _enter(one, Health.OK, now, reason="", scope=ANY)


def _take(one: Ailment, event: Taken, _terms: Terms, now: float) -> Ailment:
    return _enter(one, Health.DRAINING, now, reason=event.reason, is_held=True, scope=ANY)


def _hold(one: Ailment, event: Taken, _terms: Terms, _now: float) -> Ailment:
    return evolve(one, is_held=True, reason=event.reason, until=None, scope=ANY)


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
        released=IGNORE,
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
        released=Cell(_recover, (Health.OK,)),
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
        released=Cell(_probe, (Health.PROBING,)),
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
        released=Cell(_probe, (Health.PROBING,)),
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
        released=IGNORE,
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
