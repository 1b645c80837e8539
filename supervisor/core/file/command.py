"""
A command string split as a shell would split it, and a word to those who count on a shell that is not there.

Runs nothing and looks nothing up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor.core.file.problems import BadValueError, shown

# Operators as a shell reads them where a word begins: pipes, lists, background, redirections with their target.
_OPERATOR = re.compile(r"\|\|?|&&|&$|;+|[0-9]*[<>].*|&>.*")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{(?:([A-Za-z_][A-Za-z0-9_]*)\}|[^}]*\}?))", re.ASCII)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)
_SCRIPT_OPTION = re.compile(r"-[a-z]*c")
_PIECE = re.compile(
    r"""(?P<blank>[ \t\r\n]+)|'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|\\(?P<escaped>.)|"""
    r"""(?P<bare>[^ \t\r\n'"\\]+)""",
    re.DOTALL,
)
# POSIX, Shell Command Language, 2.2.3: between double quotes a backslash is literal before anything else than these.
_ESCAPE_IN_DOUBLE = re.compile(r'\\([$`"\\])')
_MASK = "\0"  # Stands for what is quoted: no operator, no blank, no dollar.


@dataclass(frozen=True, slots=True)
class _Word:
    """
    One word.

    Args:
        text: What the program gets.
        bare: The text with all that was quoted masked.
        live: The text with all masked that a shell would not look for ``$`` in.
    """

    text: str
    bare: str
    live: str


def split_command(text: str) -> tuple[str, ...]:
    """
    Words of a command as a shell would split it.

    Args:
        text: One command. ``$(NAME)`` is left for later.

    Returns:
        Program and arguments, at least one.

    Raises:
        BadValueError: It is empty, a quote is open, or it needs a shell: operators, ``$VAR``, backticks.
    """
    words = _split(text)
    if not words or not words[0].text:
        raise BadValueError("expected a command, got an empty one")
    before = ""
    for word in words:
        # What follows -c is a script for the program before it: its dollars are that program's business.
        _refuse_shell(word, is_script=_SCRIPT_OPTION.fullmatch(before) is not None)
        before = word.text
    if _ASSIGNMENT.match(words[0].bare):
        raise BadValueError(f"no shell is run, so {shown(words[0].text)} sets nothing", "write it under env")
    return tuple(word.text for word in words)


def _refuse_shell(word: _Word, *, is_script: bool) -> None:
    operator = _OPERATOR.match(word.bare)
    if operator or word.bare.endswith(";"):
        sign = operator[0].strip(_MASK) if operator else ";"
        raise BadValueError(
            f"no shell is run, so {shown(sign)} does nothing here", "write sh -c '...', or the command as a list"
        )
    if is_script:
        return
    if variable := _VARIABLE.search(word.live):
        hint = f"write $({variable[1] or variable[2]})" if variable[1] or variable[2] else "write sh -c '...'"
        raise BadValueError(f"no shell is run, so {shown(variable[0])} is not replaced", hint)
    if "`" in word.live:
        raise BadValueError("no shell is run, so backticks run nothing", "write sh -c '...'")


def _split(text: str) -> list[_Word]:
    """The words with their quoting."""
    words: list[list[tuple[str, str, str]]] = [[]]
    # A backslash at the end of a line joins it to the next one; between single quotes too, which is rare enough.
    text, position = text.replace("\\\n", ""), 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        if piece is None:
            raise BadValueError(_why_unfinished(text[position]), "close it, or write the command as a list")
        position = piece.end()
        if piece["blank"] is None:
            words[-1].append(_part(piece))
        else:
            words.append([])
    return [_Word(*("".join(part) for part in zip(*parts, strict=True))) for parts in words if parts]


def _part(piece: re.Match[str]) -> tuple[str, str, str]:
    """What a piece adds to text, bare and live of its word."""
    match piece.lastgroup:
        case "double":
            raw = piece["double"]
            text = _ESCAPE_IN_DOUBLE.sub(r"\1", raw)
            return text, _MASK * len(text), _ESCAPE_IN_DOUBLE.sub(_MASK, raw)
        case "bare":
            return piece["bare"], piece["bare"], piece["bare"]
        case _:
            text = piece["single"] if piece["single"] is not None else piece["escaped"]
            return text, _MASK * max(len(text), 1), _MASK


def _why_unfinished(character: str) -> str:
    if character == "\\":
        return "the command ends in a backslash"
    return f"a quote ({character}) is opened and never closed"
