"""Ports that workers meet at: free, each for one, none of the file."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from supervisor.core.spec import WorkerId
from supervisor.host.ports import FIRST, LAST, Ports

A, B, C = (WorkerId(name, 0) for name in "abc")


@contextmanager
def taken(port: int, address: str = "127.0.0.1") -> Iterator[None]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((address, port))
        other.listen()
        yield


def free_run(count: int) -> int:
    """The first of so many ports in a row that nobody has."""
    ports = Ports()
    row: list[int] = []
    while len(row) < count:
        port = ports.find(A)
        row = [*row, port] if row and port == row[-1] + 1 else [port]
    return row[0]


def test_workers_get_ports_of_their_own_that_can_be_bound() -> None:
    """In the range that no outgoing connection comes from."""
    ports = Ports()

    found = [ports.find(WorkerId("a", index)) for index in range(20)]

    assert len(set(found)) == 20
    assert all(FIRST <= port <= LAST for port in found)
    with taken(found[0]), taken(found[-1]):
        pass


def test_a_port_that_somebody_has_is_passed_over() -> None:
    """On whatever address; and those of the file, which may not be bound yet."""
    first = free_run(4)
    ports = Ports(first, first + 3)

    with taken(first), taken(first + 1, "0.0.0.0"):
        assert ports.find(A, {first + 2}) == first + 3


def test_a_worker_keeps_its_port_against_others_until_it_has_another() -> None:
    """It may bind it minutes after its start. The next start gets another one, so that the old one may come to rest."""
    first = free_run(3)
    ports = Ports(first, first + 2)

    found = [ports.find(A), ports.find(B), ports.find(A)]

    assert sorted(found) == [first, first + 1, first + 2]
    assert ports.find(C) == found[0]
    with pytest.raises(OSError, match="every port") as refused:
        ports.find(WorkerId("d", 0))
    assert refused.value.errno == errno.EADDRINUSE
    ports.forget(B)
    assert ports.find(WorkerId("d", 0)) == found[1]
