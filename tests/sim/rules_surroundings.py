"""What must be true of a worker's surroundings at every start: the names of its GPUs, threads, a port, where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.core.environment import late
from supervisor.core.message import Site
from tests.sim.trouble import Rule, Step

if TYPE_CHECKING:
    from tests.sim.world import World

THREADS = {
    *("BENTOML_NUM_THREAD", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "RAYON_RS_NUM_CPUS", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"),
}


def pin_is_kept(_world: World, step: Step) -> Iterator[str]:
    """UUIDs where the file says so, and on an instance of MIG, which has no index; to nobody else."""
    for spawn in step.spawns:
        shown = spawn.env["CUDA_VISIBLE_DEVICES"].split(",")
        uuids = [share.uuid for share in spawn.launch.slice]
        is_by_uuid = spawn.launch.recipe.pin == "uuid" or any(uuid.startswith("MIG-") for uuid in uuids)
        if uuids and (shown == uuids) != is_by_uuid:
            yield f"{spawn.worker} is pinned by {spawn.launch.recipe.pin} and gets {shown}"


def share_is_told(_world: World, step: Step) -> Iterator[str]:
    """As a number: of its devices, or of nothing."""
    for spawn in step.spawns:
        expected = spawn.launch.slice[0].millis if spawn.launch.slice else 0
        if round(1000 * float(spawn.env["WORKER_GPU_SHARE"])) != expected:
            yield f"{spawn.worker} has {expected} of 1000 and is told {spawn.env['WORKER_GPU_SHARE']}"


def threads_are_as_many_as_cores(_world: World, step: Step) -> Iterator[str]:
    """All nine, rounded up, unless the file says another number itself; without cores none of ours."""
    for spawn in step.spawns:
        cpu, own = spawn.launch.recipe.cpu, dict(spawn.launch.recipe.env)
        for name in sorted(THREADS):
            inherited = "9" if name == "MKL_NUM_THREADS" else None
            expected = own.get(name, inherited if cpu is None else str((cpu + 999) // 1000))
            if spawn.env.get(name) != expected:
                yield f"{spawn.worker} with {cpu} of 1000 cores gets {name}={spawn.env.get(name)}"


def several_gpus_get_a_port_to_meet_at(_world: World, step: Step) -> Iterator[str]:
    """Whose number is found where the process starts; what the file says of it stays, and one GPU gets none."""
    for spawn in step.spawns:
        expected = late("MASTER_PORT") if len(spawn.launch.slice) > 1 else "1"
        expected = dict(spawn.launch.recipe.env).get("MASTER_PORT", expected)
        if spawn.env.get("MASTER_PORT") != expected:
            yield f"{spawn.worker} on {len(spawn.launch.slice)} GPUs gets MASTER_PORT={spawn.env.get('MASTER_PORT')!r}"


def near_is_where_the_devices_are(world: World, step: Step) -> Iterator[str]:
    """Every one of them, and only for whom the file says it of."""
    for spawn in step.spawns:
        devices = world.checks.notes.devices
        found = [devices[share.uuid] for share in spawn.launch.slice if share.uuid in devices]
        expected = {Site(one.pci, one.numa) for one in found} if spawn.launch.recipe.near else set()
        if set(spawn.near) != expected:
            yield f"{spawn.worker} is to run near {spawn.near} instead of {expected}"


RULES: tuple[Rule, ...] = (
    pin_is_kept,
    share_is_told,
    threads_are_as_many_as_cores,
    several_gpus_get_a_port_to_meet_at,
    near_is_where_the_devices_are,
)
