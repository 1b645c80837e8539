"""
One service: what the file says of it, and the workers that come of that.

Frozen values only. What may stand in the file is checked where it is read, not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from posixpath import join, normpath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from supervisor.core.file.listen import Socket
from supervisor.core.file.names import expand_names
from supervisor.core.file.problems import Path
from supervisor.core.file.quantities import Amount
from supervisor.core.file.setup import NO_SETUP, Limit, Setup

OnNoGpu = Literal["wait", "cpu", "fail"]
Pin = Literal["auto", "index", "uuid"]
Guard = Literal["off", "warn", "restart"]
GpuCount = int | Literal["all"]
"""GPUs of one worker in thousandths of a device, or every eligible one, whole."""

WHOLE = 1000
_WORKER_ID = re.compile(r"([^/]+)/(0|[1-9][0-9]{0,9})", re.ASCII)


@dataclass(frozen=True, order=True, slots=True)
class WorkerId:
    """A service and an index counted from 0; ``llm/0`` to a person."""

    service: str
    index: int

    def __str__(self) -> str:
        return f"{self.service}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> WorkerId:
        """
        The id that ``str`` made this text of.

        Raises:
            ValueError: There is none.
        """
        match = _WORKER_ID.fullmatch(text)
        if match is None:
            raise ValueError(f"expected SERVICE/N, got {text!r}")
        return cls(match[1], int(match[2]))


class _Value(BaseModel):
    """A map of the file. Fields are made from the file's keys (aliases) or by their own names."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Resources(_Value):
    """
    What each worker of a service needs.

    Args:
        gpu: Thousandths of a device (1000 = one), or every eligible device.
        gpus: Which devices are eligible, as the file names them; None = all in the pool.
        gpu_memory: On each of its devices; None = not declared.
        gpu_memory_guard: What follows if it has more than it has declared; None = a warning where it shares a device.
        gpu_memory_guard_after: Seconds for which it may have more: a model that is loaded, or a graph that is captured,
            may take more for a moment.
        gpu_type: Kinds of device that will do: literals or globs on the name; () = any.
        cpu: Thousandths of a core; None = not declared.
        memory: Bytes of the host's; None = not declared.
    """

    gpu: GpuCount = 0
    gpus: tuple[str, ...] | None = None
    gpu_memory: Amount | None = None
    gpu_memory_guard: Guard | None = None
    gpu_memory_guard_after: float = 60.0
    gpu_type: tuple[str, ...] = ()
    cpu: int | None = None
    memory: int | None = None


class Ready(_Value):
    """
    When a worker is ready.

    Args:
        kind: ``tcp``: its port takes connections; ``http``: it answers with 200 to 399; ``exec``: a command ends with
            0; ``notify``: it says so; ``after``: it has lived for *after_s*.
        http: A path on its port, or a URL; ``$(NAME)`` not yet replaced.
        exec: A command, run as the worker is; ``$(NAME)`` not yet replaced.
        after_s: Seconds, shorter than the timeout where *kind* is ``after``.
        timeout_s: A start that takes longer has failed.
        interval_s: Between two probes.
    """

    kind: Literal["http", "tcp", "exec", "notify", "after"] = "after"
    http: str = ""
    exec: tuple[str, ...] = ()
    after_s: float = Field(1.0, alias="after")
    timeout_s: float = Field(600.0, alias="timeout")
    interval_s: float = Field(2.0, alias="interval")


class Alive(_Value):
    """
    How one sees that a worker that was ready lives on.

    Args:
        kind: As in Ready; ``off``: nobody asks.
        http, exec: As in Ready.
        interval_s: Between two probes; with ``notify`` a sign of life is due every *interval_s* x *failures*.
        timeout_s: Of one of them.
        failures: In a row, after which it is ended.
    """

    kind: Literal["off", "http", "tcp", "exec", "notify"] = "off"
    http: str = ""
    exec: tuple[str, ...] = ()
    interval_s: float = Field(10.0, alias="interval")
    timeout_s: float = Field(3.0, alias="timeout")
    failures: int = 3


