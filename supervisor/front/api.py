"""
HTTP over the control socket: requests become questions to the daemon's face, answers and problems become JSON.

Decides nothing about workers and keeps nothing of them; whatever a request changes goes through the face and is logged
with who asked.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from supervisor.core.file.problems import nearest, show_words
from supervisor.core.file.quantities import DURATION_MAX_S
from supervisor.errors import CannotError, ProblemsError
from supervisor.front.counts import Counts
from supervisor.front.orders import BODIES, read_counts, read_targets
from supervisor.front.stream import stream_lines
from supervisor.front.verdict import WAITS, Json, UnknownNameError, Wait, is_over, select, select_all

log = structlog.get_logger()

BODY_MAX_BYTES = 64 * 1024
GATHER_S = 0.1
"""Many changes come together; a waiting client costs one look at the fleet for all of them, not one for each."""

LINES = 100
"""Last lines of each worker for who does not say how many."""

DIGITS_MAX = 18

LINGER_S = 1.0
"""How long the rest of a refused body is taken in, so that its sender sees the answer; also at the daemon's end."""

NOT_YET = (
    "/v1/openapi.json",
    "/v1/readyz",
    "/v1/upgrade",
)
"""Routes that the contract has and this version has not."""

Word = TypeVar("Word", bound=str)

_PEER = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid.


class Face(Protocol):
    """What the daemon lets its surfaces see and ask for."""

    def status(self) -> Json:
        """The status JSON."""

    async def devices(self) -> Json:
        """The devices JSON, with memory as it is now where the driver answers soon."""

    async def plan(self, file: str | None) -> Json:
        """
        What a file would do here.

        Args:
            file: Absolute path, None for the daemon's own.

        Raises:
            ProblemsError: The file is bad.
        """

    def counts(self) -> Counts:
        """What was counted since the daemon started."""

    def explain(self, worker: str) -> Json:
        """Why a worker, ``llm/0``, that the status shows, is as it is; see `core.explain`."""

    def events(
        self, target: str | None, *, lines: int | None, after: int | None, follow: bool
    ) -> AsyncGenerator[Json, None]:
        """
        Transitions of workers.

        Args:
            target: Service or worker, None for everybody.
            lines: At the most; None for all that are kept.
            after: Only those with a higher number.
            follow: Go on.

        Yields:
            ``{"lines": [...]}`` each with its ``number``, and at the end ``{"end": "done" | "slow" | "stopping"}``.
        """

    async def reload(self) -> Json:
        """Read file and devices again; ``{"ok", "problems", "difference"}``."""

    def logs(self, target: str | None, *, lines: int, after: int | None, follow: bool) -> AsyncGenerator[Json, None]:
        """
        What workers said and say.

        Args:
            target: Service or worker, None for everybody.
            lines: Of each at the most.
            after: Only lines with a higher number.
            follow: Go on.

        Yields:
            ``{"lines": [{"number", "worker", "incarnation", "at", "line"}]}``; at the end ``{"end": reason}``.
        """

    async def settled(self) -> Json:
        """Wait until no roll-out is under way; ``{"ok", "problems"}``."""

    def order(self, verb: str, targets: tuple[str, ...]) -> None:
        """``start stop restart`` services and workers that there are. Taken when it returns, carried out later."""

    def scale(self, counts: Mapping[str, int]) -> None:
        """
        Give services other counts than the file's, until the next reload.

        Raises:
            ProblemsError: The file does not allow that.
        """

    def shutdown(self) -> None:
        """Ask the daemon to end. Returns at once."""

    async def changed(self) -> None:
        """Return after the next change of any worker."""

    def log_change(self, what: str, peer: dict[str, int]) -> None:
        """Say who asked for a change."""


