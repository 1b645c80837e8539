"""
The command line: words into calls, and answers onto standard output.

Imports only click and the standard library at once; a command imports what it needs when it runs, so that `status`
feels instant. Errors are said elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor import __version__
from supervisor.cli import complete, operate, schema, terminal
from supervisor.cli.devices import COMMANDS as DEVICE_COMMANDS
from supervisor.cli.grammar import NOT_YET, PROGRAM, Commands, Where, as_json, at_daemon, refuse
from supervisor.cli.outcome import (
    EXIT_BAD_FILE,
    EXIT_NO_DAEMON,
    EXIT_NOT_ALL,
    EXIT_USAGE,
    FileRefusedError,
    complain,
    put,
    put_json,
    say,
)
from supervisor.errors import CannotError

if TYPE_CHECKING:
    from datetime import datetime

    from supervisor.front.cells import Bars
    from supervisor.front.client import Client
    from supervisor.front.page import Page
    from supervisor.front.top import Sort
    from supervisor.front.verdict import Wait

RELOAD_S = 120.0
"""The daemon gives the driver 30 s to begin and 10 s for a call, and has answered 2 s later; this is for many calls."""

SORTS = ("name", "cpu", "memory", "gpu", "age", "restarts")
"""Of `top`, which is not loaded for knowing them."""

LOOK_S = 0.1
"""Between two looks for a daemon that is only just starting."""

PLAN_S = 30.0
"""The daemon reads a file for it, which may lie on a slow disk."""


@click.group(cls=Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", metavar="PATH", help="Control socket of the daemon.")
@click.option("--instance", metavar="NAME", help="Name of the daemon, among several.")
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, socket: str | None, instance: str | None) -> None:
    """Run workers on GPUs, give each its share, and keep them running."""
    context.obj = Where(socket, instance)


@cli.command()
@click.argument("file")
@click.option("--pool", type=click.Choice(["all"]), help="Use every GPU, whatever CUDA_VISIBLE_DEVICES says.")
@at_daemon
def run(where: Where, file: str, pool: str | None) -> int:
    """Run the daemon for FILE in the foreground."""
    from supervisor.host.init import fork_daemon, open_standard_descriptors

    open_standard_descriptors()
    # As PID 1 of a container, before anything is loaded: what stays is small.
    if (status := fork_daemon()) is not None:
        return status

    from supervisor.daemon import loop as daemon
    from supervisor.host.files import SpecRefused

    try:
        return daemon.run(Path(file), instance=where.instance, socket=where.socket, pool_all=pool == "all")
    except SpecRefused as refused:
        raise FileRefusedError(f"run {file}", refused.lines) from None


@cli.command()
@click.argument("file")
@click.option("--strict", is_flag=True, help="Fail also for what this machine lacks.")
def check(file: str, *, strict: bool) -> int:
    """Say every problem of FILE."""
    from supervisor.cli import check as checking
    from supervisor.host.files import SpecRefused

    try:
        found = checking.check(Path(file), os.environ)
    except SpecRefused as refused:
        raise FileRefusedError(None, refused.lines) from None
    for warning in found.warnings:
        say(warning)
    if strict and found.warnings:
        return EXIT_BAD_FILE
    workers = _count(found.workers, "worker")
    workers = f"at least {workers}, the GPUs decide" if found.is_sized else workers
    put(f"{file}: ok, {_count(found.services, 'service')}, {workers}\n")
    return 0


@cli.command()
@click.argument("file")
@as_json
@at_daemon
def plan(where: Where, file: str, *, is_json: bool) -> int:
    """
    Show what FILE would do here, and why.

    Beside a running daemon also what of it would change: who is kept, started, replaced or stopped.
    """
    from supervisor.front.show import plan_page
    from supervisor.front.verdict import has_no_place

    answer = _plan(where, file)
    _put(answer, lambda bars: plan_page(answer, _now(), bars=bars), is_json=is_json)
    return EXIT_NOT_ALL if any(has_no_place(row) for row in answer["workers"]) else 0


@cli.group(invoke_without_command=True)
@as_json
@at_daemon
def devices(where: Where, *, is_json: bool) -> int:
    """
    Show the GPUs, their health, and who is on them.

    Or take one out of use, and back.
    """
    from supervisor.front.show import devices_page

    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        context.obj = where
        return 0

    client = _client_or_none(where)
    if client is None:
        from supervisor.daemon import survey

        answer = survey.devices(os.environ, where.control)
    else:
        answer = client.get("/v1/devices", {"figures": "1"}, thing="show the devices")
    _put(answer, lambda bars: devices_page(answer, _now(), bars=bars), is_json=is_json)
    return 0


for _command in DEVICE_COMMANDS:
    devices.add_command(_command)


@cli.command()
@click.argument("target", metavar="[SERVICE[/N]]", required=False, shell_complete=complete.complete_targets)
@click.option("--wait", type=click.Choice(["ready", "stopped"]), help="Return when all are, or one has failed.")
@click.option("--timeout", metavar="D", help="For how long to wait: 500ms 10s 5m 2h. Without: no limit.")
@click.option("--watch", is_flag=True, help="Stay, and draw it anew whenever something happens.")
@as_json
@at_daemon
def status(
    where: Where, target: str | None, wait: Wait | None, timeout: str | None, *, watch: bool, is_json: bool
) -> int:
    """Show services and workers, their states, and why."""
    if watch:
        from supervisor.cli.watch import watch as start_watch

        if wait is not None or is_json:
            cause = "it stays until it is ended"
            raise CannotError("use --watch with --wait or --json", cause, exit_code=EXIT_USAGE)
        return start_watch(where.client, target)
    from supervisor.front.show import status_of
    from supervisor.front.verdict import is_met

    timeout_s = _timeout_s(timeout, wait)
    answer = _status_once_up(where, target, wait, timeout_s)

    _put(answer, lambda bars: status_of(answer, target, _now(), bars=bars), is_json=is_json)
    return 0 if is_met(answer, wait) else EXIT_NOT_ALL


@cli.command()
@click.argument("worker", metavar="SERVICE/N", shell_complete=complete.complete_targets)
@as_json
@at_daemon
def explain(where: Where, worker: str, *, is_json: bool) -> int:
    """
    Show why a worker is as it is, or what it waits for.

    Device by device, with what happens next, its last transitions and its last deaths.
    """
    from supervisor.front.show import explain_page

    if "/" not in worker:
        cause = f'"{worker}" names no worker'
        raise CannotError(f"explain {worker}", cause, hint=f"for example: explain {worker}/0", exit_code=EXIT_USAGE)
    answer = where.client().get("/v1/explain", {"target": worker}, thing=f"explain {worker}")
    _put(answer, lambda _: explain_page(answer, _now()), is_json=is_json)
    return 0


@cli.command()
@click.argument("targets", metavar="[SERVICE[/N]] ...", nargs=-1, shell_complete=complete.complete_targets)
@click.option("-f", "--follow", is_flag=True, help="Go on with what they say, until Ctrl-C.")
@click.option("-n", "--lines", metavar="N", type=click.IntRange(0), default=None, help="Last lines of each; 100.")
@click.option("--since", metavar="D|TIME", help="Not older than 10m, 2h, or 2026-11-20T10:00:00Z.")
@as_json
@at_daemon
def logs(
    where: Where, targets: tuple[str, ...], *, follow: bool, lines: int | None, since: str | None, is_json: bool
) -> int:
    """
    Show what workers said last, and what they say.

    Over restarts and rotations of their files; of all workers if none is named.
    """
    from supervisor.cli.logs import Asked, read_since, show

    at = None if since is None else read_since(since, _now())
    return show(where.client(), Asked(targets, lines, at, follow=follow), is_json=is_json)


@cli.command()
@click.argument("target", metavar="[SERVICE[/N]]", required=False, shell_complete=complete.complete_targets)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("-n", "--lines", metavar="N", type=click.IntRange(0), default=None, help="Only the last N; all kept.")
@as_json
@at_daemon
def events(where: Where, target: str | None, *, follow: bool, lines: int | None, is_json: bool) -> int:
    """Show what happened to workers and GPUs, and why."""
    from supervisor.cli.events import show

    return show(where.client(), target, lines=lines, follow=follow, is_json=is_json)


@cli.command()
@click.option("--sort", type=click.Choice(SORTS), default="name", help="By what workers are ordered at first.")
@click.option("--once", is_flag=True, help="One look, as where the output is no terminal.")
@as_json
@at_daemon
def top(where: Where, sort: Sort, *, once: bool, is_json: bool) -> int:
    """
    Show what GPUs and workers do, every two seconds.

    Utilization, memory, temperature and power; CPU, memory and GPU memory. Keys sort (s), filter (/), choose (arrows),
    restart (r) and stop (x), which ask first; q ends. In a pipe it is one look; without a daemon the GPUs alone.
    """
    from supervisor.cli.top import top as show

    return show(where, sort=sort, once=once, is_json=is_json)


@cli.command()
@click.argument("file", required=False)
@as_json
@at_daemon
def doctor(where: Where, file: str | None, *, is_json: bool) -> int:
    """
    Look this machine over: what is wrong, and what to do.

    And FILE, or that of the running daemon.
    """
    from supervisor.daemon.doctor import examine_machine, find_file
    from supervisor.front.show import doctor_page

    client = _client_or_none(where)
    status = client.get("/v1/status", thing="ask the daemon") if client else None
    daemon = status["daemon"] if status else None
    path = Path(file) if file else find_file(daemon) if daemon else None
    known = status["devices"] if status else where.control
    findings = examine_machine(path, daemon["unit"] if daemon else None, os.environ, known)
    rows = [{"check": one.check, "level": one.level, "found": one.found, "hint": one.hint} for one in findings]
    _put({"findings": rows}, lambda _: doctor_page(rows), is_json=is_json)
    return 0


@cli.command()
@click.argument("file")
@as_json
def replay(file: str, *, is_json: bool) -> int:
    """
    Decide once more what a daemon recorded in FILE.

    Ends at the first event of which another thing comes now, and shows both.
    """
    from supervisor.cli.replay import show

    return show(file, is_json=is_json)


@cli.command()
@click.option("--wait", is_flag=True, help="Return when every worker has what the file wants of it.")
@as_json
@at_daemon
def reload(where: Where, *, wait: bool, is_json: bool) -> int:
    """Read the file again and show what changes. A bad file changes nothing."""
    from contextlib import nullcontext

    from supervisor.cli.progress import progress
    from supervisor.front.client import AnswerError
    from supervisor.front.show import difference_page

    client = where.client()
    try:
        params = {"wait": "1"} if wait else {}
        with progress(client, None, until="ready") if wait else nullcontext():
            answer = client.post("/v1/reload", params, thing="reload", timeout_s=None if wait else RELOAD_S)
    except AnswerError as error:
        if error.status != 400:
            raise
        if is_json:
            put_json(error.answer)
        raise FileRefusedError("reload", error.problems) from None
    _put(answer, lambda _: difference_page(answer["difference"], answer.get("changed", ())), is_json=is_json)
    if answer["ok"]:
        return 0
    cause = "; ".join(answer["problems"])
    return complain(CannotError("roll the file out", cause, exit_code=EXIT_NOT_ALL))


@cli.command()
@at_daemon
def shutdown(where: Where) -> None:
    """End the daemon and its workers, and return when they are gone."""
    from supervisor.cli.progress import progress

    client = where.client()
    with progress(client, None, until="stopped"):
        unit = client.shut_down().get("unit")
    if unit:
        say(f"hint: systemd starts it again if {unit} says so; `systemctl stop {unit}` ends it for good")


@cli.command()
@as_json
def version(*, is_json: bool) -> None:
    """Show the version."""
    if is_json:
        put_json({"version": __version__})
    else:
        put(f"{PROGRAM} {__version__}\n")


for _command in (*operate.COMMANDS, complete.completion, schema.schema):
    cli.add_command(_command)
for _name in NOT_YET:
    cli.add_command(refuse(_name))


# ---- asking ---------------------------------------------------------------------------------------------------------


def _client_or_none(where: Where) -> Client | None:
    """A client of the daemon; None, and a word about it if one was named, when none is there."""
    try:
        client = where.client()
        client.get("/v1/healthz")
    except CannotError as error:
        if error.exit_code != EXIT_NO_DAEMON:
            raise
        if where.is_given:
            say(f"{error}; this is the machine as it is without one")
        return None
    return client


def _plan(where: Where, file: str) -> dict[str, Any]:
    client = _client_or_none(where)
    if client is None:
        return _survey(where, file)
    from supervisor.front.client import AnswerError

    try:
        # The daemon's directory need not be ours.
        params = {"file": str(Path(file).absolute())}
        return client.get("/v1/plan", params, thing=f"plan {file}", timeout_s=PLAN_S)
    except AnswerError as error:
        if error.status != 400:
            raise
        raise FileRefusedError(f"plan {file}", error.problems) from None


def _survey(where: Where, file: str) -> dict[str, Any]:
    """The plan for a machine without a daemon."""
    from supervisor.daemon import survey
    from supervisor.host.files import SpecRefused

    try:
        return survey.plan(Path(file), os.environ, where.control, pool_all=False)
    except SpecRefused as refused:
        raise FileRefusedError(f"plan {file}", refused.lines) from None


def _status_once_up(where: Where, target: str | None, wait: str | None, timeout_s: float | None) -> dict[str, Any]:
    """The status; who says for how long to wait also waits for a daemon that is only just starting."""
    deadline = time.monotonic() + (timeout_s or 0.0)
    while True:
        left_s = None if timeout_s is None else max(0.0, deadline - time.monotonic())
        try:
            return _status(where.client(), target, wait, left_s)
        except CannotError as error:
            if error.exit_code != EXIT_NO_DAEMON or wait != "ready" or not left_s:
                raise
            time.sleep(LOOK_S)


def _status(client: Client, target: str | None, wait: str | None, timeout_s: float | None) -> dict[str, Any]:
    params = {"target": target, "wait": wait, "timeout": None if timeout_s is None else f"{timeout_s:.3f}"}
    given = {name: value for name, value in params.items() if value is not None}
    thing = f"show the status of {target}" if target else "show the status"
    if wait is None:
        return client.get("/v1/status", given, thing=thing)
    patience_s = None if timeout_s is None else timeout_s + 15.0
    from supervisor.cli.progress import progress

    with progress(client, target, until=wait):
        return client.get("/v1/status", given, thing=thing, timeout_s=patience_s)


def _timeout_s(text: str | None, wait: str | None) -> float | None:
    """The seconds of --timeout, in the file's own notation of durations."""
    if text is None:
        return None
    from supervisor.core.file.problems import BadValueError
    from supervisor.core.file.quantities import parse_duration_s

    if wait is None:
        cause = "there is nothing to wait for"
        raise CannotError("use --timeout", cause, hint="give --wait ready or --wait stopped", exit_code=EXIT_USAGE)
    try:
        return parse_duration_s(text)
    except BadValueError as error:
        raise CannotError("use --timeout", str(error), hint=error.hint, exit_code=EXIT_USAGE) from None


# ---- showing --------------------------------------------------------------------------------------------------------


def _put(answer: Mapping[str, Any], page: Callable[[Bars], Page], *, is_json: bool) -> None:
    """Show an answer as people or as programs want it."""
    if is_json:
        put_json(answer)
        return
    put(terminal.text_of(page, terminal.find()))


def _now() -> datetime:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
