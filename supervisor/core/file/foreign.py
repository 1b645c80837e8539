"""
What people write who come from elsewhere, and what it is called here: hints for keys and words that are none of ours.

Data alone, beside the walk that asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping

_ENV, _FILE_ENV = "it is called env here", "it is called env_file here"
_COMMAND = "write all of it as command"
_READY = "write ready: {http: /path}, or another of its kinds"
_ALIVE = "write alive: {http: /path}, or another of its kinds"
_DIRECTORY = "it is called working_dir here"
_GRACE, _SIGNAL = "write stop: {timeout: 30s}", "write stop: {signal: SIGTERM}"
_LOGS = "write logs: {file: ...}"
_AGAIN = "write restart: {policy: ...}"

SERVICE_KEYS: Mapping[str, str] = {
    # docker compose
    "depends_on": "it is called after here: the services that must be ready first",
    "environment": _ENV,
    "healthcheck": "write ready for whether it can take requests, alive for whether it is to be restarted",
    "replicas": "it is called workers here",
    "scale": "it is called workers here",
    "image": "no container is run here: write command, and what it needs is on this machine",
    "build": "no container is run here: write command, and what it needs is on this machine",
    "container_name": "the key of the service is its name",
    "entrypoint": _COMMAND,
    "deploy": "write workers for how many, resources for what each needs, restart and update beside them",
    "ports": "write port: 8000; worker i gets PORT = port + i",
    "volumes": "no container is run here: a worker sees the files of this machine",
    "networks": "no container is run here: a worker has the network of this machine",
    "stop_grace_period": _GRACE,
    "stop_signal": _SIGNAL,
    "logging": _LOGS,
    "ulimits": "it is called limits here",
    # systemd
    "ExecStart": "it is called command here",
    "ExecStop": "write stop: {exec: [...]}",
    "ExecReload": "a reload replaces those whose launch has changed; write command alone",
    "Environment": _ENV,
    "EnvironmentFile": _FILE_ENV,
    "WorkingDirectory": _DIRECTORY,
    "User": "it is called user here",
    "Group": "it is called group here",
    "After": "it is called after here",
    "Requires": "write after: the services that must be ready first",
    "Restart": _AGAIN,
    "RestartSec": "write restart: {delay: 1s}",
    "TimeoutStopSec": _GRACE,
    "TimeoutStartSec": "write ready: {timeout: 10m}",
    "KillSignal": _SIGNAL,
    "WatchdogSec": "write alive: {notify: true, timeout: 30s}",
    "LimitNOFILE": "write limits: {nofile: ...}",
    # supervisord, Kubernetes
    "numprocs": "it is called workers here",
    "directory": _DIRECTORY,
    "autorestart": _AGAIN,
    "startretries": "write restart: {start_limit: 3}",
    "stopwaitsecs": _GRACE,
    "stopsignal": _SIGNAL,
    "stdout_logfile": _LOGS,
    "args": _COMMAND,
    "readinessProbe": _READY,
    "startupProbe": _READY,
    "livenessProbe": _ALIVE,
    "terminationGracePeriodSeconds": _GRACE,
    "name": "the key of the service is its name",
    # of this file, elsewhere
    "health": "it is the file's key, not a service's: write it beside services",
    "daemon": "it is the file's key, not a service's: write it beside services",
    "defaults": "it is the file's key, not a service's: write it beside services",
}
"""Of a service. What is only misspelt is for the nearest key."""

RESOURCE_KEYS: Mapping[str, str] = {
    "nvidia.com/gpu": "it is called gpu here",
    "limits": "write gpu, cpu and memory directly under resources",
    "requests": "write gpu, cpu and memory directly under resources",
    "reservations": "write gpu, cpu and memory directly under resources",
    "cpus": "it is called cpu here",
    "mem": "it is called memory here",
    "vram": "it is called gpu_memory here",
}

RESTART_WORDS: Mapping[str, str] = {
    "always": "always",
    "unless-stopped": "always",
    "on-failure": "on-failure",
    "on-abnormal": "on-failure",
    "onfailure": "on-failure",
    "no": "never",
    "never": "never",
    "false": "never",
    "true": "always",
}
"""Policies that stand alone elsewhere, lower case."""

RESTART_KEYS: Mapping[str, str] = {
    "condition": "it is called policy here",
    "max_attempts": "it is called limit here",
    "max_retries": "it is called limit here",
}
