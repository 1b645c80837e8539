"""
`status` in a hurry: prompts and scripts ask for it often, so it does without click and all that comes with it.

Answers a plain command line and nothing else. Whatever is not plain, and what nobody has foreseen, is left to the
ordinary command, which does it again and finds the words for it.
"""

from __future__ import annotations

import os
import sys

from supervisor.errors import CannotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

EXIT_INTERRUPTED = 130

WITH_VALUE = ("--socket", "--instance")


def answer(words: Sequence[str]) -> int | None:
    """
    The status, if that is what is asked for.

    Args:
        words: The command line without the program.

    Returns:
        The exit status; None if nothing was done.
    """
    asked = _understand(words)
    if asked is None:
        return None
    try:
        return _answer(asked)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except CannotError as error:
        from supervisor.cli.outcome import complain

        return complain(error)
    except Exception:  # noqa: BLE001 - The ordinary command meets it again, and says it.
        return None


def _understand(words: Sequence[str]) -> dict[str, str] | None:
    """Options and target of a plain line; None if it is anything else."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in WITH_VALUE and name not in found:
            found[name] = value if equals else next(rest, "")
            if not found[name]:
                return None
        elif word == "status" and "command" not in found:
            found["command"] = word
        elif word == "--json" and "command" in found:
            found["json"] = "1"
        elif "command" in found and "target" not in found and word and not word.startswith("-"):
            found["target"] = word
        else:
            return None
    # Of the two places for --socket and --instance the nearer one decides, which is not for here.
    return found if "command" in found and not all(name in found for name in WITH_VALUE) else None


def _answer(asked: dict[str, str]) -> int:
    from supervisor.front.client import Client
    from supervisor.front.verdict import is_met
    from supervisor.rendezvous import find_control

    path = find_control(asked.get("--socket"), asked.get("--instance"), os.environ, os.geteuid())
    target = asked.get("target")
    thing = f"show the status of {target}" if target else "show the status"
    status = Client(path).get("/v1/status", None if target is None else {"target": target}, thing=thing)
    text = _json(status) if "json" in asked else _page(status, target)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0 if is_met(status, None) else 3


def _json(status: dict[str, Any]) -> str:
    import json

    return json.dumps(status, indent=2 if sys.stdout.isatty() else None) + "\n"


def _page(status: dict[str, Any], target: str | None) -> str:
    from datetime import UTC, datetime

    from supervisor.cli import terminal
    from supervisor.front.show import status_of

    return terminal.text_of(lambda bars: status_of(status, target, datetime.now(UTC), bars=bars), terminal.find())
