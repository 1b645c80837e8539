"""What a repr, and so the log, does not tell; and what a worker's last words do not."""

from __future__ import annotations

import pytest

from supervisor.core.message import (
    BecameReady,
    BecameUnready,
    Event,
    Exited,
    LivenessLost,
    ProgressTold,
    Spawn,
    SpawnFailed,
    SpecLoaded,
    StopCommandEnded,
)
from supervisor.core.plan import Launch
from supervisor.core.secrets import hushed, secrets_of, without
from supervisor.core.spec import ServiceSpec, Spec, WorkerEntry
from tests.core.builders import LLM


def test_what_is_logged_of_a_file_has_no_value_of_a_variable() -> None:
    """Events and orders go to the log when a bug of ours is found; tokens stand in the environment."""
    secret = {"TOKEN": "hunter2"}
    spec = Spec(services={"a": ServiceSpec(command=("x",), env=secret, workers=(WorkerEntry(env=secret),))})
    (worker,) = spec.expand(1)
    launch = Launch(worker.recipe)
    order = Spawn(worker.id, 1, launch, ("x", "hunter2"), secret, "/")

    assert "hunter2" not in repr((SpecLoaded(spec), worker, order))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HF_TOKEN", "hunter2", ("hunter2",)),
        ("OPENAI_API_KEY", "hunter2", ("hunter2",)),
        ("db-password", "hunter2", ("hunter2",)),
        ("Secret", "hunter2", ("hunter2",)),
        ("DATABASE_URL", "postgres://ann:hunter2@db:5432/x", ("hunter2",)),
        ("PRIVATE_KEY", "-----BEGIN-----\nhunter2\n", ("-----BEGIN-----", "hunter2")),
        ("TOKEN", "short", ()),
        ("HF_HOME", "/srv/models", ()),
        ("TOKENIZERS_PARALLELISM", "hunter2", ()),
        ("MAX_BATCHED_TOKENS", "131072", ()),
        ("SSL_KEY_FILE", "/etc/ssl/key.pem", ()),
        ("MODEL_URL", "http://host:8000/x@y", ()),
    ],
)
def test_a_secret_is_known_by_the_name_of_its_variable_and_a_password_by_its_place(
    name: str, value: str, expected: tuple[str, ...]
) -> None:
    assert secrets_of({"PATH": "/usr/bin", name: value}) == expected


def test_the_longer_one_goes_first() -> None:
    """Where one begins with another, nothing of it is left."""
    secrets = secrets_of({"TOKEN": "hunter", "API_KEY": "hunter2000"})

    assert without("hunter2000 and hunter", secrets) == "*** and ***"


@pytest.mark.parametrize(
    "event",
    [
        Exited(LLM, 7, 1, None, tail=("first", "my token is hunter2")),
        BecameUnready(LLM, 7, "/health?token=hunter2 answered 503"),
        LivenessLost(LLM, 7, "/health?token=hunter2 answered 503", is_watchdog=True),
        SpawnFailed(LLM, 7, 2, "command not found: hunter2"),
        StopCommandEnded(LLM, 7, "exited with 1: hunter2"),
        ProgressTold(LLM, 7, "with hunter2"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_words_of_a_worker_are_told_without_its_secrets(event: Event) -> None:
    told = hushed(event, ("hunter2",))

    assert "***" in repr(told)
    assert "hunter2" not in repr(told)
    assert hushed(told, ("hunter3",)) == told


def test_an_event_without_words_is_what_it_was() -> None:
    for event in (BecameReady(LLM, 7), Exited(LLM, 7, 0, None)):
        assert hushed(event, ("hunter2",)) is event
