"""One device's health: a whole table, cells that lead only where it says, and the lives that people will see."""

from __future__ import annotations

import itertools

import pytest

from supervisor.core.health import (
    COLUMNS,
    FORGIVEN_S,
    IMPOSSIBLE,
    LINK,
    SUSPECT_S,
    TABLE,
    WELL,
    Ailment,
    CanaryEnded,
    Cell,
    Doubted,
    Emptied,
    Faulted,
    Released,
    SeenWell,
    Sign,
    Taken,
    Terms,
    TimeUp,
    Vanished,
    column_names,
    span_s,
    step,
)
from supervisor.core.inventory import Health
from supervisor.errors import InvariantBrokenError

TERMS = Terms(300.0, 3600.0)
STATES = (Health.OK, Health.SUSPECT, Health.DRAINING, Health.QUARANTINED, Health.PROBING, Health.LOST)
SIGNS: dict[type[Sign], tuple[Sign, ...]] = {
    Faulted: (Faulted("XID 79"), Faulted("XID 74", LINK)),
    Doubted: (Doubted("ECC"),),
    Vanished: (Vanished("gone"), Vanished("GPU is lost", is_faulty=True)),
    SeenWell: (SeenWell(),),
    Emptied: (Emptied(),),
    TimeUp: (TimeUp(),),
    CanaryEnded: (CanaryEnded(), CanaryEnded("exited with 1"), CanaryEnded("cannot run it", is_unable=True)),
    Taken: (Taken("by the operator"),),
    Released: (Released(),),
}


def ailing(health: Health, **changes: object) -> Ailment:
    return Ailment(**{"health": health, "since": 100.0, "reason": "XID 79", "strikes": 1, **changes})  # type: ignore[arg-type]


def live(*signs: tuple[float, Sign], start: Ailment = WELL) -> Ailment:
    """What a device is after all that, each at its second."""
    for now, sign in signs:
        start = step(start, sign, TERMS, now)
    return start


def test_every_state_has_a_cell_for_every_sign() -> None:
    """Those that are states of it; the others are made by workers and by other daemons."""
    assert set(TABLE) == set(STATES) == set(Health) - {Health.STUCK, Health.DIRTY, Health.HELD}
    assert set(COLUMNS) == set(SIGNS)
    assert sorted(COLUMNS.values()) == sorted(column_names())
    cells = [getattr(TABLE[state], column) for state in STATES for column in column_names()]
    assert len(cells) == 6 * 9
    assert all(isinstance(cell, Cell) for cell in cells)


@pytest.mark.parametrize(("state", "kind"), [*itertools.product(STATES, SIGNS)])
def test_a_cell_leads_only_where_the_table_says(state: Health, kind: type[Sign]) -> None:
    """And everywhere it says."""
    cell: Cell = getattr(TABLE[state], COLUMNS[kind])
    variants = [ailing(state), ailing(state, is_held=True), ailing(state, is_faulty=True), ailing(state, strikes=0)]
    reached = set()
    for one, sign in itertools.product(variants, SIGNS[kind]):
        if cell is IMPOSSIBLE:
            with pytest.raises(InvariantBrokenError):
                step(one, sign, TERMS, 200.0)
            continue
        reached.add(step(one, sign, TERMS, 200.0).health)

    assert reached - {state} == set(cell.to) - {state}


def test_a_fault_drains_quarantines_probes_and_is_over() -> None:
    """The whole way, with nobody doing anything."""
    empty = live((10.0, Faulted("XID 119")), (12.0, Emptied()))
    assert (empty.health, empty.until, empty.reason) == (Health.QUARANTINED, 312.0, "XID 119")

    well = live((312.0, TimeUp()), (313.0, SeenWell()), start=empty)

    assert (well.health, well.strikes, well.reason) == (Health.OK, 1, "")


