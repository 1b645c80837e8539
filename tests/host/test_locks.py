"""Devices are claimed for the whole machine, and the kernel lets go for the dead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from supervisor.core.message import DevicesClaimed, DevicesFreed, Event
from supervisor.host import locks
from supervisor.host.locks import Locks, describe, find_holders
from supervisor.host.peer import Peer
from supervisor.host.process import Processes

HOLDER = """
import socket, sys, time
lock = socket.socket(socket.AF_UNIX)
lock.bind(chr(0) + "gpu-supervisor/" + sys.argv[1])
if sys.argv[2] == "listen":
    lock.listen(1)
print("bound", flush=True)
time.sleep(1000)
"""


class Ear:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._came = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._came.set()

    async def wait(self) -> Event:
        async with asyncio.timeout(20):
            while not self.events:
                self._came.clear()
                await self._came.wait()
        return self.events.pop(0)


@pytest.fixture
async def make() -> AsyncIterator[Callable[[], tuple[Locks, Ear]]]:
    made: list[Locks] = []

    def make_one() -> tuple[Locks, Ear]:
        ear = Ear()
        made.append(Locks(ear))
        return made[-1], ear

    yield make_one
    for one in made:
        one.close()


@pytest.fixture
def uuid(tmp_path: Path) -> str:
    return f"GPU-{os.getpid()}-{tmp_path.name}"


def hold(uuid: str, how: str = "listen") -> subprocess.Popen[bytes]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, uuid, how], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"bound\n"
    return holder


def hears_end(caller: socket.socket) -> bool:
    """Whether the other side hangs up; it may not have read what was said."""
    with caller, contextlib.suppress(ConnectionResetError):
        caller.settimeout(20)
        return caller.recv(1) == b""
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - Of another process, which tells nobody.
            await asyncio.sleep(0.01)


def inodes_of(keeper: Peer | None) -> set[int]:
    assert keeper is not None
    found = set()
    for fd in Path(f"/proc/{keeper.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(fd.stat().st_ino)
    return found


async def test_the_second_one_is_told_who_has_it(make: Callable[[], tuple[Locks, Ear]], uuid: str) -> None:
    """Each device on its own: one of two may be ours."""
    first, first_ear = make()
    second, second_ear = make()

    first.claim([uuid])
    second.claim([uuid, f"{uuid}-b"])

    assert await first_ear.wait() == DevicesClaimed((uuid,))
    answer = await second_ear.wait()
    assert isinstance(answer, DevicesClaimed)
    assert answer.claimed == (f"{uuid}-b",)
    assert f"pid {os.getpid()}" in answer.held[uuid]
    assert find_holders([uuid, f"{uuid}-c"]).keys() == {uuid}


async def test_who_waits_hears_when_it_is_let_go(make: Callable[[], tuple[Locks, Ear]], uuid: str) -> None:
    """Without asking again and again."""
    first, _ = make()
    second, ear = make()
    first.claim([uuid])
    second.claim([uuid])
    await ear.wait()

    first.let_go([uuid])

    assert await ear.wait() == DevicesFreed((uuid,))
    second.claim([uuid])
    assert await ear.wait() == DevicesClaimed((uuid,))


async def test_the_kernel_lets_go_for_a_holder_that_is_killed(make: Callable[[], tuple[Locks, Ear]], uuid: str) -> None:
    """SIGKILL leaves nothing stale."""
    holder = hold(uuid)
    ours, ear = make()
    ours.claim([uuid])
    answer = await ear.wait()
    assert isinstance(answer, DevicesClaimed)
    assert f"pid {holder.pid}" in answer.held[uuid]

    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.communicate()

    assert await ear.wait() == DevicesFreed((uuid,))


async def test_a_holder_that_cannot_be_watched_is_asked_for_again(
    make: Callable[[], tuple[Locks, Ear]], uuid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not listen says neither who it is nor when it ends."""
    monkeypatch.setattr(locks, "LOOK_S", 0.05)
    holder = hold(uuid, "deaf")
    ours, ear = make()

    ours.claim([uuid])

    assert await ear.wait() == DevicesClaimed((), {uuid: describe(None)})
    assert await ear.wait() == DevicesFreed((uuid,))
    holder.kill()
    holder.communicate()


class Keeper:
    """Holds copies, and lets them go when it is told to, not when it is asked to."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}

    def entrust(self, name: str, fd: int) -> None:
        self.fds[name] = os.dup(fd)

    def take_back(self, name: str) -> None:
        assert name in self.fds

    def let_go(self) -> None:
        while self.fds:
            os.close(self.fds.popitem()[1])


async def given_away(uuid: str) -> tuple[Keeper, Ear, Locks]:
    """A device that was ours, and that our keeper still has."""
    keeper, ear = Keeper(), Ear()
    ours = Locks(ear, keeper)
    ours.claim([uuid])
    assert await ear.wait() == DevicesClaimed((uuid,))
    ours.let_go([uuid])
    return keeper, ear, ours


async def test_who_takes_a_device_that_we_have_given_away_is_another_daemon(uuid: str) -> None:
    """It is said to be held by that one, and by it alone; we hear of its end."""
    keeper, ear, ours = await given_away(uuid)
    keeper.let_go()
    holder = hold(uuid)

    ours.claim([uuid])

    assert await ear.wait() == DevicesClaimed((), {uuid: describe((holder.pid, os.getuid()))})
    holder.kill()
    holder.communicate()
    assert await ear.wait() == DevicesFreed((uuid,))
    ours.claim([uuid])
    assert await ear.wait() == DevicesClaimed((uuid,))
    ours.close()
    keeper.let_go()


async def test_a_device_that_only_our_keeper_still_has_is_waited_for(uuid: str) -> None:
    """Nobody is told that it is held, and it is asked for once."""
    keeper, ear, ours = await given_away(uuid)

    ours.claim([uuid])
    asyncio.get_running_loop().call_later(0.2, keeper.let_go)

    assert await ear.wait() == DevicesClaimed((uuid,))
    ours.close()
    keeper.let_go()


async def test_a_keeper_that_never_lets_go_is_a_holder(uuid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it is said, once; when it does let go we hear of it."""
    monkeypatch.setattr(locks, "LEAVING_S", 0.1)
    keeper, ear, ours = await given_away(uuid)

    ours.claim([uuid])

    assert await ear.wait() == DevicesClaimed((), {uuid: describe((os.getpid(), os.getuid()))})
    keeper.let_go()
    assert await ear.wait() == DevicesFreed((uuid,))
    ours.close()


