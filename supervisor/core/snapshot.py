"""The fleet as people and programs see it: the JSON of CONTRACT section 4, as plain values. It only grows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.core.checkups import UNWATCHED, throttles
from supervisor.core.ends import STUCK
from supervisor.core.excess import enforcement, is_greedy
from supervisor.core.fabric import reason_of
from supervisor.core.figures import Figures, device_figures, worker_figures
from supervisor.core.foresight import Course, foresee
from supervisor.core.gpu_types import type_of
from supervisor.core.gpus import make_supply
from supervisor.core.health import Ailment, past_strikes
from supervisor.core.inventory import Device, Health
from supervisor.core.memory import hopeless
from supervisor.core.message import ExitRecord, State
from supervisor.core.plan import Placement, Slice
from supervisor.core.preview import Plan, action_of
from supervisor.core.sockets import refusal_for, sockets_of
from supervisor.core.spec import Recipe, Spec, WorkerId, amount_bytes
from supervisor.core.stays import words_of_sickness, words_of_stay
from supervisor.core.turn import Fleet
from supervisor.core.worker import HOLDING, RUNNING, Release, Worker

Json = dict[str, Any]

TAIL_LINES = 20
"""Of a dead process in the status; its crash record has more."""


@dataclass(frozen=True, slots=True)
class View:
    """
    What a snapshot needs beside the fleet.

    Args:
        rfc3339: A monotonic second as a wall time.
        pid: Of the daemon.
        version: Of the program.
        file: The service file as it was given.
        instance: Name of the instance, or empty.
        unit: Of systemd, which started the daemon; None without one.
        envs: What each worker's last process was given of the contract's variables.
        http: Where the API is served over TCP, and how that stands; None where it is not wanted.
        lacks: Of each worker with limits of CPU and memory that was started: why they do not hold, empty if they do.
        figures: What devices and workers do, None where nobody has asked for that.
    """

    rfc3339: Callable[[float], str]
    pid: int = 0
    version: str = ""
    file: str = ""
    instance: str = ""
    unit: str | None = None
    envs: Mapping[WorkerId, Mapping[str, str]] = field(default_factory=dict)
    lacks: Mapping[WorkerId, str] = field(default_factory=dict)
    figures: Figures | None = None
    http: Json | None = None


def make_status(fleet: Fleet, view: View) -> Json:
    """The whole state: daemon, services with their workers, devices."""
    return {
        "daemon": _daemon(fleet, view),
        "services": [_service(fleet, view, name) for name in _service_names(fleet)],
        "devices": _devices(fleet, view, _occupants(fleet)),
    }


def make_devices(fleet: Fleet, view: View) -> Json:
    """The driver's state and every device, with who is on it."""
    return {"gpu": _gpu(fleet, view), "devices": _devices(fleet, view, _occupants(fleet))}


def make_plan_json(fleet: Fleet, plan: Plan, view: View) -> Json:
    """A plan, device by device and worker by worker, and what taking it would do to what runs."""
    rows = [_plan_row(fleet, view, worker, placement) for worker, placement in plan.items()]
    rows += [
        {
            **_plan_row(fleet, view, one.id, one.held),
            "placed": False,
            "wanted": False,
            "reason": "not in the file",
            "action": "stop",
        }
        for one in fleet.workers.values()
        if one.id not in plan and one.held is not None
    ]
    occupants: dict[str, list[WorkerId]] = {}
    for worker, placement in plan.items():
        for share in placement.launch.slice if placement.launch else ():
            occupants.setdefault(share.uuid, []).append(worker)
    return {"gpu": _gpu(fleet, view), "devices": _devices(fleet, view, occupants), "workers": rows}


def make_rollout_json(fleet: Fleet, spec: Spec, plan: Plan) -> list[Json]:
    """Who would be replaced in which order, and how many of each service are ready at every step."""
    counts = Counter(worker.service for worker in plan if worker not in fleet.extras)
    return [
        {
            "service": name,
            "target": counts[name],
            "steps": [{"workers": [str(one) for one in it.workers], "ready": it.ready} for it in course.stages],
            **_extras_json(course),
        }
        for name, course in foresee(fleet, spec, plan).items()
    ]


def _extras_json(course: Course) -> Json:
    """Workers beyond the target, where the file asks for them."""
    if course.extras is None:
        return {}
    return {"extra": [str(one) for one in course.extras], "reason": course.lack}


