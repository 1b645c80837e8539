"""
Environments without their values, for what is written down: a digest stands for each text, so equal ones stay equal.

What a text refers to (``$(NAME)``) stays, since decisions depend on it. The key is of one recording and in none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b

from supervisor.core.environment import MASTER_PORT
from supervisor.core.file.names import TABLE_NAMES, names_in
from supervisor.core.message import Spawn

OPEN_NAMES = TABLE_NAMES | {"CUDA_DEVICE_ORDER"}
"""Variables that `status` shows too; nobody keeps a secret there."""

OTHERS = "..."
"""Stands for the names of a process' other variables."""

_KEPT = re.compile(rf"(\$+\([A-Za-z_][A-Za-z0-9_]*\)|\({MASTER_PORT}\)|redacted:[0-9a-f]{{16}})", re.ASCII)


class Veil:
    """
    Takes the values out of environments.

    Args:
        key: Up to 64 bytes. Without it a digest would betray a short secret to whoever tries all of them.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def text(self, text: str) -> str:
        """A text of which only its ``$(NAME)`` are left. Of one that was made so, it is the same again."""
        parts = _KEPT.split(text)
        return "".join(part if at % 2 else self._digest(part) for at, part in enumerate(parts))

    def templates(self, env: Mapping[str, str]) -> dict[str, str]:
        """Variables as a file sets them."""
        return {name: text if _is_open(name, text) else self.text(text) for name, text in env.items()}

    def pairs(self, env: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """The same, as pairs."""
        return tuple(self.templates(dict(env)).items())

    def values(self, env: Mapping[str, str]) -> dict[str, str]:
        """Variables as a process has them."""
        return {name: text if name in OPEN_NAMES else self.text(text) for name, text in env.items()}

    def spawn(self, spawn: Spawn) -> Spawn:
        """
        An order of which only that is left which a file without values gives too.

        Texts into which a hidden value was put stand as the file writes them.
        """
        own = dict(spawn.launch.recipe.env)
        shown = {
            name: spawn.env[name]
            for name in sorted(OPEN_NAMES & spawn.env.keys())
            if name not in own or _is_open(name, own[name])
        }
        hidden = frozenset(spawn.env.keys() - shown.keys())
        recipe = spawn.launch.recipe
        told = _teller(shown)
        return replace(
            spawn,
            argv=tuple(map(told, recipe.command, spawn.argv)),
            env={**shown, OTHERS: f"{len(hidden)} others, {_digest_of(hidden)}"},
            working_dir=told(recipe.working_dir, spawn.working_dir),
        )

    def _digest(self, part: str) -> str:
        if not part:
            return ""
        digest = blake2b(part.encode(errors="surrogatepass"), digest_size=8, key=self._key).hexdigest()
        return f"redacted:{digest}"


@lru_cache(maxsize=256)
def _digest_of(names: frozenset[str]) -> str:
    return blake2b("\0".join(sorted(names)).encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _is_open(name: str, template: str) -> bool:
    return name in OPEN_NAMES and not names_in(template)


def _teller(shown: Mapping[str, str]) -> Callable[[str, str], str]:
    def told(template: str, text: str) -> str:
        return text if all(name in shown for name in names_in(template)) else template

    return told
