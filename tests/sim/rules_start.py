"""What must be true of every start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.core.file.quantities import amount_bytes
from supervisor.core.file.service import Request
from supervisor.core.inventory import Device, GpuState
from supervisor.core.message import Spawn
from supervisor.core.plan import Share
from supervisor.core.spec import WorkerId, WorkerSpec
from supervisor.core.turn import DaemonState, Fleet
from tests.sim.notes import scaled_file
from tests.sim.trouble import Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World

MIB = 1024 * 1024


def incarnation_is_new(world: World, step: Step) -> Iterator[str]:
    """A number is never used twice, and grows."""
    for spawn in step.spawns:
        if spawn.incarnation in world.checks.notes.incarnations:
            yield f"{spawn.worker}#{spawn.incarnation} was there before"


def start_finds_no_tree(world: World, step: Step) -> Iterator[str]:
    """Nothing lives of the worker's last process, nor of anybody else on its devices."""
    for spawn in step.spawns:
        parts = {share.uuid: share.millis for share in spawn.launch.slice}
        for tree in world.processes.living():
            if tree.order.worker == spawn.worker:
                yield f"{spawn.worker}#{spawn.incarnation} starts while #{tree.order.incarnation} lives"
            for share in tree.order.launch.slice:
                parts[share.uuid] = parts.get(share.uuid, -1000) + share.millis
        if full := [uuid for uuid, millis in parts.items() if millis > 1000]:
            yield f"{spawn.worker}#{spawn.incarnation} starts on {sorted(full)}, where there is no room for it"


def start_is_wanted(world: World, step: Step) -> Iterator[str]:
    """By the file in force, by the operator, and by a daemon that is not stopping."""
    for spawn in step.spawns:
        worker = step.after.workers[spawn.worker]
        if world.checks.notes.is_down(spawn.worker):
            yield f"{spawn.worker} is held down"
        if step.after.state is DaemonState.STOPPING:
            yield f"{spawn.worker} is started while the daemon stops"
        if worker.target is None or worker.target.launch != spawn.launch or worker.held != worker.target:
            yield f"{spawn.worker} is started as something else than is wanted"
        elif spawn.launch.recipe != worker.target.wanted.recipe:
            yield f"{spawn.worker} is started with an old recipe"


def setup_is_the_files(world: World, step: Step) -> Iterator[str]:
    """Whose it is and what it may: as its launch says, which is what the file in force says."""
    wanted = wanted_now(world, step.after)
    for spawn in step.spawns:
        if spawn.setup != spawn.launch.recipe.setup:
            yield f"{spawn.worker} is started with {spawn.setup} and launched with {spawn.launch.recipe.setup}"
        if spawn.worker in wanted and spawn.launch.recipe != wanted[spawn.worker].recipe:
            yield f"{spawn.worker} is started as {spawn.launch.recipe}, the file says {wanted[spawn.worker].recipe}"


def setup_reaches_the_environment(world: World, step: Step) -> Iterator[str]:
    """Who runs as somebody else finds a name, which its shim fills in; variables of an env_file are there."""
    if step.after.spec is None:
        return
    for spawn in step.spawns:
        service = step.after.spec.services.get(spawn.worker.service)
        if service is None or spawn.worker in step.after.kept:
            continue
        if (service.user is not None) is not ("USER" in spawn.env):  # The daemon of a world has none to inherit.
            yield f"{spawn.worker} runs as {service.user} and finds USER={spawn.env.get('USER')}"
        if "COMMON" in service.env and spawn.env.get("COMMON") != service.env["COMMON"]:
            yield f"{spawn.worker} does not find what stands in its env_file"


def slice_is_whole(world: World, step: Step) -> Iterator[str]:
    """As many devices as asked for, each once, all of them eligible; or none, by a written policy."""
    for spawn in step.spawns:
        worker = step.after.workers[spawn.worker]
        assert worker.target is not None
        request = worker.target.wanted.request
        if not spawn.launch.slice:
            if request.gpu != 0 and not (worker.target.fallback and worker.policy.on_no_gpu == "cpu"):
                yield f"{spawn.worker} starts without the GPU it asks for"
            continue
        uuids = [share.uuid for share in spawn.launch.slice]
        eligible = named_devices(step.after, request)
        every = every_device(eligible) if request.gpu == "all" else eligible
        healthy = [device.uuid for device in every if device.is_usable]
        count = len(healthy) * 1000 if request.gpu == "all" else request.gpu
        # Who ran there stays there: another device's end gives the rest other indices, and must not end them too.
        if spawn.launch.slice in world.checks.notes.ran_on.get(spawn.worker, ()):
            eligible, count = [world.checks.notes.devices[uuid] for uuid in uuids], request_millis(spawn.launch.slice)
        is_cut = len(uuids) == 1 if count < 1000 else all(share.millis == 1000 for share in spawn.launch.slice)
        if len(set(uuids)) != len(uuids) or request_millis(spawn.launch.slice) != count or not is_cut:
            yield f"{spawn.worker} asks for {request.gpu} and starts on {uuids}"
        if not set(uuids) <= {device.uuid for device in eligible}:
            yield f"{spawn.worker} starts on {uuids}, eligible are {[device.uuid for device in eligible]}"


