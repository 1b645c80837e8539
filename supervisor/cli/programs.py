"""
What `check` finds of the programs that the daemon itself would run: canaries, hooks, reloads of whoever is told.

Starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from supervisor.core.environment import Host
from supervisor.core.file.names import expand_names
from supervisor.core.spec import Problem, Spec
from supervisor.host.machine import missing_command

Path = tuple[str | int, ...]


def missing_programs(spec: Spec, document: object, folder: str, environ: Mapping[str, str]) -> Iterator[Problem]:
    """
    Programs of the file's own that are not on this machine.

    Args:
        spec: What the file means.
        document: As it is written, for the place of each.
        folder: Absolute; where they would run.
        environ: That a daemon would have.
    """
    for path, program in _programs(spec, document, environ):
        if reason := missing_command(program, environ.get("PATH", ""), folder):
            yield Problem(path, f"{reason} (on this machine)")


def _programs(spec: Spec, document: object, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    if spec.health.canary:
        # Alone of these its words may name variables.
        yield ("health", "canary"), expand_names(spec.health.canary[0], Host(environ).inherited)
    daemon = document.get("daemon") if isinstance(document, Mapping) else None
    hooks = daemon.get("on_event") if isinstance(daemon, Mapping) else None
    for at, hook in enumerate(spec.daemon.on_event):
        if hook.command:
            yield ("daemon", "on_event", *_below(hooks, at)), hook.command[0]
    if spec.daemon.endpoints is not None and spec.daemon.endpoints.reload:
        yield ("daemon", "endpoints", "reload"), spec.daemon.endpoints.reload[0]


def _below(hooks: object, at: int) -> Path:
    """Where the command of hook number *at* is written below `on_event`."""
    if isinstance(hooks, Mapping):
        return ("command",)
    is_list_of_hooks = isinstance(hooks, list | tuple) and any(isinstance(one, Mapping) for one in hooks)
    return (at, "command") if is_list_of_hooks else ()
