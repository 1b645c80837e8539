"""Where leaves may be made, and what a leaf knows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.core.message import Spawned
from supervisor.core.spec import WorkerId
from supervisor.host.cgroups import Leaves, find_leaves
from supervisor.host.leaf import Leaf
from supervisor.host.orders import Given
from tests.host.processes_helpers import A, B, Rig, in_loop

MOUNT = "30 23 0:26 {root} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw\n"


def proc(tmp_path: Path, own: str, *, root: str = "/") -> Path:
    """A /proc/self of a process in this cgroup, the hierarchy mounted at ``tmp_path/cg``."""
    folder = tmp_path / "proc"
    (folder / "ns").mkdir(parents=True)
    (folder / "cgroup").write_text(f"4:memory:/x\n0::{own}\n")
    (folder / "mountinfo").write_text(MOUNT.format(root=root, point=tmp_path / "cg"))
    (folder / "ns" / "cgroup").write_text("")
    return folder


def cgroup(tmp_path: Path, name: str, *, marked: bool = False) -> Path:
    folder = tmp_path / "cg" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").write_text("")
    if marked:
        try:
            os.setxattr(folder, "user.delegate", b"1")
        except OSError:
            pytest.skip("no extended attributes here")
    return folder


def test_root_makes_no_leaves_where_nobody_said_so(tmp_path: Path) -> None:
    """It could, anywhere."""
    folder = cgroup(tmp_path, "system.slice/a.service")

    found = find_leaves(proc(tmp_path, "/system.slice/a.service"))

    assert found == Leaves(None, f"{folder} is not delegated (a unit with Delegate=yes is)")
    assert found.path_of("a/0") is None


@pytest.mark.parametrize("below", ["", "/daemon"])
def test_a_mark_on_the_own_cgroup_or_the_one_above_says_so(tmp_path: Path, below: str) -> None:
    """The second with DelegateSubgroup=."""
    folder = cgroup(tmp_path, "a.service", marked=True)
    cgroup(tmp_path, f"a.service{below}")

    found = find_leaves(proc(tmp_path, f"/a.service{below}"))

    assert found == Leaves(folder, "user.delegate")
    assert found.path_of("a/0") == f"{folder}/gpu-supervisor.{os.getpid()}.a.0"


def test_the_root_of_a_namespace_says_so_too(tmp_path: Path) -> None:
    """As in a container; the mount shows only what is below it."""
    folder = cgroup(tmp_path, "")

    assert find_leaves(proc(tmp_path, "/")) == Leaves(folder, "root of a cgroup namespace")


def test_without_cgroup_v2_there_is_a_reason(tmp_path: Path) -> None:
    """Each of the ways in which it may be missing."""
    assert find_leaves(tmp_path / "none").why == "no cgroup v2 here"
    outside = proc(tmp_path, "/a", root="/b")
    assert find_leaves(outside).why == "cgroup v2 is not mounted, or not down to this process"


def test_leaves_of_daemons_that_are_no_more_are_removed(tmp_path: Path) -> None:
    """Empty ones; not those of a living daemon, nor anybody else's."""
    for name in ("gpu-supervisor.4194305.a.0", "gpu-supervisor.1.a.0", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "gpu-supervisor.4194306.a.0" / "inner").mkdir(parents=True)

    Leaves(tmp_path, "").sweep()

    left = sorted(one.name for one in tmp_path.iterdir())
    assert left == ["gpu-supervisor.1.a.0", "gpu-supervisor.4194306.a.0", "other"]


def test_an_end_for_want_of_memory_is_known_where_it_is_counted(tmp_path: Path) -> None:
    """Since this start, not of the process before."""
    leaf = Leaf(str(tmp_path))
    (tmp_path / "cgroup.procs").write_text("")
    events = tmp_path / "memory.events"
    assert not leaf.was_out_of_memory()
    events.write_text("low 0\noom 1\noom_kill 2\noom_group_kill 0\n")
    fd = leaf.open({"PATH": "/bin"})
    assert fd is not None
    os.close(fd)
    assert not leaf.was_out_of_memory()

    events.write_text("low 0\noom 2\noom_kill 3\noom_group_kill 0\n")

    assert leaf.was_out_of_memory()


