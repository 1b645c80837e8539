from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor import rendezvous
from supervisor.errors import CannotError
from supervisor.rendezvous import control_path, find_control, private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOMEBODY = os.getuid() or 12345


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Folders in place of /run and /tmp, and a runtime directory of SOMEBODY's."""
    for name in ("run", "tmp", "xdg"):
        (tmp_path / name).mkdir()
    give(tmp_path / "xdg")
    return tmp_path


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for listener in sockets:
        listener.close()


def give(path: Path) -> None:
    if os.getuid() == 0:
        os.chown(path, SOMEBODY, SOMEBODY)


def listen(path: Path, listeners: list[socket.socket]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listeners.append(listener)
    return path


def kill(path: Path) -> Path:
    """Leave a socket behind as a daemon does that was killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def place(
    home: Path,
    *,
    explicit: str | None = None,
    instance: str | None = None,
    uid: int = 0,
    environ: Mapping[str, str] | None = None,
) -> Path:
    return control_path(explicit, instance, environ or {}, uid, run=home / "run", tmp=home / "tmp")


def find(
    home: Path,
    *,
    explicit: str | None = None,
    instance: str | None = None,
    uid: int = 0,
    environ: Mapping[str, str] | None = None,
) -> Path:
    return Path(find_control(explicit, instance, environ or {}, uid, run=home / "run", tmp=home / "tmp"))


def test_roots_daemon_is_in_run(home: Path) -> None:
    """Root's socket is in /run, an instance's in a folder of its name, whatever the runtime directory."""
    xdg = str(home / "xdg")

    assert home / "run/gpu-supervisor/control.sock" == place(home, environ={"XDG_RUNTIME_DIR": xdg})
    assert home / "run/gpu-supervisor/blue/control.sock" == place(home, instance="blue")


def test_users_daemon_is_in_the_runtime_directory(home: Path) -> None:
    """A user's socket is in XDG_RUNTIME_DIR."""
    xdg = str(home / "xdg")

    assert home / "xdg/gpu-supervisor/control.sock" == place(home, uid=SOMEBODY, environ={"XDG_RUNTIME_DIR": xdg})
    assert home / "xdg/gpu-supervisor/b/control.sock" == place(
        home, uid=SOMEBODY, instance="b", environ={"XDG_RUNTIME_DIR": xdg}
    )


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/at/all", "other"])
def test_users_daemon_without_a_runtime_directory_of_his_is_in_tmp(home: Path, runtime: str) -> None:
    """After `su` the variable names another user's directory, which is none of ours."""
    runtime = str(home) if runtime == "other" else runtime
    uid = 4242

    path = place(home, uid=uid, environ={"XDG_RUNTIME_DIR": runtime})

    assert home / "tmp/gpu-supervisor-4242/control.sock" == path


def test_named_sockets_come_first(home: Path) -> None:
    """The option beats the instance, and the instance the environment."""
    environ = {"GPU_SUPERVISOR_SOCKET": "/srv/env.sock"}

    assert str(place(home, explicit="/srv/x/../opt.sock", instance="b", environ=environ)) == "/srv/opt.sock"
    assert home / "run/gpu-supervisor/b/control.sock" == place(home, instance="b", environ=environ)
    assert str(place(home, environ=environ)) == "/srv/env.sock"
    assert str(find(home, environ=environ)) == "/srv/env.sock"
    assert Path.cwd() / "here.sock" == find(home, explicit="here.sock")
    assert home / "run/gpu-supervisor/control.sock" == place(home, environ={"GPU_SUPERVISOR_SOCKET": ""})


@pytest.mark.parametrize("instance", ["", "..", "a/b", "-x", "ä", "x" * 64])
def test_bad_instance_names_are_usage_errors(home: Path, instance: str) -> None:
    """A name that would leave the folder is refused."""
    with pytest.raises(CannotError, match="cannot use instance") as error:
        place(home, instance=instance)
    assert error.value.exit_code == 2


def test_paths_too_long_for_a_socket_are_told(home: Path) -> None:
    """108 bytes are one too many, counted as bytes."""
    assert place(home, explicit="/" + "x" * 106)
    with pytest.raises(CannotError, match="109 bytes, the system takes 107") as error:
        place(home, explicit="/" + "å" * 54)
    assert error.value.exit_code == 2
    with pytest.raises(CannotError, match="empty"):
        place(home, explicit="")


def test_client_finds_the_usual_daemon(home: Path, listeners: list[socket.socket]) -> None:
    """Where a daemon without a name runs, instances do not matter."""
    usual = listen(home / "run/gpu-supervisor/control.sock", listeners)
    listen(home / "run/gpu-supervisor/blue/control.sock", listeners)

    assert usual == find(home)


def test_client_finds_the_only_instance(home: Path, listeners: list[socket.socket]) -> None:
    """One instance needs no name; sockets of the dead do not count."""
    blue = listen(home / "run/gpu-supervisor/blue/control.sock", listeners)
    kill(home / "run/gpu-supervisor/red/control.sock")
    kill(home / "run/gpu-supervisor/control.sock")

    assert blue == find(home)
    assert blue == find(home, instance="blue")


def test_several_instances_are_listed(home: Path, listeners: list[socket.socket]) -> None:
    """Which one is for the user to say."""
    blue = listen(home / "run/gpu-supervisor/blue/control.sock", listeners)
    red = listen(home / "run/gpu-supervisor/red/control.sock", listeners)

    with pytest.raises(CannotError, match="2 are running") as error:
        find(home)

    assert error.value.exit_code == 2
    assert f"{blue}, {red}" in str(error.value)
    assert "--instance" in error.value.hint


@pytest.mark.parametrize("instance", [None, "blue"])
def test_no_daemon_is_exit_four(home: Path, instance: str | None) -> None:
    """Nobody there is told with the place and with what to do."""
    with pytest.raises(CannotError, match="cannot reach the daemon: no daemon answers at") as error:
        find(home, instance=instance)

    assert error.value.exit_code == 4
    assert "gpu-supervisor run" in error.value.hint


def test_client_in_a_session_finds_a_daemon_started_without_one(home: Path, listeners: list[socket.socket]) -> None:
    """A daemon of cron has no runtime directory; its user's shell looks in /tmp too."""
    private = private_folder(SOMEBODY, home / "tmp")
    private.mkdir(mode=0o700)
    give(private)
    path = listen(private / "control.sock", listeners)

    assert path == find(home, uid=SOMEBODY, environ={"XDG_RUNTIME_DIR": str(home / "xdg")})


@pytest.mark.parametrize(
    ("attack", "cause"),
    [("link", "symbolic link"), ("file", "not a directory"), ("open", "mode 0755"), ("owner", "belongs to user")],
)
def test_client_refuses_what_others_put_in_tmp(home: Path, attack: str, cause: str) -> None:
    """A folder in /tmp that is not ours alone may hold somebody else's daemon."""
    private = private_folder(SOMEBODY, home / "tmp")
    if attack == "link":
        private.symlink_to(home / "xdg")
    elif attack == "file":
        private.touch()
    else:
        private.mkdir(mode=0o755 if attack == "open" else 0o700)
        if attack == "owner":
            if os.getuid():
                pytest.skip("needs root to make somebody else's folder")
        else:
            give(private)

    with pytest.raises(CannotError, match=cause):
        find(home, uid=SOMEBODY)


def test_a_padded_row_of_the_kernels_table_is_read(tmp_path: Path) -> None:
    """Its inodes are set flush right."""
    table = tmp_path / "unix"
    table.write_text("head\n0000: 00000002 00000000 00010000 0001 01     42 /run/a b.sock\n")

    assert rendezvous.is_listening(Path("/run/a b.sock"), table)
