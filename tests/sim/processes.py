"""
The fake process table: shims, main processes and what these start. Orders in, facts out, as with the real one.

It also knows what exists at every moment, which the core can only learn later.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    EndStopCommand,
    Event,
    ExamineTree,
    Exited,
    KillTree,
    LivenessLost,
    Probe,
    ProbeAlive,
    ProgressTold,
    RunStopCommand,
    ShimLost,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    StartExtended,
    StopCommandEnded,
    TreeExamined,
    TreeGone,
)
from supervisor.core.spec import WorkerId
from tests.sim.agenda import Agenda
from tests.sim.nature import Child, Nature

PATIENCE_S = 6.0
"""After which a shim that answers no order is killed."""

LATENCY_S = 0.0005


@dataclass(eq=False)
class Tree:
    """
    A process and everything that it started.

    Args:
        order: What it was started with.
        nature: What it is going to do.
        is_spawning: The call that starts it has not returned.
        has_main: Its main process lives.
        children: Those that live.
        is_lost: Its shim is dead.
        waiting: Orders that its shim has not looked at yet.
        told_until: When the last fact about it arrives: facts of one tree keep their order.
        is_probed: Somebody asks its port.
        command: Number of the stop command that runs for it.
    """

    order: Spawn
    nature: Nature
    spawned_at: float | None = None
    is_spawning: bool = True
    has_main: bool = False
    children: set[int] = field(default_factory=set)
    is_lost: bool = False
    is_killed: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)
    told_until: float = 0.0
    is_probed: bool = False
    is_watched: bool = False
    command: int | None = None

    @property
    def exists(self) -> bool:
        """Whether anything of it lives, or is being started."""
        return self.is_spawning or self.has_main or bool(self.children)

    @property
    def uuids(self) -> tuple[str, ...]:
        """The GPUs that it is on."""
        return tuple(share.uuid for share in self.order.launch.slice)


class FakeProcesses:
    """
    The process table.

    Args:
        agenda: Time.
        post: Where facts go.
        draw: What a process that is started is going to do.
        on_gone: Told when nothing of a tree is left.
    """

    def __init__(
        self,
        agenda: Agenda,
        post: Callable[[Event], None],
        draw: Callable[[Spawn], Nature],
        on_gone: Callable[[Tree], None] = lambda _: None,
    ) -> None:
        self.agenda = agenda
        self.trees: list[Tree] = []
        self._post = post
        self._draw = draw
        self._on_gone = on_gone
        self._of: dict[WorkerId, Tree] = {}
        self._pids = itertools.count(4711)
        self._commands = itertools.count(1)

    # ---- orders -----------------------------------------------------------------------------------------------------

    def spawn(self, order: Spawn) -> None:
        """Start a process. Spawned or SpawnFailed comes back."""
        tree = Tree(order, self._draw(order))
        self.trees.append(tree)
        self._of[order.worker] = tree
        self.agenda.after(tree.nature.spawn_s, lambda: self._run(tree))

    def signal(self, order: Signal) -> None:
        """Send a signal; ignored if that incarnation is gone by now."""
        tree = self._tree(order)
        if tree is not None and not tree.is_lost:
            self._order(tree, lambda: self._ask(tree, order))

    def run_stop_command(self, order: RunStopCommand) -> None:
        """Run what is to come before the signal; StopCommandEnded comes back, unless it is ended before."""
        tree = self._tree(order)
        assert tree is not None
        tree.command = number = next(self._commands)
        if (ends_s := tree.nature.stop_ends_s) is not None:
            self.agenda.after(ends_s, lambda: self._end_main(tree, 0, None) if tree.command == number else None)
        if tree.nature.stop_s is not None:
            self.agenda.after(tree.nature.stop_s, lambda: self._end_command(tree, number))

    def end_stop_command(self, order: EndStopCommand) -> None:
        """Kill it. What it has said already may be on its way."""
        tree = self._tree(order)
        if tree is not None:
            tree.command = None

    def _end_command(self, tree: Tree, number: int) -> None:
        if tree.command == number:
            tree.command = None
            self._tell(tree, StopCommandEnded(*self._names(tree), tree.nature.stop_fault))

    def examine(self, order: ExamineTree) -> None:
        """See who lives."""
        tree = self._tree(order)
        if tree is not None and tree.exists:
            self._tell(tree, TreeExamined(*self._names(tree), "process 4711 hangs"))

    def kill_tree(self, order: KillTree) -> None:
        """SIGKILL everything of an incarnation."""
        tree = self._tree(order)
        if tree is not None:
            self._order(tree, lambda: self._kill(tree))

    def probe(self, order: Probe) -> None:
        """Ask the worker's port from now on."""
        tree = self._of.get(order.worker)
        if tree is None or tree.order.incarnation != order.incarnation or tree.spawned_at is None:
            return
        tree.is_probed = True
        self._speak(tree, 0)
        if (ready_s := tree.nature.ready_s) is not None:
            due = max(ready_s - (self.agenda.now - tree.spawned_at), 0.0)
            self.agenda.after(due, partial(self._flap, tree, 0))

    def probe_alive(self, order: ProbeAlive) -> None:
        """Ask from now on whether it lives on; one that hangs is found out after so many failures."""
        tree = self._of.get(order.worker)
        if tree is None or tree.order.incarnation != order.incarnation or tree.spawned_at is None:
            return
        tree.is_watched = True
        if (hangs_s := tree.nature.hangs_s) is not None:
            alive = order.alive
            late_s = max(hangs_s - (self.agenda.now - tree.spawned_at), 0.0)
            self.agenda.after(
                late_s + alive.interval_s * alive.failures, partial(self._hang, tree, alive.kind == "notify")
            )

    def _hang(self, tree: Tree, is_watchdog: bool) -> None:
        if tree.has_main and not tree.is_lost and tree.nature.hangs_s is not None:
            self._tell(tree, LivenessLost(*self._names(tree), "no answer", is_watchdog))

    def _speak(self, tree: Tree, turn: int) -> None:
        """It says how far it is, and asks for more time, again and again while it loads."""
        if tree.has_main and not tree.is_lost and turn < len(tree.nature.extends_s):
            self._tell(tree, ProgressTold(*self._names(tree), f"part {turn}"))
            self._tell(tree, StartExtended(*self._names(tree), tree.nature.extends_s[turn]))
            self.agenda.after(tree.nature.extends_s[turn] * 0.9, partial(self._speak, tree, turn + 1))

    # ---- what happens to it by others -------------------------------------------------------------------------------

    def lose_shim(self, worker: WorkerId) -> bool:
        """The parent of a worker's process dies; false where there is none that has anything to lose."""
        tree = self._of.get(worker)
        if tree is None or not tree.exists or tree.is_lost:
            return False
        self._lose(tree)
        return True

    def heal(self) -> None:
        """Nothing hangs any more, and nobody dies without being asked; old sins of those that live stay."""
        for tree in self.living():
            tree.nature = replace(tree.nature, life_s=None, flaps_s=(), hangs_s=None, errno=None)
            if tree.nature.extends_s:  # It has asked for an hour: nobody waits for that.
                tree.nature = replace(tree.nature, extends_s=(), ready_s=tree.nature.ready_s or 0.3)
            tree.nature = replace(tree.nature, kill_s=0.01, release_s=min(tree.nature.release_s, 1.0))
            tree.nature = replace(tree.nature, children=tuple(_healed(child) for child in tree.nature.children))
            if tree.is_spawning:
                self.agenda.after(0.5, partial(self._run, tree))
            if tree.is_killed or tree.is_lost:
                self._kill(tree)
            elif tree.is_probed and tree.nature.ready_s is not None:
                self.agenda.after(0.5, partial(self._flap, tree, 0))

    def living(self) -> list[Tree]:
        """Trees of which something exists."""
        self.trees = [tree for tree in self.trees if tree.exists]
        return self.trees

    def tree_of(self, worker: WorkerId) -> Tree | None:
        """The newest tree of a worker."""
        return self._of.get(worker)

    # ---- life -------------------------------------------------------------------------------------------------------

    def _run(self, tree: Tree) -> None:
        if not tree.is_spawning or tree.is_lost:
            return
        tree.is_spawning = False
        if tree.nature.errno is not None:
            self._tell(tree, SpawnFailed(*self._names(tree), tree.nature.errno, "no process"))
            self._gone(tree)
            return
        tree.has_main = True
        tree.spawned_at = self.agenda.now
        tree.children = set(range(len(tree.nature.children)))
        self._tell(tree, Spawned(*self._names(tree), next(self._pids)))
        for order in tree.waiting:
            order()
        if (life_s := tree.nature.life_s) is not None:
            self.agenda.after(life_s, lambda: self._die(tree))

    def _die(self, tree: Tree) -> None:
        if tree.nature.life_s is not None:
            code = tree.nature.code
            killer = 9 if tree.nature.starves else 11
            self._end_main(tree, code, killer if code is None else None)

    def _end_main(self, tree: Tree, code: int | None, signal: int | None) -> None:
        if not tree.has_main:
            return
        tree.has_main = False
        for number in sorted(tree.children):
            outlives_s = tree.nature.children[number].outlives_s
            if outlives_s == 0.0:
                tree.children.discard(number)
            elif outlives_s is not None:
                self._end_child_after(tree, number, outlives_s)
        is_alone = not tree.children
        if not tree.is_lost:
            starved = tree.nature.starves
            said = ("torch.OutOfMemoryError: CUDA out of memory.", "bye") if code == 1 else ("bye",)
            end = Exited(*self._names(tree), code, signal, alone=is_alone, tail=said, out_of_memory=starved)
            self._tell(tree, end)
        elif is_alone:
            self._tell(tree, TreeGone(*self._names(tree)))
        if is_alone:
            self._gone(tree)

    def _end_child_after(self, tree: Tree, number: int, delay_s: float) -> None:
        def end() -> None:
            if number not in tree.children:
                return
            tree.children.discard(number)
            if not tree.exists:
                self._tell(tree, TreeGone(*self._names(tree)))
                self._gone(tree)

        self.agenda.after(delay_s, end)

    def _flap(self, tree: Tree, turn: int) -> None:
        """Readiness comes, goes and comes back."""
        if not tree.has_main or tree.is_lost:
            return
        is_ready = turn % 2 == 0 or not tree.nature.flaps_s
        self._tell(
            tree, BecameReady(*self._names(tree)) if is_ready else BecameUnready(*self._names(tree), "no answer")
        )
        if turn < len(tree.nature.flaps_s):
            self.agenda.after(tree.nature.flaps_s[turn], lambda: self._flap(tree, turn + 1))

    # ---- orders arrive ----------------------------------------------------------------------------------------------

    def _order(self, tree: Tree, do: Callable[[], None]) -> None:
        """A shim that hangs in a spawn looks at its orders afterwards, and is killed if that takes too long."""
        if not tree.is_spawning:
            do()
            return
        tree.waiting.append(do)
        if not tree.nature.is_patient:
            self.agenda.after(PATIENCE_S, lambda: self._lose(tree) if tree.is_spawning else None)

    def _ask(self, tree: Tree, order: Signal) -> None:
        nature = tree.nature
        if order.scope in {"main", "group"}:
            if nature.term_s is not None:
                killer = order.signal if nature.term_code is None else None
                self.agenda.after(nature.term_s, lambda: self._end_main(tree, nature.term_code, killer))
            if order.scope == "main":
                return
        is_in_group = {"group": True, "outside": False}.get(order.scope)
        for number in sorted(tree.children):
            if is_in_group is not None and nature.children[number].is_in_group is not is_in_group:
                continue
            if (term_s := nature.children[number].term_s) is not None:
                self._end_child_after(tree, number, term_s)

    def _kill(self, tree: Tree) -> None:
        tree.is_killed = True
        for number in sorted(tree.children):
            self._end_child_after(tree, number, tree.nature.children[number].kill_s)
        self.agenda.after(tree.nature.kill_s, lambda: self._end_main(tree, None, 9))

    def _lose(self, tree: Tree) -> None:
        """The shim dies; the keeper kills what it leaves, and tells when that is gone."""
        if tree.is_lost or not tree.exists:
            return
        tree.is_lost = True
        self._tell(tree, ShimLost(*self._names(tree)))
        if tree.is_spawning:
            tree.is_spawning = False
            tree.has_main = True
        self._kill(tree)

    def _tree(self, order: Signal | KillTree | RunStopCommand | EndStopCommand | ExamineTree) -> Tree | None:
        tree = self._of.get(order.worker)
        return tree if tree is not None and tree.order.incarnation == order.incarnation else None

    def _gone(self, tree: Tree) -> None:
        self._on_gone(tree)

    def _tell(self, tree: Tree, event: Event) -> None:
        at = max(tree.told_until, self.agenda.now + LATENCY_S)
        tree.told_until = at
        self.agenda.at(at, lambda: self._post(event))

    @staticmethod
    def _names(tree: Tree) -> tuple[WorkerId, int]:
        return tree.order.worker, tree.order.incarnation


def _healed(child: Child) -> Child:
    return replace(child, kill_s=0.01)


def uuids_of(trees: Iterable[Tree]) -> set[str]:
    """GPUs on which something of these trees lives."""
    return {uuid for tree in trees if tree.exists for uuid in tree.uuids}
