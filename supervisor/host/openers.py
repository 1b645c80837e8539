"""
Which processes have the driver's files of GPUs open, as `/proc/*/fd` shows it. Part of the prober's process.

Reading a link asks the kernel only: a driver that hangs holds up nobody here. It tells what no list of the driver can
in a container: pids of this world.
"""

from __future__ import annotations

import os

PREFIX = "/dev/nvidia"
UVM = "-uvm"  # Who only looks (nvidia-smi, a monitor) does not open it; CUDA does.


def find_openers(proc: str = "/proc", prefix: str = PREFIX) -> tuple[list[tuple[int, list[int], bool]], int]:
    """
    Look at everybody.

    Args:
        proc: Where the kernel shows its processes.
        prefix: How the names of the driver's files begin.

    Returns:
        Pid, numbers of the devices that it has open, and whether it has opened what only CUDA does, of each process
        that has any; and how many processes could not be looked at.
    """
    found, hidden = [], 0
    for name in os.listdir(proc):  # noqa: PTH208 - Thousands of entries, and no use for paths.
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            files = _opened(f"{proc}/{name}/fd", prefix)
        except PermissionError:
            hidden += 1
            continue
        except OSError:
            continue  # Gone meanwhile.
        if files:
            numbers = sorted({int(one) for one in files if one.isdecimal()})
            found.append((int(name), numbers, UVM in files))
    return found, hidden


def _opened(folder: str, prefix: str) -> set[str]:
    """What follows the prefix in the names of open files, such as ``0`` and ``-uvm``."""
    found = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                target = os.readlink(entry.path)  # noqa: PTH115 - As cheap as it gets.
            except OSError:
                continue
            if target.startswith(prefix):
                found.add(target.removeprefix(prefix))
    return found
