"""Names, users and workers of processes that the driver tells by their pids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.core.inventory import Holder
from supervisor.core.spec import WorkerId
from supervisor.host.holders import Describer


class Machine:
    """A process table and a user database of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.users = folder / "passwd"
        self.users.write_text("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1000:1::/:/b\n")

    def run(self, pid: int, parent: int, *, name: str = "python", uid: int = 1000) -> None:
        (self.proc / str(pid)).mkdir(parents=True)
        text = f"Name:\t{name}\nUmask:\t0022\nPPid:\t{parent}\nUid:\t{uid}\t0\t0\t0\nSigQ:\t1/2\n"
        (self.proc / str(pid) / "status").write_text(text)

    def describer(self, before: tuple[Holder, ...] = (), **owners: int) -> Describer:
        workers = {pid: WorkerId(name, 0) for name, pid in owners.items()}
        return Describer(workers, {one.pid: one for one in before}, proc=self.proc, users=self.users)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_stranger_has_a_name_and_a_user(machine: Machine) -> None:
    """The first name of a number counts; a number that nobody has is shown as it is."""
    machine.run(50, 1)
    machine.run(51, 50, name="vllm", uid=4242)
    describer = machine.describer()

    assert describer.describe(50, 7) == Holder(50, 7, "python", "ann")
    assert describer.describe(51, None) == Holder(51, None, "vllm", "4242")


def test_who_is_below_a_worker_is_the_workers(machine: Machine) -> None:
    """Through as many parents as there are, and the worker's own process too."""
    machine.run(10, 1)
    for pid in range(11, 20):
        machine.run(pid, pid - 1)
    machine.run(30, 1)
    describer = machine.describer(llm=12, other=99)

    assert describer.describe(19, 1).worker == "llm/0"
    assert describer.describe(12, 1).worker == "llm/0"
    assert describer.describe(11, 1).worker == ""
    assert describer.describe(30, 1).worker == ""


@pytest.mark.parametrize("pid", [4711, 0, -1])
def test_who_is_not_there_has_no_name(machine: Machine, pid: int) -> None:
    """Hidden, of another PID namespace, or gone; the memory is taken all the same."""
    assert machine.describer().describe(pid, 5) == Holder(pid, 5)


def test_who_is_gone_and_still_listed_stays_who_it_was(machine: Machine) -> None:
    """The driver notices an end late: until then what a worker had is not back. A pid used again is another's."""
    before = (Holder(50, 7, "python", "ann", "llm/0"), Holder(60, 7, "python", "ann", "llm/0"))
    machine.run(60, 1, name="vi")
    describer = machine.describer(before)

    assert describer.describe(50, 5) == Holder(50, 5, "python", "ann", "llm/0")
    assert describer.describe(60, 5) == Holder(60, 5, "vi", "ann")


def test_a_parent_that_is_hidden_ends_the_search(machine: Machine) -> None:
    """And pids that were used again lead nobody in a circle."""
    machine.run(50, 49)
    machine.run(60, 61)
    machine.run(61, 60)
    describer = machine.describer(llm=12)

    assert describer.describe(50, 5).worker == ""
    assert describer.describe(60, 5).worker == ""


def test_a_name_is_what_the_process_set(machine: Machine) -> None:
    """The kernel escapes line feeds and backslashes in it."""
    machine.run(50, 1, name="a\\nPPid:\\\\ b")

    assert machine.describer().describe(50, 5).name == "a\nPPid:\\ b"


def test_a_user_database_that_changes_is_read_again(machine: Machine) -> None:
    """A user that was added has a name in the next reading; without a database there are numbers."""
    machine.run(50, 1, uid=77)
    assert machine.describer().describe(50, 5).user == "77"

    machine.users.write_text("eve:x:77:77::/:/bin/sh\n")
    assert machine.describer().describe(50, 5).user == "eve"

    machine.users.unlink()
    assert machine.describer().describe(50, 5).user == "77"


def test_the_kernels_own_files_are_understood() -> None:
    """This process, as the machine shows it."""
    holder = Describer({os.getppid(): WorkerId("llm", 3)}).describe(os.getpid(), 1)

    assert holder.name == Path("/proc/self/comm").read_text().rstrip("\n")
    assert holder.worker == "llm/3"
    assert holder.user
