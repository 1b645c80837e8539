"""A whole life of one seed: trouble, then health and rest, then the end, with nothing left."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.inventory import Device
from supervisor.core.message import ReloadRequested, ShutdownRequested, SpecLoaded, State
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import Worker
from tests.sim.chaos import Chaos
from tests.sim.rules_order import layers, waits_for_others
from tests.sim.rules_start import devices_of_file, headroom, wanted_now
from tests.sim.rules_state import could_be_placed
from tests.sim.rules_surge import leftovers
from tests.sim.specs import read
from tests.sim.trouble import Step, TroubleError
from tests.sim.world import World

REST_S = 1500.0
"""Longest way to rest: a canary's timeout, its back-offs and the grace of each, one worker after the other."""

CALM_S = 40.0
STOP_MARGIN_S = 6.0


class EndedError(Exception):
    """The daemon has ended of its own, as the file allows; whether it may have, a rule says."""


@dataclass(frozen=True)
class Life:
    """
    How a seed's life went.

    Args:
        steps: Calls of `handle`.
        virtual_s: How long it lasted.
        digest: Of its trace.
        rule: That was broken, or empty.
        story: What it was and how it came to it, or empty.
    """

    seed: int
    steps: int
    virtual_s: float
    digest: str
    rule: str = ""
    story: str = ""


def live(seed: int, *, keep_trace: bool = False, hear: Callable[[Step], None] | None = None) -> Life:
    """Live the life of a seed, to its end or to the first rule that is broken; *hear* is told of each step."""
    world = World(seed, keep_trace=keep_trace)
    world.hears += [] if hear is None else [hear]
    began = world.now
    rule = story = ""
    try:
        _live(world)
    except EndedError:
        pass
    except TroubleError as trouble:
        rule, story = trouble.rule, str(trouble)
    except Exception as error:  # noqa: BLE001 - Whatever the core raises is what is looked for.
        rule, story = type(error).__name__, "".join(traceback.format_exception(error)[-4:])
    if rule or keep_trace:
        story = "\n".join([*world.lines, story])
    return Life(seed, world.steps, world.now - began, world.digest, rule, story)


def _live(world: World) -> None:
    chaos = Chaos(world)
    world.load_first()
    chaos.start()
    world.sickness.start()
    world.symptoms.start()
    world.greed.start()
    _pass(world, world.rng.choice((20.0, 100.0, 300.0)))
    _pass(world, max(300.0 if world.greed.is_there else 0.0, world.symptoms.lasts_s))
    if world.rng.random() < 0.2:
        world.thaw()
        chaos.kinds = [kind for kind in chaos.kinds if kind != chaos.leap]
        chaos.shut_down()
        _expect_exit(world, may_be_stuck=True)
        return
    chaos.is_over = True
    heal(world)
    come_to_rest(world)
    # Devices that came back after the last reload may have made another plan, which only a reload carries out.
    world.post(ReloadRequested())
    come_to_rest(world, is_last=True)
    stay_calm(world)
    world.post(ShutdownRequested())
    _expect_exit(world, may_be_stuck=False)


def _pass(world: World, seconds: float) -> None:
    """Let time pass, in which the daemon may end of its own."""
    world.run(world.now + seconds)
    if world.exit is not None:
        raise EndedError


# ---- health ---------------------------------------------------------------------------------------------------------


def heal(world: World) -> None:
    """From now on everything does what it should, and the file is good."""
    world.is_healed = True
    world.thaw()
    world.devices.heal()
    world.sickness.heal()
    world.symptoms.heal()
    world.greed.heal()
    world.ram.heal()
    for gpu in world.devices.every:
        world.locks.leave(gpu.uuid)
    world.processes.heal()
    world.devices.forget({tree.order.incarnation for tree in world.processes.living()})
    while not isinstance(read(world.document, world.cpu_count), SpecLoaded):
        world.edit()
    world.addresses.heal()
    for service in world.document["services"].values():
        service.pop("recycle", None)  # With it there is no rest.
    world.post(ReloadRequested())


def come_to_rest(world: World, *, is_last: bool = False) -> None:
    """Within bounded time everybody is ready, or has a good reason not to be."""
    until = world.now + REST_S
    _pass(world, 15.0)
    while restless := list(_restless(world, is_last=is_last)):
        if world.now >= until:
            raise TroubleError("comes_to_rest", "; ".join(restless))
        _pass(world, 5.0)
    if is_last:  # A roll-out that was halted is taken up at a reload once nobody of its service is failed any more.
        _expect_newest(world)
        _expect_no_old_launch(world)
    for worker in world.fleet.workers.values():
        if why := _is_wrongly_idle(world, worker):
            raise TroubleError("rests_for_a_reason", why)


