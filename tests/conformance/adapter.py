"""What a case asks of a supervisor, whichever it is: a few words for what to run, to see and to do."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.e2e.harness import is_alive, wait_for
from tests.nvml.fake import FakeBox

State = Literal["waiting", "starting", "up", "unready", "ending", "done", "failed", "stopped", "unknown"]
"""``waiting`` to be started; ``up`` as soon as the supervisor believes in it; ``done`` and ``failed`` are not tried."""


class LacksError(Exception):
    """This supervisor has no word for what a case describes."""


@dataclass(frozen=True, slots=True)
class Program:
    """
    A service, in words that every supervisor may have. What one has in whole seconds is rounded up.

    Args:
        script: Python, run behind the prelude of `worker.py`.
        command: Instead of a script.
        tries: Failed starts in a row after which it is given up.
        delay_s: Before the first restart of one that failed.
        ready_s: Up once it has lived so long, where no *ready* says otherwise.
        start_s: Within which it has to be ready; healthy once it has lived so long.
        limit: Failed runs without a healthy one after which it is given up.
        permanent: Exit codes after which it is not tried again.
        stop_exec: A command that asks it to end.
        after: Services that are started before and stopped after it.
        ready, alive: Probes, as gpu-supervisor writes them.
        setup: What its process is given, as gpu-supervisor writes it: nice, limits, oom_score_adj.
        gpu: Devices of its own, where the supervisor knows what that is.
    """

    script: str = ""
    command: tuple[str, ...] = ()
    workers: int = 1
    policy: Literal["always", "on-failure", "never"] = "always"
    tries: int = 3
    delay_s: float = 0.05
    ready_s: float = 0.1
    start_s: float = 600.0
    limit: int | None = None
    parole_s: float | None = None
    permanent: tuple[int, ...] = ()
    stop_signal: str = "TERM"
    stop_s: float = 5.0
    stop_group: bool = False
    stop_exec: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    user: str = ""
    umask: str = ""
    ready: Mapping[str, Any] = field(default_factory=dict)
    alive: Mapping[str, Any] = field(default_factory=dict)
    setup: Mapping[str, Any] = field(default_factory=dict)
    port: int | None = None
    gpu: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """
    A worker as its supervisor shows it.

    Args:
        words: All that it says of why it is as it is, and of how its last process ended.
    """

    state: State
    pid: int | None
    words: str
    is_waiting_again: bool = False
    """Waits for another try after one that failed."""


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the diary: when, who and what."""

    at: float
    worker: str
    word: str
    rest: tuple[str, ...]


Workers = dict[str, Seen]


class Supervisor(ABC):
    """
    One running supervisor in a folder of its own.

    Args:
        home: An empty folder; also where the workers write their diary.
        programs: What it runs.
        box: GPUs that its workers may see.
        prefix: A command that runs it: under a limit, as another user.
        env: More environment, of itself and of its workers.
    """

    name: str
    harmless: tuple[signal.Signals, ...]
    """Signals that ask for something it can do again and again."""

    def __init__(
        self,
        home: Path,
        programs: Mapping[str, Program],
        *,
        box: FakeBox | None = None,
        prefix: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.box = box
        self.prefix = prefix
        self.env = {"CASE_HOME": str(home), **(box.env if box else {}), **(env or {})}
        self.programs = programs
        self.begin(programs)

    # ---- what an adapter does -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the supervisor itself."""

    @property
    @abstractmethod
    def file(self) -> Path:
        """What it reads of its programs."""

    @property
    @abstractmethod
    def output(self) -> str:
        """All that it and its workers have written."""

    @abstractmethod
    def begin(self, programs: Mapping[str, Program]) -> None:
        """Start it; LacksError where it has no word for a program."""

    @abstractmethod
    def look(self) -> Workers:
        """Every worker by its name, ``job/0``."""

    @abstractmethod
    def ask_stop(self, name: str) -> Callable[[], object]:
        """Say what `stop` says; what waits for the answer is returned."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Ask for a worker to be stopped, without waiting for it."""

    @abstractmethod
    def start(self, name: str) -> None:
        """Ask for a worker to be started, without waiting for it."""

    @abstractmethod
    def rewrite(self, programs: Mapping[str, Program] | str | None) -> None:
        """Put another file in place, which may be text that is no good; None takes it away."""

    @abstractmethod
    def reload(self) -> int:
        """Have the file read again, and the exit status of the command that does it."""

    @abstractmethod
    def wait(self, timeout_s: float) -> int | None:
        """The exit status of the supervisor, None where it did not end in time."""

    @abstractmethod
    def tell_status(self) -> int:
        """The exit status of the command that says whether all is well."""

    @abstractmethod
    def ends(self, name: str) -> int:
        """How many ends of a worker's processes it has recorded."""

    @abstractmethod
    def delays(self) -> dict[str, float]:
        """Seconds that it lets pass before the next restart of each worker; LacksError where it chooses none."""

    def story(self, name: str) -> list[str]:
        """States that a worker went through, in the words of its supervisor; only of one that tells."""
        raise NotImplementedError

    # ---- what a case does with it -------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[Workers], bool], what: str) -> Workers:
        """The workers, as soon as they are as said."""

        def found() -> Workers | None:
            now = self.look()
            return now if condition(now) else None

        return wait_for(found, lambda: f"{what}\n{self.shown()}")

    def wait_state(self, state: State, *names: str) -> Workers:
        """Wait until workers, or all, are in this state."""
        return self.wait_for(
            lambda now: (
                all(one.state == state for name, one in now.items() if not names or name in names) and bool(now)
            ),
            f"{', '.join(names) or 'all'} {state}",
        )

    def again(self) -> None:
        """Another life in the same folder, after its end."""
        self.begin(self.programs)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def diary(self, word: str = "", worker: str = "") -> list[Said]:
        """What workers have said, oldest first."""
        try:
            lines = (self.home / "diary").read_text().splitlines()
        except OSError:
            lines = []
        parts = (line.split(" ") for line in lines)
        said = [Said(float(at), who, what, tuple(rest)) for at, who, what, *rest in parts]
        return [one for one in said if word in {"", one.word} and worker in {"", one.worker}]

    def wait_diary(self, word: str, worker: str = "", *, times: int = 1) -> list[Said]:
        """What workers have said, once they have said it so often."""

        def found() -> list[Said] | None:
            said = self.diary(word, worker)
            return said if len(said) >= times else None

        return wait_for(found, lambda: f"{times} times {word!r} of {worker or 'somebody'}\n{self.shown()}")

    def touch(self, name: str) -> None:
        """What the scripts of a case wait for."""
        (self.home / name).touch()

    def children(self) -> list[int]:
        """Pids of what workers started, as they said."""
        return [int(one.rest[0]) for one in self.diary("child")]

    def shown(self) -> str:
        try:
            now = {name: (one.state, one.words) for name, one in self.look().items()}
        except OSError as error:
            now = {"": ("unknown", str(error))}
        diary = "\n".join(map(str, self.diary()))
        return f"{now}\n{diary}\n{self.output[-4000:]}"

    def end(self) -> int | None:
        """Have it end if it has not; what it leaves is for `leftovers` to find."""
        if self.wait(0.0) is None:
            self.send(signal.SIGTERM)
        return self.wait(30.0)


def leftovers(home: Path) -> list[int]:
    """Living processes of workers, and of what they started, by the folder in their environment."""
    mark = f"CASE_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid() or not is_alive(int(entry.name)):
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
