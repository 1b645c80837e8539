"""A daemon's face without a daemon, sockets to serve it on, and the JSON it shows."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from supervisor.errors import ProblemsError
from supervisor.front.api import make_app
from supervisor.front.counts import Counts

Json = dict[str, Any]

SINCE = "2026-11-20T10:00:00Z"
PATIENCE_S = 10.0
"""How long a test waits for what must come; only a broken one waits that long."""


def a_worker(worker: str, state: str = "ready", **more: Any) -> Json:
    """A worker of the status JSON."""
    return {
        "worker": worker,
        "index": int(worker.partition("/")[2]),
        "state": state,
        "pid": 4711,
        "incarnation": 1,
        "since": SINCE,
        "restarts": 0,
        "reason": "",
        "fallback": None,
        "port": None,
        "gpus": [],
        "env": {},
        "limits": None,
        "gpu_limits": None,
        "last_exit": None,
        "next_start": None,
        **more,
    }


def an_exit(**more: Any) -> Json:
    """A last_exit of the status JSON."""
    return {"code": 1, "signal": None, "cause": "exit", "detail": "", "at": SINCE, "tail": [], **more}


def a_device(index: int = 0, **more: Any) -> Json:
    """A device of the status JSON."""
    return {
        "uuid": f"GPU-{index:08d}",
        "index": index,
        "name": "NVIDIA H100 80GB HBM3",
        "type": None,
        "pci": f"0000:1{index}:00.0",
        "numa": 0,
        "health": "ok",
        "reason": "",
        "memory": {"total": 85899345920, "free": 85899345920, "declared": 0},
        "workers": [],
        "foreign": None,
        **more,
    }


def a_status(*workers: Json, devices: tuple[Json, ...] = (), **daemon: Any) -> Json:
    """A status JSON; the workers' services are made up from their names."""
    names = dict.fromkeys(worker["worker"].partition("/")[0] for worker in workers)
    services = []
    for name in names:
        own = [worker for worker in workers if worker["worker"].partition("/")[0] == name]
        ready = sum(worker["state"] == "ready" for worker in own)
        services.append({"name": name, "target": len(own), "ready": ready, "scaled": False, "workers": own})
    return {
        "daemon": {
            "pid": 1,
            "version": "0.1.0",
            "file": "demo.yaml",
            "instance": "",
            "state": "running",
            "since": SINCE,
            "generation": 1,
            "reload": None,
            "gpu": {"state": "ok", "detail": "", "since": SINCE},
            **daemon,
        },
        "services": services,
        "devices": list(devices),
    }


def a_row(worker: str, **more: Any) -> Json:
    """A worker of the plan JSON."""
    return {
        "worker": worker,
        "placed": True,
        "wanted": True,
        "gpus": [],
        "fallback": None,
        "reason": "",
        "action": "start",
        **more,
    }


