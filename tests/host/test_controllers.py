"""Controllers of a delegated cgroup: what is handed down, who has to move for it, and what is put back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.host.cgroups import Leaves, find_leaves
from supervisor.host.controllers import Controllers
from tests.host.cgroup_helpers import FakeFiles
from tests.host.test_cgroups import cgroup, proc


@pytest.fixture
def kernel(tmp_path: Path) -> FakeFiles:
    """A delegated cgroup with the controllers cpu and memory, and three processes in it."""
    return FakeFiles(tmp_path / "cg", ("cpu", "memory"), (10, 11, os.getpid()))


def test_whoever_is_in_the_cgroup_moves_into_a_leaf_first(kernel: FakeFiles) -> None:
    """The kernel refuses to hand a controller down from a cgroup with processes."""
    controllers = Controllers(Leaves(kernel.folder, ""), kernel)

    assert [controllers.enable(name) for name in ("cpu", "memory", "cpu")] == ["", "", ""]

    assert kernel.enabled == {"cpu", "memory"}
    assert kernel.pids("daemon") == {10, 11, os.getpid()}
    assert kernel.pids() == set()


def test_who_is_forked_meanwhile_moves_too(kernel: FakeFiles) -> None:
    """The keeper forks shims at any time."""
    kernel.forks = 3

    assert Controllers(Leaves(kernel.folder, ""), kernel).enable("cpu") == ""

    assert kernel.pids("daemon") == {10, 11, os.getpid(), 1001, 1002, 1003}


def test_it_is_put_back_at_the_end(kernel: FakeFiles) -> None:
    """So that the manager may start the next daemon in it; with the leaf."""
    controllers = Controllers(Leaves(kernel.folder, ""), kernel)
    controllers.enable("cpu")

    controllers.put_back()
    controllers.put_back()

    assert kernel.enabled == set()
    assert kernel.pids() == {10, 11, os.getpid()}
    assert not (kernel.folder / "daemon").exists()


def test_what_was_there_before_stays_there(kernel: FakeFiles) -> None:
    """DelegateSubgroup= has put the daemon into a leaf, and somebody has enabled a controller."""
    controllers = Controllers(Leaves(kernel.folder, ""), kernel)
    controllers.enable("memory")
    second = Controllers(Leaves(kernel.folder, ""), kernel)

    assert second.enable("memory") == ""
    second.put_back()
    assert kernel.enabled == {"memory"}
    second.enable("cpu")
    second.put_back()

    assert kernel.enabled == {"memory"}
    assert kernel.pids("daemon") == {10, 11, os.getpid()}


def test_leaves_of_another_daemon_keep_what_they_need(kernel: FakeFiles) -> None:
    """Theirs are the limits too."""
    controllers = Controllers(Leaves(kernel.folder, ""), kernel)
    controllers.enable("memory")
    (kernel.folder / "gpu-supervisor.1.a.0").mkdir()

    controllers.put_back()

    assert kernel.enabled == {"memory"}


def test_a_leaf_of_our_own_that_cannot_be_emptied_keeps_nothing(kernel: FakeFiles) -> None:
    """With controllers left on, the manager could not start another daemon beside it."""
    controllers = Controllers(Leaves(kernel.folder, ""), kernel)
    controllers.enable("memory")
    (kernel.folder / f"gpu-supervisor.{os.getpid()}.a.0").mkdir()

    controllers.put_back()

    assert (kernel.enabled, kernel.pids()) == (set(), {10, 11, os.getpid()})


def test_who_moved_in_vain_moves_back(tmp_path: Path) -> None:
    """Somebody else's process is still in the way."""
    kernel = FakeFiles(tmp_path / "cg", ("cpu",), (0, 10, os.getpid()))
    controllers = Controllers(Leaves(kernel.folder, ""), kernel)
    assert controllers.enable("cpu") != ""
    assert kernel.pids("daemon") == {10, os.getpid()}

    controllers.put_back()

    assert kernel.pids() == {0, 10, os.getpid()}
    assert not (kernel.folder / "daemon").exists()


def test_a_controller_that_was_not_given_is_a_reason(kernel: FakeFiles) -> None:
    """And nobody has to move for it."""
    why = Controllers(Leaves(kernel.folder, ""), kernel).enable("io")

    assert why == f"no such controller in {kernel.folder}"
    assert kernel.pids() == {10, 11, os.getpid()}


def test_without_a_delegated_cgroup_that_is_the_reason() -> None:
    """The same words as in the log."""
    assert Controllers(Leaves(None, "no cgroup v2 here")).enable("cpu") == "no cgroup v2 here"


def test_a_process_that_cannot_be_named_is_in_the_way(tmp_path: Path) -> None:
    """One of another pid namespace shows as 0, and 0 means whoever writes it."""
    kernel = FakeFiles(tmp_path / "cg", ("cpu",), (0,))

    why = Controllers(Leaves(kernel.folder, ""), kernel).enable("cpu")

    assert why == f"cannot enable controllers in {kernel.folder}: somebody else's process is in it"
    assert not (kernel.folder / "daemon").exists()


def test_the_leaf_of_an_earlier_daemon_is_not_the_delegated_cgroup(tmp_path: Path) -> None:
    """At the root of a namespace whoever was moved starts the next daemon in that leaf."""
    folder = cgroup(tmp_path, "")
    cgroup(tmp_path, "daemon")

    assert find_leaves(proc(tmp_path, "/daemon")) == Leaves(folder, "root of a cgroup namespace")
