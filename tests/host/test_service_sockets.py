from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.core.file.listen import Address, Socket
from supervisor.core.message import Event, Exited, SocketsBound
from supervisor.host.service_sockets import ServiceSockets
from tests.host import looping
from tests.host.processes_helpers import PYTHON, A, Pipe, Rig, eventually, in_loop, open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator

no_leaks = looping.no_leaks


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the path of a unix socket is."""
    with tempfile.TemporaryDirectory(prefix="gs") as name:
        yield Path(name)


@contextmanager
def sockets(inherited: dict[Address, socket.socket] | None = None) -> Iterator[tuple[ServiceSockets, list[Event]]]:
    told: list[Event] = []
    ours = ServiceSockets(told.append, inherited or {})
    try:
        yield ours, told
    finally:
        ours.close()


async def bind(ours: ServiceSockets, told: list[Event], *addresses: Address) -> SocketsBound:
    """Its answer."""
    count = len(told)
    ours.bind(addresses)
    assert await eventually(lambda: len(told) > count)
    answer = told[-1]
    assert isinstance(answer, SocketsBound)
    return answer


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def unix(path: Path) -> Address:
    return Address("unix", str(path))


def call(address: Address, host: str | None = None) -> socket.socket:
    """Connect, as a client does."""
    if address.kind == "unix":
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(address.host)
        return caller
    return socket.create_connection((host or address.host, address.port), timeout=10)


@in_loop
async def test_every_kind_of_address_is_listened_on(folder: Path) -> None:
    """Also before any worker is there: who connects waits."""
    port = free_port()
    wanted = (Address("tcp", "127.0.0.1", port), Address("tcp", "::1", port), unix(folder / "a.sock"))
    with sockets() as (ours, told):
        assert SocketsBound(wanted) == await bind(ours, told, *wanted)
        for address in wanted:
            call(address).close()


@in_loop
async def test_every_ipv6_address_is_every_ipv4_address_too() -> None:
    """One socket for all who come."""
    address = Address("tcp", "::", free_port())
    with sockets() as (ours, told):
        assert (await bind(ours, told, address)).bound == (address,)
        call(address, "127.0.0.1").close()
        call(address, "::1").close()


@in_loop
async def test_an_address_in_use_is_refused_with_who_has_it(folder: Path) -> None:
    """One that fails keeps no other from being bound."""
    address, other = Address("tcp", "127.0.0.1", free_port()), unix(folder / "a.sock")
    with socket.socket() as stranger, sockets() as (ours, told):
        stranger.bind(("127.0.0.1", address.port))
        stranger.listen()

        answer = await bind(ours, told, address, other)

        assert answer.bound == (other,)
        assert answer.refused[address].startswith(f"address already in use by pid {os.getpid()} (")
        stranger.close()
        assert (await bind(ours, told, address)).bound == (address,)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (Address("tcp", "203.0.113.7", 9999), "this machine has no such address"),
        (Address("unix", "/nowhere/a.sock"), "there is no folder /nowhere"),
    ],
)
@in_loop
async def test_a_refusal_is_in_words(address: Address, words: str) -> None:
    """Which the status shows."""
    with sockets() as (ours, told):
        assert SocketsBound((), {address: words}) == await bind(ours, told, address)


@in_loop
async def test_a_socket_file_is_open_to_all_and_goes_with_the_socket(folder: Path) -> None:
    """Whatever the umask, which stays as it was."""
    address = unix(folder / "a.sock")
    before = os.umask(0o077)
    try:
        with sockets() as (ours, told):
            await bind(ours, told, address)
            mode = stat.S_IMODE(os.stat(address.host).st_mode)  # noqa: PTH116 - A moment.
            ours.unbind([address])
            assert not list(folder.iterdir())  # noqa: ASYNC240
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert mode == 0o666


@in_loop
async def test_the_socket_file_of_the_dead_is_taken_over_and_that_of_the_living_is_not(folder: Path) -> None:
    """One that was killed leaves its file."""
    address = unix(folder / "a.sock")
    stranger = socket.socket(socket.AF_UNIX)
    stranger.bind(address.host)
    stranger.listen()
    with sockets() as (ours, told):
        answer = await bind(ours, told, address)
        assert answer.refused[address].startswith(f"address already in use by pid {os.getpid()} (")
        call(address).close()

        stranger.close()

        assert (await bind(ours, told, address)).bound == (address,)
        call(address).close()


@in_loop
async def test_what_is_no_socket_is_left_alone(folder: Path) -> None:
    """A file, and a link to a socket that is dead."""
    plain, link = folder / "plain", folder / "link"
    plain.write_text("mine")
    link.symlink_to(folder / "elsewhere")
    with sockets() as (ours, told):
        answer = await bind(ours, told, unix(plain), unix(link))

    assert answer.refused == dict.fromkeys((unix(plain), unix(link)), "something is there already that is no socket")
    assert plain.read_text() == "mine"
    assert link.is_symlink()


@in_loop
async def test_a_folder_in_which_another_daemon_is_at_work_is_tried_later(folder: Path) -> None:
    """Between bind and listen a socket looks dead: two that take over one would each think so of the other."""
    address = unix(folder / "a.sock")
    lock = os.open(folder, os.O_RDONLY)
    with sockets() as (ours, told):
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert (await bind(ours, told, address)).refused == {address: "somebody else is making a socket in its folder"}
        os.close(lock)
        assert (await bind(ours, told, address)).bound == (address,)


@in_loop
async def test_a_file_that_is_no_more_ours_stays_at_the_end(folder: Path) -> None:
    """Somebody has put his own in its place."""
    address = unix(folder / "a.sock")
    with sockets() as (ours, told), socket.socket(socket.AF_UNIX) as stranger:
        await bind(ours, told, address)
        os.unlink(address.host)  # noqa: PTH108
        stranger.bind(address.host)

        ours.close()

        assert list(folder.iterdir())  # noqa: ASYNC240


@in_loop
async def test_our_own_old_address_is_not_in_the_way_of_a_wider_one() -> None:
    """While a service moves both are open; a stranger's would be in the way."""
    port = free_port()
    narrow, wide = Address("tcp", "127.0.0.1", port), Address("tcp", "0.0.0.0", port)
    with sockets() as (ours, told):
        await bind(ours, told, narrow)
        assert (await bind(ours, told, wide)).bound == (wide,)
        ours.unbind([narrow])
        call(wide, "127.0.0.1").close()
    with sockets() as (ours, told), sockets() as (theirs, theirs_told):
        await bind(ours, told, narrow)
        assert (await bind(theirs, theirs_told, wide)).refused


