"""The unit as a text, what systemd says of it, and the script that installs it. Needs no systemd that runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "gpu-supervisor@.service"
SETUP = ROOT / "systemd" / "setup.sh"


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def setup(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SETUP), *words], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], **environ}
    )


def analyze(folder: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs `apt-get install systemd`")
    return subprocess.run([str(folder / "analyze.sh")], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "name",
    [
        *("MemoryDenyWriteExecute", "PrivateTmp", "PrivateDevices", "PrivateNetwork", "ProtectHome", "ProtectClock"),
        *("RestrictAddressFamilies", "SystemCallFilter", "NoNewPrivileges", "DevicePolicy", "DeviceAllow"),
        *("MemoryMax", "CPUQuota", "DynamicUser"),
    ],
)
def test_the_unit_takes_nothing_from_workers(name: str) -> None:
    """They inherit its sandbox: each of these breaks somebody's model server."""
    assert name not in settings(UNIT.read_text())


def test_the_unit_is_what_the_daemon_counts_on() -> None:
    """Each of these the daemon's own behaviour rests on."""
    found = settings(UNIT.read_text())

    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "KillMode": "mixed",
        "Delegate": "yes",
        "RuntimeDirectory": "gpu-supervisor/%i",
        "StateDirectory": "gpu-supervisor/%i",
        "WatchdogSec": "180",
        "TasksMax": "infinity",
        "LimitMEMLOCK": "infinity",
        "OOMPolicy": "continue",
        "OOMScoreAdjust": "-900",
        "Restart": "always",
        "RestartPreventExitStatus": "75 78",
    }
    assert expected.items() <= found.items()
    assert found["ExecStart"].endswith("/gpu-supervisor run --instance %i /etc/gpu-supervisor/%i.yaml")
    assert found["ExecReload"].endswith("/gpu-supervisor --socket /run/gpu-supervisor/%i/control.sock reload")


def test_systemd_has_nothing_to_say_of_the_unit() -> None:
    """`verify` is silent, and the exposure is what was decided."""
    found = analyze(ROOT / "systemd")

    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("wrong", ["KilMode=mixed", "RestartSec=soon", "WatchdogSec=180 parsecs"])
def test_a_word_that_systemd_would_only_warn_of_is_an_error(tmp_path: Path, wrong: str) -> None:
    """By itself `verify` ends with 0 after those."""
    folder = tmp_path / "systemd"
    shutil.copytree(ROOT / "systemd", folder)
    unit = folder / UNIT.name
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{wrong}\n", 1))

    found = analyze(folder)

    assert found.returncode == 1
    assert "verify has something to say" in found.stderr


@pytest.mark.parametrize("path", ["relative", "/opt/../etc", "/", "/opt/a b", "/opt/$(id)"])
def test_only_plain_paths_are_installed_to(path: str, tmp_path: Path) -> None:
    """They go into the unit as they are, and a whole folder is removed by their name."""
    for what in ("install", "uninstall"):
        refused = setup(what, PREFIX=path, DESTDIR=str(tmp_path))

        assert refused.returncode == 1
        assert f'cannot {what} at "{path}"' in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_somebody_elses_folder_is_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    """What is no environment is not ours."""
    other = tmp_path / "opt/gpu-supervisor/important"
    other.parent.mkdir(parents=True)
    other.write_text("")

    assert setup("install", DESTDIR=str(tmp_path)).returncode == 1
    assert setup("uninstall", DESTDIR=str(tmp_path)).returncode == 0
    assert other.exists()


def test_uninstall_takes_away_what_was_installed_and_leaves_the_service_files(tmp_path: Path) -> None:
    """Those are the administrator's."""
    for name in (
        *("opt/gpu-supervisor/pyvenv.cfg", "opt/gpu-supervisor/bin/gpu-supervisor", "etc/gpu-supervisor/llm.yaml"),
        *("usr/local/lib/systemd/system/gpu-supervisor@.service", "usr/local/lib/systemd/system/other.service"),
        "usr/local/lib/systemd/system/gpu-supervisor@.service.d/50-subgroup.conf",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "usr/local/bin").mkdir()
    (tmp_path / "usr/local/bin/gpu-supervisor").symlink_to("/opt/gpu-supervisor/bin/gpu-supervisor")

    done = setup("uninstall", DESTDIR=str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir())
    assert left == ["etc/gpu-supervisor/llm.yaml", "usr/local/lib/systemd/system/other.service"]
