"""
Owns the questions to systemd about a unit. Only for commands that a person waits for: each starts a process.

Changes nothing.
"""

from __future__ import annotations

import subprocess

TIMEOUT_S = 5.0


def show_unit(name: str, properties: tuple[str, ...]) -> dict[str, str]:
    """
    Properties of a unit as systemd has them loaded, drop-ins too.

    Args:
        name: Of the unit.
        properties: By their names in systemd.

    Returns:
        Those that it tells; empty without systemd or such a unit.
    """
    command = ("systemctl", "show", "--property", ",".join(("LoadState", *properties)), "--", name)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return found if done.returncode == 0 and found.pop("LoadState", "") == "loaded" else {}
