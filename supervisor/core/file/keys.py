"""
The keys of a service: how each is read, and which ones go together.

Every reader notes what is wrong and goes on, so that a person sees all of it at once. Touches nothing but the values
it is given.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Mapping
from pathlib import PurePosixPath

from supervisor.core.file.after import read_after
from supervisor.core.file.command import split_command
from supervisor.core.file.env_file import read_env_files
from supervisor.core.file.foreign import RESOURCE_KEYS, RESTART_KEYS, RESTART_WORDS, SERVICE_KEYS
from supervisor.core.file.gpu_keys import check_gpu_use, parse_gpu, parse_sharing, read_gpu_types, read_gpus
from supervisor.core.file.health import HEALTH
from supervisor.core.file.listen import read_listen, settle_paths
from supervisor.core.file.names import LISTEN_NAMES, reserved_hint
from supervisor.core.file.probe_keys import READY_KINDS, read_alive, read_argv, read_ready
from supervisor.core.file.problems import (
    BadValueError,
    Place,
    Section,
    as_text,
    choice,
    leaf,
    map_or_empty,
    nearest,
    parse_bool,
    read_section,
    shown,
    whole_number,
)
from supervisor.core.file.quantities import (
    parse_amount_above_zero,
    parse_cpu,
    parse_duration_s,
    parse_size,
    parse_size_above_zero,
)
from supervisor.core.file.service import Logs, Recycle, Resources, Restart, ServiceSpec, Stop, Update, WorkerEntry
from supervisor.core.file.setup import SETUP_KEYS

WORKERS_MAX = 100_000  # Beyond any host; what keeps a slip of the finger from filling the memory.
PORT_MAX = 65535
_LIMIT_MAX = 1_000_000
_KEEP_MAX = 1000
_FILE_MIN = 4096  # A file smaller than a block would be renamed at every line or two.

CAUSES = ("exit", "signal", "spawn", "start_timeout", "liveness", "watchdog", "host_oom", "cuda_oom")
"""Of an end that the restart policy is asked about."""

CAUSES_UNCHARGED = ("operator", "rollout", "lost", "device", "recycle")

read_port = leaf(whole_number(1, PORT_MAX))


def read_service(place: Place, base_dir: str) -> ServiceSpec:
    """
    A service with what can be read of it; it is whole only if no problem was noted.

    Args:
        place: Its map, the file's defaults merged in.
        base_dir: Absolute; where its relative paths begin.
    """
    written = map_or_empty(place.value)
    good = {"command": ("missing",)} | read_section(place, SERVICE)
    if "command" not in written:
        place.refuse("a service needs a command", "write command: PROGRAM ARGUMENTS", below=("command",))
    directory = str(good.get("working_dir", "."))
    # What a name at the beginning stands for is known at the spawn; by then it must be absolute.
    good["working_dir"] = directory if directory.startswith("$(") else str(PurePosixPath(base_dir, directory))
    if isinstance(logs := good.get("logs"), Logs) and logs.file:
        good["logs"] = logs.model_copy(update={"base_dir": base_dir})
    if isinstance(files := good.get("env_file"), tuple):
        good["env_file"] = tuple(str(PurePosixPath(base_dir, file)) for file in files)
    if sockets := good.get("listen"):
        assert isinstance(sockets, tuple)
        good["listen"] = settle_paths(place, sockets, base_dir)
    good["probe_by_port"] = not {*READY_KINDS} & map_or_empty(written.get("ready")).keys()
    service = ServiceSpec.model_validate(good)
    _check_ready(place, service, written)
    _check_port_variable(place, written)
    _check_listen_variables(place, written)
    check_gpu_use(place, service, written)
    _check_surge(place, service)
    return service if service.port is None else _with_tcp_by_default(service)


def _with_tcp_by_default(service: ServiceSpec) -> ServiceSpec:
    if not service.probe_by_port:
        return service
    return service.model_copy(update={"ready": service.ready.model_copy(update={"kind": "tcp"})})


# ---- which keys go together ------------------------------------------------------------------------------------------


def _check_ready(place: Place, service: ServiceSpec, written: Mapping[str, object]) -> None:
    """TCP and a path of HTTP probe a port; waiting ends before the start is given up."""
    if "port" in written or all("port" in entry for entry in _written_entries(written)):
        return
    for key, probe in (("ready", service.ready), ("alive", service.alive)):
        if probe.kind == "tcp" or probe.http.startswith("/"):
            message, hint = f"{probe.kind} needs a port, and not every worker has one", "write port: 8000"
            if service.listen:  # Who asked there would hear from any of them, or from the kernel alone.
                message += "; the sockets of listen are those of all its workers"
                hint = "write port: 8000, or one of after, exec and notify"
            place.refuse(message, hint, below=(key, probe.kind))
    if service.probe_by_port and service.ready.after_s >= service.ready.timeout_s:
        message = "expected more than the 1s after which a worker without a port counts as ready"
        place.refuse(message, "write after: too", below=("ready", "timeout"))


def _check_surge(place: Place, service: ServiceSpec) -> None:
    """One more worker than the file says has to be one like the others, and to have room."""
    if not service.update.surge:
        return
    message, hint = "", ""
    if service.port is not None:
        message = "one more worker would need a port of its own, and those of its service are all its workers'"
        hint = "leave port out and serve on listen:, which all workers share"
    elif isinstance(service.workers, tuple):
        message, hint = "workers are listed one by one, and none is listed for one more", "write a number of workers"
    elif service.is_sized:
        message, hint = f"workers: {service.workers} leaves no room for one more", "write a number of workers"
    if message:
        place.refuse(message, hint, below=("update", "surge"))


def _check_port_variable(place: Place, written: Mapping[str, object]) -> None:
    """PORT is the supervisor's wherever it gives a port."""
    entries = _written_entries(written)
    hint = "leave it out; it is set from port"
    if "PORT" in map_or_empty(written.get("env")) and ("port" in written or any("port" in entry for entry in entries)):
        place.refuse("PORT cannot be set beside port", hint, below=("env", "PORT"), at_key=True)
    for index, entry in enumerate(entries):
        if "PORT" in map_or_empty(entry.get("env")) and ("port" in written or "port" in entry):
            below = ("workers", index, "env", "PORT")
            place.refuse("PORT cannot be set beside port", hint, below=below, at_key=True)


