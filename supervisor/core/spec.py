"""
The service file's meaning: a document goes in, and a Spec or every problem of it comes out.

Pure: the document was read elsewhere, and lines and columns are known there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from supervisor.core.file.after import order_problems
from supervisor.core.file.daemon import DaemonSpec, read_daemon
from supervisor.core.file.gpu_keys import GPU_KEYS_OF_A_WISH, read_gpus
from supervisor.core.file.health import HealthSpec, read_health
from supervisor.core.file.keys import PORT_MAX, SERVICE, WORKERS_MAX, read_service
from supervisor.core.file.listen import listen_problems
from supervisor.core.file.names import (
    ACCOUNT_NAMES,
    LISTEN_NAMES,
    MAIN_PID,
    NOTIFY_NAMES,
    TABLE_NAMES,
    THREAD_NAMES,
    VENDOR_NAMES,
    expand_names,
    is_inherited,
    names_in,
)
from supervisor.core.file.probe_keys import ALIVE_KINDS, READY_KINDS
from supervisor.core.file.problems import (
    Path,
    Place,
    Problem,
    Section,
    SpecError,
    map_or_empty,
    read_section,
    shown,
)
from supervisor.core.file.quantities import Amount, Percent, amount_bytes
from supervisor.core.file.service import (
    INHERIT,
    Alive,
    Logs,
    Policy,
    Ready,
    Recipe,
    Request,
    Resources,
    Restart,
    ServiceSpec,
    Stop,
    WorkerEntry,
    WorkerId,
    WorkerSpec,
)

__all__ = [
    "INHERIT",
    "TABLE_NAMES",
    "WORKERS_MAX",
    "Alive",
    "Amount",
    "DaemonSpec",
    "HealthSpec",
    "Logs",
    "Percent",
    "Policy",
    "Problem",
    "Ready",
    "Recipe",
    "Request",
    "Resources",
    "Restart",
    "ServiceSpec",
    "Spec",
    "SpecError",
    "Stop",
    "WorkerEntry",
    "WorkerId",
    "WorkerSpec",
    "amount_bytes",
    "expand_names",
    "home_of",
    "parse_spec",
    "scale_problems",
    "unknown_names",
]

_BEFORE_THE_ACCOUNT = frozenset({("logs", "file"), ("ready", "http"), ("alive", "http")})
"""Texts in which names are replaced before anybody has asked for that user's home."""

_SERVICE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


