"""Who answers on a port: the worker's tree, a stranger, or nobody knows."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.host.listeners import find_listeners, stranger_on

LISTEN = (
    "import socket, sys, time; s = socket.create_server((sys.argv[1], 0)); print(s.getsockname()[1], flush=True);"
    " time.sleep(600)"
)


@pytest.fixture
def child() -> Iterator[tuple[int, int]]:
    """Pid and port of a child that listens."""
    read, write = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", LISTEN, "127.0.0.1"],
        dict(os.environ),
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
    )
    os.close(write)
    with os.fdopen(read) as said:
        port = int(said.readline())
    yield pid, port
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_who_is_below_the_shim_is_no_stranger(child: tuple[int, int]) -> None:
    """The tree of this process has the listener; that of the child itself has not."""
    pid, port = child

    assert stranger_on(port, os.getpid()) == ""
    assert stranger_on(port, pid).startswith(f"pid {pid} (")


def test_nobody_who_listens_is_no_stranger() -> None:
    """A port that is answered from elsewhere, such as another network, says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert [one.uid for one in find_listeners(port)] == [os.geteuid()]

    assert stranger_on(port, os.getpid()) == ""


def test_what_may_not_be_read_is_no_stranger(child: tuple[int, int], tmp_path: Path) -> None:
    """Without the tables of the kernel, or with a tree that hides, the worker has the benefit of the doubt."""
    assert stranger_on(child[1], 1, proc=tmp_path) == ""
