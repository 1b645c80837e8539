"""Whatever a worker starts, and however that hides, belongs to its shim and is ended by it."""

from __future__ import annotations

import os
import signal
from typing import Literal

import pytest

from supervisor.core.message import Exited, Spawned, TreeGone
from supervisor.host.tree import Strays
from tests.host.processes_helpers import (
    DEADLINE_S,
    ENV,
    PYTHON,
    A,
    B,
    Pipe,
    Rig,
    Watch,
    environ_of,
    eventually,
    in_loop,
    state_of,
)

PRELUDE = """
import ctypes, os, signal, sys, time

def stay():
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(1000)

def blank():
    fields = open("/proc/self/stat", "rb").read().rpartition(b")")[2].split()
    arg_start, env_end = int(fields[45]), int(fields[48])
    ctypes.memset(arg_start, 0, env_end - arg_start)
"""

# Each leaves one process behind that writes its pid.
LEFT_BEHIND = {
    "same group": "os.fork() or stay()",
    "own session": "os.fork() or (os.setsid(), stay())",
    "double fork": "os.fork() or (os.setsid(), os.fork() and os._exit(0), stay())",
    "deaf": "os.fork() or (signal.signal(signal.SIGTERM, signal.SIG_IGN), os.setsid(), stay())",
    "title rewritten": "os.fork() or (os.setsid(), blank(), stay())",
    "stopped": "os.fork() or (os.write(1, b'%d\\n' % os.getpid()), os.kill(os.getpid(), signal.SIGSTOP), stay())",
    "environment cleared": "os.fork() or (os.setsid(), os.write(1, b'%d\\n' % os.getpid()), "
    "os.execve('/bin/sleep', ['sleep', '1000'], {}))",
    "tenth generation": "[os.fork() and os._exit(0) for _ in range(10)]; os.setsid(); stay()",
}


@pytest.mark.parametrize("main_ends", [True, False], ids=["main ends", "main stays"])
@pytest.mark.parametrize("kind", LEFT_BEHIND)
@in_loop
async def test_no_descendant_survives(kind: str, main_ends: bool) -> None:
    """However it left its parent, KillTree reaches it, and TreeGone comes when it is dead."""
    rest = "" if main_ends else "\ntime.sleep(1000)"
    text = f"{PRELUDE}\nif os.fork() == 0:\n    {LEFT_BEHIND[kind]}\n    os._exit(0)\n{rest}"
    async with Rig() as rig:
        with Pipe() as pipe:
            incarnation = rig.spawn(A, *PYTHON, text, env={"MARK": "me", **ENV}, fds={1: pipe.take_end()})
            with Watch(int(await pipe.read_line())) as left:
                if kind == "title rewritten":
                    assert environ_of(left.pid) == [b""]
                if kind == "stopped":
                    assert await eventually(lambda: state_of(left.pid) == "T")
                if main_ends:
                    assert not (await rig.told(Exited, incarnation)).alone
                assert not await left.over(0)

                rig.kill(A, incarnation)

                await rig.until(lambda: rig.is_finished(incarnation))
                assert await left.over(0)
                assert await pipe.read_all() == b""

        # The shim is as good as new.
        assert (await rig.run(A, "true"))[0].alone


@in_loop
async def test_tree_that_ends_by_itself_is_told_gone() -> None:
    """Nobody has to kill what goes on its own."""
    async with Rig() as rig:
        with Pipe() as pipe:
            incarnation = rig.spawn(
                A, "sh", "-c", "(trap exit TERM; echo $$; sleep 0.2) & exit 3", fds={1: pipe.take_end()}
            )
            assert (await rig.told(Exited, incarnation)).code == 3
            await rig.told(TreeGone, incarnation)

    assert rig.about(incarnation) == ["Spawned", "Exited", "TreeGone"]


LISTENERS = """
import os, signal, sys, time
def listen(name):
    def note(*_):
        os.write(1, name + b" TERM\\n")
        os._exit(0)
    signal.signal(signal.SIGTERM, note)
    os.write(1, name + b" listens\\n")
    while True:
        time.sleep(1000)
if os.fork() == 0:
    listen(b"member")
if os.fork() == 0:
    os.setsid()
    listen(b"outsider")
listen(b"main")
"""