def _daemon(fleet: Fleet, view: View) -> Json:
    last = fleet.last_reload
    return {
        "pid": view.pid,
        "version": view.version,
        "file": view.file,
        "instance": view.instance,
        "unit": view.unit,
        "state": str(fleet.state),
        "since": view.rfc3339(fleet.started_at),
        "generation": fleet.generation,
        "reload": None
        if last is None
        else {"at": view.rfc3339(last.at), "ok": last.ok, "problems": list(last.problems)},
        "gpu": _gpu(fleet, view),
        "http": view.http,
    }


def _gpu(fleet: Fleet, view: View) -> Json:
    gpu = fleet.gpu
    if gpu.state is None:
        return {"state": None, "detail": make_supply(fleet).detail, "since": view.rfc3339(fleet.started_at)}
    return {"state": str(gpu.state), "detail": gpu.detail, "since": view.rfc3339(gpu.since)}


def _service_names(fleet: Fleet) -> list[str]:
    """In file order; then services that are on their way out."""
    names = list(fleet.spec.services) if fleet.spec else []
    return names + sorted({worker.service for worker in fleet.workers} - set(names))


def _service(fleet: Fleet, view: View, name: str) -> Json:
    workers = sorted((one for one in fleet.workers.values() if one.id.service == name), key=lambda one: one.id.index)
    return {
        "name": name,
        "target": fleet.counts.get(name, 0),
        "ready": sum(worker.state is State.READY for worker in workers),
        "scaled": name in fleet.scaled,
        "listen": _sockets(fleet, workers),
        "workers": [worker_json(fleet, view, worker) for worker in workers],
    }


def _sockets(fleet: Fleet, workers: list[Worker]) -> list[Json]:
    """
    Where a service listens: `bound`, `binding`, or `refused`, with the reason.

    Of a changed address the old one is there too, as long as a process has it.
    """
    found = dict.fromkeys(socket for worker in workers for sockets in sockets_of(worker) for socket in sockets)
    rows = []
    for socket in found:
        refusal = fleet.refused.get(socket.address)
        is_bound = socket.address in fleet.bound
        state = "bound" if is_bound else "binding" if refusal is None else "refused"
        reason = "" if is_bound or refusal is None else refusal.reason
        rows.append({"name": socket.name, "address": str(socket.address), "state": state, "reason": reason})
    return rows


def worker_json(fleet: Fleet, view: View, worker: Worker) -> Json:
    """One worker, as the status has it."""
    shown = worker.held if worker.state in HOLDING else worker.target
    launch = shown.launch if shown else None
    recipe = shown.wanted.recipe if shown else None
    return {
        "worker": str(worker.id),
        "index": worker.id.index,
        "state": str(worker.state),
        "pid": worker.pid,
        "incarnation": worker.incarnation or None,
        "since": view.rfc3339(worker.since),
        "restarts": max(0, worker.starts - 1),
        "reason": worker.reason
        or _excess(worker)
        or _progress(worker)
        or _turn_reason(worker)
        or words_of_sickness(fleet, worker)
        or _fallback_reason(shown),
        "fallback": "cpu" if shown is not None and shown.fallback else None,
        "port": recipe.port if recipe else None,
        "listen": [{"name": one.name, "address": str(one.address)} for one in recipe.listen] if recipe else [],
        "gpus": _gpus(fleet, launch.slice if launch else ()),
        "env": dict(view.envs.get(worker.id, {})),
        "limits": _limits(recipe, view.lacks.get(worker.id)),
        "gpu_limits": None if shown is None else _gpu_limits(shown, worker, view),
        "status_text": worker.said or None,
        "ready_by": _ready_by(worker, view),
        "time_to_ready": worker.history.time_to_ready_s,
        "release": _release(worker.release),
        "last_exit": _last_exit(worker.last_exit, view),
        "next_start": view.rfc3339(worker.deadline)
        if worker.state in {State.BACKOFF, State.FAILED} and worker.deadline is not None
        else None,
        **({} if view.figures is None else worker_figures(view.figures, fleet, worker)),
    }


def _limits(recipe: Recipe | None, lack: str | None) -> Json | None:
    """What a worker may have of CPU and memory; whether that holds is known once it was started."""
    if recipe is None or (recipe.cpu is None and recipe.memory is None):
        return None
    return {
        "cpu": None if recipe.cpu is None else recipe.cpu / 1000,
        "memory": recipe.memory,
        "enforced": None if lack is None else not lack,
        "reason": lack or "",
    }


