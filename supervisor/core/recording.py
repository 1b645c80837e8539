"""
A recording: what came into the core and what it did, as lines of JSON, and the same core run over them again.

Lines go in and come out; where they are kept, others know. A recording has segments, and each begins with the fleet as
it was, so that it can be replayed without what was before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Any

from supervisor.core import environment, health, inventory, message, plan, restart, sockets, spec, turn, worker
from supervisor.core.codec import Codec, CodecError, Hook, Pool
from supervisor.core.file import listen
from supervisor.core.file.hooks import Hook as EventHook
from supervisor.core.file.service import ServiceSpec, WorkerEntry
from supervisor.core.message import Action, Event, Spawn
from supervisor.core.mishap import take
from supervisor.core.plan import Launch, Placement
from supervisor.core.spec import Policy, Recipe, Request, WorkerId, WorkerSpec
from supervisor.core.turn import Fleet
from supervisor.core.veil import Veil
from supervisor.core.worker import Worker

FORMAT = 1
CHUNK = 64
"""Workers in one line: who writes a large fleet need not do it in one breath."""

SHARED = (Recipe, Request, Policy, WorkerSpec, Launch, Placement)
"""Of these the workers of a service have much the same ones."""

NAMES: Mapping[str, Any] = {
    name: value
    for module in (environment, health, inventory, listen, message, plan, restart, sockets, spec, turn, worker)
    for name, value in vars(module).items()
    if not name.startswith("_")
}
_RECIPES_MAX = 1024


class RecordingError(Exception):
    """A recording that cannot be replayed; says why."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """
    Whose recording it is, and when a segment of it began.

    Args:
        version: Of the program.
        life: Name of the daemon's life: segments of two lives do not follow each other.
        number: Of the turn before its first; turns are counted from 1 as long as a daemon lives.
        now: Monotonic seconds.
        wall: The same moment in seconds since 1970.
    """

    version: str
    life: str
    number: int
    now: float
    wall: float


class Scribe:
    """
    Writes lines. Not for two threads at once.

    Args:
        key: For digests of what is not written down; see Veil.
    """

    def __init__(self, key: bytes) -> None:
        veil = Veil(key)
        self._codec = make_codec(veil)
        self._veil = veil

    def begin(self, stamp: Stamp, fleet: Fleet) -> Iterator[bytes]:
        """The lines at the beginning of a segment."""
        yield _line({"flight": FORMAT, "shape": shape(), **_plain(stamp)})
        self._codec.pool = pool = Pool()
        try:
            rest = iter(fleet.workers.items())
            while some := dict(islice(rest, CHUNK)):
                workers = self._codec.encode(Mapping[WorkerId, Worker], some)
                yield self._pooled(pool, {"workers": workers})
            yield self._pooled(pool, {"fleet": self._codec.encode(Fleet, replace(fleet, workers={}))})
        finally:
            self._codec.pool = None

    def turn(self, number: int, now: float, event: Event, actions: tuple[Action, ...]) -> bytes:
        """What came in and what was done."""
        return _line({"n": number, "t": now, "event": self.event(event), "actions": self.actions(actions)})

    def broken(self, number: int, now: float, event: Event, error: str) -> bytes:
        """What came in and was not taken, for a bug of ours: nothing was done."""
        return _line({"n": number, "t": now, "event": self.event(event), "broken": error})

    def event(self, event: Event) -> Any:
        """An event as JSON."""
        return self._codec.encode(Event, event)

    def actions(self, actions: Iterable[Action]) -> list[Any]:
        """Actions as JSON."""
        veiled = (self._veil.spawn(one) if isinstance(one, Spawn) else one for one in actions)
        return [self._codec.encode(Action, one) for one in veiled]

    def _pooled(self, pool: Pool, document: dict[str, Any]) -> bytes:
        fresh, pool.fresh = pool.fresh, []
        return _line({"shared": fresh, **document})


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    One turn of a recording, and what came of it now.

    Args:
        number: As recorded.
        wall: Seconds since 1970.
        event: What came in; None where the fleet at the beginning of a segment is not the one that came before it.
        recorded, replayed: Actions as JSON; or in one text what went wrong.
        actions: Those recorded, as values.
        replayed_actions: Those of now.
    """

    number: int
    wall: float
    event: Event | None
    recorded: Any
    replayed: Any
    actions: tuple[Action, ...] = ()
    replayed_actions: tuple[Action, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether the core did again what it had done."""
        return bool(self.recorded == self.replayed)


def replay(lines: Iterable[bytes], version: str) -> Iterator[Outcome]:
    """
    Run the core over a recording.

    Args:
        lines: Of one or more segments in order, each with its line feed; a last one without is torn, and left out.
        version: Of this program.

    Yields:
        Each turn. After one that differs, go on only out of curiosity: the fleet is another one.

    Raises:
        RecordingError: It is none, or of another version, or damaged.
    """
    player = _Player(version)
    for at, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            found = player.take(json.loads(line))
        except (CodecError, KeyError, TypeError, ValueError, RecursionError) as error:
            if at == 1:
                raise RecordingError("it is no recording of gpu-supervisor") from None
            raise RecordingError(f"line {at} is damaged: {_words(error)}") from None
        if found is not None:
            yield found
    if not player.has_begun:
        raise RecordingError("it is empty, or no recording of gpu-supervisor")


class _Player:
    """Takes the lines of a recording one by one."""

    def __init__(self, version: str) -> None:
        self.has_begun = False
        self._version = version
        self._veil = Veil(b"")
        self._codec = make_codec(self._veil)
        self._scribe = Scribe(b"")
        self._fleet: Fleet | None = None
        self._stamp: Stamp | None = None
        self._life = ""
        self._number = 0
        self._pool = Pool()
        self._workers: dict[WorkerId, Worker] = {}
        self._classes = {cls.__name__: cls for cls in SHARED}

    def take(self, record: Any) -> Outcome | None:
        """One line; something comes of those that are a turn."""
        if "flight" in record:
            self._begin(record)
            return None
        if "shared" in record:
            return self._take_fleet(record)
        return self._turn(record)

    def _begin(self, record: Any) -> None:
        stamp = {one.name: record[one.name] for one in fields(Stamp)}
        if record["flight"] != FORMAT or record["version"] != self._version or record["shape"] != shape():
            made = f"{stamp['version']!s:.40} (format {record['flight']!s:.20}, build {record['shape']!s:.20})"
            this = f"{self._version} (format {FORMAT}, build {shape()})"
            raise RecordingError(f"it was made by gpu-supervisor {made}, and this is {this}")
        self._stamp = Stamp(**stamp)
        self._pool, self._workers, self.has_begun = Pool(), {}, True

    def _take_fleet(self, record: Any) -> Outcome | None:
        if self._stamp is None:
            raise CodecError("a fleet without a beginning")
        self._codec.pool = self._pool
        try:
            for raw in record["shared"]:
                self._pool.add(self._codec, raw, self._classes)
            if "workers" in record:
                self._workers |= self._codec.decode(Mapping[WorkerId, Worker], record["workers"])
                return None
            fleet = self._codec.decode(Fleet, record["fleet"])
        finally:
            self._codec.pool = None
        before, self._fleet = self._fleet, replace(fleet, workers=self._workers)
        follows = (self._stamp.life, self._stamp.number) == (self._life, self._number)
        self._life, self._number = self._stamp.life, self._stamp.number
        if before is None or not follows or before == self._fleet:
            return None
        names = [one.name for one in fields(Fleet) if getattr(before, one.name) != getattr(self._fleet, one.name)]
        words = f"the fleet differs in {', '.join(names)}"
        return Outcome(self._number, self._stamp.wall, None, "the fleet at the beginning of a segment", words)

    def _turn(self, record: Any) -> Outcome:
        if self._fleet is None or self._stamp is None:
            raise CodecError("a turn without a fleet")
        number, now = record["n"], record["t"]
        if type(number) is not int or type(now) not in {int, float}:
            raise CodecError("no number and no time")
        event: Event = self._codec.decode(Event, record["event"])
        wall = self._stamp.wall + now - self._stamp.now
        actions: tuple[Action, ...] = ()
        if "broken" in record:
            recorded = record["broken"]
        else:
            recorded = record["actions"]
            actions = self._codec.decode(tuple[Action, ...], recorded)
        self._number = number
        taken = take(self._fleet, event, now)
        self._fleet, done = taken.fleet, taken.actions
        if taken.error is not None:
            return Outcome(number, wall, event, recorded, error_words(taken.error), actions)
        # As JSON gives it back, so that a tuple there is no difference.
        replayed = json.loads(_JSON.encode(self._scribe.actions(done)))
        return Outcome(number, wall, event, recorded, replayed, actions, done)


def error_words(error: Exception) -> str:
    """What stands in a recording for an event of which only an error came."""
    return f"{type(error).__name__}: {error}"


def make_codec(veil: Veil) -> Codec:
    """The codec of everything that goes in and comes out."""
    hooks: dict[tuple[type, str], Hook] = {
        (environment.Host, "environ"): veil.values,
        # Workers of a service have the same one, at every start.
        (Recipe, "env"): lru_cache(_RECIPES_MAX)(veil.pairs),
        (ServiceSpec, "env"): veil.templates,
        (WorkerEntry, "env"): veil.templates,
        # Of services that are posted to the path is the password.
        (EventHook, "url"): veil.text,
    }
    return Codec(NAMES, hooks, SHARED)


def shape() -> str:
    """A digest of every class in a recording: one of other classes must not be misread."""
    if not _shapes:
        words = "\n".join(make_codec(Veil(b"")).shape(Event, Action, Fleet))
        _shapes.append(blake2b(words.encode(), digest_size=8).hexdigest())
    return _shapes[0]


_shapes: list[str] = []


# Made once: `json.dumps` would make one for each line. Nothing here can hold itself.
_JSON = json.JSONEncoder(separators=(",", ":"), default=str, check_circular=False)


def _line(document: dict[str, Any]) -> bytes:
    return _JSON.encode(document).encode() + b"\n"


def _plain(stamp: Stamp) -> dict[str, Any]:
    return {one.name: getattr(stamp, one.name) for one in fields(Stamp)}


def _words(error: Exception) -> str:
    return f"{error.args[0]!s:.200} is missing" if isinstance(error, KeyError) else f"{error!s:.200}"
