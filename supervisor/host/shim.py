"""
A shim: the parent of one worker's main process and the subreaper of everything that it starts.

Forked from the keeper; standard library only. It spawns, reaps, signals and kills what the master asks for, reports
facts, and ends with its tree when the master is gone. No policy, and no clock but for a tree that will not die.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time

from supervisor.host import kernel, spawn, tree, wire
from supervisor.host.attributes import Attributes
from supervisor.host.leaf import Leaf

# Importing these would cost memory in every shim.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

CHANNEL = 3  # Where keeper and shims keep their end of the socket pair,
SIGNALS = 4  # and the descriptor that is readable when a child of the process that looks has ended.
OPEN_MAX = os.sysconf("SC_OPEN_MAX")
END_S = 0.9  # For what is left of the tree once the master is gone; the keeper waits a second for its shims.
END_LOOK_S = 0.02
STALLED_S = 0.01
SIGNALFD_BYTES = 128

LOW_OOM_SCORE = -900  # The supervisor is the last that the kernel should pick; its workers can be restarted.
WORKER_OOM_SCORE_MIN = 0

# What a person or a terminal may send: keeper and shims end with the master and with nothing else.
_IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


class Shim:
    """
    The loop of a shim.

    Args:
        channel: To the master.
        oom: This process' OOM score while it does not spawn.
    """

    def __init__(self, channel: wire.Channel, oom: OomScore) -> None:
        self.channel = channel
        self.oom = oom
        self.incarnation: int | None = None
        self.main: int | None = None
        self.group: int | None = None  # Process group that the main process leads, also when that is dead.
        self.rescan_s: float | None = None  # Not None while the tree is being killed.
        self.leaf: Leaf | None = None  # Of the worker, where the daemon was delegated a cgroup.

    def serve(self) -> None:
        """Work until the master is gone, then end the tree."""
        poll = select.poll()
        poll.register(SIGNALS, select.POLLIN)
        while not self.channel.ended:
            events = wait(poll, self.channel, self.rescan_s)
            if events.get(SIGNALS):
                drain()
                self.rescan_s = self.rescan_s and tree.RESCAN_MIN_S
            self.reap()
            if self.rescan_s:
                self.kill()
            if events.get(self.channel.fileno()):
                self.talk()
        self.end()

    def talk(self) -> None:
        """Send what waits, obey what came."""
        self.channel.flush()
        for message, fds in self.channel.receive():
            match message["do"]:
                case "spawn":
                    self.spawn(message, fds)
                case "signal":
                    self.signal(message)
                    self.channel.send({"did": "heard", "order": message["order"]})
                case "kill":
                    if message["incarnation"] == self.incarnation:
                        self.rescan_s = tree.RESCAN_MIN_S
                        self.kill()
                    self.channel.send({"did": "heard", "order": message["order"]})

    def spawn(self, message: wire.Message, fds: tuple[int, ...] | None) -> None:
        """Start the main process of an incarnation."""
        incarnation = message["incarnation"]
        try:
            pid = self.start(message, fds)
        except spawn.SpawnError as error:
            if self.leaf and self.incarnation is None:
                self.leaf.remove()
            self.channel.send(
                {"did": "failed", "incarnation": incarnation, "errno": error.errno, "detail": error.detail}
            )
        else:
            self.incarnation = incarnation
            self.main = self.group = pid
            lacks = self.leaf.lacks if self.leaf else ""
            self.channel.send({"did": "spawned", "incarnation": incarnation, "pid": pid, "lacks": lacks})
        finally:
            for fd in fds or ():
                os.close(fd)

    def start(self, message: wire.Message, fds: tuple[int, ...] | None) -> int:
        """Return the pid; SpawnError if there is none."""
        if fds is None:
            raise spawn.SpawnError(errno.EMFILE, "no room for the worker's descriptors")
        if self.incarnation is not None:
            raise spawn.SpawnError(errno.EBUSY, "the worker's last process, or something of its tree, lives")
        targets = dict(zip(message["fds"], fds, strict=True))
        attributes = message["attributes"]
        self.leaf = Leaf(message["leaf"]) if message["leaf"] else None
        leaf = self.leaf.open(message["env"], message["cgroup"]) if self.leaf else None
        try:
            with self.oom.at(message["oom"]), Attributes(attributes, fds):
                return spawn.spawn(
                    message["argv"],
                    message["env"],
                    message["working_dir"],
                    targets,
                    leaf=leaf,
                    has_sockets=message["sockets"],
                )
        except spawn.SpawnError as error:
            if "user" in attributes and error.errno == errno.EACCES:
                error.detail += f" (as {attributes['user']})"
            raise
        finally:
            if leaf is not None:
                os.close(leaf)
            if "gid" in attributes:  # The kernel forgets it when ids change.
                kernel.continue_when_parent_ends()

    def signal(self, message: wire.Message) -> None:
        """Signal the main process, its group, or everything else of the tree; and wake those that are stopped."""
        if message["incarnation"] != self.incarnation:
            return
        number = message["signal"]
        # A stopped process takes no signal but SIGKILL until it is continued; systemd does the same.
        numbers = (number,) if number == signal.SIGSTOP else (number, signal.SIGCONT)
        match message["scope"]:
            case "rest":
                tree.signal_all(numbers, main=self.main)
            case "outside":
                tree.signal_all(numbers, main=self.main, group=self.group)
            case scope if self.main is not None:  # Not reaped yet, so its number is its own.
                send = os.killpg if scope == "group" else os.kill
                for one in numbers:
                    try:
                        send(self.main, one)
                    except PermissionError:  # A set-user-id program. Nothing that we could do about it.
                        return

    def kill(self) -> None:
        """Kill what is seen of the tree, and see to it that we look again."""
        if self.leaf:
            self.leaf.kill()
        tree.kill_all(lambda: tree.read_children(os.getpid()))
        self.rescan_s = min((self.rescan_s or tree.RESCAN_MIN_S) * 2, tree.RESCAN_MAX_S)

    def reap(self) -> None:
        """Collect whoever ended, and report the end of the main process and of the tree."""
        ended = None
        is_alone = False
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                is_alone = True
                break
            if result is None:
                break
            if result.si_pid == self.main:
                ended = result
        if self.incarnation is None:
            return
        if ended is not None:
            self.main = None
            oom = self.leaf is not None and self.leaf.was_out_of_memory()
            self.channel.send(
                {"did": "exited", "incarnation": self.incarnation, "alone": is_alone, "oom": oom, **_exit_of(ended)}
            )
        elif is_alone:
            self.channel.send({"did": "gone", "incarnation": self.incarnation})
        if is_alone:
            self.incarnation = None
            self.rescan_s = None
            if self.leaf:
                self.leaf.remove()

    def end(self) -> None:
        """Kill the tree. What is stuck in the kernel falls to the keeper."""
        poll = select.poll()
        poll.register(SIGNALS, select.POLLIN)
        deadline = time.monotonic() + END_S
        self.reap()
        while tree.read_children(os.getpid()) and time.monotonic() < deadline:
            self.kill()
            poll.poll(int(END_LOOK_S * 1000))
            drain()
            self.reap()


class OomScore:
    """
    A low OOM score for this process where that is permitted; as a context, the worker's score while one is spawned.

    Attributes:
        own: What this process has.
        worker: What its workers get: what the daemon was started with, but never a low one.
    """

    PATH = "/proc/self/oom_score_adj"

    def __init__(self) -> None:
        self.own = inherited = self._read()
        self.worker = max(inherited, WORKER_OOM_SCORE_MIN)
        self._next: int | None = None
        if inherited > LOW_OOM_SCORE and self._write(LOW_OOM_SCORE):
            self.own = LOW_OOM_SCORE

    def at(self, score: int | None) -> OomScore:
        """Use this score for the next worker; None for the usual one."""
        self._next = score
        return self

    def __enter__(self) -> None:
        score = self.worker if self._next is None else self._next
        if self.own != score and not self._write(score) and self._next is not None:
            raise spawn.SpawnError(errno.EPERM, f"cannot set oom_score_adj to {score}: only root may lower it")

    def __exit__(self, *_: object) -> None:
        self._write(self.own)

    def _read(self) -> int:
        try:
            with open(self.PATH, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs memory in every shim.
                return int(file.read())
        except OSError:
            return 0

    def _write(self, score: int) -> bool:
        try:
            with open(self.PATH, "wb", buffering=0) as file:  # noqa: PTH123
                file.write(b"%d" % score)
        except OSError:
            return False
        return True


def main(sock: int, oom: OomScore) -> None:
    """
    Be a shim, in a process forked from the keeper.

    Every page touched here is copied, which is what most of a start costs: so title, signals and their descriptor come
    from the keeper.

    Args:
        sock: Descriptor of the socket to the master.
        oom: The keeper's.
    """
    os.dup2(sock, CHANNEL, inheritable=False)
    os.closerange(SIGNALS + 1, OPEN_MAX)
    kernel.set_subreaper(on=True)
    kernel.continue_when_parent_ends()
    Shim(wire.Channel(socket.socket(fileno=CHANNEL)), oom).serve()


def ignore_signals() -> None:
    """Leave this process to end with the master, whatever is sent to it."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)


