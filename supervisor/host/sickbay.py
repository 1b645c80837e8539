"""
Owns the file that remembers which devices are sick, for the daemon's next life: ``devices.json`` among its state.

Within one boot the monotonic clock goes on, so its seconds stay true; what a new boot makes of it the core decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import structlog

from supervisor.core.health import Ailment
from supervisor.core.inventory import Health
from supervisor.host.crashes import state_folder
from supervisor.rendezvous import NAME, SOCKET_NAME

log = structlog.get_logger()

FILE = "devices.json"
STATE = Path("/var/lib") / NAME
"""Where the unit keeps the state of its instances: ``StateDirectory=gpu-supervisor/%i``."""

FORMAT = 1
SIZE_MAX = 1024 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TYPES: Mapping[str, Any] = {
    "health": str,
    "reason": str,
    "scope": str,
    "since": (int, float),
    "until": (int, float, type(None)),
    "strikes": int,
    "is_held": bool,
    "is_faulty": bool,
}


class Sickbay:
    """
    What was known against devices, kept.

    Args:
        file: In a folder that is there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.fault = ""
        """Why the last was not written; empty if it was."""

    def write(self, ailments: Mapping[str, Ailment]) -> None:
        """Keep these, in one piece. A disk that does not take them is told of once."""
        document = {
            "format": FORMAT,
            "boot": _boot_id(),
            "ailments": {uuid: {**asdict(one), "health": str(one.health)} for uuid, one in ailments.items()},
        }
        half = self._file.with_name(f".{self._file.name}.new")
        try:
            half.unlink(missing_ok=True)
            fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as out:
                json.dump(document, out, indent=1)
            half.replace(self._file)
            self.fault = ""
        except OSError as error:
            with contextlib.suppress(OSError):
                half.unlink()
            if not self.fault:
                log.warning("sickbay.failed", file=str(self._file), error=error.strerror)
            self.fault = (error.strerror or str(error)).lower()

    def read(self) -> tuple[dict[str, Ailment], bool]:
        """
        What an earlier life has kept, and whether the machine was not started since.

        A file that is not as we write it is ignored, with a warning: a forged one could take every GPU out of use.
        """
        try:
            document = self._load()
            ailments = {str(uuid): _parse(one) for uuid, one in document["ailments"].items()}
            return ailments, document["boot"] == _boot_id() != ""
        except FileNotFoundError:
            return {}, False
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.warning("sickbay.ignored", file=str(self._file), error=str(error) or type(error).__name__)
            return {}, False

    def _load(self) -> dict[str, Any]:
        fd = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
                raise ValueError("it is no file of this user")
            document: dict[str, Any] = json.loads(file.read(SIZE_MAX))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}")
        return document


def sickbay_path(control: Path, environ: Mapping[str, str]) -> Path:
    """The file of the daemon with a control socket."""
    return state_folder(FILE, control, environ)


def find_sickbays(control: Path, environ: Mapping[str, str], *, state: Path = STATE) -> tuple[Path, ...]:
    """
    The files that daemons may have left which are not running now, the newest first.

    Args:
        control: Where the daemon would be that is asked for: that without a name stands for all instances too.
        environ: For STATE_DIRECTORY.
        state: See `STATE`.
    """
    found = {sickbay_path(control, environ)}
    if control.name == SOCKET_NAME and control.parent.name == NAME:
        found |= {*control.parent.glob(f"*/{FILE}"), *state.glob(f"*/{FILE}")}
    elif control.name == SOCKET_NAME and control.parent.parent.name == NAME:
        found.add(state / control.parent.name / FILE)
    return tuple(sorted(found, key=_written_at, reverse=True))


def _written_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _parse(raw: Mapping[str, Any]) -> Ailment:
    names = {field.name for field in fields(Ailment)}
    if raw.keys() != names or not all(isinstance(value, _TYPES[name]) for name, value in raw.items()):
        raise ValueError("what it says of a device cannot be read")
    return Ailment(**{**raw, "health": Health(raw["health"])})


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