def _gpu_limits(placement: Placement, worker: Worker | None, view: View) -> Json | None:
    """What keeps a worker to what it declares of GPUs; None for one that has its own and is not guarded."""
    reason = enforcement(placement)
    if not reason:
        return None
    over_at = None if worker is None or worker.state not in RUNNING else worker.over_at
    return {
        "enforced": False,
        "guard": placement.wanted.policy.guard,
        "over_since": None if over_at is None else view.rfc3339(over_at),
        "exceeded": worker is not None and is_greedy(worker),
        "reason": reason,
    }


def _excess(worker: Worker) -> str:
    """What a worker has too much of a GPU."""
    return worker.excess if is_greedy(worker) else ""


def _progress(worker: Worker) -> str:
    """What a worker that loads says of it; of others it is beside the point."""
    return worker.said if worker.state is State.STARTING else ""


def _ready_by(worker: Worker, view: View) -> str | None:
    """When a start is given up; None for one that is not under way, and with `after`, which just takes its time."""
    if worker.state is not State.STARTING or worker.deadline is None or worker.held is None:
        return None
    return None if worker.held.wanted.policy.ready.kind == "after" else view.rfc3339(worker.deadline)


def _turn_reason(worker: Worker) -> str:
    return "waits for its turn to be restarted" if worker.renew and worker.state in RUNNING else ""


def _fallback_reason(placement: Placement | None) -> str:
    if placement is None or not placement.fallback:
        return ""
    return "on the CPU" + (f": {placement.reason}" if placement.reason else "")


def _gpus(fleet: Fleet, devices: Slice) -> list[Json]:
    known = fleet.inventory.by_uuid if fleet.inventory else {}
    return [
        {
            "uuid": share.uuid,
            "index": known[share.uuid].index if share.uuid in known else None,
            "share": share.millis / 1000,
        }
        for share in devices
    ]


def _release(release: Release | None) -> Json | None:
    """How the memory of its last process with a GPU came back."""
    if release is None:
        return None
    proof = "none" if release.is_dirty else release.proof.name.lower()
    return {"seconds": round(release.took_s, 3), "proof": proof, "dirty": release.is_dirty}


def _last_exit(record: ExitRecord | None, view: View) -> Json | None:
    if record is None:
        return None
    return {
        "code": record.code,
        "signal": record.signal,
        "cause": str(record.cause),
        "detail": record.detail,
        "at": view.rfc3339(record.at),
        "core_dumped": record.core_dumped,
        "tail": list(record.tail[-TAIL_LINES:]),
    }


def _occupants(fleet: Fleet) -> dict[str, list[WorkerId]]:
    return {uuid: sorted(workers) for uuid, workers in fleet.occupied.items()}


def _devices(fleet: Fleet, view: View, occupants: Mapping[str, list[WorkerId]]) -> list[Json]:
    if fleet.inventory is None:
        return []
    outside = {one.uuid for one in make_supply(fleet).outside}
    lost = [
        replace(one, health=Health.LOST, reason=ailment.reason, memory_free_bytes=None, holders=None)
        for uuid, one in fleet.missing.items()
        if (ailment := fleet.ailments.get(uuid)) is not None and uuid not in fleet.inventory.by_uuid
    ]
    return [
        {
            **_device(fleet, view, one, occupants.get(one.uuid, [])),
            "in_pool": one.uuid not in outside,
            # Of one that is not there any more, somebody else may have the index.
            **({} if one.uuid in fleet.inventory.by_uuid else {"index": None}),
        }
        for one in (*fleet.inventory.devices, *lost)
    ]


def _device(fleet: Fleet, view: View, device: Device, workers: list[WorkerId]) -> Json:
    assert fleet.inventory is not None
    return {
        "uuid": device.uuid,
        "index": device.index,
        "name": device.name,
        "type": type_of(device),
        "pci": device.pci,
        "numa": device.numa,
        **_health(fleet, view, device),
        "throttle": _throttle(fleet, device),
        "xids": [
            {"xid": one.number, "class": one.kind, "at": view.rfc3339(one.at), "workers": list(map(str, one.workers))}
            for one in fleet.xids.get(device.uuid, ())
        ],
        "parent": device.parent,
        "mig": device.is_cut,
        "memory": {
            "total": device.memory_total_bytes,
            "free": device.memory_free_bytes,
            "declared": _declared(fleet, device),
            "read_at": view.rfc3339(fleet.inventory.asked_at),
            "unified": device.is_unified,
        },
        "workers": [str(worker) for worker in workers],
        "foreign": _foreign(device),
        **({} if view.figures is None else device_figures(view.figures, device.uuid)),
    }