def make_app(face: Face) -> web.Application:
    """
    The routes of the control socket.

    Args:
        face: Of the daemon.

    Returns:
        An application that ends its waiting requests when it is shut down, and those whose client has gone at once.
    """
    api = _Api(face)
    app = web.Application(
        middlewares=[api.guard],
        client_max_size=BODY_MAX_BYTES,
        handler_args={"handler_cancellation": True, "lingering_time": LINGER_S},
    )
    app.add_routes(
        [
            web.get("/v1/status", api.status),
            web.get("/v1/devices", api.devices),
            web.get("/v1/plan", api.plan),
            web.get("/v1/explain", api.explain),
            web.get("/v1/logs", api.logs),
            web.get("/v1/events", api.events),
            web.get("/v1/metrics", api.metrics),
            web.get("/v1/healthz", api.healthz),
            web.post("/v1/reload", api.reload),
            web.post("/v1/shutdown", api.shutdown),
            web.post("/v1/scale", api.scale),
            *(web.post(f"/v1/{verb}", partial(api.order, verb)) for verb in ("start", "stop", "restart")),
            *(web.route(hdrs.METH_ANY, path, _refuse_route) for path in NOT_YET),
        ]
    )
    app.on_shutdown.append(api.end_waits)
    return app


class _Api:
    """The handlers, and what they have in common."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._limits: dict[asyncio.Task[Any] | None, asyncio.Timeout] = {}
        self._is_ended = False

    async def status(self, request: web.Request) -> web.Response:
        query = _Query(request)
        wait = query.choice("wait", WAITS)
        timeout_s = query.seconds("timeout")
        target = query.text("target")
        if timeout_s is not None and wait is None:
            query.refuse("timeout: goes with wait=ready or wait=stopped")
        query.finish()
        if wait is not None:
            await self._wait(wait, target, timeout_s)
        return _json(self._look(target, wait))

    async def devices(self, request: web.Request) -> web.Response:
        _Query(request).finish()
        return _json(await self._face.devices())

    async def plan(self, request: web.Request) -> web.Response:
        query = _Query(request)
        file = query.text("file")
        if file is not None and not file.startswith("/"):
            query.refuse(f'file: expected an absolute path, got "{file}"')
        query.finish()
        return _json(await self._face.plan(file))

    async def explain(self, request: web.Request) -> web.Response:
        query = _Query(request)
        target = query.text("target")
        if target is None or "/" not in target:
            query.refuse("target: expected a worker, SERVICE/N")
        query.finish()
        assert target is not None
        self._look(target, None)
        return _json(self._face.explain(target))

    async def logs(self, request: web.Request) -> web.StreamResponse:
        query = _Query(request)
        target = query.text("target")
        lines = query.number("lines")
        # A browser that comes again says by itself how far it has come.
        after = query.number("after", request.headers.get("Last-Event-ID"))
        is_followed = query.choice("follow", ("0", "1")) != "0"
        query.finish()
        self._look(target, None)
        told = self._face.logs(target, lines=LINES if lines is None else lines, after=after, follow=is_followed)
        return await stream_lines(request, told)

    async def events(self, request: web.Request) -> web.StreamResponse:
        query = _Query(request)
        target = query.text("target")
        lines = query.number("lines")
        after = query.number("after", request.headers.get("Last-Event-ID"))
        is_followed = query.choice("follow", ("0", "1")) != "0"
        query.finish()
        self._look(target, None)
        return await stream_lines(request, self._face.events(target, lines=lines, after=after, follow=is_followed))

    async def metrics(self, request: web.Request) -> web.Response:
        _Query(request).finish()
        from supervisor.front.metrics import render  # noqa: PLC0415 - Who is never scraped does not pay for it.

        accept = request.headers.get(hdrs.ACCEPT, "")
        text, content_type = render(self._face.status(), self._face.counts(), accept)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})

    async def healthz(self, request: web.Request) -> web.Response:
        _Query(request).finish()
        return _json({"ok": True})

    async def reload(self, request: web.Request) -> web.Response:
        query = _Query(request)
        wait = query.flag("wait")
        query.finish()
        self._face.log_change("reload", _peer(request))
        answer = await self._face.reload()
        if answer["ok"] and wait:
            settled = await self._face.settled()
            return self._stopping() or _json({**answer, **settled})
        if not answer["ok"]:
            return self._stopping() or _json(answer, status=400)
        return _json(answer)

    async def order(self, verb: str, request: web.Request) -> web.Response:
        targets = read_targets(request.query.items(), await request.read())
        if refusal := self._stopping():
            return refusal
        select_all(self._face.status(), targets)
        self._face.log_change(f"{verb} {' '.join(targets)}", _peer(request))
        self._face.order(verb, targets)
        return _json({"ok": True, "services": select_all(self._face.status(), targets)})

    async def scale(self, request: web.Request) -> web.Response:
        counts = read_counts(request.query.items(), await request.read())
        if refusal := self._stopping():
            return refusal
        select_all(self._face.status(), tuple(counts))
        words = (f"{name}={count}" for name, count in counts.items())
        self._face.log_change(f"scale {' '.join(words)}", _peer(request))
        self._face.scale(counts)
        return _json({"ok": True, "services": select_all(self._face.status(), tuple(counts))})

    async def shutdown(self, request: web.Request) -> web.Response:
        _Query(request).finish()
        daemon = self._face.status()["daemon"]
        self._face.log_change("shutdown", _peer(request))
        # Asked a second time the daemon kills what is left; a client that merely wants it gone does not mean that.
        if daemon["state"] != "stopping":
            self._face.shutdown()
        return _json({"ok": True, "pid": daemon["pid"], "unit": daemon.get("unit")})

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn everything that goes wrong into problems in JSON, and end with the application."""
        limit = asyncio.timeout(0 if self._is_ended else None)
        try:
            async with limit:
                self._limits[asyncio.current_task()] = limit
                await _refuse_body(request)
                return await handler(request)
        except ProblemsError as error:
            return _problems(400, *error.lines)
        except UnknownNameError as error:
            return _problems(404, *error.lines, hint=error.hint)
        except CannotError as error:
            return _problems({2: 404, 78: 400}.get(error.exit_code, 409), str(error), hint=error.hint)
        except web.HTTPException as error:
            return _answer_http(request, error)
        except Exception as error:
            if limit.expired():
                return _problems(409, "the daemon is stopping")
            log.exception("api.failed", method=request.method, path=request.path, error=type(error).__name__)
            return _problems(500, "internal error; the daemon's log has the details")
        finally:
            self._limits.pop(asyncio.current_task(), None)

    async def end_waits(self, _app: web.Application) -> None:
        """Nobody may hold up the end of the daemon, be it a waiting client or one that never sends its body."""
        self._is_ended = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits.values():
            if not limit.expired():
                limit.reschedule(now)

    async def _wait(self, wait: Wait, target: str | None, timeout_s: float | None) -> None:
        """Return when what is waited for has come or cannot come any more, or when time is up."""
        status = select(self._face.status(), target)
        task = asyncio.current_task()
        outer = self._limits[task]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s) as limit:
                # The daemon's end ends the waiting alone: how its workers ended is still an answer.
                self._limits[task] = limit
                while not is_over(status, wait):
                    await self._face.changed()
                    await asyncio.sleep(GATHER_S)
                    status = self._look(target, wait)
        self._limits[task] = outer

    def _look(self, target: str | None, wait: Wait | None) -> Json:
        status = self._face.status()
        try:
            return select(status, target)
        except UnknownNameError:
            if wait != "stopped":
                raise
            # A worker that a reload took away has stopped for good.
            return {**status, "services": []}

    def _stopping(self) -> web.Response | None:
        is_stopping = self._face.status()["daemon"]["state"] == "stopping"
        return _problems(409, "the daemon is stopping") if is_stopping else None


