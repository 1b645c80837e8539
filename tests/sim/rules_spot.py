"""Rules that cost more than a step: asked now and then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.fleet import handle
from supervisor.core.inventory import GpuState, Reading
from supervisor.core.message import (
    Action,
    Event,
    FinishReload,
    InventoryRead,
    KillTree,
    ReloadRequested,
    Signal,
    Spawn,
    SpecLoaded,
    State,
)
from supervisor.core.outcome import failures_since_reload, unsettled
from supervisor.core.preview import preview
from supervisor.core.slices import Slice
from supervisor.core.snapshot import View, make_devices, make_plan_json, make_status
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import Worker
from tests.sim.trouble import Rule, Step

if TYPE_CHECKING:
    from supervisor.core.spec import WorkerId
    from tests.sim.world import World


def same_file_again_does_nothing(world: World, step: Step) -> Iterator[str]:
    """A reload of what is in force, with the devices as they are, touches no process."""
    fleet = step.after
    if fleet.state is not DaemonState.RUNNING or fleet.spec is None or fleet.inventory is None or not fleet.trusted:
        return
    if fleet.scaled:
        return  # A reload takes the operator's counts back.
    # Whatever this very reading sets off on its own is no reload's doing.
    read = InventoryRead(Reading(GpuState.OK, fleet.gpu.detail, fleet.inventory.devices), step.now)
    settled, _ = _all(fleet, (read, read), step.now)
    if settled.exiting:
        return  # With it the last one has failed for good, and the file wants the daemon to end then.
    assert settled.spec is not None
    again = SpecLoaded(settled.spec, settled.cpu_count)
    reloaded, actions = _all(settled, (ReloadRequested(), again, read), step.now)
    if fewer := [name for name, size in settled.sizes.items() if reloaded.sizes.get(name, 0) < size]:
        yield f"a reload that changes nothing makes {fewer} smaller"
    if reloaded.sizes != settled.sizes:
        return  # There are more GPUs than when the file was loaded, and it leaves the counts to them.
    stirred = _stirred(settled, reloaded)
    for action in actions:
        if isinstance(action, Spawn | Signal | KillTree):
            if action.worker in reloaded.extras and action.worker not in settled.workers:
                continue  # A halted roll-out is taken up, and an extra worker is the first of it.
            before = settled.workers[action.worker]
            is_asked_again = before.state is State.FAILED and before.target is not None and before.target.refused
            # A halted roll-out goes on at a reload once nobody of its service is failed any more.
            # Who waits takes the better place that has come up since it was planned, and another the one it leaves.
            is_moved = before.state is State.PENDING and any(one.uuid in stirred for one in _wanted_slice(before))
            is_moved |= before.state is State.PENDING and _wanted_slice(before) != _slice_of(reloaded, before.id)
            is_tried_again = action.worker in settled.kept  # A roll-out that was halted is taken up by every reload.
            # A roll-out that has nobody left to replace is over by it, and the restart that waited for that goes on.
            is_its_turn = before.renew and before.id.service in settled.rolling - reloaded.rolling
            is_excused = is_asked_again or is_moved or is_tried_again or is_its_turn
            if not is_excused and not before.is_outdated:
                yield f"{type(action).__name__}({action.worker}) at a reload that changes nothing"
        if isinstance(action, FinishReload):
            touched = {worker for worker, what in (action.difference or {}).items() if what in {"replace", "stop"}}
            # Those on their way down, not replaced yet, or left behind by a halted roll-out, still are a difference.
            # Who waits for its turn to be restarted asks for a GPU at every plan.
            asking = {one.id for one in settled.workers.values() if one.renew and one.target and one.target.fallback}
            odd = [str(one) for one in touched - settled.kept.keys() - asking if not _is_behind(settled.workers[one])]
            if odd:
                yield f"a reload that changes nothing calls {odd} a difference"
    if reloaded.generation != settled.generation + 1 or reloaded.reload is not None:
        yield "the reload was not finished"


def _stirred(before: Fleet, after: Fleet) -> set[str]:
    """Devices that somebody who waits is planned on no more."""
    moved = [one for one in before.workers.values() if one.state is State.PENDING]
    return {
        share.uuid for one in moved if _wanted_slice(one) != _slice_of(after, one.id) for share in _wanted_slice(one)
    }


def _wanted_slice(worker: Worker) -> Slice:
    return worker.target.launch.slice if worker.target and worker.target.launch else ()


def _slice_of(fleet: Fleet, worker: WorkerId) -> Slice:
    return _wanted_slice(fleet.workers[worker]) if worker in fleet.workers else ()


def _is_behind(worker: Worker) -> bool:
    held, target = worker.held, worker.target
    is_going = worker.state in {State.STOPPING, State.KILLING, State.RELEASING}
    return target is not None and (is_going or (held is not None and held.launch != target.launch))


def _all(fleet: Fleet, events: tuple[Event, ...], now: float) -> tuple[Fleet, list[Action]]:
    done: list[Action] = []
    for event in events:
        fleet, actions = handle(fleet, event, now)
        done += actions
    return fleet, done


def everything_can_be_shown(world: World, step: Step) -> Iterator[str]:
    """Snapshots and previews work in every state that the fleet can be in."""
    fleet = step.after
    view = View(rfc3339=lambda at: f"{at:.3f}")
    status = make_status(fleet, view)
    make_devices(fleet, view)
    unsettled(fleet)
    failures_since_reload(fleet)
    if fleet.spec is not None:
        make_plan_json(fleet, preview(fleet, fleet.spec, fleet.cpu_count), view)
    shown = {one["worker"] for service in status["services"] for one in service["workers"]}
    if shown != {str(worker) for worker in fleet.workers}:
        yield f"the status shows {sorted(shown)}"


RULES: tuple[Rule, ...] = (same_file_again_does_nothing, everything_can_be_shown)