def nobody_starts_on_what_is_cut(world: World, step: Step) -> Iterator[str]:
    """Neither on a GPU that MIG has cut up, by the newest good reading, nor on an instance beside anything else."""
    for spawn in step.spawns:
        devices = [world.checks.notes.devices[share.uuid] for share in spawn.launch.slice]
        if cut := [one.uuid for one in devices if one.is_cut]:
            yield f"{spawn.worker} starts on {cut}, cut up by MIG"
        if len(devices) > 1 and any(one.parent is not None for one in devices):
            yield f"{spawn.worker} starts on {[one.uuid for one in devices]}: it would see one instance alone"


def environment_names_the_slice(world: World, step: Step) -> Iterator[str]:
    """Indices of the newest good reading, in PCI order, or UUIDs; `-1` without a GPU; nothing inherited."""
    for spawn in step.spawns:
        devices = world.checks.notes.devices
        indices = [str(devices[share.uuid].index) if share.uuid in devices else "?" for share in spawn.launch.slice]
        if spawn.launch.recipe.pin == "uuid" or any(share.uuid.startswith("MIG-") for share in spawn.launch.slice):
            indices = [share.uuid for share in spawn.launch.slice]
        expected = ",".join(indices) or "-1"
        if spawn.env.get("CUDA_VISIBLE_DEVICES") != expected:
            yield f"{spawn.worker} gets {spawn.env.get('CUDA_VISIBLE_DEVICES')} instead of {expected}"
        if indices and spawn.env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            yield f"{spawn.worker} gets indices without their order"
        if expected not in spawn.argv and spawn.argv[0] == "serve":
            yield f"{spawn.worker} has {expected} in its environment and not in its command"
        if {"NVIDIA_VISIBLE_DEVICES", "RANK"} & spawn.env.keys():
            yield f"{spawn.worker} inherits what is not for it"


def environment_names_the_worker(world: World, step: Step) -> Iterator[str]:
    """Who it is, which of how many, and how often it was started."""
    for spawn in step.spawns:
        service = spawn.worker.service
        expected = {
            "WORKER": str(spawn.worker),
            "WORKER_INCARNATION": str(spawn.incarnation),
            "WORKER_RESTARTS": str(world.checks.notes.spawns[spawn.worker]),
            "WORKER_COUNT": str(sum(worker.service == service for worker in wanted_by_file(world, step.after))),
            "WORKER_GPU_UUIDS": ",".join(share.uuid for share in spawn.launch.slice),
        }
        for name, value in expected.items():
            if spawn.env.get(name) != value:
                yield f"{spawn.worker} gets {name}={spawn.env.get(name)} instead of {value}"


def memory_is_there(world: World, step: Step) -> Iterator[str]:
    """By a reading asked for after the last start or end on the device; with a driver in trouble, where it ran."""
    for spawn in step.spawns:
        declared = spawn.launch.recipe.gpu_memory
        if declared is None or not spawn.launch.slice:
            continue
        fleet, notes = step.after, world.checks.notes
        if fleet.gpu.state is not GpuState.OK:
            if spawn.launch.slice not in notes.ran_on.get(spawn.worker, ()):
                yield f"{spawn.worker} is new on its GPUs and the driver is {fleet.gpu.state}"
            continue
        assert fleet.inventory is not None
        for share in spawn.launch.slice:
            if fleet.inventory.asked_at < notes.changed.get(share.uuid, 0.0):
                yield f"{spawn.worker} starts on a reading from before {share.uuid} changed hands"
            device = notes.devices[share.uuid]
            total, free = device.memory_total_bytes, device.memory_free_bytes
            if total is None or free is None:
                continue
            if free - headroom(fleet, total) < amount_bytes(declared, total):
                yield f"{spawn.worker} starts with {free // MIB} of {total // MIB} MiB free on {share.uuid}"


# ---- what the file means, worked out a second time ------------------------------------------------------------------


def wanted_by_file(world: World, fleet: Fleet) -> dict[WorkerId, WorkerSpec]:
    """Workers that the file in force wants, and how."""
    notes = world.checks.notes
    counts = {**fleet.sizes, **notes.scaled}
    if notes.wanted_of[0] is not fleet.spec or notes.wanted_of[1] != counts:
        notes.wanted_of = (fleet.spec, counts)
        spec = scaled_file(fleet.spec, counts) if fleet.spec else None
        notes.wanted = {one.id: one for one in spec.expand(fleet.cpu_count)} if spec else {}
    return notes.wanted


