"""What a service manager hands over is ours if it says so, and nobody else's."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from supervisor.core.file.listen import Address
from supervisor.host.activation import Inherited, find_control

PROGRAM = """
import os, sys
from supervisor.host.activation import take_sockets
os.environ["LISTEN_PID"] = str(os.getpid()) if sys.argv[1] == "ours" else "1"
for one in take_sockets(os.environ, os.getpid()):
    print(one.name, one.address, os.get_inheritable(one.socket.fileno()), one.socket.getblocking())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""
ROOT = Path(__file__).parents[2]


def handed(names: str, *sockets: socket.socket, whose: str = "ours") -> list[str]:
    """What a process finds of these, from descriptor 3 on."""
    env = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
    high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 50) for one in sockets]
    moves = " ".join(f"{number}<&{fd}" for number, fd in enumerate(high, 3))
    script = f'exec {sys.executable} -c "$1" {whose} {moves}'
    done = subprocess.run(
        ["bash", "-c", script, "bash", PROGRAM], env=env, pass_fds=high, capture_output=True, text=True, check=True
    )
    for fd in high:
        os.close(fd)
    return done.stdout.splitlines()


def test_sockets_are_known_by_where_they_listen() -> None:
    """IPv4, IPv6 and paths; what is no listening socket has no address."""
    with (
        tempfile.TemporaryDirectory(prefix="gs") as folder,
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as six,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        unix.bind(f"{folder}/a.sock")
        unix.listen()

        found = handed("web.http:six:unix:other", four, six, unix, other)

        assert found == [
            f"web.http tcp://127.0.0.1:{four.getsockname()[1]} False True",
            f"six tcp://[::]:{six.getsockname()[1]} False True",
            f"unix unix:{folder}/a.sock False True",
            "other None False True",
            "[]",
        ]


def test_what_was_meant_for_another_process_is_left_alone() -> None:
    """A shell may have left the variables in the environment."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert handed("a", one, whose="another") == ["[]"]


def test_the_control_socket_is_known_by_its_name_or_its_place() -> None:
    """Nothing else is taken for it."""
    with socket.socket(socket.AF_UNIX) as one:
        named = Inherited("control", Address("unix", "/elsewhere"), one)
        placed = Inherited("", Address("unix", "/run/control.sock"), one)
        others = (
            Inherited("control", None, one),
            Inherited("control", Address("tcp", "127.0.0.1", 80), one),
            Inherited("web.http", Address("unix", "/other"), one),
        )

        assert find_control((*others, placed, named), "/run/control.sock") is named
        assert find_control((*others, placed), "/run/control.sock") is placed
        assert find_control(others, "/run/control.sock") is None