class Spec(BaseModel):
    """
    A good service file.

    Args:
        services: By name, in the file's order.
        gpus: The only devices to use, as the file names them; None = all.
        health: What becomes of sick devices, and of who works there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: dict[str, ServiceSpec] = Field(default_factory=dict)
    gpus: tuple[str, ...] | None = None
    daemon: DaemonSpec = DaemonSpec()
    health: HealthSpec = HealthSpec()

    def expand(self, cpu_count: int) -> tuple[WorkerSpec, ...]:
        """
        Every worker that the file wants.

        Args:
            cpu_count: What ``workers: cpu_count`` means here; >= 1.

        Returns:
            In the file's order of services, then by index.

        Raises:
            SpecError: With that many workers two of them have one port, or there is no such port.
        """
        if problems := tuple(_port_problems(self.services, cpu_count)):
            raise SpecError(problems)
        return tuple(worker for name, service in self.services.items() for worker in service.expand(name, cpu_count))

    def has_port_problems(self, cpu_count: int) -> bool:
        """Whether with that many workers two of them have one port, or there is no such port."""
        return next(_port_problems(self.services, cpu_count), None) is not None

    def scale(self, counts: Mapping[str, int]) -> Spec:
        """The same file with other counts; those that `scale_problems` has nothing to say against."""
        if not counts:
            return self
        services = {
            name: service.scale(counts[name]) if name in counts else service for name, service in self.services.items()
        }
        return self.model_copy(update={"services": services})

    def without_effectless(self, counts: Mapping[str, int], cpu_count: int) -> dict[str, int]:
        """Those of the counts that are not what the file says anyway."""
        return {
            name: count
            for name, count in counts.items()
            if self.services[name].is_sized or len(self.services[name].entries(cpu_count)) != count
        }


def parse_spec(document: object, *, base_dir: str) -> Spec:
    """
    What a document means.

    Args:
        document: Maps, lists and scalars as they stand in the file.
        base_dir: Absolute; where the relative paths of the file begin.

    Returns:
        The Spec, ``defaults`` merged into every service.

    Raises:
        SpecError: With every problem there is. What comes from ``defaults`` is placed there, and said once.
    """
    top = Place(document, ())
    good = read_section(top, FILE)
    if (document is None or isinstance(document, Mapping)) and "services" not in map_or_empty(document):
        top.refuse("a file needs services", "write services: {NAME: {command: ...}}", below=("services",))
    services = dict(_read_services(top, base_dir))
    daemon = read_daemon(top.child("daemon", map_or_empty(document).get("daemon")), base_dir)
    after = order_problems(services, _names(top.value))
    for problem in (
        *_count_problems(services),
        *_port_problems(services, cpu_count=1),
        *listen_problems(services, daemon.http),
        *after,
    ):
        top.problems.append(problem)
    if top.problems:
        raise SpecError(tuple(dict.fromkeys(_at_home(problem, document) for problem in top.problems)))
    return Spec.model_validate(good | {"services": services, "daemon": daemon})


def scale_problems(spec: Spec, counts: Mapping[str, int], cpu_count: int) -> tuple[str, ...]:
    """
    What speaks against counts other than the file's.

    Args:
        spec: The file.
        counts: Workers by service.
        cpu_count: What ``workers: cpu_count`` means here.

    Returns:
        A line for each problem.
    """
    problems = []
    for name, count in counts.items():
        service = spec.services.get(name)
        if service is None:
            problems.append(f"there is no service {shown(name)}")
        elif not 0 <= count <= WORKERS_MAX:
            problems.append(f"{name}: expected 0 to {WORKERS_MAX} workers, got {count}")
        elif isinstance(service.workers, tuple) and count > len(service.workers):
            listed = len(service.workers)
            problems.append(f"{name}: its file lists {listed} workers one by one, so {listed} is the most, got {count}")
    if problems:
        return tuple(problems)
    services = spec.scale(counts).services
    total = sum(len(service.entries(cpu_count)) for service in services.values())
    if total > WORKERS_MAX:
        return (f"expected {WORKERS_MAX} workers at the most, got {total}",)
    return tuple(problem.message for problem in _port_problems(services, cpu_count))


def unknown_names(spec: Spec, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """
    Each ``$(NAME)`` that no worker's environment will have.

    Args:
        spec: The file.
        environ: The daemon's own environment.

    Returns:
        In the file's order, each name once per place.
    """
    inherited = {name for name in environ if is_inherited(name)}
    problems: dict[Problem, None] = {}
    for name, service in spec.services.items():
        for index, entry in enumerate(service.variants()):
            known = inherited | _provided(service, entry) | service.env.keys() | entry.env.keys()
            late = ACCOUNT_NAMES - service.env.keys() - entry.env.keys() if service.user else frozenset[str]()
            for below, text in _texts(service, entry, index):
                there = known - late if below in _BEFORE_THE_ACCOUNT else known | late
                there |= {MAIN_PID} if below == ("stop", "exec") else set()
                for missing in names_in(text):
                    if missing not in there:
                        problems[_unknown_name(("services", name, *below), missing)] = None
    return tuple(problems)


def home_of(path: Path, document: object) -> Path:
    """Where a value of a service stands in the file: at the service, or at the defaults it comes from."""
    home = ("defaults", *path[2:])
    is_inherited_value = len(path) > 2 and path[0] == "services" and not _holds(document, path)
    return home if is_inherited_value and _holds(document, home) else path


# ---- services and their defaults -------------------------------------------------------------------------------------


def _read_services(top: Place, base_dir: str) -> Iterator[tuple[str, ServiceSpec]]:
    """Every service with what can be read of it."""
    file = map_or_empty(top.value)
    services = top.child("services", file.get("services"))
    defaults = file.get("defaults")
    if "services" in file and services.value is None:
        # A file that was cut short must not stop everything at the next reload.
        top.refuse("there is nothing here", "write services: {} to have none", below=("services",))
    for name, value in services.as_map().items():
        if name.startswith("x-"):
            continue
        place = Place(_with_defaults(value, defaults), (*services.path, name))
        if _SERVICE_NAME.fullmatch(name) is None:
            message = f"expected a name of up to 63 of a-z, 0-9, '-' and '_', got {shown(name)}"
            hint = f"did you mean {name.lower()}?" if _SERVICE_NAME.fullmatch(name.lower()) else ""
            place.refuse(message, hint, at_key=True)
        if isinstance(place.value, Mapping) or place.value is None:
            service = read_service(place, base_dir)
            # A file of variables stands between the two.
            names = map_or_empty(map_or_empty(defaults).get("env")).keys() - map_or_empty(
                map_or_empty(value).get("env")
            )
            yield name, service.model_copy(update={"default_names": frozenset(names)})
        else:
            place.as_map(SERVICE.example)
        top.problems.extend(place.problems)


def _names(document: object) -> frozenset[str]:
    """Services that the file has, good or bad."""
    services = map_or_empty(map_or_empty(document).get("services"))
    return frozenset(name for name in services if isinstance(name, str) and not name.startswith("x-"))


def _with_defaults(own: object, defaults: object) -> object:
    """A service with the defaults merged under it."""
    if not isinstance(defaults, Mapping) or not (own is None or isinstance(own, Mapping)):
        return own
    resources = map_or_empty(map_or_empty(own).get("resources"))
    # A service's own probe replaces that of the defaults, and its gpu: 0 sends away what they say of GPUs: merged key
    # by key, both would be contradictions that the service cannot get out of.
    for key, kinds in (("ready", READY_KINDS), ("alive", ALIVE_KINDS)):
        if map_or_empty(map_or_empty(own).get(key)).keys() & {*kinds}:
            defaults = _without(defaults, key, {*kinds})
    if resources.get("gpu", 1) == 0:
        defaults = _without(defaults, "resources", {*GPU_KEYS_OF_A_WISH})
    return _merge(defaults, own)


def _without(defaults: Mapping[str, object], section: str, keys: set[str]) -> Mapping[str, object]:
    if not isinstance(inner := defaults.get(section), Mapping):
        return defaults
    return {**defaults, section: {key: value for key, value in inner.items() if key not in keys}}


def _merge(lower: object, upper: object) -> object:
    """Maps key by key, all the way down; anything else of *upper* replaces *lower*."""
    if not isinstance(lower, Mapping):
        return upper
    if upper is None:
        return lower
    if not isinstance(upper, Mapping):
        return upper
    merged = {key: _merge(value, upper[key]) if key in upper else value for key, value in lower.items()}
    return merged | {key: value for key, value in upper.items() if key not in lower}


def _at_home(problem: Problem, document: object) -> Problem:
    return replace(problem, path=home_of(problem.path, document))


def _holds(document: object, path: Path) -> bool:
    """Whether the document has this value."""
    for part in path:
        is_index = isinstance(document, list | tuple) and isinstance(part, int) and part < len(document)
        if not is_index and not (isinstance(document, Mapping) and part in document):
            return False
        document = document[part]  # type: ignore[index]
    return True


# ---- what services have to share -------------------------------------------------------------------------------------


def _count_problems(services: Mapping[str, ServiceSpec]) -> Iterator[Problem]:
    total = sum(len(service.entries(1)) for service in services.values())
    if total > WORKERS_MAX:
        yield Problem(("services",), f"expected {WORKERS_MAX} workers at the most, got {total}")


def _port_problems(services: Mapping[str, ServiceSpec], cpu_count: int) -> Iterator[Problem]:
    """Ports beyond the last one, and ports that two workers would have; the first of them for each place."""
    owners: dict[int, WorkerId] = {}
    said: set[Path] = set()
    for name, service in services.items():
        for index, port, below in service.ports(cpu_count):
            path, worker = ("services", name, *below), WorkerId(name, index)
            owner = owners.setdefault(port, worker)
            if path in said or (port <= PORT_MAX and owner == worker):
                continue
            said.add(path)
            if port > PORT_MAX:
                yield Problem(path, f"worker {worker} would get port {port}, beyond {PORT_MAX}")
            else:
                yield Problem(path, f"worker {worker} would get port {port}, which is {owner}'s")


# ---- names -----------------------------------------------------------------------------------------------------------


def _provided(service: ServiceSpec, entry: WorkerEntry) -> frozenset[str]:
    """The names of the table that this worker finds; a vendor's variable may as well be taken away."""
    absent = set(VENDOR_NAMES)
    if service.port is None and entry.port is None:
        absent.add("PORT")
    if service.request(entry).gpu_memory is None:
        absent.add("WORKER_GPU_MEMORY_MIB")
    if service.resources.cpu is None and entry.cpu is None:
        absent.update(THREAD_NAMES)
    if "notify" not in {service.ready.kind, service.alive.kind}:
        absent.update(NOTIFY_NAMES)
    elif service.alive.kind != "notify":
        absent.add("WATCHDOG_USEC")
    # The number of a process is known to itself alone, when its arguments are there already.
    absent |= {"LISTEN_PID"} if service.listen else LISTEN_NAMES
    return TABLE_NAMES - absent


