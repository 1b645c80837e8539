"""What a start is given of the machine, and what is said where that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from supervisor.core.environment import late
from supervisor.core.message import Site, Spawn
from supervisor.core.plan import Launch
from supervisor.core.spec import Recipe, WorkerId
from supervisor.daemon.surroundings import Surroundings, lack_text, limits_of
from supervisor.host.cgroups import Leaves

A, B = WorkerId("a", 0), WorkerId("b", 0)
MIB = 1 << 20


class Told:
    """Warnings, each with its reason."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, object]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields["reason"]))


PLAIN = Recipe(("x",))


def order(worker: WorkerId = A, *, recipe: Recipe = PLAIN, **env: str) -> Spawn:
    return Spawn(worker, 1, Launch(recipe), recipe.command, env, "/")


def bare(told: Told, tmp_path: Path, folder: Path | None = None) -> Surroundings:
    return Surroundings(Leaves(folder, "no cgroup v2 here"), told, sysfs=tmp_path)


def delegated(tmp_path: Path, controllers: str) -> Path:
    """A cgroup in which these controllers are enabled already."""
    folder = tmp_path / "cg"
    folder.mkdir()
    (folder / "cgroup.subtree_control").write_text(controllers)
    (folder / "cgroup.controllers").write_text(controllers)
    return folder


@pytest.mark.parametrize(
    ("millis", "text"), [(500, "50000 100000"), (4000, "400000 100000"), (10, "1000 100000"), (1, "1000 1000000")]
)
def test_cores_become_a_quota_that_the_kernel_takes(millis: int, text: str) -> None:
    """It refuses less than a millisecond."""
    assert limits_of(Recipe(("x",), cpu=millis)) == {"cpu": {"cpu.max": text}}


def test_memory_is_that_of_the_machine_and_ends_the_whole_worker() -> None:
    """No swap, and no half of a worker."""
    assert limits_of(Recipe(("x",), memory=MIB)) == {
        "memory": {"memory.max": str(MIB), "memory.swap.max": "0", "memory.oom.group": "1"}
    }


def test_reasons_are_told_together_where_they_are_the_same() -> None:
    """The words of `status`."""
    assert lack_text({"cpu": "no", "memory": "no"}) == "cpu and memory are not enforced: no"
    assert lack_text({"cpu": "no", "memory": "never"}) == "cpu is not enforced: no; memory is not enforced: never"


def test_limits_that_cannot_be_set_are_said_once_and_kept(tmp_path: Path) -> None:
    """The worker starts without them."""
    told = Told()
    around = bare(told, tmp_path)

    for worker in (A, A, B):
        _, given = around.prepare(order(worker, recipe=Recipe(("x",), cpu=500, memory=MIB)), set)
        assert given.limits == {}
    around.prepare(order(WorkerId("c", 0)), set)

    why = "cpu and memory are not enforced: no cgroup v2 here"
    assert told.lines == [("limits.ignored", why)]
    assert around.lacks == {A: why, B: why}
    around.forget(A)
    assert around.lacks == {B: why}


def test_a_limit_that_is_ignored_is_told_with_its_worker(tmp_path: Path) -> None:
    """As fields of the log line, which a program reads."""
    with capture_logs() as lines:
        around = Surroundings(Leaves(None, "no cgroup v2 here"), structlog.get_logger().warning, sysfs=tmp_path)
        around.prepare(order(A, recipe=Recipe(("x",), cpu=500)), set)

    why = "cpu is not enforced: no cgroup v2 here"
    fields = {"worker": "a/0", "service": "a", "reason": why}
    assert lines == [{"event": "limits.ignored", "log_level": "warning", **fields}]


def test_a_controller_that_is_there_is_used_without_the_other(tmp_path: Path) -> None:
    """Half of it is better than nothing, and said."""
    told, folder = Told(), delegated(tmp_path, "memory")
    around = bare(told, tmp_path, folder)

    _, given = around.prepare(order(recipe=Recipe(("x",), cpu=500, memory=MIB)), set)

    assert set(given.limits) == {"memory.max", "memory.swap.max", "memory.oom.group"}
    assert around.lacks == {A: f"cpu is not enforced: no such controller in {folder}"}


def test_what_only_the_start_shows_is_kept_too(tmp_path: Path) -> None:
    """Of workers with limits; the next start may fare better."""
    told = Told()
    around = bare(told, tmp_path, delegated(tmp_path, "memory"))
    limited = order(recipe=Recipe(("x",), memory=MIB))
    around.prepare(limited, set)
    assert around.lacks == {A: ""}

    around.note(A, "no leaf")
    around.note(B, "no leaf")
    assert around.lacks == {A: "memory is not enforced: no leaf"}

    around.prepare(limited, set)
    assert around.lacks == {A: ""}


def test_what_one_limit_lacks_is_not_said_of_the_other(tmp_path: Path) -> None:
    """The file that cannot be written is that of one controller."""
    around = bare(Told(), tmp_path, delegated(tmp_path, "cpu memory"))
    around.prepare(order(recipe=Recipe(("x",), cpu=500, memory=MIB)), set)

    around.note(A, "cannot write 1 to /sys/fs/cgroup/w/memory.max: device or resource busy")

    assert around.lacks[A].startswith("memory is not enforced: cannot write 1")


def test_a_port_is_put_in_everywhere(tmp_path: Path) -> None:
    """Only where one is to be found."""
    around = bare(Told(), tmp_path)
    wanted = replace(order(MASTER_PORT=late("MASTER_PORT"), HOME=late("HOME")), argv=("x", f":{late('MASTER_PORT')}"))

    first, _ = around.prepare(wanted, set)
    second, _ = around.prepare(replace(wanted, worker=B), set)

    assert first.argv == ("x", f":{first.env['MASTER_PORT']}")
    assert first.env["MASTER_PORT"] != second.env["MASTER_PORT"]
    assert first.env["HOME"] == late("HOME")
    assert around.prepare(order(), set)[0] == order()


def test_a_node_that_is_not_known_is_said_once(tmp_path: Path) -> None:
    """The worker runs on any CPU."""
    told = Told()
    around = bare(told, tmp_path)

    for _ in range(2):
        _, given = around.prepare(replace(order(), near=(Site("0000:10:00.0", None),)), set)
        assert given.cpus is None

    assert told.lines == [
        ("numa.ignored", "the NUMA node of the device 0000:10:00.0 is not known, so its workers run on any CPU")
    ]
