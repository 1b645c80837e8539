"""Short ways to a Spec and to the problems of a document."""

from __future__ import annotations

import pytest

from supervisor.core.spec import Problem, Spec, SpecError, WorkerSpec, parse_spec

Document = dict[str, object]


def spec_of(**keys: object) -> Spec:
    """A file of one service ``llm`` with these keys."""
    return parse_spec({"services": {"llm": {"command": "serve", **keys}}}, base_dir="/srv")


def workers_of(cpu_count: int = 2, **keys: object) -> tuple[WorkerSpec, ...]:
    """The workers of such a file."""
    return spec_of(**keys).expand(cpu_count)


def problems_of(document: object) -> dict[str, Problem]:
    """Every problem by its path; a path with two of them fails the test."""
    with pytest.raises(SpecError) as refused:
        parse_spec(document, base_dir="/srv")
    found = {".".join(str(part) for part in problem.path): problem for problem in refused.value.problems}
    assert len(found) == len(refused.value.problems), refused.value.problems
    return found


def problem_of(**keys: object) -> tuple[str, Problem]:
    """The one problem of a service ``llm`` with these keys, with its place below the service."""
    (item,) = problems_of({"services": {"llm": {"command": "serve", **keys}}}).items()
    return item[0].removeprefix("services.llm.").removeprefix("services.llm"), item[1]