def test_each_quarantine_in_a_row_takes_twice_as_long() -> None:
    """Up to an hour; a day without one begins anew."""
    assert [span_s(TERMS, strikes) for strikes in (1, 2, 3, 4, 5, 99)] == [300, 600, 1200, 2400, 3600, 3600]
    back = live((10.0, Faulted("a")), (10.0, Emptied()), (310.0, TimeUp()), (311.0, SeenWell()))

    again = live((400.0, Faulted("b")), (400.0, Emptied()), start=back)
    assert (again.strikes, again.until) == (2, 1000.0)
    later = live((311.0 + FORGIVEN_S, Faulted("b")), start=back)
    assert later.strikes == 1


def test_a_fault_in_quarantine_begins_it_anew_and_one_while_probing_makes_it_longer() -> None:
    """It has to be without a fault for the whole time."""
    sick = live((0.0, Faulted("a")), (0.0, Emptied()), (200.0, Faulted("b")))
    assert (sick.until, sick.strikes, sick.reason) == (500.0, 1, "b")

    failed = live((500.0, TimeUp()), (501.0, CanaryEnded("its canary: exited with 1")), start=sick)
    assert (failed.health, failed.until, failed.strikes) == (Health.QUARANTINED, 1101.0, 2)


def round_of(fault: Sign, one: Ailment, at: float) -> Ailment:
    """One fault, its quarantine, and what the look after that makes of it."""
    one = live((at, fault), (at, Emptied()), start=one)
    return one if one.until is None else live((one.until, TimeUp()), (one.until, SeenWell()), start=one)


def test_a_device_that_is_sick_again_and_again_is_given_up() -> None:
    """After five quarantines in a row only an operator's word, and no time, ends it; its reason says so."""
    one = WELL
    for at in range(4):
        one = round_of(Faulted("XID 79"), one, 10_000.0 * at)
        assert (one.health, one.strikes) == (Health.OK, at + 1)

    one = round_of(Faulted("XID 79"), one, 50_000.0)

    assert (one.health, one.until, one.is_held) == (Health.QUARANTINED, None, True)
    assert one.reason == "XID 79; quarantine number 5 in a row, so it is kept until `devices release`"
    assert live((60_000.0, Faulted("XID 48")), start=one) == one


@pytest.mark.parametrize(("limit", "expected"), [(0, None), (1, 1), (3, 3)])
def test_how_often_is_the_files_word(limit: int, expected: int | None) -> None:
    """0 is never."""
    one, terms = WELL, Terms(1.0, 1.0, limit)
    for at in range(20):
        one = step(step(one, Faulted("a"), terms, float(at)), Emptied(), terms, float(at))
        if one.is_held:
            break
        one = step(step(one, TimeUp(), terms, float(at)), SeenWell(), terms, float(at))

    assert (one.strikes if one.is_held else None) == expected


def test_a_canary_that_fails_and_a_device_that_is_lost_count_too() -> None:
    """Whatever brings it into quarantine once more, but each thing once."""
    one = live((0.0, Faulted("a")), (0.0, Emptied()))
    for at in range(1, 4):
        one = live((400.0 * at, TimeUp()), (400.0 * at, CanaryEnded("its canary: exited with 1")), start=one)
    assert (one.strikes, one.is_held) == (4, False)
    one = live((5000.0, TimeUp()), (5000.0, CanaryEnded("its canary: exited with 1")), start=one)
    assert (one.strikes, one.is_held) == (5, True)

    lost, back = Vanished("GPU is lost", is_faulty=True), SeenWell()
    once = live((0.0, lost), (1.0, lost), (2.0, Faulted("XID 79")), (5.0, back))
    assert once.strikes == 1
    again = live((400.0, TimeUp()), (401.0, lost), (405.0, back), start=once)
    assert again.strikes == 2
    assert live((410.0, lost), (415.0, back), start=again).strikes == 2


