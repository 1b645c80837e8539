"""Files of crash records: whole, bounded, ours, and in nobody's way."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.core.spec import WorkerId
from supervisor.host.crashes import DEATHS, Crashes, add_deaths, crashes_path, read_deaths
from supervisor.host.logs import TAIL_LINE_MAX, TAIL_LINES

LLM = WorkerId("llm", 3)


def bury(folder: Path, *deaths: Mapping[str, object]) -> None:
    async def write() -> None:
        crashes = Crashes(folder)
        for death in deaths:
            crashes.bury(LLM, dict(death))
        await crashes.close()

    asyncio.run(write())


def test_a_death_is_in_the_workers_file_which_nobody_else_may_read(tmp_path: Path) -> None:
    bury(tmp_path / "crashes", {"cause": "exit", "tail": ["é"]})

    file = tmp_path / "crashes" / "llm.3.json"
    assert json.loads(file.read_text()) == {"format": 1, "deaths": [{"cause": "exit", "tail": ["é"]}]}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [one.name for one in file.parent.iterdir()] == ["llm.3.json"]


def test_the_last_ten_stay_also_over_lives_of_the_daemon(tmp_path: Path) -> None:
    for first in range(0, 16, 4):
        bury(tmp_path / "crashes", *({"number": first + number} for number in range(4)))

    deaths = read_deaths(tmp_path / "crashes" / "llm.3.json")

    assert [one["number"] for one in deaths] == list(range(16 - DEATHS, 16))


def test_ten_stay_of_those_who_say_as_much_as_they_can(tmp_path: Path) -> None:
    """Each character of theirs may take six in the file."""
    words = ["\0" * TAIL_LINE_MAX] * TAIL_LINES
    add_deaths(tmp_path / "llm.3.json", [{"number": number, "tail": words} for number in range(DEATHS)])
    add_deaths(tmp_path / "llm.3.json", [{"number": DEATHS, "tail": words}])

    assert [one["number"] for one in read_deaths(tmp_path / "llm.3.json")] == list(range(1, DEATHS + 1))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "deaths": [{}]}', '{"format": 1, "deaths": 3}', "\xff"])
def test_a_file_that_is_none_is_written_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "llm.3.json"
    file.write_bytes(text.encode("latin-1"))

    add_deaths(file, [{"number": 1}])

    assert read_deaths(file) == [{"number": 1}]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "llm.3.json").symlink_to(victim)
    (tmp_path / ".llm.3.json.new").symlink_to(victim)

    add_deaths(tmp_path / "llm.3.json", [{"number": 1}])

    assert victim.read_text() == "mine"
    assert not (tmp_path / "llm.3.json").is_symlink()


def test_a_folder_that_cannot_be_written_keeps_nobody(tmp_path: Path) -> None:
    """Nor one that is a link to somebody else's."""
    (tmp_path / "there").mkdir()
    (tmp_path / "crashes").symlink_to(tmp_path / "there")

    bury(tmp_path / "crashes", {"number": 1})
    bury(tmp_path / "no" / "crashes", {"number": 1})

    assert list((tmp_path / "there").iterdir()) == []


def test_the_folder_is_in_the_state_directory_or_beside_the_socket() -> None:
    assert crashes_path(Path("/run/x/control.sock"), {"STATE_DIRECTORY": "/var/lib/x"}) == Path("/var/lib/x/crashes")
    assert crashes_path(Path("/run/x/control.sock"), {}) == Path("/run/x/crashes")
    assert crashes_path(Path("/tmp/my.sock"), {}) == Path("/tmp/my.sock.crashes")