@in_loop
async def test_what_a_service_manager_has_bound_is_used_and_given_back() -> None:
    """It is his: it is neither bound again nor lost when no worker has it for a while."""
    address = Address("tcp", "127.0.0.1", free_port())
    his = socket.socket()
    his.bind(("127.0.0.1", address.port))
    his.listen()
    with sockets({address: his.dup()}) as (ours, told):
        for _ in range(2):
            assert SocketsBound((address,)) == await bind(ours, told, address)
            with call(address):
                ours.unbind([address])
                his.accept()[0].close()
    his.close()


@in_loop
async def test_a_worker_finds_its_sockets_from_3_on_and_its_own_pid(folder: Path) -> None:
    """And nothing else of ours; names that a shell would drop are there too, and nothing of ours stays open."""
    program = (
        "import os, socket;"
        "print(os.environ['LISTEN_PID'] == str(os.getpid()), os.environ['A.B'], sorted(os.listdir('/proc/self/fd')));"
        "print(*(socket.socket(fileno=n).getsockname() for n in (3, 4)), sep='\\n')"
    )
    wanted = (Socket("http", Address("tcp", "127.0.0.1", free_port())), Socket("admin", unix(folder / "a.sock")))
    with sockets() as (ours, told), Pipe() as pipe:
        await bind(ours, told, *(one.address for one in wanted))
        async with Rig() as rig:
            before = open_fds()
            handed = ours.copies(wanted)
            env = {"PATH": os.defpath, "LISTEN_FDS": "2", "A.B": "odd"}
            incarnation = rig.spawn(A, *PYTHON, program, env=env, fds={1: pipe.take_end(), **handed})
            exited = await rig.told(Exited, incarnation)
            assert await eventually(lambda: len(open_fds()) <= len(before) + 2)  # Shim: its socket and its pidfd.
        said = (await pipe.read_all()).decode().splitlines()

    assert (exited.code, list(handed)) == (0, [3, 4])
    assert said[0] == "True odd ['0', '1', '2', '3', '4', '5']"  # The last is that of the listing.
    assert said[1:] == [str(("127.0.0.1", wanted[0].address.port)), wanted[1].address.host]


