"""
The order to spawn as a shim gets it: names are numbers by now, and nothing in it has to be looked up.

Pure; sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.core.environment import Rendered, fill

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.core.file.setup import Setup
    from supervisor.core.message import Spawn
    from supervisor.host.accounts import Account
    from supervisor.host.wire import Message


@dataclass(frozen=True, slots=True)
class Given:
    """
    What a start is given of the machine beyond what its order says.

    Args:
        cpus: It runs on these; None = wherever the daemon may.
        limits: Files of its cgroup, such as ``memory.max``, and what is written there.
    """

    cpus: frozenset[int] | None = None
    limits: Mapping[str, str] = field(default_factory=dict)


NOTHING = Given()

STDERR = 2
"""Descriptors above it are sockets that somebody listens on."""


def spawn_message(
    order: Spawn, targets: Iterable[int], account: Account | None, leaf: str | None = None, given: Given = NOTHING
) -> Message:
    """
    The message of a Spawn.

    Args:
        order: What to start.
        targets: The worker's descriptors, in the order in which ours go with the message.
        account: Whose process it is going to be; None = ours.
        leaf: Directory of its cgroup; None = it stays in that of its shim.
        given: CPUs and limits.
    """
    rendered = Rendered(order.argv, order.env, order.working_dir)
    if account is not None:
        rendered = fill(rendered, account.env)
    numbers = tuple(targets)
    return {
        "do": "spawn",
        "incarnation": order.incarnation,
        "argv": rendered.argv,
        "env": dict(rendered.env),
        "working_dir": rendered.working_dir,
        "fds": numbers,
        "sockets": max(numbers, default=0) > STDERR,
        "leaf": leaf,
        "cgroup": dict(given.limits),
        **_attributes(order.setup, account, given),
    }


def _attributes(setup: Setup, account: Account | None, given: Given) -> Message:
    found: Message = {
        "umask": setup.umask,
        "limits": [(name, limit.soft, limit.hard) for name, limit in setup.limits] or None,
        "nice": setup.nice,
        "cpus": None if given.cpus is None else sorted(given.cpus),
    }
    if account is not None and (account.uid is not None or account.gid is not None):
        found |= {"user": account.shown, "uid": account.uid, "gid": account.gid, "groups": account.groups}
    attributes = {name: value for name, value in found.items() if value is not None}
    return {"attributes": attributes, "oom": setup.oom_score_adj}
