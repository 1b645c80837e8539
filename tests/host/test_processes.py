from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.core.message import Event, Exited, Spawned, SpawnFailed, TreeGone
from supervisor.core.spec import WorkerId
from supervisor.host import kernel
from supervisor.host.tree import read_children
from tests.host.processes_helpers import (
    DEADLINE_S,
    LOOPS,
    PYTHON,
    A,
    B,
    Pipe,
    Rig,
    Watch,
    environ_of,
    eventually,
    in_loop,
    link_of,
    mask_of,
    open_fds,
    parent_of,
    title_of,
    use_loop,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HANG = ("sleep", "1000")


@pytest.fixture(params=LOOPS, autouse=True)
def _both_loops(request: pytest.FixtureRequest) -> Iterator[None]:
    with use_loop(request.param):
        yield


@pytest.mark.parametrize("code", [0, 1, 78, 255])
@in_loop
async def test_exit_status_is_told(code: int) -> None:
    """A process that ends by itself, alone."""
    async with Rig() as rig:
        exited, _ = await rig.run(A, "sh", "-c", f"exit {code}")

    assert Exited(A, 1, code=code, signal=None, alone=True) == exited
    assert rig.about(1) == ["Spawned", "Exited"]


@pytest.mark.parametrize(
    ("number", "has_core"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGSEGV, True)]
)
@in_loop
async def test_signal_is_told_with_its_core(number: int, has_core: bool, tmp_path: Path) -> None:
    """Whether a core was dumped is the kernel's word."""
    async with Rig() as rig:
        incarnation = rig.spawn(A, "sh", "-c", f"ulimit -c unlimited; kill -{number} $$", working_dir=str(tmp_path))
        exited = await rig.told(Exited, incarnation)

    assert number == exited.signal
    assert exited.code is None
    assert exited.core_dumped == (has_core and can_dump_core())


def can_dump_core() -> bool:
    """Not where the limit forbids it; a core that is piped to a collector is nobody's to predict."""
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        pytest.skip("cores go to a collector here")
    return resource.getrlimit(resource.RLIMIT_CORE)[1] != 0


@in_loop
async def test_instant_crashes_in_a_row() -> None:
    """Two hundred starts of something that dies at once: each told once, in order."""
    async with Rig() as rig:

        def restart(event: Event) -> None:
            if isinstance(event, Exited) and len(rig.events) < 400:
                rig.spawn(A, "false")

        rig.react = restart
        rig.spawn(A, "false")
        await rig.until(lambda: len(rig.events) >= 400)

    assert [name for _ in range(200) for name in ("Spawned", "Exited")] == [type(e).__name__ for e in rig.events]
    assert list(range(1, 201)) == [event.incarnation for event in rig.events if isinstance(event, Exited)]


@in_loop
async def test_worker_starts_clean() -> None:
    """Own session, default signals, three descriptors, no low OOM score, its own directory and environment."""
    marked = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(marked, True)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        async with Rig() as rig:
            incarnation = rig.spawn(A, *HANG, env={"ONLY": "this", **PATH}, working_dir="/usr")
            pid = (await rig.told(Spawned, incarnation)).pid
            assert os.getsid(pid) == pid
            assert await eventually(lambda: title_of(pid) == "sleep 1000")
            assert mask_of(pid, "SigIgn") & ~GLIBC_SIGNALS == 0
            assert mask_of(pid, "SigBlk") == 0
            assert {0, 1, 2} == open_fds(pid)
            assert {"/dev/null"} == {link_of(pid, f"fd/{fd}") for fd in (0, 1, 2)}
            assert link_of(pid, "cwd") == "/usr"
            environ = environ_of(pid)
            assert {b"ONLY=this", b"PATH=" + PATH["PATH"].encode()} == set(environ)
            assert oom_score_of(pid) == max(oom_score_of(os.getpid()), 0)
    finally:
        signal.signal(signal.SIGUSR1, before)
        os.close(marked)


GLIBC_SIGNALS = 0b11 << 31  # 32 and 33, its own: posix_spawn ignores them in the child, whatever it is asked.
PATH = {"PATH": os.environ.get("PATH", os.defpath)}


def oom_score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@in_loop
async def test_given_descriptors_land_where_they_should() -> None:
    """Targets that are numbers in use in the shim, by others of the given too; the same pipe end twice; no others."""
    text = (
        "import os\nfor fd in range(1, 8): os.write(fd, b'%d ' % fd)\nprint(os.read(0, 9), os.listdir('/proc/self/fd'))"
    )
    async with Rig() as rig:
        with Pipe() as out, ExitStack() as stack:
            end = out.take_end()
            others = {target: stack.enter_context(Pipe()) for target in range(3, 8)}
            read, write = os.pipe()
            os.write(write, b"in")
            os.close(write)
            fds = {target: pipe.take_end() for target, pipe in others.items()}
            incarnation = rig.spawn(A, *PYTHON, text, fds={0: read, 1: end, 2: end, **fds})
            assert (await rig.told(Exited, incarnation)).code == 0
            # The end of file shows that neither we nor the shim kept an end.
            assert await out.read_all() == b"1 2 b'in' ['0', '1', '2', '3', '4', '5', '6', '7', '8']\n"
            assert [await pipe.read_all() for pipe in others.values()] == [b"3 ", b"4 ", b"5 ", b"6 ", b"7 "]


