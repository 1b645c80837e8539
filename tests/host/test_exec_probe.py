"""Commands as probes: run as the worker is, bounded, and with nothing left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.core.file.setup import NO_SETUP, Setup
from supervisor.core.message import BecameReady, BecameUnready, Event, LivenessLost, Probe, ProbeAlive, Spawn
from supervisor.core.plan import Launch
from supervisor.core.spec import Alive, Recipe, WorkerId
from supervisor.host.exec_probe import Command
from supervisor.host.probes import Probes
from supervisor.host.process import Processes
from tests.host import looping
from tests.host.looping import Run, until

run = looping.run

LLM = WorkerId("llm", 0)
ENV = {"PATH": os.environ["PATH"], "WORKER": "llm/0", "NOTIFY_SOCKET": "/nowhere"}


def start(folder: Path, setup: Setup = NO_SETUP) -> Spawn:
    return Spawn(LLM, 1, Launch(Recipe(("serve",), setup=setup)), ("serve",), ENV, str(folder), setup=setup)


@asynccontextmanager
async def processes() -> AsyncIterator[Processes]:
    one = Processes(lambda _: None)
    await one.start()
    try:
        yield one
    finally:
        await one.close()


async def verdict(folder: Path, script: str, *, timeout_s: float = 20.0, setup: Setup = NO_SETUP) -> str | None:
    async with processes() as spawner:
        command = Command(spawner, start(folder, setup), ("sh", "-c", script), "ready")
        answer = await command.ask(timeout_s)
        command.close()
        return answer


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", ""),
        ("exit 3", "sh exited with 3"),
        ("echo one; echo two >&2; exit 1", "sh exited with 1: two"),
        ("kill -9 $$", "sh ended by signal 9"),
        ("yes | head -c 300000; echo; echo end; exit 1", "sh exited with 1: end"),
        ('test "$WORKER $(pwd) ${NOTIFY_SOCKET-none}" = "$(WORKER) $PWD none"', ""),
    ],
)
def test_a_command_that_ends_with_0_is_well(run: Run, tmp_path: Path, script: str, expected: str) -> None:
    """It finds the worker's environment and folder, and its last words say why not."""

    async def main() -> None:
        assert await verdict(tmp_path, script) == expected

    run(main())


def test_a_command_that_cannot_be_run_is_not_well(run: Run, tmp_path: Path) -> None:
    """As a worker whose command is not found."""

    async def main() -> None:
        async with processes() as spawner:
            command = Command(spawner, start(tmp_path), ("no-such-check",), "ready")
            assert await command.ask(20.0) == "cannot run no-such-check: command not found: no-such-check"
            assert not command.has_run
            known = Command(spawner, start(tmp_path), ("false",), "alive")
            assert (await known.ask(20.0), known.has_run) == ("false exited with 1", True)

    run(main())


def test_a_command_that_hangs_is_ended_with_all_it_started(run: Run, tmp_path: Path) -> None:
    """In its time; and the next one starts only when nothing of it is left."""

    async def main() -> None:
        async with processes() as spawner:
            script = "trap '' TERM; echo $$ >>pids; setsid sleep 600 & echo $! >>pids; test -e go || wait"
            command = Command(spawner, start(tmp_path), ("sh", "-c", script), "alive")
            assert await command.ask(1.0) == "sh did not end within 1 s"
            (tmp_path / "go").touch()
            assert await command.ask(20.0) == ""
            pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
            assert len(pids) == 4
            await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs somebody else to be")
def test_a_command_runs_as_the_workers_user(run: Run, tmp_path: Path) -> None:
    """Never as the daemon."""

    async def main() -> None:
        assert await verdict(Path("/"), 'test "$(id -u)" = 65534', setup=Setup(user="65534")) == ""

    run(main())


def test_a_worker_is_ready_and_alive_as_its_commands_say(run: Run, tmp_path: Path) -> None:
    """Why it is not ready yet is told once; after so many failures in a row it is not alive, which is told once."""

    async def main() -> None:
        events: list[Event] = []
        async with processes() as spawner:
            probes = Probes(asyncio.get_running_loop(), events.append, spawner)
            probes.equip(start(tmp_path))
            check = ("test", "-e", "up-$(WORKER)")
            (tmp_path / "up-llm").mkdir()
            probes.watch(Probe(LLM, 1, None, 0.1, "exec", exec=check))
            await until(lambda: bool(events))
            (tmp_path / "up-llm" / "0").touch()
            await until(lambda: len(events) == 2)
            probes.watch_alive(ProbeAlive(LLM, 1, None, Alive(kind="exec", exec=check, interval_s=0.1, failures=2)))
            (tmp_path / "up-llm" / "0").unlink()
            await until(lambda: len(events) == 3)
            await probes.close()

            no = "test exited with 1"
            assert events[:2] == [BecameUnready(LLM, 1, no), BecameReady(LLM, 1)]
            assert events[2] == LivenessLost(LLM, 1, f"{no}, 2 times in a row")

    run(main())
