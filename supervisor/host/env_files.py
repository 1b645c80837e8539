"""
The env_files of a service file: read with it, so that another content is another launch at the next reload.

What a line means is decided in the core; nothing is written here.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.file.env_file import parse_env_file, with_variables
from supervisor.core.file.problems import Problem
from supervisor.core.spec import ServiceSpec, Spec
from supervisor.host.guard import FileFaultError, read_trusted

ENV_FILE_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """
    What came of the env_files.

    Args:
        spec: With their variables.
        problems: What is wrong where the service file names them.
        lines: What is wrong in them, ``ENV_FILE:LINE:COL: message`` each; a hint is a second line of the same item.
    """

    spec: Spec
    problems: tuple[Problem, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Content:
    """One file: its variables, its bad lines, or why it cannot be read."""

    variables: dict[str, str]
    lines: tuple[str, ...] = ()
    fault: FileFaultError | None = None


def add_variables(spec: Spec) -> Found:
    """Read every env_file that the services name, each once, and put their variables in."""
    files = dict.fromkeys(file for service in spec.services.values() for file in service.env_file)
    contents = {file: _read(file) for file in files}
    problems: list[Problem] = []
    services = {}
    for name, service in spec.services.items():
        for file in service.env_file:
            problems += _problems(name, service, file, contents[file])
        variables = [contents[file].variables for file in service.env_file]
        services[name] = with_variables(service, variables) if variables else service
    lines = tuple(line for content in contents.values() for line in content.lines)
    return Found(spec.model_copy(update={"services": services}), tuple(problems), lines)


def _problems(name: str, service: ServiceSpec, file: str, content: _Content) -> list[Problem]:
    path = ("services", name, "env_file")
    if content.fault is not None:
        return [Problem(path, f"cannot use {file}: {content.fault.message}", content.fault.hint)]
    if "PORT" in content.variables and any(True for _ in service.ports(1)):
        return [Problem(path, f"PORT cannot be set beside port, and {file} sets it", "leave it out of the file")]
    return []


def _read(file: str) -> _Content:
    try:
        text = read_trusted(file, ENV_FILE_MAX_BYTES).decode()
    except FileFaultError as fault:
        return _Content({}, fault=fault)
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        return _Content({}, (f"{file}:{number}:1: expected UTF-8, got other bytes",))
    variables, bad = parse_env_file(text)
    hints = [f"\n  hint: {line.hint}" if line.hint else "" for line in bad]
    lines = [f"{file}:{line.number}:1: {line.message}{hint}" for line, hint in zip(bad, hints, strict=True)]
    return _Content(variables, tuple(lines))
