"""What `doctor` says of a machine and a file: what is wrong and what to do about it, and nothing of what is well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.doctor import (
    COMPUTE_EXCLUSIVE,
    COMPUTE_PROHIBITED,
    GPU_ADVICE,
    Facts,
    Finding,
    GpuFacts,
    Sick,
    examine,
)
from supervisor.core.inventory import GpuState, Health
from supervisor.core.spec import Spec, parse_spec

WELL = Facts(
    gpu_state=GpuState.OK,
    driver="550.54",
    gpus=(GpuFacts(0, "H100", persistence=True, compute=0),),
    leaves="/sys/fs/cgroup/a",
    leaves_why="user.delegate",
    kernel="6.1",
    descriptors=(1024, 1_048_576),
)


def spec_of(**service: object) -> Spec:
    return parse_spec({"services": {"a": {"command": "serve", **service}}}, base_dir="/srv")


def wrong(facts: Facts, spec: Spec | None = None) -> list[Finding]:
    """Findings that are not well."""
    return [one for one in examine(facts, spec) if one.level != "ok"]


def test_a_good_machine_has_no_problems_and_says_what_was_looked_at() -> None:
    """Each line of it is a finding too, so that nobody wonders what was checked."""
    assert wrong(WELL, spec_of(workers=4)) == []
    assert [one.check for one in examine(WELL, None)] == ["driver", "cgroups", "kernel", "open files", "threads"]
    assert "1 GPU, driver 550.54" in examine(WELL, None)[0].found


@pytest.mark.parametrize("state", [state for state in GpuState if state is not GpuState.OK])
def test_each_state_of_the_driver_has_advice(state: GpuState) -> None:
    """No driver at all is how CPU machines are; everything else is a problem."""
    (finding,) = wrong(replace(WELL, gpu_state=state, gpu_detail="words", gpus=()))

    assert finding.level == ("note" if state is GpuState.ABSENT else "problem")
    assert (finding.found, finding.hint) == ("words", GPU_ADVICE[state])


@pytest.mark.parametrize("health", [one for one in Health if one is not Health.OK])
def test_each_device_that_is_not_well_is_named_with_what_to_do(health: Health) -> None:
    """That another daemon has it is how it may be."""
    (finding,) = wrong(replace(WELL, sick=(Sick("GPU 3", health, "XID 79"),)))

    assert (finding.check, finding.found) == ("GPU 3", f"{health}: XID 79")
    assert (finding.level == "note") == (health is Health.HELD) == (finding.hint == "")


@pytest.mark.parametrize(
    ("gpu", "found"),
    [
        ({"persistence": False}, "persistence mode is off"),
        ({"compute": COMPUTE_PROHIBITED}, "prohibited"),
        ({"is_cut": True}, "has no instance"),
    ],
)
def test_settings_of_a_gpu_that_hurt_are_named(gpu: dict[str, bool | int], found: str) -> None:
    """With the command that changes them."""
    (finding,) = wrong(replace(WELL, gpus=(replace(WELL.gpus[0], **gpu),)))  # type: ignore[arg-type]

    assert finding.check == "GPU 0"
    assert found in finding.found
    assert finding.hint


@pytest.mark.parametrize(
    "gpu",
    [
        {"persistence": False, "is_used": True},
        {"persistence": None, "compute": None},
        {"is_cut": True, "instances": 2},
        {"compute": COMPUTE_EXCLUSIVE},
    ],
)
def test_settings_that_do_no_harm_are_passed_over(gpu: dict[str, bool | int | None]) -> None:
    """Somebody on it keeps the driver loaded; what is not told is not known; whole GPUs may be exclusive."""
    facts = replace(WELL, gpus=(replace(WELL.gpus[0], **gpu),))  # type: ignore[arg-type]

    assert wrong(facts, spec_of(resources={"gpu": 1})) == []


def test_an_exclusive_gpu_and_a_service_that_shares_do_not_go_together() -> None:
    """The second worker on it would die of "all CUDA-capable devices are busy"."""
    facts = replace(WELL, gpus=(replace(WELL.gpus[0], compute=COMPUTE_EXCLUSIVE),))

    (finding,) = wrong(facts, spec_of(resources={"gpu": 0.5}))

    assert finding.level == "problem"
    assert "a would share it" in finding.found


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"leaves": None, "leaves_why": "no mark"}, "cgroups", "no mark"),
        ({"has_pidfd": False}, "kernel", "no pidfd"),
        ({"descriptors": (100, 100)}, "open files", "at most 100"),
        ({"tasks_max": 200}, "threads", "at most 200"),
        ({"lacks_uvm": True}, "device files", "nvidia-uvm"),
        ({"faults": (("/x is bad", "chmod"),)}, "files", "/x is bad"),
    ],
)
def test_what_the_machine_lacks_is_named(changes: dict[str, object], check: str, words: str) -> None:
    """Each alone, with what to do about it."""
    (finding,) = wrong(replace(WELL, **changes), spec_of(workers=4))  # type: ignore[arg-type]

    assert finding.check == check
    assert words in finding.found
    assert finding.hint


def test_limits_grow_with_the_workers_of_the_file() -> None:
    """What is enough for four is not for a thousand."""
    facts = replace(WELL, descriptors=(1024, 4096), tasks_max=50_000)

    assert wrong(facts, spec_of(workers=4)) == []
    assert [one.check for one in wrong(facts, spec_of(workers=1000))] == ["open files", "threads"]


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ({"KillMode": "control-group"}, "KillMode"),
        ({"Type": "simple", "TimeoutStopUSec": "1min 30s"}, "killed 90 s after"),
        ({"Delegate": "no"}, "Delegate=no"),
        ({"PrivateDevices": "yes"}, "hides /dev/nvidia"),
        ({"MemoryDenyWriteExecute": "yes"}, "write code"),
    ],
)
def test_a_unit_that_hinders_is_named(unit: dict[str, str], words: str) -> None:
    """What the daemon cannot do anything about itself."""
    facts = replace(WELL, unit_name="a.service", unit={"Type": "notify", "KillMode": "mixed", **unit})

    (finding,) = wrong(facts, spec_of(stop={"timeout": "2m"}))

    assert words in finding.found
    assert finding.check == "unit a.service"


def test_a_notify_unit_is_asked_for_more_time_so_its_limit_does_no_harm() -> None:
    """EXTEND_TIMEOUT_USEC; other types have no such thing."""
    unit = {"Type": "notify", "KillMode": "mixed", "TimeoutStopUSec": "5s"}

    assert wrong(replace(WELL, unit_name="a.service", unit=unit), spec_of(stop={"timeout": "2m"})) == []


def test_a_unit_without_a_limit_to_its_stop_is_well() -> None:
    """`infinity`, and what an unknown systemd may print."""
    for text in ("infinity", "soon"):
        unit = {"Type": "simple", "KillMode": "mixed", "TimeoutStopUSec": text}
        assert wrong(replace(WELL, unit_name="a.service", unit=unit), spec_of(stop={"timeout": "2m"})) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("docker run image", ["no child of"]),
        ("docker run -d image", ["returns at once"]),
        ("/usr/bin/podman run --detach image", ["returns at once"]),
        ("podman run image", []),
        ("docker ps", []),
    ],
)
def test_a_client_of_containers_is_no_worker(command: str, words: list[str]) -> None:
    """Its end is not the container's end."""
    found = wrong(WELL, spec_of(command=command))

    assert [word in one.found for word, one in zip(words, found, strict=True)] == [True] * len(words)