@in_loop
async def test_a_signal_to_the_group_reaches_its_members_and_one_outside_of_it_the_others() -> None:
    """Each of the tree once, whichever of the two comes first."""
    async with Rig() as rig:
        with Pipe() as pipe:
            incarnation = rig.spawn(A, *PYTHON, LISTENERS, fds={1: pipe.take_end()})
            for _ in range(3):
                await pipe.read_line()

            rig.signal(A, incarnation, signal.SIGTERM, "group")
            heard = {await pipe.read_line(), await pipe.read_line()}
            await rig.told(Exited, incarnation)
            rig.signal(A, incarnation, signal.SIGTERM, "outside")

            assert heard == {"main TERM", "member TERM"}
            assert await pipe.read_line() == "outsider TERM"
            await rig.until(lambda: rig.is_finished(incarnation))


@pytest.mark.parametrize("scope", ["main", "group"])
@in_loop
async def test_a_stopped_process_takes_its_signal(scope: Literal["main", "group"]) -> None:
    """It is continued behind it."""
    async with Rig() as rig:
        incarnation = rig.spawn(A, "sh", "-c", "trap 'exit 7' TERM; while :; do kill -STOP $$; done")
        pid = (await rig.told(Spawned, incarnation)).pid
        assert await eventually(lambda: state_of(pid) == "T")

        rig.signal(A, incarnation, signal.SIGTERM, scope)

        assert (await rig.told(Exited, incarnation)).code == 7


RELAY = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(6):
    if os.fork() == 0:
        os.write(1, b"%d\\n" % os.getpid())
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()
os.pause() if hasattr(os, "pause") else signal.pause()
"""


@in_loop
async def test_tree_that_forks_while_it_is_killed_does_not_win() -> None:
    """Six chains in which each process forks its successor and ends: a list of pids is stale when it is read."""
    async with Rig() as rig:
        with Pipe() as pipe:
            incarnation = rig.spawn(A, *PYTHON, RELAY, fds={1: pipe.take_end()})
            for _ in range(6):
                await pipe.read_line()

            rig.kill(A, incarnation)

            await rig.until(lambda: rig.is_finished(incarnation), DEADLINE_S)
            # The end of file says that not one process holds the other end.
            assert await pipe.read_all() == b""


@in_loop
async def test_wide_and_deep_tree_is_killed() -> None:
    """Two hundred processes, a chain and a fan."""
    text = (
        f"{PRELUDE}\n"
        "for _ in range(100):\n    if os.fork() == 0: stay()\n"
        "for _ in range(100):\n    if os.fork(): stay()\n    os.setsid()\n"
        "stay()"
    )
    async with Rig() as rig:
        with Pipe() as pipe:
            incarnation = rig.spawn(A, *PYTHON, text, fds={1: pipe.take_end()})
            pids = {int(await pipe.read_line()) for _ in range(201)}
            assert len(pids) == 201

            rig.kill(A, incarnation)

            await rig.until(lambda: rig.is_finished(incarnation))
            assert await pipe.read_all() == b""


@in_loop
async def test_killing_one_tree_touches_no_other() -> None:
    """Neighbours of the same program."""
    async with Rig() as rig:
        pids = {}
        for worker in (A, B):
            incarnation = rig.spawn(worker, "sh", "-c", "sleep 1000 & wait")
            pids[worker] = (incarnation, (await rig.told(Spawned, incarnation)).pid)
        with Watch(pids[B][1]) as neighbour:
            rig.kill(A, pids[A][0])
            await rig.until(lambda: rig.is_finished(pids[A][0]))
            assert not neighbour.is_over
            os.kill(pids[B][1], signal.SIGTERM)
            await rig.told(Exited, pids[B][0])


def test_strays_of_a_later_shim_do_not_wait_for_those_of_an_earlier() -> None:
    """One that cannot die holds up its own shim; one found later may be of any that is lost."""
    strays = Strays()
    strays.lost.add(1)
    assert strays.settle([100]) == []
    strays.lost.add(2)
    assert strays.settle([100, 200]) == []
    assert strays.settle([100]) == [2]
    strays.lost.add(3)
    assert strays.settle([100]) == [3]
    assert strays.settle([]) == [1]
    assert strays.lost == set()
