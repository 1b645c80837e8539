"""Running without the GPU that was asked for: only as long as the file allows it."""

from __future__ import annotations

from supervisor.core.spec import Spec
from tests.core.builders import good, spec_of
from tests.core.stage import Stage, running


def llm(on_no_gpu: str) -> Spec:
    return spec_of(llm={"resources": {"gpu": 1}, "on_no_gpu": on_no_gpu})


def fallen() -> Stage:
    """A worker that runs on the CPU, on a machine without a GPU."""
    stage = running(llm("cpu"))
    target = stage["llm/0"].target
    assert target is not None
    assert target.fallback
    assert stage.state("llm/0") == "ready"
    return stage


def test_who_waits_for_its_restart_is_not_started_without_a_gpu_any_more() -> None:
    """The file has changed its mind while there was no process."""
    stage = fallen().exited("llm/0")
    assert stage.state("llm/0") == "backoff"

    stage.reload(llm("wait"), good())

    target = stage["llm/0"].target
    assert target is not None
    assert target.launch is None
    assert not target.fallback
    assert stage.pass_time(600.0).states() == {"llm/0": "pending"}


def test_who_runs_without_a_gpu_does_so_to_its_end_and_not_again() -> None:
    """The file has changed its mind while there was one."""
    stage = fallen()
    stage.reload(llm("wait"), good())
    assert stage.state("llm/0") == "ready"

    stage.exited("llm/0").pass_time(600.0)

    assert stage.states() == {"llm/0": "pending"}
    assert stage["llm/0"].starts == 1
