"""
What a status says: whether all is well, whether what somebody waits for has come, and which part of it was asked for.

Works on the status JSON alone, so that the daemon's side and the client's judge alike; imports nothing at once,
not even typing, since every command comes by here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    Json = dict[str, Any]
    Wait = Literal["ready", "stopped"]
else:
    Json, Wait = dict, str

WAITS: tuple[Wait, ...] = ("ready", "stopped")

FINE = frozenset({"ready", "stopped", "exited"})
DOWN = frozenset({"stopped", "exited"})


class UnknownNameError(LookupError):
    """
    A service or worker that is not there.

    Args:
        message: Which.
        hint: The nearest name, or what there is instead, or empty.
        lines: One for each name, where several are not there.
    """

    def __init__(self, message: str, hint: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.lines = lines or (message,)


def select(status: Json, target: str | None) -> Json:
    """
    A status with only the services that were asked for.

    Args:
        status: The whole.
        target: ``llm`` or ``llm/0``; None = everything.

    Raises:
        UnknownNameError: There is no such service or worker.
    """
    if target is None:
        return status
    name, slash, _ = target.partition("/")
    services = {service["name"]: service for service in status["services"]}
    if name not in services:
        raise UnknownNameError(f'there is no service "{name}"', _nearest(name, list(services)))
    service = services[name]
    if slash:
        workers = {worker["worker"]: worker for worker in service["workers"]}
        if target not in workers:
            raise UnknownNameError(f'there is no worker "{target}"', _range(name, list(workers)))
        service = {**service, "workers": [workers[target]]}
    return {**status, "services": [service]}


def select_all(status: Json, targets: Sequence[str]) -> list[Json]:
    """
    The services that were asked for, each with the workers that were.

    Args:
        status: The whole.
        targets: ``llm`` or ``llm/0``; several of a service make one.

    Raises:
        UnknownNameError: Some of them are not there; it names them all.
    """
    found: dict[str, Json] = {}
    problems: list[UnknownNameError] = []
    for target in targets:
        try:
            (service,) = select(status, target)["services"]
        except UnknownNameError as error:
            problems.append(error)
            continue
        before = found.get(service["name"], {"workers": []})["workers"]
        more = [worker for worker in service["workers"] if worker not in before]
        found[service["name"]] = {**service, "workers": [*before, *more]}
    if problems:
        lines = tuple(str(problem) for problem in problems)
        hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
        raise UnknownNameError("; ".join(lines), "; ".join(hints), lines)
    return list(found.values())


def workers_of(status: Json) -> list[Json]:
    """The workers of every service, in the order of the file."""
    return [worker for service in status["services"] for worker in service["workers"]]


def is_fine(status: Json) -> bool:
    """Whether each worker is ready, or stopped by the operator, or done."""
    # Before the file has been taken nothing is known, which is not the same as nothing to run.
    is_known = bool(status["services"]) or status["daemon"]["state"] != "starting"
    return is_known and all(worker["state"] in FINE for worker in workers_of(status))


def is_met(status: Json, wait: Wait | None) -> bool:
    """Whether that is so which was waited for; without a wait whether all is well."""
    if wait == "stopped":
        return all(worker["state"] in DOWN for worker in workers_of(status))
    # While a reload is being read, the workers are still judged by the old file.
    is_judged = wait is None or status["daemon"]["state"] not in {"reloading", "stopping"}
    return is_judged and is_fine(status)


def unready(status: Json) -> tuple[str, ...]:
    """Why not all is well: a line for the daemon, or for each worker that is neither ready, stopped nor done."""
    daemon = status["daemon"]["state"]
    lines = [
        f"{worker['worker']} is {worker['state']}" + (f": {worker['reason']}" if worker["reason"] else "")
        for worker in workers_of(status)
        if worker["state"] not in FINE
    ]
    return tuple([f"the daemon is {daemon}", *lines] if daemon != "running" or not lines else lines)


def is_over(status: Json, wait: Wait) -> bool:
    """Whether there is nothing more to wait for: it has come, or it will not."""
    state = status["daemon"]["state"]
    # A reload asks a failed worker again, so its failure counts only once the reload is through.
    has_failed = state != "reloading" and any(worker["state"] == "failed" for worker in workers_of(status))
    return is_met(status, wait) or has_failed or (wait == "ready" and state == "stopping")


def has_no_place(row: Json) -> bool:
    """
    Whether a row of a plan is a worker that the file wants and that has no place.

    A row is also without a place when the file does not want the worker any more, and when it has ended and stays so.
    """
    if row["placed"] or not row["wanted"]:
        return False
    return row["action"] == "wait" or bool(row["reason"])


def _nearest(name: str, known: list[str]) -> str:
    from supervisor.core.file.problems import nearest  # noqa: PLC0415 - Only for an error; see the module.

    return nearest(name, known) or (f"there is {', '.join(known[:8])}" if known else "the file has no services")


def _range(name: str, workers: list[str]) -> str:
    if not workers:
        return f"{name} has no workers"
    return f"{name} has {workers[0]}" + (f" to {workers[-1]}" if len(workers) > 1 else "")
