"""
What an operator tells the daemon about its workers: `start`, `stop`, `restart`, `scale`.

Each sets what is wanted and returns; `status --wait` tells when it is so.
"""

from __future__ import annotations

from typing import Any

import click

from supervisor.cli.complete import complete_counts, complete_targets
from supervisor.cli.grammar import Command, Where, as_json, at_daemon
from supervisor.cli.outcome import EXIT_USAGE, put, put_json, say
from supervisor.errors import CannotError

Answer = dict[str, Any]


def _targets(command: Command) -> Command:
    metavar = "SERVICE[/N] ..."
    return click.argument(
        "targets", metavar=metavar, nargs=-1, required=True, shell_complete=complete_targets, type=click.STRING
    )(command)


@click.command()
@_targets
@as_json
@at_daemon
def start(where: Where, targets: tuple[str, ...], *, is_json: bool) -> int:
    """
    Let workers run that were stopped, failed or are done.

    Their counts of failures are cleared.
    """
    _show(_order(where, "start", targets), is_json=is_json)
    return 0


@click.command()
@_targets
@as_json
@at_daemon
def stop(where: Where, targets: tuple[str, ...], *, is_json: bool) -> int:
    """
    End workers and hold them down until `start`.

    With a whole service also those that a later reload or `scale` adds.
    """
    _show(_order(where, "stop", targets), is_json=is_json)
    return 0


@click.command()
@_targets
@as_json
@at_daemon
def restart(where: Where, targets: tuple[str, ...], *, is_json: bool) -> int:
    """
    Replace processes, one of a service at a time.

    Who runs without its GPU is asked for one again.
    """
    answer = _order(where, "restart", targets)
    _show(answer, is_json=is_json)
    if held := [str(worker["worker"]) for worker in _workers(answer) if worker["state"] == "stopped"]:
        say(f"hint: held down, `start` lets run: {' '.join(held)}")
    return 0


@click.command()
@click.argument(
    "counts", metavar="SERVICE=N ...", nargs=-1, required=True, shell_complete=complete_counts, type=click.STRING
)
@as_json
@at_daemon
def scale(where: Where, counts: tuple[str, ...], *, is_json: bool) -> int:
    """Set numbers of workers, until the next reload."""
    wanted = _read_counts(counts)
    answer = where.client().post("/v1/scale", body={"targets": wanted}, thing=f"scale {' '.join(counts)}")
    if is_json:
        put_json(answer)
        return 0
    for service in answer["services"]:
        count = f"{service['target']} worker" + ("" if service["target"] == 1 else "s")
        put(f"{service['name']}: {count}{', until the next reload' if service['scaled'] else ', as the file says'}\n")
    return 0


COMMANDS = (start, stop, restart, scale)


def _order(where: Where, verb: str, targets: tuple[str, ...]) -> Answer:
    return where.client().post(f"/v1/{verb}", body={"targets": targets}, thing=f"{verb} {' '.join(targets)}")


def _read_counts(words: tuple[str, ...]) -> dict[str, int]:
    wanted: dict[str, int] = {}
    problems = []
    for word in words:
        name, _, count = word.partition("=")
        if not name or not (count.isascii() and count.isdecimal() and len(count) < 10):
            problems.append(f'expected SERVICE=N, got "{word}"')
        elif wanted.setdefault(name, int(count)) != int(count):
            problems.append(f"{name} is given {wanted[name]} and {int(count)}")
    if problems:
        hint = "for example: scale llm=4"
        raise CannotError("understand the command line", "; ".join(problems), hint=hint, exit_code=EXIT_USAGE)
    return wanted


def _show(answer: Answer, *, is_json: bool) -> None:
    """One line for each worker: what it is in at this moment, and why."""
    if is_json:
        put_json(answer)
        return
    from supervisor.front.page import clean

    for worker in _workers(answer):
        why = f" ({clean(str(worker['reason']))})" if worker["reason"] else ""
        put(f"{worker['worker']} {worker['state']}{why}\n")


def _workers(answer: Answer) -> list[Answer]:
    return [worker for service in answer["services"] for worker in service["workers"]]
