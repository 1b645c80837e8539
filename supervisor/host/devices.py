"""
Owns the prober from the daemon's side: starts it, asks it, gives up on it, replaces it.

Maps no driver library and reads no device itself; what a reading means is the core's business.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.core.figures import Sensors
from supervisor.core.inventory import Checkup, Device, GpuState, Health, Holder, Link, Opener, Reading, Vitals
from supervisor.core.spec import WorkerId
from supervisor.host.holders import Describer
from supervisor.host.prober_client import Prober, Spawner, wait_event
from supervisor.host.silence import Lost, Silences

_ABANDONED_MAX = 3  # Each keeps a process, a shim and its hold on the driver; more of them find out nothing new.
_BACKOFF_FIRST_S = 1.0
_BACKOFF_MAX_S = 60.0
_SENSORS_DEADLINE_S = 1.0
_SENSORS_PAUSE_S = 60.0
"""A driver that hangs over a sensor costs a prober each time; readings go on without."""
CHECKUP_S = 50.0
"""A little less than what lies between two readings where all is well, so that each of those has one."""
_CHECKUP_PAUSE_S = 600.0
"""One that breaks a reading is not to break the next: a driver may be unable to answer one question of it."""
_DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")


class _ProberFailedError(Exception):
    """A prober that is of no use any more, in words, and what that makes of the GPUs' state."""

    def __init__(self, state: GpuState, words: str) -> None:
        super().__init__(words)
        self.state = state