def _expect_newest(world: World) -> None:
    """Every process is what the newest file says, set-up and variables too, but where a roll-out was halted."""
    fleet = world.fleet
    wanted = wanted_now(world, fleet)
    for tree in world.processes.living():
        worker_id, launch = tree.order.worker, tree.order.launch
        worker = fleet.workers.get(worker_id)
        is_due = worker is not None and worker.state in {State.READY, State.UNREADY}
        if worker is None or not is_due or _is_left_behind(fleet, worker) or waits_for_others(world, fleet, worker):
            continue
        if launch.recipe != wanted[worker_id].recipe or tree.order.setup != wanted[worker_id].recipe.setup:
            raise TroubleError("runs_the_newest_file", f"{worker_id} runs {launch.recipe}")


def _restless(world: World, *, is_last: bool) -> Iterator[str]:
    fleet = world.fleet
    # Whoever waits for memory has the driver asked again and again.
    is_asked = fleet.asked is not None and not any(one.starved for one in fleet.workers.values())
    if fleet.state is not DaemonState.RUNNING or fleet.reload is not None or is_asked:
        yield f"the daemon is {fleet.state}, reload {fleet.reload is not None}, asked {fleet.asked}"
    if left := leftovers(fleet):
        yield f"{left} are there without a roll-out"
    for worker in fleet.workers.values():
        is_due = is_last or worker.id.service in fleet.rolling
        is_kept = _is_left_behind(fleet, worker) or waits_for_others(world, fleet, worker)
        is_kept = is_kept or _is_kept_elsewhere(fleet, worker)
        if worker.is_outdated and is_due and not is_kept:
            yield f"{worker.id} runs with an old launch"
        elif worker.renew and not is_kept:
            yield f"{worker.id} waits for its turn to be restarted"
        elif not _is_at_rest(world, worker):
            yield f"{worker.id} is {worker.state}: {worker.reason}"


def _is_left_behind(fleet: Fleet, worker: Worker) -> bool:
    """The process of another of its service has failed, or finds no memory: it keeps its own, old one."""
    others = [one for one in fleet.workers.values() if one.id.service == worker.id.service]
    has_failed = any(one.state is State.FAILED or (one.state is State.PENDING and one.starved) for one in others)
    return worker.state in {State.READY, State.UNREADY} and has_failed


def _is_kept_elsewhere(fleet: Fleet, worker: Worker) -> bool:
    """A halted roll-out leaves it where it is, on a device that is no longer among the file's."""
    roll = fleet.rolls.get(worker.id.service)
    if roll is None or not roll.is_halted or worker.id not in fleet.kept:
        return False
    allowed = {one for device in devices_of_file(fleet) for one in (device.uuid, device.parent)}
    return any(share.uuid not in allowed for share in worker.occupied)


def _expect_no_old_launch(world: World) -> None:
    """In good health only a launch for which there is no place, or no memory, is left untried."""
    fleet = world.fleet
    problems = " ".join(fleet.last_reload.problems) if fleet.last_reload else ""
    # As many as may be missing are, where one that has the new launch waits for memory.
    starved = {
        one.id.service
        for one in fleet.workers.values()
        if one.starved and one.id not in fleet.kept and (one.id in fleet.tried or one.state is State.PENDING)
    }
    for worker_id in fleet.kept:
        if worker_id.service in starved:
            continue
        if waits_for_others(world, fleet, fleet.workers[worker_id]):
            continue
        if f"{worker_id.service}/" not in problems or not ("no place" in problems or "needs " in problems):
            raise TroubleError("runs_the_newest_file", f"{worker_id} keeps an old launch: {problems or 'no reason'}")


def _is_at_rest(world: World, worker: Worker) -> bool:
    fleet = world.fleet
    if worker.state is State.PENDING:
        if waits_for_others(world, fleet, worker):
            return True
        if worker.target is not None and worker.target.launch is None:
            return not could_be_placed(_still(fleet), worker)
        if worker.id in fleet.tried and worker.id.service in fleet.rolling:
            return False  # After a minute it goes back to what it was.
        return _never_fits(world, worker) or _finds_no_memory(world, worker)
    if worker.state is State.FAILED:
        return worker.deadline is None
    return worker.state in {State.READY, State.EXITED, State.STOPPED}


def _never_fits(world: World, worker: Worker) -> bool:
    """It needs more memory than one of its devices will have free as long as the others are there."""
    assert worker.target is not None
    fleet = world.fleet
    launch, memory = worker.target.launch, worker.target.wanted.request.gpu_memory
    if launch is None or fleet.inventory is None:
        return False
    devices = [fleet.inventory.by_uuid[share.uuid] for share in launch.slice]
    if memory is None:
        return any(_is_lived_on(world, device) for device in devices)
    return any(_is_full(world, worker, device) for device in devices)


def _is_lived_on(world: World, device: Device) -> bool:
    """A GPU was put together again while somebody lived on an instance, who has more than a tenth of it."""
    parts = [part for gpu in world.devices.every if gpu.uuid == device.uuid for part in gpu.parts]
    total = device.memory_total_bytes
    return total is not None and sum(sum(part.used.values()) for part in parts) * 10 > total


