"""
How many workers ``per_gpu`` and ``fit`` mean on these devices. Asked when a file is loaded and when somebody scales.

Counts by planning: what it says there is a place for, the plan gives a place to. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.inventory import Device
from supervisor.core.plan import Planner
from supervisor.core.slices import WHOLE, Current, Supply, headroom_bytes
from supervisor.core.spec import (
    WORKERS_MAX,
    Policy,
    Recipe,
    ServiceSpec,
    Spec,
    WorkerId,
    WorkerSpec,
    amount_bytes,
)

Currents = Mapping[WorkerId, Current]


def count_workers(
    spec: Spec, cpu_count: int, supply: Supply, current: Currents, before: Mapping[str, int]
) -> dict[str, int]:
    """
    Workers of every service whose file leaves that to the GPUs.

    Args:
        spec: The file; counts that somebody else has set are numbers in it.
        cpu_count: What ``workers: cpu_count`` means here.
        supply: A good reading of what there is.
        current: Where workers are, and where those are kept a place.
        before: What such services had before: one that is counted later keeps what it has while the others are.

    Returns:
        By name; at least 1 each, so that somebody says why there is no place.
    """
    counts: dict[str, int] = {}
    for name, service in spec.services.items():
        if service.workers == "per_gpu":
            counts[name] = _per_gpu(spec, service, supply)
    for name, service in spec.services.items():
        if service.workers == "fit":
            later = {one: before.get(one, 0) for one, other in spec.services.items() if other.is_sized}
            beside = spec.scale({**later, **counts})
            others = [one for it, its in beside.services.items() if it != name for one in its.expand(it, cpu_count)]
            planner = _planner_beside(others, Planner(supply, spec.gpus, _foreign(supply, current)), current)
            counts[name] = _fit(planner, name, service)
    return {name: max(1, min(count, WORKERS_MAX)) for name, count in counts.items()}


def _per_gpu(spec: Spec, service: ServiceSpec, supply: Supply) -> int:
    """What the GPUs that may be used have place for, whoever else wants them."""
    planner = Planner(supply, spec.gpus)
    request = service.request(service.variants()[0])
    if request.gpu == "all":
        return 1
    eligible = planner.eligible(request)
    if request.gpu <= WHOLE:
        return eligible.bit_count() * (WHOLE // request.gpu)
    return (eligible & ~planner.ledger.instances).bit_count() * WHOLE // request.gpu


def _planner_beside(others: list[WorkerSpec], planner: Planner, current: Currents) -> Planner:
    """A plan in which everybody else has a place."""
    placed = planner.keep_all(others, current)
    for one in others:
        if one.id not in placed:
            planner.place(one, current.get(one.id))
    return planner


def _fit(planner: Planner, name: str, service: ServiceSpec) -> int:
    """How many find a place beside everybody else's declarations and what foreign processes hold."""
    request = service.request(service.variants()[0])
    for count in range(WORKERS_MAX):
        one = WorkerSpec(WorkerId(name, count), Recipe(()), request, Policy())
        if planner.place(one, None).launch is None:
            return count
    return WORKERS_MAX


def _foreign(supply: Supply, current: Currents) -> dict[str, int]:
    """Device UUID -> bytes that are held by processes that are nobody's of ours."""
    ours: dict[str, list[Current]] = {}
    for one in current.values():
        for share in one.slice if one.living else ():
            ours.setdefault(share.uuid, []).append(one)
    return {device.uuid: _foreign_of(device, ours.get(device.uuid, []), supply) for device in supply.devices}


def _foreign_of(device: Device, ours: list[Current], supply: Supply) -> int:
    total, free = device.memory_total_bytes, device.memory_free_bytes
    holders = device.holders
    # In a container a process may be told by a pid that nobody has here: it may as well be one of ours.
    if holders is not None and all((one.worker or one.name) and one.used_bytes is not None for one in holders):
        return sum(one.used_bytes or 0 for one in holders if not one.worker)
    if total is None or free is None:
        return 0
    declared = 0
    for one in ours:
        if one.wanted.request.gpu_memory is None:
            return 0  # Whose it is cannot be told.
        declared += amount_bytes(one.wanted.request.gpu_memory, total)
    # The driver itself has a little of it; that is what the headroom is for.
    return max(0, total - free - declared - headroom_bytes(supply.headroom, total))


def with_ports(spec: Spec, cpu_count: int, counts: Mapping[str, int]) -> dict[str, int]:
    """
    The counts, as far as there are ports for them: what the GPUs allow must not break a file that was good.

    Args:
        spec: The file; counts that somebody else has set are numbers in it.
        cpu_count: What ``workers: cpu_count`` means here.
        counts: Of services whose file leaves them to the GPUs.
    """
    if not spec.scale(counts).has_port_problems(cpu_count):
        return dict(counts)
    settled = dict.fromkeys(counts, 1)
    for name, count in counts.items():
        if not spec.scale({**settled, name: count}).has_port_problems(cpu_count):
            settled[name] = count
            continue
        low, high = 1, count
        while high - low > 1:
            middle = (low + high) // 2
            if spec.scale({**settled, name: middle}).has_port_problems(cpu_count):
                high = middle
            else:
                low = middle
        settled[name] = low
    return settled
