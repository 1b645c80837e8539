"""Deaths of our own processes: shim, keeper, master."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.core.message import Exited, ShimLost, Spawned, TreeGone
from supervisor.core.spec import WorkerId
from supervisor.host.tree import read_children
from tests.host.processes_helpers import (
    PYTHON,
    A,
    B,
    Pipe,
    Rig,
    Watch,
    eventually,
    in_loop,
    parent_of,
    state_of,
    title_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TREE = "setsid sleep 1000 & (setsid sleep 1000 &) & sleep 1000 & wait"


@pytest.fixture(autouse=True)
def _no_children_left() -> Iterator[None]:
    before = read_children(os.getpid())
    yield
    assert before == read_children(os.getpid())


async def start_tree(rig: Rig, worker: WorkerId) -> tuple[int, list[Watch]]:
    """Incarnation, and a watch on its main process and on each of its three others."""
    incarnation = rig.spawn(worker, "sh", "-c", TREE)
    main = (await rig.told(Spawned, incarnation)).pid
    shim = parent_of(main)
    # Three that sleep, one of which came back to the shim.
    assert await eventually(lambda: len(sleepers(shim)) == 3)
    return incarnation, [Watch(pid) for pid in (main, *sleepers(shim))]


def sleepers(shim: int) -> list[int]:
    below = [pid for child in read_children(shim) for pid in (child, *read_children(child))]
    return [pid for pid in below if title_or_none(pid) == "sleep 1000"]


def title_or_none(pid: int) -> str | None:
    try:
        return title_of(pid)
    except OSError:
        return None


def close_all(watches: list[Watch]) -> None:
    for watch in watches:
        watch.__exit__(None, None, None)


@in_loop
async def test_killed_shim_takes_its_tree_and_nobody_else() -> None:
    """Its worker is lost, then its tree is gone, then it can start again; a neighbour notices nothing."""
    async with Rig() as rig:
        incarnation, watches = await start_tree(rig, A)
        neighbour, others = await start_tree(rig, B)

        os.kill(parent_of(watches[0].pid), signal.SIGKILL)
        rig.kill(A, incarnation)

        await rig.told(TreeGone, incarnation)
        assert all(watch.is_over for watch in watches)
        assert rig.about(incarnation) == ["Spawned", "ShimLost", "TreeGone"]
        assert (await rig.run(A, "true"))[0].code == 0
        assert not any(watch.is_over for watch in others)
        assert rig.about(neighbour) == ["Spawned"]
        close_all(watches + others)


@in_loop
async def test_shim_that_dies_idle_is_no_event() -> None:
    """There was no incarnation to lose; the next start gets a new shim."""
    async with Rig() as rig:
        incarnation = rig.spawn(A, "sleep", "1000")
        shim = parent_of((await rig.told(Spawned, incarnation)).pid)
        rig.kill(A, incarnation)
        await rig.told(Exited, incarnation)
        os.kill(shim, signal.SIGKILL)
        assert await eventually(lambda: not rig.processes._shims)

        assert (await rig.run(A, "true"))[0].code == 0
        assert not any(isinstance(event, ShimLost | TreeGone) for event in rig.events)


@in_loop
async def test_many_shims_killed_at_once() -> None:
    """Each tree is told gone once, after its own loss."""
    async with Rig() as rig:
        trees = [await start_tree(rig, WorkerId("w", index)) for index in range(5)]
        for _, watches in trees:
            os.kill(parent_of(watches[0].pid), signal.SIGKILL)

        for incarnation, watches in trees:
            await rig.told(TreeGone, incarnation)
            assert all(watch.is_over for watch in watches)
            assert rig.about(incarnation) == ["Spawned", "ShimLost", "TreeGone"]
            close_all(watches)


@pytest.mark.slow
@in_loop
async def test_stopped_shim_is_continued() -> None:
    """No answer within the patience: SIGCONT first, which is all that a stopped one needs."""
    async with Rig(patience_s=0.3) as rig:
        incarnation = rig.spawn(A, "sleep", "1000")
        shim = parent_of((await rig.told(Spawned, incarnation)).pid)
        os.kill(shim, signal.SIGSTOP)
        assert await eventually(lambda: state_of(shim) == "T")

        rig.signal(A, incarnation, signal.SIGTERM)

        exited = await rig.told(Exited, incarnation)
        assert exited.signal == signal.SIGTERM
        assert rig.about(incarnation) == ["Spawned", "Exited"]


@pytest.mark.slow
@in_loop
async def test_shim_that_stays_stopped_is_killed() -> None:
    """Stopped again and again: after a second more it is killed, its worker is lost."""
    async with Rig(patience_s=0.3) as rig:
        incarnation, watches = await start_tree(rig, A)
        shim = parent_of(watches[0].pid)
        # A tracer keeps it from running whatever is sent, as a debugger left behind would.
        with Pipe() as pipe:
            tracer = start([*PYTHON, TRACER, str(shim)], stdout=pipe.take_end())
            if await pipe.read_line() != "attached":
                tracer.wait()
                close_all(watches)
                pytest.skip("ptrace is not permitted here")

            rig.kill(A, incarnation)

            await rig.told(ShimLost, incarnation)
            await rig.told(TreeGone, incarnation)
            assert all(watch.is_over for watch in watches)
            tracer.kill()
            tracer.wait()
        close_all(watches)


def start(
    argv: Sequence[str], *, stdout: int | None = None, start_new_session: bool = False
) -> subprocess.Popen[bytes]:
    """A child of ours that Processes did not make."""
    return subprocess.Popen(argv, stdout=stdout, start_new_session=start_new_session)


TRACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
ok = libc.ptrace(16, int(sys.argv[1]), None, None) == 0  # PTRACE_ATTACH, which stops it.
print("attached" if ok else "refused", flush=True)
while ok and os.WIFSTOPPED(os.waitpid(int(sys.argv[1]), 0)[1]):
    pass
"""


