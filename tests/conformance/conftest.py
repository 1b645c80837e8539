from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from tests.conformance.adapter import LacksError, Program, Supervisor, leftovers
from tests.conformance.ours import Ours
from tests.conformance.supervisord import Supervisord
from tests.e2e.harness import wait_for
from tests.nvml.fake import FakeBox


class Supervise(Protocol):
    def __call__(
        self,
        programs: Mapping[str, Program] | None = None,
        *,
        box: FakeBox | None = None,
        prefix: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        **named: Program,
    ) -> Supervisor: ...


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    """
    Starts the supervisor that is tried: ours, or the one that CONFORMANCE_SUPERVISORD names.

    At its end, whatever the case: the supervisor ends when asked to, nothing of its workers is left, and no worker was
    ever started beside an earlier process of its own.
    """
    which = Supervisord if "CONFORMANCE_SUPERVISORD" in os.environ else Ours
    homes: list[Path] = []
    started: list[Supervisor] = []

    def begin(
        programs: Mapping[str, Program] | None = None,
        *,
        box: FakeBox | None = None,
        prefix: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        **named: Program,
    ) -> Supervisor:
        homes.append(Path(tempfile.mkdtemp(prefix="case")))
        started.append(which(homes[-1], {**(programs or {}), **named}, box=box, prefix=prefix, env=env))
        return started[-1]

    try:
        yield begin
        for one in started:
            assert one.end() is not None, "did not end when asked to"
            # A shim may need a moment to see that its daemon is gone.
            with suppress(AssertionError):
                wait_for(partial(_is_clean, one.home), "nothing is left", timeout=3.0)
            assert leftovers(one.home) == [], "leaves processes of its workers behind"
            beside = [said for said in one.diary("start") if len(said.rest) > 1]
            assert beside == [], "started a worker beside an earlier process of its own"
    finally:
        for home in homes:
            _clear(home, started)


def _is_clean(home: Path) -> bool:
    return not leftovers(home)


def _clear(home: Path, started: list[Supervisor]) -> None:
    for one in started:
        if one.home == home and one.wait(0.0) is None:
            one.send(signal.SIGKILL)
            one.wait(5.0)
    for pid in leftovers(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What a supervisor lacks is no failure of it."""
    try:
        return (yield)
    except LacksError as lack:
        pytest.skip(str(lack))


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    """One GPU."""
    return FakeBox(tmp_path / "box", gpus=1)