def _foreign(device: Device) -> list[Json] | None:
    """Who has memory of a device and is none of ours; None where that is not known."""
    if device.holders is None:
        return None
    return [
        {"pid": holder.pid, "name": holder.name, "user": holder.user, "bytes": holder.used_bytes}
        for holder in device.holders
        if not holder.worker
    ]


def _health(fleet: Fleet, view: View, device: Device) -> Json:
    """
    What is known against a device. Of one that is well otherwise: `held`, `stuck`, `dirty`.

    Args:
        fleet: In which it is.
        view: See View.
        device: Its health is that of the books already.
    """
    ailment = fleet.ailments.get(device.uuid) or fleet.ailments.get(device.parent or "")
    health, reason = str(device.health), device.reason
    since = ailment.since if ailment is not None and device.health is not Health.OK else None
    if device.health in {Health.OK, Health.SUSPECT}:
        dirt, stuck = fleet.dirty.get(device.uuid), _stuck_on(fleet, device.uuid)
        unready = fleet.unready.get(device.uuid)
        if device.uuid in fleet.elsewhere:
            health, reason, since = "held", fleet.elsewhere[device.uuid], None
        elif unready is not None:
            health, reason, since = "held", reason_of(unready), unready.since
        elif stuck is not None:
            health, reason, since = "stuck", f"{stuck.id} {stuck.reason}", stuck.since
        elif dirt is not None:
            health, reason, since = "dirty", dirt.reason, dirt.at
    elif device.uuid in fleet.elsewhere:
        reason = f"{reason}; {fleet.elsewhere[device.uuid]}" if reason else fleet.elsewhere[device.uuid]
    if health == Health.DRAINING and (stay := words_of_stay(fleet, device.parent or device.uuid)):
        reason = f"{reason}; {stay}"
    until = ailment.until if ailment is not None and health == str(ailment.health) else None
    return {
        "health": health,
        "reason": reason,
        "health_since": None if since is None else view.rfc3339(since),
        "health_until": None if until is None else view.rfc3339(until),
        "strikes": _strikes(fleet, ailment),
    }


def _strikes(fleet: Fleet, ailment: Ailment | None) -> int:
    """Quarantines in a row that still count."""
    if ailment is None or fleet.inventory is None:
        return 0
    return past_strikes(ailment, fleet.inventory.asked_at)


def _throttle(fleet: Fleet, device: Device) -> list[str] | None:
    """What slows its clocks down, of an instance those of its GPU; None where that is not known."""
    found = throttles(fleet.watches.get(device.parent or device.uuid, UNWATCHED))
    return None if found is None else list(found)


def _stuck_on(fleet: Fleet, uuid: str) -> Worker | None:
    """Who does not die there in spite of SIGKILL, by when a person should know."""
    for worker_id in sorted(fleet.occupied.get(uuid, ())):
        worker = fleet.workers[worker_id]
        if worker.state is State.KILLING and worker.killed and worker.reason.startswith(STUCK):
            return worker
    return None


def _declared(fleet: Fleet, device: Device) -> int:
    """Bytes that the workers on a device have declared."""
    amounts = [
        placement.wanted.request.gpu_memory
        for worker in fleet.occupied.get(device.uuid, {})
        if (placement := fleet.workers[worker].held) is not None
    ]
    total = device.memory_total_bytes or 0
    return sum(amount_bytes(amount, total) for amount in amounts if amount is not None)


def _plan_row(fleet: Fleet, view: View, worker_id: WorkerId, placement: Placement) -> Json:
    launch, worker = placement.launch, fleet.workers.get(worker_id)
    never = hopeless(fleet, placement)
    action = action_of(worker, placement)
    is_waiting = worker is not None and worker.state is State.PENDING
    if (action == "start" and never) or (action == "keep" and is_waiting):
        action = "wait"
    reason = placement.reason or never or (worker.reason if worker is not None and action == "wait" else "")
    listen = placement.wanted.recipe.listen
    reason = reason or refusal_for(fleet, listen) or ""
    return {
        "worker": str(worker_id),
        "wanted": True,
        # Who will never have the host's memory has no place, whatever GPU is there for it.
        "placed": launch is not None and never is None,
        "gpus": _gpus(fleet, launch.slice if launch else ()),
        "fallback": "cpu" if placement.fallback else None,
        "listen": [str(one.address) for one in listen],
        "gpu_limits": _gpu_limits(placement, worker, view),
        "reason": reason,
        "action": action,
    }