class Devices:
    """
    Readings of the driver, each within its deadlines whatever the driver does.

    Args:
        processes: Where processes are started; has to be started itself, and outlives this.
        now: Monotonic seconds.
        environ: The prober's environment; the loader's search path in it decides which library it finds.
        owners: Pid to worker of processes that have all of a worker's tree below them.
        init_deadline_s: For nvmlInit, and for the start of the prober. The driver may take seconds for each GPU.
        call_deadline_s: For every other call.
        checkup_s: Devices are looked at more closely at most so often, and by every new prober.
        gone_deadline_s: How long a killed prober has before it counts as abandoned.
        spared: UUIDs of devices that nothing of ours is to have open, as it is now.
        silences: Of devices on which calls hang; None for the books of this machine.
    """

    def __init__(
        self,
        processes: Spawner,
        now: Callable[[], float],
        environ: Mapping[str, str],
        *,
        owners: Callable[[], Mapping[int, WorkerId]] = dict,
        init_deadline_s: float = 30.0,
        call_deadline_s: float = 10.0,
        gone_deadline_s: float = 2.0,
        checkup_s: float = CHECKUP_S,
        spared: Callable[[], frozenset[str]] = frozenset,
        silences: Silences | None = None,
    ) -> None:
        self._processes = processes
        self._now = now
        self._find_spared = spared
        self._environ = environ
        self._owners = owners
        self._holders: dict[int, Holder] = {}  # Of the last reading.
        self._init_deadline_s = init_deadline_s
        self._call_deadline_s = call_deadline_s
        self._gone_deadline_s = gone_deadline_s
        self._checkup_s = checkup_s
        self._number = 0
        self._prober: Prober | None = None
        self._retired: list[Prober] = []  # Killed, and alive when last looked at.
        self._failures = 0  # Probers in a row that hung or died.
        self._not_before = 0.0  # Second of the loop's time before which no prober starts, unless asked for a fresh one.
        self._serving: asyncio.Future[tuple[Reading, float]] | None = None
        self._waiting: asyncio.Future[tuple[Reading, float]] | None = None
        self._wants_fresh = asyncio.Event()
        self._silences = Silences() if silences is None else silences
        self._spared: frozenset[str] = frozenset()  # As the prober under way was told.
        self._kernel_gpus: frozenset[str] | None = None  # When it was started.
        self._wants_openers = False
        self._openers: tuple[tuple[Opener, ...], int] | None = None  # Of the reading under way.
        self._runner: asyncio.Task[None] | None = None
        self._is_closed = False
        self._wants_sensors = False
        self._no_sensors_before = 0.0
        self._no_checkup_before = 0.0
        self._checked_at = float("-inf")
        self.sensors: Mapping[str, Sensors] = {}
        """By UUID, of the last reading that was asked for them."""
        self.silent_sensor = ""
        """What hung when they were read last; empty if nothing did."""

    async def read(self, *, fresh: bool = False, closely: bool = False, sensors: bool = False) -> tuple[Reading, float]:
        """
        Ask the driver for its devices.

        The driver is asked one reading at a time. Who asks meanwhile gets the next one, together with all others who
        wait for it: never one that was asked for before the call.

        Args:
            fresh: Through a new prober, since NVML sees only the devices of its initialisation; never held back.
            closely: With all processes that have the driver's files open, which takes looking at everybody.
            sensors: Read those too. None of them keeps back the reading or makes it a bad one.

        Returns:
            The reading, never an exception, and the monotonic second at which it was asked for.
        """
        if self._is_closed:
            return self._refuse()
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            self._waiting = loop.create_future()
        if fresh:
            self._wants_fresh.set()
        self._wants_openers |= closely
        self._wants_sensors |= sensors
        waiting = self._waiting
        if self._runner is None:
            self._runner = loop.create_task(self._run())
        return await asyncio.shield(waiting)  # One who gives up must not take the answer from the others.

    async def close(self) -> None:
        """End the prober; who waits for a reading is told that there is none."""
        self._is_closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        self._turn_away()
        self._retire()
        await self._wait_retired()

    async def _run(self) -> None:
        """Serve readings until nobody waits for one."""
        try:
            while self._waiting is not None:
                await self._hold_back()
                self._serving, self._waiting = self._waiting, None
                asked_at = self._now()
                self._serving.set_result((await self._read_once(), asked_at))
        finally:
            self._runner = None
            self._turn_away()

    def _turn_away(self) -> None:
        """Answer those who wait although nobody serves them any more."""
        for future in (self._serving, self._waiting):
            if future is not None and not future.done():
                future.set_result(self._refuse())
        self._waiting = None

    def _refuse(self) -> tuple[Reading, float]:
        return Reading(GpuState.ERROR, "the daemon is stopping"), self._now()

    async def _hold_back(self) -> None:
        """Wait until a prober may be started, or somebody wants a fresh one."""
        if (self._prober is None or self._prober.has_ended) and not self._is_full():
            await wait_event(self._wants_fresh, self._not_before - asyncio.get_running_loop().time())

    def _is_full(self) -> bool:
        return sum(not prober.is_gone for prober in self._retired) >= _ABANDONED_MAX

    async def _read_once(self) -> Reading:
        kernel_gpus = self._silences.list_kernel()
        is_old = self._spared != self._find_spared() or self._kernel_gpus != kernel_gpus
        self._spared, self._kernel_gpus = self._find_spared(), kernel_gpus
        if self._wants_fresh.is_set() or is_old or (self._prober is not None and self._prober.has_ended):
            self._wants_fresh.clear()
            self._retire()
        if self._prober is None:
            await self._wait_retired()
            if self._is_full():
                words = f"{_ABANDONED_MAX} probers hang in the driver and cannot be killed"
                return Reading(GpuState.UNRESPONSIVE, _add_driver_count(words))
        try:
            reading = await self._ask()
        except OSError as error:
            reading = Reading(GpuState.ERROR, f"cannot start the prober: {error.strerror}")
            self._note_failure()
        if reading.state in {GpuState.MISMATCH, GpuState.ERROR}:
            # It may have mapped a library that does not fit the driver any more, or hold a state that does not mend.
            self._retire()
        return reading

    async def _ask(self) -> Reading:
        """One question to the prober, which is started if there is none; one that fails is retired."""
        self._number += 1
        is_new = self._prober is None
        if self._prober is None:
            # Ids are used again, so that a driver that keeps failing leaves no trace of each try.
            place = min({*range(_ABANDONED_MAX + 1)} - {prober.place for prober in self._retired})
            self._prober = Prober(self._processes, place=place, number=self._number, environ=self._environ)
        prober = self._prober
        wants_sensors = self._wants_sensors and self._may_ask_sensors()
        is_stuck = any(not one.is_gone for one in self._retired)
        spare = self._silences.left_out(self._spared, asyncio.get_running_loop().time(), is_stuck=is_stuck)
        has_checkup = self._begin_checkup(is_new=is_new)
        prober.ask(
            self._number,
            closely=self._wants_openers,
            sensors=wants_sensors,
            checkup=has_checkup,
            spare=spare,
            known=self._silences.known_gpus(),
        )
        self._wants_openers, self._openers, self._wants_sensors = False, None, False
        try:
            reading, lost = await self._await_reading(prober)
        except _ProberFailedError as error:
            if has_checkup:
                self._no_checkup_before = self._checked_at + _CHECKUP_PAUSE_S
            self._retire()
            self._note_failure()
            return self._with_openers(Reading(error.state, str(error)))
        self._failures = 0
        if reading.state is GpuState.OK:
            reading = self._silences.complete(reading, spare, self._spared, lost)
            reading = replace(reading, kernel=self._kernel_gpus)
        if wants_sensors:
            await self._take_sensors(prober)
        return self._with_openers(reading)

    def _begin_checkup(self, *, is_new: bool) -> bool:
        """Whether this reading is one of those that look more closely; the first of each prober is."""
        now = asyncio.get_running_loop().time()
        if now < self._no_checkup_before or not (is_new or now - self._checked_at >= self._checkup_s):
            return False
        self._checked_at = now
        return True

    def _may_ask_sensors(self) -> bool:
        """Not while a prober hangs that cannot be killed: three of those would cost all readings."""
        is_over = asyncio.get_running_loop().time() >= self._no_sensors_before
        return is_over and all(prober.is_gone for prober in self._retired)

    async def _take_sensors(self, prober: Prober) -> None:
        """What follows a reading that was asked for with them."""
        prober.calling, self.sensors, self.silent_sensor = "", {}, ""
        try:
            while (line := await prober.wait_line(_SENSORS_DEADLINE_S)) is not None:
                message = json.loads(line)
                if "calling" in message:
                    prober.calling = str(message["calling"])
                    continue
                self.sensors = {uuid: _parse_sensors(values) for uuid, values in message["sensors"].items()}
                return
            what = "the prober ended"
        except TimeoutError:
            what = "no answer"
        except (ValueError, TypeError, KeyError, AttributeError):
            what = "no sensors"
        self.silent_sensor = f"{what} in {prober.calling}" if prober.calling else what
        self._no_sensors_before = asyncio.get_running_loop().time() + _SENSORS_PAUSE_S
        self._retire()

    def _with_openers(self, reading: Reading) -> Reading:
        if self._openers is None:
            return reading
        return replace(reading, openers=self._openers[0], hidden=self._openers[1])

    async def _await_reading(self, prober: Prober) -> tuple[Reading, tuple[Lost, ...]]:
        """Follow the prober from call to call; with the reading what it says of GPUs that it could only name."""
        while True:
            try:
                line = await prober.wait_line(self._deadline_s(prober.calling))
            except TimeoutError:
                silence = self._describe_silence(prober.calling)
                self._silences.note_hang(prober.calling, silence, asyncio.get_running_loop().time())
                words = _add_driver_count(silence)
                raise _ProberFailedError(GpuState.UNRESPONSIVE, words) from None
            if line is None:
                end = await prober.describe_end(self._gone_deadline_s)
                self._silences.note_hang(prober.calling, end, asyncio.get_running_loop().time())
                raise _ProberFailedError(GpuState.ERROR, end)
            try:
                message = json.loads(line)
                if "openers" in message:
                    self._openers = _parse_openers(message, Describer(self._owners(), self._holders).describe)
                elif "calling" not in message:
                    describer = Describer(self._owners(), self._holders)
                    reading = parse_reading(message["reading"], describer.describe)
                    self._holders = {one.pid: one for device in reading.devices for one in device.holders or ()}
                    return reading, parse_lost(message["reading"])
                else:
                    prober.calling = str(message["calling"])
            except (ValueError, TypeError, KeyError, AttributeError):
                words = f"the prober answered what is no reading: {line[:200].decode(errors='replace')}"
                raise _ProberFailedError(GpuState.ERROR, words) from None

    def _deadline_s(self, calling: str) -> float:
        return self._init_deadline_s if calling in {"", "nvmlInit"} else self._call_deadline_s

    def _describe_silence(self, calling: str) -> str:
        name, _, index = calling.partition(" ")
        call = name or "the prober"
        where = f" on device {index}" if index else ""
        return f"{call}{where} has not answered for {self._deadline_s(calling):g} s"

    def _retire(self) -> None:
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.kill()
            self._retired.append(prober)

    async def _wait_retired(self) -> None:
        """Give the killed ones their time; those that are left then are abandoned."""
        loop = asyncio.get_running_loop()
        for prober in self._retired:
            await prober.wait_gone(prober.retired_at + self._gone_deadline_s - loop.time())
        self._retired = [prober for prober in self._retired if not prober.is_gone]

    def _note_failure(self) -> None:
        """The next prober may start at once, those after it ever later, until one answers."""
        self._failures += 1
        exponent = min(self._failures - 2, 16)
        delay_s = 0.0 if exponent < 0 else min(_BACKOFF_FIRST_S * 2.0**exponent, _BACKOFF_MAX_S)
        self._not_before = asyncio.get_running_loop().time() + delay_s


