"""What the daemon's own names mean to a person: events behind a worker's transitions, proofs of memory, the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BECAUSE: Mapping[str, str] = {
    "Admitted": "place and memory are there",
    "Spawned": "its process has started",
    "SpawnFailed": "it could not be started",
    "BecameReady": "it is ready",
    "BecameUnready": "it does not answer",
    "LivenessLost": "it does not answer `alive`",
    "ProgressTold": "it told how far it is",
    "StartExtended": "it asked for more time",
    "Exited": "it ended",
    "TreeGone": "all it started is gone",
    "ShimLost": "its parent process was lost",
    "StopCommandEnded": "its stop command ended",
    "TreeExamined": "its processes were looked at",
    "MemoryBack": "its GPU memory is back",
    "DeadlinePassed": "its time was over",
    "Wanted": "the file wants it",
    "Unwanted": "it is not wanted any more",
    "Relaunched": "another process shall replace it",
    "StopAsked": "`stop` was asked for",
    "StartAsked": "`start` was asked for",
    "RestartAsked": "`restart` was asked for",
    "KillAsked": "an end at once was asked for",
    "device": "its GPU is sick",
    "Overdrawn": "it held more than its `gpu_memory`",
    "GpuMemoryExceeded": "it holds more than its `gpu_memory`",
}
"""Why a worker changed its state, by the event that did it; the last one is news without a change."""

BETWEEN: Mapping[tuple[str, str | None, str | None], str] = {
    ("DeadlinePassed", "starting", "ready"): "it has run long enough",
    ("DeadlinePassed", "starting", "stopping"): "it did not get ready in time",
    ("DeadlinePassed", "stopping", "killing"): "its time to stop was over",
    ("DeadlinePassed", "backoff", "pending"): "its back-off is over",
    ("DeadlinePassed", "failed", "pending"): "it gets one more try",
}
"""The same where the states tell more: an event, the state before and the one after."""

PROOFS: Mapping[str, str] = {
    "nothing": "nobody can tell, its processes are gone",
    "files": "no process of it has the GPU open",
    "memory": "enough is free",
    "list": "the driver lists no process of it",
    "none_held": "its GPUs are gone",
}
"""On whose word the memory of a dead process counts as back."""

GPU_WORDS: Mapping[str | None, str] = {
    None: "the GPUs have not been read yet",
    "absent": "no GPUs: there is no NVIDIA driver library here",
    "not_loaded": "no GPUs: the NVIDIA kernel module is not loaded",
    "no_permission": "no GPUs: no permission to use the NVIDIA driver",
    "mismatch": "no GPUs: the NVIDIA library and the loaded kernel module are of different versions",
    "unresponsive": "the NVIDIA driver does not answer; what was last known of the GPUs stays in force",
    "error": "the NVIDIA driver reports an error; what was last known of the GPUs stays in force",
}
"""States of the driver, of which `ok` needs no words."""


def because(transition: Mapping[str, Any]) -> str:
    """Why a worker went from one state to another; what is not known here, being newer, as it is."""
    cause = str(transition["cause"])
    return BETWEEN.get((cause, transition["before"], transition["after"])) or BECAUSE.get(cause, cause)
