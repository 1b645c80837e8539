from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.harness import RunningDaemon
from tests.nvml.fake import FakeBox


class StartDaemon(Protocol):
    def __call__(
        self,
        file: str,
        *,
        box: FakeBox | None = None,
        env: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        socket: str = "control.sock",
    ) -> RunningDaemon: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts daemons, each in a folder of its own, and ends them after the test."""
    started: list[RunningDaemon] = []

    def start_one(
        file: str,
        *,
        box: FakeBox | None = None,
        env: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        socket: str = "control.sock",
    ) -> RunningDaemon:
        home = tmp_path / f"d{len(started)}"
        home.mkdir()
        started.append(RunningDaemon(home, file, box=box, env=env, arguments=arguments, prefix=prefix, socket=socket))
        return started[-1]

    yield start_one
    for daemon in started:
        daemon.end()


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    """Four GPUs of 80 GB."""
    return FakeBox(tmp_path / "box", gpus=4)
