"""What is known against devices survives the daemon, and nobody else's file is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.core.health import Ailment
from supervisor.core.inventory import Health
from supervisor.host.sickbay import Sickbay, find_sickbays

SICK = Ailment(Health.QUARANTINED, 10.5, "XID 79", strikes=2, until=900.0, scope="link")
HELD = Ailment(Health.LOST, 11.0, "gone", is_held=True, is_faulty=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "devices.json"


def test_what_is_written_is_read_in_the_same_boot(file: Path) -> None:
    """Monotonic seconds go on."""
    Sickbay(file).write({"GPU-a": SICK, "GPU-b": HELD})

    assert Sickbay(file).read() == ({"GPU-a": SICK, "GPU-b": HELD}, True)
    assert file.stat().st_mode & 0o777 == 0o600


def test_another_boot_is_told(file: Path) -> None:
    """What that means the core knows."""
    Sickbay(file).write({"GPU-a": SICK})
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "boot": "another"}))

    assert Sickbay(file).read() == ({"GPU-a": SICK}, False)


def test_nothing_is_kept_where_there_is_nothing(file: Path) -> None:
    """The first life."""
    assert Sickbay(file).read() == ({}, False)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"format": 9}', "[" * 100_000),
        '{"format": 1, "boot": "x", "ailments": {"a": {}}}',
        '{"format": 1, "boot": "x", "ailments": {"a": {"health": "quarantined", "since": "x"}}}',
    ],
)
def test_what_is_no_such_file_is_ignored(file: Path, text: str) -> None:
    """With a warning, and the daemon starts."""
    file.write_text(text)

    with capture_logs() as logs:
        assert Sickbay(file).read() == ({}, False)
    assert [one["event"] for one in logs] == ["sickbay.ignored"]


def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    """Neither is a FIFO waited for."""
    Sickbay(tmp_path / "other").write({"GPU-a": SICK})
    file.symlink_to(tmp_path / "other")
    with capture_logs():
        assert Sickbay(file).read() == ({}, False)
    file.unlink()
    os.mkfifo(file)
    with capture_logs():
        assert Sickbay(file).read() == ({}, False)


def test_whoever_looks_without_a_daemon_finds_what_daemons_left(tmp_path: Path) -> None:
    """That of the socket that is named; without a name those of all instances, under systemd too; the newest first."""
    run, state = tmp_path / "run/gpu-supervisor", tmp_path / "lib"
    files = [run / "devices.json", run / "a/devices.json", state / "a/devices.json", state / "b/devices.json"]
    for second, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (second, second))

    assert find_sickbays(run / "control.sock", {}, state=state) == tuple(reversed(files))
    assert find_sickbays(run / "a/control.sock", {}, state=state) == (files[2], files[1])
    assert find_sickbays(tmp_path / "x.sock", {}, state=state) == (tmp_path / "x.sock.devices.json",)
    assert find_sickbays(tmp_path / "x.sock", {"STATE_DIRECTORY": "/s"}, state=state) == (Path("/s/devices.json"),)


def test_a_disk_that_takes_nothing_is_told_of_once(tmp_path: Path) -> None:
    """Nothing else happens."""
    sickbay = Sickbay(tmp_path / "missing" / "devices.json")

    with capture_logs() as logs:
        sickbay.write({"GPU-a": SICK})
        sickbay.write({})
    assert [one["event"] for one in logs] == ["sickbay.failed"]
    assert sickbay.fault == "no such file or directory"
    (tmp_path / "missing").mkdir()
    sickbay.write({})
    assert sickbay.fault == ""
