"""gpu-supervisor, as the cases see it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.conformance.adapter import Program, Seen, State, Supervisor, Workers
from tests.conformance.worker import PRELUDE
from tests.e2e.harness import RunningDaemon

_STATES: Mapping[str, State] = {
    "pending": "waiting",
    "backoff": "waiting",
    "starting": "starting",
    "ready": "up",
    "unready": "unready",
    "stopping": "ending",
    "killing": "ending",
    "releasing": "ending",
    "exited": "done",
    "failed": "failed",
    "stopped": "stopped",
}


class Ours(Supervisor):
    """A real daemon, by its command line and its control socket."""

    name = "gpu-supervisor"
    harmless = (signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)

    def begin(self, programs: Mapping[str, Program]) -> None:
        self.daemon = RunningDaemon(self.home, render(programs), env=self.env, prefix=self.prefix)

    @property
    def pid(self) -> int:
        return self.daemon.pid

    @property
    def file(self) -> Path:
        return self.daemon.file

    @property
    def output(self) -> str:
        return self.daemon.output

    def look(self) -> Workers:
        return {
            name: Seen(
                _STATES[one["state"]],
                one["pid"],
                f"{one['reason']} {json.dumps(one['last_exit'])}",
                one["state"] == "backoff",
            )
            for name, one in self.daemon.workers().items()
        }

    def ask_stop(self, name: str) -> Callable[[], object]:
        return self.daemon.begin(f"/v1/stop?target={name}", method="POST")

    def stop(self, name: str) -> None:
        self.ask_stop(name)()

    def start(self, name: str) -> None:
        self.daemon.ask(f"/v1/start?target={name}", method="POST")

    def rewrite(self, programs: Mapping[str, Program] | str | None) -> None:
        if programs is None:
            self.daemon.file.unlink()
        else:
            self.daemon.write(programs if isinstance(programs, str) else render(programs))

    def reload(self) -> int:
        return self.daemon.cli("reload").returncode

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self.daemon.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def tell_status(self) -> int:
        return self.daemon.cli("status").returncode

    def ends(self, name: str) -> int:
        return len(self._explain(name)["deaths"])

    def delays(self) -> dict[str, float]:
        ended = {
            name: [one for one in self._explain(name)["transitions"] if "retry_in_s" in one] for name in self.look()
        }
        return {name: float(steps[-1]["retry_in_s"]) for name, steps in ended.items() if steps}

    def story(self, name: str) -> list[str]:
        return [one["after"] for one in self._explain(name)["transitions"]]

    def _explain(self, name: str) -> dict[str, Any]:
        return self.daemon.ask(f"/v1/explain?target={name}")


def render(programs: Mapping[str, Program]) -> str:
    """JSON, which is YAML."""
    return json.dumps({"services": {name: _service(one) for name, one in programs.items()}}, indent=1)


def _service(program: Program) -> dict[str, Any]:
    command = list(program.command) or [sys.executable, "-I", "-S", "-c", PRELUDE + program.script]
    ready = dict(program.ready) or {"after": f"{program.ready_s}s"}
    given = {
        "command": command,
        "workers": program.workers,
        "ready": {"interval": "100ms", "timeout": f"{program.start_s}s", **ready},
        "restart": _restart(program),
        "stop": _stop(program),
        "resources": {"gpu": program.gpu},
    }
    for name in ("after", "user", "umask", "alive", "port"):
        if value := getattr(program, name):
            given[name] = list(value) if name == "after" else value
    return {**given, **program.setup}


def _restart(program: Program) -> dict[str, Any]:
    restart: dict[str, Any] = {"policy": program.policy, "delay": f"{program.delay_s}s", "start_limit": program.tries}
    if program.limit is not None:
        restart["limit"] = program.limit
    if program.parole_s is not None:
        restart["parole"] = f"{program.parole_s}s"
    if program.permanent:
        restart["permanent_exit"] = list(program.permanent)
    return restart


def _stop(program: Program) -> dict[str, Any]:
    stop: dict[str, Any] = {"signal": f"SIG{program.stop_signal}", "timeout": f"{program.stop_s}s"}
    if program.stop_group:
        stop["group"] = True
    if program.stop_exec:
        stop["exec"] = list(program.stop_exec)
    return stop