def wanted_now(world: World, fleet: Fleet) -> dict[WorkerId, WorkerSpec]:
    """The same, but for those that keep an old launch: of them it says how they are treated, not what they are."""
    wanted = wanted_by_file(world, fleet) | extras_by_file(fleet)
    for worker, was in fleet.kept.items():
        if worker in wanted:
            policy = replace(wanted[worker].policy, ready=was.policy.ready, alive=was.policy.alive)
            wanted[worker] = replace(was, policy=policy)
    return wanted


def extras_by_file(fleet: Fleet) -> dict[WorkerId, WorkerSpec]:
    """Extra workers of roll-outs: what others of their service are."""
    found = {}
    for one in fleet.extras:
        if fleet.spec is not None and one.service in fleet.spec.services:
            *_, found[one] = (
                scaled_file(fleet.spec, {one.service: one.index + 1})
                .services[one.service]
                .expand(one.service, fleet.cpu_count)
            )
    return found


def headroom(fleet: Fleet, total: int) -> int:
    """What is left free on a device."""
    given = fleet.spec.daemon.headroom if fleet.spec else None
    return max(512 * MIB, total // 50) if given is None else amount_bytes(given, total)


def eligible_devices(fleet: Fleet, request: Request) -> list[Device]:
    """Devices on which a worker may be placed anew, in health or not; none if its filter names what is not there."""
    devices, seen = devices_of_file(fleet), set[str]()
    for token in request.gpus or ():
        found = _named(token, devices)
        uuids = {one.uuid for one in found}
        is_place = token.isdecimal() or ":" in token  # Instances in the pool without their GPU share its place.
        if not found or seen & uuids or (len(found) > 1 and not is_place):
            return []
        if len(found) == 1 and not _parts_of(found[0], devices):
            return []
        seen |= uuids
    return named_devices(fleet, request)


def named_devices(fleet: Fleet, request: Request) -> list[Device]:
    """Devices that pool, file and request leave, whatever else the request names."""
    devices = devices_of_file(fleet)
    uuids = {one.uuid for one in devices}
    if request.gpus is not None:
        named = (one for token in request.gpus for one in _named(token, devices))
        uuids = {part.uuid for one in named for part in _parts_of(one, devices)}
    return [one for one in devices if one.uuid in uuids and not one.is_cut and _is_of_kind(one, request.gpu_type)]


def every_device(named: list[Device]) -> list[Device]:
    """What `all` means of them: whole GPUs; where there is none, the one instance of MIG, for two are not seen."""
    whole = [one for one in named if one.parent is None]
    return whole or (named if len(named) == 1 else [])


def request_millis(slice_of: Iterable[Share]) -> int:
    """Thousandths of a device in a slice."""
    return sum(share.millis for share in slice_of)


def _is_of_kind(device: Device, kinds: tuple[str, ...]) -> bool:
    """Every device is called an H100; those of 80 GiB, and those that do not tell, are one."""
    is_h100 = device.memory_total_bytes in {None, 80 * 1024 * MIB} and device.parent is None
    return not kinds or "h100" in "".join(kinds).lower().replace("nvidia-h100-80gb", "h100" if is_h100 else "")


def devices_of_file(fleet: Fleet) -> list[Device]:
    """Devices that pool and file leave."""
    if fleet.inventory is None:
        return []
    devices = list(fleet.inventory.devices)
    if fleet.pool is not None:
        devices = [one for one in devices if {one.uuid, one.parent} & {*fleet.pool}]
    tokens = fleet.spec.gpus if fleet.spec else None
    if tokens is None:
        return devices
    uuids = {one.uuid for token in tokens for one in _named(token, devices)}
    return [one for one in devices if {one.uuid, one.parent} & uuids]


def _parts_of(device: Device, devices: list[Device]) -> list[Device]:
    """What can be had of a device: itself, or what MIG has cut it into."""
    return [one for one in devices if one.parent == device.uuid] if device.is_cut else [device]


def _named(token: str, devices: list[Device]) -> list[Device]:
    uuids = {one.uuid for one in devices}
    placed = [one for one in devices if one.parent not in uuids]
    if token.isdecimal():
        return [one for one in placed if one.index == int(token)]
    if ":" in token:
        return [one for one in placed if one.pci[-10:] == token.lower()[-10:]]
    return [one for one in devices if one.uuid.startswith(token)]


def spawn_of(step: Step, worker: object) -> Spawn | None:
    """The start of a worker in a step."""
    return next((spawn for spawn in step.spawns if spawn.worker == worker), None)


RULES: tuple[Rule, ...] = (
    incarnation_is_new,
    start_finds_no_tree,
    start_is_wanted,
    setup_is_the_files,
    setup_reaches_the_environment,
    nobody_starts_on_what_is_cut,
    slice_is_whole,
    environment_names_the_slice,
    environment_names_the_worker,
    memory_is_there,
)