class Stop(_Value):
    """
    How a worker is stopped; CONTRACT section 1, Stop.

    Args:
        signal: Its number.
        timeout_s: After which SIGKILL follows.
        group: Its whole process group gets the signal, not its main process alone.
        exec: A command that is run before the signal; ``$(NAME)`` not yet replaced. Empty for none.
    """

    signal: int = 15
    timeout_s: float = Field(30.0, alias="timeout")
    group: bool = False
    exec: tuple[str, ...] = ()


class Restart(_Value):
    """
    What follows the end of a worker's process; CONTRACT section 1, Restarts.

    Args:
        policy: When there is another one at all.
        delay_s: Before the first restart after a failure; it doubles with each further one.
        max_delay_s: At the most; >= delay_s.
        start_limit: Failures in a row without ever being ready; 0 = no limit.
        limit: Failed runs without a healthy one between them; 0 = no limit.
        parole_s: After which a failed worker gets one more try; if that fails too, every three times as long; 0 = none.
        permanent_exit: Exit codes after which another try is no use.
        on: A whole policy of its own for ends of some causes, by the cause's name.
    """

    policy: Literal["always", "on-failure", "never"] = "always"
    delay_s: float = Field(1.0, alias="delay")
    max_delay_s: float = Field(60.0, alias="max_delay")
    start_limit: int = 5
    limit: int = 10
    parole_s: float = Field(600.0, alias="parole")
    permanent_exit: tuple[int, ...] = (78,)
    on: tuple[tuple[str, Restart], ...] = ()

    def for_cause(self, cause: str) -> Restart:
        """What follows an end of this cause."""
        return next((policy for name, policy in self.on if name == cause), self)


class Update(_Value):
    """
    How the workers of a service are replaced by others.

    Args:
        max_unavailable: So many of them may be missing at once, whatever of; 0 only with *surge*.
        surge: So many more may run meanwhile, on devices that none of them is on.
    """

    max_unavailable: int = 1
    surge: int = 0


class Recycle(_Value):
    """
    When a worker that is well is replaced by another process of the same launch.

    Args:
        after_s: It has lived for so long; None = never for that.
        memory: Its tree has more than so many bytes of the host's memory.
        gpu_memory: It has more than so much of one of its devices.
    """

    after_s: float | None = Field(None, alias="after")
    memory: int | None = None
    gpu_memory: Amount | None = None


class Logs(_Value):
    """
    Where a worker's output goes.

    Args:
        kind: ``inherit``: the daemon's stderr, by lines with the worker's name; ``journal``; ``file``.
        file: As it was written, ``$(NAME)`` not yet replaced. Empty unless *kind* is ``file``, as the next three.
        base_dir: Absolute; where a relative *file* begins.
        max_size: Bytes at which a file is rotated; 0 = never.
        keep: Rotated files beside the one that is written.
    """

    kind: Literal["inherit", "journal", "file"] = "inherit"
    file: str = ""
    base_dir: str = "/"
    max_size: int = 100 * 1024 * 1024
    keep: int = 5

    def path(self, names: Mapping[str, str]) -> str:
        """The absolute path of the file of a worker with this environment."""
        return normpath(join(self.base_dir, expand_names(self.file, names)))


INHERIT = Logs()


class WorkerEntry(_Value):
    """One worker's own words in a ``workers`` list; None = as the service says."""

    gpu: GpuCount | None = None
    gpus: tuple[str, ...] | None = None
    gpu_memory: Amount | None = None
    cpu: int | None = None
    memory: int | None = None
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    port: int | None = None