def parse_reading(answer: Mapping[str, Any], describe: Callable[[int, int | None], Holder] = Holder) -> Reading:
    """
    Make a reading of the prober's answer.

    Args:
        answer: As the prober gave it.
        describe: Makes a holder of a pid and its bytes.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is none.
    """
    devices = tuple(
        Device(
            uuid=device["uuid"],
            index=device["index"],
            name=device["name"],
            pci=device["pci"],
            numa=device["numa"],
            memory_total_bytes=device["memory_total"],
            memory_free_bytes=device["memory_free"],
            health=Health(device["health"]),
            reason=device["reason"],
            parent=device["parent"],
            is_cut=device["is_cut"],
            is_unified=device["is_unified"],
            holders=None if device["holders"] is None else tuple(describe(*holder) for holder in device["holders"]),
            minor=device.get("minor"),
            instance=None if device["instance"] is None else tuple(device["instance"]),
            vitals=Vitals(**device.get("vitals", {})),
            checkup=_parse_checkup(device.get("checkup")),
        )
        for device in answer["devices"]
    )
    links = tuple(Link(**link) for link in answer.get("links", ()))
    # Devices without a readable identity cannot be among the devices; the detail is where a person finds them.
    broken = [f"device {each['index']}: {each['detail']}" for each in answer.get("broken", ()) if "uuid" not in each]
    detail = answer["detail"] or "; ".join(broken)
    return Reading(GpuState(answer["state"]), detail, devices, links)


