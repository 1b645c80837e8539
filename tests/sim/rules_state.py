"""What must be true at every moment, of the books and of what exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.inventory import Health
from supervisor.core.message import State
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import FREED, HOLDING, LIVING, RUNNING, Worker
from tests.sim.rules_start import eligible_devices, every_device, headroom, wanted_by_file, wanted_now
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from supervisor.core.slices import Slice
    from tests.sim.world import World

TIMED = frozenset({State.STARTING, State.STOPPING, State.KILLING, State.RELEASING, State.BACKOFF})
GOING_DOWN = frozenset({State.STOPPING, State.KILLING, State.RELEASING})


# ---- what exists ----------------------------------------------------------------------------------------------------


def shares_fit(world: World, step: Step) -> Iterator[str]:
    """No device carries more than the whole of it, counted over whole trees that exist."""
    taken: Counter[str] = Counter()
    for tree in world.processes.living():
        for share in tree.order.launch.slice:
            taken[share.uuid] += share.millis
    for uuid, millis in taken.items():
        if millis > 1000:
            yield f"{millis} of 1000 are in use on {uuid}"


def one_tree_per_worker(world: World, step: Step) -> Iterator[str]:
    """A worker is one process with what it started."""
    for worker, count in Counter(tree.order.worker for tree in world.processes.living()).items():
        if count > 1:
            yield f"{worker} has {count} trees"


def no_orphan(world: World, step: Step) -> Iterator[str]:
    """Everything that lives belongs to a worker that knows of it."""
    for tree in world.processes.living():
        worker = step.after.workers.get(tree.order.worker)
        if worker is None or worker.incarnation != tree.order.incarnation or worker.state not in LIVING:
            where = "is forgotten" if worker is None else f"is {worker.state} as #{worker.incarnation}"
            yield f"{tree.order.worker}#{tree.order.incarnation} lives while its worker {where}"
        elif worker.held is None or worker.held.launch != tree.order.launch:
            yield f"{tree.order.worker}#{tree.order.incarnation} runs something else than is on record"


# ---- the books ------------------------------------------------------------------------------------------------------


def holding_means_occupying(world: World, step: Step) -> Iterator[str]:
    """A worker occupies its slice exactly while something of it lives or its memory is not back."""
    expected: dict[str, dict[object, int]] = {}
    for worker in step.after.workers.values():
        if (worker.held is not None) != (worker.state in HOLDING):
            yield f"{worker.id} is {worker.state} and holds {worker.held}"
        if worker.state in HOLDING:
            for share in worker.occupied:
                expected.setdefault(share.uuid, {})[worker.id] = share.millis
    if expected != step.after.occupied:
        yield f"occupied is {step.after.occupied}, and should be {expected}"


def slice_never_changes(world: World, step: Step) -> Iterator[str]:
    """What a process was started with stays."""
    for worker in step.after.workers.values():
        if worker.state in HOLDING and worker.occupied != world.checks.notes.slices[worker.incarnation]:
            yield f"{worker.id}#{worker.incarnation} moved to {worker.occupied}"


def places_fit(world: World, step: Step) -> Iterator[str]:
    """The plan gives no more of a device than there is, nor of its memory to who has not started yet."""
    for uuid, there in planned_on(step).items():
        if sum(millis for _, millis in there) > 1000:
            yield f"{uuid} is planned for {[(str(worker.id), millis) for worker, millis in there]}"
        device = step.after.inventory.by_uuid.get(uuid) if step.after.inventory else None
        is_new = any(worker.state is State.PENDING and declared_on(worker, 1000) for worker, _ in there)
        if device is None or device.memory_total_bytes is None or not is_new or not step.after.trusted:
            continue
        total = device.memory_total_bytes
        declared = sum(declared_on(worker, total) for worker, _ in there)
        if declared + headroom(step.after, total) > total:
            yield f"{uuid} has {total} bytes, and {declared} are planned for {[str(worker.id) for worker, _ in there]}"


def planned_on(step: Step) -> dict[str, list[tuple[Worker, int]]]:
    """Device -> who is meant to be there, with how much of it."""
    found: dict[str, list[tuple[Worker, int]]] = {}
    for worker in step.after.workers.values():
        launch = worker.target.launch if worker.target else None
        for share in launch.slice if launch else ():
            found.setdefault(share.uuid, []).append((worker, share.millis))
    return found


def declared_on(worker: Worker, total: int) -> int:
    """Bytes that a worker declares on a device."""
    memory = worker.target.wanted.request.gpu_memory if worker.target else None
    return 0 if memory is None else amount_bytes(memory, total)


def freed_means_free(world: World, step: Step) -> Iterator[str]:
    """Nothing is kept for those that have ended."""
    for worker in step.after.workers.values():
        if worker.state in FREED and (worker.target is None or worker.target.launch is not None):
            yield f"{worker.id} is {worker.state} with {worker.target}"


def queues_match_states(world: World, step: Step) -> Iterator[str]:
    """Who waits for admission and who for a place."""
    pending = [worker for worker in step.after.workers.values() if worker.state is State.PENDING]
    waiting = {worker.id for worker in pending if worker.target and worker.target.launch}
    unplaced = {worker.id for worker in pending if worker.target and worker.target.launch is None}
    if waiting != step.after.waiting or unplaced != step.after.unplaced:
        yield f"waiting {set(step.after.waiting)}, not {waiting}; unplaced {set(step.after.unplaced)}, not {unplaced}"


def restarts_are_counted(world: World, step: Step) -> Iterator[str]:
    """One for each start of this index."""
    for worker in step.after.workers.values():
        if worker.starts != world.checks.notes.spawns[worker.id]:
            yield f"{worker.id} counts {worker.starts} starts of {world.checks.notes.spawns[worker.id]}"


# ---- time -----------------------------------------------------------------------------------------------------------


def states_that_end_have_a_deadline(world: World, step: Step) -> Iterator[str]:
    """Nobody stays for ever where nobody should, and the driver knows until when."""
    known = world.deadlines._at
    for worker in step.after.workers.values():
        if worker.state in TIMED and worker.deadline is None:
            yield f"{worker.id} is {worker.state} for ever"
        if known.get(worker.id) != worker.deadline:
            yield f"{worker.id} has {worker.deadline} as its deadline, and the driver waits for {known.get(worker.id)}"
    if known.get(None) != step.after.deadline:
        yield f"the fleet has {step.after.deadline} as its deadline, and the driver waits for {known.get(None)}"


def start_is_bounded_by_policy(world: World, step: Step) -> Iterator[str]:
    """A start ends when the policy that it was started with says so: its port and its probe belong to that."""
    for worker in step.after.workers.values():
        if worker.state is not State.STARTING or worker.deadline is None or worker.held is None:
            continue
        ready = worker.held.wanted.policy.ready
        expected = worker.since + ready.timeout_s
        if ready.kind == "after" and worker.spawned_at is not None:
            expected = worker.spawned_at + ready.after_s
        least, most = world.checks.notes.put_off.get(worker.id, (0.0, 0.0))
        if worker.is_extended:  # By how much, `a_start_is_extended_as_asked` says.
            most += max(3600.0 - ready.timeout_s, 0.0)
        least = 0.0 if ready.kind == "after" else least  # What is put off before the process comes begins with it.
        if not expected + least - EPSILON_S <= worker.deadline <= expected + most + EPSILON_S:
            yield f"{worker.id} is starting until {worker.deadline} and not until {expected}"


# ---- what is wanted -------------------------------------------------------------------------------------------------


def targets_are_the_files(world: World, step: Step) -> Iterator[str]:
    """Every worker of the file, no other, each with the newest words about it."""
    fleet = step.after
    targets = {worker.id: worker.target.wanted for worker in fleet.workers.values() if worker.target is not None}
    expected = wanted_now(world, fleet)
    if world.checks.notes.is_ending:  # Who still runs is wanted until its turn to end; `rules_order`.
        running = {worker.id for worker in fleet.workers.values() if worker.state in RUNNING and worker.target}
        expected = {one: wanted for one, wanted in expected.items() if one in running}
    if targets != expected:
        odd = [str(one) for one in sorted({*targets, *expected}) if targets.get(one) != expected.get(one)]
        yield f"{', '.join(odd)}: not what the file says"
    for worker in fleet.workers.values():
        if worker.target is None and worker.state not in GOING_DOWN:
            yield f"{worker.id} is {worker.state} and nobody wants it"


def operator_is_obeyed(world: World, step: Step) -> Iterator[str]:
    """Held down exactly those that an operator stopped and did not start."""
    for worker in step.after.workers.values():
        is_down = world.checks.notes.is_down(worker.id)
        if worker.down != is_down:
            yield f"{worker.id} is{'' if worker.down else ' not'} held down"
        if is_down and worker.state not in GOING_DOWN | {State.STOPPED}:
            yield f"{worker.id} is held down and {worker.state}"
        if worker.state is State.STOPPED and not is_down:
            yield f"{worker.id} is stopped by nobody"


def places_are_not_left_empty(world: World, step: Step) -> Iterator[str]:
    """Who waits for a place has none, by the newest trusted reading."""
    fleet = step.after
    if not fleet.unplaced or not fleet.trusted or fleet.state is DaemonState.STOPPING:
        return
    for worker_id in fleet.unplaced:
        if could_be_placed(step, fleet.workers[worker_id]):
            yield f"{worker_id} waits for a place, and there is one"


def who_may_choose_does_not_wait_for_the_fabric(world: World, step: Step) -> Iterator[str]:
    """Who is placed on devices on which nobody can start yet has no others, by the newest trusted reading."""
    fleet = step.after
    if not fleet.unready or not fleet.trusted or fleet.state is DaemonState.STOPPING:
        return
    for worker_id in fleet.waiting:
        worker = fleet.workers[worker_id]
        slice_ = worker.target.launch.slice if worker.target and worker.target.launch else ()
        if not any(share.uuid in fleet.unready for share in slice_):
            continue
        avoided = frozenset(fleet.unready)
        if worker_id in fleet.extras:  # An extra worker goes where none of its service is.
            mates = (one for one in fleet.workers.values() if one.id.service == worker_id.service and one is not worker)
            avoided |= {share.uuid for mate in mates for share in (*mate.occupied, *_planned_slice(mate))}
        if could_be_placed(step, worker, avoided=avoided):
            yield f"{worker_id} waits for the fabric of its GPUs, and there are others"


def _planned_slice(worker: Worker) -> Slice:
    return worker.target.launch.slice if worker.target and worker.target.launch else ()


def could_be_placed(step: Step, worker: Worker, *, avoided: frozenset[str] = frozenset()) -> bool:
    """Whether enough eligible devices are healthy, planned for nobody else, and none of *avoided*."""
    assert worker.target is not None
    fleet, request = step.after, worker.target.wanted.request
    planned = planned_on(step)
    eligible = eligible_devices(fleet, request)
    part = request.gpu if request.gpu != "all" and request.gpu < 1000 else 1000
    if request.gpu == "all":
        eligible = every_device(eligible)
    elif request.gpu > 1000:
        eligible = [one for one in eligible if one.parent is None]
    free = []
    for device in eligible:
        others = [(other, millis) for other, millis in planned.get(device.uuid, []) if other.id != worker.id]
        if device.uuid in fleet.elsewhere or not device.is_usable or device.uuid in avoided:
            continue
        total = device.memory_total_bytes
        declared = sum(declared_on(other, total or 0) for other in (worker, *(other for other, _ in others)))
        has_memory = total is None or not declared_on(worker, total) or declared + headroom(fleet, total) <= total
        if has_memory and sum(millis for _, millis in others) + part <= 1000:
            free.append(device)
    count = len(eligible) if request.gpu == "all" else max(1, request.gpu // 1000)
    return 0 < count <= len(free)


def claims_are_those_of_the_living(world: World, step: Step) -> Iterator[str]:
    """Every device that a process is on is ours; others may have what nobody is placed on, unless it is sick."""
    fleet, ours = step.after, world.locks.ours
    if fleet.exiting:
        return
    meant = {
        share.uuid
        for worker in fleet.workers.values()
        if worker.target and worker.target.launch
        for share in worker.target.launch.slice
    }
    if lost := fleet.occupied.keys() - ours:
        yield f"somebody is on {lost}, which another daemon may have"
    if kept := ours - meant - fleet.occupied.keys() - fleet.claiming - _out_of_use(fleet):
        yield f"{kept} is claimed for nobody"


def _out_of_use(fleet: Fleet) -> set[str]:
    """Devices that the books keep everybody from, and their parts."""
    sick = {uuid for uuid, one in fleet.ailments.items() if one.health not in {Health.OK, Health.SUSPECT}}
    devices = fleet.inventory.devices if fleet.inventory else ()
    return {*sick, *fleet.canaries, *(one.uuid for one in devices if {one.parent} & (sick | fleet.canaries.keys()))}


def fallback_is_a_policy(world: World, step: Step) -> Iterator[str]:
    """Only who asked for a GPU falls back, and only where the file says so."""
    for worker in step.after.workers.values():
        target = worker.target
        if target is None or not target.fallback:
            continue
        if target.wanted.request.gpu == 0 or target.launch is None or target.launch.slice:
            yield f"{worker.id} falls back and should not: {target}"
        # Who lives or has not been asked since is left alone; at its start it has to be allowed.
        if target.wanted.policy.on_no_gpu != "cpu" and worker.state is State.PENDING:
            yield f"{worker.id} falls back, and the file does not say so"


# ---- going down -----------------------------------------------------------------------------------------------------


def stopping_is_signalled(world: World, step: Step) -> Iterator[str]:
    """Who is to end was asked to, as soon as there was somebody to ask."""
    notes = world.checks.notes
    for worker in step.after.workers.values():
        if worker.state is not State.STOPPING or worker.incarnation not in notes.spawned:
            continue
        if worker.incarnation not in notes.signalled | notes.commands.keys():
            yield f"{worker.id}#{worker.incarnation} is stopping and was not asked to"


def killed_is_killed(world: World, step: Step) -> Iterator[str]:
    """Who counts as killed was, by us or because its shim is gone."""
    notes = world.checks.notes
    for worker in step.after.workers.values():
        if worker.killed and worker.incarnation not in notes.killed | notes.lost:
            yield f"{worker.id}#{worker.incarnation} counts as killed"


def relaunch_only_while_going_down(world: World, step: Step) -> Iterator[str]:
    """The mark means: it shall come back."""
    for worker in step.after.workers.values():
        if worker.relaunch and worker.state not in GOING_DOWN:
            yield f"{worker.id} is {worker.state} and marked to come back"
        if worker.renew and worker.state not in HOLDING:
            yield f"{worker.id} is {worker.state} and waits for its turn"
        if worker.cause is not None and worker.state not in GOING_DOWN:
            yield f"{worker.id} is {worker.state} with a cause to end: {worker.cause}"


def stopping_daemon_wants_nobody(world: World, step: Step) -> Iterator[str]:
    """And it knows when it gives up."""
    fleet = step.after
    if fleet.state is DaemonState.STOPPING and not fleet.exiting and fleet.deadline is None:
        yield "the daemon stops for ever"
    if fleet.counts != Counter(one.service for one in wanted_by_file(world, fleet)):
        yield f"counts are {fleet.counts}"


def output_goes_where_the_file_says(world: World, step: Step) -> Iterator[str]:
    """That of a process that lives too: where it goes is no part of its launch."""
    for worker in step.after.workers.values():
        if worker.state not in LIVING or worker.target is None:
            continue
        wanted = worker.target.wanted.policy.logs
        if world.checks.notes.outputs.get(worker.incarnation) != wanted:
            yield f"the output of {worker.id} does not go to {wanted}"


RULES: tuple[Rule, ...] = (
    shares_fit,
    one_tree_per_worker,
    no_orphan,
    holding_means_occupying,
    slice_never_changes,
    places_fit,
    freed_means_free,
    queues_match_states,
    restarts_are_counted,
    states_that_end_have_a_deadline,
    start_is_bounded_by_policy,
    targets_are_the_files,
    operator_is_obeyed,
    places_are_not_left_empty,
    who_may_choose_does_not_wait_for_the_fabric,
    fallback_is_a_policy,
    claims_are_those_of_the_living,
    stopping_is_signalled,
    killed_is_killed,
    relaunch_only_while_going_down,
    stopping_daemon_wants_nobody,
    output_goes_where_the_file_says,
)
