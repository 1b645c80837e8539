"""What the surfaces see of a daemon and may ask of it. An interface, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from supervisor.front.counts import Counts
from supervisor.front.verdict import Json


class Face(Protocol):
    """What the daemon lets its surfaces see and ask for."""

    life: str
    """Of this life of the daemon alone."""

    def status(self, *, figures: bool = False) -> Json:
        """The status JSON; with *figures* what devices and workers do, as it was read last."""

    async def read_figures(self, *, rates: bool = True) -> None:
        """Read what devices and workers do, unless that was just done; CPU a second only with *rates*: it may take."""

    async def devices(self, *, figures: bool = False) -> Json:
        """The devices JSON, with memory as it is now where the driver answers soon; with *figures* what they do."""

    async def plan(self, file: str | None) -> Json:
        """
        What a file would do here.

        Args:
            file: Absolute path, None for the daemon's own.

        Raises:
            ProblemsError: The file is bad.
        """

    def counts(self) -> Counts:
        """What was counted since the daemon started."""

    def explain(self, worker: str) -> Json:
        """Why a worker, ``llm/0``, that the status shows, is as it is; see `core.explain`."""

    def events(
        self, target: str | None, *, lines: int | None, after: int | None, follow: bool
    ) -> AsyncGenerator[Json, None]:
        """
        Transitions of workers.

        Args:
            target: Service or worker, None for everybody.
            lines: At the most; None for all that are kept.
            after: Only those with a higher number.
            follow: Go on.

        Yields:
            ``{"lines": [...]}`` each with its ``number``, and at the end ``{"end": "done" | "slow" | "stopping"}``.
        """

    async def reload(self) -> Json:
        """Read file and devices again; ``{"ok", "problems", "difference"}``."""

    def logs(self, target: str | None, *, lines: int, after: int | None, follow: bool) -> AsyncGenerator[Json, None]:
        """
        What workers said and say.

        Args:
            target: Service or worker, None for everybody.
            lines: Of each at the most.
            after: Only lines with a higher number.
            follow: Go on.

        Yields:
            ``{"lines": [{"number", "worker", "incarnation", "at", "line"}]}``; at the end ``{"end": reason}``.
        """

    async def settled(self) -> Json:
        """Wait until no roll-out is under way; ``{"ok", "problems"}``."""

    def order(self, verb: str, targets: tuple[str, ...]) -> None:
        """``start stop restart`` services and workers that there are. Taken when it returns, carried out later."""

    async def order_device(self, verb: str, target: str, *, for_reset: bool, reason: str = "") -> Json:
        """
        ``quarantine`` or ``release`` GPUs.

        Args:
            verb: Which.
            target: Index, UUID or its start, PCI id; several with commas between.
            for_reset: Nothing of ours is to have them open.
            reason: Of a quarantine, in the operator's words.

        Returns:
            As `devices`, of those alone; with the health of each ``before``, ``warnings``, and with ``openers`` where
            it is for a reset.

        Raises:
            CannotError: One of the names means none, or several.
        """

    def scale(self, counts: Mapping[str, int]) -> None:
        """
        Give services other counts than the file's, until the next reload.

        Raises:
            ProblemsError: The file does not allow that.
        """

    def shutdown(self) -> None:
        """Ask the daemon to end. Returns at once."""

    async def changed(self) -> None:
        """Return after the next change of any worker."""

    def log_change(self, what: str, peer: Mapping[str, int | str]) -> None:
        """Say who asked for a change."""
