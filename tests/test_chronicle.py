"""What happened to the fleet: told once and in order, and never kept without bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from supervisor.core.fleet import handle
from supervisor.core.inventory import Health
from supervisor.core.message import Event, Exited, Say, Spawned, SpecLoaded, TimePassed
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Fleet
from supervisor.core.xids import words
from supervisor.daemon.chronicle import DEATHS, KEPT, KEPT_EACH, Chronicle
from tests.core.builders import spec_of

A = WorkerId("a", 0)
FAST = spec_of(a={"restart": {"delay": 0, "start_limit": 0, "limit": 0}}, b={})


class Life:
    """A fleet, and a chronicle of it."""

    def __init__(self) -> None:
        self.buried: list[tuple[WorkerId, dict[str, Any]]] = []
        self.chronicle = Chronicle(str, lambda worker, death: self.buried.append((worker, death)))
        self.fleet = Fleet()
        self.meet(SpecLoaded(FAST))

    def meet(self, event: Event) -> None:
        before = self.fleet
        self.fleet, actions = handle(before, event, 10.0)
        self.chronicle.hear(before, self.fleet, actions, 10.0)

    def crash(self) -> None:
        number = self.fleet.workers[A].incarnation
        self.meet(Spawned(A, number, 4711))
        self.meet(Exited(A, number, 1, None, alone=True, tail=("last words",)))
        self.meet(TimePassed((A,)))


async def told(batches: AsyncGenerator[dict[str, Any], None]) -> tuple[list[dict[str, Any]], str]:
    lines: list[dict[str, Any]] = []
    async for batch in batches:
        if "end" in batch:
            return lines, batch["end"]
        lines += batch["lines"]
    return lines, ""


def test_what_is_kept_is_told_in_order_and_of_whom_it_is_asked() -> None:
    life = Life()

    lines, end = asyncio.run(told(life.chronicle.follow("b", lines=None, after=None, follow=False)))

    assert [(one["worker"], one["after"]) for one in lines] == [("b/0", "pending"), ("b/0", "starting")]
    assert end == "done"
    last, _ = asyncio.run(told(life.chronicle.follow(None, lines=1, after=None, follow=False)))
    assert len(last) == 1
    none, _ = asyncio.run(told(life.chronicle.follow(None, lines=None, after=last[0]["number"], follow=False)))
    assert none == []


def test_who_follows_hears_of_what_happens_to_the_very_end() -> None:
    life = Life()

    async def follow() -> tuple[list[dict[str, Any]], str]:
        listening = asyncio.ensure_future(told(life.chronicle.follow("a", lines=0, after=None, follow=True)))
        await asyncio.sleep(0)
        life.crash()
        life.chronicle.close()
        return await listening

    lines, end = asyncio.run(follow())

    assert [one["after"] for one in lines][:1] == ["pending"]
    assert end == "stopping"


def test_who_follows_too_slowly_is_let_go() -> None:
    life = Life()

    async def follow() -> str:
        async with aclosing(life.chronicle.follow("a", lines=None, after=None, follow=True)) as batches:
            await anext(batches)
            for _ in range(KEPT):
                life.crash()
            return (await told(batches))[1]

    assert asyncio.run(follow()) == "slow"


def test_a_death_goes_to_the_file_whole_and_is_kept_short() -> None:
    life = Life()

    for _ in range(DEATHS + 5):
        life.crash()

    story = life.chronicle.story(A)
    assert len(life.buried) == DEATHS + 5
    assert life.buried[-1][0] == A
    assert life.buried[-1][1]["tail"] == ["last words"]
    assert life.buried[-1][1]["timeline"]
    assert len(story["deaths"]) == DEATHS
    assert "tail" not in story["deaths"][0]
    assert len(story["transitions"]) == KEPT_EACH


def test_too_much_of_a_gpu_is_news_once() -> None:
    """It is no step of the worker, and belongs to its story all the same."""
    life = Life()
    before = life.fleet
    worker = replace(before.workers[A], excess="has too much")
    after = replace(before, workers={**before.workers, A: worker}, touched=frozenset({A}))

    for one in (before, after):
        life.chronicle.hear(one, after, (), 20.0)

    *_, last = life.chronicle.story(A)["transitions"]
    assert (last["before"], last["after"], last["cause"], last["at"], last["reason"]) == (
        "starting",
        "starting",
        "GpuMemoryExceeded",
        "20.0",
        "has too much",
    )
    assert len([one for one in life.chronicle.story(A)["transitions"] if one["cause"] == last["cause"]]) == 1


def test_what_becomes_of_devices_is_news_to_everybody_and_to_those_who_are_there() -> None:
    """In its place among what workers went through; of several devices at once nothing is told."""
    life = Life()
    fields = {"device": "GPU-a", "name": "GPU 0"}
    xid = Say("device.xid", {**fields, "xid": 79, "class": "hardware", "advice": "reboot", "workers": ["a/0"]})
    sick = Say("device.draining", {**fields, "before": Health.OK, "reason": "XID 79", "workers": ["a/0"]})
    odd = Say("device.event", {**fields, "event": "double bit ECC error"})
    life.chronicle.hear(life.fleet, life.fleet, (xid, sick, odd, Say("device.held", {"devices": {}})), 20.0)

    def asked(target: str | None) -> list[dict[str, Any]]:
        return asyncio.run(told(life.chronicle.follow(target, lines=None, after=None, follow=False)))[0]

    first, second, third = asked(None)[-3:]
    assert (first["worker"], first["cause"], first["after"], first["at"]) == (None, "device.xid", None, "20.0")
    assert (first["reason"], first["class"]) == (f"{words(79)}: reboot", "hardware")
    assert (second["before"], second["after"], second["reason"]) == ("ok", "draining", "XID 79")
    assert (third["reason"], third["device"]) == ("double bit ECC error", "GPU-a")
    assert [one["cause"] for one in asked("a") if one["worker"] is None] == ["device.xid", "device.draining"]
    assert [one["number"] for one in asked("a/0")][-2:] == [first["number"], second["number"]]
    assert not [one for one in asked("b") if one["worker"] is None]


def test_nothing_is_kept_of_a_worker_that_is_no_more() -> None:
    life = Life()
    life.crash()

    life.meet(SpecLoaded(spec_of()))
    life.meet(Exited(A, life.fleet.workers[A].incarnation, 0, None, alone=True))

    assert life.chronicle.story(A) == {"transitions": [], "deaths": []}
