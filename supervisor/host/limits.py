"""Owns this process' own limits: how many descriptors it may have, and how many it keeps for itself."""

from __future__ import annotations

import errno
import os
import resource

RESERVE_MAX = 64
"""For those who ask for status, for the driver, for the file at a reload. A quarter of a limit that is very low."""

PIDFDS_EACH = 2
"""Of a worker's shim and of its main process, once they live."""


def raise_descriptor_limit() -> None:
    """Soft to hard: a few descriptors for each worker, and workers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_room(coming: int) -> None:
    """
    See whether there are descriptors for one more worker beside the reserve.

    Args:
        coming: Workers whose starts are under way: each is to get PIDFDS_EACH more.

    Raises:
        OSError: EMFILE, ENFILE.
    """
    # The lowest free number: there are hardly ever holes below it, and to count them costs more than a start.
    lowest = os.dup(0)
    os.close(lowest)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = lowest + PIDFDS_EACH * coming
    if soft != resource.RLIM_INFINITY and taken >= soft - min(RESERVE_MAX, soft // 4):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
