"""
Metrics in the text formats of Prometheus: what the status says at this moment, and what was counted until now.

Imported by the first scrape, since prometheus_client takes its time. Labels are services, workers, causes, states and
devices; no label is a pid, an incarnation or anything else that never comes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from supervisor.front.counts import Counts, Series
from supervisor.front.verdict import Json

Value = TypeVar("Value")

PREFIX = "gpu_supervisor_"

STATES = (
    *("pending", "starting", "ready", "unready", "stopping", "killing"),
    *("releasing", "backoff", "exited", "failed", "stopped"),
)


def render(status: Json, counts: Counts, accept: str) -> tuple[bytes, str]:
    """
    One scrape.

    Args:
        status: The status JSON.
        counts: Until now.
        accept: What the scraper reads, as in HTTP's header.

    Returns:
        The text, and its content type.
    """
    registry = CollectorRegistry(auto_describe=False)
    found = (*_daemon(status), *_services(status), *_workers(status), *_devices(status), *_sensors(status))
    registry.register(_Collector([*found, *_counted(counts), _xids(status, counts)]))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector(Collector):
    """Metrics that are there already, as a registry takes them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


Rows = Iterable[tuple[Sequence[str], float]]


def _gauge(name: str, words: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, words, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _counter(name: str, words: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = CounterMetricFamily(PREFIX + name, words, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _histogram(name: str, words: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Series]]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, words, labels=labels)
    for values, series in rows:
        bounds = [*(f"{bound:g}" for bound in series.bounds), "+Inf"]
        family.add_metric(values, list(zip(bounds, accumulate(series.counts), strict=True)), series.total_s)
    return family


# ---- this moment ----------------------------------------------------------------------------------------------------


def _daemon(status: Json) -> Iterator[Metric]:
    daemon = status["daemon"]
    info = (("version", "instance"), [((daemon["version"], daemon["instance"]), 1.0)])
    yield _gauge("info", "Always 1; the labels say which daemon this is.", *info)
    yield _gauge("generation", "Files taken since the start.", (), [((), daemon["generation"])])
    last = daemon["reload"]
    yield _gauge("last_reload_ok", "Whether the last reload was taken.", (), [((), float(last is None or last["ok"]))])
    state = daemon["gpu"]["state"]
    yield _gauge("gpu_state", "1 for the state of the driver.", ("state",), [((state or "unknown",), 1.0)])


def _services(status: Json) -> Iterator[Metric]:
    services = status["services"]
    yield _gauge(
        "service_target", "Workers wanted.", ("service",), [((one["name"],), one["target"]) for one in services]
    )
    yield _gauge(
        "workers",
        "Workers by state; every state of every service is there.",
        ("service", "state"),
        [
            ((one["name"], state), sum(worker["state"] == state for worker in one["workers"]))
            for one in services
            for state in STATES
        ],
    )
    yield _gauge(
        "fallback_workers",
        "Workers that run on the CPU though the file asks for a GPU.",
        ("service",),
        [((one["name"],), sum(worker["fallback"] is not None for worker in one["workers"])) for one in services],
    )
    yield _gauge(
        "gpu_memory_exceeded_workers",
        "Workers that have had more of a GPU than their gpu_memory for gpu_memory_guard_after.",
        ("service",),
        [((one["name"],), sum(_is_exceeded(worker) for worker in one["workers"])) for one in services],
    )


def _is_exceeded(worker: Json) -> bool:
    limits = worker.get("gpu_limits")
    return limits is not None and limits["exceeded"]


def _workers(status: Json) -> Iterator[Metric]:
    """What is not known has no sample; the names are few, since an index that returns has the one it had."""
    workers = [
        ((service["name"], worker["worker"]), worker.get("usage", {}))
        for service in status["services"]
        for worker in service["workers"]
    ]

    def known(key: str) -> Rows:
        return [(labels, usage[key]) for labels, usage in workers if usage.get(key) is not None]

    labels = ("service", "worker")
    yield _counter("worker_cpu_seconds", "CPU that a worker's processes used.", labels, known("cpu_seconds"))
    words = "Memory of the host that a worker's processes have in RAM, summed over them."
    yield _gauge("worker_memory_bytes", words, labels, known("memory"))
    words = "Memory of GPUs that a worker's processes have, as the driver tells it."
    yield _gauge("worker_gpu_memory_bytes", words, labels, known("gpu_memory"))


def _sensors(status: Json) -> Iterator[Metric]:
    """In base units: shares of 1, degrees Celsius, watts."""
    for name, words, key, part, scale in (
        ("utilization_ratio", "Share of the last moments in which something ran there.", "utilization", "gpu", 100),
        (
            "memory_utilization_ratio",
            "Share of the last moments in which memory was read or written.",
            "utilization",
            "memory",
            100,
        ),
        ("temperature_celsius", "Temperature of a device.", "temperature", None, 1),
        ("power_watts", "Power that a device draws.", "power", "draw", 1),
        ("power_limit_watts", "Power that a device is allowed.", "power", "limit", 1),
    ):
        found = ((one, one.get(key)) for one in status["devices"])
        values = ((one, value[part] if part and value else value) for one, value in found)
        rows = [((one["uuid"], _index(one)), value / scale) for one, value in values if value is not None]
        yield _gauge(f"device_{name}", words, ("uuid", "gpu"), rows)


def _devices(status: Json) -> Iterator[Metric]:
    devices = status["devices"]

    def of(one: Json) -> tuple[str, str]:
        return one["uuid"], _index(one)

    labels = ("uuid", "gpu")
    for key, words in (
        ("total", "Memory of a device."),
        ("free", "Memory that the driver showed as free when it was read last."),
        ("declared", "Memory that the workers on a device have declared."),
    ):
        rows = [(of(one), one["memory"][key]) for one in devices if one["memory"][key] is not None]
        yield _gauge(f"device_memory_{key}_bytes", words, labels, rows)
    yield _gauge(
        "device_health",
        "1 for the health of a device.",
        (*labels, "health"),
        [((*of(one), one["health"]), 1.0) for one in devices],
    )
    yield _gauge(
        "device_throttled",
        "1 for each thing that slowed the clocks of a device down when it was looked at last.",
        (*labels, "reason"),
        [((*of(one), reason), 1.0) for one in devices for reason in one.get("throttle") or ()],
    )
    yield _gauge("device_workers", "Workers on a device.", labels, [(of(one), len(one["workers"])) for one in devices])
    yield _gauge(
        "device_foreign_bytes",
        "Memory of a device that processes have who belong to no worker.",
        labels,
        [
            (of(one), sum(holder["bytes"] or 0 for holder in one["foreign"]))
            for one in devices
            if one["foreign"] is not None
        ],
    )


def _index(device: Json) -> str:
    return "" if device["index"] is None else str(device["index"])


# ---- until now ------------------------------------------------------------------------------------------------------


def _counted(counts: Counts) -> Iterator[Metric]:
    by_service, by_cause = ("service",), ("service", "cause")
    yield _counter("starts", "Processes started.", by_service, _single(counts.starts))
    yield _counter("restarts", "Starts after an end, by its cause.", by_cause, list(counts.restarts.items()))
    yield _counter("exits", "Ends of processes, by cause.", by_cause, list(counts.exits.items()))
    yield _counter("reloads", "Reloads, by whether the file was taken.", ("result",), _single(counts.reloads))
    yield _counter(
        "unavailable_seconds",
        "Seconds in which workers were wanted and not ready, those of a service summed.",
        by_service,
        _single(counts.missing_s),
    )
    yield _counter("log_lines_dropped", "Lines that found no way out.", ("outlet",), _single(counts.dropped))
    yield _counter("hook_events", "Events for hooks, by what became of them.", ("result",), _single(counts.hooked))
    yield _histogram("time_to_ready_seconds", "Start to ready.", by_service, _single(counts.to_ready))
    yield _histogram("release_seconds", "Dead to memory back.", by_service, _single(counts.to_release))
    yield _histogram("backoff_seconds", "Wait before a restart after a failure.", by_service, _single(counts.backoffs))
    yield _histogram("probe_seconds", "One question to a worker.", ("kind",), _single(counts.probes))
    yield _histogram("driver_reading_seconds", "One reading of all devices.", (), [((), counts.readings)])
    yield _histogram("loop_delay_seconds", "From an event to the turn for it.", (), [((), counts.delays)])


def _xids(status: Json, counts: Counts) -> Metric:
    """Under the index that the device has now, as its other numbers."""
    indices = {one["uuid"]: _index(one) for one in status["devices"]}
    rows = [((uuid, indices.get(uuid, ""), *what), count) for (uuid, *what), count in counts.xids.items()]
    words = "Errors (XIDs) that the driver told of a device, by number and class."
    return _counter("device_xids", words, ("uuid", "gpu", "xid", "class"), rows)


def _single(values: Mapping[str, Value]) -> list[tuple[tuple[str], Value]]:
    return [((name,), value) for name, value in values.items()]
