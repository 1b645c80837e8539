"""Constant HTTP load: clients that each ask again and again, one connection for each request, and what became of it."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PATIENCE_S = 60.0

APP = """\
import asyncio, os
import uvicorn

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

class Server(uvicorn.Server):
    # Uvicorn closes connections that it has accepted and not read from yet: let them say what they want first.
    async def shutdown(self, sockets=None):
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.2)
        await super().shutdown(sockets)

if __name__ == "__main__":
    Server(uvicorn.Config(app, fd=3, access_log=False, log_level="warning")).run()
"""
"""Answers with the pid of its process."""


@dataclass
class Outcome:
    """
    What became of the requests.

    Args:
        served: By how many processes, and how many each: pid -> requests.
        failed: What went wrong -> how often.
        slowest_s: The longest that one waited for its whole answer.
    """

    served: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    @property
    def total(self) -> int:
        """Requests that were answered, and those that were not."""
        return self.served.total() + self.failed.total()


class Load:
    """
    Clients in threads, from `with` to its end.

    Args:
        address: Host and port, or the path of a unix socket.
        clients: How many ask at once.
    """

    def __init__(self, address: tuple[str, int] | str, clients: int = 4) -> None:
        self.outcome = Outcome()
        self._address = address
        self._count = clients
        self._threads: list[threading.Thread] = []
        self._is_over = False
        self._changed = threading.Condition()
        self._asking = 0
        self._is_held = False

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(self._count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    @contextmanager
    def between_requests(self) -> Iterator[None]:
        """Inside it nobody has a connection; whoever is next connects right after it."""
        with self._changed:
            self._is_held = True
            assert self._changed.wait_for(lambda: not self._asking, PATIENCE_S), "a request without an end"
            yield
            self._is_held = False
            self._changed.notify_all()

    def wait_for_more(self, count: int) -> None:
        """Until so many more requests have been answered."""
        with self._changed:
            goal = self.outcome.total + count
            assert self._changed.wait_for(lambda: self.outcome.total >= goal, PATIENCE_S), "no answers any more"

    def _ask_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_held or self._is_over)
                if self._is_over:
                    return
                self._asking += 1
            began = time.monotonic()
            pid, problem = self._ask()
            took_s = time.monotonic() - began
            with self._changed:
                self._asking -= 1
                self.outcome.slowest_s = max(self.outcome.slowest_s, took_s)
                if problem:
                    self.outcome.failed[problem] += 1
                else:
                    self.outcome.served[pid] += 1
                self._changed.notify_all()

    def _ask(self) -> tuple[str, str]:
        """Who answered, or what went wrong, and at which point."""
        is_path = isinstance(self._address, str)
        with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as caller:
            caller.settimeout(PATIENCE_S)
            try:
                caller.connect(self._address)
            except OSError as error:
                return "", f"connect: {error.strerror or error}"
            answer = b""
            try:
                caller.sendall(REQUEST)
                while data := caller.recv(65536):
                    answer += data
            except OSError as error:
                return "", f"accepted, then: {error.strerror or error}"
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            return "", "accepted, then closed without an answer" if not answer else f"answered {head[:20]!r}"
        return body.decode(), ""