def _is_full(world: World, worker: Worker, device: Device) -> bool:
    """Whether what is declared on a device, or what others have of it, leaves too little."""
    fleet, total = world.fleet, device.memory_total_bytes
    if total is None:
        return False
    amounts = [worker.target.wanted.request.gpu_memory] if worker.target else []
    for other in fleet.workers.values():
        if other.id != worker.id and other.held and any(share.uuid == device.uuid for share in other.occupied):
            amounts += [other.held.wanted.request.gpu_memory]
    room = total - headroom(fleet, total)
    # Of a GPU that was put together again while somebody lived on an instance, its memory is not free either.
    mine = [one for gpu in world.devices.every if gpu.uuid == device.uuid for one in (gpu, *gpu.parts)]
    used = sum(sum(one.used.values()) for one in mine)
    hosted = _hosted(world, worker) if device.is_unified else 0
    need = amount_bytes(amounts[0], total) if amounts and amounts[0] is not None else 0
    taken = used + (sum(world.ram.used.values()) if device.is_unified else 0)
    return need + taken > room or hosted + sum(amount_bytes(one, total) for one in amounts if one is not None) > room


def _finds_no_memory(world: World, worker: Worker) -> bool:
    """It declares more of the host's memory than the others leave it."""
    memory = worker.target.wanted.recipe.memory if worker.target else None
    left = min(world.ram.total - _hosted(world, worker) - _lent(world, worker), world.ram.available)
    return memory is not None and memory > left


def _lent(world: World, worker: Worker) -> int:
    """What others have declared of GPUs whose memory is the host's."""
    inventory = world.fleet.inventory
    unified = {one.uuid: one for one in inventory.devices if one.is_unified} if inventory else {}
    return sum(
        amount_bytes(one.held.wanted.request.gpu_memory, unified[share.uuid].memory_total_bytes or 0)
        for one in world.fleet.workers.values()
        for share in one.occupied
        if one.id != worker.id and one.held and one.held.wanted.request.gpu_memory and share.uuid in unified
    )


def _hosted(world: World, worker: Worker) -> int:
    """What others have declared of the host's memory."""
    others = [one.held for one in world.fleet.workers.values() if one.held is not None and one.id != worker.id]
    return sum(one.wanted.recipe.memory or 0 for one in others)


def _is_wrongly_idle(world: World, worker: Worker) -> str:
    """Why a worker should not rest where it does."""
    if worker.state is State.STOPPED and not world.checks.notes.is_down(worker.id):
        return f"{worker.id} is stopped by nobody"
    if worker.state is State.EXITED and worker.last_exit is not None and worker.last_exit.code != 0:
        return f"{worker.id} counts as done with code {worker.last_exit.code}"
    return ""


def _still(fleet: Fleet) -> Step:
    return Step(fleet, ReloadRequested(), (), fleet, 0.0)


def _has_room_since(fleet: Fleet) -> bool:
    """Whether somebody has failed, and left a place, only after the last reload."""
    at = fleet.last_reload.at if fleet.last_reload else 0.0
    return any(one.state is State.FAILED and one.since > at for one in fleet.workers.values())


def stay_calm(world: World) -> None:
    """At rest nobody is started or stopped any more."""
    before = dict(world.fleet.workers)
    for worker in world.fleet.workers.values():
        refused = worker.state is State.FAILED and worker.target is not None and worker.target.refused
        if refused and could_be_placed(_still(world.fleet), worker) and not _has_room_since(world.fleet):
            raise TroubleError("rests_for_a_reason", f"{worker.id} was asked again at a reload and there is a GPU")
    _pass(world, CALM_S)
    for worker_id, worker in before.items():
        after = world.fleet.workers.get(worker_id)
        if after is None or (after.state, after.incarnation) != (worker.state, worker.incarnation):
            raise TroubleError("stays_at_rest", f"{worker_id} was {worker.state} and is {after and after.state}")


# ---- the end --------------------------------------------------------------------------------------------------------


def _expect_exit(world: World, *, may_be_stuck: bool) -> None:
    # Of all of them: what else happens at this instant may start one, or bring one, before the end is asked for.
    graces = [worker.policy.stop.timeout_s for worker in world.fleet.workers.values()]
    world.run(world.now)
    graces += [worker.policy.stop.timeout_s for worker in world.fleet.workers.values()]
    world.run(world.now + layers(world.fleet) * (max(graces, default=0.0) + STOP_MARGIN_S) + 0.1)
    if world.exit is None:
        raise TroubleError("stops_in_time", f"{len(world.fleet.workers)} workers are left and nothing is said")
    if not may_be_stuck and world.exit.stuck:
        raise TroubleError("stops_in_time", f"stuck: {', '.join(map(str, world.exit.stuck))}")
