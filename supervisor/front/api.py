"""
HTTP: requests become questions to the daemon's face, answers and problems become JSON.

Decides nothing about workers and keeps nothing of them; whatever a request changes goes through the face and is logged
with who asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from supervisor import __version__
from supervisor.core.file.problems import nearest
from supervisor.errors import CannotError, ProblemsError
from supervisor.front.callers import read_peer
from supervisor.front.face import Face
from supervisor.front.gate import HEADERS, Gate, hide
from supervisor.front.guests import LINGER_S, watch_guest
from supervisor.front.orders import read_counts, read_targets
from supervisor.front.problem import BODY_MAX_BYTES, RefusedError, answer_http, make_json, make_problem
from supervisor.front.query import Values, read_after, read_query
from supervisor.front.routes import LINES, NOT_YET, ROUTES, Route
from supervisor.front.stream import stream_lines
from supervisor.front.verdict import Json, UnknownNameError, Wait, is_met, is_over, select, select_all, unready

log = structlog.get_logger()

BEGIN = "/v1/"

REASON_MAX = 200
"""Characters of an operator's own words, which stand in every list of devices from then on."""

GATHER_S = 0.1
"""Many changes come together; a waiting client costs one look at the fleet for all of them, not one for each."""

QUIET_S = 10.0
"""Between two log lines about tokens that are wrong."""

BODY_S = 10.0
"""Bodies are small: one that takes longer is not coming."""


def make_app(face: Face, gate: Callable[[], Gate] | None = None, *, body_s: float = BODY_S) -> web.Application:
    """
    The routes.

    Args:
        face: Of the daemon.
        gate: Who may see and do what, as it is now; None where everybody may everything.
        body_s: Seconds that a body may take.

    Returns:
        An application that ends its waiting requests when it is shut down, and those whose client has gone at once.
    """
    api = _Api(face, gate, body_s)
    app = web.Application(
        middlewares=[watch_guest, api.guard],
        client_max_size=BODY_MAX_BYTES,
        handler_args={"handler_cancellation": True, "lingering_time": LINGER_S},
    )
    for route in ROUTES:
        serve = partial(api.serve, route)
        app.add_routes([web.get(route.path, serve) if route.method == "GET" else web.post(route.path, serve)])
    app.add_routes([web.route(hdrs.METH_ANY, path, _refuse_route) for path in NOT_YET])
    app.on_shutdown.append(api.end_waits)
    if gate is not None:
        app.add_routes([web.get("/", _serve_page)])
        app.on_response_prepare.append(_add_headers)
    return app


@dataclass(frozen=True, slots=True)
class _Call:
    """
    One request.

    Args:
        request: Itself.
        query: Its parameters.
        body: As far as it has one that counts.
        sees_all: Whoever asks may see what not everybody may.
    """

    request: web.Request
    query: Values
    body: bytes
    sees_all: bool