@in_loop
async def test_two_mebibytes_of_arguments_and_environment() -> None:
    """As much as the kernel takes passes through, to a shim that has not been forked yet too."""
    env = {f"V{number}": "x" * 100_000 for number in range(10)} | PATH
    args = ["y" * 100_000 for _ in range(9)]
    async with Rig() as rig:
        exited, output = await rig.run(
            A,
            *PYTHON,
            "import os,sys; print(sum(map(len, os.environ.values())) + sum(map(len, sys.argv[1:])))",
            *args,
            env=env,
        )

    assert exited.code == 0
    assert int(output) >= 1_900_000


@in_loop
async def test_bytes_that_are_no_text_arrive_as_they_were() -> None:
    """Arguments that do not decode are kept by surrogates, as everywhere in Python."""
    name = os.fsdecode(b"\xff\xfe")
    async with Rig() as rig:
        _, output = await rig.run(A, "printf", "%s", name)

    assert output == b"\xff\xfe"


@in_loop
async def test_same_launch_keeps_its_shim_and_another_gets_a_new_one() -> None:
    """The old shim goes."""
    async with Rig() as rig:
        parents = []
        for launched in ("first", "first", "second"):
            incarnation = rig.spawn(A, *HANG, launched=launched)
            parents.append(parent_of((await rig.told(Spawned, incarnation)).pid))
            if launched == "first" and len(parents) == 2:
                old = Watch(parents[-1])
            rig.kill(A, incarnation)
            assert (await rig.told(Exited, incarnation)).alone
        with old:
            assert await old.over()
        assert parents[0] == parents[1] != parents[2]


@in_loop
async def test_dismissed_shim_ends_and_a_later_start_gets_another() -> None:
    """Dismiss is for an index that is gone; the index may come back."""
    async with Rig() as rig:
        incarnation = rig.spawn(A, *HANG)
        shim = parent_of((await rig.told(Spawned, incarnation)).pid)
        rig.kill(A, incarnation)
        await rig.told(Exited, incarnation)
        with Watch(shim) as watch:
            rig.processes.dismiss(A)
            assert await watch.over()
        again = rig.spawn(A, "true")
        assert (await rig.told(Exited, again)).code == 0


@in_loop
async def test_second_process_of_a_worker_is_refused() -> None:
    """One process per worker, whatever the caller thinks."""
    async with Rig() as rig:
        first = rig.spawn(A, *HANG)
        second = rig.spawn(A, *HANG)
        failed = await rig.told(SpawnFailed, second)
        assert "lives" in failed.detail
        assert rig.about(first) == ["Spawned"] or await rig.told(Spawned, first)


@in_loop
async def test_signal_reaches_the_main_process_only() -> None:
    """Scope main."""
    async with Rig() as rig:
        with Pipe() as pipe:
            incarnation = rig.spawn(A, "sh", "-c", "sleep 1000 & echo $!; wait", fds={1: pipe.take_end()})
            with Watch(int(await pipe.read_line())) as child:
                rig.signal(A, incarnation, signal.SIGTERM)
                exited = await rig.told(Exited, incarnation)
                assert (exited.signal, exited.alone) == (signal.SIGTERM, False)
                assert not child.is_over

                rig.signal(A, incarnation, signal.SIGTERM, "rest")
                await rig.told(TreeGone, incarnation)
                assert child.is_over


@in_loop
async def test_signal_for_the_rest_spares_the_main_process() -> None:
    """Scope rest reaches grandchildren in sessions of their own."""
    text = (
        "import os,time\n"
        "if os.fork(): time.sleep(1000)\n"
        "os.setsid()\n"
        "if os.fork(): print(os.getpid(), flush=True); time.sleep(1000)\n"
        "print(os.getpid(), flush=True); time.sleep(1000)"
    )
    async with Rig() as rig:
        with Pipe() as pipe:
            incarnation = rig.spawn(A, *PYTHON, text, fds={1: pipe.take_end()})
            main = (await rig.told(Spawned, incarnation)).pid
            with Watch(int(await pipe.read_line())) as one, Watch(int(await pipe.read_line())) as other:
                rig.signal(A, incarnation, signal.SIGTERM, "rest")
                assert await one.over()
                assert await other.over()
                assert parent_of(main) > 1
                assert rig.about(incarnation) == ["Spawned"]


@in_loop
async def test_orders_for_what_is_gone_are_ignored() -> None:
    """A late signal or kill of a dead incarnation touches nothing."""
    async with Rig() as rig:
        first = rig.spawn(A, "true")
        await rig.told(Exited, first)
        second = rig.spawn(A, *HANG)
        await rig.told(Spawned, second)
        rig.signal(A, first, signal.SIGKILL)
        rig.kill(A, first)
        rig.kill(B, 99)
        third, _ = await rig.run(B, "true")

        assert third.code == 0
        assert rig.about(second) == ["Spawned"]


