"""Transitions as log lines."""

from __future__ import annotations

import structlog

from supervisor.core.message import State, Transition

log = structlog.get_logger()

_LEVELS = {State.BACKOFF: "warning", State.UNREADY: "warning", State.FAILED: "error"}


def log_transition(transition: Transition) -> None:
    """One line for one step of one worker."""
    after = transition.after
    fields: dict[str, object] = {
        "worker": str(transition.worker),
        "incarnation": transition.incarnation or None,
        "before": transition.before and str(transition.before),
        "cause": transition.cause,
        **transition.fields,
        "reason": transition.reason or None,
    }
    say = getattr(log, _LEVELS.get(after, "info") if after else "info")
    say(f"worker.{after or 'gone'}", **{name: value for name, value in fields.items() if value is not None})