def _check_listen_variables(place: Place, written: Mapping[str, object]) -> None:
    """What tells a worker of its sockets is the supervisor's wherever it gives some."""
    if not map_or_empty(written.get("listen")):
        return
    hint = "leave it out; it is set from listen"
    for name in sorted(LISTEN_NAMES):
        if name in map_or_empty(written.get("env")):
            place.refuse(f"{name} cannot be set beside listen", hint, below=("env", name), at_key=True)
        for index, entry in enumerate(_written_entries(written)):
            if name in map_or_empty(entry.get("env")):
                below = ("workers", index, "env", name)
                place.refuse(f"{name} cannot be set beside listen", hint, below=below, at_key=True)


def _written_entries(written: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The maps of a ``workers`` list as they were written; one empty one where there is no list."""
    workers = written.get("workers")
    return [map_or_empty(entry) for entry in workers] if isinstance(workers, list | tuple) else [{}]


# ---- one key each ----------------------------------------------------------------------------------------------------


def read_command(place: Place) -> tuple[str, ...] | None:
    """A command as a string, which is split, or as a list, in which nothing is looked at."""
    match place.value:
        case str():
            return place.read(lambda value: split_command(as_text(value)))
        case list() | tuple():
            words = [item.read(as_text) for item in place.items("")]
            if not words or words[0] == "":
                place.refuse("expected a command, got an empty one")
            return tuple(word for word in words if word is not None)
        case Mapping() if {"python", "preload"} & place.value.keys():
            place.refuse("python and preload are not supported yet", at_key=True)
        case _:
            place.refuse(f"expected a command as a string or a list, got {shown(place.value)}")
    return None


def read_env(place: Place) -> dict[str, str]:
    """Environment variables by name, with none of the supervisor's own."""
    env = {}
    for name, value in place.as_map("NAME: value").items():
        at = place.child(name, value)
        if not name or "=" in name or "\0" in name:
            at.refuse(f"expected a name without '=' and NUL, got {shown(name)}", at_key=True)
        elif hint := reserved_hint(name):
            at.refuse(f"{name} cannot be set here", hint, at_key=True)
        elif (text := at.read(as_text)) is not None:
            env[name] = text
    return env


def read_workers(place: Place) -> int | str | tuple[WorkerEntry, ...] | None:
    """A count, or one entry per worker."""
    if isinstance(place.value, list | tuple):
        if len(place.value) > WORKERS_MAX:
            place.refuse(f"expected {WORKERS_MAX} workers at the most, got {len(place.value)}")
            return None
        return tuple(WorkerEntry.model_validate(read_section(item, ENTRY)) for item in place.items(""))
    return place.read(_parse_workers)


def read_resources(place: Place) -> Resources:
    """What each worker needs."""
    return Resources.model_validate(read_section(place, RESOURCES))


def read_stop(place: Place) -> Stop:
    """How a worker is stopped. A command before the signal needs a part of the grace."""
    stop = Stop.model_validate(read_section(place, STOP))
    if stop.exec and stop.timeout_s == 0:
        place.refuse("expected more than 0: exec has a part of it", "leave it out for 30s", below=("timeout",))
    return stop


def _read_recycle(place: Place) -> Recycle:
    """When a worker that is well is replaced."""
    return Recycle.model_validate(read_section(place, RECYCLE))


def _read_update(place: Place) -> Update:
    """How workers are replaced. Somebody has to be missing where nobody comes before one goes."""
    update = Update.model_validate(read_section(place, UPDATE))
    if not update.max_unavailable and not update.surge:
        place.refuse("expected at least 1 without surge", "write surge: 1 beside it", below=("max_unavailable",))
    return update


def read_restart(place: Place) -> Restart:
    """What follows a worker's end. A delay beyond the default maximum needs a maximum of its own."""
    word = shown(place.value).strip("'") if isinstance(place.value, str | bool) else ""
    if policy := RESTART_WORDS.get(word.lower()):
        place.refuse(f"expected a map, got {shown(place.value)}", f"write restart: {{policy: {policy}}}")
        return Restart()
    good = read_section(place, RESTART)
    own = good.pop("on", None)
    restart = _checked_restart(place, good)
    if not isinstance(own, dict):
        return restart
    policies = [
        (cause, _checked_restart(place.child("on", None).child(cause, words), {**good, **words}))
        for cause, words in own.items()
    ]
    return restart.model_copy(update={"on": tuple(policies)})


def _checked_restart(place: Place, good: Mapping[str, object]) -> Restart:
    restart = Restart.model_validate(good)
    is_max_good = "max_delay" in good or "max_delay" not in map_or_empty(place.value)
    if "delay" in good and is_max_good and restart.delay_s > restart.max_delay_s:
        message = f"expected max_delay ({restart.max_delay_s:g}s) at the most"
        place.refuse(message, "raise max_delay", below=("delay",))
    return restart


def _read_on(place: Place) -> dict[str, dict[str, object]]:
    """Causes with a policy of their own: what is left out is as for every other cause."""
    found = {}
    for cause, value in place.as_map("{cuda_oom: {delay: 30s}}").items():
        at = place.child(cause, value)
        if cause.startswith("x-"):
            continue
        if cause in CAUSES_UNCHARGED:
            at.refuse(f"{cause} has no policy", "such an end is nobody's fault and is followed at once", at_key=True)
        elif cause not in CAUSES:
            at.refuse(f"unknown cause {shown(cause)}", nearest(cause, CAUSES), at_key=True)
        else:
            found[cause] = read_section(at, RESTART_ON)
    return found


def read_logs(place: Place) -> Logs | None:
    """Where the output goes: a word, or a file and when it is rotated."""
    if isinstance(place.value, str):
        word = place.read(_parse_logs_word)
        return None if word is None else Logs.model_validate({"kind": word})
    good = read_section(place, LOGS)
    if isinstance(place.value, Mapping) and "file" not in place.value:
        place.refuse("a log file needs a name", LOGS.example)
    return Logs.model_validate(good | {"kind": "file"}) if "file" in good else None


def _parse_logs_word(value: object) -> str:
    try:
        return choice("inherit", "journal")(value)
    except BadValueError as error:
        message = f"expected inherit, journal or a map with a file, got {shown(value)}"
        raise BadValueError(message, error.hint or f"write {LOGS.example}") from None


def _parse_log_file(value: object) -> str:
    file = as_text(value)
    if not file or file.endswith("/") or posixpath.basename(file) in {".", ".."}:
        raise BadValueError(f"expected the path of a file, got {shown(value)}", "write logs/$(WORKER_INDEX).log")
    return file


def _parse_max_size(value: object) -> int:
    size = parse_size(value)
    if 0 < size < _FILE_MIN:
        raise BadValueError(f"expected at least 4KiB, got {shown(value)}", "write 0 for a file that is never rotated")
    return size


def _read_exit_codes(place: Place) -> tuple[int, ...]:
    codes = [item.read(whole_number(1, 255)) for item in place.items("[78]")]
    return tuple(dict.fromkeys(code for code in codes if code is not None))


def _parse_workers(value: object) -> int | str:
    words = ("cpu_count", "per_gpu", "fit")
    if isinstance(value, str) and value in words:
        return value
    count = whole_number(0, WORKERS_MAX, f"a whole number from 0 to {WORKERS_MAX}, {', '.join(words)} or a list")
    try:
        return count(value)
    except BadValueError as error:
        hint = error.hint or (nearest(value, words) if isinstance(value, str) else "")
        raise BadValueError(str(error), hint) from None


def _parse_signal(value: object) -> int:
    """The number of a signal that is named, with or without SIG, or numbered."""
    known = {name.removeprefix("SIG"): int(number) for name, number in signal.Signals.__members__.items()}
    number: object = value
    if isinstance(value, str):
        number = int(value) if re.fullmatch(r"[0-9]{1,3}", value) else known.get(value.upper().removeprefix("SIG"))
    if isinstance(number, int) and not isinstance(number, bool) and number in signal.valid_signals():
        return int(number)
    # Without what they all begin with, which makes any two of them alike.
    like = nearest(value.upper().removeprefix("SIG"), known) if isinstance(value, str) else ""
    hint = like.replace("did you mean ", "did you mean SIG") or "`kill -l` names them all"
    raise BadValueError(f"expected a signal such as SIGTERM, got {shown(value)}", hint)


def _parse_age(value: object) -> float:
    seconds = parse_duration_s(value)
    if seconds < 1:
        raise BadValueError(f"expected at least 1s, got {shown(value)}", "leave it out for a worker of any age")
    return seconds


def _parse_working_dir(value: object) -> str:
    directory = as_text(value)
    if not directory:
        raise BadValueError("expected a directory, got an empty string", "leave it out for the file's own directory")
    return directory


# ---- which keys there are --------------------------------------------------------------------------------------------

_GPU_KEYS = {"gpu": leaf(parse_gpu), "gpus": read_gpus, "gpu_memory": leaf(parse_amount_above_zero)}
_HOST_KEYS = {"cpu": leaf(parse_cpu), "memory": leaf(parse_size_above_zero)}

RESOURCES = Section(
    keys=_GPU_KEYS
    | {"gpu_memory_guard": leaf(choice("off", "warn", "restart")), "gpu_memory_guard_after": leaf(parse_duration_s)}
    | {"gpu_type": read_gpu_types}
    | _HOST_KEYS,
    elsewhere=RESOURCE_KEYS,
    example="resources: {gpu: 1}",
)
RECYCLE = Section(
    keys={
        "after": leaf(_parse_age),
        "memory": leaf(parse_size_above_zero),
        "gpu_memory": leaf(parse_amount_above_zero),
    },
    example="recycle: {after: 1d}",
)
UPDATE = Section(
    keys={
        "max_unavailable": leaf(whole_number(0, WORKERS_MAX)),
        "surge": leaf(whole_number(0, WORKERS_MAX)),
    },
    example="update: {max_unavailable: 1}",
)
STOP = Section(
    keys={
        "signal": leaf(_parse_signal),
        "timeout": leaf(parse_duration_s),
        "group": leaf(parse_bool),
        "exec": read_argv,
    },
    example="stop: {signal: SIGTERM, timeout: 30s}",
)
_RESTART_KEYS = {
    "policy": leaf(choice("always", "on-failure", "never")),
    "delay": leaf(parse_duration_s),
    "max_delay": leaf(parse_duration_s),
    "start_limit": leaf(whole_number(0, _LIMIT_MAX)),
    "limit": leaf(whole_number(0, _LIMIT_MAX)),
    "parole": leaf(parse_duration_s),
}
RESTART_ON = Section(
    keys=_RESTART_KEYS,
    elsewhere={"permanent_exit": "it belongs to restart itself"},
    example="{delay: 30s}",
)
RESTART = Section(
    keys=_RESTART_KEYS | {"permanent_exit": _read_exit_codes, "on": _read_on},
    elsewhere=RESTART_KEYS,
    example="restart: {policy: on-failure}",
)
LOGS = Section(
    keys={
        "file": leaf(_parse_log_file),
        "max_size": leaf(_parse_max_size),
        "keep": leaf(whole_number(0, _KEEP_MAX)),
    },
    example="logs: {file: logs/$(WORKER_INDEX).log}",
)
SERVICE = Section(
    keys={
        "command": read_command,
        "workers": read_workers,
        "resources": read_resources,
        "on_no_gpu": leaf(choice("wait", "cpu", "fail")),
        "env": read_env,
        "working_dir": leaf(_parse_working_dir),
        "port": read_port,
        "ready": read_ready,
        "alive": read_alive,
        "stop": read_stop,
        "restart": read_restart,
        "logs": read_logs,
        "env_file": read_env_files,
        "sharing": leaf(parse_sharing),
        "placement": leaf(choice("pack", "spread")),
        "pin": leaf(choice("auto", "index", "uuid")),
        "numa": leaf(choice("any", "near")),
        "after": read_after,
        "listen": read_listen,
        "update": _read_update,
        "recycle": _read_recycle,
        **SETUP_KEYS,
    },
    not_yet=frozenset({"python", "preload"}),
    elsewhere={
        **SERVICE_KEYS,
        **dict.fromkeys(HEALTH.keys, "it belongs under health, the file's key beside services"),
        **dict.fromkeys([*RESOURCES.keys, *RESOURCES.not_yet], "it belongs under resources"),
    },
    example="{command: ...}",
)
ENTRY = Section(
    keys=_GPU_KEYS | _HOST_KEYS | {"env": read_env, "port": read_port},
    elsewhere={"resources": "write gpu, gpus and gpu_memory directly in the entry"}
    | dict.fromkeys(
        [key for key in (*SERVICE.keys, *SERVICE.not_yet) if key not in {"env", "port", "resources"}],
        "it belongs to the service, not to one worker",
    ),
    example="- {gpus: [0]}",
)
