"""What came into the core and what it did, written down and done once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor import __version__
from supervisor.core.fleet import handle
from supervisor.core.message import Exited, ShutdownRequested, Spawned, SpecLoaded, TimePassed
from supervisor.core.mishap import take
from supervisor.core.recording import CHUNK, RecordingError, Scribe, error_words, replay
from supervisor.core.spec import WorkerId
from supervisor.core.trace import describe_action
from supervisor.core.turn import Fleet
from tests.core.builders import spec_of
from tests.core.recordings import Record

LLM = WorkerId("llm", 0)
DEEP = b"[" * 99999 + b"\n"
SPEC = spec_of(llm={"env": {"TOKEN": "hunter2"}, "command": "serve $(TOKEN)", "workers": CHUNK + 1})


@pytest.fixture
def record() -> Record:
    """A start, a crash, a deadline."""
    record = Record()
    record.meet(SpecLoaded(SPEC))
    record.meet(Spawned(LLM, 1, 4711))
    record.meet(Exited(LLM, 1, 3, None, alone=True, tail=("last words",)))
    record.meet(TimePassed((LLM,)), now=12.0)
    return record


def turns_of(record: Record) -> Iterator[int]:
    return (at for at, line in enumerate(record.lines) if line.startswith(b'{"n"'))


def test_the_same_comes_of_it(record: Record) -> None:
    outcomes = record.play()

    assert [type(one.event) for one in outcomes] == [SpecLoaded, Spawned, Exited, TimePassed]
    assert all(one.is_same for one in outcomes)
    assert outcomes[2].actions == outcomes[2].replayed_actions != ()
    assert outcomes[3].wall == pytest.approx(1.7e9 + 12.0)


def test_no_value_of_a_variable_is_in_it(record: Record) -> None:
    """Of the file's, nor of the daemon's, also at the beginning of a later segment."""
    record.begin(record.fleet, 12.0)

    written = b"".join(record.lines)
    assert b"hunter2" not in written
    assert b"/root/secret" not in written
    assert b"TOKEN" in written


def test_it_begins_at_any_segment(record: Record) -> None:
    """A large fleet takes several lines."""
    at = len(record.lines)
    record.begin(record.fleet, 12.0)
    record.meet(ShutdownRequested(), now=13.0)

    later = list(replay(record.lines[at:], __version__))

    assert len(record.lines) - at > 3
    assert [one.is_same for one in later] == [True]
    assert all(one.is_same for one in record.play())


def test_another_action_is_seen(record: Record) -> None:
    at = list(turns_of(record))[2]
    record.change(at, actions=[])

    assert [one.is_same for one in record.play()] == [True, True, False, True]


def test_another_event_is_seen(record: Record) -> None:
    at = list(turns_of(record))[2]
    record.change(at, event={"Exited": {"worker": "llm/0", "incarnation": 1, "code": None, "signal": 9}})

    assert [one.is_same for one in record.play()][:3] == [True, True, False]


def test_another_fleet_is_seen(record: Record) -> None:
    """Where one segment follows another, the second says how the fleet was."""
    record.begin(handle(record.fleet, ShutdownRequested(), 12.0)[0], 12.0)

    last = record.play()[-1]

    assert last.event is None
    assert not last.is_same
    assert "state" in last.replayed


def test_an_error_is_expected_where_there_was_one(record: Record) -> None:
    """Nothing came of the event that broke an invariant, and nothing comes of it now."""
    impossible = Spawned(WorkerId("llm", 0), 0, 4711)
    record.fleet = Fleet()
    record.begin(record.fleet, 20.0)
    record.meet(SpecLoaded(spec_of(llm={"resources": {"gpu": 1}})), now=20.0)
    error = take(record.fleet, impossible, 21.0).error
    assert error is not None
    for words in (error_words(error), "InvariantBrokenError: another one"):
        record.lines.append(Scribe(b"key").broken(record.number + 1, 21.0, impossible, words))

    outcomes = record.play()

    assert [one.is_same for one in outcomes[-3:]] == [True, True, False]
    assert outcomes[-1].recorded != outcomes[-1].replayed == error_words(error)


def test_a_torn_end_is_left_out(record: Record) -> None:
    """The daemon was killed while it wrote."""
    record.lines[-1] = record.lines[-1][:-9]

    assert [one.is_same for one in record.play()] == [True, True, True]


def test_damage_is_named(record: Record) -> None:
    at = list(turns_of(record))[1]
    record.lines[at] = record.lines[at].replace(b"Spawned", b"Spewned")

    with pytest.raises(RecordingError, match=rf"line {at + 1} is damaged: .*Spewned"):
        record.play()


def test_what_was_damaged_and_is_still_a_recording_is_shown(record: Record) -> None:
    """As another one, and not with an error of ours."""
    at = next(turns_of(record))
    record.lines[at] = record.lines[at].replace(b'"CUDA_VISIBLE_DEVICES"', b'"CUDA_INVISIBLE_DEVICES"')

    one = record.play()[0]

    assert not one.is_same
    assert any("gpus=?" in describe_action(action) for action in one.actions)


@pytest.mark.parametrize("key", ["version", "flight", "shape"])
def test_another_version_is_refused(record: Record, key: str) -> None:
    """It would decide otherwise, and be right."""
    record.change(0, **{key: "0.0.9"})

    with pytest.raises(RecordingError, match=r"it was made by gpu-supervisor .*0\.0\.9.*, and this is"):
        record.play()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"hello\n",
        b"{}\n",
        b"3\n",
        b"null\n",
        b'"flight"\n',
        b'{"n": 1}\n',
        b"\xff\xfe\n",
        b"[" * 99999 + b"\n",
    ],
)
def test_what_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(RecordingError, match="no recording of gpu-supervisor"):
        list(replay([line], __version__))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_turn_needs_a_fleet(record: Record, missing: int) -> None:
    del record.lines[missing]

    with pytest.raises(RecordingError):
        record.play()
