from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.systemd.box import Box, why_not


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    """A booted box; skipped unless it is asked for: it wants root, packages and a minute the first time."""
    if not os.environ.get("SYSTEMD_BOX"):
        pytest.skip("a real systemd in a container is tried by `make test-systemd`")
    if reason := why_not():
        # Asked for and not done is no success.
        pytest.fail(f"cannot boot a systemd: {reason}")
    booted = Box()
    yield booted
    booted.end()
