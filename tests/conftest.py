"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for a minute come first, so that others fill the time."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A folder for one test, in place of pytest's own, which has the name of the test in it.

    The path of a unix socket may have 107 bytes, and one of several test processes has a longer way to its folders.
    """
    return tmp_path_factory.mktemp("t")
