"""What tests of the core are built from: devices, files, and workers in any state and through any events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from supervisor.core.inventory import Device, GpuState, Health, Reading
from supervisor.core.message import Action, Cause, Exited, State
from supervisor.core.plan import Launch, Placement, Share, Slice
from supervisor.core.spec import Amount, Policy, Ready, Recipe, Request, Spec, WorkerId, WorkerSpec, parse_spec
from supervisor.core.table import step
from supervisor.core.worker import HOLDING, LIVING, Worker, WorkerEvent

T = TypeVar("T")

GIB = 2**30

LLM = WorkerId("llm", 0)


# ---- devices --------------------------------------------------------------------------------------------------------


def uuid_of(index: int) -> str:
    """UUID of the device that has this index in `devices`."""
    return f"GPU-{index:x}000"


def device(index: int, *, free: int | None = 79 * GIB, total: int | None = 80 * GIB, sick: bool = False) -> Device:
    """One GPU of 80 GiB."""
    return Device(
        uuid=uuid_of(index),
        index=index,
        name="NVIDIA H100 80GB HBM3",
        pci=f"0000:{index + 16:02x}:00.0",
        numa=0,
        memory_total_bytes=total,
        memory_free_bytes=free,
        health=Health.LOST if sick else Health.OK,
        reason="fallen off the bus" if sick else "",
    )


def devices(count: int) -> tuple[Device, ...]:
    """So many healthy GPUs."""
    return tuple(device(index) for index in range(count))


def whole(*indices: int) -> Slice:
    """Whole devices by their index."""
    return tuple(Share(uuid_of(index)) for index in indices)


def good(*found: Device) -> Reading:
    """The driver answers, with these."""
    return Reading(GpuState.OK, "", found)


def bad(state: GpuState = GpuState.UNRESPONSIVE, detail: str = "no answer within 10 s") -> Reading:
    """The driver does not answer, or badly."""
    return Reading(state, detail)


# ---- the file -------------------------------------------------------------------------------------------------------


def spec_of(*, gpus: list[object] | None = None, daemon: object = None, **services: Mapping[str, object]) -> Spec:
    """A file with these services; each has a command unless it says so itself."""
    document: dict[str, object] = {"services": {name: {"command": "serve", **keys} for name, keys in services.items()}}
    document |= {} if gpus is None else {"gpus": gpus}
    document |= {} if daemon is None else {"daemon": daemon}
    return parse_spec(document, base_dir="/srv")


POLICY = Policy()
TCP = Policy(ready=Ready(kind="tcp", timeout_s=600.0))


def wanted(
    name: str = "llm",
    index: int = 0,
    *,
    gpu: int | str = 1000,
    gpus: tuple[str, ...] | None = None,
    exact: bool = False,
    memory: Amount | None = None,
    policy: Policy = POLICY,
    port: int | None = None,
) -> WorkerSpec:
    """One worker as the file wants it; *gpu* in thousandths."""
    count = "all" if gpu == "all" else int(gpu)
    return WorkerSpec(
        WorkerId(name, index),
        Recipe(("serve",), port=port, gpu_memory=memory),
        Request(count, gpus, exact, memory),  # type: ignore[arg-type]  # mypy does not narrow "all".
        policy,
    )


# ---- a worker -------------------------------------------------------------------------------------------------------


def placed(one: WorkerSpec, *indices: int) -> Placement:
    """A placement on whole devices."""
    return Placement(one, Launch(one.recipe, whole(*indices)))


def worker_in(state: State, *, since: float = 100.0, **changes: object) -> Worker:
    """
    A worker on GPU 0 with 20 GiB declared, 30 s of grace, ready by TCP, in a state as one finds it in a fleet.

    Args:
        state: Which.
        since: Monotonic second at which it came into it.
        changes: Other fields of the worker.
    """
    placement = placed(wanted(memory=20 * GIB, policy=TCP, port=8000), 0)
    worker = Worker(LLM, state, since, target=placement)
    if state not in {State.PENDING, State.STOPPED}:
        worker = replace(worker, incarnation=7, starts=1)
    if state in HOLDING:
        worker = replace(worker, held=placement, spawned_at=since - 10.0)
    if state in LIVING:
        worker = replace(worker, pid=4711)
    match state:
        case State.STARTING:
            worker = replace(worker, deadline=since + 600.0)
        case State.READY:
            worker = replace(worker, ready_at=since, was_ready=True)
        case State.STOPPING:
            worker = replace(worker, deadline=since + 30.0, cause=Cause.OPERATOR)
        case State.KILLING:
            worker = replace(worker, deadline=since + 10.0, cause=Cause.OPERATOR, killed=True)
        case State.RELEASING:
            worker = replace(worker, deadline=since + 0.5)
        case State.BACKOFF:
            worker = replace(worker, deadline=since + 4.0)
        case State.EXITED | State.FAILED | State.STOPPED:
            worker = replace(worker, target=replace(placement, launch=None), down=state is State.STOPPED)
        case _:
            pass
    return replace(worker, **changes)  # type: ignore[arg-type]  # Checked by the dataclass' names.


# ---- a worker and its events ----------------------------------------------------------------------------------------

FREE = placed(wanted(gpu=0, policy=TCP, port=8000))
"""A placement whose memory nobody waits for: what follows the end follows at once."""


def meet(worker: Worker, event: WorkerEvent, now: float) -> tuple[Worker, tuple[Action, ...]]:
    """A step of a worker that is not forgotten by it."""
    after, actions = step(worker, event, now)
    assert after is not None
    return after, actions


def after_all(worker: Worker, *events: tuple[float, WorkerEvent]) -> Worker:
    """The worker after several steps at their seconds."""
    for now, event in events:
        worker, _ = meet(worker, event, now)
    return worker


def exit_of(code: int | None, *, number: int | None = None, alone: bool = True) -> Exited:
    """The end of the main process of a worker of `worker_in`."""
    return Exited(LLM, 7, code, number, alone=alone, tail=("bye",))


def with_policy(worker: Worker, policy: Policy) -> Worker:
    """The same worker without a GPU, under another policy."""
    placement = placed(wanted(gpu=0, policy=policy, port=8000))
    return replace(worker, target=placement, held=placement if worker.held else None)


def of_type(kind: type[T], actions: object) -> list[T]:
    """Those of the actions that are of a kind."""
    assert isinstance(actions, tuple | list)
    return [action for action in actions if isinstance(action, kind)]
