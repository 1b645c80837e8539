"""
The keeper: forks the shims, and ends and reaps what a dead shim leaves behind.

Exec'd by the master under ``python -I -S``; standard library only. It never execs anything, so nothing can hang it; it
holds no policy, and it outlives every shim.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import time

from supervisor.host import kernel, shim, tree, wire

TITLE = "gpu-supervisor: keeper"
SHIMS_END_S = 1.0  # Shims see the end of the master themselves; those that have not by then are stuck.
GIVE_UP_S = 1.8  # What is stuck in the kernel by then dies when it leaves it: its SIGKILL is pending.


class Keeper:
    """
    The loop of the keeper.

    Args:
        channel: To the master.
        oom: This process' OOM score.
        title: Of this process.
    """

    def __init__(self, channel: wire.Channel, oom: shim.OomScore, title: kernel.Title) -> None:
        self.channel = channel
        self.oom = oom
        self.title = title
        self.shims: dict[int, int] = {}  # Pid to the number that the master gave it.
        self.strays = tree.Strays()
        self.kept: dict[str, int] = {}  # Descriptors that are to outlive the master; shims close theirs.
        self.rescan_s: float | None = None  # Not None while there are strays.

    def serve(self) -> None:
        """Work until the master is gone, then see everything ended."""
        self.channel.send({"did": "ready"})
        poll = select.poll()
        poll.register(shim.SIGNALS, select.POLLIN)
        while not self.channel.ended:
            events = shim.wait(poll, self.channel, self.rescan_s)
            if events.get(shim.SIGNALS):
                shim.drain()
                self.rescan_s = None
                self.settle()
            elif self.rescan_s:
                self.settle()
            if events.get(self.channel.fileno()):
                self.talk()
        self.end()

    def talk(self) -> None:
        """Send what waits, obey what came."""
        self.channel.flush()
        for message, fds in self.channel.receive():
            match message["do"]:
                case "fork":
                    self.fork(message["shim"], message["worker"], fds)
                case "keep":  # Open until we end, who outlive everything that the master's workers started.
                    self.keep(message["name"], fds or ())
                case "drop":
                    self.keep(message["name"], ())
                case "kill":  # Strays are killed unasked. The answer shows that we are not stopped.
                    self.settle()
                    self.channel.send({"did": "heard", "order": message["order"]})

    def keep(self, name: str, fds: tuple[int, ...]) -> None:
        """Hold a descriptor for the master, in place of the one of that name before."""
        if (old := self.kept.pop(name, None)) is not None:
            os.close(old)
        if fds:
            self.kept[name] = fds[0]

    def fork(self, number: int, worker: str, fds: tuple[int, ...] | None) -> None:
        """Fork a shim and send its pidfd to the master."""
        if fds is None:
            self.channel.send({"did": "refused", "shim": number, "errno": errno.EMFILE, "detail": "no descriptor left"})
            return
        self.title.write(f"gpu-supervisor: shim {worker}")  # Inherited: cheaper than to write it there.
        try:
            pid = os.fork()
        except OSError as error:
            self.channel.send({"did": "refused", "shim": number, "errno": error.errno, "detail": "cannot fork a shim"})
        else:
            if pid == 0:
                shim.run(lambda: shim.main(fds[0], self.oom))
            self.shims[pid] = number
            self.channel.send({"did": "forked", "shim": number, "pid": pid}, _open_pidfd(pid))
        self.title.write(TITLE)
        os.close(fds[0])

    def settle(self) -> None:
        """Reap, kill the strays, and report the shims of whose trees nothing is left."""
        self.reap()
        present = self.read_strays()
        while self.reap():  # Whoever ended during the look may have left us more.
            present = self.read_strays()
        for number in self.strays.settle(present):
            self.channel.send({"did": "gone", "shim": number})
        if present:
            tree.kill_all(self.read_strays)
            self.rescan_s = min(self.rescan_s * 2, tree.RESCAN_MAX_S) if self.rescan_s else tree.RESCAN_MIN_S
        else:
            self.rescan_s = None

    def reap(self) -> bool:
        """Collect whoever ended; True if somebody had."""
        is_any = False
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return is_any
            if result is None:
                return is_any
            is_any = True
            number = self.shims.pop(result.si_pid, None)
            if number is not None:
                self.strays.lost.add(number)
                self.channel.send({"did": "ended", "shim": number})

    def read_strays(self) -> list[int]:
        """Return our children that are no shims."""
        return [pid for pid in tree.read_children(os.getpid()) if pid not in self.shims]

    def end(self) -> None:
        """Wait for the shims, kill those that are stuck and what lands here."""
        poll = select.poll()
        poll.register(shim.SIGNALS, select.POLLIN)
        start = time.monotonic()
        self.settle()
        for pid in self.shims:
            os.kill(pid, signal.SIGCONT)  # A stopped one does not see the end.
        while self.shims or self.strays.found:
            elapsed = time.monotonic() - start
            if elapsed > GIVE_UP_S:
                return
            if elapsed > SHIMS_END_S:
                for pid in self.shims:
                    os.kill(pid, signal.SIGKILL)
            poll.poll(int(shim.END_LOOK_S * 1000))
            shim.drain()
            self.settle()


def _open_pidfd(pid: int) -> tuple[int, ...]:
    """Return nothing where there is no room for it: the master then ends that shim through its socket."""
    try:
        return (os.pidfd_open(pid),)
    except OSError:
        return ()


def main() -> None:
    """Be the keeper; the socket to the master is descriptor 3."""
    shim.run(_main)


def _main() -> None:
    os.set_inheritable(shim.CHANNEL, False)
    os.closerange(shim.CHANNEL + 1, shim.OPEN_MAX)
    signals = kernel.open_signalfd(signal.SIGCHLD)
    assert signals == shim.SIGNALS, "the first descriptor after the channel"
    os.chdir("/")
    shim.ignore_signals()
    kernel.set_subreaper(on=True)
    kernel.continue_when_parent_ends()
    kernel.set_name("gpu-supervisor")
    title = kernel.Title()
    title.write(TITLE)
    channel = wire.Channel(socket.socket(fileno=shim.CHANNEL))
    gc.freeze()  # A collection in a shim would else copy the pages that it shares with the keeper.
    Keeper(channel, shim.OomScore(), title).serve()
