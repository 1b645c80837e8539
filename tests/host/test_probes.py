from __future__ import annotations

import asyncio
import resource
import select
import socket
import struct
import time
from contextlib import ExitStack

import pytest

from supervisor.core.message import BecameReady, BecameUnready, Event, LivenessLost, Probe, ProbeAlive
from supervisor.core.spec import Alive, WorkerId
from supervisor.host.probes import Probes, wait_for_slot_s
from supervisor.host.tcp_probe import connection_fault
from tests.host import looping
from tests.host.looping import Run, descriptors, until

run = looping.run
no_leaks = looping.no_leaks

LLM = WorkerId("llm", 0)
WEB = WorkerId("web", 3)


def listen(port: int = 0, host: str = "127.0.0.1", backlog: int = 100) -> socket.socket:
    """A listener that never accepts; the kernel completes connections all the same."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(backlog)
    return listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def free_port() -> int:
    with listen() as listener:
        return port_of(listener)


def fill_backlog(port: int, stack: ExitStack) -> None:
    """Connect until the kernel takes no more: the next one gets no answer."""
    for _ in range(8):
        caller = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        caller.connect_ex(("127.0.0.1", port))


def order(port: int, worker: WorkerId = LLM, incarnation: int = 1, interval_s: float = 0.05) -> Probe:
    return Probe(worker=worker, incarnation=incarnation, port=port, interval_s=interval_s)


def make_probes(events: list[Event], *, attempt_s: float = 1.0, watch_s: float = 0.05) -> Probes:
    return Probes(asyncio.get_running_loop(), events.append, attempt_s=attempt_s, watch_s=watch_s)


def test_port_that_listens_is_ready_at_once(run: Run) -> None:
    """The first attempt does not wait for the interval, and one event says it all."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events, watch_s=0.05)
        with listen() as listener:
            probes.watch(order(port_of(listener), interval_s=60))
            await until(lambda: bool(events))
            await asyncio.sleep(0.05)

            assert [BecameReady(LLM, 1)] == events
            await probes.close()

    run(main())


def test_port_is_asked_again_until_it_listens(run: Run) -> None:
    """A worker that loads for a while becomes ready when it listens."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events)
        port = free_port()
        probes.watch(order(port))
        await asyncio.sleep(0.12)
        assert events == []

        with listen(port):
            await until(lambda: bool(events))

            assert [BecameReady(LLM, 1)] == events
            await probes.close()

    run(main())


def test_worker_that_flaps_is_unready_after_three_failures_and_ready_again(run: Run) -> None:
    """Readiness is lost and won back, each told once."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events)
        with listen() as listener:
            port = port_of(listener)
            probes.watch(order(port))
            await until(lambda: len(events) == 1)
        await until(lambda: len(events) == 2)
        with listen(port):
            await until(lambda: len(events) == 3)

        detail = f"port {port}: connection refused"
        assert [BecameReady(LLM, 1), BecameUnready(LLM, 1, detail), BecameReady(LLM, 1)] == events
        await probes.close()

    run(main())


@pytest.mark.slow
def test_one_failure_among_successes_is_no_loss(run: Run) -> None:
    """Failures count only in a row: as many of them with successes between say nothing."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        events: list[Event] = []
        probes = make_probes(events, watch_s=0.1)
        with listen() as listener:
            port = port_of(listener)
            probes.watch(order(port))
            await until(lambda: len(events) == 1)
        for _ in range(3):
            await asyncio.sleep(wait_for_slot_s(str(LLM), 0.1, loop.time()) + 0.03)  # Down for one attempt.
            with listen(port) as listener:
                await until(lambda up=listener: bool(select.select([up], [], [], 0)[0]))  # type: ignore[misc]

        assert [BecameReady(LLM, 1)] == events
        await probes.close()

    run(main())


@pytest.mark.slow
def test_hanging_port_delays_nobody_and_is_told_of(run: Run) -> None:
    """A full backlog gives no answer; other workers are asked meanwhile."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events, attempt_s=0.2)
        with ExitStack() as stack, listen(backlog=0) as stuck, listen() as other:
            probes.watch(order(port_of(stuck), LLM))
            await until(lambda: events == [BecameReady(LLM, 1)])
            fill_backlog(port_of(stuck), stack)
            probes.watch(order(port_of(other), WEB))
            await until(lambda: events[1:] == [BecameReady(WEB, 1)], timeout_s=0.5)
            await until(lambda: len(events) == 3)

            assert BecameUnready(LLM, 1, f"port {port_of(stuck)} did not answer within 0.2 s") == events[2]
            await probes.close()

    run(main())


def test_forgotten_worker_is_silent(run: Run) -> None:
    """Nothing is said of a worker after it was forgotten, even if its connection was under way."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events)
        with listen() as listener:
            probes.watch(order(port_of(listener)))
            await asyncio.sleep(0)
            probes.forget(LLM)
            probes.forget(LLM)
            await asyncio.sleep(0.1)

            assert events == []
            await probes.close()

    run(main())


def test_new_order_replaces_the_old_one(run: Run) -> None:
    """A new process of a worker is asked on its own account."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events)
        with listen() as listener:
            probes.watch(order(free_port(), incarnation=1))
            probes.watch(order(port_of(listener), incarnation=2))
            await until(lambda: bool(events))

            assert [BecameReady(LLM, 2)] == events
            await probes.close()

    run(main())