@pytest.mark.slow
@in_loop
async def test_full_socket_of_a_shim_blocks_nobody() -> None:
    """Orders pile up for one that does not read, its neighbour works, and none is lost in the end."""
    async with Rig(patience_s=60) as rig:
        incarnation = rig.spawn(A, "sleep", "1000")
        shim = parent_of((await rig.told(Spawned, incarnation)).pid)
        os.kill(shim, signal.SIGSTOP)
        for _ in range(20_000):
            rig.signal(A, incarnation, signal.SIGURG)
        rig.kill(A, incarnation)

        assert (await rig.run(B, "true"))[0].code == 0
        assert rig.about(incarnation) == ["Spawned"]
        os.kill(shim, signal.SIGCONT)
        assert (await rig.told(Exited, incarnation)).signal == signal.SIGKILL


@in_loop
async def test_killed_keeper_is_replaced_and_its_shims_work_on() -> None:
    """Workers live, are signalled and restarted by their old shims; new ones come from the new keeper."""
    async with Rig() as rig:
        incarnation, watches = await start_tree(rig, A)
        shim = parent_of(watches[0].pid)
        keeper = parent_of(shim)

        os.kill(keeper, signal.SIGKILL)

        # A start asked of a keeper whose death has not been noticed is lost with it.
        assert await eventually(lambda: has_other_keeper(rig, keeper))
        assert parent_of(shim) == os.getpid()
        later = rig.spawn(B, "sleep", "1000")
        other = parent_of((await rig.told(Spawned, later)).pid)
        assert parent_of(other) not in {keeper, os.getpid()}
        assert not any(watch.is_over for watch in watches)
        rig.kill(A, incarnation)
        await rig.until(lambda: rig.is_finished(incarnation))
        assert all(watch.is_over for watch in watches)
        assert "ShimLost" not in rig.about(incarnation)
        again = rig.spawn(A, "sleep", "1000")
        assert parent_of((await rig.told(Spawned, again)).pid) == shim

        # The adopted shim is our child now: its end is seen here.
        os.kill(shim, signal.SIGKILL)
        await rig.told(TreeGone, again)
        assert rig.about(again) == ["Spawned", "ShimLost", "TreeGone"]
        assert (await rig.run(A, "true"))[0].code == 0
        close_all(watches)


def has_other_keeper(rig: Rig, old: int) -> bool:
    return rig.processes._keeper is not None and rig.processes._keeper.pid != old


@in_loop
async def test_start_asked_of_a_dying_keeper_is_told_lost() -> None:
    """Whether its shim came to be cannot be known, so its end is awaited like a tree's; then it starts anew."""
    async with Rig() as rig:
        keeper = parent_of(parent_of((await rig.told(Spawned, rig.spawn(B, "sleep", "1000"))).pid))
        os.kill(keeper, signal.SIGSTOP)
        assert await eventually(lambda: state_of(keeper) == "T")
        incarnation = rig.spawn(A, "sleep", "1000")

        os.kill(keeper, signal.SIGKILL)

        await rig.told(TreeGone, incarnation)
        assert rig.about(incarnation) == ["ShimLost", "TreeGone"]
        assert (await rig.run(A, "true"))[0].code == 0