async def test_those_who_only_look_do_not_fill_the_line(make: Callable[[], tuple[Locks, Ear]], uuid: str) -> None:
    """However many have asked who has a device, the next one is told; and so is whoever waits for it to be free."""
    ours, ear = make()
    ours.claim([uuid])
    await ear.wait()

    found = [await asyncio.to_thread(find_holders, [uuid]) for _ in range(3 * locks.BACKLOG)]

    assert found == [{uuid: describe((os.getpid(), os.getuid()))}] * len(found)
    others, their_ear = make()
    others.claim([uuid])
    assert await their_ear.wait() == DevicesClaimed((), found[0])
    ours.let_go([uuid])
    assert await their_ear.wait() == DevicesFreed((uuid,))


async def test_more_than_are_let_in_wait_in_line(
    make: Callable[[], tuple[Locks, Ear]], uuid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are watching as well, and come in when somebody leaves; who talks is sent away."""
    monkeypatch.setattr(locks, "WATCHERS_MAX", 2)
    ours, ear = make()
    ours.claim([uuid])
    await ear.wait()
    callers = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for caller in callers:
        caller.connect(locks.PREFIX + uuid)
    await until(lambda: len(ours._ours[uuid]._watchers) == 2)

    callers[0].close()
    callers[1].send(b"hello")
    assert await asyncio.to_thread(hears_end, callers[1])
    await until(lambda: len(ours._ours[uuid]._watchers) == 2)
    ours.let_go([uuid])

    assert [await asyncio.to_thread(hears_end, one) for one in callers[2:]] == [True, True]


async def test_a_holder_with_too_many_in_line_is_no_news_every_time(
    make: Callable[[], tuple[Locks, Ear]], uuid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again and again, and told of when it is gone."""
    monkeypatch.setattr(locks, "LOOK_S", 0.02)
    holder = hold(uuid)
    callers = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for caller in callers:
        caller.connect(locks.PREFIX + uuid)
    ours, ear = make()

    ours.claim([uuid])

    assert await ear.wait() == DevicesClaimed((), {uuid: describe(None)})
    looks: list[object] = []
    while len(looks) < 4:
        await until(lambda: ours._timers[uuid] not in looks[-1:])
        looks.append(ours._timers[uuid])
    assert ear.events == []
    holder.kill()
    holder.communicate()
    assert await ear.wait() == DevicesFreed((uuid,))
    for caller in callers:
        caller.close()


async def test_another_holder_in_place_of_the_first_is_named(make: Callable[[], tuple[Locks, Ear]], uuid: str) -> None:
    """Whoever waits does not have to ask again for that."""
    ours, ear = make()
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(locks.PREFIX + uuid)
        first.listen()
        ours.claim([uuid])
        assert await ear.wait() == DevicesClaimed((), {uuid: describe((os.getpid(), os.getuid()))})

    second = hold(uuid)

    assert await ear.wait() == DevicesClaimed((), {uuid: describe((second.pid, os.getuid()))})
    second.kill()
    second.communicate()
    assert await ear.wait() == DevicesFreed((uuid,))


async def test_a_worker_does_not_inherit_a_lock(make: Callable[[], tuple[Locks, Ear]], uuid: str) -> None:
    """Else a device would stay taken as long as something that was started lives."""
    ours, ear = make()
    ours.claim([uuid])
    await ear.wait()
    child = subprocess.Popen(["sleep", "1000"], close_fds=False)  # noqa: ASYNC220 - Nobody else wants the loop here.

    ours.close()

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(locks.PREFIX + uuid)
    child.kill()
    child.wait()


async def test_the_keeper_holds_a_lock_as_long_as_the_master_has_it(uuid: str) -> None:
    """Then it is gone there too, and can be claimed again at once; a new keeper gets what the old one had."""
    processes = Processes(lambda _event: None)
    await processes.start()
    ear = Ear()
    ours = Locks(ear, processes)
    ours.claim([uuid])
    assert await ear.wait() == DevicesClaimed((uuid,))
    first = processes._keeper
    assert first is not None
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    inode = os.fstat(ours._ours[uuid].fileno()).st_ino
    await until(lambda: processes._keeper not in {first, None} and inode in inodes_of(processes._keeper))

    ours.let_go([uuid])
    ours.claim([uuid])

    assert await ear.wait() == DevicesClaimed((uuid,))
    ours.close()
    await processes.close()
    assert find_holders([uuid]) == {}


def test_a_holder_is_described_by_what_is_known() -> None:
    """The user by name where the file of users has it."""
    assert describe((4711, 0)) == "held by another daemon (pid 4711, user root)"
    assert describe((0, 4242424)) == "held by another daemon (in another container, user 4242424)"
