"""
The key `daemon.endpoints`: files in which ready workers stand, for whoever sends them requests.

Pure: no file is written here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict

from supervisor.core.file.hooks import read_words
from supervisor.core.file.problems import BadValueError, Place, Section, as_text, leaf, read_section, shown

Form = Literal["json", "prometheus", "nginx"]
FORMS: tuple[Form, ...] = ("json", "prometheus", "nginx")

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", re.ASCII)
_DISCOVERED = (".json", ".yml", ".yaml")


class EndpointsSpec(BaseModel):
    """
    Where ready workers are written down.

    Args:
        files: Absolute path of each form that is wanted.
        reload: A command, after a file has changed; () = none.
        host: Where workers with a port are reached.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[tuple[Form, str], ...] = ()
    reload: tuple[str, ...] = ()
    host: str = "127.0.0.1"


def read_endpoints(place: Place) -> EndpointsSpec | None:
    """The files as they are written, relative ones too; see `settle_endpoints`."""
    good = read_section(place, ENDPOINTS)
    files = tuple((form, str(good[form])) for form in FORMS if form in good)
    written = place.value if isinstance(place.value, Mapping) else {}
    if not set(FORMS) & written.keys():
        place.refuse("expected one of json, prometheus and nginx at least, got none", ENDPOINTS.example)
        return None
    rest = {key: good[key] for key in ("reload", "host") if key in good}
    return EndpointsSpec.model_validate({"files": files, **rest})


def settle_endpoints(place: Place, spec: EndpointsSpec, base_dir: str) -> EndpointsSpec:
    """
    With absolute paths, of which no two are the same.

    Args:
        place: Of `endpoints`; problems are noted there.
        spec: As it was read.
        base_dir: Absolute; where relative paths begin.
    """
    files = tuple((form, str(PurePosixPath(base_dir, path))) for form, path in spec.files)
    paths = [path for _, path in files]
    for at, (form, path) in enumerate(files):
        if path in paths[:at]:
            place.refuse(f"{shown(path)} is written already", "give each form a file of its own", below=(form,))
    return spec.model_copy(update={"files": files})


def _parse_path(value: object) -> str:
    text = as_text(value)
    if not text or text.endswith("/"):
        raise BadValueError(f"expected the path of a file, got {shown(text)}", "write json: /run/NAME/endpoints.json")
    return text


def _parse_discovered(value: object) -> str:
    text = _parse_path(value)
    if not text.endswith(_DISCOVERED):
        raise BadValueError(f"Prometheus reads .json, .yml and .yaml, got {shown(text)}", "write targets.json")
    return text


def _parse_host(value: object) -> str:
    text = as_text(value)
    if _HOST.fullmatch(text) is None:
        raise BadValueError(f"expected a name or an IP address, got {shown(text)}", "write host: 127.0.0.1")
    return text


ENDPOINTS = Section(
    keys={
        "json": leaf(_parse_path),
        "prometheus": leaf(_parse_discovered),
        "nginx": leaf(_parse_path),
        "reload": read_words,
        "host": leaf(_parse_host),
    },
    example="endpoints: {nginx: /run/gpu-supervisor/upstreams.conf, reload: [nginx, -s, reload]}",
)
