"""
The service file on disk: read, bounded, and every problem of it with its line.

What the file means is decided in the core; nothing is written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisor.core.file.problems import Problem, SpecError, show_path
from supervisor.core.spec import Spec, home_of, parse_spec
from supervisor.host.env_files import add_variables
from supervisor.host.guard import FileFaultError, read_trusted
from supervisor.host.tokens import Token, try_token
from supervisor.host.yaml_tree import Flaw, Mark, Node, mark_of, plain, read_tree

FILE_MAX_BYTES = 1024 * 1024

# What YAML allows nowhere: control characters but tab and line ends, and halves of surrogate pairs.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SpecRefused(Exception):  # noqa: N818 - Named like the event that it becomes, SpecRejected.
    """
    A service file that cannot be used.

    Args:
        lines: ``FILE:LINE:COL: path: message`` for each problem, by position; a hint is a second line of the same item.
    """

    def __init__(self, lines: tuple[str, ...]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Positions:
    """
    Where each value of a file stands.

    Args:
        file: As the person named it.
        root: The file's values with their lines.
        document: The same without.
    """

    file: str
    root: Node
    document: object

    def find(self, problem: Problem) -> tuple[Mark, Problem]:
        """Line and column of a problem, and the problem with its path set to where its value is written."""
        path = home_of(problem.path, self.document)
        moved = Problem(path, problem.message, problem.hint, problem.at_key)
        return mark_of(self.root, path, at_key=problem.at_key), moved

    def lines(self, problems: Iterable[Problem], flaws: Iterable[Flaw] = ()) -> tuple[str, ...]:
        """Problems as lines for a person, by position; what one place (an anchor, the defaults) does is said once."""
        flawed = {flaw.mark: Problem(flaw.path, flaw.message, flaw.hint) for flaw in flaws}
        # A value that is flawed already as YAML was not read, so nothing more can be said of it.
        found = [*flawed.items(), *(each for each in map(self.find, problems) if each[0] not in flawed)]
        first: dict[tuple[Mark, str], str] = {}
        for mark, problem in sorted(found, key=lambda each: each[0]):
            first.setdefault((mark, problem.message), _line(self.file, mark, problem))
        return tuple(first.values())


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A good service file, where each of its values stands, and the token that it names, if any."""

    spec: Spec
    positions: Positions
    token: Token | None = None

    def locate(self, problem: Problem) -> str:
        """A problem found later as a line like those of SpecRefused."""
        return self.positions.lines([problem])[0]

    def locate_all(self, problems: Iterable[Problem]) -> tuple[str, ...]:
        """Several of them by position, each place and message once."""
        return self.positions.lines(problems)


def load_spec(path: Path) -> LoadedSpec:
    """
    Read a service file.

    Args:
        path: As the person gave it; it is shown like that. Relative paths in the file begin at its directory.

    Returns:
        What it means, and where its values stand.

    Raises:
        SpecRefused: It cannot be read or is not good, with every problem of it.
    """
    file = str(path)
    root, flaws = read_tree(_decode(file, _read_bytes(file)))
    if root is None or not isinstance(root.value, dict):
        if not flaws:
            flaws = [_no_map(root)]
        raise SpecRefused(tuple(_line(file, flaw.mark, Problem(flaw.path, flaw.message, flaw.hint)) for flaw in flaws))
    positions = Positions(file, root, plain(root))
    try:
        spec = parse_spec(positions.document, base_dir=str(path.absolute().parent))
    except SpecError as error:
        raise SpecRefused(positions.lines(error.problems, flaws)) from None
    if flaws:
        raise SpecRefused(positions.lines((), flaws))
    found = add_variables(spec)
    token, faults = try_token(spec.daemon.http_token_file)
    if found.problems or found.lines or faults:
        raise SpecRefused((*positions.lines((*found.problems, *faults)), *found.lines))
    return LoadedSpec(found.spec, positions, token)


def _no_map(root: Node | None) -> Flaw:
    hint = "write services: {NAME: {command: ...}}"
    if root is None or root.value is None:
        return Flaw((1, 1), "the file is empty", hint)
    return Flaw(root.mark, "expected a map", hint)


def _read_bytes(file: str) -> bytes:
    try:
        return read_trusted(file, FILE_MAX_BYTES)
    except FileFaultError as fault:
        raise _refused(file, fault.message, hint=fault.hint) from None


def _decode(file: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(errors="replace")
        raise _refused(file, "expected UTF-8, got other bytes", _end_of(before)) from None
    if forbidden := _FORBIDDEN.search(text):
        name = "a NUL character" if forbidden[0] == "\0" else f"the control character {forbidden[0]!a}"
        raise _refused(file, f"{name} cannot stand in YAML", _end_of(text[: forbidden.start()]))
    return text


def _end_of(text: str) -> Mark:
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def _refused(file: str, message: str, mark: Mark = (1, 1), *, hint: str = "") -> SpecRefused:
    return SpecRefused((_line(file, mark, Problem((), message, hint)),))


def _line(file: str, mark: Mark, problem: Problem) -> str:
    where = f"{show_path(problem.path)}: " if problem.path else ""
    hint = f"\n  hint: {problem.hint}" if problem.hint else ""
    return f"{file}:{mark[0]}:{mark[1]}: {where}{problem.message}{hint}"
