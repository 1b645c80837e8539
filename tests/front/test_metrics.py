"""What a scrape holds, read back by prometheus_client's own parser."""

from __future__ import annotations

import io
from pathlib import Path

import aiohttp
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_fd_to_metric_families
from prometheus_client.parser import text_string_to_metric_families

from supervisor.front.counts import Counts, Series
from supervisor.front.metrics import STATES, render
from tests.front.fakes import FakeFace, Json, a_device, a_status, a_worker, serving

LABELS_OF_NOTHING_THAT_RETURNS = {"pid", "incarnation", "at"}


def scrape(status: Json, counts: Counts | None = None) -> dict[str, Metric]:
    text, _ = render(status, counts or Counts(), "")
    return {metric.name: metric for metric in text_string_to_metric_families(text.decode())}


def value(metrics: dict[str, Metric], name: str, sample: str = "", **labels: str) -> float:
    """Of the one sample with these labels."""
    (found,) = [
        one.value
        for one in metrics[f"gpu_supervisor_{name}"].samples
        if one.labels == labels and one.name == f"gpu_supervisor_{name}{sample}"
    ]
    return found


def test_every_state_of_every_service_has_a_number() -> None:
    """A series that comes and goes cannot be alerted on."""
    metrics = scrape(a_status(a_worker("llm/0"), a_worker("llm/1", "failed"), a_worker("web/0")))

    assert value(metrics, "workers", service="llm", state="ready") == 1
    assert value(metrics, "workers", service="llm", state="failed") == 1
    assert value(metrics, "workers", service="llm", state="backoff") == 0
    assert value(metrics, "service_target", service="llm") == 2
    assert len(metrics["gpu_supervisor_workers"].samples) == 2 * len(STATES)


def test_devices_show_memory_health_and_company() -> None:
    """What is not known is not there, rather than 0."""
    foreign = [{"pid": 1, "name": "x", "user": "y", "bytes": 5}, {"pid": 2, "name": "x", "user": "y", "bytes": None}]
    known = a_device(0, foreign=foreign, workers=["llm/0"])
    unknown = {**a_device(1, memory={"total": None, "free": None, "declared": 7}, health="lost"), "index": None}
    metrics = scrape(a_status(devices=(known, unknown)))

    first, second = {"uuid": "GPU-00000000", "gpu": "0"}, {"uuid": "GPU-00000001", "gpu": ""}
    assert value(metrics, "device_memory_free_bytes", **first) == known["memory"]["free"]
    assert value(metrics, "device_foreign_bytes", **first) == 5
    assert value(metrics, "device_workers", **first) == 1
    assert value(metrics, "device_health", health="lost", **second) == 1
    assert value(metrics, "device_memory_declared_bytes", **second) == 7
    assert len(metrics["gpu_supervisor_device_memory_free_bytes"].samples) == 1
    assert len(metrics["gpu_supervisor_device_foreign_bytes"].samples) == 1


def test_what_devices_and_workers_do_is_in_base_units() -> None:
    """Shares of 1, degrees, watts, seconds, bytes; what is not known is not there, rather than 0."""
    sensors = {"utilization": {"gpu": 40, "memory": 0}, "temperature": 55, "power": {"draw": 300.5, "limit": None}}
    mute = {"utilization": {"gpu": None, "memory": None}, "temperature": None, "power": {"draw": None, "limit": None}}
    usage = {"cpu": 1.5, "cpu_seconds": 20.25, "memory": 4096, "gpu_memory": 7}
    idle = {"cpu": None, "cpu_seconds": 0.0, "memory": None, "gpu_memory": None}
    workers = (a_worker("llm/0", usage=usage), a_worker("llm/1", "backoff", usage=idle))
    metrics = scrape(a_status(*workers, devices=(a_device(0, **sensors), a_device(1, **mute))))

    gpu, worker = {"uuid": "GPU-00000000", "gpu": "0"}, {"service": "llm", "worker": "llm/0"}
    assert value(metrics, "device_utilization_ratio", **gpu) == 0.4
    assert value(metrics, "device_memory_utilization_ratio", **gpu) == 0.0
    assert value(metrics, "device_temperature_celsius", **gpu) == 55
    assert value(metrics, "device_power_watts", **gpu) == 300.5
    assert value(metrics, "worker_cpu_seconds", "_total", **worker) == 20.25
    assert value(metrics, "worker_cpu_seconds", "_total", service="llm", worker="llm/1") == 0.0
    assert value(metrics, "worker_memory_bytes", **worker) == 4096
    assert value(metrics, "worker_gpu_memory_bytes", **worker) == 7
    few = ("device_temperature_celsius", "device_power_limit_watts", "worker_memory_bytes", "worker_gpu_memory_bytes")
    assert [len(metrics[f"gpu_supervisor_{name}"].samples) for name in few] == [1, 0, 1, 1]


