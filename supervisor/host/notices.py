"""
Owns the sockets on which workers speak for themselves (sd_notify): one for each process, in a folder of its own.

Must not decide what a word means for the worker; a word of a stranger, or of a process that is no more, is dropped.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import struct
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.core.message import BecameReady, BecameUnready, LivenessLost, ProgressTold, StartExtended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from supervisor.core.message import Event, Incarnation, Probe, ProbeAlive
    from supervisor.core.spec import WorkerId

PREFIX = "gpu-supervisor-notify-"
WORD_MAX_BYTES = 4096
"""PIPE_BUF, as systemd has it; a longer word is dropped."""

STATUS_MAX = 200
STATUS_PAUSE_S = 0.25
"""Between two changes of a status that are passed on; a progress bar may tell a thousand."""

TURN_MAX_WORDS = 32
REST_S = 0.05
"""For one who talks without end."""

LATE_S = 0.5
"""A timer that is so late says that this process did not run."""

_CREDENTIALS = struct.Struct("3i")
_FDS_MAX = 16
_ROOM = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_FDS_MAX * 4)


@dataclass(eq=False)
class _Voice:
    """
    One process' socket.

    Args:
        owner: Whose process it is; besides, the daemon's own user and root may speak.
        is_awaited: That it says READY makes it ready.
        limit_s: Within which it has to say WATCHDOG again and again; None = it need not.
        wished_s: The same as it has said itself, maybe long before it has to; None = as the file says.
        heard_at: When it last did, on the loop's clock.
    """

    worker: WorkerId
    incarnation: Incarnation
    socket: socket.socket
    folder: Path
    owner: int
    is_awaited: bool = False
    is_listening: bool = False
    limit_s: float | None = None
    wished_s: float | None = None
    heard_at: float = 0.0
    status: str = ""
    told: str = ""
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)


class Notices:
    """
    The voices of all workers. Used inside a running event loop; nothing here blocks.

    Args:
        loop: Runs it.
        on_event: Gets what they say: BecameReady, BecameUnready, LivenessLost, ProgressTold, StartExtended.
        places: Folders in which ours may be made, best first; in the common ones when not given.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[Event], None],
        places: Iterable[Path] | None = None,
    ) -> None:
        self._loop = loop
        self._on_event = on_event
        self._places = tuple(_places(os.environ) if places is None else places)
        self._voices: dict[WorkerId, _Voice] = {}
        self._folder: Path | None = None
        self._lock = -1

    def open(self, worker: WorkerId, incarnation: Incarnation) -> str:
        """
        Make the socket of a process that is about to be started.

        Returns:
            Its path, for NOTIFY_SOCKET.

        Raises:
            OSError: There is none to be had.
        """
        self.close_one(worker)
        folder = self._home() / str(incarnation)
        folder.mkdir(mode=0o700)
        path = folder / "notify"
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.bind(str(path))
            path.chmod(0o600)
        except OSError:
            ours.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._voices[worker] = _Voice(worker, incarnation, ours, folder, os.geteuid())
        return str(path)

    def own(self, worker: WorkerId, uid: int) -> None:
        """Give the socket to the user whose process it is going to be."""
        voice = self._voices.get(worker)
        if voice is not None:
            voice.owner = uid
            with contextlib.suppress(OSError):  # Then it cannot speak, and its start timeout says so.
                os.chown(voice.folder / "notify", uid, -1)
                os.chown(voice.folder, uid, -1)

    def listen(self, worker: WorkerId, incarnation: Incarnation) -> None:
        """It runs: what it says counts from now on. What it has said already waits in the socket."""
        voice = self._find(worker, incarnation)
        if voice is not None and not voice.is_listening:
            voice.is_listening = True
            self._loop.add_reader(voice.socket, self._hear, voice)

    def watch(self, order: Probe) -> None:
        """READY makes it ready."""
        if (voice := self._find(order.worker, order.incarnation)) is not None:
            voice.is_awaited = True

    def watch_alive(self, order: ProbeAlive) -> None:
        """From now on it has to say WATCHDOG again and again."""
        voice = self._find(order.worker, order.incarnation)
        if voice is not None:
            voice.limit_s = voice.wished_s or order.alive.interval_s * order.alive.failures
            voice.heard_at = self._loop.time()
            self._arm(voice)

    def forgive(self, lost_s: float) -> None:
        """This process did not run for so long, and maybe nobody did."""
        for voice in self._voices.values():
            voice.heard_at = min(voice.heard_at + lost_s, self._loop.time())

    def drain(self, worker: WorkerId, incarnation: Incarnation) -> list[Event]:
        """What a process that has ended said before that and was not heard yet."""
        voice = self._find(worker, incarnation)
        if voice is None:
            return []
        events = [event for word in self._words(voice) for event in self._meaning(voice, word)]
        events += self._status(voice)
        return [event for event in events if not isinstance(event, LivenessLost)]

    def forget(self, worker: WorkerId, incarnation: Incarnation) -> None:
        """Nobody listens to this process any more."""
        if self._find(worker, incarnation) is not None:
            self.close_one(worker)

    def close_one(self, worker: WorkerId) -> None:
        """Nobody listens to this worker any more."""
        voice = self._voices.pop(worker, None)
        if voice is None:
            return
        for timer in voice.timers.values():
            timer.cancel()
        voice.timers.clear()
        self._loop.remove_reader(voice.socket)
        voice.socket.close()
        shutil.rmtree(voice.folder, ignore_errors=True)

    def close(self) -> None:
        """Leave nothing."""
        for worker in list(self._voices):
            self.close_one(worker)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = None

    # ---- what is said ------------------------------------------------------------------------------------------------

    def _find(self, worker: WorkerId, incarnation: Incarnation) -> _Voice | None:
        voice = self._voices.get(worker)
        return voice if voice is not None and voice.incarnation == incarnation else None

    def _hear(self, voice: _Voice) -> None:
        count, is_news = 0, False
        for word in self._words(voice):
            count += 1
            for event in self._meaning(voice, word):
                is_news |= isinstance(event, BecameReady | BecameUnready)
                self._on_event(event)
        if count >= TURN_MAX_WORDS:
            self._loop.remove_reader(voice.socket)
            self._later(voice, "rest", REST_S, lambda: self._loop.add_reader(voice.socket, self._hear, voice))
        if voice.status != voice.told and (is_news or "status" not in voice.timers):
            for event in self._status(voice):
                self._on_event(event)
            self._later(voice, "status", STATUS_PAUSE_S, partial(self._tell_status, voice))

    def _words(self, voice: _Voice) -> list[dict[str, str]]:
        words = []
        for _ in range(TURN_MAX_WORDS):
            try:
                text, parts, flags, _ = voice.socket.recvmsg(WORD_MAX_BYTES, _ROOM)
            except OSError:  # Nothing there; or no room for descriptors, which are dropped.
                break
            speaker = _take_parts(parts)
            is_whole = not flags & socket.MSG_TRUNC
            is_known = speaker in {voice.owner, os.geteuid(), 0}
            words.append(_fields(text) if is_whole and is_known else {})
        return words

    def _meaning(self, voice: _Voice, word: Mapping[str, str]) -> list[Event]:
        """MAINPID, FDSTORE and the like are dropped: whose process it is, its shim knows."""
        names = (voice.worker, voice.incarnation)
        events: list[Event] = []
        if "STATUS" in word:
            voice.status = "".join(filter(str.isprintable, word["STATUS"]))[:STATUS_MAX].strip()
        if (extension := _microseconds(word.get("EXTEND_TIMEOUT_USEC"))) is not None:
            events.append(StartExtended(*names, extension))
        if word.get("READY") == "1" and voice.is_awaited:
            events.append(BecameReady(*names))
        if word.get("STOPPING") == "1":
            voice.limit_s = None
            events.append(BecameUnready(*names, "it says that it is stopping"))
        voice.wished_s = _microseconds(word.get("WATCHDOG_USEC")) or voice.wished_s
        if voice.limit_s is not None:
            voice.limit_s = voice.wished_s or voice.limit_s
            if word.get("WATCHDOG") == "1":
                voice.heard_at = self._loop.time()
            elif word.get("WATCHDOG") == "trigger":
                voice.limit_s = None
                events.append(LivenessLost(*names, "it says itself that it hangs", is_watchdog=True))
            self._arm(voice)
        return events

    def _status(self, voice: _Voice) -> list[Event]:
        if voice.status == voice.told:
            return []
        voice.told = voice.status
        return [ProgressTold(voice.worker, voice.incarnation, voice.status)]

    def _tell_status(self, voice: _Voice) -> None:
        for event in self._status(voice):
            self._on_event(event)

    # ---- time --------------------------------------------------------------------------------------------------------

    def _later(self, voice: _Voice, what: str, delay_s: float, do: Callable[[], None]) -> None:
        def run() -> None:
            voice.timers.pop(what, None)
            if self._voices.get(voice.worker) is voice:
                do()

        if what in voice.timers:
            voice.timers[what].cancel()
        voice.timers[what] = self._loop.call_later(delay_s, run)

    def _arm(self, voice: _Voice) -> None:
        """One timer stands for many signs of life: it looks when the last one was."""
        if voice.limit_s is None:
            if (timer := voice.timers.pop("watchdog", None)) is not None:
                timer.cancel()
            return
        due = voice.heard_at + voice.limit_s
        timer = voice.timers.get("watchdog")
        if timer is None or timer.when() > due:
            self._later(voice, "watchdog", max(due - self._loop.time(), 0.0), partial(self._look, voice, due))

    def _look(self, voice: _Voice, due: float) -> None:
        self._hear(voice)  # What waits in the socket was in time.
        now = self._loop.time()
        if voice.limit_s is None:
            return
        if now - due > LATE_S:
            voice.heard_at = now
        if now < voice.heard_at + voice.limit_s:
            self._arm(voice)
            return
        detail = f"no sign of life (WATCHDOG=1) within {voice.limit_s:g} s"
        voice.limit_s = None
        self._on_event(LivenessLost(voice.worker, voice.incarnation, detail, is_watchdog=True))

    # ---- where -------------------------------------------------------------------------------------------------------

    def _home(self) -> Path:
        """Our folder; others may pass through it, if our workers may be others."""
        if self._folder is None:
            error: OSError | None = None
            for place in self._places:
                _sweep(place)
                folder = place / f"{PREFIX}{os.getpid()}"
                try:
                    folder.mkdir(mode=0o700)
                    self._lock = _locked(folder)
                    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
                except OSError as refused:
                    error = error or refused
                    continue
                self._folder = folder
                break
            else:
                raise error or FileNotFoundError
        assert self._folder is not None
        return self._folder