def test_variables_that_a_shell_drops_keep_a_worker_out_of_its_leaf(tmp_path: Path) -> None:
    """Its environment is worth more than its cgroup."""
    assert Leaf(str(tmp_path / "a")).open({"A.B": "1"}) is None
    assert not (tmp_path / "a").exists()


def limited(tmp_path: Path, *files: str) -> Path:
    """A leaf that is there already, with these files of the kernel's."""
    leaf = tmp_path / "leaf"
    leaf.mkdir()
    for name in ("cgroup.procs", *files):
        (leaf / name).write_text("")
    return leaf


def test_limits_are_written_before_anybody_enters(tmp_path: Path) -> None:
    """Without a file for swap the other limits hold all the same."""
    folder = limited(tmp_path, "cpu.max", "memory.max", "memory.oom.group")
    leaf = Leaf(str(folder))

    fd = leaf.open({}, {"cpu.max": "50000 100000", "memory.max": "1048576", "memory.swap.max": "0"})

    assert fd is not None
    os.close(fd)
    assert leaf.lacks == ""
    assert (folder / "cpu.max").read_text() == "50000 100000"
    assert (folder / "memory.max").read_text() == "1048576"


def test_a_leaf_with_other_limits_is_a_new_one(tmp_path: Path) -> None:
    """What is not written anew would still hold, so the old one is only used with the limits it has."""
    folder = tmp_path / "a"
    leaf = Leaf(str(folder))

    def is_kept(limits: dict[str, str]) -> bool:
        folder.chmod(0o700)
        leaf.open({}, limits)
        return folder.stat().st_mode & 0o777 == 0o700

    folder.mkdir()
    assert not is_kept({"cpu.max": "1"})
    assert is_kept({"cpu.max": "1"})
    assert not is_kept({})
    (folder / "busy").touch()
    assert is_kept({"cpu.max": "2"})


def test_a_limit_that_the_kernel_refuses_is_told(tmp_path: Path) -> None:
    """The worker starts; it is for others to say it."""
    leaf = Leaf(str(limited(tmp_path, "memory.max")))

    fd = leaf.open({}, {"cpu.max": "50000 100000", "memory.max": "1048576"})

    assert fd is not None
    os.close(fd)
    assert leaf.lacks == f"cannot write 50000 100000 to {leaf.path}/cpu.max: no such file or directory"


def test_a_worker_without_a_leaf_says_why(tmp_path: Path) -> None:
    """For a variable, or because the directory cannot be made."""
    dropped, homeless = Leaf(str(tmp_path / "a")), Leaf(str(tmp_path / "no" / "a"))

    assert (dropped.open({"A.B": "1"}), homeless.open({})) == (None, None)

    assert dropped.lacks == "a shell would drop its variable A.B, so it is in no cgroup of its own"
    assert homeless.lacks == f"cannot make {homeless.path}: no such file or directory"


@in_loop
async def test_a_worker_starts_within_its_limits_or_tells_what_it_lacks(tmp_path: Path) -> None:
    """Told before it is said to run, so that whoever asks for its status then finds it."""
    folder = tmp_path / f"gpu-supervisor.{os.getpid()}.a.0"
    folder.mkdir()
    for name in ("cgroup.procs", "memory.max"):
        (folder / name).write_text("")
    told: list[tuple[WorkerId, str]] = []
    given = Given(limits={"memory.max": "1048576"})
    async with Rig() as rig:
        rig.processes.use(Leaves(tmp_path, ""))
        rig.processes.tell_lack = lambda worker, why: told.append((worker, why))

        await rig.told(Spawned, rig.spawn(A, "sleep", "1000", given=given))
        assert (folder / "memory.max").read_text() == "1048576"
        assert told == []

        incarnation = rig.spawn(B, "sleep", "1000", given=given)
        rig.react = lambda event: told.append((B, "runs")) if event == rig.events[-1] else None
        await rig.told(Spawned, incarnation)

    leaf = tmp_path / f"gpu-supervisor.{os.getpid()}.b.0"
    assert told[0] == (B, f"cannot open {leaf}/cgroup.procs: no such file or directory")
