from __future__ import annotations

import os
import resource
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.host.wire import HEADER, VERSION, Channel, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(sock) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def carry(sender: Channel, receiver: Channel, count: int) -> list[tuple[Any, tuple[int, ...] | None]]:
    """Turn by turn until *count* messages have come."""
    got: list[tuple[Any, tuple[int, ...] | None]] = []
    for _ in range(100_000):
        sender.flush()
        got += receiver.receive()
        if len(got) >= count:
            return got
    raise AssertionError(f"{len(got)} of {count} messages came")


def test_messages_come_in_order_and_whole(ends: tuple[Channel, Channel]) -> None:
    """Several messages in one read are told apart."""
    for number in range(5):
        ends[0].send({"number": number, "text": "ä\ud800"})

    assert [({"number": n, "text": "ä\ud800"}, ()) for n in range(5)] == ends[1].receive()


def test_sending_never_blocks_and_nothing_is_lost(ends: tuple[Channel, Channel]) -> None:
    """Messages far beyond the socket's buffer wait in the queue, with their descriptors."""
    for number in range(4):
        ends[0].send({"number": number, "text": "x" * (2 << 20)}, (os.open(os.devnull, os.O_RDONLY),))
    assert has_queue(ends[0])

    got = carry(ends[0], ends[1], 4)

    assert [message["number"] for message, _ in got] == [0, 1, 2, 3]
    assert {2 << 20} == {len(message["text"]) for message, _ in got}
    assert not has_queue(ends[0])
    for _, fds in got:
        assert fds is not None
        os.close(fds[0])


def test_descriptors_belong_to_their_message_and_are_not_inheritable(ends: tuple[Channel, Channel]) -> None:
    """Each message gets its own, in order, close-on-exec; the sender's copies are closed, a doubled one once."""
    read, write = os.pipe()
    spare = os.dup(write)
    ends[0].send({"n": 0})
    ends[0].send({"n": 1}, (write, write))
    ends[0].send({"n": 2}, (read,))
    ends[0].send({"n": 3})

    got = carry(ends[0], ends[1], 4)

    assert [len(fds or ()) for _, fds in got] == [0, 2, 1, 0]
    fds = [fd for _, some in got for fd in some or ()]
    assert not any(map(os.get_inheritable, fds))
    os.write(fds[0], b"x")
    assert os.read(fds[2], 1) == b"x"
    for fd in (read, write):
        assert fd in fds or not is_open(fd)
    for fd in (*fds, spare):
        os.close(fd)


def has_queue(channel: Channel) -> bool:
    return channel.is_pending


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptors_that_do_not_fit_are_reported_and_the_next_come_right(ends: tuple[Channel, Channel]) -> None:
    """A full descriptor table loses the descriptors of one message and nothing else."""
    ends[0].send({"n": 1}, (os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)))
    filler = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free() + 1, hard))
        first = ends[1].receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
    ends[0].send({"n": 2}, (os.open(os.devnull, os.O_RDONLY),))
    second = ends[1].receive()

    assert first == [({"n": 1}, None)]
    assert second[0][1] is not None
    os.close(second[0][1][0])


def first_free() -> int:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


def test_what_was_said_before_the_end_is_read(ends: tuple[Channel, Channel]) -> None:
    """A peer that reports and dies is heard; writing to it does not raise."""
    ends[0].send({"n": 1})
    ends[1].send({"unread": True})
    ends[0].close()
    ends[1].send({"n": 2}, (os.open(os.devnull, os.O_RDONLY),))

    assert ends[1].receive() == [({"n": 1}, ())]
    assert ends[1].receive() == []
    assert ends[1].ended


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(2, VERSION + 1, 0) + b"{}",
        struct.pack("!IBB", 1 << 31, VERSION, 0),
        HEADER.pack(2, VERSION, 0) + b"{{",
    ],
)
def test_another_protocol_is_refused(data: bytes) -> None:
    """Another version, an absurd length or something that is not JSON."""
    raw, sock = socket.socketpair()
    channel = Channel(sock)
    raw.send(data)

    with pytest.raises(WireError):
        channel.receive()
    channel.close()
    raw.close()
