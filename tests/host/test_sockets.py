from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import CannotError
from supervisor.host.sockets import adopt_control, bind_control, renew_control
from supervisor.rendezvous import private_folder
from tests.host import looping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

no_leaks = looping.no_leaks

OTHER = """
import signal, sys
from pathlib import Path
from supervisor.host.sockets import bind_control
bound = bind_control(Path(sys.argv[1]))
print("bound", flush=True)
signal.pause()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "control.sock"


@contextmanager
def other_daemon(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real process that has the socket."""
    with subprocess.Popen([sys.executable, "-c", OTHER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "bound\n"
            yield process
        finally:
            process.kill()


def test_bound_socket_listens_and_is_ours_alone(path: Path) -> None:
    """The folder is 0700, socket and lock are 0600, whatever the umask, which stays as it was."""
    before = os.umask(0)
    try:
        bound = bind_control(path)
        assert os.umask(0) == 0
    finally:
        os.umask(before)

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((path.parent / "control.sock.lock").stat().st_mode) == 0o600
    assert not bound.socket.getblocking()
    assert not bound.socket.get_inheritable()
    assert not os.get_inheritable(bound.lock)
    bound.close()


def test_close_leaves_nothing_and_the_place_can_be_had_again(path: Path) -> None:
    """Socket and lock are removed, the folder stays."""
    for _ in range(3):
        bind_control(path).close()

    assert list(path.parent.iterdir()) == []


def test_close_leaves_what_another_put_there(path: Path) -> None:
    """A file that took our place is not ours to remove."""
    bound = bind_control(path)
    path.unlink()
    path.write_text("somebody else's")

    bound.close()

    assert path.read_text() == "somebody else's"


def test_second_daemon_is_refused_with_the_pid_of_the_first(path: Path) -> None:
    """One socket, one daemon; the second ends with 75 and leaves the first alone."""
    with other_daemon(path) as first:
        with pytest.raises(CannotError) as error:
            bind_control(path)

        assert f"cannot start: another daemon (pid {first.pid}) has {path}" == str(error.value)
        assert error.value.exit_code == 75
        assert error.value.hint
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_second_daemon_is_refused_even_if_the_lock_was_cleaned_away(path: Path) -> None:
    """Cleaners of /tmp remove the lock's file; the first still answers, and the kernel knows its pid."""
    with other_daemon(path) as first:
        (path.parent / "control.sock.lock").unlink()
        with pytest.raises(CannotError, match=rf"\(pid {first.pid}\)") as error:
            bind_control(path)

        assert error.value.exit_code == 75
        assert [file.name for file in path.parent.iterdir()] == ["control.sock"]


def test_socket_of_a_killed_daemon_is_taken_over(path: Path) -> None:
    """SIGKILL leaves the files; the next daemon removes and replaces them."""
    with other_daemon(path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert path.is_socket()

    bound = bind_control(path)

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert f"{os.getpid()}\n" == (path.parent / "control.sock.lock").read_text()
    bound.close()


def test_daemon_with_a_full_backlog_is_alive(path: Path) -> None:
    """A first daemon that is too busy to accept is not taken for dead."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        callers = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
        for caller in callers:
            caller.connect_ex(str(path))

        with pytest.raises(CannotError, match="another daemon has") as error:
            bind_control(path)

        assert error.value.exit_code == 75
        for caller in callers:
            caller.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_file_that_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    """What a typing error names is never removed."""
    path.parent.mkdir()
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        (path.parent / "precious").touch()
        path.symlink_to(path.parent / "precious")

    with pytest.raises(CannotError, match="is no socket"):
        bind_control(path)

    assert os.path.lexists(path)
    assert not (path.parent / "control.sock.lock").exists()


def test_link_in_place_of_the_lock_is_not_followed(path: Path) -> None:
    """Nobody gets us to write into another file."""
    path.parent.mkdir()
    victim = path.parent / "victim"
    victim.write_text("precious")
    (path.parent / "control.sock.lock").symlink_to(victim)

    with pytest.raises(CannotError, match="cannot listen on"):
        bind_control(path)

    assert victim.read_text() == "precious"


@pytest.mark.parametrize("attack", ["link", "dangling link", "open"])
def test_folder_in_tmp_that_is_not_ours_alone_is_refused(tmp_path: Path, attack: str) -> None:
    """Somebody who was in /tmp first gets neither our socket nor our lock."""
    private = private_folder(os.geteuid(), tmp_path)
    elsewhere = tmp_path / "elsewhere"
    if attack == "open":
        private.mkdir()
        private.chmod(0o777)
    else:
        private.symlink_to(elsewhere)
        if attack == "link":
            elsewhere.mkdir()

    for path in (private / "control.sock", private / "blue" / "control.sock"):
        with pytest.raises(CannotError, match="cannot use"):
            bind_control(path, tmp=tmp_path)

    assert not elsewhere.exists() or list(elsewhere.iterdir()) == []
    assert not (private / "control.sock").exists()


def test_folder_in_tmp_is_made_closed(tmp_path: Path) -> None:
    """The folder of a user without a runtime directory is 0700, an instance's in it too."""
    private = private_folder(os.geteuid(), tmp_path)

    bound = bind_control(private / "blue" / "control.sock", tmp=tmp_path)

    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (private, private / "blue")] == [0o700, 0o700]
    bound.close()


@pytest.mark.parametrize("where", ["/proc/none/control.sock", "/dev/null/control.sock", "/sys/control.sock"])
def test_errors_of_the_system_are_told_in_words(tmp_path: Path, where: str) -> None:
    """No traceback: a sentence and what to do."""
    from pathlib import Path

    with pytest.raises(CannotError, match=f"cannot listen on {where}: [a-z]") as error:
        bind_control(Path(where))

    assert "--socket" in error.value.hint
    assert error.value.exit_code == 1


def test_path_too_long_is_told(tmp_path: Path) -> None:
    """The kernel's limit is named before the kernel is asked."""
    with pytest.raises(CannotError, match="at most 107 bytes"):
        bind_control(tmp_path / ("x" * 100) / "control.sock")


def inherited(path: Path, mode: int = 0o600) -> socket.socket:
    """As a service manager makes one."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    path.chmod(mode)
    return listener


def test_one_that_a_service_manager_has_made_is_his_also_at_the_end(tmp_path: Path) -> None:
    """Ours is only the lock beside it; and its file cannot be made anew."""
    path = tmp_path / "control.sock"
    control = adopt_control(inherited(path), path)
    with pytest.raises(CannotError, match="another daemon"):
        bind_control(path)
    assert renew_control(control) is None

    control.close()

    assert [one.name for one in tmp_path.iterdir()] == ["control.sock"]

    again = adopt_control(inherited(tmp_path / "other.sock"), tmp_path / "other.sock")
    (tmp_path / "other.sock").unlink()
    with pytest.raises(CannotError, match="a service manager has made it"):
        renew_control(again)
    again.close()


def test_one_that_everybody_may_connect_to_is_refused(tmp_path: Path) -> None:
    """Whoever connects may stop everything."""
    path = tmp_path / "control.sock"
    with inherited(path, 0o666) as listener, pytest.raises(CannotError, match="everybody may connect") as refused:
        adopt_control(listener, path)

    assert "SocketMode=0600" in (refused.value.hint or "")
    assert not path.with_name("control.sock.lock").exists()