class FakeFace:
    """Shows what a test puts there, and notes what is asked of it."""

    life = "cafe"

    def __init__(self, status: Json | None = None) -> None:
        self.shown = status if status is not None else a_status()
        self.plan_answer: Json | Exception = {"gpu": None, "devices": [], "workers": []}
        self.reload_answer: Json = {"ok": True, "problems": [], "difference": {}}
        self.settled_answer: Json = {"ok": True, "problems": []}
        self.scale_problems: tuple[str, ...] = ()
        self.warnings: list[str] = []
        self.asked: list[Any] = []
        self.told: tuple[Json, ...] = ()
        self.happened: list[Json] = []
        self.on_shutdown: Callable[[], None] = lambda: None
        self.waiting = asyncio.Event()
        self.left = asyncio.Event()
        self.broken: Exception | None = None
        self.counted = Counts()
        self._change = asyncio.Event()

    def status(self, *, figures: bool = False) -> Json:
        if self.broken:
            raise self.broken
        return {**self.shown, "figures": True} if figures else self.shown

    async def read_figures(self, *, rates: bool = True) -> None:
        self.asked.append("figures" if rates else "figures without rates")

    def counts(self) -> Counts:
        return self.counted

    async def devices(self, *, figures: bool = False) -> Json:
        if figures:
            await self.read_figures()
        return {"gpu": self.shown["daemon"]["gpu"], "devices": self.shown["devices"]}

    async def plan(self, file: str | None) -> Json:
        self.asked.append(("plan", file))
        if isinstance(self.plan_answer, Exception):
            raise self.plan_answer
        return self.plan_answer

    def explain(self, worker: str) -> Json:
        self.asked.append(("explain", worker))
        return {**a_worker(worker), "asks": "1 GPU", "waits": None, "verdicts": []}

    async def reload(self) -> Json:
        self.asked.append("reload")
        return self.reload_answer

    async def events(
        self, target: str | None, *, lines: int | None, after: int | None, follow: bool
    ) -> AsyncGenerator[Json, None]:
        self.asked.append(("events", target, lines, after, follow))
        for batch in self.happened:
            yield batch
        if follow:
            await self.changed()
        yield {"end": "done"}

    async def logs(
        self, target: str | None, *, lines: int, after: int | None, follow: bool
    ) -> AsyncGenerator[Json, None]:
        self.asked.append(("logs", target, lines, after, follow))
        for batch in self.told:
            yield batch
        if follow:
            await self.changed()
        yield {"end": "done"}

    async def settled(self) -> Json:
        self.asked.append("settled")
        return self.settled_answer

    def order(self, verb: str, targets: tuple[str, ...]) -> None:
        self.asked.append((verb, targets))

    async def order_device(self, verb: str, target: str, *, for_reset: bool, reason: str = "") -> Json:
        self.asked.append((verb, target, for_reset, *([reason] if reason else [])))
        if self.broken is not None:
            raise self.broken
        answer = {"gpu": self.shown["daemon"]["gpu"], "devices": self.shown["devices"][:1], "before": {}}
        return {**answer, "warnings": list(self.warnings)}

    def scale(self, counts: Mapping[str, int]) -> None:
        self.asked.append(("scale", dict(counts)))
        if self.scale_problems:
            raise ProblemsError(self.scale_problems)

    def shutdown(self) -> None:
        self.asked.append("shutdown")
        self.on_shutdown()

    async def changed(self) -> None:
        self.waiting.set()
        try:
            await self._change.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise

    def log_change(self, what: str, peer: Mapping[str, int | str]) -> None:
        self.asked.append(("log", what, peer))

    def show(self, status: Json) -> None:
        """Put up another status, and wake who waits for a change. Only within the loop."""
        self.shown = status
        self._change.set()
        self._change = asyncio.Event()


@asynccontextmanager
async def serving(face: FakeFace, path: Path) -> AsyncIterator[web.AppRunner]:
    """A face on a unix socket, within the running loop and as the daemon does it."""
    runner = web.AppRunner(make_app(face), access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield runner
    finally:
        await runner.cleanup()


class Served:
    """A face that is served by a thread of its own, for clients that block."""

    def __init__(self, face: FakeFace, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.face = face
        self.path = path
        self._loop = loop

    def wait_for_waiting(self) -> None:
        """Return when a request waits for a change."""
        asyncio.run_coroutine_threadsafe(self.face.waiting.wait(), self._loop).result(PATIENCE_S)

    def show(self, status: Json) -> None:
        """As the face's, from another thread."""
        self._loop.call_soon_threadsafe(self.face.show, status)


@contextmanager
def served(face: FakeFace, path: Path) -> Iterator[Served]:
    """Serve a face in a thread; its shutdown ends the server, as it ends the daemon."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    ended = asyncio.Event()

    async def serve() -> None:
        async with serving(face, path):
            started.set()
            await ended.wait()

    face.on_shutdown = ended.set
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield Served(face, path, loop)
    finally:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)
        thread.join(PATIENCE_S)
        loop.close()


@contextmanager
def canned(path: Path, answer: bytes, *, hold: threading.Event | None = None) -> Iterator[None]:
    """
    A socket that gives everybody the same bytes and hangs up.

    Args:
        path: Of the socket.
        answer: The bytes.
        hold: What it waits for before it answers.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                request = connection.recv(65536)
                if not request:
                    return
                if hold is not None:
                    hold.wait(PATIENCE_S)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as farewell:
            farewell.connect(str(path))
            farewell.shutdown(socket.SHUT_WR)
            thread.join(PATIENCE_S)
        listener.close()
        with suppress(FileNotFoundError):
            path.unlink()


def http_answer(body: bytes, *, status: str = "200 OK") -> bytes:
    """A whole answer of HTTP."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
