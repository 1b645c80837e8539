"""
Files of environment variables in docker's format, and the layer they are in a service's environment.

Pure: the files were read elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from supervisor.core.file.names import literal, reserved_hint
from supervisor.core.file.problems import BadValueError, Place, as_text, shown
from supervisor.core.file.service import ServiceSpec

FILES_MAX = 64


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, counted from 1, that sets no variable, and why."""

    number: int
    message: str
    hint: str = ""


def parse_env_file(text: str) -> tuple[dict[str, str], tuple[BadLine, ...]]:
    """
    Variables of a file, the last word on each counting.

    A line is ``NAME=VALUE``; nothing in VALUE is special, quotes and spaces belong to it. Lines that are empty or begin
    with ``#`` are passed over. A bare ``NAME`` is the daemon's own variable, which a worker finds anyhow.

    Args:
        text: The file. Lines end with LF or CR LF.

    Returns:
        Values by name, and the lines that are no good.

    Source: https://docs.docker.com/reference/cli/docker/container/run/#env
    """
    found: dict[str, str] = {}
    bad: list[BadLine] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = raw.removesuffix("\r").lstrip(" \t")
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if (fault := _fault(name, line)) is not None:
            bad.append(BadLine(number, *fault))
        elif equals:
            found[name] = value
    return found, tuple(bad)


def read_env_files(place: Place) -> tuple[str, ...]:
    """One path, or a list of which the last has the last word."""
    if isinstance(place.value, list | tuple):
        if len(place.value) > FILES_MAX:
            place.refuse(f"expected {FILES_MAX} files at the most, got {len(place.value)}")
            return ()
        paths = [item.read(_parse_path) for item in place.items("")]
    else:
        paths = [place.read(_parse_path)]
    return tuple(path for path in paths if path is not None)


def with_variables(service: ServiceSpec, files: Iterable[Mapping[str, str]]) -> ServiceSpec:
    """
    The service with the variables of its files, in order, above those of ``defaults.env`` and below its own.

    They are literal: ``$(NAME)`` in a file stands for itself, as with docker and Kubernetes.
    """
    env = {name: service.env[name] for name in service.env if name in service.default_names}
    for variables in files:
        env |= {name: literal(value) for name, value in variables.items()}
    env |= {name: value for name, value in service.env.items() if name not in service.default_names}
    return service.model_copy(update={"env": env})


def _fault(name: str, line: str) -> tuple[str, str] | None:
    if "\0" in line:
        return "a NUL character cannot be passed to a process", ""
    if not name:
        return "expected NAME=VALUE, got no name", ""
    if any(character.isspace() for character in name):
        hint = "leave export out" if name.startswith("export ") else "no blanks around the name"
        return f"expected NAME=VALUE, got {shown(name)} as the name", hint
    if hint := reserved_hint(name):
        return f"{name} cannot be set here", hint
    return None


def _parse_path(value: object) -> str:
    path = as_text(value)
    if not path:
        raise BadValueError("expected a file, got an empty string")
    return path
