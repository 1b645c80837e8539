"""Whose a worker's process is, its limits and so on, as /proc shows them; and that the shim keeps none of it."""

from __future__ import annotations

import errno
import os
import pwd
import resource
from pathlib import Path

import pytest

from supervisor.core.environment import late
from supervisor.core.file.setup import Limit, Setup
from supervisor.core.message import Exited, Spawned, SpawnFailed
from supervisor.host.orders import Given
from tests.host.processes_helpers import ENV, A, B, Pipe, Rig, eventually, in_loop, parent_of

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NOBODY = Setup(user="nobody")
SH = ("/bin/sh", "-c")  # This Python may lie where another user may not go.
SLEEP = (*SH, "exec sleep 1000")


def status_of(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}:")).split()[1:]


def limit_of(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith(name)).removeprefix(name).split()[:2]


def nice_of(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def oom_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@root
@in_loop
async def test_a_user_has_its_ids_and_groups_and_its_shim_keeps_ours() -> None:
    """Real, effective and saved ones: the worker cannot come back."""
    nobody = pwd.getpwnam("nobody")
    async with Rig() as rig:
        incarnation = rig.spawn(A, *SLEEP, setup=Setup(user="nobody"))
        pid = (await rig.told(Spawned, incarnation)).pid
        shim = parent_of(pid)

        assert await eventually(lambda: status_of(pid, "Uid") == [str(nobody.pw_uid)] * 4)
        assert await eventually(lambda: status_of(pid, "Gid") == [str(nobody.pw_gid)] * 4)
        assert status_of(pid, "Groups") == [str(gid) for gid in os.getgrouplist("nobody", nobody.pw_gid)]
        assert status_of(pid, "CapEff") == status_of(pid, "CapPrm") == ["0000000000000000"]
        assert status_of(shim, "Uid") == [str(os.getuid())] * 4
        assert status_of(shim, "Gid") == [str(os.getgid())] * 4
        assert status_of(shim, "Groups") == status_of(os.getpid(), "Groups")


@root
@in_loop
async def test_a_user_is_found_by_number_and_another_group_is_its_first() -> None:
    """A number that nobody has needs a group."""
    async with Rig() as rig:
        pid = (await rig.told(Spawned, rig.spawn(A, *SLEEP, setup=Setup(user="54321", group="daemon")))).pid
        own = (await rig.told(Spawned, rig.spawn(B, *SLEEP, setup=Setup(group="54322")))).pid
        refused = await rig.told(SpawnFailed, rig.spawn(A.__class__("c", 0), *SLEEP, setup=Setup(user="54321")))

        assert status_of(pid, "Uid")[0] == "54321"
        assert status_of(pid, "Gid")[0] == str(pwd.getpwnam("daemon").pw_gid)
        assert status_of(own, "Uid")[0] == "0"
        # The parent of an exec goes on a moment before the kernel has given the new program its saved ids.
        assert await eventually(lambda: status_of(own, "Gid") == ["54322"] * 4)
        assert refused.detail == "user 54321 is not in the user database, so its group is not known"


@root
@in_loop
async def test_what_only_the_user_database_knows_is_filled_in() -> None:
    """HOME and its like in the environment, the command and the directory."""
    entry = pwd.getpwnam("daemon")
    env = {**ENV, "HOME": late("HOME"), "CACHE": f"{late('HOME')}/cache of {late('USER')}"}
    program = 'echo "$HOME $CACHE $1 $(pwd)"'
    async with Rig() as rig:
        with Pipe() as pipe:
            argv = (*SH, program, "sh", late("LOGNAME"))
            rig.spawn(A, *argv, env=env, working_dir=late("HOME"), fds={1: pipe.take_end()}, setup=Setup(user="daemon"))
            line = await pipe.read_line()

    assert line == f"{entry.pw_dir} {entry.pw_dir}/cache of daemon daemon {entry.pw_dir}"


@root
@in_loop
async def test_a_user_may_open_its_own_output_by_name() -> None:
    """Programs write to /dev/stderr; a pipe of root's would be closed to them."""
    async with Rig() as rig:
        with Pipe() as pipe:
            rig.spawn(A, *SH, "echo hello >/dev/stdout", fds={1: pipe.take_end()}, setup=NOBODY)

            assert await pipe.read_line() == "hello"


@in_loop
async def test_an_unknown_user_fails_that_worker_for_good() -> None:
    """By name; another worker starts, and so does this one as somebody else."""
    async with Rig() as rig:
        user = await rig.told(SpawnFailed, rig.spawn(A, "true", setup=Setup(user="no-such-user")))
        group = await rig.told(SpawnFailed, rig.spawn(B, "true", setup=Setup(group="no-such-group")))
        again = await rig.told(Exited, rig.spawn(A, "true"))

    assert (user.errno, user.detail) == (errno.ENOENT, "no such user: no-such-user")
    assert (group.errno, group.detail) == (errno.ENOENT, "no such group: no-such-group")
    assert again.code == 0


@root
@in_loop
async def test_a_directory_that_user_may_not_enter_is_named(tmp_path: Path) -> None:
    """The directory is entered, and PATH searched, as that user."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "own"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    async with Rig() as rig:
        entered = await rig.told(SpawnFailed, rig.spawn(A, "true", working_dir=str(closed), setup=NOBODY))
        searched = await rig.told(SpawnFailed, rig.spawn(B, "own", env={"PATH": str(closed)}, setup=NOBODY))

    assert (entered.errno, entered.detail) == (
        errno.EACCES,
        f"no permission to enter working directory: {closed} (as user nobody)",
    )
    assert searched.errno in {errno.ENOENT, errno.EACCES}


@in_loop
async def test_umask_nice_and_limits_are_the_workers_alone() -> None:
    """The soft limits and the umask of the shim are as they were."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    setup = Setup(umask=0o027, limits=(("core", Limit(0, None)), ("nofile", Limit(100, 200))), nice=7)
    async with Rig() as rig:
        pid = (await rig.told(Spawned, rig.spawn(A, *SLEEP, setup=setup))).pid
        other = (await rig.told(Spawned, rig.spawn(B, *SLEEP))).pid
        shim = parent_of(pid)

        assert status_of(pid, "Umask") == ["0027"]
        assert limit_of(pid, "Max open files") == ["100", "200"]
        assert limit_of(pid, "Max core file size")[0] == "0"
        assert nice_of(pid) == 7
        assert status_of(shim, "Umask") == status_of(os.getpid(), "Umask")
        assert limit_of(shim, "Max open files")[0] in {"200", *limit_of(os.getpid(), "Max open files")}
        assert status_of(other, "Umask") == status_of(os.getpid(), "Umask")
        assert limit_of(other, "Max open files")[1] == str(hard)
        assert nice_of(other) == nice_of(os.getpid())


@in_loop
async def test_cpus_are_the_workers_alone() -> None:
    """The shim may use all of its own again; CPUs that are gone by now stop nobody."""
    own = os.sched_getaffinity(0)
    async with Rig() as rig:
        pid = (await rig.told(Spawned, rig.spawn(A, *SLEEP, given=Given(cpus=frozenset({min(own)}))))).pid
        other = (await rig.told(Spawned, rig.spawn(B, *SLEEP, given=Given(cpus=frozenset({100_000}))))).pid

        assert os.sched_getaffinity(pid) == {min(own)}
        assert os.sched_getaffinity(parent_of(pid)) == own
        assert os.sched_getaffinity(other) == own


@in_loop
async def test_the_same_launch_gets_its_limits_again() -> None:
    """Its shim may have lost the hard ones it had at the first start."""
    setup = Setup(limits=(("nofile", Limit(100, 200)),), nice=3)
    async with Rig() as rig:
        for _ in range(3):
            incarnation = rig.spawn(A, *SH, '[ "$(ulimit -Hn) $(ulimit -Sn)" = "200 100" ]', setup=setup)
            assert (await rig.told(Exited, incarnation)).code == 0


@in_loop
async def test_a_limit_above_the_hard_one_is_refused_by_name() -> None:
    """Named with what there is; without privileges it stays refused, with them the system's own maximum refuses."""
    setup = Setup(limits=(("nofile", Limit(2**40, 2**40)),))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    async with Rig() as rig:
        failed = await rig.told(SpawnFailed, rig.spawn(A, "true", setup=setup))

    assert failed.errno == errno.EPERM
    assert failed.detail == f"cannot set limits.nofile to {2**40}: the hard limit is {hard}"


@in_loop
async def test_a_score_is_the_workers_and_the_shims_stays_low() -> None:
    """Also where a start fails for it."""
    async with Rig() as rig:
        pid = (await rig.told(Spawned, rig.spawn(A, *SLEEP, setup=Setup(oom_score_adj=500)))).pid
        shim, before = parent_of(pid), oom_of(parent_of((await rig.told(Spawned, rig.spawn(B, *SLEEP))).pid))

        assert oom_of(pid) == 500
        assert await eventually(lambda: oom_of(shim) == before)


@root
@in_loop
async def test_a_stop_during_the_look_up_waits_for_the_start() -> None:
    """Else the kill would come before there is anything to kill."""
    async with Rig() as rig:
        incarnation = rig.spawn(A, *SLEEP, setup=NOBODY)
        rig.kill(A, incarnation)

        assert (await rig.told(Exited, incarnation)).signal == 9
