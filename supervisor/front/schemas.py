"""
JSON Schemas of the answers, draft 2020-12, as OpenAPI 3.1 takes them.

They say what is always there; more may come with every version, and nothing goes. Touch nothing but values.
"""

from __future__ import annotations

from typing import Any

from supervisor.core.checkups import THROTTLES
from supervisor.core.inventory import GpuState, Health
from supervisor.core.message import Cause, State
from supervisor.core.turn import DaemonState

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
BOOL: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
BYTES: Schema = {**WHOLE, "description": "Bytes."}
TIME: Schema = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC."}
NUMBER: Schema = {"type": "number", "minimum": 0}
TEXTS: Schema = {"type": "array", "items": TEXT}


def _map(optional: Schema | None = None, /, **properties: Schema) -> Schema:
    """An object with all of these, and perhaps with those of *optional*."""
    return {"type": "object", "properties": {**properties, **(optional or {})}, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema, words: str = "") -> Schema:
    described = {"description": words} if words else {}
    return {"anyOf": [schema, {"type": "null"}], **described}


def _one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _to(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _event(name: str) -> Schema:
    """One of a stream: what is behind each of its fields. That of type `end` has a reason for data."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [_to(name), _to("End")]},
    }
    return _map({"id": TEXT, "event": TEXT}, data=data)


_ADDRESS = _map(name=TEXT, address=TEXT)
_HTTP = _map(address=TEXT, state=_one_of("binding", "bound", "refused"), reason=TEXT, token=BOOL)
_RELOAD = _map(at=TIME, ok=BOOL, problems=TEXTS)
_WORKER_MORE: Schema = {
    "usage": _map(
        cpu=_or_null(NUMBER, "Cores."), cpu_seconds=_or_null(NUMBER), memory=_or_null(BYTES), gpu_memory=_or_null(BYTES)
    )
}
_DEVICE_MORE: Schema = {
    "utilization": _map(gpu=_or_null(WHOLE, "Per cent."), memory=_or_null(WHOLE, "Per cent of time, not of bytes.")),
    "temperature": _or_null({"type": "integer"}, "Degrees Celsius."),
    "power": _map(draw=_or_null(NUMBER, "Watts."), limit=_or_null(NUMBER, "Watts.")),
}

_GPU_LIMITS = _or_null(
    _map(enforced=BOOL, guard=_one_of("off", "warn", "restart"), over_since=_or_null(TIME), exceeded=BOOL, reason=TEXT),
    "Null for one that shares no GPU and is not guarded.",
)

_WORKER = {
    "worker": {**TEXT, "description": "`llm/0`."},
    "index": WHOLE,
    "state": _one_of(*State),
    "pid": _or_null(WHOLE, "Null where no main process lives."),
    "incarnation": _or_null(WHOLE),
    "since": TIME,
    "restarts": WHOLE,
    "reason": TEXT,
    "fallback": _or_null(_one_of("cpu")),
    "port": _or_null(WHOLE),
    "listen": _list(_ADDRESS),
    "gpus": _list(_map(uuid=TEXT, index=_or_null(WHOLE), share=NUMBER)),
    "env": _or_null(
        {"type": "object", "additionalProperties": TEXT},
        "What it was given of the contract's variables; null over TCP without the token.",
    ),
    "limits": _or_null(_map(cpu=_or_null(NUMBER), memory=_or_null(BYTES), enforced=_or_null(BOOL), reason=TEXT)),
    "gpu_limits": _GPU_LIMITS,
    "status_text": _or_null(TEXT),
    "ready_by": _or_null(TIME),
    "time_to_ready": _or_null(NUMBER, "Seconds."),
    "release": _or_null(_map(seconds=NUMBER, proof=TEXT, dirty=BOOL)),
    "last_exit": _or_null(_to("Exit")),
    "next_start": _or_null(TIME),
}

SCHEMAS: Schema = {
    "Status": _map(daemon=_to("Daemon"), services=_list(_to("Service")), devices=_list(_to("Device"))),
    "Daemon": _map(
        pid=WHOLE,
        version=TEXT,
        file=TEXT,
        instance=TEXT,
        unit=_or_null(TEXT),
        state=_one_of(*DaemonState),
        since=TIME,
        generation=WHOLE,
        reload=_or_null(_RELOAD, "The last one."),
        gpu=_to("Gpu"),
        http=_or_null(_HTTP),
    ),
    "Gpu": _map(state=_or_null(_one_of(*GpuState)), detail=TEXT, since=TIME),
    "Service": _map(
        name=TEXT,
        target=WHOLE,
        ready=WHOLE,
        scaled=BOOL,
        listen=_list(_map(name=TEXT, address=TEXT, state=_one_of("bound", "binding", "refused"), reason=TEXT)),
        workers=_list(_to("Worker")),
    ),
    "Worker": _map(_WORKER_MORE, **_WORKER),
    "Exit": _map(
        code=_or_null({"type": "integer"}),
        signal=_or_null(TEXT),
        cause=_one_of(*Cause),
        detail=TEXT,
        at=TIME,
        core_dumped=BOOL,
        tail=_or_null(TEXTS, "The last lines of its log; null over TCP without the token."),
    ),
    "Device": _map(
        _DEVICE_MORE,
        uuid=TEXT,
        index=_or_null(WHOLE),
        name=TEXT,
        type=_or_null(TEXT),
        pci=_or_null(TEXT),
        numa=_or_null({"type": "integer"}),
        health=_one_of(*Health),
        reason=TEXT,
        health_since=_or_null(TIME, "Null of one that is well."),
        health_until=_or_null(TIME, "When it is looked at again by itself."),
        strikes=WHOLE,
        xids=_list(_map(xid=WHOLE, at=TIME, workers=TEXTS, **{"class": TEXT})),
        throttle=_or_null(_list(_one_of(*THROTTLES.values())), "What slows its clocks down; null where not known."),
        parent=_or_null(TEXT),
        mig=BOOL,
        memory=_map(total=_or_null(BYTES), free=_or_null(BYTES), declared=_or_null(BYTES), read_at=TIME, unified=BOOL),
        workers=TEXTS,
        foreign=_or_null(
            _list(_map(pid=WHOLE, name=TEXT, user=TEXT, bytes=_or_null(BYTES))), "Null where that is not known."
        ),
        in_pool=BOOL,
    ),
    "Devices": _map(
        {
            "openers": _or_null(
                _list(_map(pid=WHOLE, name=TEXT, user=TEXT, worker=TEXT)),
                "Who has a GPU open that is to be reset; null where not everybody could be looked at.",
            ),
            "before": {
                "type": "object",
                "additionalProperties": _one_of(*Health),
                "description": "Of a quarantine or a release: the health of each before, by UUID.",
            },
            "warnings": {**TEXTS, "description": "What was not done of it, such as to keep it for the next daemon."},
        },
        gpu=_to("Gpu"),
        devices=_list(_to("Device")),
    ),
    "Plan": _map(
        gpu=_to("Gpu"),
        devices=_list(_to("Device")),
        workers=_list(
            _map(
                worker=TEXT,
                wanted=BOOL,
                placed=BOOL,
                gpus=_list(_map(uuid=TEXT, index=_or_null(WHOLE), share=NUMBER)),
                fallback=_or_null(_one_of("cpu")),
                gpu_limits=_GPU_LIMITS,
                reason=TEXT,
                action=_one_of("start", "keep", "replace", "stop", "wait"),
            )
        ),
        rollout=_list(
            _map(service=TEXT, target=WHOLE, steps=_list(_map(workers=TEXTS, ready=WHOLE))),
        ),
    ),
    "Explanation": _map(
        _WORKER_MORE,
        **_WORKER,
        asks=TEXT,
        waits=_or_null(_map(**{"for": TEXT}, since=TIME, next_look=_or_null(TIME))),
        timer=_or_null(_map(at=TIME, what=TEXT)),
        failures=_or_null(_map(count=WHOLE, limit=WHOLE, without_ready=WHOLE, start_limit=WHOLE)),
        verdicts=_list(
            _map(
                {"deaths": {"type": "object", "additionalProperties": WHOLE}},
                uuid=TEXT,
                index=_or_null(WHOLE),
                name=TEXT,
                device=TEXT,
                verdict=TEXT,
            )
        ),
        transitions=_list(_to("Transition")),
        deaths=_list(_map(worker=TEXT, incarnation=_or_null(WHOLE), at=TIME, cause=_one_of(*Cause))),
    ),
    "Transition": _map(
        {"device": TEXT},
        worker=_or_null(TEXT, "Null of an event of a GPU, which has `device`."),
        incarnation=_or_null(WHOLE),
        before=_or_null(_one_of(*State, *(one for one in Health if str(one) not in set(State)))),
        after=_or_null(_one_of(*State, *(one for one in Health if str(one) not in set(State)))),
        cause=TEXT,
        at=TIME,
        reason=TEXT,
    ),
    "Line": _map(worker=TEXT, incarnation=_or_null(WHOLE), at=TIME, line=TEXT),
    "End": _map(reason=_one_of("done", "slow", "stopping")),
    "LogEvent": _event("Line"),
    "WorkerEvent": _event("Transition"),
    "Ok": _map(ok={"const": True}),
    "Ordered": _map(ok={"const": True}, services=_list(_to("Service"))),
    "Reloaded": _map(
        {
            "changed": {
                **TEXTS,
                "description": "What says something else and moves no worker: health.canary, services.llm.",
            }
        },
        ok=BOOL,
        problems=TEXTS,
        difference={"type": "object", "additionalProperties": TEXT},
    ),
    "Ended": _map(ok={"const": True}, pid=WHOLE, unit=_or_null(TEXT)),
    "Document": _map(openapi=TEXT, info={"type": "object"}, paths={"type": "object"}),
    "Problem": _map(
        {"hint": {**TEXT, "description": "What to do about it."}},
        type={**TEXT, "format": "uri-reference"},
        title=TEXT,
        status={"type": "integer", "minimum": 400, "maximum": 599},
        detail=TEXT,
        problems={**TEXTS, "description": "Every one."},
    ),
}
"""By name."""