def wait(poll: select.poll, channel: wire.Channel, timeout_s: float | None) -> dict[int, int]:
    """
    Wait for a descriptor of *poll* or for the channel, which it registers.

    Args:
        poll: With the other descriptors registered.
        channel: Watched for writability too while something of it is queued.
        timeout_s: None waits for ever.

    Returns:
        Events by descriptor; the channel is always named when its queue has to be tried again.
    """
    wanted = select.POLLIN
    if channel.stalled:
        timeout_s = min(STALLED_S, timeout_s or STALLED_S)
    elif channel.is_pending:
        wanted |= select.POLLOUT
    poll.register(channel.fileno(), wanted)
    events = dict(poll.poll(None if timeout_s is None else int(timeout_s * 1000)))
    if channel.stalled:
        events.setdefault(channel.fileno(), select.POLLOUT)
    return events


def drain() -> None:
    """Forget the pending SIGCHLD: one stands for any number of children."""
    try:
        os.read(SIGNALS, SIGNALFD_BYTES)
    except BlockingIOError:
        return


def run(serve: Callable[[], None]) -> NoReturn:
    """Run and end this process; nothing of the interpreter's own end is wanted in a fork."""
    status = 1
    try:
        serve()
        status = 0
    except BaseException:  # noqa: BLE001 - reported, and then there is nobody to raise it to.
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _exit_of(result: os.waitid_result) -> wire.Message:
    if result.si_code == os.CLD_EXITED:
        return {"code": result.si_status, "signal": None, "core": False}
    return {"code": None, "signal": result.si_status, "core": result.si_code == os.CLD_DUMPED}