@in_loop
async def test_a_worker_without_sockets_is_told_of_no_pid() -> None:
    """It is started without a shell."""
    async with Rig() as rig:
        _, said = await rig.run(A, "env")

    assert b"LISTEN_PID" not in said


@in_loop
async def test_a_command_that_is_not_there_is_still_said_so() -> None:
    """Though a shell would only say 127."""
    with sockets() as (ours, told):
        address = Address("tcp", "127.0.0.1", free_port())
        await bind(ours, told, address)
        async with Rig() as rig:
            incarnation = rig.spawn(A, "no-such-program", fds=ours.copies([Socket("http", address)]))
            await rig.until(lambda: bool(rig.about(incarnation)))
            (failed,) = rig.events

    assert getattr(failed, "errno", None) == errno.ENOENT


@in_loop
async def test_a_socket_that_a_worker_has_shut_down_listens_again_for_the_next() -> None:
    """Shutting down a socket that is shared ends it for all; some servers do so as they end."""
    address = Address("tcp", "127.0.0.1", free_port())
    with sockets() as (ours, told):
        await bind(ours, told, address)
        (fd,) = ours.copies([Socket("http", address)]).values()
        with socket.socket(fileno=fd) as theirs:
            theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionRefusedError):
            call(address)

        (fd,) = ours.copies([Socket("http", address)]).values()

        call(address).close()
        os.close(fd)


@in_loop
async def test_a_file_that_somebody_has_removed_is_there_again_for_the_next_worker(folder: Path) -> None:
    """Nobody finds the old socket any more; what a stranger has put into its place is left alone."""
    address = unix(folder / "a.sock")
    with sockets() as (ours, told):
        await bind(ours, told, address)
        os.unlink(address.host)  # noqa: PTH108

        (fd,) = ours.copies([Socket("http", address)]).values()
        with socket.socket(fileno=fd) as theirs, call(address):
            theirs.accept()[0].close()
        inode = os.stat(address.host).st_ino  # noqa: PTH116
        os.close(*ours.copies([Socket("http", address)]).values())
        assert os.stat(address.host).st_ino == inode  # noqa: PTH116

        os.unlink(address.host)  # noqa: PTH108
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.bind(address.host)
            stranger.listen()
            os.close(*ours.copies([Socket("http", address)]).values())
            ours.close()
            assert list(folder.iterdir())  # noqa: ASYNC240


@in_loop
async def test_sockets_that_are_not_there_leave_nothing_open() -> None:
    """What was copied before is closed."""
    address = Address("tcp", "127.0.0.1", free_port())
    with sockets() as (ours, told):
        await bind(ours, told, address)
        before = open_fds()
        with pytest.raises(OSError, match="is not bound"):
            ours.copies([Socket("http", address), Socket("admin", Address("unix", "/nowhere"))])
        assert before == open_fds()
