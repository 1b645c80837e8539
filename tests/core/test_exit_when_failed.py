"""`daemon.exit_when_failed`: for whoever restarts the whole container when nothing in it works any more."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from supervisor.core.message import Exit, StopRequested
from supervisor.core.spec import Spec, SpecError
from tests.core.builders import good, of_type, spec_of
from tests.core.stage import Stage, running

ONCE: Mapping[str, object] = {"workers": 1, "restart": {"policy": "never"}}


def failing(**services: Mapping[str, object]) -> Spec:
    return spec_of(gpus=None, daemon={"exit_when_failed": True}, **services)


def exits(stage: Stage) -> list[Exit]:
    return of_type(Exit, stage.history)


def test_the_daemon_ends_with_1_once_the_last_one_has_failed() -> None:
    """One that has ended well does not keep it."""
    stage = running(failing(a=ONCE, b=ONCE))

    stage.exited("a/0", 0)
    assert exits(stage) == []
    stage.exited("b/0", 1)

    assert exits(stage) == [Exit(1)]


def test_somebody_who_runs_or_waits_keeps_it() -> None:
    """So does one who is held down by the operator, and one without a place."""
    stage = running(failing(a=ONCE, b={}, c={"resources": {"gpu": 1}}))

    stage.exited("a/0", 1).exited("b/0", 1)

    assert stage.states() == {"a/0": "failed", "b/0": "backoff", "c/0": "pending"}
    assert exits(stage) == []


def test_one_that_comes_back_by_itself_keeps_it() -> None:
    """Its back-off runs."""
    stage = running(failing(a=ONCE, b={}))

    stage.exited("a/0", 1).exited("b/0", 1)

    assert stage.states() == {"a/0": "failed", "b/0": "backoff"}
    assert exits(stage) == []


def test_one_that_the_operator_holds_keeps_it() -> None:
    """Whoever has stopped it may start it."""
    stage = running(failing(a=ONCE, b={}))
    stage.meet(StopRequested(services=("b",)))
    stage.exited("b/0", 0)

    stage.exited("a/0", 1)

    assert stage.states() == {"a/0": "failed", "b/0": "stopped"}
    assert exits(stage) == []


def test_all_done_is_no_failure() -> None:
    """Nothing is wrong with a daemon whose workers have ended as they should."""
    stage = running(failing(a=ONCE))

    stage.exited("a/0", 0)

    assert stage.states() == {"a/0": "exited"}
    assert exits(stage) == []


def test_without_the_key_it_stays() -> None:
    """Failed is a state to look at, and to be mended by a reload."""
    stage = running(spec_of(a=ONCE))

    stage.exited("a/0", 1)

    assert exits(stage) == []


def test_a_reload_under_way_is_waited_for() -> None:
    """It may ask for something that works."""
    stage = running(failing(a=ONCE))

    from supervisor.core.message import ReloadRequested

    stage.meet(ReloadRequested())
    stage.exited("a/0", 1)
    assert exits(stage) == []
    stage.load(failing(a={**ONCE, "command": "other"})).read(good())

    assert stage.states() == {"a/0": "starting"}
    assert exits(stage) == []


def test_only_true_and_false_are_taken() -> None:
    """YAML's words for them."""
    with pytest.raises(SpecError):
        spec_of(daemon={"exit_when_failed": "maybe"}, a=ONCE)