def test_a_container_gets_its_gpus_by_its_own_options() -> None:
    """CUDA_VISIBLE_DEVICES of the client is nothing to it."""
    resources = {"gpu": 1}
    blind = wrong(WELL, spec_of(command="podman run image", resources=resources))
    seeing = wrong(WELL, spec_of(command="podman run --gpus device=$(WORKER_GPU_UUIDS) image", resources=resources))

    assert ["CUDA_VISIBLE_DEVICES" in one.found for one in blind] == [True]
    assert seeing == []


@pytest.mark.parametrize(
    ("restart", "words"),
    [
        ({"policy": "never", "delay": "5s", "parole": 0}, "`restart: delay, parole` is never asked"),
        ({"limit": 3, "start_limit": 5}, "`start_limit: 5` is never reached"),
    ],
)
def test_restart_settings_that_never_come_to_bear_are_named(restart: dict[str, object], words: str) -> None:
    """Somebody wrote them and counts on them."""
    (finding,) = wrong(WELL, spec_of(restart=restart))

    assert finding.check == "service a"
    assert words in finding.found


@pytest.mark.parametrize(
    "restart", [{"policy": "never"}, {"limit": 0, "start_limit": 5}, {"limit": 5, "start_limit": 5}]
)
def test_restart_settings_that_do_are_passed_over(restart: dict[str, object]) -> None:
    """No limit is reached by nobody; equal ones both hold."""
    assert wrong(WELL, spec_of(restart=restart)) == []
