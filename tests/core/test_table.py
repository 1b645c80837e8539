"""The state table: whole, honest about where each cell leads, and the picture that is made of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from supervisor.core.diagram import mermaid
from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Cause,
    Exited,
    LivenessLost,
    ProgressTold,
    ShimLost,
    Spawned,
    SpawnFailed,
    StartExtended,
    State,
    StopCommandEnded,
    TreeExamined,
    TreeGone,
)
from supervisor.core.release import Proof
from supervisor.core.restart import Done, GiveUp, RestartAt
from supervisor.core.spec import Restart
from supervisor.core.table import COLUMNS, IGNORE, IMPOSSIBLE, TABLE, Cell, cell_of, column_names, step
from supervisor.core.worker import (
    FREED,
    HOLDING,
    LIVING,
    RUNNING,
    Admitted,
    DeadlinePassed,
    Evicted,
    KillAsked,
    MemoryBack,
    Overdrawn,
    Relaunched,
    RestartAsked,
    StartAsked,
    StopAsked,
    Unwanted,
    Wanted,
    Worker,
    WorkerEvent,
)
from supervisor.errors import InvariantBrokenError
from tests.core.builders import GIB, LLM, TCP, placed, wanted, worker_in

NOW = 200.0
SAME = placed(wanted(memory=20 * GIB, policy=TCP, port=8000), 0)
OTHER = placed(wanted(memory=10 * GIB, policy=TCP, port=8000), 1)
NOWHERE = replace(OTHER, launch=None, reason="needs 1 GPU, there is none")
REFUSED = replace(NOWHERE, refused=True)
NO_MEMORY = placed(wanted(gpu=0, policy=TCP, port=8000))

EVENTS: dict[type[WorkerEvent], tuple[WorkerEvent, ...]] = {
    Admitted: (Admitted(8),),
    Spawned: (Spawned(LLM, 7, 4711),),
    SpawnFailed: (SpawnFailed(LLM, 7, 2, "not found"), SpawnFailed(LLM, 7, 11, "busy"), SpawnFailed(LLM, 7, 5, "I/O")),
    BecameReady: (BecameReady(LLM, 7),),
    BecameUnready: (BecameUnready(LLM, 7, "refused"),),
    LivenessLost: (LivenessLost(LLM, 7, "no answer"), LivenessLost(LLM, 7, "silent", is_watchdog=True)),
    ProgressTold: (ProgressTold(LLM, 7, "loading"),),
    StartExtended: (StartExtended(LLM, 7, 60.0),),
    Exited: tuple(Exited(LLM, 7, code, None, alone=alone) for code in (0, 1, 78) for alone in (True, False)),
    TreeGone: (TreeGone(LLM, 7),),
    ShimLost: (ShimLost(LLM, 7),),
    StopCommandEnded: (StopCommandEnded(LLM, 7, ""), StopCommandEnded(LLM, 7, "exited with 1")),
    TreeExamined: (TreeExamined(LLM, 7, "process 1 hangs"),),
    MemoryBack: (MemoryBack(Proof.LIST), MemoryBack(is_dirty=True)),
    DeadlinePassed: (DeadlinePassed(),),
    Wanted: (Wanted(SAME), Wanted(OTHER), Wanted(NOWHERE), Wanted(REFUSED)),
    Unwanted: (Unwanted(),),
    Relaunched: (Relaunched(),),
    StopAsked: (StopAsked(),),
    StartAsked: (StartAsked(),),
    RestartAsked: (RestartAsked(),),
    Overdrawn: (Overdrawn(),),
    KillAsked: (KillAsked(),),
    Evicted: (Evicted("GPU 0 is draining"), Evicted("GPU 0 is draining", kill=True)),
}

CELLS = list(itertools.product(State, EVENTS))


INTENTS: tuple[dict[str, object], ...] = (
    {},
    {"target": None},
    {"down": True},
    {"relaunch": True},
    {"renew": True},
    {"cause": Cause.START_TIMEOUT},
    {"cause": Cause.LIVENESS},
    {"cause": Cause.CUDA_OOM},
)
VERDICTS: tuple[dict[str, object], ...] = (
    {"verdict": RestartAt(NOW)},
    {"verdict": RestartAt(NOW + 9.0)},
    {"verdict": GiveUp("that is enough")},
    {"verdict": Done()},
)


RESTARTS = (Restart(delay_s=0.0, max_delay_s=0.0), Restart(policy="on-failure"), Restart(policy="never"))


def variants(state: State) -> Iterator[Worker]:
    """Workers in a state, as different from each other as a fleet makes them."""
    plain = worker_in(state, since=150.0)
    yield plain
    assert plain.target is not None
    if state in FREED:
        yield replace(plain, target=replace(plain.target, refused=True))
    if state in RUNNING | {State.BACKOFF}:
        refused = replace(plain, target=REFUSED)
        yield from (refused, replace(refused, verdict=RestartAt(NOW)))
        yield from (_treated(plain, policy) for policy in RESTARTS)
    if state is State.STARTING:
        at_once = placed(wanted(), 0)  # No port: it is ready after a second.
        yield replace(plain, target=at_once, held=at_once)
    if state in HOLDING:
        yield replace(plain, target=NO_MEMORY, held=NO_MEMORY)
    if state is State.STOPPING:
        yield replace(plain, grace_until=NOW + 5.0)
    if state in HOLDING - RUNNING:
        yield from _going(plain)


def _going(plain: Worker) -> Iterator[Worker]:
    """A worker that goes down: what is wanted of it, what follows, with and without memory to wait for."""
    after = VERDICTS if plain.state is not State.STOPPING else ()
    for one in (plain, replace(plain, target=NO_MEMORY, held=NO_MEMORY)):
        for changes in INTENTS:
            yield _changed(one, changes)
        for changes in after:
            yield _changed(replace(one, cause=None, pid=None), changes)
    yield from (replace(_treated(plain, policy), cause=Cause.START_TIMEOUT) for policy in RESTARTS)


def _changed(worker: Worker, changes: dict[str, object]) -> Worker:
    return replace(worker, **changes)  # type: ignore[arg-type]  # Checked by the dataclass' names.


def unspawned(worker: Worker) -> Worker | None:
    """The same before its process ran; None for one that has nothing to wait for."""
    if worker.verdict is not None:
        return None
    return replace(worker, pid=None, spawned_at=None)


def _treated(worker: Worker, restart: Restart) -> Worker:
    """The same worker under another restart policy, and with no memory to wait for."""
    target = placed(wanted(gpu=0, policy=replace(TCP, restart=restart), port=8000))
    return replace(worker, target=target, held=target if worker.held else None)


def meetings(state: State, kind: type[WorkerEvent]) -> Iterator[tuple[Worker, WorkerEvent]]:
    """Every variant with each event of a kind that may come to it."""
    for worker, event in itertools.product(variants(state), EVENTS[kind]):
        if kind in {Spawned, SpawnFailed}:
            if (waiting := unspawned(worker)) is not None:
                yield waiting, event
        elif kind is not Exited or worker.pid is not None or state not in LIVING:
            yield worker, event


def test_every_state_has_a_cell_for_every_event() -> None:
    """Eleven states, twenty-four columns, and no event without a column."""
    cells = [getattr(TABLE[state], column) for state in State for column in column_names()]

    assert len(cells) == 11 * 24
    assert all(isinstance(cell, Cell) for cell in cells)
    assert sorted(COLUMNS.values()) == sorted(column_names())
    assert set(COLUMNS) == set(EVENTS)


def test_a_cell_does_something_or_is_marked_as_one_that_does_not() -> None:
    """`IGNORE` and `IMPOSSIBLE` are decisions; there is no third kind of empty cell."""
    for state, kind in CELLS:
        cell = cell_of(state, kind)
        assert cell in (IGNORE, IMPOSSIBLE) or cell.do is not None, (state, kind)


@pytest.mark.parametrize(("state", "kind"), CELLS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_each_cell_does_what_the_table_says(state: State, kind: type[WorkerEvent]) -> None:
    """It ignores, or it raises, or it leads to just the states that it names, each of them reached."""
    cell = cell_of(state, kind)

    if cell is IMPOSSIBLE:
        for worker, event in meetings(state, kind):
            with pytest.raises(InvariantBrokenError, match=f"llm/0 is {state} and got {kind.__name__}"):
                step(worker, event, NOW)
    elif cell is IGNORE:
        for worker, event in meetings(state, kind):
            assert step(worker, event, NOW) == (worker, ())
    else:
        steps = [step(worker, event, NOW)[0] for worker, event in meetings(state, kind)]
        reached = {after.state if after else None for after in steps}
        assert reached - {state} == set(cell.to) - {state}


@pytest.mark.parametrize("state", State)
def test_a_worker_that_came_out_of_a_cell_is_whole(state: State) -> None:
    """Holding states hold a launch, freed ones nothing; living ones alone have a process; deadlines where due."""
    for kind in EVENTS:
        if cell_of(state, kind) is IMPOSSIBLE:
            continue
        for before, event in meetings(state, kind):
            after, _ = step(before, event, NOW)
            if after is None or after.state is state:
                continue
            story = (before, event, after)
            assert (after.held is not None) == (after.state in HOLDING), story
            assert after.pid is None or after.state in LIVING, story
            assert (after.target is not None) or after.state in HOLDING - RUNNING, story
            waits = after.state in HOLDING - {State.READY, State.UNREADY} | {State.BACKOFF}
            waits |= after.state is State.FAILED and _may_be_paroled(after)
            assert (after.deadline is not None) == waits, story
            assert after.since == NOW, story
            assert after.state not in FREED or (after.target and after.target.launch is None), story


def _may_be_paroled(worker: Worker) -> bool:
    """Not who has no GPU to run on, nor who is never to be restarted."""
    return worker.target is not None and not worker.target.refused and worker.policy.restart.policy != "never"


def test_a_cell_that_leads_elsewhere_than_it_says_is_our_own_fault() -> None:
    """The table is the word: one that we ended has not done what it was for, whatever it carries about."""
    worker = replace(worker_in(State.STOPPING), target=NO_MEMORY, held=NO_MEMORY, verdict=Done())

    with pytest.raises(InvariantBrokenError, match="llm/0 went from stopping to exited"):
        step(worker, Exited(LLM, 7, 0, None, alone=True), NOW)


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_the_diagram_shows_every_state_and_where_workers_come_from_and_go() -> None:
    """One arrow for each pair of states."""
    lines = mermaid().splitlines()
    arrows = [tuple(line.split(":")[0].split(" --> ")) for line in lines[1:]]

    assert lines[:2] == ["stateDiagram-v2", "    [*] --> pending"]
    assert {state.strip() for arrow in arrows for state in arrow} == {*State, "[*]"}
    assert len(set(arrows)) == len(arrows)


def test_the_diagram_says_which_events_lead_along_an_arrow() -> None:
    """Columns of the table, in their order."""
    lines = mermaid().splitlines()

    assert "    pending --> starting: admitted" in lines
    assert "    starting --> ready: became_ready, deadline" in lines
    assert "    ready --> stopping: liveness_lost, unwanted, relaunched, stop, overdrawn, evicted" in lines
    assert "    killing --> releasing: exited, tree_gone" in lines
    assert "    failed --> [*]: unwanted" in lines


def test_the_diagram_is_the_same_every_time() -> None:
    """It stands in a file that is compared."""
    assert mermaid() == mermaid()