class _Query:
    """
    The parameters of a request. Every problem is noted; `finish` raises them all.

    Args:
        request: Its query is read; parameters nobody asked for are problems too.
    """

    def __init__(self, request: web.Request) -> None:
        self._values = request.query
        self._asked: list[str] = []
        self._problems: list[str] = []

    def text(self, name: str) -> str | None:
        self._asked.append(name)
        values = self._values.getall(name, [])
        if len(values) > 1:
            self.refuse(f"{name}: given {len(values)} times")
        if values and not values[0]:
            self.refuse(f"{name}: is empty")
        return values[0] if values else None

    def choice(self, name: str, words: tuple[Word, ...]) -> Word | None:
        """One of *words*."""
        value = self.text(name)
        for word in words:
            if value == word:
                return word
        if value:
            self.refuse(f'{name}: expected {show_words(words)}, got "{value}"')
        return None

    def flag(self, name: str) -> bool:
        """``1`` or ``0``."""
        return self.choice(name, ("0", "1")) == "1"

    def number(self, name: str, otherwise: str | None = None) -> int | None:
        """A whole number; *otherwise* stands for one that is not given."""
        value = self.text(name) or otherwise
        if not value:
            return None
        if value.isascii() and value.isdecimal() and len(value) <= DIGITS_MAX:
            return int(value)
        self.refuse(f'{name}: expected a whole number, got "{value[:60]}"')
        return None

    def seconds(self, name: str) -> float | None:
        """A number of seconds."""
        value = self.text(name)
        if not value:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if 0 <= seconds <= DURATION_MAX_S:
            return seconds
        self.refuse(f'{name}: expected seconds from 0 to {DURATION_MAX_S:.0f}, got "{value}"')
        return None

    def refuse(self, problem: str) -> None:
        """Note a problem."""
        self._problems.append(problem)

    def finish(self) -> None:
        """
        End the reading.

        Raises:
            ProblemsError: Something was wrong.
        """
        for name in dict.fromkeys(self._values):
            if name not in self._asked:
                hint = nearest(name, self._asked)
                self.refuse(f'unknown parameter "{name[:60]}"' + (f"; {hint}" if hint else ""))
        if self._problems:
            raise ProblemsError(tuple(self._problems))


