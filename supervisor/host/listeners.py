"""
Reads who listens on a port of loopback: the worker's own tree, or a stranger.

Changes nothing, and says nothing about what it may not read: a doubt must not keep a worker from being ready.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTEN = "0A"
_LOOPBACK = {"127.0.0.1": "0100007F", "::1": "00000000000000000000000001000000"}
_ANY = frozenset({"0" * 8, "0" * 32})
_MAPPED = "0000000000000000FFFF0000"

GO_BETWEENS = frozenset({"docker-proxy", "rootlessport", "slirp4netns", "pasta", "pasta.avx2"})
"""They answer for a container that may well be the worker's, though not below it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket: its inode, and whose it is by the kernel's word."""

    inode: int
    uid: int


def stranger_on(port: int, root: int, *, proc: Path = PROC) -> str:
    """
    Who answers on a port instead of a worker.

    Args:
        port: TCP, on loopback.
        root: Pid of the worker's shim, below which is all of its tree.
        proc: In place of ``/proc``.

    Returns:
        In words; empty if it is the worker, if nobody listens, or if that cannot be told.
    """
    listeners = find_listeners(port, proc)
    inodes = {one.inode for one in listeners}
    if not inodes:
        return ""  # Somebody answers from elsewhere: another network namespace, say.
    for pid in _tree(root, proc):
        held = _sockets(pid, proc)
        if held is None or held & inodes:
            return ""
    return _name_stranger(inodes, proc)


def holder_of(port: int, *, proc: Path = PROC) -> str:
    """Who listens on a port at whatever address, in words; empty if that cannot be told."""
    rows = (row for name in ("tcp", "tcp6") for row in _rows(proc / "net" / name))
    inodes = {inode for _, at, _, inode in rows if at == port}
    return _name_stranger(inodes, proc) if inodes else ""


def find_listeners(port: int, proc: Path = PROC) -> list[Listener]:
    """The sockets that take a connection to this port on 127.0.0.1, or else on ::1; the most particular ones."""
    rows = [row for name in ("tcp", "tcp6") for row in _rows(proc / "net" / name) if row[1] == port]
    for wanted in (
        {_LOOPBACK["127.0.0.1"], _MAPPED + _LOOPBACK["127.0.0.1"]},
        _ANY,
        {_LOOPBACK["::1"]},
    ):
        if found := [Listener(inode, uid) for address, _, uid, inode in rows if address in wanted]:
            return found
    return []


def _rows(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """Address, port, uid and inode of what listens."""
    try:
        lines = path.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, _, port = fields[1].partition(":")
            yield _in_order(address), int(port, 16), int(fields[7]), int(fields[9])


def _in_order(address: str) -> str:
    """Words of the address as a little-endian machine prints them."""
    if struct.pack("=I", 1) == struct.pack("<I", 1):
        return address
    words = [address[at : at + 8] for at in range(0, len(address), 8)]
    return "".join("".join(reversed([word[at : at + 2] for at in range(0, 8, 2)])) for word in words)


def _tree(root: int, proc: Path) -> Iterator[int]:
    queue = [root]
    seen = set(queue)
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(proc / str(pid) / "task"):  # noqa: PTH208 - Names are all that is wanted.
                text = (proc / str(pid) / "task" / thread / "children").read_text()
                found = [child for child in map(int, text.split()) if child not in seen]
                seen.update(found)
                queue += found
                yield from found


def _sockets(pid: int, proc: Path) -> set[int] | None:
    """Inodes of the sockets of a process; None where that may not be read, empty for one that is gone."""
    folder = f"{proc}/{pid}/fd"
    found: set[int] = set()
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return found
    except OSError:
        return None
    for name in names:
        with contextlib.suppress(OSError):
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - A tree may have a hundred thousand of them.
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return found


def _name_stranger(inodes: set[int], proc: Path) -> str:
    """The process that has the socket; empty if it cannot be found, or may be a way to the worker."""
    for name in os.listdir(proc):  # noqa: PTH208
        if not name.isdecimal() or not (_sockets(int(name), proc) or set()) & inodes:
            continue
        with contextlib.suppress(OSError):
            command = (proc / name / "comm").read_text(errors="replace").strip()
            if command in GO_BETWEENS or (proc / name / "ns" / "pid").readlink() != (proc / "self/ns/pid").readlink():
                return ""
        return name_process(int(name), proc=proc)
    return ""


def name_process(pid: int, *, proc: Path = PROC) -> str:
    """``pid 4711 (python3)``; empty for 0, who is nobody that we see."""
    command = ""
    with contextlib.suppress(OSError):
        command = (proc / str(pid) / "comm").read_text(errors="replace").strip()
    shown = "".join(filter(str.isprintable, command))
    return (f"pid {pid}" + (f" ({shown})" if shown else "")) if pid else ""
