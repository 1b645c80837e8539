"""A scrape of a running daemon, and the rules and the dashboard that are made for it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator

import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import StartDaemon
from tests.e2e.harness import ROOT, RunningDaemon, wait_for
from tests.nvml.fake import FakeBox

FILE = """
services:
  llm:
    command: sh -c 'trap "exit 3" USR1; while :; do sleep 0.02; done'
    workers: 2
    resources: {gpu: 1}
    ready: {after: 50ms}
    restart: {delay: 2s}
"""
MONITORING = ROOT / "configs/monitoring"
METRIC = re.compile(r"\bgpu_supervisor_\w+")
MATCHERS = re.compile(r"(gpu_supervisor_\w+)\{([^}]*)\}")


def scrape(daemon: RunningDaemon) -> dict[str, Metric]:
    text = daemon.text("/v1/metrics")
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    found = [sample.value for sample in metrics[name].samples if labels.items() <= sample.labels.items()]
    return sum(found)


def expressions() -> Iterator[str]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])
    board = json.loads((MONITORING / "dashboard.json").read_text())
    yield from (target["expr"] for panel in board["panels"] for target in panel["targets"])


def test_a_crash_and_a_reload_are_counted(start: StartDaemon, box: FakeBox) -> None:
    """By a real daemon, from what its workers did."""
    daemon = start(FILE, box=box)
    before = daemon.wait_states(llm="ready")

    os.kill(daemon.worker("llm/0")["pid"], signal.SIGUSR1)
    daemon.wait(lambda now: now["llm/0"]["restarts"] == 1 and now["llm/0"]["state"] == "ready", "a restart")
    assert daemon.cli("reload").returncode == 0
    metrics = scrape(daemon)

    assert before["llm/1"]["pid"] == daemon.workers()["llm/1"]["pid"]
    assert value(metrics, "gpu_supervisor_workers", service="llm", state="ready") == 2
    assert value(metrics, "gpu_supervisor_restarts", service="llm", cause="exit") == 1
    assert value(metrics, "gpu_supervisor_reloads", result="ok") == 1
    assert value(metrics, "gpu_supervisor_device_workers") == 2
    assert value(metrics, "gpu_supervisor_unavailable_seconds", service="llm") > 0
    assert value(metrics, "gpu_supervisor_device_temperature_celsius") == 4 * 30
    assert value(metrics, "gpu_supervisor_device_power_limit_watts") == 4 * 700
    assert value(metrics, "gpu_supervisor_worker_memory_bytes", service="llm", worker="llm/1") > 0
    delays = {sample.name: sample.value for sample in metrics["gpu_supervisor_loop_delay_seconds"].samples}
    assert delays["gpu_supervisor_loop_delay_seconds_count"] > 0


def test_rules_and_dashboard_ask_for_what_there_is(start: StartDaemon, box: FakeBox) -> None:
    """Each metric and each label of an expression is in a scrape of a daemon to which everything has happened."""
    daemon = start(FILE.replace("ready: {after: 50ms}", 'ready: {exec: ["true"]}'), box=box)
    daemon.wait_states(llm="ready")
    os.kill(daemon.worker("llm/0")["pid"], signal.SIGUSR1)
    daemon.wait(lambda now: now["llm/0"]["restarts"] == 1 and now["llm/0"]["state"] == "ready", "a restart")
    wait_for(lambda: "watcher.started" in daemon.output, "the driver is listened to")
    box.xid(box.uuids[0], 13)
    wait_for(lambda: "device.xid" in daemon.output, "an error of the driver")
    families = scrape(daemon)
    labels = {sample.name: set(sample.labels) for family in families.values() for sample in family.samples}
    # Of what has not happened yet there is no sample, only the family.
    suffixes = {"counter": "_total", "histogram": "_bucket", "gauge": ""}
    labels |= {one.name + suffixes[one.type]: set() for one in families.values() if not one.samples}

    asked = [(name, expression) for expression in expressions() for name in METRIC.findall(expression)]
    unknown = {name for name, _ in asked if name not in labels}
    matched = [
        (name, label)
        for expression in expressions()
        for name, matchers in MATCHERS.findall(expression)
        for label in re.findall(r"(\w+)\s*[=!]", matchers)
    ]

    assert len(asked) > 20
    assert unknown == set()
    assert [(name, label) for name, label in matched if label not in labels[name]] == []