async def _refuse_body(request: web.Request) -> None:
    """Most routes take no body: one that says something would be accepted and ignored."""
    # Read also to bound it: aiohttp refuses at client_max_size.
    if request.path not in BODIES and request.can_read_body and (await request.read()).strip() not in {b"", b"{}"}:
        raise ProblemsError((f"{request.method} {request.path} takes no body; give parameters in the query",))


async def _refuse_route(request: web.Request) -> web.Response:
    return _problems(501, f"{request.path} is not supported yet")


def _answer_http(request: web.Request, error: web.HTTPException) -> web.Response:
    """Refusals of aiohttp itself in our words."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = sorted(error.allowed_methods)
            answer = _problems(405, f"{request.path} takes {' and '.join(allowed)}, not {request.method[:20]}")
            answer.headers[hdrs.ALLOW] = ", ".join(allowed)
            return answer
        case web.HTTPNotFound():
            resources = request.app.router.resources()
            return _problems(404, f"there is no {request.path[:200]}", hint=nearest(request.path, _paths(resources)))
        case web.HTTPRequestEntityTooLarge():
            return _problems(413, f"a body has at most {BODY_MAX_BYTES} bytes")
        case _:
            return _problems(error.status, error.reason.lower())


def _paths(resources: Iterable[web.AbstractResource]) -> list[str]:
    return [resource.canonical for resource in resources if resource.canonical not in NOT_YET]


def _peer(request: web.Request) -> dict[str, int]:
    """Who is at the other end; empty where the system does not say."""
    connection: Any = request.transport and request.transport.get_extra_info("socket")
    option = getattr(socket, "SO_PEERCRED", None)
    if connection is None or option is None or connection.family != socket.AF_UNIX:
        return {}
    pid, uid, gid = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _PEER.size))
    return {"pid": pid, "uid": uid, "gid": gid}


def _problems(status: int, *lines: str, hint: str = "") -> web.Response:
    body: dict[str, Any] = {"problems": list(lines)}
    return _json({**body, "hint": hint} if hint else body, status=status)


def _json(body: Mapping[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(body) + "\n", status=status, content_type="application/json")
