"""The API as an OpenAPI 3.1 document, made from the table of routes of which the server is made. Asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from supervisor.core.file.quantities import DURATION_MAX_S
from supervisor.front.problem import PROBLEM_TYPE
from supervisor.front.routes import ROUTES, Param, Route
from supervisor.front.schemas import SCHEMAS

Document = dict[str, Any]

_KINDS: Mapping[str, Document] = {
    "text": {"type": "string", "minLength": 1},
    "worker": {"type": "string", "pattern": "^[^/]+/[0-9]+$"},
    "path": {"type": "string", "pattern": "^/"},
    "flag": {"type": "string", "enum": ["0", "1"]},
    "number": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
    "mark": {"type": "string", "pattern": "^([0-9a-f]+-)?[0-9]{1,18}$"},
    "seconds": {"type": "number", "minimum": 0, "maximum": DURATION_MAX_S},
}

_WORDS = """\
Over the control socket everything is open to who may open its file: \
`curl --unix-socket /run/gpu-supervisor/control.sock http://localhost/v1/status`. \
Over TCP (`daemon.http`) what is marked with a lock needs the token of `daemon.http_token_file`."""


def make_document(version: str) -> Document:
    """
    The document.

    Args:
        version: Of the program.
    """
    paths: dict[str, Document] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gpu-supervisor", "version": version, "description": _WORDS},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> Document:
    operation: Document = {
        "operationId": route.name,
        "summary": route.words,
        "parameters": [_parameter(param) for param in route.params],
        "responses": {"200": _good(route), **{str(status): _refusal(status) for status in _refusals(route)}},
        # An empty one says that it may as well be left out.
        "security": [{}, {"token": []}] if route.is_open else [{"token": []}],
    }
    if route.takes:
        operation["parameters"].append(_target(route))
        operation["requestBody"] = {
            "description": "In place of the query, or beside it.",
            "content": {"application/json": {"schema": _named(route)}},
        }
    return operation


def _parameter(param: Param) -> Document:
    schema = {"type": "string", "enum": list(param.choices)} if param.kind == "choice" else _KINDS[param.kind]
    return {
        "name": param.name,
        "in": "query",
        "description": param.words,
        "required": param.is_required,
        "schema": schema,
    }


def _target(route: Route) -> Document:
    pattern = "^.+=[0-9]+$" if route.takes == "counts" else "^.+$"
    words = "`llm=4`, as often as needed." if route.takes == "counts" else "`llm` or `web/1`, as often as needed."
    items = {"type": "string", "pattern": pattern}
    return {"name": "target", "in": "query", "description": words, "schema": {"type": "array", "items": items}}


def _named(route: Route) -> Document:
    counts = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
    names = {"type": "array", "items": {"type": "string", "minLength": 1}}
    targets = counts if route.takes == "counts" else names
    return {"type": "object", "properties": {"targets": targets}, "additionalProperties": False}


def _good(route: Route) -> Document:
    schema = {"$ref": f"#/components/schemas/{route.answer}"} if route.answer else {"type": "string"}
    return {"description": "It is so.", "content": {media: {"schema": schema} for media in route.media}}


def _refusals(route: Route) -> list[int]:
    """What everybody may be answered with, and what this route has of its own."""
    common = {400, 401, 403, 408, 409, 413, 421, 500}
    return sorted(common | set(route.refusals))


def _refusal(status: int) -> Document:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": HTTPStatus(status).phrase, "content": {PROBLEM_TYPE: {"schema": schema}}}
