"""Who has the driver's files open: real processes with real files, and a made-up table of those that hide."""

from __future__ import annotations

import subprocess
from pathlib import Path

from supervisor.host.openers import find_openers
from tests.e2e.harness import wait_for


def test_open_files_of_processes_are_found(tmp_path: Path) -> None:
    """Which devices, and whether it computes; who has closed them, or is gone, is not among them."""
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    prefix = f"{tmp_path}/nvidia"
    with (
        opening(tmp_path / "nvidia0", tmp_path / "nvidia3", tmp_path / "nvidia-uvm") as computes,
        opening(tmp_path / "nvidia0", tmp_path / "nvidiactl") as looks,
    ):
        expected = [(computes.pid, [0, 3], True), (looks.pid, [0], False)]
        wait_for(lambda: sorted(find_openers(prefix=prefix)[0]) == sorted(expected), "both")
        for process in (computes, looks):
            process.kill()
            process.wait()

    assert find_openers(prefix=prefix)[0] == []


def test_the_one_who_looks_does_not_count(tmp_path: Path) -> None:
    """The prober has devices open itself."""
    file = tmp_path / "nvidia0"
    with file.open("w"):
        assert find_openers(prefix=f"{tmp_path}/nvidia")[0] == []


def test_what_is_no_process_or_gone_is_passed_over(tmp_path: Path) -> None:
    """Its table has other entries, and such as vanish while it is read."""
    (tmp_path / "meminfo").touch()
    (tmp_path / "12").mkdir()
    descriptors = tmp_path / "13" / "fd"
    descriptors.mkdir(parents=True)
    (descriptors / "4").symlink_to("/dev/nvidia1")

    assert find_openers(str(tmp_path)) == ([(13, [1], False)], 0)


def opening(*files: Path) -> subprocess.Popen[bytes]:
    redirects = " ".join(f"{number}<{file}" for number, file in enumerate(files, 3))
    return subprocess.Popen(["sh", "-c", f"exec sleep 1000 {redirects}"])
