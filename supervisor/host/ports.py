"""
Owns which TCP ports workers are given to meet at: free ones, each for one worker, none that the file names.

Must not keep a port bound: its worker binds it, maybe minutes later.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from supervisor.core.spec import WorkerId

# Below what the kernel gives to outgoing connections (from 32768), so that none of those takes a port before its worker
# does; below torchrun's own 29500, and Kubernetes' node ports from 30000; above Ray's workers, up to 19999.
FIRST, LAST = 20000, 29499
_STRIDE = 97  # Daemons that start side by side begin apart.


class Ports:
    """
    Ports by worker.

    Args:
        first, last: What to choose from.
    """

    def __init__(self, first: int = FIRST, last: int = LAST) -> None:
        self._first = first
        self._count = last - first + 1
        self._next = os.getpid() * _STRIDE % self._count
        self._given: dict[WorkerId, int] = {}

    def find(self, worker: WorkerId, avoid: Container[int] = ()) -> int:
        """
        A port for a worker, another one than it had: that may not have come to rest yet.

        Args:
            worker: Who gets it; it keeps it, against the other workers, until it gets another one or forget().
            avoid: Ports of the file.

        Raises:
            OSError: None is free.
        """
        given = set(self._given.values())
        for step in range(self._count):
            port = self._first + (self._next + step) % self._count
            if port not in given and port not in avoid and _is_free(port):
                self._next = (self._next + step + 1) % self._count
                self._given[worker] = port
                return port
        raise OSError(errno.EADDRINUSE, f"every port from {self._first} to {self._first + self._count - 1} is taken")

    def forget(self, worker: WorkerId) -> None:
        """Let others have a worker's port."""
        self._given.pop(worker, None)


def _is_free(port: int) -> bool:
    """Whether nobody has it, on any address. A socket of the family 6 asks for both."""
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104 - Not listened to.
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                probe.bind((address, port))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                continue
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True
