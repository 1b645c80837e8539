"""
The JSON Schema of the service file, made from the tables by which the file is read. Reads and checks nothing itself.

A schema sees less than the reader, which knows what goes together and what a string means: what it refuses is wrong,
what it accepts may still be. A key that the tables have is in the schema, with or without words here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from supervisor.core.file import keys, probe_keys
from supervisor.core.file.daemon import DAEMON, DaemonSpec
from supervisor.core.file.endpoints import ENDPOINTS, EndpointsSpec
from supervisor.core.file.health import HEALTH, HealthSpec
from supervisor.core.file.hooks import HOOK, Hook
from supervisor.core.file.problems import Section
from supervisor.core.file.service import Alive, Logs, Ready, Recycle, Resources, Restart, ServiceSpec, Stop, Update
from supervisor.core.spec import FILE
from supervisor.core.xids import CLASSES

Schema = dict[str, Any]

DURATION: Schema = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)?$"}]
}
SIZE: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(KiB|MiB|GiB|TiB|KB|MB|GB|TB|B)?$"},
    ]
}
AMOUNT: Schema = {"anyOf": [*SIZE["anyOf"], {"type": "string", "pattern": r"^[0-9]+(\.[0-9])?%$"}]}
SCALAR: Schema = {"type": ["string", "number", "boolean"]}
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": keys.PORT_MAX}
ACCOUNT: Schema = {"type": ["string", "integer"]}
ENV: Schema = {"type": ["object", "null"], "additionalProperties": SCALAR}
ARGV: Schema = {"type": "array", "minItems": 1, "items": SCALAR}
COMMAND: Schema = {"anyOf": [TEXT, ARGV]}
TYPES: Schema = {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": TEXT}]}
GPUS: Schema = {"type": "array", "minItems": 1, "items": {"type": ["integer", "string"]}}
GPU: Schema = {"anyOf": [{"type": "number", "minimum": 0}, {"const": "all"}]}
CPU: Schema = {
    "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?m?$"}]
}


def _one_of(*words: str) -> Schema:
    return {"enum": list(words)}


_WORDS: Mapping[str, tuple[Schema, str]] = {
    "services": ({}, "The services, by name."),
    "defaults": ({}, "Merged under every service."),
    "gpus": (GPUS, "The only GPUs to use: indices as nvidia-smi shows, UUIDs or their start, PCI ids."),
    "daemon": ({}, "The daemon itself."),
    "daemon.headroom": (AMOUNT, "Memory left free on every GPU; else the larger of 512MiB and 2 %."),
    "daemon.start_parallel": (WHOLE, "Workers with a GPU that start at once; 0 = no limit."),
    "daemon.gpu_wait": (DURATION, "For how long to wait for a driver that is still being loaded."),
    "daemon.exit_when_failed": (
        {"type": "boolean"},
        "End with 1 when nobody runs or is going to, and somebody has failed.",
    ),
    "daemon.on_event": (
        {},
        "Who is told what happens, as JSON: a command (on its standard input), a URL (POST), a map, or a list of maps.",
    ),
    "on_event.command": (
        COMMAND,
        "Run for each event, as the daemon's user, beside the file, with the event as input.",
    ),
    "on_event.url": ({"type": "string", "pattern": "^https?://"}, "Each event is posted to it as JSON."),
    "on_event.events": (
        {"type": "array", "minItems": 1, "items": TEXT},
        "Only these, such as worker.failed, or failed for every event that ends so; else all.",
    ),
    "on_event.retries": (WHOLE, "Tries after the first that failed: 1 s later, then ever later, up to 30 s."),
    "on_event.timeout": (DURATION, "For one try; after that the command and all it started are killed."),
    "daemon.endpoints": ({}, "Files in which ready workers stand, for load balancers."),
    "endpoints.json": (TEXT, "A file with every ready worker: host, port, sockets, GPUs."),
    "endpoints.prometheus": (TEXT, "A file for Prometheus' file_sd_configs; .json, .yml or .yaml."),
    "endpoints.nginx": (TEXT, "A file to be included by nginx: an upstream for each service."),
    "endpoints.reload": (COMMAND, "Run after a file has changed, as the daemon's user, beside the file."),
    "endpoints.host": (TEXT, "Where workers with a port are reached."),
    "daemon.poll": (DURATION, "Between two looks at what workers use, which only recycle and gpu_memory_guard need."),
    "daemon.http": (
        TEXT,
        "HOST:PORT at which the API and its page are served over TCP too; reachable for others only with a token.",
    ),
    "daemon.http_token_file": (
        TEXT,
        "A file with a secret line that nobody else may read; over TCP, who sends it may see logs and change things.",
    ),
    "daemon.log_format": (
        _one_of("console", "json"),
        "How log lines look; else console on a terminal, json elsewhere.",
    ),
    "health": ({}, "What becomes of sick GPUs, and of who works there."),
    "health.on_fault": (
        _one_of("drain", "kill", "ignore"),
        "Workers on a sick GPU are asked to end, or killed, and start elsewhere; or they are left alone.",
    ),
    "health.probation": (DURATION, "For how long a GPU has to be well before it is used again."),
    "health.max_probation": (DURATION, "At the most: each quarantine in a row takes twice as long as the one before."),
    "health.max_strikes": (WHOLE, "The so manyth quarantine in a row ends only by devices release; 0 = no limit."),
    "health.canary": (COMMAND, "A command that has to end with 0 on the GPU before it is used again."),
    "health.canary_timeout": (DURATION, "For how long it may take."),
    "health.xids": (
        {
            "type": ["object", "null"],
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": {"enum": list(CLASSES)},
        },
        "Numbers of the driver's errors that count as another class than they usually do.",
    ),
    "service.command": (
        COMMAND,
        "Program and arguments, as a list or as a string that is split as a shell would; no shell is run.",
    ),
    "service.workers": (
        {},
        "A number, cpu_count, per_gpu (what its GPUs have place for), fit (what they have memory for), or a list.",
    ),
    "service.sharing": (_one_of("timeslice"), "How workers on one GPU share it: they take turns."),
    "service.placement": (
        _one_of("pack", "spread"),
        "Where fractions of a GPU go: beside others, or where fewest others are.",
    ),
    "service.pin": (
        _one_of("auto", "index", "uuid"),
        "How GPUs are named in CUDA_VISIBLE_DEVICES: by index (auto, index) or by UUID, as MIG instances always are.",
    ),
    "service.numa": (_one_of("any", "near"), "near: on the CPUs beside its GPUs, as far as the machine tells."),
    "service.resources": ({}, "What each worker needs."),
    "service.on_no_gpu": (_one_of("wait", "cpu", "fail"), "What a worker does for which there is no GPU."),
    "service.env": (ENV, "Environment variables."),
    "service.working_dir": (TEXT, "Where it runs; else the folder of the file."),
    "service.port": (PORT, "Worker i finds this + i in PORT."),
    "service.ready": ({}, "When a worker is ready; tcp if it has a port, else after 1s."),
    "service.alive": ({}, "How one sees that a worker that was ready lives on; one that does not is restarted."),
    "service.stop": ({}, "How a worker is stopped."),
    "service.restart": ({}, "What follows the end of a worker."),
    "service.recycle": ({}, "When a worker that is well is replaced by another process, one at a time."),
    "recycle.after": (
        DURATION,
        "It has lived for so long, or up to a tenth less: which, differs from worker to worker.",
    ),
    "recycle.memory": (SIZE, "Its process and all that it started have more of the host's memory."),
    "recycle.gpu_memory": (AMOUNT, "It has more of the memory of one of its GPUs, as far as the driver tells."),
    "service.update": ({}, "How its workers are replaced by a reload."),
    "update.max_unavailable": (
        {"type": "integer", "minimum": 0},
        "So many of them may be missing at once, once one has got ready with the new launch; 0 only with surge.",
    ),
    "update.surge": (
        {"type": "integer", "minimum": 0},
        "So many more run meanwhile, on GPUs that no worker of the service is on; not with port or a list of workers.",
    ),
    "service.logs": ({}, "Where its output goes: inherit, journal, or a file."),
    "service.after": (
        {"type": "array", "items": TEXT},
        "Services whose workers must have been ready before one of this starts; it is stopped before them.",
    ),
    "service.listen": (
        {
            "type": ["object", "null"],
            "additionalProperties": {"type": "string", "pattern": "^(tcp://.+:[0-9]{1,5}|unix:.+)$"},
        },
        "Sockets by name, tcp://ADDRESS:PORT or unix:PATH: bound once by the daemon, shared by all its workers.",
    ),
    "service.env_file": (
        {"anyOf": [TEXT, {"type": "array", "items": TEXT}]},
        "Files of NAME=VALUE lines, as docker's; below env.",
    ),
    "service.user": (ACCOUNT, "Whose process it is, by name or number."),
    "service.group": (ACCOUNT, "Its group, by name or number; else the user's own."),
    "service.umask": ({"type": ["string", "integer"]}, "Octal, such as 027."),
    "service.limits": (
        {"type": ["object", "null"]},
        "Such as nofile: 65536 or memlock: infinity; one value or SOFT:HARD.",
    ),
    "service.nice": ({"type": "integer", "minimum": -20, "maximum": 19}, "-20 to 19, not relative to the daemon's."),
    "service.oom_score_adj": ({"type": "integer", "minimum": -1000, "maximum": 1000}, "Who dies first without memory."),
    "logs.file": (TEXT, "The path; $(NAME) is replaced from the worker's environment."),
    "logs.max_size": (SIZE, "At which it is rotated; 0 = never."),
    "logs.keep": (WHOLE, "Rotated files beside the one that is written."),
    "entry.env": (ENV, "More environment variables, before the service's."),
    "entry.port": (PORT, "Exactly the port of this worker."),
    "resources.gpu": (GPU, "GPUs of one worker: a fraction down to 0.001, a whole number, or all."),
    "resources.gpu_type": (
        TYPES,
        "Kinds of GPU that will do: names such as nvidia-l4, or patterns for the name nvidia-smi shows (*L40*).",
    ),
    "resources.gpus": (
        GPUS,
        "Only these GPUs: indices as nvidia-smi shows, UUIDs (of MIG instances too) or their start, PCI ids.",
    ),
    "resources.cpu": (
        CPU,
        "Cores of one worker, 4 or 500m: its thread variables say so, and it gets no more where its cgroup has limits.",
    ),
    "resources.memory": (SIZE, "Memory of the host that must be left before every start; swap does not count."),
    "resources.gpu_memory": (AMOUNT, "Free memory that each of its GPUs must have before every start."),
    "resources.gpu_memory_guard": (
        _one_of("off", "warn", "restart"),
        "What follows when it has more than gpu_memory for long; else warn where it shares a GPU, off where not.",
    ),
    "resources.gpu_memory_guard_after": (DURATION, "For so long it may have more than gpu_memory."),
    "entry.gpu": (GPU, "GPUs of this worker: a fraction, a whole number, or all."),
    "entry.gpus": (GPUS, "Of this worker; without gpu exactly these, whole."),
    "entry.cpu": (CPU, "Cores of this worker."),
    "entry.memory": (SIZE, "Memory of the host for this worker."),
    "entry.gpu_memory": (AMOUNT, "Free memory that each of its GPUs must have before every start."),
    "ready.http": (TEXT, "A path on its port, or an http:// URL on loopback, that answers with 200 to 399."),
    "ready.tcp": ({"const": True}, "Its port takes connections."),
    "ready.exec": (ARGV, "A command, run as the worker is, that ends with 0."),
    "ready.notify": ({"const": True}, "It says READY=1 on NOTIFY_SOCKET, as under systemd."),
    "ready.after": (DURATION, "It has lived for so long."),
    "ready.timeout": (DURATION, "A start that takes longer has failed."),
    "ready.interval": (DURATION, "Between two probes."),
    "alive.http": (TEXT, "A path on its port, or an http:// URL on loopback, that answers with 200 to 399."),
    "alive.tcp": ({"const": True}, "Its port takes connections."),
    "alive.exec": (ARGV, "A command, run as the worker is, that ends with 0."),
    "alive.notify": ({"const": True}, "It says WATCHDOG=1 on NOTIFY_SOCKET at least every interval x failures."),
    "alive.interval": (DURATION, "Between two probes."),
    "alive.timeout": (DURATION, "One probe that takes longer has failed."),
    "alive.failures": (
        {"type": "integer", "minimum": 1, "maximum": 1000},
        "So many in a row, and the worker is stopped and started again.",
    ),
    "stop.signal": ({"type": ["string", "integer"]}, "The signal to the main process, by name or number."),
    "stop.timeout": (DURATION, "After which SIGKILL follows."),
    "stop.group": ({"type": "boolean"}, "Its whole process group gets the signal, not its main process alone."),
    "stop.exec": (ARGV, "A command, run as the worker is and with its MAINPID, that comes before the signal."),
    "restart.policy": (_one_of("always", "on-failure", "never"), "When there is another process at all."),
    "restart.delay": (DURATION, "Before the first restart after a failure; it doubles with each further one."),
    "restart.max_delay": (DURATION, "The longest delay."),
    "restart.start_limit": (WHOLE, "So many failures in a row without being ready, and it has failed; 0 = no limit."),
    "restart.limit": (WHOLE, "So many failed runs without a healthy one, and it has failed; 0 = no limit."),
    "restart.parole": (
        DURATION,
        "After which a failed worker gets one more try, then every three times as long; 0 = none.",
    ),
    "restart.on": (
        {
            "type": ["object", "null"],
            "patternProperties": {"^x-": {}},
            "properties": {cause: {"$ref": "#/$defs/on"} for cause in keys.CAUSES},
            "additionalProperties": False,
        },
        "Another policy for ends of some causes, such as cuda_oom: {delay: 30s}; what is left out stays.",
    ),
    "restart.permanent_exit": (
        {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 255}},
        "Exit codes after which another try is of no use.",
    ),
}
WORDS = {**_WORDS, **{f"on.{key}": _WORDS[f"restart.{key}"] for key in keys.RESTART_ON.keys}}
"""What a value of each key may be, as far as a schema can say, and what it is for."""

SECTIONS: Mapping[str, tuple[Section, type[BaseModel] | None]] = {
    "": (FILE, None),
    "daemon": (DAEMON, DaemonSpec),
    "on_event": (HOOK, Hook),
    "health": (HEALTH, HealthSpec),
    "endpoints": (ENDPOINTS, EndpointsSpec),
    "service": (keys.SERVICE, ServiceSpec),
    "entry": (keys.ENTRY, None),
    "resources": (keys.RESOURCES, Resources),
    "ready": (probe_keys.READY, Ready),
    "alive": (probe_keys.ALIVE, Alive),
    "stop": (keys.STOP, Stop),
    "restart": (keys.RESTART, Restart),
    "on": (keys.RESTART_ON, None),
    "update": (keys.UPDATE, Update),
    "recycle": (keys.RECYCLE, Recycle),
    "logs": (keys.LOGS, Logs),
}
"""The maps of the file, and the models that know their defaults."""


def make_schema() -> Schema:
    """
    The schema, as JSON.

    Returns:
        Draft 2020-12; one definition for each map of the file, under the name that it has in `SECTIONS`.
    """
    top = _section("")
    top["properties"]["services"] |= {
        "type": "object",
        "patternProperties": {"^x-": {}, "^[a-z0-9][a-z0-9_-]{0,62}$": _reference("service")},
        "additionalProperties": False,
    }
    top["properties"]["defaults"] |= _reference("service")
    top["properties"]["daemon"] |= _reference("daemon")
    top["properties"]["health"] |= _reference("health")
    service = _section("service")
    count = {"anyOf": [WHOLE, _one_of("cpu_count", "per_gpu", "fit"), {"type": "array", "items": _reference("entry")}]}
    service["properties"]["workers"] |= count
    for name in ("resources", "ready", "alive", "stop", "restart", "update", "recycle"):
        service["properties"][name] |= _reference(name)
    service["properties"]["logs"] |= {"anyOf": [_one_of("inherit", "journal"), _reference("logs")]}
    maps = {name: _section(name) for name in SECTIONS if name not in {"", "service"}}
    maps["daemon"]["properties"]["endpoints"] |= _reference("endpoints")
    maps["daemon"]["properties"]["on_event"] |= {
        "anyOf": [*COMMAND["anyOf"], _reference("on_event"), {"type": "array", "items": _reference("on_event")}]
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Service file of gpu-supervisor",
        **top,
        "required": ["services"],
        "$defs": {"service": service, **maps},
    }


def _section(name: str) -> Schema:
    section, model = SECTIONS[name]
    prefix = f"{name}." if name else ""
    properties = {}
    for key in section.keys:
        found, description = WORDS.get(f"{prefix}{key}", ({}, ""))
        properties[key] = {**({"description": description} if description else {}), **found, **_default(model, key)}
    return {
        "type": ["object", "null"],
        "properties": properties,
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
    }


def _default(model: type[BaseModel] | None, key: str) -> Schema:
    """What a key is when it is left out, where that is a plain value."""
    for name, field in model.model_fields.items() if model else ():
        value = field.default
        if key != (field.alias or name) or key in {"working_dir", "after"}:
            continue  # These depend on others.
        if isinstance(value, tuple) and value:
            return {"default": list(value)}
        if isinstance(value, str | int | float) and value != "":
            return {"default": value}
    return {}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}