def test_listener_may_forget_and_watch_from_its_event(run: Run) -> None:
    """The daemon acts on an event while it is told of it."""

    async def main() -> None:
        events: list[Event] = []

        def on_event(event: Event) -> None:
            events.append(event)
            probes.forget(LLM)
            if len(events) == 1:
                probes.watch(order(port_of(listener), incarnation=2))

        probes = Probes(asyncio.get_running_loop(), on_event, watch_s=0.05)
        with listen() as listener:
            probes.watch(order(port_of(listener), incarnation=1))
            await until(lambda: len(events) == 2)
            await asyncio.sleep(0.1)

            assert [BecameReady(LLM, 1), BecameReady(LLM, 2)] == events
            assert {asyncio.current_task()} == asyncio.all_tasks()

    run(main())


def test_close_leaves_no_descriptor_and_no_task(run: Run) -> None:
    """Connections under way are closed too."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events)
        before = descriptors()
        with ExitStack() as stack, listen(backlog=0) as stuck:
            fill_backlog(port_of(stuck), stack)
            open_before = descriptors()
            for index in range(50):
                probes.watch(order(port_of(stuck), WorkerId("llm", index)))
            await until(lambda: descriptors() >= open_before + 50)
            probes.forget(LLM)

            await probes.close()

            assert open_before == descriptors()
            assert {asyncio.current_task()} == asyncio.all_tasks()
        assert before == descriptors()

    run(main())


def test_server_that_throws_connections_away_is_ready(run: Run) -> None:
    """A connection that was taken and reset at once was taken."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listen() as listener:
            listener.setblocking(False)

            def throw_away() -> None:
                connection, _ = listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

            loop.add_reader(listener.fileno(), throw_away)
            faults = [await connection_fault(loop, port_of(listener), 1.0) for _ in range(200)]
            loop.remove_reader(listener.fileno())

        assert {""} == set(faults)

    run(main())


def test_worker_on_ipv6_only_is_found(run: Run) -> None:
    """A worker that listens on ::1 alone is ready."""

    async def main() -> None:
        try:
            listener = listen(host="::1")
        except OSError:
            pytest.skip("no IPv6 here")
        with listener:
            assert await connection_fault(asyncio.get_running_loop(), port_of(listener), 1.0) == ""

    run(main())


def test_connection_to_itself_is_no_listener(run: Run) -> None:
    """A socket whose own port happens to be the one it asks connects to itself, and that is a refusal."""

    async def main() -> None:
        port = free_port()

        def make_socket(family: socket.AddressFamily) -> socket.socket:
            caller = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if family == socket.AF_INET:
                caller.bind(("127.0.0.1", port))
            return caller

        fault = await connection_fault(asyncio.get_running_loop(), port, 1.0, make_socket)

        assert f"port {port}: connection refused" == fault
        with socket.socket() as worker:  # The port is free for the worker at once.
            worker.bind(("127.0.0.1", port))

    run(main())


def test_want_of_descriptors_is_not_held_against_the_worker(run: Run) -> None:
    """When this process can open no socket, nothing is known of the worker."""

    async def main() -> None:
        with listen() as listener:
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
            try:
                fault = await connection_fault(asyncio.get_running_loop(), port_of(listener), 1.0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)

        assert fault is None

    run(main())


def test_probe_that_dies_is_heard(run: Run) -> None:
    """An exception of the one who is told is reported to the loop's handler."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: list[object] = []
        loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))

        def on_event(_: Event) -> None:
            raise RuntimeError("boom")

        probes = Probes(loop, on_event)
        with listen() as listener:
            probes.watch(order(port_of(listener)))
            await until(lambda: bool(heard))

        assert [str(error) for error in heard] == ["boom"]
        await probes.close()

    run(main())


def test_workers_are_asked_at_different_times() -> None:
    """500 workers that became ready together are spread over the period, each always at the same phase."""
    waits = [wait_for_slot_s(f"llm/{index}", 10.0, 1234.5) for index in range(500)]
    per_second = [sum(second < wait <= second + 1 for wait in waits) for second in range(10)]

    assert sum(per_second) == 500
    assert max(per_second) < 100
    assert pytest.approx(10.0) == wait_for_slot_s("llm/0", 10.0, 1234.5 + waits[0])


def stall(seconds: float) -> None:
    """Hold up the loop, as SIGSTOP does."""
    time.sleep(seconds)


@pytest.mark.slow
def test_liveness_that_failed_while_this_process_did_not_run_is_not_lost(run: Run) -> None:
    """An attempt that was not watched says nothing; the next one, which was, does. It is told once."""

    async def main() -> None:
        events: list[Event] = []
        probes = make_probes(events)
        with listen(backlog=0) as listener, ExitStack() as stack:
            port = port_of(listener)
            fill_backlog(port, stack)
            probes.watch_alive(ProbeAlive(LLM, 1, port, Alive(kind="tcp", interval_s=0.05, timeout_s=0.4, failures=1)))
            await asyncio.sleep(0.2)
            stall(1.2)
            await asyncio.sleep(0.1)
            assert events == []

            await until(lambda: bool(events))
            await asyncio.sleep(0.1)
            assert events == [LivenessLost(LLM, 1, f"port {port} did not answer within 0.4 s")]
            await probes.close()

    run(main())
