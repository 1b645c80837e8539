"""
The routes of the API: what each takes, who may ask it, and what it answers.

The one table from which the server, its queries and the OpenAPI document are made. Answers nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from supervisor.front.verdict import WAITS

Kind = Literal["text", "worker", "path", "choice", "flag", "number", "mark", "seconds"]

LINES = 100
"""Last lines of each worker for who does not say how many."""


@dataclass(frozen=True, slots=True)
class Param:
    """
    A parameter of a query.

    Args:
        name: As in the query.
        kind: How it is read; ``mark`` is where a stream of events goes on.
        words: What it does, for a person.
        choices: Of a ``choice``.
        beside: Another parameter without which it means nothing.
        is_required: It cannot be left out.
    """

    name: str
    kind: Kind
    words: str
    choices: tuple[str, ...] = ()
    beside: str = ""
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """
    One route.

    Args:
        method: Of HTTP.
        path: Of the URL.
        name: Of the handler, and of the operation.
        words: What it does, for a person.
        answer: Name of the schema of its good answer; empty for one without JSON.
        media: Types of its good answer.
        params: Of its query.
        takes: What its body names, where it has one: ``targets``, or ``counts`` of them.
        is_open: It is answered over TCP without a token.
        refusals: HTTP statuses that it has of its own.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    words: str
    answer: str = ""
    media: tuple[str, ...] = ("application/json",)
    params: tuple[Param, ...] = ()
    takes: Literal["", "targets", "counts"] = ""
    is_open: bool = False
    refusals: tuple[int, ...] = ()


_TARGET = Param("target", "text", "Only this service, `llm`, or worker, `llm/0`.")
_FIGURES = Param("figures", "flag", "Read also what devices and workers do at this moment: `utilization`, `usage`.")
_STREAM = (
    _TARGET,
    Param("lines", "number", f"At the most so many; of each worker the last {LINES} where nothing is said."),
    Param("after", "mark", "Only what came after the event of this id; the header Last-Event-ID says the same."),
    Param("follow", "choice", "0: end with what there is; 1, or nothing: go on as things happen.", ("0", "1")),
    Param("heartbeat", "seconds", "A comment whenever nothing was said for so long, for proxies that hang up."),
)
_EVENTS = ("text/event-stream",)
_METRICS = ("text/plain", "application/openmetrics-text")

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/v1/status",
        "status",
        "Services, workers, devices and the daemon, and why each is as it is.",
        "Status",
        params=(
            _TARGET,
            Param("wait", "choice", "Answer when every worker is ready, or stopped; or when that cannot come.", WAITS),
            Param("timeout", "seconds", "Wait so long at the most, then answer what is.", beside="wait"),
            _FIGURES,
        ),
        is_open=True,
        refusals=(404,),
    ),
    Route(
        "GET",
        "/v1/devices",
        "devices",
        "The devices as they are now, and who is on them.",
        "Devices",
        params=(_FIGURES,),
        is_open=True,
    ),
    Route(
        "GET",
        "/v1/plan",
        "plan",
        "What a file would do here, worker by worker.",
        "Plan",
        params=(Param("file", "path", "Another file than the daemon's own; over the control socket only."),),
        refusals=(409,),
    ),
    Route(
        "GET",
        "/v1/explain",
        "explain",
        "Why a worker is as it is: what it asks for, what it waits for, how it died.",
        "Explanation",
        params=(Param("target", "worker", "The worker, `llm/0`.", is_required=True),),
        refusals=(404,),
    ),
    Route(
        "GET",
        "/v1/logs",
        "logs",
        "What workers said and say, one event a line; the last is of type `end`.",
        "LogEvent",
        media=_EVENTS,
        params=_STREAM,
        refusals=(404,),
    ),
    Route(
        "GET",
        "/v1/events",
        "events",
        "What happened and happens to workers, one event a transition; the last is of type `end`.",
        "WorkerEvent",
        media=_EVENTS,
        params=_STREAM,
        refusals=(404,),
    ),
    Route("GET", "/v1/metrics", "metrics", "For Prometheus.", media=_METRICS, is_open=True),
    Route("GET", "/v1/healthz", "healthz", "Whether the daemon answers.", "Ok", is_open=True),
    Route(
        "GET",
        "/v1/readyz",
        "readyz",
        "Whether every worker is ready, or stopped by the operator, or done.",
        "Ok",
        is_open=True,
        refusals=(503,),
    ),
    Route(
        "POST",
        "/v1/reload",
        "reload",
        "Read the file and the devices again, and take what is new.",
        "Reloaded",
        params=(Param("wait", "flag", "Answer when it is rolled out."),),
        refusals=(409,),
    ),
    *(
        Route("POST", f"/v1/{verb}", verb, words, "Ordered", takes="targets", refusals=(404, 409, 415))
        for verb, words in (
            ("start", "Start services and workers that were stopped, failed or done."),
            ("stop", "Stop services and workers, and hold them down until they are started."),
            ("restart", "Restart services and workers, one at a time."),
        )
    ),
    Route(
        "POST",
        "/v1/scale",
        "scale",
        "Give services other counts of workers than the file's, until the next reload.",
        "Ordered",
        takes="counts",
        refusals=(404, 409, 415),
    ),
    *(
        Route(
            "POST",
            f"/v1/devices/{verb}",
            verb,
            words,
            "Devices",
            params=(
                Param(
                    "target",
                    "text",
                    "Index, UUID or its start, or PCI id of a GPU; several with commas between.",
                    is_required=True,
                ),
                Param("for_reset", "flag", "Let nothing of the daemon's have it open, and say who else has."),
                *more,
            ),
            refusals=(404, 409),
        )
        for verb, words, *more in (
            (
                "quarantine",
                "Take a GPU out of use until it is released; its workers move.",
                Param("reason", "text", "Why, for whoever looks at it later; one line."),
            ),
            ("release", "Look at a GPU once more and use it again; or, with `for_reset`, give it away for a reset."),
        )
    ),
    Route("GET", "/v1/openapi.json", "openapi", "This document.", "Document", is_open=True),
    Route("POST", "/v1/shutdown", "shutdown", "Stop every worker and end the daemon.", "Ended"),
)

NOT_YET = ("/v1/upgrade",)
"""Routes that the contract has and this version has not."""