@in_loop
async def test_events_of_a_listened_worker_go_elsewhere() -> None:
    """The prober's do not reach the core."""
    prober = WorkerId("(prober)", 1)
    heard: list[Event] = []
    async with Rig() as rig:
        rig.processes.listen(prober, heard.append)
        incarnation = rig.spawn(prober, "true")
        await eventually(lambda: len(heard) == 2)

    assert [Exited(prober, incarnation, code=0, signal=None, alone=True)] == heard[1:]
    assert rig.events == []


@pytest.mark.slow
@in_loop
async def test_descriptors_stay_flat_over_a_thousand_restarts() -> None:
    """Of what is gone neither master nor shim nor keeper keeps a descriptor."""
    async with Rig() as rig:
        goals: list[int] = []

        def restart(event: Event) -> None:
            if isinstance(event, Exited) and len(rig.events) < goals[-1]:
                start_writer(rig)

        async def run(count: int) -> list[int]:
            goals.append(len(rig.events) + 2 * count)
            start_writer(rig)
            await rig.until(lambda: len(rig.events) >= goals[-1], 60)
            incarnation = rig.spawn(A, *HANG)
            shim = parent_of((await rig.told(Spawned, incarnation)).pid)
            counts = [len(open_fds(process)) for process in ("self", shim, parent_of(shim))]
            rig.kill(A, incarnation)
            await rig.told(Exited, incarnation)
            return counts

        rig.react = restart
        early = await run(10)
        late = await run(1000)

    assert early == late


def start_writer(rig: Rig) -> None:
    """Start something short that writes to a pipe."""
    read, write = os.pipe()
    os.close(read)
    rig.spawn(A, "true", fds={1: write})


def start_other() -> subprocess.Popen[bytes]:
    return subprocess.Popen(HANG)


@in_loop
async def test_close_ends_everything_and_leaves_no_trace() -> None:
    """Workers, shims, keeper, descriptors and the subreaper flag; a child of somebody else stays."""
    fds, children, flag = open_fds(), read_children(os.getpid()), kernel.is_subreaper()
    other = start_other()
    try:
        async with Rig() as rig:
            pids = []
            for index in range(5):
                incarnation = rig.spawn(WorkerId("w", index), "sh", "-c", "sleep 1000 & setsid sleep 1000 & wait")
                pids.append((await rig.told(Spawned, incarnation)).pid)
            watches = [Watch(pid) for pid in (*pids, parent_of(pids[0]), parent_of(parent_of(pids[0])))]
            # So that close() finds trees and not only their roots.
            await eventually(lambda: all(len(read_children(pid)) == 2 for pid in pids))
        for watch in watches:
            with watch:
                assert watch.is_over
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()

    assert ["".join(type(event).__name__ + " " for event in rig.events)] == [5 * "Spawned "]
    assert children == read_children(os.getpid())
    assert flag == kernel.is_subreaper()
    # The loop's own descriptors came and stayed.
    assert await eventually(lambda: len(open_fds()) <= len(fds) + 1, 2)


@in_loop
async def test_titles_and_sessions() -> None:
    """What ``ps`` shows; and that no key pressed at a terminal reaches keeper or shims."""
    async with Rig() as rig:
        pid = (await rig.told(Spawned, rig.spawn(A, *HANG))).pid
        shim = parent_of(pid)
        keeper = parent_of(shim)
        assert title_of(shim) == "gpu-supervisor: shim a/0"
        assert title_of(keeper) == "gpu-supervisor: keeper"
        assert parent_of(keeper) == os.getpid()
        assert os.getsid(keeper) == keeper == os.getsid(shim)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            os.kill(keeper, number)
            os.kill(shim, number)
        exited, _ = await rig.run(B, "true")
        assert exited.code == 0
        assert parent_of(pid) == shim


@pytest.mark.slow
@in_loop
async def test_no_keeper_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no keeper can be started a spawn fails without an errno; later it works again."""
    async with Rig() as rig:
        pid = (await rig.told(Spawned, rig.spawn(A, *HANG))).pid
        keeper = parent_of(parent_of(pid))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nonexistent/python")
            with Watch(keeper) as watch:
                os.kill(keeper, signal.SIGKILL)
                assert await watch.over()
            assert await eventually(lambda: parent_of(parent_of(pid)) == os.getpid())
            failed = await rig.told(SpawnFailed, await spawn_without_keeper(rig))
            assert (failed.errno, failed.detail) == (0, "no keeper to ask for a shim")

        async def works() -> bool:
            incarnation = rig.spawn(B, "true")
            await rig.until(lambda: bool({"SpawnFailed", "Exited"} & set(rig.about(incarnation))))
            return "Exited" in rig.about(incarnation)

        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while not await works():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)


async def spawn_without_keeper(rig: Rig) -> int:
    """Spawn once the loss has been noticed."""
    await eventually(lambda: rig.processes._keeper is None)
    return rig.spawn(B, "true")
