"""Group C: readiness and liveness. What has no probes is not asked."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.conformance.adapter import Program, Supervisor
from tests.conformance.conftest import Supervise
from tests.e2e.harness import is_alive, wait_for

pytestmark = pytest.mark.slow


def shell(one_line: str) -> list[str]:
    """A command that runs in the folder of the case."""
    return ["sh", "-c", one_line]


def lines(one: Supervisor, name: str) -> int:
    """How often a probe has written to its own file."""
    try:
        return len((one.home / name).read_text().splitlines())
    except OSError:
        return 0


def wait_lines(one: Supervisor, name: str, count: int) -> None:
    wait_for(lambda: lines(one, name) >= count, lambda: f"{count} lines in {name}\n{one.shown()}")


def test_liveness_is_not_asked_before_the_first_ready(supervise: Supervise) -> None:
    """C04: however long the start takes; then it is."""
    ready = {"exec": shell("echo >>asked; test -e go"), "interval": "50ms"}
    alive = {"exec": shell("echo >>alive; false"), "interval": "50ms", "failures": 1}
    one = supervise(job=Program("forever()", ready=ready, alive=alive, delay_s=30))

    wait_lines(one, "asked", 10)
    assert lines(one, "alive") == 0
    assert len(one.diary("start")) == 1

    one.touch("go")
    wait_lines(one, "alive", 1)
    one.wait_for(lambda now: "liveness" in now["job/0"].words, "it is ended for it")


def test_a_watchdog_that_is_not_fed_ends_its_worker(supervise: Supervise) -> None:
    """C08: by SIGABRT, so that it may leave its stack or a core; with a cause of its own."""
    script = """
on(signal.SIGABRT, "abort", leave(3))
on(signal.SIGTERM, "term", leave())
voice = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
voice.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
forever()
"""
    alive = {"notify": True, "interval": "200ms", "failures": 1}
    one = supervise(job=Program(script, ready={"notify": True}, alive=alive, delay_s=30))

    one.wait_for(lambda now: bool(now) and "watchdog" in now["job/0"].words, "it is ended for it")

    wait_for(lambda: one.ends("job/0") == 1, lambda: f"its end\n{one.shown()}")
    assert [said.word for said in one.diary() if said.word in {"abort", "term"}] == ["abort"]


def test_a_probe_that_hangs_delays_no_other(supervise: Supervise) -> None:
    """C10: one server accepts and says nothing; the other is ready, and is asked again and again."""
    answer = """
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    client = server.accept()[0]
    if SAYS:
        client.recv(4096)
        client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
        client.close()
        say("asked")
    else:
        kept = client
        say("kept")
"""
    hung, well = free_ports(2)
    ready: dict[str, Any] = {"http": "/", "interval": "100ms", "timeout": "1h"}
    one = supervise(
        hung=Program(answer.replace("SAYS", "False"), port=hung, ready=ready),
        well=Program(answer.replace("SAYS", "True"), port=well, ready=ready),
    )

    one.wait_diary("kept", "hung/0")
    one.wait_state("up", "well/0")
    one.wait_diary("asked", "well/0", times=3)

    assert one.look()["hung/0"].state == "starting"


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in listeners]
    for each in listeners:
        each.close()
    return ports


def test_what_a_probe_leaves_is_killed(supervise: Supervise) -> None:
    """C11: the probe counts, its background child does not stay. The end of every case looks for it."""
    ready = {"exec": shell('setsid sleep 1000 & echo "0 job/0 child $!" >>diary'), "interval": "50ms"}
    one = supervise(job=Program("forever()", ready=ready))

    one.wait_state("up")

    wait_for(lambda: not any(is_alive(pid) for pid in one.children()), "what the probe left is dead")
    assert one.children()


def test_failures_count_only_in_a_row(supervise: Supervise) -> None:
    """C13: fail, fail, well, fail, fail and so on ends nobody at a threshold of three; three in a row do."""
    turn = "n=$(wc -l <turns); echo >>turns; test -e hung && exit 1; test $((n % 3)) = 2"
    one = supervise(
        job=Program(
            "(HOME / 'turns').touch(); forever()",
            alive={"exec": shell(turn), "interval": "50ms", "failures": 3},
            delay_s=30,
        )
    )

    wait_lines(one, "turns", 12)
    assert (one.ends("job/0"), one.look()["job/0"].state) == (0, "up")

    one.touch("hung")
    wait_for(lambda: one.ends("job/0") == 1, lambda: f"its end\n{one.shown()}")


def test_who_closes_everything_and_serves_stays_up(supervise: Supervise) -> None:
    """C17: its notify socket, stdout and stderr; no watchdog was asked for."""
    script = """
voice = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
voice.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
voice.close()
os.close(1)
os.close(2)
say("closed")
forever()
"""
    one = supervise(job=Program(script, ready={"notify": True}), other=Program("forever()"))
    before = one.wait_state("up")
    one.wait_diary("closed")

    # A life of another that began and ended meanwhile is time that has passed for both.
    one.stop("other/0")
    one.wait_state("stopped", "other/0")

    assert one.look()["job/0"] == before["job/0"]
