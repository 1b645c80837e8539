"""
Requests lost while the workers of a `listen` service are replaced, under constant HTTP load, by uvicorn behind fd 3.

    python benchmarks/listen.py [--plain] [--clients 8] [--workers 2] [--reloads 10] [--crashes 5] [--rounds 1]

Uvicorn 0.54 closes what it has accepted and not read yet when it is told to end. So its `shutdown` is given a moment
between the end of accepting and that; `--plain` is uvicorn as it comes.

Ten rolling reloads; five crashes (SIGKILL of every worker at once) between two requests, after which the clients
connect while nobody is there; and five in the middle of requests, where what a worker has accepted dies with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.e2e.harness import RunningDaemon
from tests.e2e.load import APP, Load, Outcome

PLAIN = """-m, uvicorn, "app:app", --fd, "3", --no-access-log, --log-level, warning"""

SERVICE = """\
services:
  web:
    command: [{python}, {arguments}]
    workers: {workers}
    listen: {{http: "tcp://127.0.0.1:{port}"}}
    ready: {{after: 1s}}
    restart: {{delay: 0s, limit: 0, start_limit: 0}}
    env: {{ROUND: "{number}"}}
"""


def free_port() -> int:
    """One that nobody has at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Bench:
    """
    One daemon with its file, and what is done to it.

    Args:
        home: An empty folder.
        workers: Of the service.
        clients: That ask at once.
        is_plain: Uvicorn as it comes.
    """

    def __init__(self, home: Path, workers: int, clients: int, *, is_plain: bool) -> None:
        (home / "app.py").write_text(APP)
        self._port, self._workers, self._clients = free_port(), workers, clients
        self._arguments = PLAIN if is_plain else "app.py"
        self._number = 0
        self.daemon = RunningDaemon(home, self._file())

    def reload(self, _load: Load) -> None:
        """Every worker is replaced, one after the other."""
        self._number += 1
        self.daemon.write(self._file())
        done = self.daemon.cli("reload", "--wait", timeout=120)
        if done.returncode != 0:
            raise SystemExit(f"the reload has failed: {done.stderr}")

    def crash_between_requests(self, load: Load) -> None:
        """Everybody is killed while nobody has a connection; the clients go on at once."""
        before = self._pids()
        with load.between_requests():
            self._kill(before)
        self._wait_for_others(before)

    def crash(self, _load: Load) -> None:
        """Everybody is killed whatever he is doing."""
        before = self._pids()
        self._kill(before)
        self._wait_for_others(before)

    def under_load(self, act: Callable[[Load], None], times: int) -> tuple[Outcome, float]:
        """Do something so many times; what became of the requests, and how long it took."""
        self.daemon.wait_states(web="ready")
        began = time.monotonic()
        with Load(("127.0.0.1", self._port), self._clients) as load:
            load.wait_for_more(50)
            for _ in range(times):
                act(load)
                load.wait_for_more(50)
        return load.outcome, time.monotonic() - began

    def _file(self) -> str:
        return SERVICE.format(
            python=sys.executable,
            arguments=self._arguments,
            workers=self._workers,
            port=self._port,
            number=self._number,
        )

    def _pids(self) -> set[int]:
        return {one["pid"] for one in self.daemon.wait_states(web="ready").values()}

    def _kill(self, pids: set[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def _wait_for_others(self, before: set[int]) -> None:
        self.daemon.wait(
            lambda now: all(one["state"] == "ready" and one["pid"] not in before for one in now.values()), "others"
        )


def main() -> None:
    """Print a line for each kind of trouble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--crashes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gs") as home:
        bench = Bench(Path(home), given.workers, given.clients, is_plain=given.plain)
        try:
            for _ in range(given.rounds):
                for name, act, times in (
                    ("rolling reloads", bench.reload, given.reloads),
                    ("crashes between requests", bench.crash_between_requests, given.crashes),
                    ("crashes", bench.crash, given.crashes),
                ):
                    outcome, took_s = bench.under_load(act, times)
                    _print(f"{times} {name}", outcome, took_s)
        finally:
            bench.daemon.end()


def _print(what: str, outcome: Outcome, took_s: float) -> None:
    failed = ", ".join(f"{count} {problem}" for problem, count in sorted(outcome.failed.items()))
    print(
        f"{what}: {outcome.total} requests in {took_s:.0f} s to {len(outcome.served)} processes, "
        f"{outcome.failed.total()} failed{f' ({failed})' if failed else ''}, slowest {outcome.slowest_s:.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
