"""``$(NAME)`` and the names that are the supervisor's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.file.names import TABLE_NAMES, expand_names, is_inherited, names_in, reserved_hint

NAMES = {"PORT": "8000", "A": "$(PORT)", "EMPTY": ""}
texts = st.text(alphabet="$()AB_1 x")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("--port $(PORT)", "--port 8000"),
        ("$(PORT)$(PORT)", "80008000"),
        ("<$(EMPTY)>", "<>"),
        ("$$(PORT)", "$(PORT)"),
        ("$$$(PORT)", "$8000"),
        ("$$$$(PORT)", "$$(PORT)"),
        ("$(A)", "$(PORT)"),
        ("$(NOPE)", "$(NOPE)"),
        ("$(1A) $(date +%s) $PORT ${PORT} $( PORT ) $$ $", "$(1A) $(date +%s) $PORT ${PORT} $( PORT ) $$ $"),
        ("$(PORT", "$(PORT"),
        ("$(PÖRT)", "$(PÖRT)"),
    ],
)
def test_names_are_replaced_as_kubernetes_does(text: str, expanded: str) -> None:
    """A name is replaced once, a doubled dollar keeps it, and what is no name is left alone."""
    assert expanded == expand_names(text, NAMES)


@given(texts)
def test_text_without_a_reference_is_left_alone(text: str) -> None:
    """Only ``$(`` can change anything."""
    without = text.replace("$(", "")

    assert without == expand_names(without, {"A": "1", "B": "2"})


@given(texts)
def test_replacing_by_nothing_known_only_undoes_doubled_dollars(text: str) -> None:
    """Where no name has a value, the text comes back but for its escapes."""
    expanded = expand_names(text, {})

    assert expanded.replace("$", "") == text.replace("$", "")
    assert expanded == text or "$$(" in text


@given(texts)
def test_names_in_are_the_names_that_are_looked_up(text: str) -> None:
    """What is listed is exactly what a value would change."""
    listed = names_in(text)

    assert ("A" in listed) == (expand_names(text, {"A": "!"}) != expand_names(text, {}))


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "WORKER", "WORKER_GPU_ANY"])
def test_the_supervisors_own_names_are_reserved(name: str) -> None:
    """The first rows of the contract's table cannot be set."""
    assert reserved_hint(name)


@pytest.mark.parametrize("name", ["PORT", "PATH", "WORKERS", "PYTHONUNBUFFERED", "cuda_visible_devices"])
def test_other_names_are_free(name: str) -> None:
    """PORT too: whether it is taken depends on the service."""
    assert not reserved_hint(name)


def test_what_is_the_daemons_own_is_not_inherited() -> None:
    """A worker finds the daemon's environment without the daemon's notify socket, rank and watchdog."""
    refused = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "RANK", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"]

    assert not [name for name in refused if is_inherited(name)]
    assert is_inherited("PATH")
    assert is_inherited("RANKING")


def test_the_table_has_every_name_that_a_worker_may_find() -> None:
    """A command that counts on another would be started with the bare text."""
    assert {
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "PORT",
        "MASTER_PORT",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "OMP_NUM_THREADS",
        "WORKER",
        "CUDA_VISIBLE_DEVICES",
        "WORKER_GPU_MEMORY_MIB",
    } <= TABLE_NAMES