def _texts(service: ServiceSpec, entry: WorkerEntry, index: int) -> Iterator[tuple[Path, str]]:
    """Every text in which names are replaced, and where it stands below the service."""
    for word in service.command:
        yield ("command",), word
    yield ("working_dir",), service.working_dir
    yield ("logs", "file"), service.logs.file
    for key, probe in (("ready", service.ready), ("alive", service.alive)):
        yield (key, "http"), probe.http
        for word in probe.exec:
            yield (key, "exec"), word
    for word in service.stop.exec:
        yield ("stop", "exec"), word
    for name, text in service.env.items():
        if name not in entry.env:
            yield ("env", name), text
    for name, text in entry.env.items():
        yield ("workers", index, "env", name), text


def _unknown_name(path: Path, name: str) -> Problem:
    if name == "LISTEN_PID":
        return Problem(path, "$(LISTEN_PID) has no value before the process is there", "read it from the environment")
    return Problem(path, f"$({name}) has no value", f"write $$({name}) for the shell, or set {name} under env")


# ---- file-wide keys --------------------------------------------------------------------------------------------------


def _read_defaults(place: Place) -> None:
    """Noted here are also problems of defaults that no service takes over; what is read is thrown away."""
    read_section(place, SERVICE)


FILE = Section(
    keys={
        "services": lambda _: None,  # Read apart, since they need the defaults.
        "defaults": _read_defaults,
        "gpus": read_gpus,
        "daemon": lambda _: None,  # Read apart, since its paths begin where the file is.
        "health": read_health,
    },
    elsewhere=dict.fromkeys(SERVICE.keys, "it belongs to a service, or under defaults"),
    example="services: {NAME: {command: ...}}",
)
