"""The way to the service manager: what it gave us, and datagrams that never hold up the loop."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from supervisor.host.systemd import Manager, Notifier, find_manager, find_unit, is_journal
from tests.host.looping import Run, no_leaks, run, until

__all__ = ["no_leaks", "run"]


def listener(address: str) -> socket.socket:
    """A manager's end."""
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(address)
    ear.setblocking(False)
    return ear


def heard(ear: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(ear.recv(65536).decode())
        except BlockingIOError:
            return found


def test_the_managers_words_are_taken_out_of_the_environment() -> None:
    """Nobody whom we start may speak in our place."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "HOME": "/"}

    assert find_manager(environ, 7) == Manager("/run/notify", 3.0)
    assert environ == {"HOME": "/"}


def test_without_a_manager_there_is_none() -> None:
    """A shell, a container, cron; and a watchdog needs a way to tell."""
    assert find_manager({}, 7) is None
    assert find_manager({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "3000000"}, 7) is None
    assert find_manager({"NOTIFY_SOCKET": "vsock:2:1234"}, 7) is None


def test_an_abstract_address_begins_with_a_zero_byte() -> None:
    """As sd_notify(3) writes it, and as the kernel takes it."""
    assert find_manager({"NOTIFY_SOCKET": "@/org/notify"}, 7) == Manager("\0/org/notify")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("4000000", "", 4.0), ("4000000", "8", None), ("0", "7", None), ("soon", "7", None), ("", "", None)],
)
def test_the_watchdog_is_for_the_process_that_it_names(usec: str, pid: str, expected: float | None) -> None:
    """One of a parent is not ours."""
    found = find_manager({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}, 7)

    assert found == Manager("/run/notify", expected)


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ("0::/system.slice/system-gpu.slice/gpu-supervisor@llm.service", "gpu-supervisor@llm.service"),
        ("0::/system.slice/gpu-supervisor@llm.service/daemon", "gpu-supervisor@llm.service"),
        ("1:name=systemd:/\n0::/user.slice/user@7.service/app.slice/gpu.service", "gpu.service"),
        ("0::/user.slice/session-3.scope", None),
        ("", None),
    ],
)
def test_the_unit_is_that_of_our_cgroup(tmp_path: Path, cgroup: str, expected: str | None) -> None:
    """Also with a group of our own below it, and for a service of a user."""
    (tmp_path / "cgroup").write_text(cgroup)

    assert find_unit({"INVOCATION_ID": "1f", "SYSTEMD_EXEC_PID": "7"}, 7, tmp_path) == expected


@pytest.mark.parametrize("environ", [{}, {"INVOCATION_ID": "1f"}, {"INVOCATION_ID": "1f", "SYSTEMD_EXEC_PID": "8"}])
def test_what_a_service_left_in_a_shell_makes_no_unit(tmp_path: Path, environ: dict[str, str]) -> None:
    """A terminal is a service too, and who is started in it is not systemd's."""
    (tmp_path / "cgroup").write_text("0::/user@7.service/terminal.service")

    assert find_unit(environ, 7, tmp_path) is None


def test_the_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    """A variable alone says nothing: stderr may have gone elsewhere since."""
    with (tmp_path / "stream").open("wb") as stream:
        status = os.fstat(stream.fileno())
        right = f"{status.st_dev}:{status.st_ino}"

        assert is_journal({"JOURNAL_STREAM": right}, stream.fileno())
        assert not is_journal({"JOURNAL_STREAM": "1:1"}, stream.fileno())
        assert not is_journal({}, stream.fileno())
    assert not is_journal({"JOURNAL_STREAM": right}, 10_000)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_messages_arrive_in_order(tmp_path: Path, run: Run, kind: str) -> None:
    """One datagram each, one field a line."""
    address = str(tmp_path / "notify") if kind == "path" else f"\0gpu-supervisor-test-{os.getpid()}"

    async def main() -> None:
        with listener(address) as ear:
            notifier = Notifier(address)
            notifier.tell(ready=1, status="4 of 4\nworkers ready")
            notifier.tell(watchdog=1)
            notifier.close()

            assert heard(ear) == ["READY=1\nSTATUS=4 of 4 workers ready", "WATCHDOG=1"]

    run(main())


def test_a_manager_that_does_not_read_holds_up_nothing_and_loses_nothing(tmp_path: Path, run: Run) -> None:
    """What it does not take is sent once it reads again, in order."""
    address = str(tmp_path / "notify")

    async def main() -> None:
        with listener(address) as ear:
            notifier = Notifier(address)
            for number in range(40):
                notifier.tell(status=number)
            seen = heard(ear)
            assert len(seen) < 40, "the queue of a socket is longer than this test believes"

            def has_all() -> bool:
                seen.extend(heard(ear))
                return len(seen) >= 40

            await until(has_all)

            assert seen == [f"STATUS={number}" for number in range(40)]
            notifier.close()

    run(main())


def test_a_manager_that_never_reads_costs_a_bounded_memory(tmp_path: Path, run: Run) -> None:
    """And no time at the end."""
    address = str(tmp_path / "notify")

    async def main() -> None:
        with listener(address):
            notifier = Notifier(address)
            for number in range(10_000):
                notifier.tell(status=number)
            assert len(notifier._queue) <= 64
            notifier.close()

    run(main())


def test_a_manager_that_is_gone_is_complained_of_once(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable that somebody left behind ends nothing."""

    async def main() -> None:
        notifier = Notifier(str(tmp_path / "nobody"))
        notifier.tell(ready=1)
        notifier.tell(watchdog=1)
        notifier.close()

    run(main())

    assert capsys.readouterr().out.count("manager.unreachable") == 1