class _Api:
    """The handlers, each named as its route, and what they have in common."""

    def __init__(self, face: Face, gate: Callable[[], Gate] | None, body_s: float) -> None:
        self._face = face
        self._body_s = body_s
        self._gate = gate
        self._limits: dict[asyncio.Task[Any] | None, asyncio.Timeout] = {}
        self._is_ended = False
        self._quiet_until = 0.0

    async def serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        """Read what a request says, and let the handler of its route answer."""
        sees_all = self._gate is None or self._knows(self._gate(), route, request)
        body = await _read_body(route, request, self._body_s)
        query = {} if route.takes else read_query(route.params, request.query)
        handler = partial(self.order, route.name) if route.takes == "targets" else getattr(self, route.name)
        answer: web.StreamResponse = await handler(_Call(request, query, body, sees_all))
        return answer

    def _knows(self, gate: Gate, route: Route, request: web.Request) -> bool:
        """Whether it comes with the token; who guesses is told of, though not for every guess."""
        try:
            return gate.knows(request, route)
        except RefusedError:
            now = asyncio.get_running_loop().time()
            if hdrs.AUTHORIZATION in request.headers and now >= self._quiet_until:
                self._quiet_until = now + QUIET_S
                log.warning("http.denied", **read_peer(request), method=route.method, path=route.path)
            raise

    async def status(self, call: _Call) -> web.Response:
        wait, target = call.query["wait"], call.query["target"]
        if wait is not None:
            await self._wait(wait, target, call.query["timeout"])
        if call.query["figures"]:
            await self._face.read_figures()
        status = self._look(target, wait, figures=call.query["figures"])
        return make_json(status if call.sees_all else hide(status))

    async def devices(self, call: _Call) -> web.Response:
        return make_json(await self._face.devices(figures=call.query["figures"]))

    async def plan(self, call: _Call) -> web.Response:
        file = call.query["file"]
        if file is not None and self._gate is not None:
            # What it says of a file that is none of ours would tell what stands there.
            raise RefusedError(403, "file: another file is planned over the control socket only")
        return make_json(await self._face.plan(file))

    async def explain(self, call: _Call) -> web.Response:
        target = call.query["target"]
        self._look(target, None)
        return make_json(self._face.explain(target))

    async def logs(self, call: _Call) -> web.StreamResponse:
        target, lines = call.query["target"], call.query["lines"]
        after, follow = read_after(call.query, call.request.headers, self._face.life), call.query["follow"] != "0"
        self._look(target, None)
        told = self._face.logs(target, lines=LINES if lines is None else lines, after=after, follow=follow)
        return await stream_lines(call.request, told, life=self._face.life, heartbeat_s=call.query["heartbeat"])

    async def events(self, call: _Call) -> web.StreamResponse:
        target, lines = call.query["target"], call.query["lines"]
        after, follow = read_after(call.query, call.request.headers, self._face.life), call.query["follow"] != "0"
        self._look(target, None)
        told = self._face.events(target, lines=lines, after=after, follow=follow)
        return await stream_lines(call.request, told, life=self._face.life, heartbeat_s=call.query["heartbeat"])

    async def metrics(self, call: _Call) -> web.Response:
        from supervisor.front.metrics import render  # noqa: PLC0415 - Who is never scraped does not pay for it.

        accept = call.request.headers.get(hdrs.ACCEPT, "")
        await self._face.read_figures(rates=False)
        text, content_type = render(self._face.status(figures=True), self._face.counts(), accept)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})

    async def healthz(self, _call: _Call) -> web.Response:
        return make_json({"ok": True})

    async def readyz(self, _call: _Call) -> web.Response:
        status = self._face.status()
        if self._is_stopping(status) or not is_met(status, None):
            return make_problem(503, *unready(status))
        return make_json({"ok": True})

    async def openapi(self, _call: _Call) -> web.Response:
        from supervisor.front.openapi import make_document  # noqa: PLC0415 - Few ever ask.

        return make_json(make_document(__version__))

    async def reload(self, call: _Call) -> web.Response:
        self._face.log_change("reload", read_peer(call.request))
        answer = await self._face.reload()
        if answer["ok"] and call.query["wait"]:
            answer = {**answer, **await self._face.settled()}
            self._refuse_stopping()
        elif not answer["ok"]:
            self._refuse_stopping()
            return make_problem(400, *answer["problems"], more={"ok": False, "difference": answer["difference"]})
        return make_json(answer)

    async def order(self, verb: str, call: _Call) -> web.Response:
        """``start stop restart``."""
        targets = read_targets(call.request.query.items(), call.body)
        self._refuse_stopping()
        select_all(self._face.status(), targets)
        self._face.log_change(f"{verb} {' '.join(targets)}", read_peer(call.request))
        self._face.order(verb, targets)
        return make_json({"ok": True, "services": select_all(self._face.status(), targets)})

    async def scale(self, call: _Call) -> web.Response:
        counts = read_counts(call.request.query.items(), call.body)
        self._refuse_stopping()
        select_all(self._face.status(), tuple(counts))
        words = (f"{name}={count}" for name, count in counts.items())
        self._face.log_change(f"scale {' '.join(words)}", read_peer(call.request))
        self._face.scale(counts)
        return make_json({"ok": True, "services": select_all(self._face.status(), tuple(counts))})

    async def quarantine(self, call: _Call) -> web.Response:
        return await self._order_device("quarantine", call)

    async def release(self, call: _Call) -> web.Response:
        return await self._order_device("release", call)

    async def _order_device(self, verb: str, call: _Call) -> web.Response:
        self._refuse_stopping()
        target, for_reset = call.query["target"], bool(call.query["for_reset"])
        reason = call.query.get("reason") or ""
        if len(reason) > REASON_MAX or not reason.isprintable():
            raise ProblemsError((f"reason: expected one line of at most {REASON_MAX} characters",))
        words = f"devices {verb} {target}{' for_reset' if for_reset else ''}"
        self._face.log_change(words, read_peer(call.request))
        return make_json(await self._face.order_device(verb, target, for_reset=for_reset, reason=reason))

    async def shutdown(self, call: _Call) -> web.Response:
        daemon = self._face.status()["daemon"]
        self._face.log_change("shutdown", read_peer(call.request))
        # Asked a second time the daemon kills what is left; a client that merely wants it gone does not mean that.
        if daemon["state"] != "stopping":
            self._face.shutdown()
        return make_json({"ok": True, "pid": daemon["pid"], "unit": daemon.get("unit")})

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn everything that goes wrong into problem details, and end with the application."""
        limit = asyncio.timeout(0 if self._is_ended else None)
        try:
            async with limit:
                self._limits[asyncio.current_task()] = limit
                if self._gate is not None:
                    self._gate().admit(request)
                return await handler(request)
        except RefusedError as error:
            return make_problem(error.status, *error.lines, hint=error.hint, headers=error.headers)
        except ProblemsError as error:
            return make_problem(400, *error.lines)
        except UnknownNameError as error:
            return make_problem(404, *error.lines, hint=error.hint)
        except CannotError as error:
            return make_problem({2: 404, 78: 400}.get(error.exit_code, 409), str(error), hint=error.hint)
        except web.HTTPException as error:
            return answer_http(request, error, _nearest(request))
        except Exception as error:
            if limit.expired():
                return make_problem(409, "the daemon is stopping")
            log.exception("api.failed", method=request.method, path=request.path, error=type(error).__name__)
            return make_problem(500, "internal error; the daemon's log has the details")
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

    def _look(self, target: str | None, wait: Wait | None, *, figures: bool = False) -> Json:
        status = self._face.status(figures=figures)
        try:
            return select(status, target)
        except UnknownNameError:
            if wait != "stopped":
                raise
            # A worker that a reload took away has stopped for good.
            return {**status, "services": []}

    def _is_stopping(self, status: Json) -> bool:
        return bool(status["daemon"]["state"] == "stopping")

    def _refuse_stopping(self) -> None:
        if self._is_stopping(self._face.status()):
            raise RefusedError(409, "the daemon is stopping")


async def _serve_page(_request: web.Request) -> web.Response:
    from supervisor.front.web_page import answer_page  # noqa: PLC0415 - Who opens no browser does not pay for it.

    return answer_page()


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


async def _read_body(route: Route, request: web.Request, body_s: float) -> bytes:
    """
    The body, bounded in size by aiohttp, and in time.

    Most routes take none: one that says something would be accepted and ignored.
    """
    if not request.can_read_body:
        return b""
    try:
        async with asyncio.timeout(body_s):
            body = (await request.read()).strip()
    except TimeoutError:
        words = f"the body did not come within {body_s:.0f} s"
        raise RefusedError(408, words, headers={hdrs.CONNECTION: "close"}) from None
    if not route.takes and body not in {b"", b"{}"}:
        raise ProblemsError((f"{request.method} {request.path} takes no body; give parameters in the query",))
    # What curl --data says of a body is not true of JSON, so what the body is counts; a form never begins like this.
    is_json = hdrs.CONTENT_TYPE not in request.headers or request.content_type == "application/json"
    if route.takes and body[:1] not in {b"", b"{"} and not is_json:
        words = f"expected a body of application/json, got {request.content_type[:60]}"
        raise RefusedError(415, words, hint='such as {"targets": ["llm"]}, or give targets in the query')
    return body


async def _refuse_route(request: web.Request) -> web.Response:
    return make_problem(501, f"{request.path} is not supported yet")


def _nearest(request: web.Request) -> str:
    """A hint naming the path that is most like the one asked for; to who only looks none that changes something."""
    routes = (route for route in request.app.router.routes() if route.method == request.method)
    paths = {route.resource.canonical for route in routes if route.resource is not None} - set(NOT_YET)
    # What all of them begin with makes no two of them alike.
    tails = {path.removeprefix(BEGIN): path for path in sorted(paths)}
    found = nearest(request.path.removeprefix(BEGIN), tails)
    words = found.removeprefix("did you mean ").removesuffix("?")
    return f"did you mean {tails[words]}?" if found else "GET /v1/openapi.json names every path"