def test_what_an_operator_does_is_no_strike_and_their_release_begins_anew() -> None:
    """In whatever state it is; whoever releases it has looked after it."""
    bad = Ailment(Health.OK, 0.0, strikes=4)
    held = live((1.0, Taken("by the operator")), (1.0, Emptied()), start=bad)
    assert held.strikes == 4

    for state in STATES:
        for is_held in (False, True):
            one = ailing(state, strikes=4, is_held=is_held)
            assert step(one, Released(), TERMS, 200.0).strikes == 0


def test_a_canary_that_cannot_be_run_says_nothing_of_the_device() -> None:
    """It is not used without it, and not given up for it; what was known before is still known."""
    one = live((0.0, Faulted("XID 79")), (0.0, Emptied()))
    for at in range(1, 9):
        signs = ((400.0 * at, TimeUp()), (400.0 * at, CanaryEnded("its canary: cannot run x", is_unable=True)))
        one = live(*signs, start=one)

        assert (one.health, one.strikes, one.until) == (Health.QUARANTINED, 1, 400.0 * at + 300.0)
        assert one.reason == "its canary: cannot run x; before that: XID 79"


def test_an_operators_word_does_not_hide_what_was_known() -> None:
    """The newest first; asked again and again it does not grow."""
    one = live((0.0, Faulted("XID 74")), (0.0, Emptied()), (5.0, Taken("by the operator")))
    assert one.reason == "by the operator; before that: XID 74"
    for at in range(9):
        one = live((10.0 + at, Taken("for a reset")), (11.0 + at, Taken(f"RMA {at}")), start=one)
    assert one.reason == "RMA 8; before that: for a reset; before that: XID 74"
    assert live((0.0, Doubted("hot")), (1.0, Taken("RMA 1"))).reason == "RMA 1; before that: hot"
    assert live((0.0, Taken("RMA 1")), (1.0, Emptied()), (2.0, Taken("RMA 1"))).reason == "RMA 1"


def test_a_device_that_is_lost_again_and_again_has_a_short_reason() -> None:
    """It is there, it is not there: that is said once."""
    one = live((0.0, Faulted("XID 79")), (0.0, Emptied()))
    for at in range(9):
        one = live((1.0 + at, Vanished("GPU is lost", is_faulty=True)), (1.5 + at, SeenWell()), start=one)

    assert one.reason == "it is back: GPU is lost; before that: XID 79"


def test_a_doubt_is_forgotten_when_it_is_not_renewed() -> None:
    """Ten minutes after the last one."""
    assert live((0.0, Doubted("x"))).until == SUSPECT_S
    assert live((0.0, Doubted("x")), (100.0, Doubted("y"))).until == 100.0 + SUSPECT_S
    assert live((0.0, Doubted("x")), (SUSPECT_S, TimeUp())).health is Health.OK


def test_one_that_was_away_for_a_moment_is_well_and_a_broken_one_goes_to_quarantine() -> None:
    """A driver that is loaded anew shows nothing for a while; a GPU that was lost has to prove itself."""
    assert live((0.0, Vanished("the driver does not show it")), (5.0, SeenWell())).health is Health.OK

    back = live((0.0, Vanished("GPU is lost", is_faulty=True)), (5.0, SeenWell()))
    assert (back.health, back.until) == (Health.QUARANTINED, 305.0)
    back = live((0.0, Faulted("XID 79")), (1.0, Vanished("GPU is lost")), (5.0, SeenWell()))
    assert back.health is Health.QUARANTINED
    assert "XID 79" in back.reason


def test_what_an_operator_holds_only_an_operator_lets_go() -> None:
    """No time and no reading does."""
    held = live((0.0, Taken("by the operator")), (1.0, Emptied()))
    assert (held.health, held.until) == (Health.QUARANTINED, None)
    gone = live((2.0, Vanished("being reset")), (9.0, SeenWell()), start=held)
    assert (gone.health, gone.is_held) == (Health.QUARANTINED, True)

    assert live((10.0, Released()), (11.0, SeenWell()), start=gone).health is Health.OK
