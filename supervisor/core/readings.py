"""
Whether what the driver has told is of this moment, and who waits for its word.

A reading says nothing of a device on which somebody has started or ended since it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.inventory import GpuState
from supervisor.core.memory import has_whole_devices
from supervisor.core.slices import Launch
from supervisor.core.spec import WorkerId
from supervisor.core.turn import Turn
from supervisor.core.worker import Worker

FRESH_S, STILL_FRESH_S = 1.0, 5.0
"""A reading of the devices is of this moment for so long; a little longer while the host's memory is seen to."""

SLOW_S = 1.0
"""A driver that takes longer to answer holds up nobody who needs no answer."""

READING = "reading the free memory of its GPUs"
LEASED = "waiting until {} has started, which declares no gpu_memory on the same GPU"


def needs_reading(worker: Worker) -> bool:
    """Whether a start looks at the memory of its devices."""
    placement = worker.target
    return placement is not None and (placement.wanted.request.gpu_memory is not None or has_whole_devices(placement))


def is_asking(worker: Worker) -> bool:
    """Whether somebody who waits has had the memory of its devices asked for, be it not for the first time."""
    return worker.deadline is None and worker.reason.startswith((READING, "needs ", "GPU ", "MIG-"))


def is_slow(turn: Turn) -> bool:
    """Whether the driver was asked a while ago and has not answered yet."""
    asked = turn.fleet.asked
    return asked is not None and turn.now - asked >= SLOW_S


def is_of_now(turn: Turn, worker: Worker, launch: Launch, changed_at: Mapping[str, float]) -> bool:
    """Whether the newest reading was asked for after the last change on a worker's devices, and is not an old one."""
    after = max([worker.since, *(changed_at.get(share.uuid, 0.0) for share in launch.slice)])
    inventory = turn.fleet.inventory
    if inventory is None or inventory.asked_at < after:
        return False
    if turn.has_read_host:  # A driver may take long to answer: what counts is how long ago it has.
        return turn.now - turn.fleet.read_at <= STILL_FRESH_S
    return turn.has_read or turn.now - inventory.asked_at <= FRESH_S


class Readers:
    """
    Who waits for a reading, by device: what is the longest that somebody does.

    Args:
        turn: In which they are looked at.
        changed_at: When the devices last changed hands before it.
    """

    def __init__(self, turn: Turn, changed_at: Mapping[str, float]) -> None:
        self._turn = turn
        self._changed_at = changed_at
        self._since: dict[str, tuple[float, WorkerId]] | None = None

    def add(self, worker: Worker, launch: Launch) -> None:
        """One more waits."""
        if self._since is not None:
            for share in launch.slice:
                self._since[share.uuid] = min(
                    self._since.get(share.uuid, (worker.since, worker.id)), (worker.since, worker.id)
                )

    def before(self, worker: Worker, launch: Launch) -> WorkerId | None:
        """
        Who has waited longer than a worker that need not, for a reading that its start would make old.

        One that comes and goes would leave nobody else on its devices a reading that counts. The driver may take its
        time, so only those that fail wait as long as it does.
        """
        turn = self._turn
        if not worker.starts or turn.fleet.gpu.state is not GpuState.OK or needs_reading(worker):
            return None
        if is_slow(turn) and not worker.history.failures:
            return None
        if self._since is None:
            self._since = {}
            for one in turn.fleet.waiting - turn.fleet.in_line:
                self._note(turn.workers[one])
        found = [self._since[share.uuid] for share in launch.slice if share.uuid in self._since]
        return next((other for since, other in sorted(found) if since < worker.since), None)

    def _note(self, worker: Worker) -> None:
        launch = worker.target.launch if worker.target else None
        is_leased = worker.reason.startswith(LEASED.partition("{")[0])
        if launch is None or not needs_reading(worker) or not (is_leased or is_asking(worker)):
            return
        if not is_of_now(self._turn, worker, launch, self._changed_at):
            self.add(worker, launch)
