import os
from pathlib import Path

import pytest

from supervisor.host.machine import cpu_count, installed_vendors, missing_command, read_memory

ALLOWED = len(os.sched_getaffinity(0))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def own(tmp_path: Path, text: str) -> Path:
    write(tmp_path / "cgroup", text)
    return tmp_path / "cgroup"


def test_cpu_count_is_the_affinity_without_a_quota(tmp_path: Path) -> None:
    """No cgroup, or none with a limit: the CPUs that we may run on."""
    write(tmp_path / "fs/cpu.max", "max 100000\n")

    assert cpu_count(tmp_path / "fs", tmp_path / "nothing") == ALLOWED
    assert cpu_count(tmp_path / "fs", own(tmp_path, "0::/\n")) == ALLOWED


def test_cpu_count_honours_affinity() -> None:
    """A daemon that is tied to one CPU has one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("limit", "expected"), [("150000 100000", 2), ("100000 100000", 1), ("1000 100000", 1)])
def test_cpu_count_rounds_a_quota_up(tmp_path: Path, limit: str, expected: int) -> None:
    """A quota of 1.5 CPUs is 2, one of a hundredth is 1."""
    write(tmp_path / "fs/pod/worker/cpu.max", limit)

    assert min(ALLOWED, expected) == cpu_count(tmp_path / "fs", own(tmp_path, "0::/pod/worker\n"))


def test_cpu_count_honours_the_quota_of_a_parent(tmp_path: Path) -> None:
    """The tightest limit on the way up counts."""
    write(tmp_path / "fs/pod/cpu.max", "100000 100000")
    write(tmp_path / "fs/pod/worker/cpu.max", "max 100000")

    assert cpu_count(tmp_path / "fs", own(tmp_path, "0::/pod/worker\n")) == 1


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("name", ["/", "/docker/abc"])
def test_cpu_count_reads_cgroup_v1(tmp_path: Path, mount: str, name: str) -> None:
    """Version 1, also in a container that is told a path which it does not see."""
    write(tmp_path / "fs" / mount / "cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "fs" / mount / "cpu.cfs_period_us", "100000\n")

    assert cpu_count(tmp_path / "fs", own(tmp_path, f"4:memory:/\n3:{mount}:{name}\n0::/\n")) == 1


def test_cpu_count_without_a_v1_quota(tmp_path: Path) -> None:
    """-1 is no limit."""
    write(tmp_path / "fs/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "fs/cpu/cpu.cfs_period_us", "100000\n")

    assert cpu_count(tmp_path / "fs", own(tmp_path, "3:cpu:/\n")) == ALLOWED


def test_a_vendor_is_installed_where_its_driver_is(tmp_path: Path) -> None:
    """/dev/kfd tells of AMD's, the vendor behind a render node of Intel's; another vendor's node of nobody."""
    write(tmp_path / "drm/renderD128/device/vendor", "0x10de\n")
    assert frozenset() == installed_vendors(tmp_path, tmp_path / "drm")

    (tmp_path / "kfd").touch()
    assert frozenset({"amd"}) == installed_vendors(tmp_path, tmp_path / "drm")

    write(tmp_path / "drm/renderD129/device/vendor", "0x8086\n")
    assert frozenset({"amd", "intel"}) == installed_vendors(tmp_path, tmp_path / "drm")


def test_command_is_searched_in_the_workers_path(tmp_path: Path) -> None:
    """Without a slash PATH decides, relative entries seen from the working directory."""
    write(tmp_path / "bin/tool", "#!/bin/sh\n")
    (tmp_path / "bin/tool").chmod(0o755)

    assert missing_command("sh", "/usr/bin:/bin", "/") is None
    assert missing_command("tool", "bin", str(tmp_path)) is None
    assert missing_command("tool", "/usr/bin:/bin", str(tmp_path)) == "command not found: tool"


def test_command_with_a_slash_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    """PATH has no say, and what is there but cannot run is told apart."""
    write(tmp_path / "run.sh", "#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o644)

    assert missing_command("./run.sh", "/bin", str(tmp_path)) == "not executable: ./run.sh"
    assert missing_command("./gone", "/bin", str(tmp_path)) == "command not found: ./gone"
    assert missing_command("./", "/bin", str(tmp_path)) == "is a directory: ./"
    assert "file name too long: " in str(missing_command("x" * 300, "/bin", str(tmp_path)))
    (tmp_path / "run.sh").chmod(0o755)
    assert missing_command("./run.sh", "/bin", str(tmp_path)) is None


# ---- memory ---------------------------------------------------------------------------------------------------------

MEMINFO = (
    "MemTotal:       16777216 kB\nMemFree:          524288 kB\nMemAvailable:    8388608 kB\nSwapFree: 999999999 kB\n"
)
GIB = 2**30


def memory_of(tmp_path: Path, own_cgroup: str, files: dict[str, str]) -> tuple[int, int]:
    """What is read of a host with 16 GiB, 8 of them free, and of these cgroups; in GiB."""
    write(tmp_path / "meminfo", MEMINFO)
    for name, text in files.items():
        write(tmp_path / "fs" / name, text)
    available, total = read_memory(tmp_path / "meminfo", tmp_path / "fs", own(tmp_path, own_cgroup))
    return available // GIB, total // GIB


def test_memory_of_the_host_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    """Not what is free, since page cache can be had; and no swap."""
    assert memory_of(tmp_path, "0::/\n", {"memory.max": "max\n", "memory.current": f"{12 * GIB}\n"}) == (8, 16)


@pytest.mark.parametrize(("cached", "available"), [("", 1), (f"inactive_file {GIB}\nactive_file {GIB}\n", 3)])
def test_memory_is_what_the_tightest_cgroup_leaves(tmp_path: Path, cached: str, available: int) -> None:
    """Up the tree; its page cache counts as free, else nobody could start who reads a model through it."""
    files = {
        "pod/memory.max": f"{6 * GIB}\n",
        "pod/memory.current": f"{5 * GIB}\n",
        "pod/memory.stat": f"anon {GIB}\n{cached}file {2 * GIB}\n",
        "pod/worker/memory.max": "max\n",
        "pod/worker/memory.current": "1\n",
    }

    assert memory_of(tmp_path, "0::/pod/worker\n", files) == (available, 6)


def test_memory_of_a_cgroup_of_version_1(tmp_path: Path) -> None:
    """Its stat counts what is below too."""
    files = {
        "memory/pod/memory.limit_in_bytes": f"{4 * GIB}\n",
        "memory/pod/memory.usage_in_bytes": f"{3 * GIB}\n",
        "memory/pod/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\ntotal_active_file 0\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": f"{9 * GIB}\n",
    }

    assert memory_of(tmp_path, "4:memory:/pod\n0::/\n", files) == (2, 4)


def test_a_cgroup_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    """Never less than nothing."""
    files = {"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}

    assert memory_of(tmp_path, "0::/\n", files) == (0, 1)


def test_memory_of_this_machine_is_told() -> None:
    """There is some."""
    available, total = read_memory()

    assert 0 < available <= total
