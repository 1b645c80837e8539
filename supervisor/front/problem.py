"""
Answers in JSON, and refusals as problem details.

Says how a refusal looks; who is refused, and why, is decided elsewhere. Source of the format:
https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web

PROBLEM_TYPE = "application/problem+json"


class RefusedError(Exception):
    """
    A request that is not carried out.

    Args:
        status: Of HTTP.
        lines: Why, one problem each.
        hint: What the client can do about it, or empty.
        headers: More of them for the answer.
    """

    def __init__(self, status: int, *lines: str, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__("; ".join(lines))
        self.status = status
        self.lines = lines
        self.hint = hint
        self.headers = headers or {}


def make_json(body: Mapping[str, Any]) -> web.Response:
    """A good answer."""
    return web.Response(body=_dump(body), content_type="application/json")


def make_problem(
    status: int,
    *lines: str,
    hint: str = "",
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> web.Response:
    """
    A refusal.

    Args:
        status: Of HTTP, whose phrase is the title: none of ours has a page of its own to be of another type.
        lines: Every problem.
        hint: As of `RefusedError`.
        headers: As of `RefusedError`.
        more: What else is to be known.
    """
    body = {**describe_problem(status, *lines, hint=hint), **(more or {})}
    answer = web.Response(body=_dump(body), status=status, content_type=PROBLEM_TYPE)
    answer.headers.update(headers or {})
    return answer


def describe_problem(status: int, *lines: str, hint: str = "") -> dict[str, Any]:
    """The members of a refusal; ``problems`` and ``hint`` are ours beside those of the standard."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Refused"
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": "; ".join(lines)}
    return {**body, "problems": list(lines), **({"hint": hint} if hint else {})}


def answer_http(request: web.Request, error: web.HTTPException, hint: str = "") -> web.Response:
    """A refusal of aiohttp itself in our words; *hint* is for a path that is not there."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = sorted(error.allowed_methods)
            words = f"{request.path[:200]} takes {' and '.join(allowed)}, not {request.method[:20]}"
            return make_problem(405, words, headers={hdrs.ALLOW: ", ".join(allowed)})
        case web.HTTPNotFound():
            return make_problem(404, f"there is no {request.path[:200]}", hint=hint)
        case web.HTTPRequestEntityTooLarge():
            return make_problem(413, f"a body has at most {BODY_MAX_BYTES} bytes")
        case _:
            return make_problem(error.status, error.reason.lower())


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"


BODY_MAX_BYTES = 64 * 1024
