"""
Reads the secret that opens the API over TCP. What is kept of it is its digest; the secret itself leaves with the file.

Judges nobody who sends one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field

from supervisor.core.file.problems import BadValueError, Problem
from supervisor.core.file.web import TOKEN_MAX_BYTES, TOKEN_MIN_LENGTH, parse_token
from supervisor.host.guard import FileFaultError, read_trusted

KEY = ("daemon", "http_token_file")


@dataclass(frozen=True, slots=True)
class Token:
    """
    What is known of a secret.

    Args:
        digest: SHA-256 of it.
        is_short: It could be guessed.
    """

    digest: bytes = field(repr=False)
    is_short: bool = False


def read_token(file: str) -> Token:
    """
    The token in a file that nobody but its owner may read.

    Raises:
        FileFaultError: It cannot be read, others may read it, or there is no token in it.
    """
    content = read_trusted(file, TOKEN_MAX_BYTES)
    mode = stat.S_IMODE(os.stat(file).st_mode)  # noqa: PTH116
    if mode & 0o077:
        raise FileFaultError(f"others may read or write it (mode {mode:04o})", f"chmod 600 {file}")
    try:
        token = parse_token(content)
    except BadValueError as error:
        raise FileFaultError(str(error), error.hint.replace("FILE", file)) from None
    return Token(hashlib.sha256(token).digest(), len(token) < TOKEN_MIN_LENGTH)


def try_token(file: str | None) -> tuple[Token | None, tuple[Problem, ...]]:
    """The token of a service file, and what is wrong where that names it; neither where it names none."""
    if file is None:
        return None, ()
    try:
        return read_token(file), ()
    except (FileFaultError, OSError) as error:
        message, hint = (error.message, error.hint) if isinstance(error, FileFaultError) else (str(error), "")
        return None, (Problem(KEY, f"cannot use {file}: {message}", hint),)