class ServiceSpec(_Value):
    """
    One service of the file, ``defaults`` merged in.

    Args:
        command: Program and arguments. Like *env* and *working_dir* it keeps its ``$(NAME)``.
        workers: How many, or one entry for each; ``per_gpu`` and ``fit`` are one until the GPUs are known.
        working_dir: Absolute, but for one that begins with a ``$(NAME)``.
        port: Worker i gets this + i, unless its entry has one of its own.
        probe_by_port: The file names no probe: a worker with a port is probed there, any other as *ready* says.
        env_file: Absolute paths of files that set more variables.
        default_names: Those of *env* that only the file's defaults set.
        user, group, umask, limits, nice, oom_score_adj: See Setup.
        sharing: How workers on one GPU do: they take turns.
        placement: ``pack``: shares go where there are others; ``spread``: where there are fewest.
        pin: How a slice is named in `CUDA_VISIBLE_DEVICES`.
        numa: ``near``: on the CPUs beside its devices.
        after: Services whose workers must have been ready before one of this starts.
        listen: Sockets that the daemon binds and every worker finds open.
        update: How its workers are replaced.
        recycle: When they are replaced though they are well.
    """

    command: tuple[str, ...]
    workers: int | Literal["cpu_count", "per_gpu", "fit"] | tuple[WorkerEntry, ...] = 1
    resources: Resources = Resources()
    on_no_gpu: OnNoGpu = "wait"
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    working_dir: str = "/"
    port: int | None = None
    ready: Ready = Ready()
    alive: Alive = Alive()
    stop: Stop = Stop()
    restart: Restart = Restart()
    logs: Logs = INHERIT
    probe_by_port: bool = False
    env_file: tuple[str, ...] = ()
    default_names: frozenset[str] = frozenset()
    user: str | None = None
    group: str | None = None
    umask: int | None = None
    limits: tuple[tuple[str, Limit], ...] = ()
    nice: int | None = None
    oom_score_adj: int | None = None
    sharing: Literal["timeslice"] = "timeslice"
    placement: Literal["pack", "spread"] = "pack"
    pin: Pin = "auto"
    numa: Literal["any", "near"] = "any"
    after: tuple[str, ...] = ()
    listen: tuple[Socket, ...] = ()
    update: Update = Update()
    recycle: Recycle = Recycle()

    def entries(self, cpu_count: int) -> tuple[WorkerEntry, ...]:
        """One entry per worker; *cpu_count* is how many ``cpu_count`` means here."""
        if isinstance(self.workers, tuple):
            return self.workers
        count = self.workers if isinstance(self.workers, int) else cpu_count if self.workers == "cpu_count" else 1
        return (_NO_ENTRY,) * count

    @property
    def is_sized(self) -> bool:
        """Whether the GPUs say how many workers there are."""
        return self.workers in ("per_gpu", "fit")

    def scale(self, count: int) -> ServiceSpec:
        """The same service with so many workers; of those that are listed one by one the first."""
        workers = self.workers[:count] if isinstance(self.workers, tuple) else count
        return self.model_copy(update={"workers": workers})

    def variants(self) -> tuple[WorkerEntry, ...]:
        """The entries of the workers that differ; one where all are alike or there is none."""
        return (isinstance(self.workers, tuple) and self.workers) or (_NO_ENTRY,)

    def ports(self, cpu_count: int) -> Iterator[tuple[int, int, Path]]:
        """Index, port and the place (below the service) it is written at, of each worker that has a port."""
        for index, entry in enumerate(self.entries(cpu_count)):
            if entry.port is not None:
                yield index, entry.port, ("workers", index, "port")
            elif self.port is not None:
                yield index, self.port + index, ("port",)

    def expand(self, name: str, cpu_count: int) -> Iterator[WorkerSpec]:
        """The workers in index order."""
        ports = {index: port for index, port, _ in self.ports(cpu_count)}
        shared_env = tuple(sorted(self.env.items()))
        setup = self._setup()
        shared_request = self.request(_NO_ENTRY)
        for index, entry in enumerate(self.entries(cpu_count)):
            request = shared_request if entry is _NO_ENTRY else self.request(entry)
            port = ports.get(index)
            yield WorkerSpec(
                id=WorkerId(name, index),
                recipe=Recipe(
                    command=self.command,
                    env=tuple(sorted((self.env | entry.env).items())) if entry.env else shared_env,
                    working_dir=self.working_dir,
                    port=port,
                    gpu_memory=request.gpu_memory,
                    setup=setup,
                    pin=self.pin,
                    near=self.numa == "near" and request.gpu != 0,
                    cpu=self.resources.cpu if entry.cpu is None else entry.cpu,
                    memory=self.resources.memory if entry.memory is None else entry.memory,
                    listen=self.listen,
                ),
                request=request,
                policy=Policy(
                    self.on_no_gpu,
                    self._ready(port),
                    self.stop,
                    self.restart,
                    logs=self.logs,
                    alive=self.alive,
                    after=self.after,
                    recycle=self.recycle,
                    guard=self.guard(request),
                    guard_after_s=self.resources.gpu_memory_guard_after,
                ),
            )

    def request(self, entry: WorkerEntry) -> Request:
        """What the worker of this entry needs of GPUs; a worker without any asks for nothing else about them."""
        gpus = self.resources.gpus if entry.gpus is None else entry.gpus
        exact = entry.gpu is None and entry.gpus is not None
        gpu = self.resources.gpu if entry.gpu is None else entry.gpu
        if entry.gpus is not None and exact:
            gpu = 1000 * len(entry.gpus)
        if gpu == 0:
            return Request(gpu=0)
        memory = self.resources.gpu_memory if entry.gpu_memory is None else entry.gpu_memory
        spread = self.placement == "spread"
        types = self.resources.gpu_type
        return Request(gpu=gpu, gpus=gpus, exact=exact, gpu_memory=memory, gpu_type=types, spread=spread)

    def guard(self, request: Request) -> Guard:
        """Whether a worker is held to what it declares of GPU memory. Who has its devices for itself harms nobody."""
        if request.gpu_memory is None:
            return "off"
        is_sharing = request.gpu != "all" and request.gpu < WHOLE
        return self.resources.gpu_memory_guard or ("warn" if is_sharing else "off")

    @property
    def is_guarded(self) -> bool:
        """Whether any of its workers is held to what it declares."""
        return any(self.guard(self.request(entry)) != "off" for entry in self.variants())

    def _setup(self) -> Setup:
        setup = Setup(self.user, self.group, self.umask, self.limits, self.nice, self.oom_score_adj)
        return NO_SETUP if setup == NO_SETUP else setup

    def _ready(self, port: int | None) -> Ready:
        if not self.probe_by_port:
            return self.ready
        return _with_kind(self.ready, "after" if port is None else "tcp")


