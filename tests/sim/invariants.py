"""Holds every rule against every step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.sim import (
    rules_admission,
    rules_alive,
    rules_gpu,
    rules_guard,
    rules_health,
    rules_order,
    rules_orders,
    rules_recycle,
    rules_release,
    rules_restart,
    rules_rollout,
    rules_sockets,
    rules_spot,
    rules_stall,
    rules_start,
    rules_state,
    rules_step,
    rules_stop,
    rules_surge,
    rules_surroundings,
)
from tests.sim.notes import Notes
from tests.sim.rules_start import wanted_by_file
from tests.sim.trouble import Rule, Step, TroubleError

if TYPE_CHECKING:
    from supervisor.core.turn import Fleet
    from tests.sim.world import World

SPOT_EVERY = 23
"""Steps from one look at what costs more to the next; a prime, so that it falls on all kinds of events."""

ACT_RULES = (
    *(*rules_start.RULES, *rules_step.RULES, *rules_restart.RULES, *rules_gpu.RULES, *rules_orders.RULES),
    *rules_surroundings.RULES,
    *rules_order.RULES,
    *rules_stop.RULES,
    *rules_release.RULES,
    *rules_sockets.RULES,
    *rules_rollout.RULES,
    *rules_surge.RULES,
    *rules_recycle.RULES,
    *rules_health.RULES,
    *rules_guard.RULES,
)
ADMISSION_RULES = (*rules_admission.RULES, *rules_stall.RULES, *rules_alive.RULES)
STATE_RULES = (
    *(*rules_state.RULES, *rules_admission.STATE_RULES, *rules_order.STATE_RULES, *rules_stop.STATE_RULES),
    *rules_release.STATE_RULES,
    *rules_sockets.STATE_RULES,
    *rules_health.STATE_RULES,
)


class Checks:
    """
    The rules, and what was seen so far.

    Args:
        world: What they are about.
    """

    def __init__(self, world: World) -> None:
        self.notes = Notes()
        self.starts = rules_admission.Starts()
        self.releases = rules_release.Releases()
        self._world = world

    @property
    def is_spot(self) -> bool:
        """Whether the costly rules are asked at this step."""
        return self._world.steps % SPOT_EVERY == 0

    def fingerprint(self, fleet: Fleet) -> str:
        """Of a fleet, which must not change any more."""
        return repr(fleet) if self.is_spot else ""

    def before_acting(self, step: Step) -> None:
        """What the step did, before it has any effect."""
        self.notes.hear(step)
        self._world.sickness.told.hear(step)
        self._world.symptoms.seen.hear(step)
        self.notes.hear_of_order(step, wanted_by_file(self._world, step.after))
        rules_recycle.note_recycled(self._world, step)
        rules_guard.note_greed(self._world, step)
        rules_rollout.note_rollouts(self._world, step)
        self.starts.hear(step)
        self.releases.hear(step)
        self._ask(ACT_RULES, step)
        self._ask(ADMISSION_RULES, step)
        rules_guard.note_evicted(self._world, step)

    def after_acting(self, step: Step) -> None:
        """What holds after it."""
        self.notes.take(step)
        self.starts.take(step)
        self.releases.take(step)
        self._ask(STATE_RULES, step)
        if self.is_spot:
            self._ask(rules_spot.RULES, step)

    def _ask(self, rules: Iterable[Rule], step: Step) -> None:
        for rule in rules:
            for complaint in rule(self._world, step):
                raise TroubleError(rule.__name__, complaint)
