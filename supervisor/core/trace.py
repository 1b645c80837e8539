"""A turn of the core in one line: what came in and what it made of it, for traces and replays."""

from __future__ import annotations

from supervisor.core.message import (
    Action,
    Dismiss,
    EndStopCommand,
    Event,
    ExamineTree,
    Exit,
    Exited,
    FinishReload,
    InventoryRead,
    KillTree,
    Probe,
    ProbeAlive,
    ReloadRequested,
    Report,
    RunStopCommand,
    Say,
    ShimLost,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    SpecLoaded,
    TimePassed,
    TreeGone,
)


def describe(event: Event) -> str:
    """An event in a few words."""
    name = type(event).__name__
    match event:
        case Exited():
            end = f"code={event.code}" if event.signal is None else f"signal={event.signal}"
            return f"{name}({event.worker}#{event.incarnation} {end}{' alone' if event.alone else ''})"
        case SpawnFailed():
            return f"{name}({event.worker}#{event.incarnation} errno={event.errno})"
        case InventoryRead(reading=reading, asked_at=asked_at):
            shown = " ".join(f"{one.index}:{one.uuid}:{one.health}:{one.memory_free_bytes}" for one in reading.devices)
            return f"{name}({reading.state} asked_at={asked_at:.4f} {shown})"
        case SpecLoaded(spec=spec):
            return f"{name}({', '.join(f'{key}={one.workers!r:.20}' for key, one in spec.services.items())})"
        case TimePassed(workers=workers):
            return f"{name}({', '.join(map(str, workers))})"
        case Spawned() | TreeGone() | ShimLost():
            return f"{name}({event.worker}#{event.incarnation})"
        case ReloadRequested():
            return name
        case _:
            named = getattr(event, "workers", None) or (getattr(event, "worker", ""),)
            number = getattr(event, "incarnation", "")
            return f"{name}({', '.join(map(str, named))}{f'#{number}' if number else ''})"


def describe_action(action: Action) -> str:
    """An action in a few words."""
    match action:
        case Report(transition=one):
            return f"[{one.worker} {one.before or 'new'}>{one.after or 'gone'} {one.cause}]"
        case Spawn():
            return f"Spawn({action.worker}#{action.incarnation} gpus={action.env.get('CUDA_VISIBLE_DEVICES', '?')})"
        case Signal():
            return f"Signal({action.worker}#{action.incarnation} {action.signal} {action.scope})"
        case KillTree() | Probe() | ProbeAlive() | RunStopCommand() | EndStopCommand() | ExamineTree():
            return f"{type(action).__name__}({action.worker}#{action.incarnation})"
        case Say(event=name):
            return f"Say({name})"
        case FinishReload(ok=ok):
            return f"FinishReload({'ok' if ok else 'refused'})"
        case Exit(status=status):
            return f"Exit({status})"
        case Dismiss(worker=worker):
            return f"Dismiss({worker})"
        case _:
            return type(action).__name__ + ("!" if getattr(action, "fresh", False) else "")