_NO_ENTRY = WorkerEntry()


@lru_cache(maxsize=256)
def _with_kind(ready: Ready, kind: Literal["tcp", "after"]) -> Ready:
    """Cached: thousands of workers of a service share one."""
    return ready.model_copy(update={"kind": kind})


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    What the file fixes for a worker's process. Another recipe means another process.

    Args:
        command: Program and arguments, ``$(NAME)`` not yet replaced.
        env: Sorted by name, values not yet replaced; without the supervisor's own variables.
        working_dir: Absolute once its ``$(NAME)`` are replaced.
        port: This worker's own.
        gpu_memory: Declared on each of its devices.
        setup: Whose it is, its limits, and so on.
        pin: How its slice is named in `CUDA_VISIBLE_DEVICES`.
        near: It runs on the CPUs beside its devices.
        cpu: Thousandths of a core; None = not declared.
        memory: Bytes of the host's; None = not declared.
        listen: Sockets that it finds open, from descriptor 3 on.
    """

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    working_dir: str = "/"
    port: int | None = None
    gpu_memory: Amount | None = None
    setup: Setup = NO_SETUP
    pin: Pin = "auto"
    near: bool = False
    cpu: int | None = None
    memory: int | None = None
    listen: tuple[Socket, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """
    What a worker needs of GPUs.

    Args:
        gpu: Thousandths of a device, or every eligible device.
        gpus: The eligible devices as the file names them; None = all in the pool.
        exact: Exactly *gpus*, whole.
        gpu_memory: On each of them.
        gpu_type: Kinds of device that will do, literals or globs on the name; () = any.
        spread: Onto the devices that have fewest others, instead of beside them.
    """

    gpu: GpuCount = 0
    gpus: tuple[str, ...] | None = None
    exact: bool = False
    gpu_memory: Amount | None = None
    gpu_type: tuple[str, ...] = ()
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """How a worker is treated. It may change under a living process."""

    on_no_gpu: OnNoGpu = "wait"
    ready: Ready = field(default_factory=Ready)
    stop: Stop = field(default_factory=Stop)
    restart: Restart = field(default_factory=Restart)
    logs: Logs = INHERIT
    alive: Alive = field(default_factory=Alive)
    after: tuple[str, ...] = ()
    recycle: Recycle = field(default_factory=Recycle)
    guard: Guard = "off"
    guard_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker as the file wants it."""

    id: WorkerId
    recipe: Recipe
    request: Request = Request()
    policy: Policy = Policy()
