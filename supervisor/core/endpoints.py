"""Who takes requests at this moment and where, as the files that load balancers and Prometheus read. Pure texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.core.file.endpoints import Form
from supervisor.core.file.listen import Address, Socket
from supervisor.core.message import State
from supervisor.core.spec import ServiceSpec, WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.worker import Worker

Json = dict[str, Any]

NOBODY = "127.0.0.1:1"
"""nginx takes no upstream without a server; this one is marked as down and never asked."""

_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - Compared with, not bound.


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    One worker that takes requests.

    Args:
        port: Its own, None without one.
        listen: Sockets that it shares with its service.
        gpus: UUID and index of each of its devices; the index is None for one that is gone.
    """

    worker: WorkerId
    port: int | None
    listen: tuple[Socket, ...]
    gpus: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """
    All of them.

    Args:
        ready: By service in the order of the file, then by index.
        services: Those that somebody may ask, ready or not, each with the names of its sockets; True where its workers
            have ports.
    """

    ready: tuple[Endpoint, ...] = ()
    services: tuple[tuple[str, bool, tuple[str, ...]], ...] = ()


def find_endpoints(fleet: Fleet) -> Endpoints:
    """Who is ready in this fleet."""
    named = fleet.spec.services if fleet.spec else {}
    order = {name: at for at, name in enumerate(named)}
    ready = sorted(
        (one for one in fleet.workers.values() if is_open(one)),
        key=lambda one: (order.get(one.id.service, len(order)), one.id),
    )
    known = fleet.inventory.by_uuid if fleet.inventory else {}
    endpoints = []
    for worker in ready:
        assert worker.held is not None
        recipe, launch = worker.held.wanted.recipe, worker.held.launch
        shares = launch.slice if launch is not None else ()
        gpus = tuple((one.uuid, known[one.uuid].index if one.uuid in known else None) for one in shares)
        endpoints.append(Endpoint(worker.id, recipe.port, recipe.listen, gpus))
    services = tuple((name, _has_ports(spec), tuple(one.name for one in spec.listen)) for name, spec in named.items())
    return Endpoints(tuple(endpoints), services)


def _has_ports(service: ServiceSpec) -> bool:
    entries = service.workers if isinstance(service.workers, tuple) else ()
    return service.port is not None or any(entry.port is not None for entry in entries)


def is_open(worker: Worker | None) -> bool:
    """Whether it takes requests. One that is about to be stopped does not: its state says so before its signal."""
    return worker is not None and worker.state is State.READY and worker.held is not None


def render(form: Form, endpoints: Endpoints, host: str) -> str:
    """
    One file.

    Args:
        form: Which.
        endpoints: Who is in it.
        host: Where workers with a port are reached, and sockets that listen everywhere.
    """
    return _FORMS[form](endpoints, host)


def _render_json(endpoints: Endpoints, host: str) -> str:
    rows = [
        {
            "service": one.worker.service,
            "worker": str(one.worker),
            "host": host if one.port is not None else None,
            "port": one.port,
            "listen": [{"name": socket.name, "address": str(socket.address)} for socket in one.listen],
            "gpus": [{"uuid": uuid, "index": index} for uuid, index in one.gpus],
        }
        for one in endpoints.ready
    ]
    return json.dumps({"endpoints": rows}, indent=2) + "\n"


def _render_prometheus(endpoints: Endpoints, host: str) -> str:
    """A group for each worker with a port; sockets are those of a whole service, whoever answers."""
    groups: list[Json] = [
        {
            "targets": [_pair(host, one.port)],
            "labels": {
                "service": one.worker.service,
                "worker": str(one.worker),
                "gpu": ",".join(str(index) for _, index in one.gpus if index is not None),
            },
        }
        for one in endpoints.ready
        if one.port is not None
    ]
    groups += [
        {"targets": [_pair(_reached(address, host), address.port)], "labels": {"service": service, "listen": name}}
        for (service, name), address in _shared(endpoints).items()
        if address.kind == "tcp"
    ]
    return json.dumps(groups, indent=2) + "\n"


def _render_nginx(endpoints: Endpoints, host: str) -> str:
    """An upstream for each service with ports, and one for each of its sockets; those without a server are down."""
    shared = _shared(endpoints)
    upstreams: dict[str, list[str]] = {}
    for service, has_ports, names in endpoints.services:
        if has_ports:
            upstreams[service] = []
        upstreams |= {f"{service}.{name}": [] for name in names}
    for one in endpoints.ready:
        if one.port is not None:
            upstreams.setdefault(one.worker.service, []).append(f"{_pair(host, one.port)};  # {one.worker}")
    for (service, name), address in shared.items():
        at = f"unix:{address.host}" if address.kind == "unix" else _pair(_reached(address, host), address.port)
        upstreams.setdefault(f"{service}.{name}", []).append(f"{at};")
    blocks = []
    for name, servers in upstreams.items():
        lines = servers or [f"{NOBODY} down;  # nobody is ready"]
        blocks.append(f"upstream {name} {{\n" + "".join(f"    server {line}\n" for line in lines) + "}\n")
    return "# Written by gpu-supervisor; changed whenever a worker gets ready or does not stay so.\n" + "".join(blocks)


def _shared(endpoints: Endpoints) -> dict[tuple[str, str], Address]:
    """The sockets of services of which somebody is ready."""
    return {(one.worker.service, socket.name): socket.address for one in endpoints.ready for socket in one.listen}


def _reached(address: Address, host: str) -> str:
    return host if address.host in _WILDCARDS else address.host


def _pair(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_FORMS: Mapping[Form, Callable[[Endpoints, str], str]] = {
    "json": _render_json,
    "prometheus": _render_prometheus,
    "nginx": _render_nginx,
}
