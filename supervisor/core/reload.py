"""A reload: when the file and the devices are read, what becomes of a second request, and how it is answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from supervisor.core import preview, rescale, sockets
from supervisor.core.counts import with_ports
from supervisor.core.evolve import evolve
from supervisor.core.message import FinishReload, ReadInventory, ReadSpec, Say, SpecLoaded
from supervisor.core.spec import Spec, WorkerId, scale_problems
from supervisor.core.turn import DaemonState, LastReload, Reload, Turn

TOO_LATE = FinishReload(ok=False, problems=("the daemon is stopping",), is_late=True)


def request(turn: Turn) -> None:
    """Somebody wants a reload. One at a time; one that is asked for meanwhile reads the file once more."""
    fleet = turn.fleet
    if fleet.state is DaemonState.STOPPING:
        turn.do(TOO_LATE)
    elif fleet.reload is not None:
        turn.set(reload=evolve(fleet.reload, again=True, scaled={}))
    else:
        turn.set(state=DaemonState.RELOADING, reload=Reload(at=turn.now))
        turn.do(ReadSpec(), ReadInventory(fresh=True))


def take_spec(turn: Turn, event: SpecLoaded) -> None:
    """A good file: the first takes effect at once, a later one when the devices have been read too."""
    reload = turn.fleet.reload
    if turn.fleet.state is DaemonState.STOPPING:
        return
    if reload is None:
        _apply(turn, event.spec, event.cpu_count)
        turn.do(ReadInventory())
        return
    turn.set(reload=evolve(reload, spec=event.spec, cpu_count=event.cpu_count))
    _complete(turn)


def reject(turn: Turn, problems: tuple[str, ...]) -> None:
    """A bad file changes nothing."""
    if turn.fleet.reload is None:
        return
    if turn.fleet.reload.again:
        _read_again(turn)
        return
    _finish(turn, FinishReload(ok=False, problems=problems))


def devices_read(turn: Turn, asked_at: float) -> None:
    """The driver has answered, or failed to: a reload that waited for it goes on."""
    reload = turn.fleet.reload
    if reload is not None and asked_at >= reload.at:
        turn.set(reload=evolve(reload, devices_read=True))
        _complete(turn)


def abandon(turn: Turn) -> None:
    """The daemon stops: nobody needs to wait for a reload any more."""
    if turn.fleet.reload is not None:
        _finish(turn, TOO_LATE)


def _complete(turn: Turn) -> None:
    reload = turn.fleet.reload
    assert reload is not None
    if reload.spec is None or not reload.devices_read:
        return
    if reload.again:
        _read_again(turn)
        return
    before = turn.fleet.spec
    difference = _apply(turn, reload.spec, reload.cpu_count)
    changed = changed_keys(before, reload.spec, {worker.service for worker in difference})
    _finish(turn, FinishReload(ok=True, difference=difference, changed=changed))


def changed_keys(before: Spec | None, after: Spec, touched: Collection[str]) -> tuple[str, ...]:
    """
    What a file says otherwise that is not to be seen of who starts and ends.

    Args:
        before: None = there was no file.
        after: The new one.
        touched: Services of which a worker starts or ends for it.
    """
    if before is None:
        return ()
    found = ["gpus"] if before.gpus != after.gpus else []
    for name, was, now in (("daemon", before.daemon, after.daemon), ("health", before.health, after.health)):
        found += [f"{name}.{key}" for key in type(now).model_fields if getattr(was, key) != getattr(now, key)]
    both = [name for name in after.services if name in before.services and name not in touched]
    found += [f"services.{name}" for name in both if before.services[name] != after.services[name]]
    return tuple(found)


def _read_again(turn: Turn) -> None:
    """The newest file wins: it may have changed after it was read."""
    assert turn.fleet.reload is not None
    turn.set(reload=evolve(turn.fleet.reload, spec=None, again=False))
    turn.do(ReadSpec())


def _finish(turn: Turn, answer: FinishReload) -> None:
    turn.set(
        reload=None,
        last_reload=LastReload(turn.now, answer.ok, answer.problems),
        state=DaemonState.RUNNING,
    )
    turn.do(answer)


def _apply(turn: Turn, spec: Spec, cpu_count: int) -> dict[WorkerId, str]:
    scaled = _kept_counts(turn, spec, cpu_count)
    floors = preview.floors_of(turn.fleet, spec)
    # What the GPUs had place for is in force until they are known to have place for something else.
    sizes = {name: size for name, size in turn.fleet.sizes.items() if preview.is_sized(spec, name)}
    turn.set(
        spec=spec,
        cpu_count=cpu_count,
        generation=turn.fleet.generation + 1,
        scaled=scaled,
        sizes=with_ports(spec.scale(scaled), cpu_count, sizes),
        sizes_due=True,
    )
    sockets.retry(turn)
    return rescale.replan(turn, reloaded=True, floors=floors)


def _kept_counts(turn: Turn, spec: Spec, cpu_count: int) -> Mapping[str, int]:
    """What an operator has asked for since this reload was: it is newer than the file, as far as that allows it."""
    kept: dict[str, int] = {}
    for name, count in turn.fleet.reload.scaled.items() if turn.fleet.reload else ():
        if problems := scale_problems(spec, {**kept, name: count}, cpu_count):
            turn.do(Say("scale.rejected", {"problems": list(problems)}, is_warning=True))
        else:
            kept[name] = count
    return spec.without_effectless(kept, cpu_count)
