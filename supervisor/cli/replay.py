"""A recording of the daemon's decisions, decided once more."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from supervisor import __version__
from supervisor.cli.outcome import EXIT_BAD_FILE, EXIT_FAILED, put, say
from supervisor.core.recording import Outcome, RecordingError, Scribe, replay
from supervisor.core.trace import describe, describe_action
from supervisor.errors import CannotError
from supervisor.rendezvous import words


def show(file: str, *, is_json: bool) -> int:
    """
    Write each event of a recording with what it did; end where the core now does something else.

    Args:
        file: The recording.
        is_json: One object a line, instead of text.

    Returns:
        The exit status.
    """
    count = 0
    is_torn = False
    scribe = Scribe(b"")
    try:
        with open(file, "rb") as lines:  # noqa: PTH123 - "-" and the like are names too.
            for one in replay(lines, __version__):
                count += one.event is not None
                put((_json(one, scribe) if is_json else _text(one)) + "\n")
                if not one.is_same:
                    say(f"turn {one.number} is another one now, after {_counted(count)}")
                    return EXIT_FAILED
            is_torn = _is_torn(file)
    except BrokenPipeError:
        raise  # Of standard output; whoever reads it has had enough.
    except OSError as error:
        raise CannotError(f"replay {file}", words(error)) from error
    except RecordingError as error:
        raise CannotError(f"replay {file}", str(error), exit_code=EXIT_BAD_FILE) from error
    if not is_json:
        put(f"{_counted(count)}, all with the same actions" + (", and one that is torn" if is_torn else "") + "\n")
    return 0


def _is_torn(file: str) -> bool:
    """Whether its last line has no end: it was still being written, or its writer was killed."""
    with open(file, "rb") as source:  # noqa: PTH123
        source.seek(-1, 2)
        return source.read(1) != b"\n"


def _counted(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


def _text(outcome: Outcome) -> str:
    what = "(the fleet is another one)" if outcome.event is None else describe(outcome.event)
    done = " ".join(map(describe_action, outcome.actions))
    line = f"{_at(outcome)} {what}" + (f" -> {done}" if done else "")
    if isinstance(outcome.recorded, str) and outcome.event is not None:
        line += f" -> {outcome.recorded}"
    return line if outcome.is_same else "\n".join((line, *_difference(outcome)))


def _difference(outcome: Outcome) -> tuple[str, str]:
    """What was recorded and what came of it now: the first action that differs, in full."""
    recorded, replayed = outcome.recorded, outcome.replayed
    if isinstance(recorded, list) and isinstance(replayed, list):
        at = next((at for at, pair in enumerate(zip(recorded, replayed, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(recorded), len(replayed)) if at is None else at
        recorded, replayed = _at_place(recorded, at), _at_place(replayed, at)
    return f"  recorded: {_words(recorded)}", f"  replayed: {_words(replayed)}"


def _at_place(actions: list[Any], at: int) -> Any:
    return actions[at] if at < len(actions) else "nothing more"


def _words(what: Any) -> str:
    return what if isinstance(what, str) else json.dumps(what)


def _json(outcome: Outcome, scribe: Scribe) -> str:
    found = {
        "number": outcome.number,
        "at": _at(outcome),
        "event": None if outcome.event is None else scribe.event(outcome.event),
        "recorded": outcome.recorded,
        "same": outcome.is_same,
    }
    return json.dumps(found if outcome.is_same else {**found, "replayed": outcome.replayed}, default=str)


def _at(outcome: Outcome) -> str:
    try:
        return datetime.fromtimestamp(outcome.wall, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "?"
