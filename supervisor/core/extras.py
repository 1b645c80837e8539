"""
Extra workers of a roll-out, beyond a service's count: what they are, and where they may go.

Changes nothing; who gets one, and for how long, `surge` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from supervisor.core.bitsets import bits
from supervisor.core.evolve import evolve
from supervisor.core.message import State
from supervisor.core.plan import Current, Placement, Planner, Supply, make_plan
from supervisor.core.spec import ServiceSpec, Spec, WorkerId, WorkerSpec
from supervisor.core.turn import Fleet


def extras_of(fleet: Fleet, service: str) -> list[WorkerId]:
    """Those that a service has, by index."""
    return sorted(one for one in fleet.extras if one.service == service)


def allowed_extras(fleet: Fleet, spec: Spec, cpu_count: int) -> Iterator[WorkerSpec]:
    """
    Extra workers that there are, as a file describes them.

    Args:
        fleet: Which has them.
        spec: The file with the counts in force: an index below the count is no extra one any more. Of more than it
            wants, those that are ready stay first.
        cpu_count: What ``workers: cpu_count`` means here.
    """
    for name in sorted({one.service for one in fleet.extras} & spec.services.keys()):
        service = spec.services[name]
        count = len(service.entries(cpu_count))
        beyond = [one for one in extras_of(fleet, name) if one.index >= count]
        beyond.sort(key=lambda one: one not in fleet.workers or fleet.workers[one].state is not State.READY)
        yield from (describe(service, one, cpu_count) for one in sorted(beyond[: service.update.surge]))


def describe(service: ServiceSpec, worker: WorkerId, cpu_count: int) -> WorkerSpec:
    """What a worker beyond the count would be: one like the others."""
    *_, found = service.scale(worker.index + 1).expand(worker.service, cpu_count)
    return found


def new_ids(fleet: Fleet, service: str, count: int, first: int) -> list[WorkerId]:
    """So many ids from an index on that nobody has and that no operator holds down."""
    found: list[WorkerId] = []
    while len(found) < count:
        one = WorkerId(service, first)
        if one not in fleet.workers and one not in fleet.extras and not fleet.holds.get(one):
            found.append(one)
        first += 1
    return found


def place_extras(
    extras: Sequence[WorkerSpec],
    others: Sequence[WorkerSpec],
    supply: Supply,
    current: Mapping[WorkerId, Current],
    *,
    allowed: tuple[str, ...] | None,
    taken: Mapping[str, set[str]],
) -> dict[WorkerId, Placement]:
    """
    Places for extra workers that live nowhere: what is left when all others have theirs.

    Args:
        extras: Who they are.
        others: All others.
        supply: Devices to hand out.
        current: What workers have now.
        allowed: The file-wide `gpus` restriction.
        taken: Service -> devices that its workers have or are to have.

    Returns:
        A placement for each of *extras*, without a launch where there is no room.
    """
    planner = Planner(supply, allowed)
    found: dict[WorkerId, Placement] = {}
    narrow: list[WorkerSpec] = []
    for extra in extras:
        elsewhere = _elsewhere(planner, extra, taken.get(extra.id.service, set()))
        if elsewhere is None:
            reason = f"every GPU that would do has a worker of {extra.id.service}"
            found[extra.id] = Placement(extra, None, reason=reason)
        else:
            narrow.append(elsewhere)
    if narrow:
        lately = {one.id: replace(current[one.id], reserved=False) for one in narrow if one.id in current}
        plan = make_plan([*others, *narrow], supply, {**current, **lately}, allowed=allowed)
        wanted = {one.id: one for one in extras}
        found |= {one.id: evolve(plan[one.id], wanted=wanted[one.id]) for one in narrow}
    return found


def _elsewhere(planner: Planner, extra: WorkerSpec, taken: set[str]) -> WorkerSpec | None:
    """The same on devices that are not taken, and with a GPU or not at all; None where there are none."""
    request = extra.request
    policy = replace(extra.policy, on_no_gpu="wait")
    if request.gpu == 0:
        return extra
    if not planner.supply.trusted:
        return replace(extra, policy=policy)
    eligible = [planner.ledger.devices[at].uuid for at in bits(planner.eligible(request))]
    left = tuple(uuid for uuid in eligible if uuid not in taken)
    if not left or (request.gpu == "all" and len(left) < len(eligible)):
        return None
    if request.gpu == "all":
        return replace(extra, policy=policy)  # What is no device for it now is one of all the same.
    return replace(extra, request=replace(request, gpus=left), policy=policy)
