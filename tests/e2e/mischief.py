"""A library that a daemon is run with, and files that tell it what to do to that daemon and whatever it starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("mischief.c")


class Mischief:
    """
    What may be done to programs that are run with `env`, while they run.

    Args:
        folder: Its own; made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        library = folder / "mischief.so"
        warnings = ("-Wall", "-Wextra", "-Werror")
        command = ["cc", "-shared", "-fPIC", "-O1", *warnings, "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self._folder = folder
        self.env = {"LD_PRELOAD": str(library), "MISCHIEF": str(folder)}

    def turn_clock(self, seconds: int) -> None:
        """Set the wall clock so far ahead of the machine's."""
        new = self._folder / "ahead.new"
        new.write_text(str(seconds))
        new.replace(self._folder / "ahead")

    def refuse(self, what: str, *, is_on: bool) -> None:
        """No memory for ``fork`` or ``spawn``, from now on or no more."""
        file = self._folder / f"no_{what}"
        file.touch() if is_on else file.unlink()