def _parse_checkup(answer: Mapping[str, Any] | None) -> Checkup | None:
    if answer is None:
        return None
    nvlinks = answer["nvlinks"]
    ends = None if nvlinks is None else tuple((str(end), int(count)) for end, count in nvlinks)
    return Checkup(**{**answer, "nvlinks": ends})


def parse_lost(answer: Mapping[str, Any]) -> tuple[Lost, ...]:
    """GPUs without a readable identity of which it is known which they are; raises as `parse_reading`."""
    found = (each for each in answer.get("broken", ()) if "uuid" in each)
    return tuple(Lost(str(each["uuid"]), int(each["index"]), str(each["detail"]), each["code"]) for each in found)


def _parse_sensors(answer: Mapping[str, Any]) -> Sensors:
    draw, limit = (None if answer[key] is None else round(answer[key] / 1000, 3) for key in ("draw", "limit"))
    return Sensors(answer["gpu"], answer["memory"], answer["celsius"], draw, limit)


def _parse_openers(
    answer: Mapping[str, Any], describe: Callable[[int, int | None], Holder]
) -> tuple[tuple[Opener, ...], int]:
    found = (Opener(describe(pid, None), tuple(minors), computes) for pid, minors, computes in answer["openers"])
    return tuple(found), int(answer["hidden"])


def _add_driver_count(words: str) -> str:
    """Say what the kernel's driver lists: reading its directory takes none of the locks on which NVML hangs."""
    try:
        count = len(os.listdir(_DRIVER_GPUS))  # noqa: PTH208 - Only the number matters.
    except OSError:
        return words
    return f"{words}; the kernel driver lists {count} GPU{'' if count == 1 else 's'}"
