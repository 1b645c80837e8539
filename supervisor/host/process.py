"""
Workers' processes as the daemon sees them: orders in, facts out. The client of the keeper and the shims.

The keeper is the master's only child; a shim is the parent of each worker's main process. Nothing here waits, forks, or
handles SIGCHLD: the descriptors of sockets and processes in the event loop are all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from supervisor.core.message import Exited, ShimLost, Spawned, SpawnFailed, TreeGone
from supervisor.errors import CannotError
from supervisor.host import kernel, wire
from supervisor.host.accounts import Account, AccountError, Accounts
from supervisor.host.cgroups import NO_LEAVES, Leaves
from supervisor.host.leaf import Leaf
from supervisor.host.orders import NOTHING, Given, spawn_message
from supervisor.host.orphans import Orphans
from supervisor.host.peer import PATIENCE_S, Peer, exec_keeper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.core.message import Event, Incarnation, KillTree, Signal, Spawn
    from supervisor.core.plan import Launch
    from supervisor.core.spec import WorkerId

    OnEvent = Callable[[Event], None]
    Tell = Callable[[str, Mapping[str, object]], None]

KEEPER_HINT = "workers go on; another keeper is started"
KEEPER_START_S = 10.0
KEEPER_RETRY_S = 1.0  # For a keeper that died before it could do anything; any other is replaced at once.
CLOSE_S = 3.0  # The keeper gives its shims a second and ends within two; then everything is killed from here.
CLOSE_LAST_S = 1.0


@dataclass(slots=True, eq=False)
class _Shim:
    """
    A shim as far as the master knows it.

    Args:
        live: The incarnation of which an end, or the end of its tree, is still to be told.
        is_lost: It is dead, or as good as dead; keeper or orphans will say when its tree is gone.
    """

    worker: WorkerId
    launch: Launch
    peer: Peer
    live: Incarnation | None = None
    is_lost: bool = False


class Processes:
    """
    Starts, signals and ends the workers' processes. Used inside a running event loop; no method blocks.

    Args:
        on_event: Called with Spawned, SpawnFailed, Exited (without tail), TreeGone and ShimLost, never from inside one
            of the methods here.
        patience_s: How long a shim may take to answer a signal() or kill_tree() before it is continued and, a second
            later, killed.
        tell: Takes log events about the keeper.
    """

    def __init__(
        self, on_event: OnEvent, *, patience_s: float = PATIENCE_S, tell: Tell = lambda _event, _fields: None
    ) -> None:
        self.mark: Mapping[str, str] = {}
        """Put into the environment of everything that is started from now on."""
        self.tell_lack: Callable[[WorkerId, str], None] = lambda _worker, _why: None
        """Called when a worker has started without the cgroup, or a limit of it, that it was to have."""
        self.tell_user: Callable[[WorkerId, int], None] = lambda _worker, _uid: None
        """Called before a worker is started as another user than ours."""
        self._on_event = on_event
        self._tell = tell
        self._patience_s = patience_s
        self._accounts = Accounts()
        self._leaves = NO_LEAVES
        self._listeners: dict[WorkerId, OnEvent] = {}
        self._numbers = itertools.count(1)
        self._shims: dict[WorkerId, _Shim] = {}  # The one that serves each id.
        self._all: dict[int, _Shim] = {}  # Every one whose end, with its tree's, is not known yet, by its number.
        self._adopted: set[int] = set()  # Those that outlived their keeper and are our children now.
        self._keeper: Peer | None = None
        self._entrusted: dict[str, int] = {}
        self._keeper_timer: asyncio.TimerHandle | None = None
        self._is_keeper_ready = False
        self._is_closing = False
        self._changed = asyncio.Event()  # Set when the keeper gets ready, and whenever something has ended.

    def use(self, leaves: Leaves) -> None:
        """Give workers cgroups of their own from now on."""
        self._leaves = leaves

    async def start(self) -> None:
        """
        Start the keeper.

        Raises:
            CannotError: It does not run.
        """
        self._loop = asyncio.get_running_loop()
        self._orphans = Orphans(
            is_known=lambda pid: pid in self._known_pids(), reap_shims=self._reap_adopted, on_gone=self._end
        )
        self._was_subreaper = kernel.is_subreaper()
        kernel.set_subreaper(on=True)
        self._start_keeper()
        await self._wait(lambda: self._is_keeper_ready or self._keeper is None, KEEPER_START_S)
        if not self._is_keeper_ready:
            is_ended = self._keeper is None
            await self.close()
            cause = "it ended at once" if is_ended else f"it does not answer within {KEEPER_START_S:g} s"
            raise CannotError("start the keeper", cause)

    def spawn(self, order: Spawn, fds: Mapping[int, int], given: Given = NOTHING) -> None:
        """
        Start a process. Spawned or SpawnFailed comes back.

        Args:
            order: What to start, for a worker that has no process.
            fds: Target in the worker -> our descriptor. Ours are closed from here, once sent.
            given: CPUs and limits that it gets.
        """
        ours = tuple(fds.values())
        try:
            shim = self._find_shim(order)
        except OSError as error:
            wire.close_all(ours)
            failed = SpawnFailed(order.worker, order.incarnation, error.errno or 0, error.strerror or "")
            self._loop.call_soon(self._emit, failed)
            return
        shim.live = order.incarnation
        if order.setup.user is None and order.setup.group is None:
            self._send_spawn(shim, order, fds, given, None)
        else:
            shim.peer.pause()
            self._accounts.find(order.setup, partial(self._spawn_as, shim, order, fds, given))

    def _spawn_as(
        self, shim: _Shim, order: Spawn, fds: Mapping[int, int], given: Given, account: Account | AccountError
    ) -> None:
        """Go on with a start once it is known who that user is. The shim may be gone by now."""
        if isinstance(account, Account) and shim.live == order.incarnation and not shim.is_lost:
            if account.uid is not None:
                self.tell_user(order.worker, account.uid)
            self._send_spawn(shim, order, fds, given, account)
        else:
            wire.close_all(tuple(fds.values()))
        if isinstance(account, AccountError) and shim.live == order.incarnation and not shim.is_lost:
            shim.live = None
            self._emit(SpawnFailed(order.worker, order.incarnation, account.errno, account.detail))
        shim.peer.resume()

    def _send_spawn(
        self, shim: _Shim, order: Spawn, fds: Mapping[int, int], given: Given, account: Account | None
    ) -> None:
        message = spawn_message(order, fds, account, self._leaf_of(order), given)
        message["env"] |= self.mark
        shim.peer.send(message, tuple(fds.values()))

    def _leaf_of(self, order: Spawn) -> str | None:
        """What somebody else listens to is no worker of the file and needs no cgroup of its own."""
        return None if order.worker in self._listeners else self._leaves.path_of(str(order.worker))

    def signal(self, order: Signal) -> None:
        """Send a signal; ignored if that incarnation is gone by now."""
        shim = self._shims.get(order.worker)
        if shim is not None and shim.live == order.incarnation and not shim.is_lost:
            shim.peer.ask(
                {"do": "signal", "incarnation": order.incarnation, "signal": order.signal, "scope": order.scope}
            )

    def kill_tree(self, order: KillTree) -> None:
        """SIGKILL everything of an incarnation until TreeGone, or an Exited that was alone; ignored if it is gone."""
        shim = self._shims.get(order.worker)
        if shim is None or shim.live != order.incarnation:
            return
        if shim.is_lost:
            self._kill_leaf(shim)
        if not shim.is_lost:
            shim.peer.ask({"do": "kill", "incarnation": order.incarnation})
        elif self._keeper is not None:
            self._keeper.ask({"do": "kill"})  # It kills unasked, unless it is stopped.

    def dismiss(self, worker: WorkerId) -> None:
        """End the shim of a worker that has no process. One that it has after all is killed, and nothing is told."""
        shim = self._shims.pop(worker, None)
        if shim is not None:
            shim.live = None
            shim.peer.close_channel()

    def listen(self, worker: WorkerId, callback: OnEvent) -> None:
        """Send the events of a worker id elsewhere from now on."""
        self._listeners[worker] = callback

    def entrust(self, name: str, fd: int) -> None:
        """Have the keeper hold a descriptor too, which stays ours: so it is open as long as anything of ours lives."""
        self._entrusted[name] = fd
        self._entrust(name)

    def take_back(self, name: str) -> None:
        """The keeper closes its copy; to be called before ours is closed."""
        if self._entrusted.pop(name, None) is not None and self._keeper is not None:
            self._keeper.send({"do": "drop", "name": name})

    def _entrust(self, name: str) -> None:
        if self._keeper is None or not self._is_keeper_ready:
            return  # It gets them all once it is there.
        # Without room for a copy the claim ends with us, a second before what the shims then kill.
        with contextlib.suppress(OSError):
            self._keeper.send({"do": "keep", "name": name}, (os.dup(self._entrusted[name]),))

    def read_pids(self) -> set[int]:
        """Who the keeper and the shims are."""
        peers = [shim.peer for shim in self._all.values()] + ([self._keeper] if self._keeper else [])
        return {peer.pid for peer in peers if peer.pid is not None}

    def find_root(self, worker: WorkerId) -> int | None:
        """Pid of the shim below which a worker's process is; None without one."""
        shim = self._shims.get(worker)
        return None if shim is None or shim.is_lost else shim.peer.pid

    def read_owners(self) -> dict[int, WorkerId]:
        """Pid of each shim, below which is all of its worker's tree, and the worker."""
        return {shim.peer.pid: shim.worker for shim in self._all.values() if shim.peer.pid is not None}

    async def close(self) -> None:
        """Kill whatever still lives, wait for it within bounds, and close everything. Tells nothing any more."""
        self._is_closing = True
        if self._keeper_timer is not None:
            self._keeper_timer.cancel()
        for shim in self._all.values():
            shim.live = None
            shim.peer.close_channel(expect_end=False)
        self._shims.clear()
        if self._keeper is not None:
            self._keeper.close_channel(expect_end=False)
        self._orphans.sweep()
        if not await self._wait(self._is_over, CLOSE_S):
            for peer in (*(shim.peer for shim in self._all.values()), self._keeper):
                if peer is not None:
                    peer.kill()
            await self._wait(self._is_over, CLOSE_LAST_S)
        self._release_all()
        self._leaves.sweep()

    # ---- shims -------------------------------------------------------------------------------------------------------

    def _find_shim(self, order: Spawn) -> _Shim:
        """Return the worker's shim, a new one for another launch; OSError where there is none to be had."""
        shim = self._shims.get(order.worker)
        if shim is not None:
            if shim.live is not None:
                raise OSError(errno.EBUSY, "the worker's last process, or something of its tree, lives")
            if shim.launch == order.launch:
                return shim
            self.dismiss(order.worker)
        if self._keeper is None or self._is_closing:
            raise OSError(0, "no keeper to ask for a shim")
        return self._make_shim(order, self._keeper)

    def _make_shim(self, order: Spawn, keeper: Peer) -> _Shim:
        ours, theirs = socket.socketpair()
        number = next(self._numbers)
        peer = Peer(
            ours,
            on_message=partial(self._hear_shim, number),
            on_end=partial(self._lose, number),
            patience_s=self._patience_s,
            origin=keeper,
        )
        shim = _Shim(order.worker, order.launch, peer)
        self._all[number] = self._shims[order.worker] = shim
        keeper.send({"do": "fork", "shim": number, "worker": str(order.worker)}, (theirs.detach(),))
        return shim

    def _hear_shim(self, number: int, message: wire.Message, _fds: tuple[int, ...] | None) -> None:
        shim = self._all[number]
        if shim.live is None or shim.live != message["incarnation"]:
            return
        worker, incarnation = shim.worker, shim.live
        match message["did"]:
            case "spawned":
                if message["lacks"]:
                    self.tell_lack(worker, message["lacks"])
                self._emit(Spawned(worker, incarnation, message["pid"]))
            case "failed":
                shim.live = None
                self._emit(SpawnFailed(worker, incarnation, message["errno"], message["detail"]))
            case "exited":
                shim.live = None if message["alone"] else incarnation
                self._emit(
                    Exited(
                        worker,
                        incarnation,
                        code=message["code"],
                        signal=message["signal"],
                        core_dumped=message["core"],
                        alone=message["alone"],
                        out_of_memory=message["oom"],
                    )
                )
            case "gone":
                shim.live = None
                self._emit(TreeGone(worker, incarnation))

    def _lose(self, number: int) -> None:
        """A shim is dead, or has closed its socket and is to be: its tree falls to the keeper, or to us."""
        shim = self._all.get(number)
        if shim is None or shim.is_lost:
            return
        shim.is_lost = True
        shim.peer.close_channel(expect_end=False)
        shim.peer.kill()
        if shim.live is not None:
            self._kill_leaf(shim)
            self._emit(ShimLost(shim.worker, shim.live))
        elif self._shims.get(shim.worker) is shim:
            del self._shims[shim.worker]

    def _kill_leaf(self, shim: _Shim) -> None:
        """Kill what a lost shim leaves in its cgroup, however fast it forks; the rest keeper or orphans find."""
        if shim.worker not in self._listeners and (path := self._leaves.path_of(str(shim.worker))) is not None:
            Leaf(path).kill()

    def _end(self, number: int) -> None:
        """Of a shim and its tree nothing is left."""
        shim = self._all.pop(number, None)
        if shim is None:
            return
        shim.peer.release()
        incarnation, shim.live = shim.live, None
        if self._shims.get(shim.worker) is shim:
            del self._shims[shim.worker]
        self._changed.set()
        if incarnation is not None:
            self._emit(TreeGone(shim.worker, incarnation))

    def _emit(self, event: Spawned | SpawnFailed | Exited | TreeGone | ShimLost) -> None:
        if not self._is_closing:
            self._listeners.get(event.worker, self._on_event)(event)

    # ---- the keeper --------------------------------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        self._keeper_timer = None
        self._is_keeper_ready = False
        try:
            sock, pid, pidfd = exec_keeper()
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            self._tell("keeper.refused", {"reason": reason, "retry_in_s": KEEPER_RETRY_S})
            self._keeper_timer = self._loop.call_later(KEEPER_RETRY_S, self._start_keeper)
            return
        # When only its socket ends, the keeper ends by itself; its pidfd tells.
        keeper = Peer(sock, on_message=self._hear_keeper, on_end=lambda: None, patience_s=self._patience_s)
        keeper.hold(pid, pidfd)
        keeper.watch(self._replace_keeper)
        self._keeper = keeper

    def _hear_keeper(self, message: wire.Message, fds: tuple[int, ...] | None) -> None:
        match message["did"]:
            case "ready":
                self._is_keeper_ready = True
                self._tell("keeper.started", {"pid": None if self._keeper is None else self._keeper.pid})
                for name in self._entrusted:
                    self._entrust(name)
                self._changed.set()
            case "forked":
                self._hold_shim(message["shim"], message["pid"], fds or ())
            case "refused":
                self._refuse(message["shim"], message["errno"], message["detail"])
            case "ended":
                shim = self._all.get(message["shim"])
                if shim is not None:
                    shim.peer.read()  # Its last words.
                    self._lose(message["shim"])
            case "gone":
                self._end(message["shim"])

    def _hold_shim(self, number: int, pid: int, fds: tuple[int, ...]) -> None:
        shim = self._all.get(number)
        if shim is None:
            wire.close_all(fds)
        elif not fds:  # No room for its pidfd, here or there. Without that it could not be killed if it hangs.
            self._lose(number)
        else:
            shim.peer.hold(pid, fds[0])
            if shim.is_lost:
                shim.peer.kill()

    def _refuse(self, number: int, code: int, detail: str) -> None:
        shim = self._all.get(number)
        if shim is not None:
            incarnation, shim.live = shim.live, None
            self._end(number)
            if incarnation is not None:
                self._emit(SpawnFailed(shim.worker, incarnation, code, detail))

    def _replace_keeper(self) -> None:
        """The keeper is dead: its shims go on as our children, what else was below it is killed, another one starts."""
        keeper = self._keeper
        if keeper is None or not keeper.reap():
            return
        keeper.read()  # Its last words.
        keeper.release()
        self._keeper = None
        was_ready = self._is_keeper_ready
        if not self._is_closing:
            self._tell(
                "keeper.ended", {"pid": keeper.pid, "reason": keeper.end, "shims": len(self._all), "hint": KEEPER_HINT}
            )
        for number, shim in list(self._all.items()):
            self._adopt(number, shim)
        if not self._is_closing:
            if was_ready:
                self._start_keeper()
            else:
                self._keeper_timer = self._loop.call_later(KEEPER_RETRY_S, self._start_keeper)
        self._orphans.sweep()
        self._changed.set()

    def _adopt(self, number: int, shim: _Shim) -> None:
        if number in self._adopted:
            return
        if shim.peer.pid is None:
            # Whether it was forked is not known. If so it falls to us like what the keeper had to kill.
            self._lose(number)
            self._orphans.lose(number)
        else:
            self._adopted.add(number)
            shim.peer.watch(self._orphans.sweep)

    def _reap_adopted(self) -> bool:
        ended = [number for number in self._adopted if self._all[number].peer.reap()]
        for number in ended:
            self._adopted.remove(number)
            self._orphans.lose(number)
            self._all[number].peer.read()  # Its last words.
            self._lose(number)
        return bool(ended)

    def _known_pids(self) -> set[int | None]:
        keeper = None if self._keeper is None else self._keeper.pid
        return {keeper, *(self._all[number].peer.pid for number in self._adopted)}

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self._keeper is None and not self._all and self._orphans.is_empty

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition holds that only changes with ``_changed``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        return condition()

    def _release_all(self) -> None:
        for shim in self._all.values():
            shim.peer.release()
        if self._keeper is not None:
            self._keeper.release()
        self._all.clear()
        self._adopted.clear()
        self._keeper = None
        self._orphans.close()
        kernel.set_subreaper(on=self._was_subreaper)
