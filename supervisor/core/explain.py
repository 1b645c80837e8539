"""One worker to a person: what it asks for, where it is or what it waits for, and what is with each device."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.deaths import column_of
from supervisor.core.inventory import Device, Health, name_of
from supervisor.core.message import State
from supervisor.core.plan import Planner, Slice
from supervisor.core.preview import current_of, supply_of
from supervisor.core.refusal import Case, asked, make_case, verdict
from supervisor.core.snapshot import Json, View, worker_json
from supervisor.core.spec import Request, Spec, WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import FREED, HOLDING, Worker


def make_explanation(fleet: Fleet, view: View, worker_id: WorkerId) -> Json:
    """
    The story of one worker at this moment.

    Args:
        fleet: All of them.
        view: What a snapshot needs beside it.
        worker_id: One that the fleet has.

    Returns:
        The worker as in the status JSON, with: *asks* in words; *waits*: for what, since when, and when it is looked at
        again, None for one that does not wait; *verdicts*: for each device of the machine why it is the worker's, or
        could be, or not.
    """
    worker = fleet.workers[worker_id]
    shown = worker.held if worker.state in HOLDING else worker.target
    request = shown.wanted.request if shown else Request()
    return {
        **worker_json(fleet, view, worker),
        "asks": asked(request) if request.gpu != 0 else "no GPU",
        "waits": _waits(view, worker),
        "timer": _timer(view, worker),
        "failures": _failures(worker),
        "verdicts": [] if request.gpu == 0 else _verdicts(fleet, worker, request),
    }


def _timer(view: View, worker: Worker) -> Json | None:
    """What happens to it if nothing else happens, and when."""
    if worker.deadline is None:
        return None
    what = {
        State.STARTING: "it is given up, not being ready" if _is_probed(worker) else "it counts as ready",
        State.STOPPING: "SIGKILL" if worker.grace_until is None else "its stop command is killed and the signal sent",
        State.KILLING: "it is looked at again" if worker.killed else "SIGKILL",
        State.BACKOFF: "it is started again",
        State.FAILED: "it gets one more try",
    }.get(worker.state, "it is looked at again, sooner when something changes")
    return {"at": view.rfc3339(worker.deadline), "what": what}


def _is_probed(worker: Worker) -> bool:
    return worker.spawned_at is None or worker.held is None or worker.held.wanted.policy.ready.kind != "after"


def _failures(worker: Worker) -> Json | None:
    """How often it has failed without a healthy run between, and when that is too often; None if it has not."""
    history, restart = worker.history, worker.restart
    if not history.failures:
        return None
    return {
        "count": history.failures,
        "limit": restart.limit,
        "without_ready": history.start_failures,
        "start_limit": restart.start_limit,
    }


def _waits(view: View, worker: Worker) -> Json | None:
    if worker.state not in {State.PENDING, State.RELEASING, State.BACKOFF}:
        return None
    target = worker.target
    reason = worker.reason or (target.reason if target else "")
    looked_at = None if worker.deadline is None else view.rfc3339(worker.deadline)
    since = worker.since if worker.reason_at is None else worker.reason_at
    return {"for": reason, "since": view.rfc3339(since), "next_look": looked_at}


def _verdicts(fleet: Fleet, worker: Worker, request: Request) -> list[Json]:
    """What is with each device, seen by this worker: everybody else keeps what they have."""
    spec = fleet.spec or Spec()
    planner = Planner(supply_of(fleet, spec), spec.gpus)
    others = [
        (one.target.wanted, current)
        for one in fleet.workers.values()
        if one.id != worker.id
        and one.state not in FREED
        and one.target is not None
        and (current := current_of(fleet, one, one.target.wanted, is_asked=False)) is not None
    ]
    planner.keep_all([wanted for wanted, _ in others], {wanted.id: current for wanted, current in others})
    mine = {share.uuid for share in _slice(worker)}
    case = make_case(request, planner.group(request), planner.ledger, planner.supply)
    devices = fleet.inventory.devices if fleet.inventory else ()
    return [
        {
            "uuid": device.uuid,
            "index": device.index,
            "name": device.name,
            "device": name_of(device),
            "verdict": (_own(device) if device.uuid in mine else _verdict(case, device)) + _told(died),
            "deaths": died,
        }
        for device in devices
        for died in [column_of(fleet.deaths, device.uuid)]
    ]


def _own(device: Device) -> str:
    return "its own" if device.health is Health.OK else f"its own, {device.health}: {device.reason}"


def _told(died: Mapping[str, int]) -> str:
    """Whose processes have died on a device."""
    times = (f"{name} {'once' if count == 1 else f'{count} times'}" for name, count in died.items())
    return f"; died there lately: {', '.join(times)}" if died else ""


def _verdict(case: Case, device: Device) -> str:
    if device.is_cut:
        return "is cut up by MIG"
    at = case.ledger.position.get(device.uuid)
    return "is outside the pool or the file's gpus" if at is None else verdict(case, at)


def _slice(worker: Worker) -> Slice:
    """What it occupies, or what is reserved for it."""
    if worker.state in HOLDING:
        return worker.occupied
    launch = worker.target.launch if worker.target else None
    return launch.slice if launch else ()
