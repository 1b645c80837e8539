"""
Completion in the shell: the script for it, and names of services and workers from a running daemon.

A key was pressed: what is not known at once is not offered, and nothing is ever said.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from supervisor.cli.grammar import COMPLETE_VARIABLE, PROGRAM, Where
from supervisor.cli.outcome import put

PATIENCE_S = 0.5


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and names."""
    kind = get_completion_class(shell)
    assert kind is not None
    # Past the look at the version of bash, which some of click's releases make by running one.
    script = ShellComplete.source(kind(context.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE))
    put(script.strip() + "\n")


def complete_targets(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Services, and the workers of one once it is written out."""
    taken = context.params.get(param.name or "") or ()
    names: list[str] = []
    for service in _services(context):
        names.append(service["name"])
        if incomplete.partition("/")[0] == service["name"]:
            names += [worker["worker"] for worker in service["workers"]]
    return [CompletionItem(name) for name in names if name.startswith(incomplete) and name not in taken]


def complete_counts(context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Services with the count that they have."""
    words = [f"{service['name']}={service['target']}" for service in _services(context)]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _services(context: click.Context) -> list[dict[str, Any]]:
    """Services of the daemon that the line names, or of the usual one; none if it does not answer at once."""
    own, above = (Where(one.params.get("socket"), one.params.get("instance")) for one in (context, context.find_root()))
    try:
        answer = (own if own.is_given else above).client().get("/v1/status", timeout_s=PATIENCE_S)
        return list(answer["services"])
    except Exception:  # noqa: BLE001 - Whatever it is, nobody has asked for it to be said.
        return []
