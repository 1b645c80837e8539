from __future__ import annotations

import asyncio
import os

from supervisor.core.spec import WorkerId
from supervisor.daemon.telling import Telling
from supervisor.host.logs import FOLLOWER_LIMIT, KEPT_TOTAL, Outputs
from tests.host import looping
from tests.host.looping import Run, until
from tests.host.test_logfiles import open_nowhere

run = looping.run
no_leaks = looping.no_leaks

LLM = WorkerId("llm", 0)
WEB = WorkerId("web", 1)


def speak(outputs: Outputs, worker: WorkerId, incarnation: int, text: bytes) -> None:
    fd = outputs.open(worker, incarnation)
    os.write(fd, text)
    os.close(fd)
    outputs.close(worker, incarnation)


def test_last_lines_are_merged_in_the_order_of_their_arrival(run: Run) -> None:
    """Of each worker so many, over all its processes; nothing of one that is forgotten."""

    async def main() -> None:
        sink = open_nowhere()
        outputs = Outputs(asyncio.get_running_loop(), sink)
        speak(outputs, LLM, 1, b"a\nb\n")
        speak(outputs, WEB, 2, b"x\n")
        speak(outputs, LLM, 3, b"c\n")

        last = [(str(one.worker), one.incarnation, one.line) for one in outputs.last(lambda _: True, 2)]
        assert last == [("llm/0", 1, "b"), ("web/1", 2, "x"), ("llm/0", 3, "c")]
        numbers = [one.number for one in outputs.last(lambda _: True, 100)]
        assert numbers == [0, 2, 4, 6]
        assert [one.line for one in outputs.last(lambda worker: worker == LLM, 100, after=2)] == ["c"]
        outputs.forget(LLM)
        assert [one.line for one in outputs.last(lambda _: True, 2)] == ["x"]
        outputs.close_all()
        sink.close()

    run(main())


def test_many_workers_share_what_is_kept(run: Run) -> None:
    """Memory does not grow with their number beyond a bound."""

    async def main() -> None:
        sink = open_nowhere()
        outputs = Outputs(asyncio.get_running_loop(), sink)
        for _ in range(2):
            for index in range(300):
                speak(outputs, WorkerId("llm", index), index, b"x" * 60_000 + b"\n" + b"y\n" * 1000)
        kept = sum(len(block.text) for ring in outputs._rings.values() for block in ring.blocks())

        assert kept <= KEPT_TOTAL
        outputs.close_all()
        sink.close()

    run(main())


def test_follower_gets_each_line_once_and_is_let_go_at_the_end(run: Run) -> None:
    """What was said before, what is said now, and that the daemon ends."""

    async def main() -> None:
        sink = open_nowhere()
        outputs = Outputs(asyncio.get_running_loop(), sink)
        telling = Telling(outputs, lambda _: "now")
        speak(outputs, LLM, 1, b"before\n")
        got: list[str] = []

        async def follow() -> str:
            end = ""
            async for batch in telling.tell("llm", lines=100, after=None, follow=True):
                end = batch.get("end", "")
                got.extend(line["line"] for line in batch.get("lines", ()))
            return end

        task = asyncio.create_task(follow())
        await until(lambda: got == ["before"])
        speak(outputs, LLM, 2, b"after\n")
        speak(outputs, WEB, 3, b"another\n")
        await until(lambda: got == ["before", "after"])
        telling.close()
        assert await task == "stopping"
        assert outputs._followers == set()
        outputs.close_all()
        sink.close()

    run(main())


def test_slow_follower_is_dropped_and_holds_nothing(run: Run) -> None:
    """It costs a bounded queue, and no worker notices."""

    async def main() -> None:
        sink = open_nowhere()
        outputs = Outputs(asyncio.get_running_loop(), sink)
        told = Telling(outputs, lambda _: "now").tell("llm/0", lines=0, after=None, follow=True)
        first = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        speak(outputs, LLM, 1, b"first\n")
        assert [line["line"] for line in (await first)["lines"]] == ["first"]
        for incarnation in range(2, 3 + FOLLOWER_LIMIT // 50_000):
            speak(outputs, LLM, incarnation, b"x" * 50_000 + b"\n")

        assert outputs._followers == set()
        assert await anext(told) == {"end": "slow"}
        await told.aclose()
        outputs.close_all()
        sink.close()

    run(main())