@in_loop
async def test_what_falls_to_the_master_is_ended_and_its_own_children_are_not() -> None:
    """Shim and keeper die together: the tree lands on the master, beside children that it has always had."""
    early = start(["sleep", "1000"], start_new_session=True)
    async with Rig() as rig:
        late = start(["sleep", "1000"])
        incarnation, watches = await start_tree(rig, A)
        shim = parent_of(watches[0].pid)
        keeper = parent_of(shim)
        os.kill(keeper, signal.SIGSTOP)
        assert await eventually(lambda: state_of(keeper) == "T")
        os.kill(shim, signal.SIGKILL)
        await rig.told(ShimLost, incarnation)
        assert not all(watch.is_over for watch in watches)

        os.kill(keeper, signal.SIGKILL)

        await rig.told(TreeGone, incarnation)
        assert all(watch.is_over for watch in watches)
        assert rig.about(incarnation) == ["Spawned", "ShimLost", "TreeGone"]
        assert (early.poll(), late.poll()) == (None, None)
        assert (await rig.run(A, "true"))[0].code == 0
        close_all(watches)
    for child in (early, late):
        child.kill()
        child.wait()


@pytest.mark.slow
@in_loop
async def test_stopped_keeper_is_continued_when_something_waits_for_it() -> None:
    """A first start through a stopped keeper hangs until it is to be killed; then the keeper is continued."""
    async with Rig(patience_s=0.3) as rig:
        keeper = parent_of(parent_of((await rig.told(Spawned, rig.spawn(A, "sleep", "1000"))).pid))
        os.kill(keeper, signal.SIGSTOP)
        assert await eventually(lambda: state_of(keeper) == "T")
        incarnation = rig.spawn(B, "sleep", "1000")
        rig.kill(B, incarnation)

        assert (await rig.told(Exited, incarnation)).signal == signal.SIGKILL
        assert state_of(keeper) != "T"


@in_loop
async def test_keeper_killed_while_it_forks() -> None:
    """Whatever became of the shims in the making, each start is told an end, and nothing is left."""
    async with Rig() as rig:
        keeper = parent_of(parent_of((await rig.told(Spawned, rig.spawn(A, "sleep", "1000"))).pid))
        incarnations = [rig.spawn(WorkerId("w", index), "sleep", "1000") for index in range(30)]
        await rig.told(Spawned, incarnations[3])
        os.kill(keeper, signal.SIGKILL)

        def is_told(incarnation: int) -> bool:
            told = rig.about(incarnation)
            return told[-2:] == ["ShimLost", "TreeGone"] or told in (["Spawned"], ["SpawnFailed"])

        await rig.until(lambda: all(map(is_told, incarnations)))
        assert (await rig.run(B, "true"))[0].code == 0


@in_loop
async def test_keeper_killed_again_and_again() -> None:
    """Each time another comes; the worker under its first shim never notices."""
    async with Rig() as rig:
        incarnation = rig.spawn(A, "sleep", "1000")
        pid = (await rig.told(Spawned, incarnation)).pid
        for _ in range(4):
            assert (await rig.run(B, "true"))[0].code == 0
            rig.processes.dismiss(B)
            assert rig.processes._keeper is not None
            keeper = rig.processes._keeper.pid
            assert keeper is not None
            with Watch(keeper) as watch:
                os.kill(keeper, signal.SIGKILL)
                assert await watch.over()
            assert await eventually(functools.partial(has_other_keeper, rig, keeper))
            assert await eventually(lambda: rig.processes._is_keeper_ready)
        assert rig.about(incarnation) == ["Spawned"]
        assert parent_of(parent_of(pid)) == os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("stuck", ["nothing", "shim", "keeper", "exec"])
@in_loop
async def test_nothing_outlives_a_killed_master(stuck: str, tmp_path: Path) -> None:
    """Two seconds after SIGKILL no keeper, no shim, no worker and nothing that a worker hid is left."""
    master = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.host.master_to_kill", stuck, str(tmp_path), stdout=subprocess.PIPE
    )
    assert master.stdout is not None
    pids = json.loads(await asyncio.wait_for(master.stdout.readline(), 30))
    watches = [Watch(pid) for pid in pids]
    assert len(watches) >= 8

    master.kill()
    await master.wait()

    assert await eventually(lambda: all(watch.is_over for watch in watches), 2.0), [
        title_of(watch.pid) for watch in watches if not watch.is_over
    ]
    close_all(watches)
    assert await eventually(lambda: not list(marked(str(tmp_path))))


def marked(text: str) -> Iterator[int]:
    """Living processes with a mark in their arguments or environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                is_marked = any(text.encode() in (entry / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue
            if is_marked:
                yield int(entry.name)