def _places(environ: Mapping[str, str]) -> list[Path]:
    own = environ.get("XDG_RUNTIME_DIR", "")
    first = Path("/run") if os.geteuid() == 0 else Path(own) if own.startswith("/") else None
    return [*([first] if first else []), Path("/tmp")]  # noqa: S108 - A folder of our own in it.


def _sweep(place: Path) -> None:
    """Remove what daemons that were killed have left: nobody holds their lock."""
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{PREFIX}*"):
            status = folder.lstat()
            if status.st_uid != os.geteuid() or not folder.is_dir() or folder.is_symlink():
                continue
            with contextlib.suppress(OSError):
                os.close(_locked(folder))
                shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _take_parts(parts: Iterable[tuple[int, int, bytes]]) -> int | None:
    """Who speaks; and close what came along, which is all that a BARRIER waits for."""
    speaker = None
    for level, kind, content in parts:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS and len(content) >= _CREDENTIALS.size:
            speaker = _CREDENTIALS.unpack_from(content)[1]
        elif kind == socket.SCM_RIGHTS:
            descriptors = array.array("i")
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
            for descriptor in descriptors:
                os.close(descriptor)
    return speaker


def _fields(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return {name: value for name, separator, value in (line.partition("=") for line in lines) if separator}


def _microseconds(text: str | None) -> float | None:
    """A number of microseconds in seconds; None for anything else, and for none at all."""
    is_number = text is not None and text.isascii() and text.isdecimal() and len(text) < 20
    return int(text or 0) / 1e6 or None if is_number else None
