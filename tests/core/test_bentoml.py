"""
What BentoML users write, and each fault of BentoML's allocators done better here.

Numbers of workers and of GPUs are BentoML's wherever those are sane; which GPUs follow from our own rules, which pack
shares of all sizes. In a row: what BentoML is told, our file, and our plan; see `plan_rows` for how to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.core.message import Spawn
from supervisor.core.plan import Current, make_plan
from supervisor.core.spec import WorkerId, parse_spec
from tests.core.builders import good, of_type
from tests.core.plan_rows import file, machine, plan_of, shown
from tests.core.spec_documents import problem_of, workers_of
from tests.core.stage import Stage

ROWS = """
# Runners: workers_per_resource (w) workers on each GPU; 1/w GPUs for each where it is a fraction.
w=1                       | 4  | a: 1 per_gpu                  | 0 1 2 3
w=2                       | 4  | a: .5 per_gpu                 | 0 0 1 1 2 2 3 3
w=3                       | 4  | a: .333 per_gpu               | 0 0 0 1 1 1 2 2 2 3 3 3
w=0.5                     | 4  | a: 2 per_gpu                  | 0,1 2,3
w=0.25                    | 4  | a: 4 per_gpu                  | 0,1,2,3
w=1 gpu 2                 | 4  | a: 1 x2                       | 0 1
w=2 gpu 2                 | 4  | a: .5 per_gpu @0,1            | 0 0 1 1
w=1 [1,3]                 | 4  | a: 1 per_gpu @1,3             | 1 3
w=2 [1,3]                 | 4  | a: .5 per_gpu @1,3            | 1 1 3 3
w=2 [0,2]                 | 4  | a: .5 per_gpu @0,2            | 0 0 2 2
w=0.5 [1,3]               | 4  | a: 2 per_gpu @1,3             | 1,3
w=0.5 [2,7,8,9]           | 10 | a: 2 per_gpu @2,7,8,9         | 2,7 8,9
w=0.25 [2,7,8,9]          | 10 | a: 4 per_gpu @2,7,8,9         | 2,7,8,9
w=1 [2,7]                 | 10 | a: 1 per_gpu @2,7             | 2 7
w=2 [2,7]                 | 10 | a: .5 per_gpu @2,7            | 2 2 7 7
no GPU, w=1               | rtx! | a: 1 per_gpu cpu            | cpu
# Services: one after the other on one ledger.
gpu 1                     | 4  | a: 1                          | 0
gpu 2                     | 4  | a: 2                          | 0,1
gpu 4                     | 4  | a: 4                          | 0,1,2,3
gpu 2, 1, 1               | 4  | a: 2; b: 1; c: 1              | 0,1 2 3
gpu 2, 2                  | 4  | a: 2; b: 2                    | 0,1 2,3
gpu 1, .5, .5, 2          | 4  | a: 1; b: .5; c: .5; d: 2      | 0 1 1 2,3
gpu .5, 2, .5, 1          | 4  | a: .5; b: 2; c: .5; d: 1      | 0 1,2 0 3
gpu .5, .5                | 1  | a: .5; b: .5                  | 0 0
gpu .5, .5, 2             | 4  | a: .5; b: .5; c: 2            | 0 0 1,2
gpu .5, 1, .5             | 2  | a: .5; b: 1; c: .5            | 0 1 0
gpu .25 four times        | 1  | a: .25 x4                     | 0 0 0 0
gpu .2 five times         | 1  | a: .2 x5                      | 0 0 0 0 0
gpu .5, 1, .5, .5, 4x .25 | 4  | a: .5; b: 1; c: .5; d: .5; e: .25 x4 | 0 1 0 2 2 2 3 3
gpu 0.5, workers 2        | 4  | a: .5 x2                      | 0 0
no gpu, workers 3         | 4  | a: x3                         | none none none
no gpu, cpu_count (2)     | 4  | a: cpu_count                  | none none
gpu_type nvidia-l4        | t4 l4 | a: 1 kind=nvidia-l4        | 1
# The list of workers, which never came out.
2 and 1                   | 4  | a: [2] [1]                    | 0,1 2
[0,1] and [2,3]           | 4  | a: [@0,1] [@2,3]              | 0,1 2,3
.5 and .5                 | 4  | a: [.5] [.5]                  | 0 0
four of 1                 | 4  | a: [1] [1] [1] [1]            | 0 1 2 3
[2,1], then [.5,.5]       | 4  | a: [2] [1]; b: [.5] [.5]      | 0,1 2 3 3
"""


def rows(table: str) -> list[tuple[str, ...]]:
    lines = [line for line in table.splitlines() if line and not line.startswith("#")]
    return [tuple(part.strip() for part in line.split("|")) for line in lines]


def slices(box: str, services: str) -> str:
    return " ".join(shown(placement) for placement in plan_of(box, services).values())


def reason(box: str, services: str) -> str:
    *_, last = plan_of(box, services).values()
    return last.reason


@pytest.mark.parametrize(("theirs", "box", "services", "expected"), rows(ROWS))
def test_what_a_bentoml_user_writes_has_its_place(theirs: str, box: str, services: str, expected: str) -> None:
    """Each case of theirs is a case of ours."""
    assert expected == slices(box, services), theirs


# ---- the faults, by their number in our study -----------------------------------------------------------------------


def test_01_every_worker_has_a_slice_of_its_own() -> None:
    """`gpu: 2, workers: 2` gave both `0,1`."""
    assert slices("4", "a: 2 x2") == "0,1 2,3"


def test_02_a_gpu_that_does_not_exist_is_handed_to_nobody() -> None:
    """Five of four gave `0,1,2,3,4` and no word."""
    assert slices("4", "a: 5") == "-"
    assert reason("4", "a: 5") == "needs 5 GPUs, 4 of 4 are free"


def test_03_without_gpus_a_worker_waits_or_falls_back_as_the_file_says() -> None:
    """It was given GPU 0."""
    assert [slices("", f"a: 1 {policy}") for policy in ("", "cpu", "fail")] == ["-", "cpu", "-"]
    assert reason("", "a: 1") == "needs 1 GPU, there is none: no library"


def test_04_a_worker_without_gpus_sees_none() -> None:
    """It saw all of them."""
    stage = Stage(environ={"CUDA_VISIBLE_DEVICES": "0,1"}).load(parse_spec(document({"gpu": 0}), base_dir="/"))

    assert env_of(stage)["CUDA_VISIBLE_DEVICES"] == "-1"


def test_05_a_count_of_cpus_does_not_drop_the_gpus() -> None:
    """`cpu_count` workers ran without any setting."""
    assert slices("4", "a: 1 cpu_count") == "0 1"


def test_06_and_07_an_inherited_list_is_a_pool() -> None:
    """It switched placement off, or was overwritten."""
    assert slices("4 only:2,3", "a: 1 x3") == "2 3 -"
    assert reason("4 only:2,3", "a: 2; b: 1 @0") == 'GPU "0" is outside the pool'


def test_08_indices_come_with_the_order_they_are_of() -> None:
    """NVML's numbers were given to CUDA, which counts otherwise."""
    stage = Stage().load(parse_spec(document({"gpu": 1}), base_dir="/")).read(good(*machine("1").devices))

    env = env_of(stage)
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("0", "PCI_BUS_ID")