def test_counters_and_histograms_are_what_was_counted() -> None:
    """Buckets are cumulative."""
    series = Series((1.0, 2.0), (3, 2, 1), 9.0)
    counts = Counts(exits={("llm", "cuda_oom"): 4}, missing_s={"llm": 1.5}, to_ready={"llm": series}, readings=series)
    metrics = scrape(a_status(a_worker("llm/0")), counts)

    assert value(metrics, "exits", "_total", service="llm", cause="cuda_oom") == 4
    assert value(metrics, "unavailable_seconds", "_total", service="llm") == 1.5
    buckets = [value(metrics, "time_to_ready_seconds", "_bucket", service="llm", le=le) for le in ("1", "2", "+Inf")]
    assert buckets == [3, 5, 6]
    assert value(metrics, "driver_reading_seconds", "_sum") == 9.0
    assert value(metrics, "driver_reading_seconds", "_count") == 6


def test_errors_of_a_device_have_the_index_that_it_has_now() -> None:
    """None of one that is not there any more."""
    counts = Counts(xids={("GPU-00000000", "31", "application"): 3, ("GPU-gone", "79", "hardware"): 1})
    metrics = scrape(a_status(devices=(a_device(0),)), counts)

    first = {"uuid": "GPU-00000000", "gpu": "0", "xid": "31", "class": "application"}
    gone = {"uuid": "GPU-gone", "gpu": "", "xid": "79", "class": "hardware"}
    assert value(metrics, "device_xids", "_total", **first) == 3
    assert value(metrics, "device_xids", "_total", **gone) == 1


def test_a_fresh_daemon_can_be_scraped() -> None:
    """Nothing was read and nothing counted yet."""
    gpu = {"state": None, "detail": "", "since": "2026-11-20T10:00:00Z"}
    metrics = scrape(a_status(gpu=gpu))

    assert value(metrics, "gpu_state", state="unknown") == 1
    assert value(metrics, "last_reload_ok") == 1


def test_labels_are_few() -> None:
    """No label has values that never come again."""
    metrics = scrape(a_status(a_worker("llm/0"), devices=(a_device(0, foreign=[]),)), Counts(starts={"llm": 1}))

    labels = {label for metric in metrics.values() for sample in metric.samples for label in sample.labels}
    assert labels and not labels & LABELS_OF_NOTHING_THAT_RETURNS


def test_every_metric_says_what_it_is() -> None:
    """With a text of its own, and the unit in its name where there is one."""
    metrics = scrape(a_status(a_worker("llm/0"), devices=(a_device(0),)))

    words = [metric.documentation for metric in metrics.values()]
    assert all(words) and len(set(words)) == len(words)
    assert all(name.startswith("gpu_supervisor_") for name in metrics)


async def test_a_scraper_gets_the_format_it_reads(tmp_path: Path) -> None:
    """OpenMetrics for who asks for it, the old text format for everybody else."""
    path = tmp_path / "control.sock"
    face = FakeFace(a_status(a_worker("llm/0")))
    async with serving(face, path), aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        async with session.get("http://localhost/v1/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=")
            old = list(text_string_to_metric_families(await response.text()))
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get("http://localhost/v1/metrics", headers=accept) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            new = list(text_fd_to_metric_families(io.StringIO(await response.text())))  # type: ignore[no-untyped-call]

    assert {one.name for one in old} == {one.name for one in new}
