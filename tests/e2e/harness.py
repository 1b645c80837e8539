"""A real daemon for one test: its file, its socket, its GPUs, and what a person would do with it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.nvml.fake import FakeBox

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
"""Far longer than anything here takes: the machine may be busy."""

Json = dict[str, Any]
T = TypeVar("T")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


class RunningDaemon:
    """
    One daemon in a folder of its own.

    Args:
        home: An empty folder.
        file: Text of the service file.
        box: GPUs; without one the machine has none.
        env: More environment.
        arguments: More arguments of `run`.
        prefix: A command that runs the daemon: in a namespace, as another user, under a limit.
        socket: Of the daemon, below *home*.
    """

    def __init__(
        self,
        home: Path,
        file: str,
        *,
        box: FakeBox | None = None,
        env: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        socket: str = "control.sock",
    ) -> None:
        self.home = home
        self.file = home / "service.yaml"
        self.socket = home / socket
        self.log = home / "daemon.log"
        self.write(file)
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        self.env = {**inherited, "PYTHONPATH": str(ROOT), **(box.env if box else {}), **(env or {})}
        self.env["GPU_SUPERVISOR_SOCKET"] = str(self.socket)
        # No worker here speaks TLS; to read the machine's certificates takes each start a tenth of a second.
        self.env.setdefault("SSL_CERT_FILE", os.devnull)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "supervisor", "run", str(self.file), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
                env=self.env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def write(self, file: str) -> None:
        """Put a new service file in place of the old one, at once."""
        new = self.file.with_suffix(".new")
        new.write_text(file)
        new.replace(self.file)

    def ask(self, path: str, *, method: str = "GET") -> Json:
        answer: Json = json.loads(self.text(path, method=method))
        return answer

    def text(self, path: str, *, method: str = "GET") -> str:
        """What the control socket answers, as it is."""
        return self.begin(path, method=method)()

    def begin(self, path: str, *, method: str = "GET") -> Callable[[], str]:
        """Ask the control socket; what waits for the answer is returned."""
        connection = _Connection(self.socket)

        def finish() -> str:
            try:
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        try:
            connection.request(method, path)
        except OSError:
            connection.close()
            raise
        return finish

    def status(self) -> Json:
        return self.ask("/v1/status")

    def workers(self) -> dict[str, Json]:
        """Workers of every service by name."""
        return {worker["worker"]: worker for service in self.status()["services"] for worker in service["workers"]}

    def worker(self, name: str) -> Json:
        return self.workers()[name]

    def wait(self, condition: Callable[[dict[str, Json]], bool], what: str) -> dict[str, Json]:
        """Wait until the workers are as said; the daemon's log is part of the failure."""

        def found() -> dict[str, Json] | None:
            workers = self.workers()
            return workers if condition(workers) else None

        return wait_for(found, lambda: f"{what}\n{self._shown()}")

    def wait_states(self, **states: str) -> dict[str, Json]:
        """Wait until services are in these states throughout: ``wait_states(llm="ready")``."""

        def condition(workers: dict[str, Json]) -> bool:
            seen: dict[str, set[str]] = {}
            for name, worker in workers.items():
                seen.setdefault(name.split("/")[0], set()).add(worker["state"])
            return all(seen.get(service) == {state} for service, state in states.items())

        return self.wait(condition, f"states {states}")

    def cli(self, *arguments: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *arguments],
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.home,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def reload(self, file: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        self.write(file)
        return self.cli("reload", timeout=timeout)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.send(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE_S)

    def _shown(self) -> str:
        try:
            states = {name: (one["state"], one["reason"], one["last_exit"]) for name, one in self.workers().items()}
        except OSError as error:
            states = {"": (str(error), self.process.poll(), None)}
        return f"{states}\n{self.output[-4000:]}"


def wait_for(found: Callable[[], T | None], what: Callable[[], str] | str, timeout: float = PATIENCE_S) -> T:
    """Wait until something is there, looking again and again: what is waited for is another program's doing."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = found()
        except (OSError, http.client.HTTPException):
            result = None
        if result is not None and result is not False:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def offspring_of(home: Path) -> list[int]:
    """Living processes that carry this folder in their environment: everything that a daemon there ever started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or not is_alive(int(entry.name)):
            continue
        try:
            if f"{home}/".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found