def test_09_mig_instances_are_devices() -> None:
    """Boards were counted, and an instance could not be written."""
    assert slices("h100m3", "a: 1 x2; b: 1 @MIG-0.2") == "0.0 0.1 0.2"


def test_10_and_16_no_slice_is_short_or_empty() -> None:
    """`w = 0.6` on 4 GPUs counted 3 workers, and the third had none; `w = 0.3` gave 3 GPUs and 1."""
    assert slices("4", "a: 2 x3") == "0,1 2,3 -"
    assert slices("4", "a: 3 x2") == "0,1,2 -"


def test_11_declared_memory_is_a_dimension() -> None:
    """Nothing ever looked at memory."""
    assert slices("1", "a: .25 30GiB x3") == "0 0 -"


def test_13_a_device_that_is_lost_gets_nobody_and_one_that_is_added_does() -> None:
    """The number was read once in the life of a process."""
    before, workers = machine("h100! h100"), file("a: 1 x2").expand(1)
    assert slices("h100! h100", "a: 1 x2") == "1 -"

    plan = make_plan(workers, machine("2"), current_of(make_plan(workers, before, {})))

    assert [shown(one) for one in plan.values()] == ["1", "0"]


def test_15_two_services_never_overlap() -> None:
    """Each runner began at GPU 0 again."""
    assert slices("2", "a: 1; b: 1") == "0 1"


@pytest.mark.parametrize(
    ("box", "services", "expected"),
    [
        ("1", "a: .7; b: .3", "0 0"),
        ("1", "a: .99; b: .01", "0 0"),
        ("1", f"a: .05 x20; b: {0.05}", " ".join("0" * 20) + " -"),
        ("1", "a: .111 x9", " ".join("0" * 9)),
        ("1", "a: .083 x12", " ".join("0" * 12)),
        ("2", "a: .6; b: .4; c: .4", "0 0 1"),
        ("2", "a: 3; b: 1 x2", "- 0 1"),
    ],
)
def test_17_shares_of_all_sizes_meet_and_none_is_lost(box: str, services: str, expected: str) -> None:
    """Unlike shares never shared a GPU, floats lost the last one, and what was refused was counted all the same."""
    assert slices(box, services) == expected


