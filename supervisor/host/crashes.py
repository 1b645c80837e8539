"""
Owns the files of crash records: ``crashes/SERVICE.N.json`` in the state directory, the last deaths of each worker.

Written in a thread, each in one piece; a disk that takes none is told of once, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from supervisor.core.spec import WorkerId

log = structlog.get_logger()

FORMAT = 1
DEATHS = 10
FILES_MAX = 2000
"""Files of workers that are no more stay, until there are so many."""

SIZE_MAX = 16 * 1024 * 1024
"""More than ten deaths with all that is kept of each can take, so that none is lost for its size."""
WAITING_MAX = 2000
"""Workers whose records wait for the disk; of others nothing is written then."""


def crashes_path(control: Path, environ: Mapping[str, str]) -> Path:
    """The folder of crash records."""
    return state_folder("crashes", control, environ)


def state_folder(name: str, control: Path, environ: Mapping[str, str]) -> Path:
    """A folder of ours: in the state directory that systemd gave, else beside the control socket."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given.startswith("/"):
        return Path(given, name)
    return control.with_name(name if control.name == "control.sock" else f"{control.name}.{name}")


class Crashes:
    """
    The records of one daemon.

    Args:
        folder: It is made when there is something to write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[WorkerId, list[dict[str, Any]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_broken = False

    def bury(self, worker: WorkerId, death: dict[str, Any]) -> None:
        """Add a death to a worker's file, soon."""
        if worker not in self._waiting and len(self._waiting) >= WAITING_MAX:
            return
        deaths = self._waiting.setdefault(worker, [])
        deaths.append(death)
        del deaths[:-DEATHS]
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def close(self) -> None:
        """Wait for what is on its way to the disk, but not for ever."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=2.0)

    async def _write_all(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            await asyncio.to_thread(self._write, waiting)
        self._task = None

    def _write(self, waiting: Mapping[WorkerId, list[dict[str, Any]]]) -> None:
        """In a thread."""
        try:
            make_folder(self._folder)
            for worker, deaths in waiting.items():
                add_deaths(self._folder / f"{worker.service}.{worker.index}.json", deaths)
            _prune(self._folder)
            self._is_broken = False
        except OSError as error:
            if not self._is_broken:
                log.warning("crashes.failed", folder=str(self._folder), error=error.strerror)
            self._is_broken = True


def add_deaths(file: Path, deaths: list[dict[str, Any]]) -> None:
    """
    Write a file anew with more deaths in it; the last ten stay.

    Raises:
        OSError: It could not be written; then it is as it was.
    """
    document = {"format": FORMAT, "deaths": [*read_deaths(file), *deaths][-DEATHS:]}
    half = file.with_name(f".{file.name}.new")
    half.unlink(missing_ok=True)
    fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as out:
            json.dump(document, out, indent=1)
        half.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            half.unlink()
        raise


def read_deaths(file: Path) -> list[dict[str, Any]]:
    """The deaths in a file, oldest first; none where it is no such file."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)) as source:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                return []
            document = json.loads(source.read(SIZE_MAX))
    except (OSError, ValueError, RecursionError):
        return []
    deaths = document.get("deaths") if isinstance(document, dict) and document.get("format") == FORMAT else None
    return [one for one in deaths if isinstance(one, dict)] if isinstance(deaths, list) else []


def make_folder(folder: Path) -> None:
    """
    Make a folder that is ours, and nobody else's to read.

    Raises:
        OSError: It cannot be made, or is somebody else's.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(1, "is not a folder of this user")


def _prune(folder: Path) -> None:
    files = [one for one in os.scandir(folder) if one.name.endswith(".json")]
    if len(files) > FILES_MAX:
        for one in sorted(files, key=lambda one: one.stat(follow_symlinks=False).st_mtime)[: len(files) - FILES_MAX]:
            Path(one.path).unlink(missing_ok=True)
