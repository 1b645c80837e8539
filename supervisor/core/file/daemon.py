"""
The section `daemon`: what the file says of the daemon itself.

Pure: the keys are read here, and obeyed elsewhere.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from supervisor.core.file.endpoints import EndpointsSpec, read_endpoints, settle_endpoints
from supervisor.core.file.hooks import Hook, read_hooks
from supervisor.core.file.listen import Address
from supervisor.core.file.problems import (
    BadValueError,
    Place,
    Section,
    as_text,
    choice,
    leaf,
    parse_bool,
    read_section,
    shown,
    whole_number,
)
from supervisor.core.file.quantities import Amount, parse_amount, parse_duration_s
from supervisor.core.file.web import parse_http, settle_http

START_PARALLEL_MAX = 100_000
POLL_MIN_S = 1.0


class DaemonSpec(BaseModel):
    """
    What the file says of the daemon itself.

    Args:
        headroom: Memory of each device that is never declared; None = the larger of 512MiB and 2 %.
        start_parallel: Workers with a GPU that start at once; 0 = no limit.
        gpu_wait: Seconds that a driver which is not loaded yet is waited for.
        log_format: None = console on a terminal, else json.
        poll: Seconds between two looks at what workers use, for `recycle` and `gpu_memory_guard` only.
        exit_when_failed: The daemon ends with 1 when nobody is left who runs or is going to, and somebody failed.
        on_event: Who is told what happens.
        endpoints: Files in which ready workers stand; None = nowhere.
        http: Where the API listens over TCP; None = on its unix socket alone.
        http_token_file: Absolute path of the secret that opens over TCP what not everybody may see or do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    headroom: Amount | None = None
    start_parallel: int = 2
    gpu_wait: float = 30.0
    log_format: Literal["console", "json"] | None = None
    exit_when_failed: bool = False
    poll: float = 5.0
    on_event: tuple[Hook, ...] = ()
    endpoints: EndpointsSpec | None = None
    http: Address | None = None
    http_token_file: str | None = None


def read_daemon(place: Place, base_dir: str) -> DaemonSpec:
    """
    What the file says of the daemon, with what can be read of it.

    Args:
        place: Of `daemon`; problems are noted there.
        base_dir: Absolute; where its relative paths begin.
    """
    good = settle_http(place, read_section(place, DAEMON), base_dir)
    if isinstance(endpoints := good.get("endpoints"), EndpointsSpec):
        good["endpoints"] = settle_endpoints(place.child("endpoints", None), endpoints, base_dir)
    return DaemonSpec.model_validate(good)


def _parse_poll(value: object) -> float:
    seconds = parse_duration_s(value)
    if seconds < POLL_MIN_S:
        raise BadValueError(f"expected at least 1s, got {shown(value)}")
    return seconds


def _parse_file(value: object) -> str:
    text = as_text(value)
    if not text:
        raise BadValueError("expected the path of a file", "write http_token_file: /etc/gpu-supervisor/token")
    return text


DAEMON = Section(
    keys={
        "headroom": leaf(parse_amount),
        "start_parallel": leaf(whole_number(0, START_PARALLEL_MAX)),
        "gpu_wait": leaf(parse_duration_s),
        "log_format": leaf(choice("console", "json")),
        "exit_when_failed": leaf(parse_bool),
        "poll": leaf(_parse_poll),
        "on_event": read_hooks,
        "endpoints": read_endpoints,
        "http": leaf(parse_http),
        "http_token_file": leaf(_parse_file),
    },
    not_yet=frozenset({"socket_group"}),
    example="daemon: {gpu_wait: 30s}",
)
