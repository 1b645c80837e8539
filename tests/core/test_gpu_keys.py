"""What a file may say of GPUs, and what is said to who wrote something else."""

from __future__ import annotations

import pytest

from supervisor.core.file.quantities import Percent
from supervisor.core.spec import Request
from tests.core.spec_documents import problem_of, problems_of, workers_of


@pytest.mark.parametrize(
    ("gpu", "millis"),
    [
        *[(0, 0), (0.001, 1), (0.05, 50), (0.25, 250), (0.333, 333), (0.5, 500), (0.7, 700), (0.999, 999)],
        *[(1, 1000), (1.0, 1000), (2, 2000), (2.0, 2000), (1024, 1_024_000), ("all", "all"), (0.0, 0)],
    ],
)
def test_gpus_are_thousandths(gpu: object, millis: int | str) -> None:
    """Every fraction of three digits is exact; a whole float is the number that it is."""
    (worker,) = workers_of(resources={"gpu": gpu})

    assert worker.request == Request(millis)  # type: ignore[arg-type]  # mypy does not narrow "all".


@pytest.mark.parametrize(
    ("gpu", "words", "hint"),
    [
        (1.5, "expected a fraction below 1 or a whole number, got 1.5", "write a whole number: 1 or 2"),
        (7.25, "expected a fraction below 1 or a whole number, got 7.25", "write a whole number: 7 or 8"),
        (0.3333, "expected at most three digits after the point, got 0.3333", "write 0.333"),
        (0.0001, "expected at most three digits after the point, got 0.0001", "write 0.001"),
        (1 / 3, "expected at most three digits", "write 0.333"),
        ("0.5", "expected a fraction such as 0.25, a whole number from 0 to 1024, or all, got '0.5'", "without quotes"),
        ("2", "got '2'", "without quotes"),
        ("1/2", "got '1/2'", "write 0.5"),
        ("1/3", "got '1/3'", "write 0.333"),
        ("al", "got 'al'", "did you mean all?"),
        (-1, "got -1", ""),
        (-0.5, "got -0.5", ""),
        (1025, "got 1025", ""),
        (True, "got true", ""),
        (float("nan"), "got", ""),
        (float("inf"), "got", ""),
        ([0, 1], "got", ""),
    ],
)
def test_a_number_of_gpus_that_means_nothing_is_refused(gpu: object, words: str, hint: str) -> None:
    """With what to write instead, where that can be known."""
    path, problem = problem_of(resources={"gpu": gpu})

    assert path == "resources.gpu"
    assert words in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("written", "kinds"),
    [
        ("nvidia-l4", ("nvidia-l4",)),
        (["nvidia-l4", "nvidia-a10g"], ("nvidia-l4", "nvidia-a10g")),
        (["nvidia-l4", "nvidia-l4"], ("nvidia-l4",)),
        ("*H100*", ("*H100*",)),
        ("NVIDIA L40?", ("NVIDIA L40?",)),
    ],
)
def test_a_kind_of_gpu_is_a_name_a_list_or_a_glob(written: object, kinds: tuple[str, ...]) -> None:
    """What stands in the file is what is asked for."""
    (worker,) = workers_of(resources={"gpu": 1, "gpu_type": written})

    assert worker.request.gpu_type == kinds


@pytest.mark.parametrize(
    ("written", "path", "hint"),
    [
        ("nvidia-l5", "resources.gpu_type", "did you mean nvidia-l4?"),
        ("nvidia-l40s", "resources.gpu_type", '"*L40S*"'),
        ("nvidia-h100", "resources.gpu_type", "did you mean nvidia-"),
        (["nvidia-l4", "L40S"], "resources.gpu_type.1", '"*L40S*"'),
        ([], "resources.gpu_type", "leave it out"),
        (4, "resources.gpu_type", ""),
        ("", "resources.gpu_type", ""),
    ],
)
def test_a_kind_of_gpu_that_nobody_knows_is_refused(written: object, path: str, hint: str) -> None:
    """The name that is most like it, or how to write a pattern."""
    place, problem = problem_of(resources={"gpu": 1, "gpu_type": written})

    assert place == path
    assert hint in problem.hint


def test_placement_and_sharing_are_words() -> None:
    """Pack unless the file says spread; timeslice is how it is anyway."""
    (packed,) = workers_of(resources={"gpu": 0.5}, sharing="timeslice")
    (spread,) = workers_of(resources={"gpu": 0.5}, placement="spread")

    assert (packed.request.spread, spread.request.spread) == (False, True)
    assert problem_of(placement="sprad")[1].hint == "did you mean spread?"
    assert problem_of(sharing="time")[0] == "sharing"


@pytest.mark.parametrize(
    ("keys", "path", "words"),
    [
        ({"resources": {"gpu_type": "nvidia-l4"}}, "resources.gpu_type", "gpu_type needs gpu"),
        ({"workers": "per_gpu"}, "workers", "per_gpu needs gpu"),
        ({"workers": "fit"}, "workers", "fit needs gpu"),
        ({"workers": "fit", "resources": {"gpu": 1}}, "workers", "fit needs gpu_memory"),
        ({"workers": "per_gpu", "resources": {"gpu": "all"}}, "workers", "per_gpu needs a number of GPUs, not all"),
        ({"workers": "per-gpu", "resources": {"gpu": 1}}, "workers", "got per-gpu"),
        ({"workers": [{"gpu": 1, "gpu_type": "nvidia-l4"}]}, "workers.0.gpu_type", "unknown key"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, object], path: str, words: str) -> None:
    """Whoever says which GPUs asks for one, and a count that is taken from them needs to know of how many."""
    place, problem = problem_of(**keys)

    assert place == path
    assert words in problem.message.replace("'", "")


def test_a_service_without_gpus_sends_away_what_the_defaults_say_of_them() -> None:
    """With its `gpu: 0`, the kind as well."""
    problems_of({"defaults": {"resources": {"gpu_type": "x"}}, "services": {"a": {"command": "x"}}})
    (worker,) = workers_of(resources={"gpu": 0})

    assert worker.request == Request()


def test_counts_by_the_gpus_are_one_until_those_are_known() -> None:
    """The file alone cannot say more."""
    assert len(workers_of(workers="per_gpu", resources={"gpu": 0.5})) == 1
    assert len(workers_of(workers="fit", resources={"gpu": 0.5, "gpu_memory": "10GiB"})) == 1


def test_mig_instances_are_named_like_other_devices() -> None:
    """By UUID or its start."""
    (worker,) = workers_of(resources={"gpu": 1, "gpus": ["MIG-1234", "GPU-5"], "gpu_memory": "50%"})

    assert worker.request == Request(1000, ("MIG-1234", "GPU-5"), gpu_memory=Percent(500))
