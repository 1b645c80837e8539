"""What sick devices may and may not do to a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.file.service import Request
from supervisor.core.inventory import Health
from supervisor.core.message import Cause, DeviceEventTold, RunCanary
from supervisor.core.turn import DaemonState, Fleet
from supervisor.core.worker import LIVING, RUNNING, Worker
from supervisor.core.xids import TABLE
from tests.sim.rules_start import named_devices
from tests.sim.trouble import EPSILON_S, Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World


CONTAINED = frozenset(number for number, row in TABLE.items() if row.kind == "contained")
BLAME_S = 30.0


def nothing_starts_on_a_quarantined_device(world: World, step: Step) -> Iterator[str]:
    """By what was told of it, whatever the books say."""
    books = (world.sickness.told.until, world.symptoms.seen.until)
    for spawn in step.spawns:
        for share in spawn.launch.slice:
            for uuid in _with_parent(step.after, share.uuid):
                until = max(one.get(uuid, 0.0) for one in books)
                if until > step.now + EPSILON_S:
                    yield f"{spawn.worker} starts on {uuid}, which is sick until {until}"


def nobody_starts_before_the_fabric_is_joined(world: World, step: Step) -> Iterator[str]:
    """Whoever does would fail, again and again."""
    for spawn in step.spawns:
        if early := {share.uuid for share in spawn.launch.slice} & world.symptoms.seen.joining:
            yield f"{spawn.worker} starts on {sorted(early)}, which have not joined their fabric"


def a_fault_changes_no_worker_elsewhere(world: World, step: Step) -> Iterator[str]:
    """Who lives on other devices is as before: same process, same state, and it is to stay where it is."""
    if not isinstance(step.event, DeviceEventTold):
        return
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or before.state not in LIVING:
            continue
        on = {uuid for share in before.occupied for uuid in _with_parent(step.before, share.uuid)}
        if step.event.uuid in on:
            continue
        is_next = after is not None and after.cause is Cause.ROLLOUT and change.id.service in step.before.rolling
        if is_next or _is_let_go_on(step, change.id.service):
            continue  # It goes on with whatever comes next.
        if after is None or (after.state, after.incarnation) != (before.state, before.incarnation):
            yield f"{change.id} is on {sorted(on)} and is {after and after.state} by a fault of {step.event.uuid}"


def _is_let_go_on(step: Step, service: str) -> bool:
    """Whether a restart has waited for a roll-out that ends here, since the fault leaves it no place."""
    return service in step.before.restarting and service in step.before.rolling - step.after.rolling


def who_leaves_a_sick_device_is_not_charged(world: World, step: Step) -> Iterator[str]:
    """Neither when it is asked to leave, nor when it has ended of the fault."""
    for change in step.changes:
        before, after = change.before, change.after
        if before is None or after is None or before.state not in LIVING or after.last_exit is before.last_exit:
            continue
        last = after.last_exit
        is_restarted = before.restart.policy != "never" or before.cause is Cause.DEVICE
        is_charged = after.history.failures > before.history.failures
        if last is not None and last.cause is Cause.DEVICE and is_restarted and is_charged:
            yield f"{change.id} is charged with a fault of its device"


def nobody_stays_on_a_sick_device(world: World, step: Step) -> Iterator[str]:
    """Unless the file says so, or only links are down and it has no use for them."""
    fleet = step.after
    on_fault = fleet.spec.health.on_fault if fleet.spec else "drain"
    if fleet.state is DaemonState.STOPPING:
        return
    for uuid, ailment in fleet.ailments.items():
        if ailment.health not in {Health.DRAINING, Health.QUARANTINED} or ailment.scope == "link":
            continue
        if on_fault == "ignore" and uuid not in fleet.spared:
            continue
        for worker in fleet.workers.values():
            parts = {one for share in worker.occupied for one in _with_parent(fleet, share.uuid)}
            if worker.state in RUNNING and uuid in parts:
                yield f"{worker.id} stays on {uuid}, which is {ailment.health}"


def what_is_forgotten_is_gone_and_released(world: World, step: Step) -> Iterator[str]:
    """Nobody is there, an operator has said so, and nothing of it is kept; what comes back begins anew."""
    before, after = step.before, step.after
    here = after.inventory.by_uuid if after.inventory else {}
    for uuid in before.missing.keys() - after.missing.keys() - here.keys():
        if uuid not in world.sickness.told.released:
            yield f"{uuid} is forgotten, and nobody has released it"
        if after.occupied.get(uuid):
            yield f"{uuid} is forgotten, and {sorted(after.occupied[uuid])} are there"
        for name in ("ailments", "xids", "uncorrected", "watches", "ended_at", "dirty", "parting"):
            if uuid in getattr(after, name):
                yield f"{uuid} is forgotten, but not in {name}"


def only_what_was_told_of_is_sick(world: World, step: Step) -> Iterator[str]:
    """No healthy device is kept from those who wait: whatever is out of use, somebody has said something against it."""
    for uuid, ailment in step.after.ailments.items():
        is_out = ailment.health in {Health.DRAINING, Health.QUARANTINED, Health.PROBING}
        if is_out and uuid not in world.sickness.told.ever | world.symptoms.seen.ever:
            yield f"{uuid} is {ailment.health}: {ailment.reason}"
        if (
            step.after.state is not DaemonState.STOPPING
            and ailment.health is Health.DRAINING
            and not any(
                uuid in _with_parent(step.after, share.uuid)
                for worker in step.after.workers.values()
                for share in worker.occupied
            )
        ):
            yield f"{uuid} is draining, and nobody is there"


def what_is_out_of_use_is_kept_from_others(world: World, step: Step) -> Iterator[str]:
    """What an operator has taken, and what is sick of the pool: nobody else may have it whom we could keep from it."""
    fleet = step.after
    if fleet.exiting:
        return
    asked = world.locks.ours | fleet.elsewhere.keys() | fleet.claiming
    can_use = {one.uuid for one in named_devices(fleet, Request())} if fleet.wants_gpu else set[str]()
    for uuid, ailment in fleet.ailments.items():
        is_taken = world.sickness.told.until.get(uuid) == float("inf")
        is_out = ailment.health in {Health.DRAINING, Health.QUARANTINED}
        for part in _with_parts(fleet, uuid):
            if is_out and (is_taken or part in can_use) and part not in asked:
                yield f"{uuid} is {ailment.health}, and another daemon may take {part}"


def canaries_run_where_nobody_else_is(world: World, step: Step) -> Iterator[str]:
    """And they do run there."""
    fleet = step.after
    for action in step.actions:
        if isinstance(action, RunCanary) and not world.locks.ours.issuperset(_with_parts(fleet, action.uuid)):
            yield f"a canary runs on {action.uuid}, where another daemon may be"
    if fleet.state is DaemonState.STOPPING or not (fleet.spec and fleet.spec.health.canary):
        return
    others = fleet.claiming | fleet.elsewhere.keys()
    for uuid, ailment in fleet.ailments.items():
        is_due = ailment.health is Health.PROBING and uuid not in fleet.canaries
        if is_due and others.isdisjoint(_with_parts(fleet, uuid)):
            yield f"{uuid} is probing, and nobody runs its canary"


def is_to_be_left(world: World, step: Step, uuid: str) -> bool:
    """Whether somebody may be asked to leave a device because it is sick."""
    return (
        _is_told_sick(world, step, uuid)
        or _is_left_alone_no_more(world, step, uuid)
        or _is_lost_while_probed(step, uuid)
    )


def _is_told_sick(world: World, step: Step, uuid: str) -> bool:
    """Whether somebody has said that a device, or the GPU that it is a part of, is not to be used."""
    books = (world.sickness.told, world.symptoms.seen)
    parts = _with_parent(step.after, uuid)
    # One that is lost stays sick for as long as it is away; who may leave it now is another file's word.
    is_away = any(one in told.ever and one in step.before.missing for one in parts for told in books)
    return is_away or any(told.until.get(one, 0.0) > step.now - EPSILON_S for one in parts for told in books)


def _is_lost_while_probed(step: Step, uuid: str) -> bool:
    """Whether a device that an operator has just released does not even answer."""
    was, now = (
        {fleet.ailments[one].health for one in _with_parent(step.after, uuid) if one in fleet.ailments}
        for fleet in (step.before, step.after)
    )
    return Health.PROBING in was and Health.LOST in now


def has_sick_device(step: Step, worker: Worker) -> bool:
    """Whether one that ends by itself has died of its device: a sick one, or an error there that hit nobody else."""
    fleet = step.before
    for uuid in {one for share in worker.occupied for one in _with_parent(fleet, share.uuid)}:
        ailment = fleet.ailments.get(uuid)
        if ailment is not None and not ailment.is_held:
            is_lost = ailment.health is Health.LOST and ailment.is_faulty
            if is_lost or ailment.health in {Health.DRAINING, Health.QUARANTINED}:
                return True
        for seen in fleet.xids.get(uuid, ()):
            if seen.number in CONTAINED and seen.workers == (worker.id,) and step.now - seen.at <= BLAME_S:
                return True
    return False


def _is_left_alone_no_more(world: World, step: Step, uuid: str) -> bool:
    """Whether a device has been sick for as long as the file left its workers there, and another file does not."""
    before, after = (fleet.spec.health.on_fault if fleet.spec else "" for fleet in (step.before, step.after))
    if before != "ignore" or after == "ignore":
        return False
    # No probation is over on one that has not been empty yet.
    ailments = (
        step.before.ailments.get(one) for one in _with_parent(step.after, uuid) if one in world.sickness.told.ever
    )
    return any(one is not None and one.health is Health.DRAINING for one in ailments)


def _with_parent(fleet: Fleet, uuid: str) -> tuple[str, ...]:
    device = fleet.inventory.by_uuid.get(uuid) if fleet.inventory else None
    return (uuid,) if device is None or device.parent is None else (uuid, device.parent)


def _with_parts(fleet: Fleet, uuid: str) -> tuple[str, ...]:
    devices = fleet.inventory.devices if fleet.inventory else ()
    return (uuid, *(one.uuid for one in devices if one.parent == uuid))


RULES: tuple[Rule, ...] = (
    canaries_run_where_nobody_else_is,
    nothing_starts_on_a_quarantined_device,
    nobody_starts_before_the_fabric_is_joined,
    a_fault_changes_no_worker_elsewhere,
    who_leaves_a_sick_device_is_not_charged,
    what_is_forgotten_is_gone_and_released,
)
STATE_RULES: tuple[Rule, ...] = (
    nobody_stays_on_a_sick_device,
    only_what_was_told_of_is_sick,
    what_is_out_of_use_is_kept_from_others,
)
