"""What a repr, and so the log, does not tell."""

from __future__ import annotations

from supervisor.core.message import Spawn, SpecLoaded
from supervisor.core.plan import Launch
from supervisor.core.spec import ServiceSpec, Spec, WorkerEntry


def test_what_is_logged_of_a_file_has_no_value_of_a_variable() -> None:
    """Events and orders go to the log when a bug of ours is found; tokens stand in the environment."""
    secret = {"TOKEN": "hunter2"}
    spec = Spec(services={"a": ServiceSpec(command=("x",), env=secret, workers=(WorkerEntry(env=secret),))})
    (worker,) = spec.expand(1)
    launch = Launch(worker.recipe)
    order = Spawn(worker.id, 1, launch, ("x", "hunter2"), secret, "/")

    assert "hunter2" not in repr((SpecLoaded(spec), worker, order))
