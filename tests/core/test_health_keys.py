"""The file-wide key `health`."""

from __future__ import annotations

import pytest

from supervisor.core.spec import HealthSpec, parse_spec
from tests.core.spec_documents import problems_of


def health(**keys: object) -> HealthSpec:
    return parse_spec({"services": {}, "health": keys}, base_dir="/srv").health


def test_what_is_left_out_has_a_default() -> None:
    """Workers leave; five minutes, at the most an hour; no canary."""
    assert health() == HealthSpec()
    assert (HealthSpec().on_fault, HealthSpec().probation, HealthSpec().max_probation) == ("drain", 300.0, 3600.0)


def test_every_key_is_read() -> None:
    """Numbers of XIDs quoted or not."""
    found = health(
        on_fault="kill",
        probation="1m",
        max_probation="2h",
        max_strikes=3,
        canary=["./burn", "--fast"],
        canary_timeout="5s",
        xids={"94": "hardware", 31: "ignore"},
    )

    assert found == HealthSpec(
        on_fault="kill",
        probation=60.0,
        max_probation=7200.0,
        max_strikes=3,
        canary=("./burn", "--fast"),
        canary_timeout=5.0,
        xids=((94, "hardware"), (31, "ignore")),
    )


def test_a_canary_may_be_written_as_a_command_is() -> None:
    """Split as a shell would, or a list; a hint names this key and no other."""
    assert health(canary="./matmul.py --quick 'two words'").canary == ("./matmul.py", "--quick", "two words")
    hints = {problems_of({"services": {}, "health": {"canary": bad}})["health.canary"].hint for bad in (7, "", "a | b")}

    assert not any("exec" in hint for hint in hints)
    assert any(hint.startswith("write canary: ") for hint in hints)


def test_a_longer_probation_alone_is_also_the_longest() -> None:
    """Nobody has to write both."""
    assert health(probation="2h").max_probation == 7200.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"on_fault": "restart"}, "expected drain, kill or ignore, got 'restart'"),
        ({"probation": "10m", "max_probation": "5m"}, "expected at least probation (600s), got 300s"),
        ({"probation": 0}, "got 0"),
        ({"canary": "./burn | tee log"}, "no shell is run, so '|' does nothing here"),
        ({"canary": ""}, "expected a command, got an empty one"),
        ({"canary": 7}, "expected a list, got 7"),
        ({"max_strikes": -1}, "expected a whole number from 0 to 1000, got -1"),
        ({"canary": []}, "expected a command, got an empty one"),
        ({"xids": ["79"]}, "expected a map, got a list"),
        ({"xids": {"x": "ignore"}}, "expected the number of an XID, got 'x'"),
        ({"xids": {"0": "ignore"}}, "expected the number of an XID, got '0'"),
        ({"xids": {"079": "ignore", "79": "hardware"}}, "XID 79 is there already"),
        (
            {"xids": {"79": "fatal"}},
            "expected application, contained, information, hardware, link, unknown or ignore, got 'fatal'",
        ),
        ({"reset": True}, "unknown key 'reset'"),
    ],
)
def test_what_is_wrong_is_said(keys: dict[str, object], message: str) -> None:
    """With its place."""
    ((path, problem),) = problems_of({"services": {}, "health": keys}).items()

    assert path.startswith("health")
    assert message in problem.message