def test_18_what_is_freed_is_given_to_somebody() -> None:
    """Nothing was ever given back."""
    first, second = file("a: 1").expand(1), file("b: 1").expand(1)
    placed = make_plan(first, machine("1"), {})

    with_both = make_plan([*first, *second], machine("1"), current_of(placed))
    without_first = make_plan(second, machine("1"), current_of(with_both))

    assert [shown(one) for one in with_both.values()] == ["0", "-"]
    assert [shown(one) for one in without_first.values()] == ["0"]


def test_19_a_kind_is_compared_with_the_device() -> None:
    """The word was read and forgotten."""
    assert slices("t4", "a: 1 kind=nvidia-l4") == "-"
    assert reason("t4", "a: 1 kind=nvidia-l4").endswith("here are nvidia-tesla-t4 (GPU 0)")


def test_20_devices_that_are_linked_stay_together() -> None:
    """The lowest numbers were taken, wherever they were."""
    assert slices("1 / 3", "a: 2; b: 1") == "1,2 0"


def test_31_a_worker_with_several_gpus_is_told_how_many() -> None:
    """Code that wanted one number broke on `0,1`."""
    stage = Stage().load(parse_spec(document({"gpu": 2}), base_dir="/")).read(good(*machine("2").devices))

    assert env_of(stage)["WORKER_GPU_COUNT"] == "2"


def test_35_workers_count_from_0_and_from_1_under_two_names() -> None:
    """The docs said both of one number."""
    stage = Stage().load(parse_spec(document({"gpu": 0}), base_dir="/"))

    env = env_of(stage)
    assert (env["WORKER_INDEX"], env["WORKER_NUMBER"]) == ("0", "1")


@pytest.mark.parametrize("gpu", [1.5, -1, -0.5, "2", True, [0, 1]])
def test_numbers_that_were_misread_are_refused(gpu: object) -> None:
    """1.5 passed and failed later, -0.5 gave GPU 0, a quoted number and `true` were taken for one."""
    assert problem_of(resources={"gpu": gpu})[0] == "resources.gpu"


def test_a_worker_with_zero_gpus_has_none() -> None:
    """The allocator gave GPU 0 for it."""
    (worker,) = workers_of(resources={"gpu": 0})

    assert worker.request.gpu == 0


SHOWN_ELSEWHERE = {
    12: ("host/test_prober.py", "test_a_failed_initialisation_is_a_state_and_is_tried_again"),
    14: ("e2e/test_two_daemons.py", "test_the_second_daemon_goes_round_the_first"),
    21: ("e2e/test_healing.py", "test_a_killed_worker_comes_back_with_the_same_slice"),
    22: ("e2e/test_healing.py", "test_a_worker_that_never_gets_ready_fails_loudly_and_alone"),
    23: ("e2e/test_hostile_hosts.py", "test_as_pid_1_it_hands_on_signals_and_reaps"),
    24: ("e2e/test_trees.py", "test_sigterm_ends_everything_in_bounded_time_and_a_second_one_at_once"),
    25: ("e2e/test_healing.py", "test_nothing_is_left_when_the_daemon_is_killed"),
    26: ("e2e/test_rescale.py", "test_a_changed_command_replaces_one_index_at_a_time"),
    28: ("e2e/test_healing.py", "test_ready_by_tcp_waits_for_the_port"),
    30: ("e2e/test_healing.py", "test_exit_codes_do_what_the_policy_says"),
    34: ("core/test_fleet.py", "test_memory_is_judged_by_a_reading_asked_for_after_the_last_end"),
}
"""Faults that are not of the plan, and where it is shown that we have them not. 27 and 29 come with `alive` and
`listen`; 32 is about concurrency, which is not ours; 33 is `daemon.start_parallel`."""


@pytest.mark.parametrize(("file_name", "name"), SHOWN_ELSEWHERE.values())
def test_the_other_faults_are_shown_elsewhere(file_name: str, name: str) -> None:
    """By tests that are there."""
    assert f"def {name}(" in (Path(__file__).parents[1] / file_name).read_text()


def env_of(stage: Stage) -> Mapping[str, str]:
    """What the first process that was started found."""
    return of_type(Spawn, stage.history)[0].env


def document(resources: dict[str, object]) -> dict[str, object]:
    return {"services": {"a": {"command": "serve", "resources": resources}}}


def current_of(plan: object) -> dict[WorkerId, Current]:
    """What workers have once a plan was carried out."""
    assert isinstance(plan, dict)
    return {
        worker: Current(one.wanted, one.launch.slice, living=True)
        for worker, one in plan.items()
        if one.launch is not None
    }
