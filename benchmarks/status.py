"""
How long `status` takes beside `python -c pass` in the same run, as a process from its start to its end.

    python -m benchmarks.status [--workers 100] [--rounds 30]

A socket answers with the status of so many workers on eight GPUs. Medians, and the best of all rounds,
which is what the machine can do when nobody else wants it.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.front.fakes import a_device, a_status, a_worker

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-c", "from supervisor.__main__ import main; main()")


def main() -> int:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="status-") as folder:
        path = Path(folder, "control.sock")
        serve(path, make_answer(options.workers))
        socket_words = ("--socket", str(path))
        cases: dict[str, tuple[tuple[str, ...], bool]] = {
            "python -c pass": ((sys.executable, "-c", "pass"), False),
            "status --json": ((*COMMAND, "status", "--json", *socket_words), False),
            "status, in a pipe": ((*COMMAND, "status", *socket_words), False),
            "status, on a terminal": ((*COMMAND, "status", *socket_words), True),
            "version": ((*COMMAND, "version"), False),
        }
        took: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.rounds + 1):  # In turns, so that ratios hold on a machine whose speed drifts.
            for name, (command, is_terminal) in cases.items():
                took[name].append(time_of(command, Path(folder, "bytecode"), is_terminal=is_terminal))
    base = took["python -c pass"][1:]
    sys.stdout.write(f"{options.workers} workers, {options.rounds} rounds   median    ratio     best    ratio\n")
    for name, all_rounds in took.items():
        rounds = all_rounds[1:]  # The first one wrote the bytecode.
        middle, best = statistics.median(rounds), min(rounds)
        ratios = middle / statistics.median(base), best / min(base)
        sys.stdout.write(f"{name:24} {1e3 * middle:8.1f} ms {ratios[0]:6.2f} {1e3 * best:8.1f} ms {ratios[1]:6.2f}\n")
    return 0


def make_answer(workers: int) -> bytes:
    gpus = [a_device(index, workers=[f"llm/{one}" for one in range(index, workers, 8)]) for index in range(8)]
    shown = a_status(
        *(
            a_worker(f"llm/{index}", gpus=[{"uuid": gpus[index % 8]["uuid"], "index": index % 8, "share": 0.05}])
            for index in range(workers)
        ),
        devices=tuple(gpus),
    )
    body = json.dumps(shown).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def serve(path: Path, answer: bytes) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=run, daemon=True).start()


def time_of(command: Sequence[str], cache: Path, *, is_terminal: bool) -> float:
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONPYCACHEPREFIX": str(cache)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    begin = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, env=env) as running:
        os.close(theirs)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # How a terminal says that nobody writes any more.
            pass
        running.wait()
    took = time.perf_counter() - begin
    os.close(ours)
    assert running.returncode == 0, command
    return took


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time that `status` takes.")
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
